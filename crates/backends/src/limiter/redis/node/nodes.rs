//! What a node knows of the others: how many share the limits, and whether Redis has lost what they told it.
//!
//! Every node beats: it says in Redis that it lives, and since when it has told Redis all that it uses. Each learns by that
//! of a loss that any of them has noticed. It then tells what it uses of every caller; once all have done so, nothing is
//! withheld any more. Each also learns whose leases are missing elsewhere, and returns them.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::Duration;

use keypool_core::limit::{LimitId, Tick};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::account::Account;
use super::{Shared, step};
use crate::limiter::redis::{Known, RedisError, Script};

/// Where they are in Redis. Both are in one slot of a cluster.
const KEYS: [&[u8]; 2] = [b"kp:{nodes}", b"kp:{nodes}:recalls"];
/// How many beats may be missing before a node is no longer counted.
const COUNTS_FOR: u32 = 50;
/// How many beats nodes have to tell what they use after a loss.
const PATIENCE: u32 = 10;
/// Maximum number of callers whose leases are recalled with one beat.
const RECALLS: usize = 256;
/// Number of callers whose use this node tells at the same time.
const AT_ONCE: usize = 64;

/// The nodes that were seen lately.
pub(super) struct Nodes {
    own: u32,
    beat: Duration,
    script: Script,
    /// One beat at a time.
    beating: tokio::sync::Mutex<()>,
    /// There is news for the other nodes, or much to tell Redis.
    news: Arc<Notify>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The connection of the last beat. On another one, Redis may be another.
    connection: Option<u64>,
    /// Numbers of nodes and when they were seen, without those that a later, larger number covers.
    counts: VecDeque<(Tick, u32)>,
    /// Redis's time at the last beat, and its number.
    now_ms: u64,
    number: u64,
    /// Since when this node has told all that it uses; 0: it has not beaten yet.
    told_ms: u64,
    /// Since when all nodes have.
    all_told_ms: u64,
    /// When data was lost, and when this node learned of it.
    lost_ms: u64,
    learned: Tick,
    /// What was admitted without Redis has to be told.
    has_returned: bool,
    /// Callers who were refused here because of leases of other nodes.
    missing: Vec<LimitId>,
    /// Callers who were refused elsewhere because of leases.
    recalled: Vec<LimitId>,
}

/// What `nodes.lua` returns: Redis's time, when data was lost, the number of the beat, since when each node has told all,
/// and whose leases are missing.
type Beat = (u64, u64, u64, Vec<u64>, Vec<String>);

impl Nodes {
    pub(super) fn new(beat: Duration) -> Self {
        Self {
            // So large that two processes do not get the same.
            own: fastrand::u32(1..),
            beat,
            script: Script::new(include_str!("../scripts/nodes.lua")),
            beating: tokio::sync::Mutex::default(),
            news: Arc::default(),
            state: Mutex::default(),
        }
    }

    /// This node's number.
    pub(super) fn own(&self) -> u32 {
        self.own
    }

    /// The largest number of nodes that were seen lately; at least 1.
    pub(super) fn count(&self) -> u32 {
        let state = self.state.lock();
        state.counts.front().map_or(1, |(_, count)| *count)
    }

    pub(super) fn known(&self, now: Tick, window: Duration) -> Known {
        let nodes = self.count();
        let state = self.state.lock();
        let may_matter = state.lost_ms > state.all_told_ms && now.since(state.learned) < window;
        Known {
            nodes,
            told_since_ms: state.all_told_ms,
            lost_ms: if may_matter { state.lost_ms } else { 0 },
            patience: self.beat * PATIENCE,
        }
    }

    /// Redis has lost data; `at_ms` is its time at which it was told again.
    pub(super) fn note_loss(&self, now: Tick, at_ms: u64) {
        self.state.lock().note_loss(now, at_ms);
        self.news.notify_one();
    }

    /// Has all nodes return what they were lent of one caller.
    pub(super) fn recall(&self, id: LimitId) {
        let mut state = self.state.lock();
        if state.missing.len() < RECALLS && !state.missing.contains(&id) {
            state.missing.push(id);
            self.news.notify_one();
        }
    }

    /// Beats on the current connection before anything else is asked on it: Redis may have been replaced.
    pub(super) async fn ensure_counted(&self, shared: &Shared) -> Result<(), RedisError> {
        let is_counted = || {
            let connection = shared.redis.connection();
            connection.is_some() && self.state.lock().connection == connection
        };
        if is_counted() {
            return Ok(());
        }
        let _one = self.beating.lock().await;
        match is_counted() {
            true => Ok(()),
            false => self.beat(shared).await,
        }
    }

    /// One at a time.
    async fn beat(&self, shared: &Shared) -> Result<(), RedisError> {
        let args = {
            let mut state = self.state.lock();
            let counts_for = (self.beat * COUNTS_FOR).as_millis() as u64;
            let remembered = (2 * shared.window).as_millis() as u64;
            let facts = [
                u64::from(self.own),
                counts_for,
                state.told_ms,
                state.lost_ms,
                remembered,
                state.now_ms,
                state.number,
            ];
            let missing = std::mem::take(&mut state.missing);
            let missing = missing.iter().map(|id| format!("{:032x}", id.0));
            let facts = facts.iter().map(u64::to_string);
            facts.chain(missing).collect::<Vec<_>>()
        };
        let args: Vec<&[u8]> = args.iter().map(String::as_bytes).collect();
        let connection = shared.redis.connection();
        let reply: Beat = shared.redis.run(&self.script, &KEYS, &args).await?;
        let mut state = self.state.lock();
        if state.connection != connection {
            state.has_returned = true;
            state.connection = connection;
            self.news.notify_one();
        }
        state.note(shared.now(), 2 * shared.window, &reply);
        if !state.recalled.is_empty() {
            self.news.notify_one();
        }
        Ok(())
    }

