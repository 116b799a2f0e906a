//! Affinity: every conversation has a home group among the quota groups of a pool. Providers keep their prompt caches
//! for each organisation or project, and any key of the group reaches them.
//!
//! The home group comes from consistent hashing (Karger et al., 1997): a ring of points, more for heavier groups, so that
//! a key that comes or goes moves few conversations and nothing need be remembered. No group takes much more than its
//! share of the calls in flight (Mirrokni, Thorup, Zadimoghaddam, "Consistent Hashing with Bounded Loads", 2016).
//! Beyond that, or if the home group has no free key, the next group on the ring serves, and the conversation stays there
//! while its cache is warm.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use super::overflow_table::OverflowTable;
use super::{AvailableSet, least_loaded};
use crate::hash::scatter;

/// Number of points on the ring for a group of average weight. The more points, the more even the shares.
const POINTS: f64 = 256.0;
/// The same, in a pool of more than [`MANY`] groups.
const POINTS_OF_MANY: f64 = 64.0;
const MANY: usize = 256;
/// A group takes a conversation while its load for its weight is below this multiple of the pool's mean: 5/4.
const MORE_THAN_MEAN: (u64, u64) = (5, 4);
/// Maximum number of groups that are looked at to find one that can serve.
const MAX_GROUPS: usize = 16;
/// Maximum number of points of the ring that are looked at to find these groups.
const MAX_POINTS: usize = 512;
/// The keys of a group up to this size are all compared. Of a larger one, up to [`SAMPLES`] of [`DRAWS`] random keys
/// are.
const COMPARE_ALL: usize = 64;
const DRAWS: usize = 16;
const SAMPLES: usize = 4;

/// The quota groups of a key set, on a ring.
pub(crate) struct AffinityRing {
    ring: Ring,
    groups: Box<[RingGroup]>,
    /// What identifies each group across reloads and nodes. Sorted.
    identities: Box<[u64]>,
    /// The keys of all groups, group by group.
    keys: Box<[RingKey]>,
    /// The group of each key, by the key's index.
    group_of: Box<[u32]>,
    /// Calls in flight with keys of this key set.
    in_flight: AtomicU64,
}

/// One quota group of a key set.
// With its first key, the only one of most groups, it fits on half a cache line; see `Key`.
#[repr(align(32))]
struct RingGroup {
    first: RingKey,
    /// Where its keys begin among the keys of all groups.
    begin: u32,
    count: u32,
    in_flight: AtomicU32,
    /// The key at which the next comparison begins, so that equal keys take turns.
    turn: AtomicU32,
}

const _: () = assert!(size_of::<RingGroup>() == 32);

/// A key of a group, with what a choice often asks of it.
#[derive(Clone, Copy)]
struct RingKey {
    index: u32,
    position: u32,
    weight: u32,
}

/// A conversation that is to be served, and where the pool remembers conversations that are away from home.
#[derive(Clone, Copy)]
pub(crate) struct Conversation<'a> {
    pub(crate) id: u64,
    pub(crate) now: Instant,
    pub(crate) overflow: &'a OverflowTable,
}

/// The key that a conversation goes to.
#[derive(Clone, Copy)]
pub(crate) struct RingChoice {
    pub(crate) index: usize,
    pub(crate) found: AffinityMatch,
}

impl RingChoice {
    fn of(index: usize, found: AffinityMatch) -> Option<Self> {
        Some(Self { index, found })
    }
}

/// Calls in flight, weight and number of several keys or groups.
#[derive(Clone, Copy)]
struct Load {
    calls: u64,
    weight: u64,
    number: u64,
}

/// How a group came to serve a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AffinityMatch {
    /// It is the conversation's home.
    Home,
    /// The conversation was served there before, away from home.
    Warm,
    /// Its home has no room.
    Overflow,
}

/// A group's key that can serve, and what decides whether the group has room.
#[derive(Clone, Copy)]
struct Candidate {
    group: u32,
    index: usize,
    load: u64,
    /// The weight of its keys that can serve.
    weight: u64,
}

