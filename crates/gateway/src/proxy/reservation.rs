//! What a call reserves of its caller's limits, and how that is settled once it is known what became of the call.

use std::time::Duration;

use keypool_core::limit::{Ask, Cost, Dimension, LimitId, Settlement, Usage};

use super::inbound::{Call, Caller};
use super::log::RequestLog;
use crate::context::Gateway;
use crate::error::{GatewayError, Kind, in_whole_seconds};
use crate::limits::{CallReservation, NotAdmitted, Refused, WaitPolicy};
use crate::settings::{OnLimit, VirtualKeySettings};

/// What a call has reserved of its caller's limits; nothing for a caller without limits.
#[derive(Default)]
pub(crate) struct CallerReservation(Option<Box<CallReservation>>);

impl CallerReservation {
    /// Reserves what a call needs of its caller's limits.
    pub(super) async fn of(
        gw: &Gateway,
        call: &Call<'_>,
        caller: &Caller,
        log: &mut RequestLog,
    ) -> Result<Self, GatewayError> {
        let Some(key) = caller.limited_key() else {
            return Ok(Self::default());
        };
        let ask = Self::ask(gw, call, key);
        let reserved = match gw.limits.try_reserve(&ask) {
            Some(reserved) => Ok(reserved),
            // Boxed: it would make every request larger.
            None => Box::pin(Self::wait(gw, key, ask)).await,
        };
        log.set_rate_headers(gw.limits.headers(ask.id, &ask.limits));
        Ok(Self(Some(Box::new(reserved?))))
    }

    fn ask(gw: &Gateway, call: &Call<'_>, key: &VirtualKeySettings) -> Ask {
        let limits = &gw.limits;
        let (id, cost) = match &call.tokens {
            None => (LimitId::of_virtual_key(&key.name), Cost::REQUEST),
            Some(tokens) => {
                let reservation = key.output_reservation;
                let cost = tokens.cost(&limits.estimates, &key.limits, reservation);
                (tokens.caller, cost)
            }
        };
        Ask {
            id,
            limits: key.limits,
            cost,
        }
    }

    /// Waits for room if the key allows it, and for the store that counts.
    async fn wait(
        gw: &Gateway,
        key: &VirtualKeySettings,
        ask: Ask,
    ) -> Result<CallReservation, GatewayError> {
        let policy = match key.on_limit {
            OnLimit::Reject => WaitPolicy::BRIEF,
            OnLimit::Wait => WaitPolicy::up_to(key.limit_wait),
        };
        let reserved = gw.limits.reserve(&ask, policy).await;
        reserved.map_err(|why| match why {
            NotAdmitted::Refused(refused) => refusal(key, &ask.cost, &refused),
            NotAdmitted::QueueFull => queue_full(key),
        })
    }

    /// An attempt begins: from now on a provider may have the call. Returns how it would have been settled without that.
    pub(super) fn begin_attempt(&mut self) -> Settlement {
        self.settle_as(Settlement::Ended(Usage::default()))
    }

    /// An attempt has ended. `before`: how the call would have been settled without it.
    pub(super) fn end_attempt(&mut self, settlement: Option<Settlement>, before: Settlement) {
        match settlement {
            // As if there had been no attempt.
            Some(Settlement::NotSent) => _ = self.settle_as(before),
            Some(settlement) => _ = self.settle_as(settlement),
            None => {}
        }
    }

    /// The call has ended, and used this.
    pub(super) fn settle(&mut self, usage: Usage) {
        self.settle_as(Settlement::Ended(usage));
        self.0 = None;
    }

    /// The response was cut off, after this had been used. The provider may have gone on, so no less than what is held
    /// counts.
    pub(super) fn settle_cut(&mut self, so_far: Usage) {
        let Some(reserved) = &self.0 else {
            return;
        };
        let (input, held) = (
            reserved.room.cost().input_tokens,
            reserved.room.cost().output.alone(),
        );
        self.settle(Usage {
            input_tokens: so_far.input_tokens.filter(|tokens| *tokens > input),
            output_tokens: so_far.output_tokens.filter(|tokens| *tokens > held),
        });
    }

    fn settle_as(&mut self, settlement: Settlement) -> Settlement {
        let Some(reserved) = &mut self.0 else {
            return settlement;
        };
        let before = reserved.room.if_dropped();
        reserved.room.settle_when_dropped(settlement);
        before
    }
}

/// Too many calls of the caller wait already.
fn queue_full(key: &VirtualKeySettings) -> GatewayError {
    let message = format!(
        "too many requests of the virtual key \"{}\" wait for room under its limits: send fewer at once",
        key.name
    );
    GatewayError {
        retry_after: Some(Duration::from_secs(1)),
        ..GatewayError::new(Kind::QueueFull, message)
    }
}

/// Says which limit was exceeded, and what to do.
fn refusal(key: &VirtualKeySettings, cost: &Cost, refused: &Refused) -> GatewayError {
    let (name, limit, dimension) = (&key.name, refused.limit, refused.dimension);
    let what = match dimension {
        Dimension::Requests => "requests a minute",
        Dimension::InputTokens => "input tokens a minute",
        Dimension::OutputTokens => "output tokens a minute",
        Dimension::Concurrency => "requests at once",
    };
    let Some(retry_after) = refused.retry_after else {
        let (needs, advice) = match dimension {
            Dimension::OutputTokens => (
                cost.output.alone(),
                "lower its maximum of output tokens (max_tokens)",
            ),
            _ => (cost.input_tokens, "send a shorter one"),
        };
        let message = format!(
            "this request needs about {needs} tokens, and the virtual key \"{name}\" may use {limit} {what}, so it can never be served: {advice}, or ask the operator of this gateway for a higher limit"
        );
        return GatewayError {
            dont_retry: true,
            ..GatewayError::new(Kind::RequestExceedsLimit(dimension), message)
        };
    };
    let seconds = in_whole_seconds(retry_after);
    let message = match refused.is_store_gone {
        true => "this gateway cannot count the limits of its callers at the moment, because the store that counts does not respond: try again soon".to_owned(),
        false => format!(
        "the virtual key \"{name}\" may use {limit} {what}, and this request would exceed that: try again in {seconds} s"
    ),
    };
    GatewayError {
        retry_after: Some(retry_after.max(Duration::from_millis(1))),
        ..GatewayError::new(Kind::RateLimitExceeded(dimension), message)
    }
}
