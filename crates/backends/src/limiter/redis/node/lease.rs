//! A part of what is left, lent to this node, and what it asks for: as much as its calls are expected to need.

use std::time::Duration;

use keypool_core::limit::{Cost, Limits, Tick};

use crate::limiter::redis::{Grant, Wants};

/// The time that a node has to return a lease that is not used up, as a part of the window. The script adds it to the time
/// for which the lease should last.
const TO_RETURN: u32 = 30;
/// Past calls tell what to expect for this part of the window.
const REMEMBERED: u32 = 12;
/// A lease ends earlier here than in Redis by this part of the window: 20 ms, in case clocks differ in speed by a thousandth.
/// At least [`LEAST_MARGIN`], since Redis counts whole milliseconds.
const MARGIN: u32 = 3000;
const LEAST_MARGIN: Duration = Duration::from_millis(2);

/// What this node may admit without asking.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lease {
    /// What all calls on it may use together.
    pub(super) budget: Limits,
    /// The limits under which it was lent. Under others, Redis has to be asked.
    pub(super) under: Limits,
    /// When it should be returned, or exchanged for a new one.
    pub(super) renew_at: Tick,
    /// Nothing is admitted on it from then on.
    pub(super) ends: Tick,
}

impl Lease {
    /// What was granted to a step that was sent at `sent` under these limits.
    pub(super) fn new(grant: &Grant, under: Limits, sent: Tick, window: Duration) -> Self {
        let [requests, input, output] = grant.amounts;
        let of = |limit: Option<u32>, amount| limit.map(|_| amount);
        let margin = (window / MARGIN).max(LEAST_MARGIN);
        Self {
            budget: Limits {
                requests: of(under.requests, requests),
                input_tokens: of(under.input_tokens, input),
                output_tokens: of(under.output_tokens, output),
                concurrent: of(under.concurrent, grant.calls),
            },
            under,
            renew_at: sent + grant.length.saturating_sub(window / TO_RETURN),
            ends: sent + grant.length.saturating_sub(margin),
        }
    }

    /// Takes what nobody expected from what is left.
    pub(super) fn take(&mut self, [input, output]: [u32; 2]) {
        let take = |limit: &mut Option<u32>, amount: u32| {
            *limit = limit.map(|limit| limit.saturating_sub(amount));
        };
        take(&mut self.budget.input_tokens, input);
        take(&mut self.budget.output_tokens, output);
    }
}

/// How many calls a caller makes on this node, and what they need.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Forecast {
    /// Sums over calls until `folded`, of which older ones count less.
    old: Sums,
    /// Sums over calls since.
    recent: Sums,
    folded: Tick,
}

/// Number of calls, and the sums of their input tokens, and of means, variances and maxima of their output tokens.
type Sums = [f64; 5];

impl Forecast {
    /// Counts a call that was admitted.
    pub(super) fn add(&mut self, cost: &Cost) {
        let output = &cost.output;
        let amounts = [
            1.0,
            f64::from(cost.input_tokens),
            output.mean,
            output.variance,
            f64::from(output.max),
        ];
        for (sum, amount) in self.recent.iter_mut().zip(amounts) {
            *sum += amount;
        }
    }

    /// What to ask for.
    pub(super) fn wants(&mut self, now: Tick, window: Duration) -> Wants {
        let memory = (window / REMEMBERED).as_secs_f64();
        let age = now.since(self.folded).as_secs_f64() / memory;
        let old_counts = (-age).exp();
        // As if the recent calls had come evenly.
        let recent_counts = match age > 0.0 {
            true => (1.0 - old_counts) / age,
            false => 1.0,
        };
        for (old, recent) in self.old.iter_mut().zip(&mut self.recent) {
            *old = *old * old_counts + std::mem::take(recent) * recent_counts;
        }
        self.folded = now;
        let [requests, input, mean, variance, max] = self.old;
        if requests < f64::EPSILON {
            return Wants::default();
        }
        Wants {
            requests: requests * f64::from(REMEMBERED),
            input: input / requests,
            output: [mean, variance, max].map(|sum| sum / requests),
        }
    }
}

/// The age of something that happened at `at`, as Redis gets it: not more than it is, although this clock may run faster
/// than that of Redis by a thousandth.
pub(super) fn age(now: Tick, at: Tick) -> Duration {
    let age = now.since(at);
    age - age / 1000
}

#[cfg(test)]
mod tests {
    use keypool_core::limit::OutputHold;

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    /// Asks at the end of each period for what the calls in it need.
    fn after(periods: u32, period: Duration, calls: u32) -> Wants {
        let mut forecast = Forecast::default();
        let cost = Cost {
            input_tokens: 100,
            output: OutputHold {
                mean: 40.0,
                variance: 9.0,
                max: 500,
            },
        };
        let mut wants = Wants::default();
        for n in 1..=periods {
            (0..calls).for_each(|_| forecast.add(&cost));
            wants = forecast.wants(Tick::default() + period * n, MINUTE);
        }
        wants
    }

    #[test]
    fn steady_demand_is_expected_to_go_on_however_often_it_is_looked_at() {
        for (period, calls) in [(100, 1), (1_000, 10), (10_000, 100)] {
            let wants = after(60_000 / period, Duration::from_millis(period.into()), calls);
            assert!((590.0..610.0).contains(&wants.requests), "{wants:?}");
            let [mean, variance, max] = wants.output;
            let each = [wants.input, mean, variance, max].map(f64::round);
            assert_eq!(each, [100.0, 40.0, 9.0, 500.0]);
        }
    }

    #[test]
    fn demand_that_ends_is_forgotten() {
        let mut forecast = Forecast::default();
        (0..1000).for_each(|_| forecast.add(&Cost::REQUEST));
        let mut wants = forecast.wants(Tick::default() + MINUTE, MINUTE);
        assert!(wants.requests > 900.0);
        for second in 1..=60 {
            wants = forecast.wants(
                Tick::default() + MINUTE + Duration::from_secs(second),
                MINUTE,
            );
        }
        assert!(wants.requests < 0.1, "{wants:?}");
    }

    #[test]
    fn a_lease_ends_here_before_it_ends_in_redis() {
        let grant = Grant {
            length: Duration::from_secs(12),
            amounts: [10, 2_000, 300],
            calls: 4,
        };
        let under = Limits {
            requests: Some(600),
            input_tokens: Some(60_000),
            output_tokens: None,
            concurrent: Some(20),
        };
        let sent = Tick::default() + MINUTE;
        let mut lease = Lease::new(&grant, under, sent, MINUTE);
        assert_eq!(lease.renew_at, sent + Duration::from_secs(10));
        assert_eq!(lease.ends, sent + Duration::from_millis(11_980));
        assert_eq!(lease.budget.output_tokens, None);
        lease.take([1_999, 7]);
        assert_eq!(lease.budget.input_tokens, Some(1));
        lease.take([2, 0]);
        assert_eq!(lease.budget.input_tokens, Some(0));
    }
}