impl AffinityRing {
    /// `identities[index]`: what identifies the group of that key across reloads and nodes.
    pub(crate) fn new(identities: &[u64], available: &AvailableSet) -> Self {
        let mut known: Vec<u64> = identities.to_vec();
        known.sort_unstable();
        known.dedup();
        let group_of: Box<[u32]> = identities
            .iter()
            .map(|id| known.binary_search(id).unwrap_or_default() as u32)
            .collect();
        let key = |index: usize| RingKey {
            index: index as u32,
            position: available.first_position(index) as u32,
            weight: available.weight(index),
        };
        let mut keys: Vec<RingKey> = (0..identities.len()).map(key).collect();
        keys.sort_by_key(|key| group_of[key.index as usize]);
        let of_group = |key: &RingKey| group_of[key.index as usize];
        let parts: Vec<&[RingKey]> = keys
            .chunk_by(|one, next| of_group(one) == of_group(next))
            .collect();
        let weight = |part: &&[RingKey]| part.iter().map(|key| key.weight).sum();
        let weights: Vec<u32> = parts.iter().map(weight).collect();
        let mut end = 0;
        let groups = parts.iter().map(|part| {
            let begin = end;
            end += part.len() as u32;
            RingGroup {
                first: part[0],
                begin,
                count: part.len() as u32,
                in_flight: AtomicU32::new(0),
                turn: AtomicU32::new(0),
            }
        });
        Self {
            ring: Ring::new(&known, &weights),
            groups: groups.collect(),
            keys: keys.into(),
            group_of,
            in_flight: AtomicU64::new(0),
            identities: known.into(),
        }
    }

    /// The key for a conversation; `None` if none fits. `load(index)` is the number of calls in flight there.
    pub(crate) fn choose(
        &self,
        conversation: &Conversation<'_>,
        available: &AvailableSet,
        load: impl Fn(usize) -> u32,
        fits: impl Fn(usize) -> bool,
    ) -> Option<RingChoice> {
        let look = |group: u32| self.candidate(group, available, &load, &fits);
        let total = self.in_flight.load(Relaxed);
        let of_pool = Load {
            calls: total,
            weight: available.available_weight() as u64,
            number: available.available_keys() as u64,
        };
        if let Some(warm) = self.away_from_home(conversation).and_then(look)
            && has_room(&warm, of_pool)
        {
            return RingChoice::of(warm.index, AffinityMatch::Warm);
        }
        let mut crowded: Vec<Candidate> = Vec::new();
        for (nth, group) in self.groups_from_home(conversation.id).enumerate() {
            let Some(candidate) = look(group) else {
                continue;
            };
            if has_room(&candidate, of_pool) {
                return RingChoice::of(candidate.index, chosen(nth));
            }
            crowded.push(candidate);
        }
        // All groups that can serve are above the pool's mean: compare them with their own mean.
        let sum = |of: fn(&Candidate) -> u64| crowded.iter().map(of).sum::<u64>();
        let of_crowded = Load {
            calls: sum(|one| one.load),
            weight: sum(|one| one.weight),
            number: crowded.len() as u64,
        };
        let roomy = crowded.iter().find(|one| has_room(one, of_crowded));
        if let Some(candidate) = roomy.or(crowded.first()) {
            let at_home = Some(candidate.group) == self.home(conversation.id);
            return RingChoice::of(candidate.index, chosen(usize::from(!at_home)));
        }
        // Only a few of many groups were looked at: any other key is better than none.
        least_loaded::choose(available, load, fits)
            .and_then(|index| RingChoice::of(index, AffinityMatch::Overflow))
    }

    /// The key at `index` serves the conversation: it is at home, or stays with that group for a while.
    pub(crate) fn note_served(&self, conversation: &Conversation<'_>, choice: RingChoice) {
        let Conversation { id, now, overflow } = *conversation;
        match choice.found {
            AffinityMatch::Home => overflow.remove(id, now),
            AffinityMatch::Warm | AffinityMatch::Overflow => {
                let group = self.identities[self.group_of[choice.index] as usize];
                overflow.insert(id, group, now);
            }
        }
    }

    /// The group that served the conversation away from home, if it is still in the pool.
    fn away_from_home(&self, conversation: &Conversation<'_>) -> Option<u32> {
        let Conversation { id, now, overflow } = *conversation;
        let group = overflow.find(id, now)?;
        let index = self.identities.binary_search(&group).ok()?;
        Some(index as u32)
    }

    /// A call began with the key at `index`.
    pub(crate) fn call_began(&self, index: usize) {
        self.in_flight.fetch_add(1, Relaxed);
        self.group_at(index).in_flight.fetch_add(1, Relaxed);
    }

    /// A call ended with the key at `index`.
    pub(crate) fn call_ended(&self, index: usize) {
        self.in_flight.fetch_sub(1, Relaxed);
        self.group_at(index).in_flight.fetch_sub(1, Relaxed);
    }

    fn group_at(&self, index: usize) -> &RingGroup {
        &self.groups[self.group_of[index] as usize]
    }

