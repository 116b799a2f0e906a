//! The use of one caller or key: what its window holds, and what its calls in flight hold beside it.
//!
//! All dimensions are decided together: a call that is refused leaves no trace.

use std::time::Duration;

use super::held::{Held, OutputHold};
use super::window::{Amounts, DIMENSIONS, Tick, Window};
use super::{Dimension, Limits, Usage};

/// The place of the output tokens among the dimensions of a window.
const OUTPUT: usize = 2;

/// What a call needs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cost {
    /// Estimated input tokens.
    pub input_tokens: u32,
    /// Expected output tokens.
    pub output: OutputHold,
}

/// A call that was admitted, as its ledger must know it to settle it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Admission {
    /// When it counts.
    pub at: Tick,
    /// What was charged and held.
    cost: Cost,
    /// The dimensions that were limited, and so are counted.
    counted: [bool; DIMENSIONS],
    /// Where a store that several nodes share counts it.
    pub stored: Stored,
}

/// Where a store that several nodes share counts a call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stored {
    /// Nowhere: there is no such store.
    #[default]
    Nowhere,
    /// At this time, in the store's own milliseconds.
    At(u64),
    /// Where this node's step of that number put it, which has told the store of the call or will.
    InStep(u32),
}

/// What the end of a call changes in the window: requests, input tokens, output tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Given back of what was charged at the admission.
    pub refund: [u32; DIMENSIONS],
    /// Charged at the time of the admission.
    pub charge: [u32; DIMENSIONS],
    /// Charged from now on: what nobody expected. It keeps others out until it has left the window.
    pub debt: [u32; DIMENSIONS],
}

/// Why a call was not admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What there is too little of.
    pub dimension: Dimension,
    /// The limit that would have been exceeded.
    pub limit: u32,
    /// When the same call will be admitted, if nobody else takes the room.
    pub until: Until,
    /// A call in flight may give room back before that.
    pub may_be_sooner: bool,
}

/// When a call that was refused will be admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// At this time.
    At(Tick),
    /// When calls in flight end, which may take any time. At the latest at this time, if they have ended by then; `None` if
    /// nothing tells.
    CallEnds(Option<Tick>),
    /// Never: it needs more than the whole limit.
    Never,
    /// When the store that counts responds again.
    StoreReturns,
}

/// How an admitted call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settlement {
    /// Nothing was sent to a provider: everything is given back.
    NotSent,
    /// It failed with an error status: its tokens are given back.
    Failed,
    /// It ended, or may have run: what is not known of its usage counts as estimated.
    Ended(Usage),
}

/// What a limit leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remaining {
    /// The limit.
    pub limit: u32,
    /// What could be used now.
    pub remaining: u32,
    /// When all of it will be there again, if nothing more is used.
    pub resets: Tick,
}

/// The use of one caller or key.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    window: Window,
    held: Held,
    /// When the newest call was admitted.
    newest: Tick,
}

impl Ledger {
    /// Admits a call, or says why not. `length`: of the window.
    pub fn admit(
        &mut self,
        now: Tick,
        length: Duration,
        limits: &Limits,
        cost: &Cost,
    ) -> Result<Admission, Refusal> {
        if let Some(refusal) = self.refusal(now, length, limits, cost) {
            return Err(refusal);
        }
        Ok(self.admit_anyway(now, length, limits, cost))
    }

    /// Counts a call that was admitted elsewhere.
    pub fn admit_anyway(
        &mut self,
        now: Tick,
        length: Duration,
        limits: &Limits,
        cost: &Cost,
    ) -> Admission {
        self.window.expire(now, length);
        let needed = [1, cost.input_tokens, 0];
        let counted = caps(limits).map(|cap| cap.is_some());
        let charged = std::array::from_fn(|dimension| match counted[dimension] {
            true => needed[dimension],
            false => 0,
        });
        self.held = self.held.with(&cost.output);
        let at = match charged == [0; DIMENSIONS] && !counted[OUTPUT] {
            true => now,
            false => self.window.charge(now, length, charged),
        };
        self.newest = self.newest.max(at);
        Admission {
            at,
            cost: *cost,
            counted,
            stored: Stored::Nowhere,
        }
    }

