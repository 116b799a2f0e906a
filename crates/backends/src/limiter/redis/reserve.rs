//! `scripts/reserve/` with types: what a node tells Redis about one caller or key, and what Redis decides.
//!
//! Times are Redis's, in milliseconds since 1970. They are compared with each other only.

use std::time::Duration;

use keypool_core::limit::{Cost, DIMENSIONS, Dimension, Held, LimitId, Limits};

use super::client::RedisClient;
use super::error::RedisError;
use super::script::Script;

/// Maximum number of calls that one [`NodeCall`] asks about.
pub const MAX_DECISIONS: usize = 32;

/// The script.
#[derive(Clone, Debug)]
pub struct Reserve(Script);

/// One step: settlements of earlier calls, then decisions about others, in their order.
#[derive(Clone, Debug)]
pub struct NodeCall<'a> {
    /// Who or what is limited.
    pub id: LimitId,
    /// Length of the window; at least a millisecond.
    pub length: Duration,
    /// The limits that hold now.
    pub limits: Limits,
    /// A number that no other process uses.
    pub node: u32,
    /// The number of this step among the node's steps for this id, from 1. Sent again with the same number, it counts once.
    pub seq: u32,
    /// How long Redis keeps what the node holds, unless it hears from the node again.
    pub record_ttl: Duration,
    /// What the node's calls in flight hold, without those that are decided here.
    pub held: Held,
    /// The number of the newest step that was confirmed, if anything of the node may still count; else 0. If Redis does not
    /// know of it, nothing is done: see [`NodeReply::is_lost`].
    pub confirmed: u32,
    /// What is known of all nodes.
    pub knows: Known,
    /// What the node wants to be lent.
    pub wants: Wants,
    /// What Redis does not know of.
    pub report: Report<'a>,
    /// Ends of earlier calls.
    pub settlements: &'a [Correction],
    /// Calls to decide about, at most [`MAX_DECISIONS`].
    pub calls: &'a [Cost],
}

/// What a node knows of all nodes that share the limits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// Number of nodes.
    pub nodes: u32,
    /// Since when each of them has told all that it uses.
    pub told_since_ms: u64,
    /// When Redis lost data, if not all nodes have told it what they use since; else 0. What has not been used since then may
    /// be lost.
    pub lost_ms: u64,
    /// How long nodes have to tell what they use after a loss. Nothing is admitted in that time before all have.
    pub patience: Duration,
}

/// The calls that a node expects, and wants to admit by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Wants {
    /// Number of calls expected in one length of the window; 0: nothing is to be lent.
    pub requests: f64,
    /// Input tokens of each.
    pub input: f64,
    /// Output tokens of each: mean, variance, maximum.
    pub output: [f64; 3],
}

/// What Redis lends a node. It counts as used until the node's next step, or until it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// How long it can be used, from the time at which the step was sent.
    pub length: Duration,
    /// Requests, input tokens, output tokens; 0 where nothing is limited.
    pub amounts: [u32; DIMENSIONS],
    /// Calls in flight.
    pub calls: u32,
}

/// What a node tells of charges that Redis does not have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report<'a> {
    /// Whether it is all that the node has used, because Redis has lost it. Otherwise it is added.
    pub is_all: bool,
    /// The oldest first.
    pub charges: &'a [Charge],
}

/// What a node admitted at one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Charge {
    /// How long ago.
    pub age: Duration,
    /// Requests, input tokens, output tokens.
    pub amounts: [u32; DIMENSIONS],
}

/// What the end of a call changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Correction {
    /// When the call was admitted, as Redis said.
    pub at_ms: u64,
    /// Added to what was charged then: requests, input tokens, output tokens. Negative: given back.
    pub then: [i64; DIMENSIONS],
    /// Charged now, even past the limit: input tokens, output tokens.
    pub debt: [u32; 2],
}

/// What Redis says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeReply {
    /// Redis's time of the decision.
    pub now_ms: u64,
    /// Whether Redis had received this step before. What it admitted then is admitted; nothing else is.
    pub is_repetition: bool,
    /// Redis does not know of a step that it had confirmed. It has done nothing: the step must be sent again, with a
    /// [`Report`] of all that the node has used.
    pub is_lost: bool,
    /// Used in the window by all nodes after this step, and what other nodes were lent.
    pub used: [u64; DIMENSIONS],
    /// Output tokens held for calls in flight of all nodes.
    pub held_output: u64,
    /// Calls in flight of all nodes.
    pub calls: u64,
    /// When everything that is used in a dimension will have left the window; `None`: nothing is used.
    pub empty_at_ms: [Option<u64>; DIMENSIONS],
    /// When this step was received first.
    pub received_ms: u64,
    /// A call was refused while other nodes have leases, which they must return.
    pub is_recall: bool,
    /// What the node was lent.
    pub grant: Option<Grant>,
    /// One for each call, in their order.
    pub decisions: Vec<Decision>,
}

/// About one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It counts at this time. It is among what the node holds until the node states that without it.
    Admitted {
        /// For [`Correction::at_ms`].
        at_ms: u64,
    },
    /// It left no trace.
    Refused {
        /// What there is too little of; of several, what lasts longest.
        dimension: Dimension,
        /// When the same call will be admitted, if nobody else takes the room.
        until: RefusedUntil,
    },
}

/// When a call that was refused will be admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusedUntil {
    /// At this time.
    At(u64),
    /// When calls in flight end. At the latest at this time, if they have ended by then; `None` if nothing tells.
    CallEnds(Option<u64>),
    /// Never: it needs more than the whole limit.
    Never,
}

