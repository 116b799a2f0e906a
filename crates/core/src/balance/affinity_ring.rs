//! Affinity: every conversation has a home among the quota groups of a pool, since providers keep their prompt
//! caches for each organisation or project, and any key of the group reaches them.
//!
//! AffinityRing come from consistent hashing (Karger et al., 1997): a ring of points, more for heavier groups, so that a
//! key that comes or goes moves few conversations and nothing need be remembered. No group takes much more than
//! its share of the calls in flight (Mirrokni, Thorup, Zadimoghaddam, "Consistent Hashing with Bounded Loads",
//! 2016): beyond that, and where a home has no free key, the next group on the ring serves, and what went there
//! stays there while the cache is warm.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use super::overflow_table::OverflowTable;
use super::{AvailableSet, least_loaded};
use crate::hash::scatter;

/// Points on the ring of a group of average weight, where there are few groups and where there are many: the
/// more points, the more even the shares.
const POINTS: f64 = 256.0;
const POINTS_OF_MANY: f64 = 64.0;
const MANY: usize = 256;
/// A group takes a conversation while its load for its weight is below 5/4 of the pool's mean, …
const MORE_THAN_MEAN: (u64, u64) = (5, 4);
/// So many groups are looked at for one that can serve, …
const MAX_GROUPS: usize = 16;
/// … on so many points of the ring.
const MAX_POINTS: usize = 512;
/// The keys of a group of up to so many are compared as a whole; of a larger one a few are drawn.
const COMPARE_ALL: usize = 64;
const DRAWS: usize = 16;
const SAMPLES: usize = 4;

/// The quota groups of a pool and their len on the ring.
pub(crate) struct AffinityRing {
    ring: Ring,
    groups: Box<[RingGroup]>,
    /// The len of all groups, group by group.
    keys: Box<[RingKey]>,
    /// The group of each index.
    group_of: Box<[u32]>,
    /// Calls in flight that the pool gave out.
    in_flight: AtomicU64,
    overflow: OverflowTable,
}

/// One quota group as this pool has it.
// On one cache line, with its first index, which is the only one of most groups.
#[repr(align(32))]
struct RingGroup {
    first: RingKey,
    /// Its part of all len.
    begin: u32,
    count: u32,
    in_flight: AtomicU32,
    /// At which of its keys the next comparison begins, so that equals take turns.
    turn: AtomicU32,
}

const _: () = assert!(size_of::<RingGroup>() == 32);

/// A index of a group, with what is asked of it often.
#[derive(Clone, Copy)]
struct RingKey {
    index: u32,
    slot: u32,
    weight: u32,
}

/// How a group came to serve a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AffinityMatch {
    /// It is the conversation's home.
    Home,
    /// The conversation was served there before, away from home.
    Warm,
    /// RingGroup has no room.
    Overflow,
}

/// A group's key that can serve, and what decides whether the group has room.
#[derive(Clone, Copy)]
struct Candidate {
    group: u32,
    index: usize,
    load: u64,
    /// Of its keys that can serve.
    weight: u64,
}

impl AffinityRing {
    /// `identities[index]`: what makes the group of that index itself, across reloads and nodes.
    pub(crate) fn new(identities: &[u64], available: &AvailableSet, now: Instant) -> Self {
        let mut known: Vec<u64> = identities.to_vec();
        known.sort_unstable();
        known.dedup();
        let group_of: Box<[u32]> = identities
            .iter()
            .map(|id| known.binary_search(id).unwrap_or_default() as u32)
            .collect();
        let key = |index: usize| RingKey {
            index: index as u32,
            slot: available.first_slot(index) as u32,
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
            overflow: OverflowTable::new(now),
        }
    }

    /// The key for a conversation; `None` if none fits. `load(index)` is the number of calls in flight there.
    pub(crate) fn choose(
        &self,
        conversation: u64,
        now: Instant,
        available: &AvailableSet,
        load: impl Fn(usize) -> u32,
        fits: impl Fn(usize) -> bool,
    ) -> Option<(usize, AffinityMatch)> {
        let look = |group: u32| self.candidate(group, available, &load, &fits);
        let total = self.in_flight.load(Relaxed);
        let of_pool = (
            total,
            available.free_weight() as u64,
            available.free_keys() as u64,
        );
        if let Some(group) = self.overflow.find(conversation, now)
            && let Some(warm) = look(group)
            && has_room(&warm, of_pool)
        {
            return Some((warm.index, AffinityMatch::Warm));
        }
        let mut crowded: Vec<Candidate> = Vec::new();
        for (nth, group) in self.groups_from_home(conversation).enumerate() {
            let Some(candidate) = look(group) else {
                continue;
            };
            if has_room(&candidate, of_pool) {
                return Some((candidate.index, chosen(nth)));
            }
            crowded.push(candidate);
        }
        // All that can serve are above the mean of all: they share it out among themselves.
        let sum = |of: fn(&Candidate) -> u64| crowded.iter().map(of).sum::<u64>();
        let of_crowded = (
            sum(|one| one.load),
            sum(|one| one.weight),
            crowded.len() as u64,
        );
        let roomy = crowded.iter().find(|one| has_room(one, of_crowded));
        if let Some(candidate) = roomy.or(crowded.first()) {
            let at_home = Some(candidate.group) == self.home(conversation);
            return Some((candidate.index, chosen(usize::from(!at_home))));
        }
        // Those looked at are few of many: any other key is better than none.
        least_loaded::choose(available, load, fits).map(|index| (index, AffinityMatch::Overflow))
    }

