//! Affinity: every conversation has a home among the quota groups of a pool, since providers keep their prompt
//! caches for each organisation or project, and any key of the group reaches them.
//!
//! Homes come from consistent hashing (Karger et al., 1997): a ring of points, more for heavier groups, so that a
//! key that comes or goes moves few conversations and nothing need be remembered. No group takes much more than
//! its share of the calls in flight (Mirrokni, Thorup, Zadimoghaddam, "Consistent Hashing with Bounded Loads",
//! 2016): beyond that, and where a home has no free key, the next group on the ring serves, and what went there
//! stays there while the cache is warm.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use super::away::Away;
use super::mix::mix;
use super::{Available, least_loaded};

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

/// The quota groups of a pool and their places on the ring.
pub(crate) struct Homes {
    ring: Ring,
    groups: Box<[Home]>,
    /// The places of all groups, group by group.
    spots: Box<[Spot]>,
    /// The group of each place.
    group_of: Box<[u32]>,
    /// Calls in flight that the pool gave out.
    in_flight: AtomicU64,
    away: Away,
}

/// One quota group as this pool has it.
// On one cache line, with its first place, which is the only one of most groups.
#[repr(align(32))]
struct Home {
    first: Spot,
    /// Its part of all places.
    begin: u32,
    count: u32,
    in_flight: AtomicU32,
    /// At which of its keys the next comparison begins, so that equals take turns.
    turn: AtomicU32,
}

const _: () = assert!(size_of::<Home>() == 32);

/// A place of a group, with what is asked of it often.
#[derive(Clone, Copy)]
struct Spot {
    place: u32,
    slot: u32,
    weight: u32,
}

/// How a group came to serve a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Chosen {
    /// It is the conversation's home.
    Home,
    /// The conversation was served there before, away from home.
    Warm,
    /// Home has no room.
    Overflow,
}

/// A group's key that can serve, and what decides whether the group has room.
#[derive(Clone, Copy)]
struct Candidate {
    group: u32,
    place: usize,
    load: u64,
    /// Of its keys that can serve.
    weight: u64,
}

