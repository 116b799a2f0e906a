//! Why a key cannot serve a demand now: the one place that decides it.

use std::sync::atomic::Ordering;
use std::time::Instant;

use super::{Demand, KeySet};
use crate::key::flag;

/// What keeps a key from serving a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// An operator switched it off.
    Disabled,
    /// The provider does not accept it.
    Invalid,
    /// Its group has no quota or balance left.
    Exhausted,
    /// Its breaker ejected it.
    Ejected,
    /// Its breaker's probe call is in flight.
    Probing,
    /// It has as many calls in flight as it may have.
    Full,
    /// Its group is rate-limited for this model.
    RateLimited,
    /// Its own limits leave no room for the call.
    OverLimit,
    /// It may not use this model.
    Forbidden,
    /// It failed in this request already, and its back-off has not ended.
    Tried,
    /// Another group holds the object that the request names, or this group refused this very request.
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
            Self::Probing => "probing",
            Self::Full => "full",
            Self::OtherGroup => "other_group",
            Self::RateLimited => "rate_limited",
            Self::OverLimit => "over_limit",
            Self::Forbidden => "forbidden",
            Self::Tried => "tried_before",
        }
    }

    /// The first of a key's flags that keeps it from serving.
    pub(super) fn of_flags(flags: u32) -> Option<Self> {
        if flags & flag::BLOCKING == 0 {
            return None;
        }
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
pub struct ExcludedKey {
    /// Its index in the key set.
    pub index: usize,
    /// Why.
    pub obstacle: Obstacle,
    /// Until when, if that was known without a lock. See [`KeySet::ends`].
    pub until: Option<Instant>,
}

impl KeySet {
    /// Why the key at `index` cannot serve the demand now; `None`: it can.
    ///
    /// If there are several reasons, the one that usually lasts longest comes first. `until` is left out where finding
    /// it would take a lock; [`KeySet::ends`] finds it.
    pub(super) fn why_not(
        &self,
        index: usize,
        demand: &Demand,
        now: Instant,
    ) -> Option<ExcludedKey> {
        let member = &self.members[index];
        let found = |obstacle, until| {
            Some(ExcludedKey {
                index,
                obstacle,
                until,
            })
        };
        if !demand.admits(member) {
            return found(Obstacle::OtherGroup, None);
        }
        let flags = member.key.flags();
        if let Some(obstacle) = Obstacle::of_flags(flags & flag::UNUSABLE) {
            return found(obstacle, None);
        }
        let model = member.upstream_model(&demand.model);
        let forbidden = member.key.forbidden.until_at(model, &demand.endpoint, now);
        if forbidden.is_some() {
            return found(Obstacle::Forbidden, forbidden);
        }
        let limited = member.group.cooldowns.until(model, now);
        if limited.is_some() {
            return found(Obstacle::RateLimited, limited);
        }
        let tried = demand.tried_until(member, now);
        if tried.is_some() {
            return found(Obstacle::Tried, tried);
        }
        if let Some(obstacle) = Obstacle::of_flags(flags) {
            return found(obstacle, None);
        }
        // Last, since it takes a lock.
        let no_room = member.key.no_room(&demand.cost, now)?;
        found(Obstacle::OverLimit, no_room.until)
    }

    /// Has the limiter's store asked about one of the keys of which nobody knows whether they have room. If it has none, the
    /// next look asks about the next one.
    pub(super) fn reserve_ahead_on_one(&self, demand: &Demand, now: Instant) {
        let is_over_limit = |index: &usize| {
            let why_not = self.why_not(*index, demand, now);
            why_not.is_some_and(|key| key.obstacle == Obstacle::OverLimit)
        };
        let first = self.next_asked.load(Ordering::Relaxed);
        let count = self.members.len();
        let mut over_limit = (first..first + count)
            .map(|n| n % count)
            .filter(is_over_limit);
        let asked =
            over_limit.find(|index| self.members[*index].key.reserve_ahead(&demand.cost, now));
        if let Some(asked) = asked {
            self.next_asked.store(asked + 1, Ordering::Relaxed);
        }
    }

    /// When the last of the timed reasons ends that keep a key from serving the demand.
    pub(super) fn cooling_until(
        &self,
        index: usize,
        demand: &Demand,
        now: Instant,
    ) -> Option<Instant> {
        let member = &self.members[index];
        let model = member.upstream_model(&demand.model);
        let is_exhausted = member.key.flags() & flag::EXHAUSTED != 0;
        let exhausted = || member.key.exhausted_until();
        [
            member.key.forbidden.until_at(model, &demand.endpoint, now),
            member.group.cooldowns.until(model, now),
            demand.tried_until(member, now),
            is_exhausted.then(exhausted).flatten(),
            member
                .key
                .no_room(&demand.cost, now)
                .and_then(|no_room| no_room.until),
        ]
        .into_iter()
        .flatten()
        .max()
    }

    /// When what keeps a key from serving ends, if it still does.
    pub fn ends(&self, excluded: &ExcludedKey) -> Option<Instant> {
        let key = &self.members.get(excluded.index)?.key;
        excluded.until.or_else(|| match excluded.obstacle {
            Obstacle::Exhausted => key.exhausted_until(),
            Obstacle::Ejected => key.open_until(),
            _ => None,
        })
    }
}
