//! Limits on what a caller or a key may use in every 60 seconds, wherever they begin.
//!
//! Pure: the time is passed in, and nothing waits here.

mod output_reservation;

pub use output_reservation::OutputReservation;

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
