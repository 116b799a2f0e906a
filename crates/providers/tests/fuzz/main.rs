//! Fuzz targets: whatever a client or a provider sends, it is read without a panic and correctly.
//!
//! Each target is a test on random inputs, and a fuzzer guided by coverage: `make fuzz TARGET=…`.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod answers;
mod calls;
mod json;
mod quota;
mod source;
mod streams;
mod usage;

/// Number of inputs for each target as a test.
#[cfg(not(fuzzing))]
const RUNS: usize = 100_000;
/// Maximum length of an input, in bytes.
#[cfg(not(fuzzing))]
const LONGEST: usize = 400;

/// Runs `check` on one input after another. A fuzzer chooses their number and length itself.
macro_rules! fuzz {
    ($check:expr) => {{
        let target = bolero::check!();
        #[cfg(not(fuzzing))]
        let target = {
            let inputs = bolero::produce::<Vec<u8>>().with().len(0..=crate::LONGEST);
            target.with_iterations(crate::RUNS).with_generator(inputs)
        };
        target.for_each(|input| $check(&mut crate::source::Source::new(input)))
    }};
}
use fuzz;
