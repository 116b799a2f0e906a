//! What calls are expected to use, learned from what calls before them used.
//!
//! Output: the mean and variance of the lengths of a caller's answers from a model. Two averages are kept, one over about
//! eight calls and one over about 64, and the larger counts: answers that become longer are held for at once, and answers
//! that become shorter only once that has lasted.
//!
//! Input: how far the first guess from the request's text is off, for each model and kind of text.

use parking_lot::Mutex;

use super::LimitId;
use super::generations::Generations;
use super::held::OutputHold;
use crate::hash;

/// Maximum number of callers' models, and of models, that are remembered.
const MAX_REMEMBERED: usize = 10_000;
/// Share of a new length in the average that follows at once.
const FAST: f64 = 1.0 / 8.0;
/// Share of a new length in the average that lasts.
const SLOW: f64 = 1.0 / 64.0;
/// Share of a new ratio in the correction of input estimates.
const CORRECTION: f64 = 1.0 / 32.0;
/// Guesses below this say little: what a provider adds to each call weighs more.
const TELLING_GUESS: u32 = 64;
/// A guess is corrected by at most this factor, so that no caller can spoil the estimates of others.
const MAX_CORRECTION: f64 = 4.0;
/// Length that is expected of a model that nobody has called, in tokens. A guess that is too low is a debt, one that is too
/// high keeps callers with low limits out.
const UNKNOWN: f64 = 256.0;
/// Share of the limit that is expected if that is less, so that such a caller can make several calls at once.
const UNKNOWN_SHARE: f64 = 1.0 / 16.0;
/// Number of calls that weigh as much as the guess.
const GUESS_WEIGHT: f64 = 2.0;

/// A model, as [`Estimates::model`] names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModelId(u64);

/// A call whose output is to be expected.
#[derive(Clone, Copy, Debug)]
pub struct OutputOf {
    /// Who calls.
    pub caller: LimitId,
    /// The model that is called.
    pub model: ModelId,
    /// What the call cannot exceed, such as its `max_tokens`; `None` if it does not say.
    pub max: Option<u32>,
    /// The caller's limit; `None` if there is none.
    pub limit: Option<u32>,
}

/// What calls are expected to use.
pub struct Estimates {
    /// Random, so that nobody can choose models whose names have the same hash.
    seed: u64,
    outputs: Mutex<Generations<Lengths>>,
    inputs: Mutex<Generations<Ratio>>,
}

/// Mean and variance of lengths, by two exponentially weighted averages.
#[derive(Clone, Copy, Debug, Default)]
struct Lengths {
    calls: u32,
    fast: Average,
    slow: Average,
}

#[derive(Clone, Copy, Debug, Default)]
struct Average {
    mean: f64,
    variance: f64,
}

/// By what factor guesses are too low: the mean of its logarithm.
#[derive(Clone, Copy, Debug, Default)]
struct Ratio {
    calls: u32,
    log: f64,
}

impl Average {
    /// Exponentially weighted mean and variance (T. Finch, "Incremental calculation of weighted mean and variance", 2009).
    fn add(&mut self, value: f64, share: f64) {
        let difference = value - self.mean;
        self.mean += share * difference;
        self.variance = (1.0 - share) * (self.variance + share * difference * difference);
    }
}

impl Lengths {
    fn add(&mut self, tokens: u32) {
        self.calls = self.calls.saturating_add(1);
        let at_first = 1.0 / f64::from(self.calls);
        self.fast.add(tokens.into(), FAST.max(at_first));
        self.slow.add(tokens.into(), SLOW.max(at_first));
    }

    /// `guess`: the mean and the deviation of calls of which nothing is known.
    fn hold(&self, guess: f64, max: u32) -> OutputHold {
        let share = GUESS_WEIGHT / (GUESS_WEIGHT + f64::from(self.calls));
        let blended = |known: f64, guess: f64| known + share * (guess - known);
        // A few calls say little of how far others stray.
        let doubt = 1.0 + 4.0 / f64::from(self.calls.max(1));
        let variance = self.fast.variance.max(self.slow.variance) * doubt;
        OutputHold {
            mean: blended(self.fast.mean.max(self.slow.mean), guess).min(max.into()),
            variance: blended(variance, guess * guess),
            max,
        }
    }
}

impl Default for Estimates {
    fn default() -> Self {
        Self {
            seed: fastrand::u64(..),
            outputs: Mutex::default(),
            inputs: Mutex::default(),
        }
    }
}