    fn home(&self, conversation: u64) -> Option<u32> {
        self.groups_from_home(conversation).next()
    }

    /// The first few groups from a conversation's home on, each once.
    fn groups_from_home(&self, conversation: u64) -> impl Iterator<Item = u32> {
        let mut seen = [u32::MAX; MAX_GROUPS];
        let mut count = 0;
        let enough = MAX_GROUPS.min(self.groups.len());
        self.ring
            .groups_after(scatter(conversation))
            .take(MAX_POINTS)
            .filter(move |group| {
                let is_new = !seen[..count.min(MAX_GROUPS)].contains(group);
                if is_new && count < MAX_GROUPS {
                    seen[count] = *group;
                    count += 1;
                }
                is_new
            })
            .take(enough)
    }

    /// The least loaded key of a group that can serve.
    fn candidate(
        &self,
        group: u32,
        available: &AvailableSet,
        load: impl Fn(usize) -> u32,
        fits: impl Fn(usize) -> bool,
    ) -> Option<Candidate> {
        let members = self.groups.get(group as usize)?;
        let can_serve = |key: &&RingKey| {
            available.has_position(key.position as usize) && fits(key.index as usize)
        };
        let cost = |key: &&RingKey| {
            u64::from(load(key.index as usize)) * (1 << 20) / u64::from(key.weight)
        };
        let (best, weight) = match members.count as usize {
            1 => {
                let only = &members.first;
                (can_serve(&only).then_some(only)?, u64::from(only.weight))
            }
            count if count <= COMPARE_ALL => self.best_of_all(members, can_serve, cost)?,
            count => {
                let best = self.best_of_some(members, can_serve, cost)?;
                // For a group this large, an estimate from the pool's mean is close enough.
                let all = count as u64 * available.available_weight() as u64;
                (best, all / available.available_keys().max(1) as u64)
            }
        };
        Some(Candidate {
            group,
            index: best.index as usize,
            load: u64::from(members.in_flight.load(Relaxed)),
            weight,
        })
    }

    /// The keys of a group, beginning with another one each time.
    fn in_turn(&self, group: &RingGroup) -> impl Iterator<Item = &RingKey> {
        let keys = self.keys_of(group);
        let first = group.turn.fetch_add(1, Relaxed) as usize % keys.len();
        keys[first..].iter().chain(&keys[..first])
    }

    fn keys_of(&self, group: &RingGroup) -> &[RingKey] {
        &self.keys[group.begin as usize..][..group.count as usize]
    }

    /// The key of least cost, and the weight of all keys that can serve.
    fn best_of_all(
        &self,
        group: &RingGroup,
        can_serve: impl Fn(&&RingKey) -> bool,
        cost: impl Fn(&&RingKey) -> u64,
    ) -> Option<(&RingKey, u64)> {
        let mut weight = 0;
        let able = self.in_turn(group).filter(can_serve);
        let best = able
            .inspect(|key| weight += u64::from(key.weight))
            .min_by_key(cost)?;
        Some((best, weight))
    }

    /// The key of least cost among a few random ones; if none of them can serve, the next one that can.
    fn best_of_some(
        &self,
        group: &RingGroup,
        can_serve: impl Fn(&&RingKey) -> bool,
        cost: impl Fn(&&RingKey) -> u64,
    ) -> Option<&RingKey> {
        let keys = self.keys_of(group);
        let drawn = (0..DRAWS).map(|_| &keys[fastrand::usize(..keys.len())]);
        let least = drawn.filter(&can_serve).take(SAMPLES).min_by_key(cost);
        least.or_else(|| self.in_turn(group).find(can_serve))
    }
}

fn chosen(nth: usize) -> AffinityMatch {
    if nth == 0 {
        AffinityMatch::Home
    } else {
        AffinityMatch::Overflow
    }
}

/// Whether the load for its weight is below 5/4 of the mean, plus one call for each key of average weight.
/// `all`: what the mean is taken over.
fn has_room(candidate: &Candidate, all: Load) -> bool {
    let (more, than) = MORE_THAN_MEAN;
    candidate.load * all.weight * than < candidate.weight * (more * all.calls + than * all.number)
}

/// The points of all groups.
struct Ring {
    /// Sorted. Each has its position in the upper half and its group in the lower half.
    points: Box<[u64]>,
    /// Where the points of each equal part of the ring begin; one more at the end. A part is about one cache line. A
    /// binary search among all points of ten thousand groups doubles the time of a choice.
    starts: Box<[u32]>,
    /// A position shifted right by this is its part.
    part_shift: u32,
}