    /// Why a call would be refused; `None`: it would be admitted. Of several reasons, the one that lasts longest counts.
    pub fn refusal(
        &mut self,
        now: Tick,
        length: Duration,
        limits: &Limits,
        cost: &Cost,
    ) -> Option<Refusal> {
        self.window.expire(now, length);
        let caps = caps(limits);
        let held = self.held.with(&cost.output).tokens();
        let needed = [1, cost.input_tokens.into(), held];
        let alone = [1, cost.input_tokens, cost.output.alone()];
        let mut refusal: Option<Refusal> = None;
        if let Some(limit) = limits.concurrent.filter(|limit| self.held.calls >= *limit) {
            refusal = Some(Refusal {
                dimension: Dimension::Concurrency,
                limit,
                until: Until::CallEnds(None),
                may_be_sooner: true,
            });
        }
        for (index, dimension) in NAMES.into_iter().enumerate() {
            let Some(limit) = caps[index] else { continue };
            let excess = (self.window.totals()[index] + needed[index]).saturating_sub(limit.into());
            if excess == 0 {
                continue;
            }
            let until = match alone[index] > limit {
                true => Until::Never,
                false => match self.window.frees(index, excess, length) {
                    Some(tick) => Until::At(tick),
                    // What is held is in the way. Once those calls have ended, they count from their admission on.
                    None => Until::CallEnds(Some(self.newest + length)),
                },
            };
            let lasts_longer = refusal.is_none_or(|known| known.until.rank() < until.rank());
            if lasts_longer {
                refusal = Some(Refusal {
                    dimension,
                    limit,
                    until,
                    may_be_sooner: self.held.calls > 0,
                });
            }
        }
        refusal
    }

    /// Ends a call that was admitted.
    pub fn settle(
        &mut self,
        now: Tick,
        length: Duration,
        call: &Admission,
        settlement: &Settlement,
    ) {
        self.window.expire(now, length);
        self.held = self.held.without(&call.cost.output);
        let changes = call.changes(settlement);
        self.window.refund(call.at, changes.refund);
        self.window.charge_at(call.at, changes.charge);
        if changes.debt != [0; DIMENSIONS] {
            self.window.charge(now, length, changes.debt);
        }
    }

    /// What each limit leaves, for requests, input tokens and output tokens; `None` for a dimension without a limit.
    pub fn remaining(
        &mut self,
        now: Tick,
        length: Duration,
        limits: &Limits,
    ) -> [Option<Remaining>; DIMENSIONS] {
        self.window.expire(now, length);
        let held = [0, 0, self.held.tokens()];
        let totals = self.window.totals();
        let caps = caps(limits);
        std::array::from_fn(|index| {
            let limit = caps[index]?;
            let used = totals[index] + held[index];
            let resets = match held[index] > 0 {
                true => Some(self.newest + length),
                false => self.window.empties(index, length),
            };
            Some(Remaining {
                limit,
                remaining: u32::try_from(u64::from(limit).saturating_sub(used)).unwrap_or(limit),
                resets: resets.unwrap_or(now),
            })
        })
    }

    /// What counts in the window, the oldest first: the time of the last of some charges, and their sums of requests, input
    /// tokens and output tokens.
    pub fn charges(&mut self, now: Tick, length: Duration) -> Vec<(Tick, Amounts)> {
        self.window.expire(now, length);
        self.window.charges().collect()
    }

    /// Whether nothing counts any more, so that it can be forgotten.
    pub fn is_idle(&mut self, now: Tick, length: Duration) -> bool {
        self.window.expire(now, length);
        self.window.is_empty() && self.held.calls == 0
    }
}

/// The dimensions of the window, in its order.
const NAMES: [Dimension; DIMENSIONS] = [
    Dimension::Requests,
    Dimension::InputTokens,
    Dimension::OutputTokens,
];

fn caps(limits: &Limits) -> [Option<u32>; DIMENSIONS] {
    [limits.requests, limits.input_tokens, limits.output_tokens]
}

impl Cost {
    /// One request, and no tokens.
    pub const REQUEST: Self = Self {
        input_tokens: 0,
        output: OutputHold::NONE,
    };
}

impl Default for Cost {
    fn default() -> Self {
        Self::REQUEST
    }
}

impl Admission {
    /// What was charged and held.
    pub fn cost(&self) -> &Cost {
        &self.cost
    }

    /// What the end of the call changes.
    pub fn changes(&self, settlement: &Settlement) -> Changes {
        let estimate = self.cost.input_tokens;
        let Settlement::Ended(usage) = settlement else {
            let requests = u32::from(*settlement == Settlement::NotSent);
            return Changes {
                refund: self.counted([requests, estimate, 0]),
                ..Changes::default()
            };
        };
        let input = usage.input_tokens.unwrap_or(estimate);
        let expected = self.cost.output.alone();
        let output = usage.output_tokens.unwrap_or(expected);
        let debt = [
            0,
            input.saturating_sub(estimate),
            output.saturating_sub(expected),
        ];
        Changes {
            refund: self.counted([0, estimate.saturating_sub(input), 0]),
            charge: self.counted([0, 0, output.min(expected)]),
            debt: self.counted(debt),
        }
    }

    /// The amounts of the dimensions that are counted.
    fn counted(&self, amounts: Amounts) -> Amounts {
        std::array::from_fn(|dimension| match self.counted[dimension] {
            true => amounts[dimension],
            false => 0,
        })
    }
}

impl Until {
    /// Orders by how long to wait.
    fn rank(self) -> u64 {
        match self {
            Self::CallEnds(None) => 0,
            Self::At(tick) | Self::CallEnds(Some(tick)) => tick.0,
            Self::Never | Self::StoreReturns => u64::MAX,
        }
    }
}
