//! Random traces, compared with the log of every charge.

use std::time::Duration;

use super::oracle::Log;
use super::{at, cost, limits};
use crate::limit::{Admission, DIMENSIONS, Ledger, Limits, Settlement, Tick, Until, Usage};

/// Calls that ask, in one trace.
const STEPS: usize = 150_000;
/// Of this number of asks, one is looked at closely.
const SAMPLED: usize = 64;

/// A call in flight: what the log would have to say of it once it has ended.
struct InFlight {
    admission: Admission,
    input: u32,
    output: u32,
    ends: Tick,
}

/// A random trace with one ledger.
struct Trace {
    random: fastrand::Rng,
    ledger: Ledger,
    log: Log,
    limits: Limits,
    length: Duration,
    now: Tick,
    flying: Vec<InFlight>,
    admitted: usize,
    refused: usize,
    /// Refusals of calls that fit beside what had been charged and what was held.
    refused_too_soon: usize,
    /// The actual usage may exceed the estimate.
    overruns: bool,
}

impl Trace {
    fn new(seed: u64, limits: Limits, length: Duration, overruns: bool) -> Self {
        Self {
            random: fastrand::Rng::with_seed(seed),
            ledger: Ledger::default(),
            log: Log::default(),
            limits,
            length,
            now: at(1_000_000),
            flying: Vec::new(),
            admitted: 0,
            refused: 0,
            refused_too_soon: 0,
            overruns,
        }
    }

    fn run(&mut self, gap: Duration) {
        for _ in 0..STEPS {
            let nanos = self.random.u64(0..=2 * gap.as_nanos() as u64);
            self.now = self.now + Duration::from_nanos(nanos);
            self.end_calls();
            self.ask();
        }
    }

    /// Ends the calls whose time has come.
    fn end_calls(&mut self) {
        let (now, length) = (self.now, self.length);
        for index in (0..self.flying.len()).rev() {
            if self.flying[index].ends > now {
                continue;
            }
            let call = self.flying.swap_remove(index);
            let held = call.admission.cost().output.alone();
            let (mut input, mut output) = (call.input, call.output);
            let settlement = match self.random.u8(0..10) {
                0 => {
                    (input, output) = (0, 0);
                    Settlement::Failed
                }
                1 => {
                    (input, output) = (call.admission.cost().input_tokens, held);
                    Settlement::Ended(Usage::default())
                }
                _ => Settlement::Ended(Usage {
                    input_tokens: Some(input),
                    output_tokens: Some(output),
                }),
            };
            self.ledger
                .settle(now, length, &call.admission, &settlement);
            let estimate = call.admission.cost().input_tokens;
            let at_admission = [1, input.min(estimate), output.min(held)];
            self.log
                .add(call.admission.at, at_admission.map(u128::from));
            let debt = [
                0,
                input.saturating_sub(estimate),
                output.saturating_sub(held),
            ];
            self.log.add(now, debt.map(u128::from));
        }
    }

    /// What counts now, with what is held for calls in flight.
    fn used(&mut self) -> [u128; DIMENSIONS] {
        let mut sum = self.log.sum(self.now, self.length);
        for call in &self.flying {
            let counts = self.now < call.admission.at + self.length;
            sum[0] += u128::from(counts);
            sum[1] += u128::from(call.admission.cost().input_tokens) * u128::from(counts);
            sum[2] += u128::from(call.admission.cost().output.alone());
        }
        sum
    }