/// Number of points in one part of the ring, about.
const POINTS_OF_PART: usize = 8;

impl Ring {
    fn new(identities: &[u64], weights: &[u32]) -> Self {
        let sum: f64 = weights.iter().map(|weight| f64::from(*weight)).sum();
        let mean = sum / weights.len().max(1) as f64;
        let of_mean = if identities.len() > MANY {
            POINTS_OF_MANY
        } else {
            POINTS
        };
        let mut points = Vec::with_capacity(identities.len() * (of_mean as usize + 1));
        for (group, (identity, weight)) in identities.iter().zip(weights).enumerate() {
            let count = (of_mean * f64::from(*weight) / mean).round().max(1.0) as u64;
            let point =
                |n: u64| scatter(scatter(*identity).wrapping_add(n)) >> 32 << 32 | group as u64;
            points.extend((0..count).map(point));
        }
        points.sort_unstable();
        let part_bits = (points.len() / POINTS_OF_PART).max(2).ilog2();
        let part_shift = u64::BITS - part_bits;
        let start = |part: u64| points.partition_point(|point| point >> part_shift < part) as u32;
        Self {
            starts: (0..=1 << part_bits).map(start).collect(),
            part_shift,
            points: points.into(),
        }
    }

    /// The groups of the points from `position` (its upper half counts) on, once around.
    fn groups_after(&self, position: u64) -> impl Iterator<Item = u32> {
        let part = (position >> self.part_shift) as usize;
        let (start, end) = (self.starts[part] as usize, self.starts[part + 1] as usize);
        let is_before = |point: &u64| point >> 32 < position >> 32;
        let first = start + self.points[start..end].partition_point(is_before);
        let (behind, ahead) = self.points.split_at(first);
        ahead.iter().chain(behind).map(|point| *point as u32)
    }
}

#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "a starting point for simulated time"
)]
mod tests {
    use super::*;

    #[test]
    fn a_large_group_gives_its_load_to_many_keys() {
        fastrand::seed(11);
        let now = Instant::now();
        let overflow = OverflowTable::new(now);
        let available = AvailableSet::new(&[1; 1000]);
        let ring = AffinityRing::new(&[7; 1000], &available);
        let mut loads = vec![0u32; 1000];
        for id in 0..4000 {
            let overflow = &overflow;
            let conversation = Conversation { id, now, overflow };
            let load = |index: usize| loads[index];
            let chosen = ring.choose(&conversation, &available, load, |_| true);
            loads[chosen.unwrap().index] += 1;
        }
        let most = loads.iter().max().copied().unwrap_or_default();
        assert!(most <= 10, "{most} on one key, 4 is the mean (seed 11)");
    }

    #[test]
    fn a_ring_has_points_by_weight_and_at_least_one_per_group() {
        let ring = Ring::new(&[1, 2, 3], &[100, 100, 1]).points;
        let points = |group| ring.iter().filter(|point| **point as u32 == group).count();
        assert_eq!((points(0), points(1), points(2)), (382, 382, 4));
        let many: Vec<u64> = (0..1000).collect();
        assert_eq!(Ring::new(&many, &vec![1; 1000]).points.len(), 64_000);
        let light = Ring::new(&[1, 2], &[1000, 1]).points;
        assert_eq!(light.iter().filter(|point| **point as u32 == 1).count(), 1);
    }

    #[test]
    fn the_first_group_from_a_position_is_that_of_the_next_point() {
        for groups in [1, 3, 1000] {
            let identities: Vec<u64> = (0..groups).collect();
            let ring = Ring::new(&identities, &vec![1; identities.len()]);
            let points = ring.points.iter().step_by(identities.len().div_ceil(10));
            let parts = (0..ring.starts.len() as u64 - 1).map(|part| part << ring.part_shift);
            let edges = parts.chain(points.copied()).flat_map(|edge| {
                [-1, 0, 1].map(|step: i64| edge.saturating_add_signed(step << 32))
            });
            let few = [0, u64::MAX];
            for position in few
                .into_iter()
                .chain(edges.take(1000))
                .chain((0..1000).map(scatter))
            {
                let at = |point: &&u64| **point >> 32 >= position >> 32;
                let next = ring.points.iter().find(at).unwrap_or(&ring.points[0]);
                assert_eq!(
                    ring.groups_after(position).next(),
                    Some(*next as u32),
                    "{position:x}"
                );
            }
            assert_eq!(ring.groups_after(7).count(), ring.points.len());
        }
    }
}