impl Estimates {
    /// The model that callers name so.
    pub fn model(&self, name: &str) -> ModelId {
        ModelId(hash::bytes(self.seed, name.as_bytes()))
    }

    /// What a call is expected to produce: as this caller's calls did, or else as all calls of the model.
    pub fn output(&self, call: &OutputOf) -> OutputHold {
        let limit = call.limit.unwrap_or(u32::MAX);
        let max = call.max.unwrap_or(u32::MAX).min(limit);
        let guess = UNKNOWN
            .min(f64::from(limit) * UNKNOWN_SHARE)
            .min(max.into());
        let outputs = self.outputs.lock();
        let known = outputs
            .get(call.name())
            .or_else(|| outputs.get(call.model.0))
            .copied();
        drop(outputs);
        known.unwrap_or_default().hold(guess, max)
    }

    /// Learns what a call produced.
    pub fn note_output(&self, call: &OutputOf, tokens: u32) {
        let mut outputs = self.outputs.lock();
        for name in [call.name(), call.model.0] {
            outputs.entry(name, MAX_REMEMBERED).add(tokens);
        }
    }

    /// The input tokens that a call is expected to have. `kind`: of text, since each is off by a factor of its own.
    pub fn input(&self, model: ModelId, kind: u8, guess: u32) -> u32 {
        let known = self.inputs.lock().get(model.of_kind(kind)).copied();
        let factor = known.map_or(1.0, |known| known.log.exp());
        // A float beyond the largest number becomes the largest number.
        (f64::from(guess) * factor).ceil() as u32
    }

    /// Learns how many input tokens a call had.
    pub fn note_input(&self, model: ModelId, kind: u8, guess: u32, tokens: u32) {
        if guess < TELLING_GUESS || tokens == 0 {
            return;
        }
        let mut inputs = self.inputs.lock();
        let known = inputs.entry(model.of_kind(kind), MAX_REMEMBERED);
        known.calls = known.calls.saturating_add(1);
        let share = CORRECTION.max(1.0 / f64::from(known.calls));
        let most = MAX_CORRECTION.ln();
        let log = (f64::from(tokens) / f64::from(guess))
            .ln()
            .clamp(-most, most);
        known.log += share * (log - known.log);
    }
}

impl ModelId {
    /// Names a kind of text for the model.
    fn of_kind(self, kind: u8) -> u64 {
        hash::scatter(self.0 ^ u64::from(kind))
    }
}

