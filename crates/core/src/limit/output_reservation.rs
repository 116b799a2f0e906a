//! How many output tokens a call holds before its response tells how many it used.

/// `output_reservation`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum OutputReservation {
    /// What calls of this caller usually produce, and never more than `max_tokens`. What a call produces beyond that is
    /// charged when it ends, also past the limit.
    #[default]
    Learned,
    /// `max_tokens` of the call. No call can produce more than it holds.
    MaxTokens,
}

impl OutputReservation {
    /// The name in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Learned => "learned",
            Self::MaxTokens => "max_tokens",
        }
    }
}
