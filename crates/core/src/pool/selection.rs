//! Why this key: what a key was selected among, and what kept other keys from serving. Collected in passing, within
//! bounds for any number of keys, and turned into text only when somebody asks.

use std::sync::Arc;
use std::time::Instant;

use super::{Demand, ExcludedKey, KeySet, Pool};
use crate::balance::AffinityMatch;
use crate::settings::Strategy;

/// Maximum number of excluded keys that are named.
const MAX_NAMED: usize = 8;
/// Pools up to this size are looked at completely.
const SMALL: usize = 16;
/// Number of words of the available set that are searched for blocked keys.
const WORDS: usize = 32;

/// How a key was selected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SelectedBy {
    /// By the pool's strategy.
    Strategy(Strategy),
    /// By affinity.
    Affinity(AffinityMatch),
    /// It is ejected, and no other key is usable.
    LastResort,
    /// By the strategy, of another group: to tell whether a refusal is about the request.
    SecondOpinion,
}

impl SelectedBy {
    /// The stable name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Strategy(strategy) => strategy.as_str(),
            Self::Affinity(AffinityMatch::Home) => "affinity_home",
            Self::Affinity(AffinityMatch::Warm) => "affinity_warm",
            Self::Affinity(AffinityMatch::Overflow) => "affinity_overflow",
            Self::LastResort => "last_resort",
            Self::SecondOpinion => "second_opinion",
        }
    }
}

/// What a key was selected among.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// How the key was selected; `None`: there was none to select.
    pub by: Option<SelectedBy>,
    /// Number of keys of the pool.
    pub keys: usize,
    /// Number of keys that could have served, including the selected one. In pools of more than 16 keys, a key that
    /// is cooling for this model alone counts as free.
    pub free: usize,
    /// A few of those that could not.
    pub excluded: Vec<ExcludedKey>,
    /// How many more are known not to have been free.
    pub more: usize,
}

/// Names a key that could not serve, once, while there is room for it.
pub(super) fn note(excluded: &mut Vec<ExcludedKey>, key: ExcludedKey) {
    let is_known = |known: &ExcludedKey| known.index == key.index;
    if excluded.len() < MAX_NAMED && !excluded.iter().any(is_known) {
        excluded.push(key);
    }
}

impl Pool {
    /// Why no key can serve the demand: the reasons of a few keys, and the key set that their indexes refer to.
    pub fn obstacles(&self, demand: &Demand) -> (Selection, Arc<KeySet>) {
        let (keys, now) = (self.keys(), self.clock.now());
        let mut none = keys.look_around(None, demand, now, Vec::new());
        if keys.is_known_unavailable(&demand.model, now) {
            none.free = 0;
            none.more = none.keys - none.excluded.len();
        }
        (none, keys)
    }
}

impl KeySet {
    /// The record of the selection of the key at `index`. `passed`: keys that the strategy proposed
    /// before it and that could not serve.
    pub(super) fn selection(
        &self,
        by: SelectedBy,
        index: usize,
        demand: &Demand,
        now: Instant,
        passed: Vec<ExcludedKey>,
    ) -> Selection {
        Selection {
            by: Some(by),
            ..self.look_around(Some(index), demand, now, passed)
        }
    }

    /// Collects why keys other than `selected` cannot serve. In a small pool it looks at all keys; in a larger one at
    /// those that were passed over, at some that the available set shows as blocked and, if none was selected, at the
    /// first few.
    fn look_around(
        &self,
        selected: Option<usize>,
        demand: &Demand,
        now: Instant,
        passed: Vec<ExcludedKey>,
    ) -> Selection {
        let (keys, available) = (self.members.len(), &self.availability.available);
        let is_small = keys <= SMALL;
        // The selected key counts as free even if this very call filled it.
        let filled = usize::from(selected.is_some_and(|index| !available.has(index)));
        let free = (available.available_keys() + filled).min(keys);
        let mut excluded = if is_small { Vec::new() } else { passed };
        // Keys of the available set that cannot serve this demand. Only in a small pool all of them are found.
        let mut unfit = 0;
        let mut look_at = |index: usize| {
            if Some(index) != selected
                && let Some(key) = self.why_not(index, demand, now)
            {
                unfit += usize::from(is_small && available.has(index));
                note(&mut excluded, key);
            }
        };
        if !is_small && free < keys {
            let hidden = available.hidden(WORDS);
            hidden.take(MAX_NAMED).for_each(&mut look_at);
        }
        if is_small || selected.is_none() {
            (0..keys.min(SMALL)).for_each(&mut look_at);
        }
        let free = free.saturating_sub(unfit);
        let counted = |one: &&ExcludedKey| is_small || !available.has(one.index);
        let named = excluded.iter().filter(counted).count();
        Selection {
            by: None,
            keys,
            free,
            more: (keys - free).saturating_sub(named),
            excluded,
        }
    }
}