impl OutputOf {
    /// Names the caller's calls of the model. Those that allow answers of similar length are alike.
    fn name(&self) -> u64 {
        let class = self.max.map_or(33, |max| max.max(1).ilog2());
        let caller = self.caller.0 as u64 ^ u64::from(class);
        hash::scatter(self.model.0 ^ hash::scatter(caller))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limit::held::Held;

    const CALL: OutputOf = OutputOf {
        caller: LimitId(1),
        model: ModelId(7),
        max: Some(4096),
        limit: None,
    };
    /// Calls in flight.
    const IN_FLIGHT: usize = 20;

    /// Random lengths as answers have them: lognormal, from 1 to 4,096.
    struct Answers {
        random: fastrand::Rng,
        location: f64,
        scale: f64,
    }

    impl Answers {
        fn new(seed: u64, mean: f64, deviation: f64) -> Self {
            let variance = (1.0 + (deviation / mean).powi(2)).ln();
            Self {
                random: fastrand::Rng::with_seed(seed),
                location: mean.ln() - variance / 2.0,
                scale: variance.sqrt(),
            }
        }

        fn next(&mut self) -> u32 {
            // Box and Muller's normal numbers.
            let radius = (-2.0 * (1.0 - self.random.f64()).ln()).sqrt();
            let normal = radius * (std::f64::consts::TAU * self.random.f64()).cos();
            let length = (self.location + self.scale * normal).exp();
            (length as u32).clamp(1, 4096)
        }
    }

    /// Twenty calls in flight, one after the other replaced at random.
    struct Flight {
        estimates: Estimates,
        calls: Vec<(u32, OutputHold)>,
        random: fastrand::Rng,
    }

    impl Flight {
        fn new(seed: u64) -> Self {
            Self {
                estimates: Estimates::default(),
                calls: Vec::new(),
                random: fastrand::Rng::with_seed(seed),
            }
        }

        /// Adds a call, and returns what is held and what all calls in flight will produce.
        fn step(&mut self, length: u32) -> (u64, u64) {
            self.calls.push((length, self.estimates.output(&CALL)));
            if self.calls.len() > IN_FLIGHT {
                let ended = self.random.usize(0..self.calls.len());
                let (length, _) = self.calls.swap_remove(ended);
                self.estimates.note_output(&CALL, length);
            }
            let held = self
                .calls
                .iter()
                .fold(Held::default(), |held, (_, call)| held.with(call));
            let produced = self
                .calls
                .iter()
                .map(|(length, _)| u64::from(*length))
                .sum();
            (held.tokens(), produced)
        }
    }

    #[test]
    fn holds_cover_what_is_produced_without_waste() {
        for seed in 1..4 {
            let (mut flight, mut answers) = (Flight::new(seed), Answers::new(seed, 399.0, 481.0));
            (0..200).for_each(|_| _ = flight.step(answers.next()));
            let (mut held, mut produced, mut in_debt) = (0, 0, 0);
            const STEPS: usize = 40_000;
            for _ in 0..STEPS {
                let (holds, produces) = flight.step(answers.next());
                held += holds;
                produced += produces;
                in_debt += usize::from(produces > holds);
            }
            let waste = held as f64 / produced as f64;
            assert!(waste <= 2.5, "{waste}");
            let share = in_debt as f64 / STEPS as f64;
            assert!(share < 0.005, "{share}");
        }
    }

    #[test]
    fn longer_answers_are_learned_within_fifty_calls() {
        let mut last = 0;
        const SEEDS: u64 = 20;
        for seed in 0..SEEDS {
            let mut flight = Flight::new(seed);
            let (mut short, mut long) = (
                Answers::new(seed, 399.0, 481.0),
                Answers::new(seed, 1500.0, 900.0),
            );
            (0..1000).for_each(|_| _ = flight.step(short.next()));
            // The first twenty are in flight before any of them has ended.
            for call in 0..(IN_FLIGHT as u64 + 100) {
                let (holds, produces) = flight.step(long.next());
                if produces > holds {
                    last += call.saturating_sub(IN_FLIGHT as u64).saturating_sub(50);
                }
            }
        }
        assert!(last <= SEEDS, "debts after fifty calls: {last}");
    }

    #[test]
    fn a_caller_is_learned_apart_from_others_of_the_model() {
        let estimates = Estimates::default();
        let other = OutputOf {
            caller: LimitId(2),
            ..CALL
        };
        assert_eq!(estimates.output(&CALL).alone(), 5 * 256, "nothing is known");
        let low = OutputOf {
            limit: Some(1600),
            ..CALL
        };
        assert_eq!(
            estimates.output(&low).alone(),
            5 * 100,
            "a share of the limit"
        );
        (0..1000).for_each(|_| estimates.note_output(&CALL, 50));
        assert!(estimates.output(&CALL).alone() < 110);
        assert!(
            estimates.output(&other).alone() < 110,
            "as others of the model"
        );
        (0..1000).for_each(|_| estimates.note_output(&other, 500));
        assert!(estimates.output(&CALL).alone() < 110);
        assert!(estimates.output(&other).alone() >= 500);
    }

    #[test]
    fn no_more_is_expected_than_the_call_allows() {
        let estimates = Estimates::default();
        let small = OutputOf {
            max: Some(10),
            ..CALL
        };
        assert_eq!(estimates.output(&small).alone(), 10);
        (0..9).for_each(|_| estimates.note_output(&small, 1000));
        assert_eq!(estimates.output(&small).alone(), 10);
        let none = OutputOf {
            max: Some(0),
            ..CALL
        };
        assert_eq!(estimates.output(&none).alone(), 0);
    }

    #[test]
    fn input_estimates_are_corrected_by_model_and_kind() {
        let estimates = Estimates::default();
        let [m, other] = ["m", "other"].map(|name| estimates.model(name));
        assert_eq!(estimates.input(m, 0, 100), 100);
        for n in 0..20 {
            estimates.note_input(m, 0, 100, 140 + n % 3);
            estimates.note_input(m, 1, 100, 50);
        }
        assert!((138..=145).contains(&estimates.input(m, 0, 100)));
        assert_eq!(estimates.input(m, 1, 1000), 500);
        assert_eq!(estimates.input(other, 0, 100), 100);
        estimates.note_input(m, 0, 1, u32::MAX);
        estimates.note_input(m, 0, 0, 7);
        assert!(estimates.input(m, 0, u32::MAX) > 0, "no overflow");
    }
}
