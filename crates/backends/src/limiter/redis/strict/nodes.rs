//! How many nodes share the limits: what each of them may admit by itself while Redis does not respond.

use std::collections::VecDeque;
use std::sync::Weak;
use std::time::Duration;

use keypool_core::limit::Tick;
use parking_lot::Mutex;
use tokio::time::sleep;

use super::Shared;
use crate::limiter::redis::Script;

/// How often a node says that it lives.
const BEAT: Duration = Duration::from_secs(2);
/// How long it counts without that.
const COUNTS_FOR: Duration = Duration::from_secs(10);
/// The largest number of nodes in this time counts, since what they used counts as long.
const REMEMBERED: Duration = Duration::from_secs(120);

/// The nodes that were seen lately.
pub(super) struct Nodes {
    own: u32,
    /// Numbers of nodes, with the time at which they were seen.
    seen: Mutex<VecDeque<(Tick, u32)>>,
}

impl Default for Nodes {
    fn default() -> Self {
        Self {
            // So large that two processes do not get the same.
            own: fastrand::u32(1..),
            seen: Mutex::default(),
        }
    }
}

impl Nodes {
    /// This node's number.
    pub(super) fn own(&self) -> u32 {
        self.own
    }

    /// The largest number of nodes that were seen lately; at least 1.
    pub(super) fn count(&self) -> u32 {
        let seen = self.seen.lock();
        seen.iter()
            .map(|(_, count)| *count)
            .max()
            .unwrap_or(1)
            .max(1)
    }

    fn note(&self, now: Tick, count: u32) {
        let mut seen = self.seen.lock();
        seen.retain(|(at, _)| now.since(*at) < REMEMBERED);
        seen.push_back((now, count));
    }
}

/// Says again and again that this node lives.
pub(super) async fn keep_counted(shared: Weak<Shared>) {
    let script = Script::new(include_str!("../scripts/nodes.lua"));
    loop {
        let Some(shared) = shared.upgrade() else {
            return;
        };
        let (own, length) = (
            shared.nodes.own().to_string(),
            COUNTS_FOR.as_millis().to_string(),
        );
        let args = [own.as_bytes(), length.as_bytes()];
        let counted = shared
            .redis
            .run::<u32>(&script, &[b"kp:nodes"], &args)
            .await;
        if let Ok(count) = counted {
            shared.nodes.note(shared.now(), count);
        }
        drop(shared);
        sleep(BEAT).await;
    }
}
