//! Why this key: what a choice was made among, and what kept other keys from serving. Collected in passing, within
//! bounds whatever the number of keys, and made into words only when somebody asks.

use std::time::Instant;

use super::{Demand, Pool};
use crate::balance::AffinityMatch;
use crate::key::flag;
use crate::settings::Strategy;

/// So many keys are named.
const MAX_NAMED: usize = 8;
/// Of pools of up to so many keys every one is looked at; of larger ones those that the choice passed by, …
const SMALL: usize = 16;
/// … and those that so many words of the available set show to be blocked.
const WORDS: usize = 32;

/// How a key was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SelectedBy {
    /// SelectedBy the pool's strategy.
    Strategy(Strategy),
    /// Affinity: its group is the conversation's home.
    Home,
    /// Affinity: the conversation went there before, when its home had no room.
    Warm,
    /// Affinity: the conversation's home has no room.
    Overflow,
    /// It is set aside, and no other key is usable.
    LastResort,
}

impl SelectedBy {
    /// The stable name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Strategy(strategy) => strategy.as_str(),
            Self::Home => "affinity_home",
            Self::Warm => "affinity_warm",
            Self::Overflow => "affinity_overflow",
            Self::LastResort => "last_resort",
        }
    }

    pub(super) fn of(chosen: AffinityMatch) -> Self {
        match chosen {
            AffinityMatch::Home => Self::Home,
            AffinityMatch::Warm => Self::Warm,
            AffinityMatch::Overflow => Self::Overflow,
        }
    }
}

/// What keeps a key from serving a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// Switched off.
    Disabled,
    /// Not accepted by the provider.
    Invalid,
    /// Its group has no quota or balance left.
    Exhausted,
    /// Set aside by its breaker.
    Ejected,
    /// Its breaker's probe call is under way.
    Probing,
    /// In use up to its cap.
    Full,
    /// Its group is rate-limited for this model.
    RateLimited,
    /// It may not use this model.
    Forbidden,
    /// It failed in this request already, and its back-off has not ended.
    Tried,
    /// The request names an object that another group's key made.
    OtherGroup,
}

impl Obstacle {
    /// The stable name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Disabled => "disabled",
            Self::Invalid => "invalid",
            Self::Exhausted => "exhausted",
            Self::Ejected => "ejected",
            Self::Probing => "on_trial",
            Self::Full => "full",
            Self::OtherGroup => "other_group",
            Self::RateLimited => "rate_limited",
            Self::Forbidden => "forbidden",
            Self::Tried => "tried_before",
        }
    }

    /// Whether it is a state of the key, whatever the request.
    fn is_state(self) -> bool {
        !matches!(self, Self::RateLimited | Self::Forbidden | Self::Tried)
    }

    fn of_flags(flags: u32) -> Option<Self> {
        [
            (flag::DISABLED, Self::Disabled),
            (flag::INVALID, Self::Invalid),
            (flag::EXHAUSTED, Self::Exhausted),
            (flag::EJECTED, Self::Ejected),
            (flag::PROBING, Self::Probing),
            (flag::FULL, Self::Full),
        ]
        .into_iter()
        .find(|(flag, _)| flags & flag != 0)
        .map(|(_, obstacle)| obstacle)
    }
}

/// A key that could not serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// Its index in the pool.
    pub index: usize,
    /// Why.
    pub obstacle: Obstacle,
    /// Until when, where that was plain to see.
    pub until: Option<Instant>,
}

/// What a choice was made among.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// How the key was chosen; `None`: there was none to choose.
    pub by: Option<SelectedBy>,
    /// Keys of the pool.
    pub keys: usize,
    /// Those that could have served, the chosen one among them. In pools of more than 16 keys those whose state
    /// lets them serve, whatever rests there are for this model alone.
    pub free: usize,
    /// A few of those that could not.
    pub excluded: Vec<Skipped>,
    /// How many more are known not to have been free.
    pub more: usize,
}

/// Names a index that could not serve, once, while there is room for it.
pub(super) fn note(
    excluded: &mut Vec<Skipped>,
    index: usize,
    obstacle: Obstacle,
    until: Option<Instant>,
) {
    if excluded.len() < MAX_NAMED && !excluded.iter().any(|known| known.index == index) {
        excluded.push(Skipped {
            index,
            obstacle,
            until,
        });
    }
}

impl Pool {
    /// What the choice of `index` was made among. `passed`: those that it passed by.
    pub(super) fn choice(
        &self,
        by: SelectedBy,
        index: usize,
        demand: &Demand,
        now: Instant,
        passed: Vec<Skipped>,
    ) -> Selection {
        let choice = self.look_round(Some(index), demand, now, passed);
        Selection {
            by: Some(by),
            ..choice
        }
    }

    /// Why the demand finds no key: what keeps a few of them from serving.
    pub fn obstacles(&self, demand: &Demand) -> Selection {
        let now = self.clock.now();
        let mut none = self.look_round(None, demand, now, Vec::new());
        if self.is_known_unavailable(&demand.model, now) {
            none.free = 0;
            none.more = none.keys - none.excluded.len();
        }
        none
    }

    fn look_round(
        &self,
        chosen: Option<usize>,
        demand: &Demand,
        now: Instant,
        passed: Vec<Skipped>,
    ) -> Selection {
        let (keys, available) = (self.members.len(), &self.availability.available);
        if keys <= SMALL {
            let mut choice = Selection {
                keys,
                free: keys,
                ..Selection::default()
            };
            for index in (0..keys).filter(|index| Some(*index) != chosen) {
                if let Some((obstacle, until)) = self.obstacle(index, demand, now) {
                    choice.free -= 1;
                    note(&mut choice.excluded, index, obstacle, until);
                }
            }
            choice.more = keys - choice.free - choice.excluded.len();
            return choice;
        }
        // A key that was full to its last slot by this very choice is free for it.
        let own = chosen.is_some_and(|index| !available.has(index));
        let mut choice = Selection {
            by: None,
            keys,
            free: (available.free_keys() + usize::from(own)).min(keys),
            excluded: passed,
            more: 0,
        };
        if choice.free < keys {
            let hidden = available
                .hidden(WORDS)
                .filter(|index| Some(*index) != chosen);
            for index in hidden.take(MAX_NAMED) {
                if let Some((obstacle, until)) = self.obstacle(index, demand, now) {
                    note(&mut choice.excluded, index, obstacle, until);
                }
            }
        }
        if chosen.is_none() {
            for index in 0..SMALL {
                if let Some((obstacle, until)) = self.obstacle(index, demand, now) {
                    note(&mut choice.excluded, index, obstacle, until);
                }
            }
        }
        let states = choice.excluded.iter().filter(|one| one.obstacle.is_state());
        choice.more = (keys - choice.free).saturating_sub(states.count());
        choice
    }

    /// What keeps a index from serving. When a flag ends is not looked up: that would take a lock of every request.
    fn obstacle(
        &self,
        index: usize,
        demand: &Demand,
        now: Instant,
    ) -> Option<(Obstacle, Option<Instant>)> {
        let flags = self.members[index].key.flags();
        Obstacle::of_flags(flags)
            .map(|obstacle| (obstacle, None))
            .or_else(|| self.obstacle_in_time(index, demand, now))
    }

    /// When what keeps a key from serving ends, where it still stands.
    pub fn ends(&self, excluded: &Skipped) -> Option<Instant> {
        let key = &self.members.get(excluded.index)?.key;
        excluded.until.or_else(|| match excluded.obstacle {
            Obstacle::Exhausted => key.exhausted_until(),
            Obstacle::Ejected => key.open_until(),
            _ => None,
        })
    }
}
