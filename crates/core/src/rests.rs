//! Rests for single models: which models a key or a quota group may not be asked for, and until when.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use parking_lot::Mutex;

use crate::fault::Class;

/// More models than this do not rest at once in one place; the one that ends first gives way.
const MAX_RESTS: usize = 1024;

/// One rest: until when, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rest {
    /// When it ends.
    pub until: Instant,
    /// The class that caused it.
    pub class: Class,
}

/// The rests of a key or a quota group, by model.
// The count stands first, where a key has its counters; and a list is small, so that its breaker begins on the next
// cache line, and near: most often there is one rest.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Rests {
    /// Read without the lock: most keys never rest.
    count: AtomicUsize,
    /// Sorted.
    by_model: Mutex<Vec<(Arc<str>, Rest)>>,
}

fn place_of(model: &str, rests: &[(Arc<str>, Rest)]) -> Result<usize, usize> {
    rests.binary_search_by(|(known, _)| (**known).cmp(model))
}

impl Rests {
    /// When `model` may be asked for again; `None` if it may now.
    pub fn until(&self, model: &str, now: Instant) -> Option<Instant> {
        if self.count.load(Ordering::Acquire) == 0 {
            return None;
        }
        let rests = self.by_model.lock();
        let until = rests[place_of(model, &rests).ok()?].1.until;
        (until > now).then_some(until)
    }

    /// Lets `model` rest. A longer rest that stands already is kept.
    pub fn set(&self, model: &Arc<str>, rest: Rest, now: Instant) {
        let mut rests = self.by_model.lock();
        rests.retain(|(_, old)| old.until > now);
        if rests.len() >= MAX_RESTS && place_of(model, &rests).is_err() {
            let first = (0..rests.len()).min_by_key(|place| rests[*place].1.until);
            first.map(|place| rests.remove(place));
        }
        match place_of(model, &rests) {
            Ok(place) if rests[place].1.until < rest.until => rests[place].1 = rest,
            Ok(_) => {}
            Err(place) => rests.insert(place, (Arc::clone(model), rest)),
        }
        self.count.store(rests.len(), Ordering::Release);
    }

    /// Ends every rest.
    pub fn clear(&self) {
        let mut rests = self.by_model.lock();
        rests.clear();
        self.count.store(0, Ordering::Release);
    }

    /// The rests that still stand.
    pub fn list(&self, now: Instant) -> Vec<(Arc<str>, Rest)> {
        if self.count.load(Ordering::Acquire) == 0 {
            return Vec::new();
        }
        let rests = self.by_model.lock();
        rests
            .iter()
            .filter(|(_, rest)| rest.until > now)
            .map(|(model, rest)| (Arc::clone(model), *rest))
            .collect()
    }
}

#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "a starting point for simulated time"
)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_longer_rest_stands_and_every_rest_ends() {
        let now = Instant::now();
        let rests = Rests::default();
        let model: Arc<str> = "m".into();
        let rest = |seconds| Rest {
            until: now + Duration::from_secs(seconds),
            class: Class::RateLimited,
        };
        rests.set(&model, rest(60), now);
        rests.set(&model, rest(5), now);
        assert_eq!(rests.until("m", now), Some(now + Duration::from_secs(60)));
        assert_eq!(rests.until("other", now), None);
        assert_eq!(rests.until("m", now + Duration::from_secs(60)), None);
        rests.clear();
        assert!(rests.list(now).is_empty());
    }

    #[test]
    fn the_number_of_rests_is_bounded() {
        let now = Instant::now();
        let rests = Rests::default();
        for n in 0..MAX_RESTS as u64 + 10 {
            let rest = Rest {
                until: now + Duration::from_secs(1 + n),
                class: Class::Forbidden,
            };
            rests.set(&format!("m{n}").into(), rest, now);
        }
        assert_eq!(rests.list(now).len(), MAX_RESTS);
        assert_eq!(
            rests.until("m0", now),
            None,
            "the rest that ends first gave way"
        );
    }
}