    fn ask(&mut self) {
        let estimate = self.random.u32(0..400);
        let hold = self.random.u32(0..300);
        let cost = cost(estimate, hold);
        let used = self.used();
        let caps = [
            self.limits.requests,
            self.limits.input_tokens,
            self.limits.output_tokens,
        ];
        let needed = [1, estimate, hold];
        let fits = |index: usize| {
            let sum = used[index] + u128::from(needed[index]);
            caps[index].is_none_or(|cap| sum <= cap.into())
        };
        let fits = (0..DIMENSIONS).all(fits);
        let is_sampled = self.random.usize(0..SAMPLED) == 0;
        let before = is_sampled.then(|| self.ledger.clone());
        match self
            .ledger
            .admit(self.now, self.length, &self.limits, &cost)
        {
            Ok(admission) => {
                assert!(fits, "{used:?} and {needed:?} exceed {:?}", self.limits);
                self.admitted += 1;
                let most = |estimate: u32| match self.overruns {
                    true => 2 * estimate + 1,
                    false => estimate + 1,
                };
                let lasts = self.length.mul_f64(self.random.f64() * self.random.f64());
                self.flying.push(InFlight {
                    admission,
                    input: self.random.u32(0..most(estimate)),
                    output: self.random.u32(0..most(hold)),
                    ends: self.now + lasts,
                });
            }
            Err(refusal) => {
                self.refused += 1;
                self.refused_too_soon += usize::from(fits);
                if let Some(before) = before {
                    self.check_refusal(before, &cost, refusal.until);
                }
            }
        }
    }

    /// A refusal changes nothing, and names the first moment at which the call fits.
    fn check_refusal(&self, mut before: Ledger, cost: &crate::limit::Cost, until: Until) {
        let totals = |ledger: &mut Ledger| ledger.remaining(self.now, self.length, &self.limits);
        let mut after = self.ledger.clone();
        assert_eq!(totals(&mut before), totals(&mut after));
        let (Until::At(tick) | Until::CallEnds(Some(tick))) = until else {
            panic!("every call fits into the empty window, {until:?}");
        };
        assert!(tick > self.now);
        // As if the calls in flight had just ended and used what is held for them.
        for call in &self.flying {
            let ended = Settlement::Ended(Usage::default());
            after.settle(self.now, self.length, &call.admission, &ended);
        }
        let then = after.admit(tick, self.length, &self.limits, cost);
        assert!(then.is_ok(), "{then:?} at {tick:?}");
    }
}

/// How often the seeds of a test change: 100 times with `KEYPOOL_LONG`, as `make test-full` sets it. That makes 10^8 asks.
#[expect(clippy::disallowed_methods, reason = "no part of the program")]
fn rounds() -> std::ops::Range<u64> {
    0..if std::env::var_os("KEYPOOL_LONG").is_some() {
        100
    } else {
        1
    }
}

fn trace_of_all_gaps(round: u64) {
    let window = Duration::from_secs(60);
    for (seed, gap_ms) in [(1, 5), (2, 60), (3, 400), (4, 3000), (5, 20_000)] {
        let seed = seed + 100 * round;
        let limits = limits(100, 20_000, 14_000);
        let mut trace = Trace::new(seed, limits, window, false);
        trace.run(Duration::from_millis(gap_ms));
        assert_eq!(trace.log.worst_excess(&limits, window), 0, "seed {seed}");
        assert!(trace.admitted > 500 && trace.admitted + trace.refused == STEPS);
        let too_soon = trace.refused_too_soon as f64 / STEPS as f64;
        assert!(too_soon < 0.01, "seed {seed}: {too_soon}");
    }
}

#[test]
fn random_traces_never_exceed_a_limit_and_use_nearly_all_of_it() {
    rounds().for_each(trace_of_all_gaps);
}

#[test]
fn overruns_keep_others_out_until_they_have_left_the_window() {
    let window = Duration::from_secs(10);
    let seeds = rounds().flat_map(|round| (10..14).map(move |seed| seed + 100 * round));
    for seed in seeds {
        // `ask` compares with the log, debts included, at each admission.
        let mut trace = Trace::new(seed, limits(50, 4_000, 3_000), window, true);
        trace.run(Duration::from_millis(50));
        assert!(trace.admitted > 100 && trace.refused > 100);
        assert!(
            trace.log.worst_excess(&trace.limits, window) > 0,
            "there were debts"
        );
    }
}