    /// `index` serves the conversation: it stays there, or is at home.
    pub(crate) fn note_served(
        &self,
        conversation: u64,
        (index, chosen): (usize, AffinityMatch),
        now: Instant,
    ) {
        match chosen {
            AffinityMatch::Home => self.overflow.remove(conversation, now),
            AffinityMatch::Warm | AffinityMatch::Overflow => {
                self.overflow
                    .insert(conversation, self.group_of[index], now);
            }
        }
    }

    /// A call began at `index`.
    pub(crate) fn call_began(&self, index: usize) {
        self.in_flight.fetch_add(1, Relaxed);
        self.group_at(index).in_flight.fetch_add(1, Relaxed);
    }

    /// A call ended at `index`.
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

    /// The groups from a conversation's home on, each once, as far as it is worth looking.
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
        let can_serve =
            |key: &&RingKey| available.has_slot(key.slot as usize) && fits(key.index as usize);
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
                // Of a group so large the whole weight is near enough.
                let all = count as u64 * available.free_weight() as u64;
                (best, all / available.free_keys().max(1) as u64)
            }
        };
        Some(Candidate {
            group,
            index: best.index as usize,
            load: u64::from(members.in_flight.load(Relaxed)),
            weight,
        })
    }

    /// The keys of a group in turn: each call begins with the next.
    fn in_turn(&self, group: &RingGroup) -> impl Iterator<Item = &RingKey> {
        let keys = self.keys_of(group);
        let first = group.turn.fetch_add(1, Relaxed) as usize % keys.len();
        keys[first..].iter().chain(&keys[..first])
    }

    fn keys_of(&self, group: &RingGroup) -> &[RingKey] {
        &self.keys[group.begin as usize..][..group.count as usize]
    }

    /// The key of least cost, and the weight of all that can serve.
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

    /// The key of least cost among a few that are drawn, else the next that can serve.
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

/// Whether the load for its weight is below 5/4 of the mean, and one call for each key of average weight.
/// `all`: load, weight and number of all that the mean is taken of.
fn has_room(candidate: &Candidate, all: (u64, u64, u64)) -> bool {
    let (load, weight, number) = all;
    let (more, than) = MORE_THAN_MEAN;
    candidate.load * weight * than < candidate.weight * (more * load + than * number)
}

/// The points of all groups.
struct Ring {
    /// Sorted: position in the upper half, group in the lower.
    points: Box<[u64]>,
    /// Where the points of each equal part of the ring begin; one more at the end. Few enough to stay in a cache:
    /// a index among the points themselves is a wait for memory.
    starts: Box<[u32]>,
}

/// About so many points are in one part.
const POINTS_OF_PART: usize = 64;

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
        let parts = (points.len() / POINTS_OF_PART).max(1);
        let start =
            |part: usize| points.partition_point(|point| part_of(*point, parts) < part) as u32;
        Self {
            starts: (0..=parts).map(start).collect(),
            points: points.into(),
        }
    }

    /// The groups of the points from `position` (its upper half counts) on, once around.
    fn groups_after(&self, position: u64) -> impl Iterator<Item = u32> {
        let (behind, ahead) = self.points.split_at(self.first_from(position));
        ahead.iter().chain(behind).map(|point| *point as u32)
    }

    /// The index of the first point at or behind `position`, the number of points if there is none. Points are
    /// scattered evenly, so the index is guessed within a few (interpolation search; Perl, Itai, Avni 1978).
    fn first_from(&self, position: u64) -> usize {
        let parts = self.starts.len() - 1;
        let part = part_of(position, parts);
        let (start, end) = (self.starts[part] as usize, self.starts[part + 1] as usize);
        let into_part = ((position >> 32) * parts as u64) & u64::from(u32::MAX);
        let mut first = start + (((end - start) as u64 * into_part) >> 32) as usize;
        while first > start && self.points[first - 1] >> 32 >= position >> 32 {
            first -= 1;
        }
        while first < end && self.points[first] >> 32 < position >> 32 {
            first += 1;
        }
        first
    }
}

/// In which of so many equal parts of the ring a position is.
fn part_of(position: u64, parts: usize) -> usize {
    (((position >> 32) * parts as u64) >> 32) as usize
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
        let available = AvailableSet::new(&[1; 1000]);
        let ring = AffinityRing::new(&[7; 1000], &available, Instant::now());
        let mut loads = vec![0u32; 1000];
        for conversation in 0..4000 {
            let chosen = ring.choose(
                conversation,
                Instant::now(),
                &available,
                |index| loads[index],
                |_| true,
            );
            loads[chosen.unwrap().0] += 1;
        }
        let most = loads.iter().max().copied().unwrap_or_default();
        assert!(most <= 10, "{most} on one key, 4 is the mean");
    }

    #[test]
    fn a_ring_has_points_by_weight_and_at_least_one_for_each_group() {
        let ring = Ring::new(&[1, 2, 3], &[100, 100, 1]).points;
        let points = |group| ring.iter().filter(|point| **point as u32 == group).count();
        assert_eq!((points(0), points(1), points(2)), (382, 382, 4));
        let many: Vec<u64> = (0..1000).collect();
        assert_eq!(Ring::new(&many, &vec![1; 1000]).points.len(), 64_000);
        let light = Ring::new(&[1, 2], &[1000, 1]).points;
        assert_eq!(light.iter().filter(|point| **point as u32 == 1).count(), 1);
    }

    #[test]
    fn the_first_group_from_a_position_is_that_of_the_next_point_on_the_ring() {
        for groups in [1, 3, 1000] {
            let identities: Vec<u64> = (0..groups).collect();
            let ring = Ring::new(&identities, &vec![1; identities.len()]);
            let parts = ring.starts.len() as u64 - 1;
            let part_edges = (0..=parts).map(|part| (part << 32).div_ceil(parts) << 32);
            let points = ring.points.iter().step_by(identities.len().div_ceil(10));
            let edges = part_edges.chain(points.copied()).flat_map(|edge| {
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
