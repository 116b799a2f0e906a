//! Output tokens held for calls in flight, pooled: the more calls, the less their sum strays from its mean.
//!
//! For independent lengths, variances add up, so a sum of `n` calls stays below its mean plus four standard deviations of
//! the *sum* in all but about one of a thousand cases, although a single call often does not.

/// Number of standard deviations of the sum that are held beside its mean.
const DEVIATIONS: f64 = 4.0;

/// What one call is expected to produce, in output tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OutputHold {
    /// The mean of what such calls produced.
    pub mean: f64,
    /// The variance of the same.
    pub variance: f64,
    /// What it cannot exceed, such as the call's `max_tokens`; `u32::MAX` if that is not known.
    pub max: u32,
}

impl OutputHold {
    /// For calls that produce no tokens.
    pub const NONE: Self = Self {
        mean: 0.0,
        variance: 0.0,
        max: 0,
    };

    /// Holds exactly this many tokens.
    pub fn exactly(tokens: u32) -> Self {
        Self {
            mean: tokens.into(),
            variance: 0.0,
            max: tokens,
        }
    }

    /// The same for a call that cannot produce more than `tokens`.
    #[must_use]
    pub fn at_most(self, tokens: u32) -> Self {
        let most = f64::from(tokens);
        Self {
            mean: self.mean.min(most),
            // No number from 0 to `most` strays further (Popoviciu's inequality). A huge variance would leave rounding errors
            // in the sum behind.
            variance: self.variance.min(most * most / 4.0),
            max: self.max.min(tokens),
        }
    }

    /// What is held for the call if it is the only one.
    pub fn alone(&self) -> u32 {
        let held = Held::default().with(self).tokens();
        u32::try_from(held).unwrap_or(u32::MAX)
    }
}

/// The sum of the holds of all calls in flight.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Held {
    /// Number of calls.
    pub calls: u32,
    /// Sum of the means of their output tokens.
    pub mean: f64,
    /// Sum of the variances.
    pub variance: f64,
    /// Sum of the maxima.
    pub max: u64,
}

impl Held {
    /// The sum with one more call.
    #[must_use]
    pub fn with(&self, call: &OutputHold) -> Self {
        Self {
            calls: self.calls + 1,
            mean: self.mean + call.mean,
            variance: self.variance + call.variance,
            max: self.max + u64::from(call.max),
        }
    }

    /// The sum without a call that was added before.
    #[must_use]
    pub fn without(&self, call: &OutputHold) -> Self {
        match self.calls {
            // Rounding errors end with the last call.
            0 | 1 => Self::default(),
            calls => Self {
                calls: calls - 1,
                mean: (self.mean - call.mean).max(0.0),
                variance: (self.variance - call.variance).max(0.0),
                max: self.max.saturating_sub(call.max.into()),
            },
        }
    }

    /// Number of tokens that are held.
    pub fn tokens(&self) -> u64 {
        let pooled = self.mean + DEVIATIONS * self.variance.sqrt();
        (pooled.ceil() as u64).min(self.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_calls_hold_less_each() {
        let call = OutputHold {
            mean: 400.0,
            variance: 480.0 * 480.0,
            max: 4096,
        };
        let held = |calls| (0..calls).fold(Held::default(), |held, _| held.with(&call));
        assert_eq!(call.alone(), 400 + 4 * 480);
        assert_eq!(held(20).tokens(), 20 * 400 + 8587);
        assert!(held(100).tokens() < 100 * 600);
        assert_eq!(held(0).tokens(), 0);
    }

    #[test]
    fn no_more_is_held_than_the_calls_can_produce() {
        let wide = OutputHold {
            mean: 50.0,
            variance: 1e6,
            max: 100,
        };
        assert_eq!(wide.alone(), 100);
        assert_eq!(Held::default().with(&wide).with(&wide).tokens(), 200);
        assert_eq!(OutputHold::exactly(4096).alone(), 4096);
        assert_eq!(OutputHold::NONE.alone(), 0);
    }

    #[test]
    fn a_call_of_absurd_size_leaves_no_rounding_errors_behind() {
        let usual = OutputHold {
            mean: 400.0,
            variance: 480.0 * 480.0,
            max: 4096,
        };
        let absurd = OutputHold {
            mean: 1e12,
            variance: 1e24,
            max: u32::MAX,
        };
        let held = Held::default().with(&usual);
        let absurd = absurd.at_most(100_000);
        assert_eq!(absurd.alone(), 100_000);
        assert_eq!(held.with(&absurd).without(&absurd).tokens(), held.tokens());
    }

    #[test]
    fn holds_given_back_leave_nothing_behind() {
        let calls: Vec<_> = (1..50)
            .map(|n| OutputHold {
                mean: f64::from(n) * 0.1,
                variance: f64::from(n) * 0.3,
                max: n,
            })
            .collect();
        let all = calls
            .iter()
            .fold(Held::default(), |held, call| held.with(call));
        let none = calls.iter().fold(all, |held, call| held.without(call));
        assert_eq!(none, Held::default());
        assert_eq!(none.without(&calls[0]), Held::default());
    }
}
