//! The admin token: compared in constant time, with guessing slowed down per source address.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use http::HeaderMap;
use http::header::AUTHORIZATION;
use keypool_core::clock::Clock;
use keypool_core::secret::Digest256;
use parking_lot::Mutex;
use subtle::ConstantTimeEq;

/// Number of wrong tokens of one source that are answered without delay.
const FREE_TRIES: u32 = 5;
/// Maximum delay of the response to a wrong token.
const MAX_DELAY: Duration = Duration::from_secs(5);
/// How long a source is remembered after its last wrong token.
const FORGET_AFTER: Duration = Duration::from_secs(300);
/// Maximum number of sources remembered.
const MAX_SOURCES: usize = 10_000;

pub(super) struct Guard {
    token: Digest256,
    wrong: Mutex<HashMap<IpAddr, Wrong>>,
}

struct Wrong {
    times: u32,
    last: Instant,
}

impl Guard {
    pub(super) fn new(token: Digest256) -> Self {
        Self {
            token,
            wrong: Mutex::new(HashMap::new()),
        }
    }

    /// Whether the request has the right token. A wrong one slows down its source only.
    pub(super) async fn check(
        &self,
        clock: &dyn Clock,
        source: IpAddr,
        headers: &HeaderMap,
    ) -> bool {
        let Some(sent) = bearer(headers) else {
            return false;
        };
        if bool::from(Digest256::of(sent).0.ct_eq(&self.token.0)) {
            return true;
        }
        let delay = self.record_wrong(source, clock.now());
        tokio::time::sleep(delay).await;
        false
    }

    fn record_wrong(&self, source: IpAddr, now: Instant) -> Duration {
        let mut wrong = self.wrong.lock();
        if wrong.len() >= MAX_SOURCES {
            wrong.retain(|_, entry| now.saturating_duration_since(entry.last) < FORGET_AFTER);
        }
        if wrong.len() >= MAX_SOURCES {
            return MAX_DELAY;
        }
        let entry = wrong.entry(source).or_insert(Wrong {
            times: 0,
            last: now,
        });
        if now.saturating_duration_since(entry.last) >= FORGET_AFTER {
            entry.times = 0;
        }
        entry.times = entry.times.saturating_add(1);
        entry.last = now;
        let over = entry.times.saturating_sub(FREE_TRIES).min(6);
        if over == 0 {
            Duration::ZERO
        } else {
            (Duration::from_millis(100) * 2u32.pow(over)).min(MAX_DELAY)
        }
    }
}

fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(AUTHORIZATION)?.as_bytes();
    let (scheme, token) = value.split_at_checked(7)?;
    scheme
        .eq_ignore_ascii_case(b"bearer ")
        .then(|| token.trim_ascii())
}

#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "a starting point for simulated time"
)]
mod tests {
    use super::*;

    #[test]
    fn guessing_slows_down_its_source_only_and_is_forgotten() {
        let guard = Guard::new(Digest256::of(b"right"));
        let (now, guesser, other) = (
            Instant::now(),
            IpAddr::from([10, 0, 0, 1]),
            IpAddr::from([10, 0, 0, 2]),
        );
        for _ in 0..FREE_TRIES {
            assert_eq!(guard.record_wrong(guesser, now), Duration::ZERO);
        }
        let delays: Vec<_> = (0..8).map(|_| guard.record_wrong(guesser, now)).collect();
        assert!(
            delays.is_sorted() && delays[0] > Duration::ZERO && delays[7] == MAX_DELAY,
            "{delays:?}"
        );
        assert_eq!(guard.record_wrong(other, now), Duration::ZERO);
        assert_eq!(
            guard.record_wrong(guesser, now + FORGET_AFTER),
            Duration::ZERO
        );
    }
}
