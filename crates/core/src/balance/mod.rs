//! Balancing strategies: which of the available keys comes next. One file per strategy.
//!
//! A strategy sees indexes and loads, never secrets or breakers. Whether a key fits a request, the pool decides.

mod affinity_ring;
mod available;
mod least_loaded;
mod overflow_table;
mod random;
mod round_robin;

pub use affinity_ring::AffinityMatch;
pub(crate) use affinity_ring::{AffinityRing, Conversation};
pub(crate) use available::AvailableSet;
pub(crate) use overflow_table::OverflowTable;

use crate::settings::Strategy;

/// The index of the next key for which `fits` holds, in the strategy's order; `None` if there is none.
/// `load(index)` is its number of calls in flight.
pub(crate) fn choose(
    strategy: Strategy,
    available: &AvailableSet,
    load: impl Fn(usize) -> u32,
    fits: impl Fn(usize) -> bool,
) -> Option<usize> {
    match strategy {
        Strategy::RoundRobin => round_robin::choose(available, fits),
        // For a request that belongs to a conversation, `AffinityRing` chooses.
        Strategy::LeastLoaded | Strategy::Affinity => least_loaded::choose(available, load, fits),
        Strategy::Random => random::choose(available, fits),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Strategy; 4] = [
        Strategy::RoundRobin,
        Strategy::LeastLoaded,
        Strategy::Random,
        Strategy::Affinity,
    ];

    /// Seeds the random choices: a failure can be repeated.
    const SEED: u64 = 5;

    fn shares(strategy: Strategy, weights: &[u32], blocked: &[usize], calls: usize) -> Vec<usize> {
        fastrand::seed(SEED);
        let available = AvailableSet::new(weights);
        for index in 0..weights.len() {
            available.update(index, || !blocked.contains(&index));
        }
        let mut shares = vec![0; weights.len()];
        for _ in 0..calls {
            if let Some(index) = choose(strategy, &available, |_| 0, |_| true) {
                shares[index] += 1;
            }
        }
        shares
    }

    #[test]
    fn every_strategy_serves_available_keys_evenly_and_no_others() {
        for strategy in ALL {
            let shares = shares(strategy, &[1, 1, 1, 1], &[1], 3000);
            assert_eq!(shares[1], 0, "{strategy:?}");
            for index in [0, 2, 3] {
                assert!(
                    (850..=1150).contains(&shares[index]),
                    "{strategy:?}: {shares:?} (seed {SEED})"
                );
            }
        }
    }

    #[test]
    fn every_strategy_keeps_to_the_weights() {
        for strategy in ALL {
            let shares = shares(strategy, &[10, 20, 30], &[], 6000);
            for (index, expect) in [(0, 1000), (1, 2000), (2, 3000)] {
                let off = shares[index].abs_diff(expect);
                assert!(off < 200, "{strategy:?}: {shares:?} (seed {SEED})");
            }
        }
    }

    #[test]
    fn every_strategy_finds_the_only_fitting_key_among_many() {
        for strategy in ALL {
            fastrand::seed(SEED);
            let available = AvailableSet::new(&vec![1; 1000]);
            assert_eq!(
                choose(strategy, &available, |_| 0, |index| index == 777),
                Some(777),
                "{strategy:?}"
            );
            assert_eq!(
                choose(strategy, &available, |_| 0, |_| false),
                None,
                "{strategy:?}"
            );
            assert_eq!(
                choose(strategy, &AvailableSet::new(&[]), |_| 0, |_| true),
                None,
                "{strategy:?}"
            );
        }
    }

    #[test]
    fn round_robin_goes_one_two_three_one() {
        let available = AvailableSet::new(&[1, 1, 1]);
        let order: Vec<_> = (0..4)
            .filter_map(|_| choose(Strategy::RoundRobin, &available, |_| 0, |_| true))
            .collect();
        assert_eq!(order, [0, 1, 2, 0]);
    }

    #[test]
    fn round_robin_spreads_weights_instead_of_bunching_them() {
        let available = AvailableSet::new(&[2, 1]);
        let order: Vec<_> = (0..6)
            .filter_map(|_| choose(Strategy::RoundRobin, &available, |_| 0, |_| true))
            .collect();
        assert_eq!(order, [0, 1, 0, 0, 1, 0]);
    }

    #[test]
    fn least_loaded_takes_the_least_load_for_its_weight() {
        let available = AvailableSet::new(&[1, 1, 4]);
        let load = [3, 2, 4];
        assert_eq!(
            choose(
                Strategy::LeastLoaded,
                &available,
                |index| load[index],
                |_| true
            ),
            Some(2)
        );
        assert_eq!(
            choose(
                Strategy::LeastLoaded,
                &available,
                |index| load[index],
                |index| index < 2
            ),
            Some(1)
        );
    }
}
