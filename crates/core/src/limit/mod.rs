//! Limits on what a caller or a key may use in every 60 seconds, wherever they begin.
//!
//! A call is admitted with a reservation and settled once it has ended: [`Limiter`] and [`Reservation`] say how. The rules
//! are in [`Ledger`], which is pure: the time is passed in, and nothing waits.

mod estimates;
mod generations;
mod held;
mod ledger;
mod limiter;
mod output_reservation;
mod reservation;
mod window;

pub use self::estimates::{Estimates, ModelId, OutputOf};
pub use self::held::{Held, OutputHold};
pub use self::ledger::{
    Admission, Changes, Cost, Ledger, Refusal, Remaining, Settlement, Stored, Until,
};
pub use self::limiter::{Ask, IdHasher, LimitId, Limiter, Ready, Reserving};
pub use self::output_reservation::OutputReservation;
pub use self::reservation::Reservation;
pub use self::window::{DIMENSIONS, Tick};

use std::time::Duration;

#[cfg(test)]
mod tests;

/// The time over which limits hold.
pub const WINDOW: Duration = Duration::from_secs(60);

/// What is limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Dimension {
    /// Calls in the window.
    Requests,
    /// Input tokens in the window.
    InputTokens,
    /// Output tokens in the window.
    OutputTokens,
    /// Calls in flight.
    Concurrency,
}

impl Dimension {
    /// The stable name, as in errors and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::InputTokens => "input_tokens",
            Self::OutputTokens => "output_tokens",
            Self::Concurrency => "concurrency",
        }
    }
}

/// The limits of one caller or key; `None`: no limit. Each is at least 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Limits {
    /// `rpm`: calls in the window.
    pub requests: Option<u32>,
    /// `input_tpm`: input tokens in the window.
    pub input_tokens: Option<u32>,
    /// `output_tpm`: output tokens in the window.
    pub output_tokens: Option<u32>,
    /// `max_concurrent`: calls in flight.
    pub concurrent: Option<u32>,
}

impl Limits {
    /// Whether nothing is limited.
    pub fn is_unlimited(&self) -> bool {
        *self == Self::default()
    }

    /// The limit of one dimension.
    pub fn of(&self, dimension: Dimension) -> Option<u32> {
        match dimension {
            Dimension::Requests => self.requests,
            Dimension::InputTokens => self.input_tokens,
            Dimension::OutputTokens => self.output_tokens,
            Dimension::Concurrency => self.concurrent,
        }
    }

    /// One of `parts` equal shares, rounded down, but at least 1.
    #[must_use]
    pub fn share(&self, parts: u32) -> Self {
        let share = |limit: Option<u32>| limit.map(|limit| (limit / parts.max(1)).max(1));
        Self {
            requests: share(self.requests),
            input_tokens: share(self.input_tokens),
            output_tokens: share(self.output_tokens),
            concurrent: share(self.concurrent),
        }
    }

    /// Of each dimension the lower limit.
    #[must_use]
    pub fn lowest(&self, other: &Self) -> Self {
        let lower = |one: Option<u32>, other: Option<u32>| one.into_iter().chain(other).min();
        Self {
            requests: lower(self.requests, other.requests),
            input_tokens: lower(self.input_tokens, other.input_tokens),
            output_tokens: lower(self.output_tokens, other.output_tokens),
            concurrent: lower(self.concurrent, other.concurrent),
        }
    }

    /// Whether tokens are limited, so that they must be counted.
    pub fn count_tokens(&self) -> bool {
        self.input_tokens.is_some() || self.output_tokens.is_some()
    }
}

/// What a provider says that a call used, in tokens; `None`: it does not say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt, cached ones included.
    pub input_tokens: Option<u32>,
    /// Tokens that were produced, reasoning included.
    pub output_tokens: Option<u32>,
}