impl Homes {
    /// `identities[place]`: what makes the group of that place itself, across reloads and nodes.
    pub(crate) fn new(identities: &[u64], available: &Available, now: Instant) -> Self {
        let mut known: Vec<u64> = identities.to_vec();
        known.sort_unstable();
        known.dedup();
        let group_of: Box<[u32]> = identities
            .iter()
            .map(|id| known.binary_search(id).unwrap_or_default() as u32)
            .collect();
        let spot = |place: usize| Spot {
            place: place as u32,
            slot: available.first_slot(place) as u32,
            weight: available.weight(place),
        };
        let mut spots: Vec<Spot> = (0..identities.len()).map(spot).collect();
        spots.sort_by_key(|spot| group_of[spot.place as usize]);
        let of_group = |spot: &Spot| group_of[spot.place as usize];
        let parts: Vec<&[Spot]> = spots
            .chunk_by(|one, next| of_group(one) == of_group(next))
            .collect();
        let weight = |part: &&[Spot]| part.iter().map(|spot| spot.weight).sum();
        let weights: Vec<u32> = parts.iter().map(weight).collect();
        let mut end = 0;
        let groups = parts.iter().map(|part| {
            let begin = end;
            end += part.len() as u32;
            Home {
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
            spots: spots.into(),
            group_of,
            in_flight: AtomicU64::new(0),
            away: Away::new(now),
        }
    }

    /// The key for a conversation; `None` if none fits. `load(place)` is the number of calls in flight there.
    pub(crate) fn choose(
        &self,
        conversation: u64,
        now: Instant,
        available: &Available,
        load: impl Fn(usize) -> u32,
        fits: impl Fn(usize) -> bool,
    ) -> Option<(usize, Chosen)> {
        let look = |group: u32| self.candidate(group, available, &load, &fits);
        let total = self.in_flight.load(Relaxed);
        let of_pool = (
            total,
            available.free_weight() as u64,
            available.free_places() as u64,
        );
        if let Some(group) = self.away.find(conversation, now)
            && let Some(warm) = look(group)
            && has_room(&warm, of_pool)
        {
            return Some((warm.place, Chosen::Warm));
        }
        let mut crowded: Vec<Candidate> = Vec::new();
        for (nth, group) in self.starting_at_home(conversation).enumerate() {
            let Some(candidate) = look(group) else {
                continue;
            };
            if has_room(&candidate, of_pool) {
                return Some((candidate.place, chosen(nth)));
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
            return Some((candidate.place, chosen(usize::from(!at_home))));
        }
        // Those looked at are few of many: any other key is better than none.
        least_loaded::choose(available, load, fits).map(|place| (place, Chosen::Overflow))
    }

    /// `place` serves the conversation: it stays there, or is at home.
    pub(crate) fn note_served(
        &self,
        conversation: u64,
        (place, chosen): (usize, Chosen),
        now: Instant,
    ) {
        match chosen {
            Chosen::Home => self.away.came_home(conversation, now),
            Chosen::Warm | Chosen::Overflow => {
                self.away.stays_at(conversation, self.group_of[place], now);
            }
        }
    }

    /// A call began at `place`.
    pub(crate) fn call_began(&self, place: usize) {
        self.in_flight.fetch_add(1, Relaxed);
        self.home_of(place).in_flight.fetch_add(1, Relaxed);
    }

    /// A call ended at `place`.
    pub(crate) fn call_ended(&self, place: usize) {
        self.in_flight.fetch_sub(1, Relaxed);
        self.home_of(place).in_flight.fetch_sub(1, Relaxed);
    }

    fn home_of(&self, place: usize) -> &Home {
        &self.groups[self.group_of[place] as usize]
    }

    fn home(&self, conversation: u64) -> Option<u32> {
        self.starting_at_home(conversation).next()
    }

    /// The groups from a conversation's home on, each once, as far as it is worth looking.
    fn starting_at_home(&self, conversation: u64) -> impl Iterator<Item = u32> {
        let mut seen = [u32::MAX; MAX_GROUPS];
        let mut count = 0;
        let enough = MAX_GROUPS.min(self.groups.len());
        self.ring
            .groups_after(mix(conversation))
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
        available: &Available,
        load: impl Fn(usize) -> u32,
        fits: impl Fn(usize) -> bool,
    ) -> Option<Candidate> {
        let home = self.groups.get(group as usize)?;
        let can_serve =
            |spot: &&Spot| available.has_slot(spot.slot as usize) && fits(spot.place as usize);
        let cost = |spot: &&Spot| {
            u64::from(load(spot.place as usize)) * (1 << 20) / u64::from(spot.weight)
        };
        let (best, weight) = match home.count as usize {
            1 => {
                let only = &home.first;
                (can_serve(&only).then_some(only)?, u64::from(only.weight))
            }
            count if count <= COMPARE_ALL => self.best_of_all(home, can_serve, cost)?,
            count => {
                let best = self.best_of_some(home, can_serve, cost)?;
                // Of a group so large the whole weight is near enough.
                let all = count as u64 * available.free_weight() as u64;
                (best, all / available.free_places().max(1) as u64)
            }
        };
        Some(Candidate {
            group,
            place: best.place as usize,
            load: u64::from(home.in_flight.load(Relaxed)),
            weight,
        })
    }

    /// The spots of a group in turn: each call begins with the next.
    fn in_turn(&self, home: &Home) -> impl Iterator<Item = &Spot> {
        let spots = self.spots_of(home);
        let first = home.turn.fetch_add(1, Relaxed) as usize % spots.len();
        spots[first..].iter().chain(&spots[..first])
    }

    fn spots_of(&self, home: &Home) -> &[Spot] {
        &self.spots[home.begin as usize..][..home.count as usize]
    }

    /// The spot of least cost, and the weight of all that can serve.
    fn best_of_all(
        &self,
        home: &Home,
        can_serve: impl Fn(&&Spot) -> bool,
        cost: impl Fn(&&Spot) -> u64,
    ) -> Option<(&Spot, u64)> {
        let mut weight = 0;
        let able = self.in_turn(home).filter(can_serve);
        let best = able
            .inspect(|spot| weight += u64::from(spot.weight))
            .min_by_key(cost)?;
        Some((best, weight))
    }

    /// The spot of least cost among a few that are drawn, else the next that can serve.
    fn best_of_some(
        &self,
        home: &Home,
        can_serve: impl Fn(&&Spot) -> bool,
        cost: impl Fn(&&Spot) -> u64,
    ) -> Option<&Spot> {
        let spots = self.spots_of(home);
        let drawn = (0..DRAWS).map(|_| &spots[fastrand::usize(..spots.len())]);
        let least = drawn.filter(&can_serve).take(SAMPLES).min_by_key(cost);
        least.or_else(|| self.in_turn(home).find(can_serve))
    }
}

fn chosen(nth: usize) -> Chosen {
    if nth == 0 {
        Chosen::Home
    } else {
        Chosen::Overflow
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
    /// a place among the points themselves is a wait for memory.
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
            let point = |n: u64| mix(mix(*identity).wrapping_add(n)) >> 32 << 32 | group as u64;
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
        let available = Available::new(&[1; 1000]);
        let homes = Homes::new(&[7; 1000], &available, Instant::now());
        let mut loads = vec![0u32; 1000];
        for conversation in 0..4000 {
            let chosen = homes.choose(
                conversation,
                Instant::now(),
                &available,
                |place| loads[place],
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
                .chain((0..1000).map(mix))
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