    async fn beat_alone(&self, shared: &Shared) {
        let _one = self.beating.lock().await;
        // Without Redis there is nothing to learn.
        let _ = self.beat(shared).await;
    }

    /// Redis's time from which on everything will have been told, if that is to be done now.
    fn must_tell(&self) -> Option<u64> {
        let mut state = self.state.lock();
        let must = std::mem::take(&mut state.has_returned) || state.lost_ms > state.told_ms;
        must.then_some(state.now_ms)
    }
}

impl State {
    /// Takes over what Redis says. `remembered`: how long a number of nodes counts, since what they used counts as long.
    fn note(&mut self, now: Tick, remembered: Duration, reply: &Beat) {
        let (now_ms, lost_ms, number, told, recalled) = reply;
        (self.now_ms, self.number) = (*now_ms, *number);
        if self.told_ms == 0 {
            self.told_ms = *now_ms;
        }
        // A loss of which this node learns late happened as long ago as Redis says.
        let age = Duration::from_millis(now_ms.saturating_sub(*lost_ms));
        self.note_loss(now.before(age), *lost_ms);
        let ids = recalled.iter().map(|id| u128::from_str_radix(id, 16));
        self.recalled.extend(ids.flatten().map(LimitId));
        let count = u32::try_from(told.len()).unwrap_or(u32::MAX);
        while self.counts.back().is_some_and(|(_, known)| *known <= count) {
            self.counts.pop_back();
        }
        self.counts.push_back((now, count));
        while now.since(self.counts[0].0) > remembered {
            self.counts.pop_front();
        }
        let mut told = told.clone();
        told.sort_unstable_by(|one, other| other.cmp(one));
        let last = self.counts[0].1.saturating_sub(1);
        self.all_told_ms = told.get(last as usize).copied().unwrap_or(0);
    }

    fn note_loss(&mut self, now: Tick, at_ms: u64) {
        if at_ms > self.lost_ms {
            (self.lost_ms, self.learned) = (at_ms, now);
        }
    }
}

/// Logs that Redis went away or came back.
fn log_change(shared: &Shared, was_down: &mut bool) {
    let problem = shared.redis.problem().filter(|_| shared.redis.is_down());
    match &problem {
        Some(problem) if !*was_down => tracing::error!(
            code = problem.code(),
            "the store of limits does not respond: {problem}"
        ),
        None if *was_down => tracing::info!("the store of limits responds again"),
        _ => {}
    }
    *was_down = problem.is_some();
}

/// Beats, and tells Redis all that this node uses when that is needed.
pub(super) async fn keep_counted(shared: Weak<Shared>) {
    let mut was_down = false;
    loop {
        let Some(shared) = shared.upgrade() else {
            return;
        };
        log_change(&shared, &mut was_down);
        let nodes = &shared.nodes;
        nodes.beat_alone(&shared).await;
        return_leases(&shared).await;
        if let Some(since_ms) = nodes.must_tell() {
            match tell_all(&shared).await {
                true => nodes.state.lock().told_ms = since_ms,
                false => nodes.state.lock().has_returned = true,
            }
            nodes.beat_alone(&shared).await;
        }
        let (news, beat) = (Arc::clone(&nodes.news), nodes.beat);
        drop(shared);
        if timeout(beat, news.notified()).await.is_ok() {
            // Much news comes at once.
            sleep(beat / 16).await;
        }
    }
}

/// Takes one step for every caller whose leases are missing elsewhere.
async fn return_leases(shared: &Arc<Shared>) {
    let recalled = std::mem::take(&mut shared.nodes.state.lock().recalled);
    let accounts = recalled.iter().filter_map(|id| shared.accounts.get(*id));
    let accounts: Vec<_> = accounts.filter(|account| account.has_lease()).collect();
    restate_all(shared, &accounts).await;
}

/// Takes one step for every caller who may use something. Returns whether Redis has confirmed all.
async fn tell_all(shared: &Arc<Shared>) -> bool {
    let accounts = shared.accounts.all().into_iter();
    let accounts: Vec<_> = accounts
        .filter(|account| account.has_used_anything())
        .collect();
    restate_all(shared, &accounts).await
}

/// Takes one step for each account. Returns whether Redis has confirmed all.
pub(super) async fn restate_all(shared: &Arc<Shared>, accounts: &[Arc<Account>]) -> bool {
    let mut all = true;
    let mut beaten = shared.now();
    for some in accounts.chunks(AT_ONCE) {
        let mut telling = JoinSet::new();
        for account in some {
            let (shared, account) = (Arc::clone(shared), Arc::clone(account));
            telling.spawn(async move { step::restate(&shared, &account).await });
        }
        all &= telling.join_all().await.into_iter().all(|told| told);
        // With many accounts this takes long, and a node that does not beat no longer counts.
        if shared.now().since(beaten) >= shared.nodes.beat {
            shared.nodes.beat_alone(shared).await;
            beaten = shared.now();
        }
    }
    all
}