impl Default for Reserve {
    fn default() -> Self {
        // One script: each part uses those before it.
        Self(Script::new(concat!(
            include_str!("scripts/reserve/arguments.lua"),
            include_str!("scripts/reserve/value.lua"),
            include_str!("scripts/reserve/charges.lua"),
            include_str!("scripts/reserve/records.lua"),
            include_str!("scripts/reserve/decide.lua"),
            include_str!("scripts/reserve/step.lua"),
        )))
    }
}

impl Reserve {
    /// Sends one step, and may be called again with the same step after any error.
    ///
    /// # Errors
    /// As [`RedisClient::run`]. Error `redis_unexpected` also if the node has made a later step for this id.
    pub async fn step(
        &self,
        redis: &RedisClient,
        call: &NodeCall<'_>,
    ) -> Result<NodeReply, RedisError> {
        let args = call.args();
        let args: Vec<&[u8]> = args.iter().map(String::as_bytes).collect();
        let key = key(call.id);
        let reply: Vec<i64> = redis.run(&self.0, &[key.as_bytes()], &args).await?;
        read(&reply).ok_or_else(|| RedisError::Unexpected {
            detail: format!("a reply of {} numbers", reply.len()),
        })
    }
}

/// The key of an id. Its braces make it the hash tag, so that whatever is kept of an id is in one slot of a cluster.
pub(super) fn key(id: LimitId) -> String {
    format!("kp:{{{:032x}}}", id.0)
}

impl NodeCall<'_> {
    fn args(&self) -> Vec<String> {
        let limits = [
            self.limits.requests,
            self.limits.input_tokens,
            self.limits.output_tokens,
            self.limits.concurrent,
        ];
        let mut args = vec![self.length.as_millis().to_string()];
        args.extend(limits.map(|limit| limit.map_or(-1, i64::from).to_string()));
        args.extend([self.node.to_string(), self.seq.to_string()]);
        args.push(self.record_ttl.as_millis().to_string());
        let Held {
            calls,
            mean,
            variance,
            max,
        } = self.held;
        args.extend([
            calls.to_string(),
            mean.to_string(),
            variance.to_string(),
            max.to_string(),
        ]);
        let knows = &self.knows;
        args.extend([self.confirmed.to_string(), knows.nodes.to_string()]);
        args.push(knows.told_since_ms.to_string());
        args.push(knows.lost_ms.to_string());
        args.push(knows.patience.as_millis().to_string());
        args.push(u8::from(self.report.is_all).to_string());
        let Wants {
            requests,
            input,
            output: [mean, variance, max],
        } = self.wants;
        args.extend([requests, input, mean, variance, max].map(|amount| amount.to_string()));
        args.push(self.report.charges.len().to_string());
        for charge in self.report.charges {
            args.push(charge.age.as_millis().to_string());
            args.extend(charge.amounts.map(|amount| amount.to_string()));
        }
        args.push(self.settlements.len().to_string());
        for settlement in self.settlements {
            args.push(settlement.at_ms.to_string());
            args.extend(settlement.then.map(|amount| amount.to_string()));
            args.extend(settlement.debt.map(|amount| amount.to_string()));
        }
        for call in self.calls.iter().take(MAX_DECISIONS) {
            args.push(call.input_tokens.to_string());
            args.extend([
                call.output.mean.to_string(),
                call.output.variance.to_string(),
            ]);
            args.push(call.output.max.to_string());
        }
        args
    }
}

/// Number of facts in a reply, before the decisions.
const FACTS: usize = 17;

fn read(reply: &[i64]) -> Option<NodeReply> {
    let (facts, decisions) = reply.split_first_chunk::<FACTS>()?;
    if facts.iter().any(|fact| *fact < 0) {
        return None;
    }
    let facts = facts.map(i64::unsigned_abs);
    let at = |time: u64| (time > 0).then_some(time);
    let amount = |fact: u64| u32::try_from(fact).ok();
    let decisions = decisions.chunks(3).map(decision).collect::<Option<_>>()?;
    Some(NodeReply {
        now_ms: facts[0],
        is_repetition: facts[1] == 1,
        is_lost: facts[1] == 2,
        used: [facts[2], facts[3], facts[4]],
        held_output: facts[5],
        calls: facts[6],
        empty_at_ms: [at(facts[7]), at(facts[8]), at(facts[9])],
        received_ms: facts[10],
        is_recall: facts[11] == 1,
        grant: match facts[12] {
            0 => None,
            length => Some(Grant {
                length: Duration::from_millis(length),
                amounts: [amount(facts[13])?, amount(facts[14])?, amount(facts[15])?],
                calls: amount(facts[16])?,
            }),
        },
        decisions,
    })
}

fn decision(numbers: &[i64]) -> Option<Decision> {
    let [dimension, kind, time] = *numbers else {
        return None;
    };
    let time = u64::try_from(time).ok();
    let dimension = match dimension {
        0 => return Some(Decision::Admitted { at_ms: time? }),
        1 => Dimension::Requests,
        2 => Dimension::InputTokens,
        3 => Dimension::OutputTokens,
        4 => Dimension::Concurrency,
        _ => return None,
    };
    let until = match kind {
        0 => RefusedUntil::At(time?),
        1 => RefusedUntil::CallEnds(time),
        2 => RefusedUntil::Never,
        _ => return None,
    };
    Some(Decision::Refused { dimension, until })
}
