//! Cooldowns for single models: which models a key or a quota group must not be asked for, and until when.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use parking_lot::Mutex;

use crate::fault::Class;

/// Maximum number of models that are cooling at once. If there are more, the cooldown that ends first is dropped.
const MAX_COOLDOWNS: usize = 1024;

/// One cooldown: until when, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cooldown {
    /// When it ends.
    pub(crate) until: Instant,
    /// What caused it.
    pub(crate) class: Class,
}

/// The cooldowns of a key or a quota group, by model.
// The count comes first; see `Key` for the memory layout. A sorted list is small, and most often it has one entry.
#[repr(C)]
#[derive(Debug, Default)]
pub(crate) struct Cooldowns {
    /// Read without the lock, because most keys have no cooldown.
    count: AtomicUsize,
    /// Sorted by model.
    by_model: Mutex<Vec<(Arc<str>, Cooldown)>>,
}

/// Stands between a model and the endpoint at which alone its cooldown holds.
const AT: &str = " at /";

/// The name of a cooldown that holds for a model at one endpoint only, as the API shows it.
pub(crate) fn at_endpoint(model: &str, endpoint: &str) -> String {
    format!("{model} at {endpoint}")
}

/// Whether a cooldown of this name holds at one endpoint only.
pub(crate) fn is_at_endpoint(name: &str) -> bool {
    name.contains(AT)
}

fn position_of(model: &str, cooldowns: &[(Arc<str>, Cooldown)]) -> Result<usize, usize> {
    cooldowns.binary_search_by(|(known, _)| (**known).cmp(model))
}

impl Cooldowns {
    /// When the cooldown of `model` ends; `None`: there is none.
    pub(crate) fn until(&self, model: &str, now: Instant) -> Option<Instant> {
        if self.count.load(Ordering::Acquire) == 0 {
            return None;
        }
        let cooldowns = self.by_model.lock();
        let until = cooldowns[position_of(model, &cooldowns).ok()?].1.until;
        (until > now).then_some(until)
    }

    /// When the cooldown of `model` ends, of the model as a whole or at `endpoint`.
    pub(crate) fn until_at(&self, model: &str, endpoint: &str, now: Instant) -> Option<Instant> {
        if self.count.load(Ordering::Acquire) == 0 {
            return None;
        }
        self.until(model, now)
            .or_else(|| self.until(&at_endpoint(model, endpoint), now))
    }

    /// Whether a cooldown holds at one endpoint only.
    pub(crate) fn any_at_endpoint(&self, now: Instant) -> bool {
        let holds =
            |(name, cooldown): &(Arc<str>, Cooldown)| cooldown.until > now && is_at_endpoint(name);
        self.count.load(Ordering::Acquire) > 0 && self.by_model.lock().iter().any(holds)
    }

    /// Starts a cooldown for `model`. If there is a longer one already, that is kept.
    pub(crate) fn set(&self, model: &Arc<str>, cooldown: Cooldown, now: Instant) {
        let mut cooldowns = self.by_model.lock();
        cooldowns.retain(|(_, old)| old.until > now);
        if cooldowns.len() >= MAX_COOLDOWNS && position_of(model, &cooldowns).is_err() {
            let first = (0..cooldowns.len()).min_by_key(|index| cooldowns[*index].1.until);
            first.map(|index| cooldowns.remove(index));
        }
        match position_of(model, &cooldowns) {
            Ok(index) if cooldowns[index].1.until < cooldown.until => cooldowns[index].1 = cooldown,
            Ok(_) => {}
            Err(index) => cooldowns.insert(index, (Arc::clone(model), cooldown)),
        }
        self.count.store(cooldowns.len(), Ordering::Release);
    }

    /// Ends every cooldown.
    pub(crate) fn clear(&self) {
        let mut cooldowns = self.by_model.lock();
        cooldowns.clear();
        self.count.store(0, Ordering::Release);
    }

    /// The cooldowns that have not ended.
    pub(crate) fn list(&self, now: Instant) -> Vec<(Arc<str>, Cooldown)> {
        if self.count.load(Ordering::Acquire) == 0 {
            return Vec::new();
        }
        let cooldowns = self.by_model.lock();
        cooldowns
            .iter()
            .filter(|(_, cooldown)| cooldown.until > now)
            .map(|(model, cooldown)| (Arc::clone(model), *cooldown))
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
    fn a_longer_cooldown_stays_and_every_cooldown_ends() {
        let now = Instant::now();
        let cooldowns = Cooldowns::default();
        let model: Arc<str> = "m".into();
        let cooldown = |seconds| Cooldown {
            until: now + Duration::from_secs(seconds),
            class: Class::RateLimited,
        };
        cooldowns.set(&model, cooldown(60), now);
        cooldowns.set(&model, cooldown(5), now);
        assert_eq!(
            cooldowns.until("m", now),
            Some(now + Duration::from_secs(60))
        );
        assert_eq!(cooldowns.until("other", now), None);
        assert_eq!(cooldowns.until("m", now + Duration::from_secs(60)), None);
        cooldowns.clear();
        assert!(cooldowns.list(now).is_empty());
    }

    #[test]
    fn the_number_of_cooldowns_is_bounded() {
        let now = Instant::now();
        let cooldowns = Cooldowns::default();
        for n in 0..MAX_COOLDOWNS as u64 + 10 {
            let cooldown = Cooldown {
                until: now + Duration::from_secs(1 + n),
                class: Class::Forbidden,
            };
            cooldowns.set(&format!("m{n}").into(), cooldown, now);
        }
        assert_eq!(cooldowns.list(now).len(), MAX_COOLDOWNS);
        assert_eq!(
            cooldowns.until("m0", now),
            None,
            "the cooldown that ends first was dropped"
        );
    }
}
