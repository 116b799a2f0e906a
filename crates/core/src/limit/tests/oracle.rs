//! The rule itself, without any saving of time or memory: a log of every charge.

use std::time::Duration;

use crate::limit::{DIMENSIONS, Limits, Tick};

/// Every charge that was ever made, with the time from which it counts.
#[derive(Clone, Debug, Default)]
pub(super) struct Log {
    charges: Vec<(Tick, [u128; DIMENSIONS])>,
    /// Those that may still count.
    recent: Vec<(Tick, [u128; DIMENSIONS])>,
    prune_at: usize,
}

impl Log {
    pub(super) fn add(&mut self, at: Tick, amounts: [u128; DIMENSIONS]) {
        self.charges.push((at, amounts));
        self.recent.push((at, amounts));
    }

    /// What counts at `now`: everything that is less than `length` old.
    pub(super) fn sum(&mut self, now: Tick, length: Duration) -> [u128; DIMENSIONS] {
        let counts = |(at, _): &(Tick, _)| *at <= now && now < *at + length;
        if self.recent.len() >= self.prune_at {
            self.recent.retain(counts);
            self.prune_at = 2 * self.recent.len() + 16;
        }
        let counting = self.recent.iter().filter(|charge| counts(charge));
        counting.fold([0; DIMENSIONS], |sum, (_, amounts)| {
            std::array::from_fn(|index| sum[index] + amounts[index])
        })
    }

    /// The largest excess over a limit in any interval of `length`; 0 if there is none.
    pub(super) fn worst_excess(&self, limits: &Limits, length: Duration) -> u128 {
        let caps = [limits.requests, limits.input_tokens, limits.output_tokens];
        let mut sorted = self.charges.clone();
        sorted.sort_by_key(|(at, _)| *at);
        let (mut oldest, mut sum, mut worst) = (0, [0_u128; DIMENSIONS], 0);
        for (at, amounts) in &sorted {
            while sorted[oldest].0 + length <= *at {
                sum.iter_mut()
                    .zip(sorted[oldest].1)
                    .for_each(|(sum, amount)| *sum -= amount);
                oldest += 1;
            }
            for ((sum, amount), cap) in sum.iter_mut().zip(amounts).zip(caps) {
                *sum += amount;
                let excess = cap.map_or(0, |cap| sum.saturating_sub(cap.into()));
                worst = worst.max(excess);
            }
        }
        worst
    }
}
