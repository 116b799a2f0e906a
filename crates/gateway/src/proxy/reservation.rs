//! What a call reserves of its caller's limits, and how that is settled once it is known what became of the call.

use std::sync::Arc;
use std::time::Duration;

use keypool_core::limit::{
    Ask, Cost, LimitId, OutputHold, OutputOf, OutputReservation, Settlement, Usage,
};
use keypool_providers::dialect::Dialect;
use keypool_providers::response::StreamKind;
use keypool_providers::usage::{self, InputGuess};

use super::attempt::{AttemptResult, Failure};
use super::inbound::Call;
use super::log::RequestLog;
use crate::context::Gateway;
use crate::error::{GatewayError, Kind, in_whole_seconds};
use crate::limits::{CallReservation, CallerLimits, Patience, Refused};
use crate::settings::{OnLimit, VirtualKeySettings};

/// What a call has reserved of its caller's limits; nothing for a caller without limits.
#[derive(Default)]
pub(crate) struct CallerReservation(Option<Box<Reserved>>);

struct Reserved {
    limits: Arc<CallerLimits>,
    caller: LimitId,
    room: CallReservation,
    /// `None` if no tokens are counted.
    tokens: Option<TokenGuess>,
}

/// What was guessed before the call, to learn from what it really used.
struct TokenGuess {
    model: Box<str>,
    input: u32,
    kind: u8,
    max_output: Option<u32>,
    /// Calls of the endpoint produce tokens.
    produces: bool,
}

impl TokenGuess {
    fn of(call: &Call<'_>, dialect: &Dialect) -> Self {
        let (protocol, path) = (call.protocol(), call.path());
        let guess = InputGuess::of(protocol, path, call.body(), dialect.image_rule);
        let fields = &call.fields;
        let choices = fields.choices.unwrap_or(1).max(1);
        let max = fields
            .max_output_tokens
            .map(|max| max.saturating_mul(choices));
        Self {
            model: call.model_name().unwrap_or_default().into(),
            input: guess.tokens.ceil() as u32,
            kind: guess.kind as u8,
            max_output: max.map(|max| u32::try_from(max).unwrap_or(u32::MAX)),
            produces: StreamKind::of(protocol, path).is_some(),
        }
    }

    fn output_of(&self, caller: LimitId) -> OutputOf<'_> {
        OutputOf {
            caller,
            model: &self.model,
            max: self.max_output,
        }
    }

    fn cost(&self, limits: &CallerLimits, caller: LimitId, key: &VirtualKeySettings) -> Cost {
        let estimates = &limits.estimates;
        let limit = key.limits.output_tokens.unwrap_or(u32::MAX);
        let output = match key.output_reservation {
            _ if !self.produces => OutputHold::NONE,
            // Whoever sets no maximum may get any number of tokens: such a call is admitted alone.
            OutputReservation::MaxTokens => OutputHold::exactly(self.max_output.unwrap_or(limit)),
            OutputReservation::Learned => estimates.output(&self.output_of(caller)).at_most(limit),
        };
        Cost {
            input_tokens: estimates.input(&self.model, self.kind, self.input),
            output,
        }
    }

    fn learn(&self, limits: &CallerLimits, caller: LimitId, usage: &Usage) {
        if let Some(tokens) = usage.input_tokens {
            limits
                .estimates
                .note_input(&self.model, self.kind, self.input, tokens);
        }
        if let Some(tokens) = usage.output_tokens.filter(|_| self.produces) {
            limits
                .estimates
                .note_output(&self.output_of(caller), tokens);
        }
    }
}

impl CallerReservation {
    /// Reserves what a call needs of the limits of its virtual key. `dialect`: of the provider that is tried first.
    pub(super) async fn of(
        gw: &Gateway,
        call: &Call<'_>,
        key: &VirtualKeySettings,
        dialect: &Dialect,
        log: &mut RequestLog,
    ) -> Result<Self, GatewayError> {
        let (limits, caller) = (&gw.limits, LimitId::of_virtual_key(&key.name));
        let counts = call.counts_tokens && call.generates;
        let tokens = counts.then(|| TokenGuess::of(call, dialect));
        let no_tokens = Cost {
            input_tokens: 0,
            output: OutputHold::NONE,
        };
        let cost = tokens
            .as_ref()
            .map_or(no_tokens, |tokens| tokens.cost(limits, caller, key));
        let ask = Ask {
            id: caller,
            limits: key.limits,
            cost,
        };
        let patience = match key.on_limit {
            OnLimit::Reject => Patience::LITTLE,
            OnLimit::Wait => Patience::of(key.limit_wait),
        };
        let reserved = limits.reserve(&ask, patience).await;
        log.set_rate_headers(limits.headers(caller, &key.limits));
        let room = reserved.map_err(|refused| refusal(key, &cost, &refused))?;
        Ok(Self(Some(Box::new(Reserved {
            limits: Arc::clone(limits),
            caller,
            room,
            tokens,
        }))))
    }

    /// Whether what the call uses must be known.
    pub(super) fn counts_tokens(&self) -> bool {
        self.0
            .as_ref()
            .is_some_and(|reserved| reserved.tokens.is_some())
    }

    /// An attempt begins: from now on a provider may have the call.
    pub(super) fn begin_attempt(&mut self) -> Settlement {
        self.settle_as(Settlement::Ended(Usage::default()))
    }

    /// An attempt has ended. `before`: how the call would have been settled without it.
    pub(super) fn note_result(&mut self, result: &AttemptResult, before: Settlement) {
        use keypool_core::fault::Class;
        match result {
            AttemptResult::Response(response) if response.class == Class::Success => {}
            AttemptResult::Response(_)
            | AttemptResult::Unclear(_)
            | AttemptResult::Failed(Failure::Response { .. }) => {
                self.settle_as(Settlement::Failed);
            }
            AttemptResult::Failed(Failure::NoResponse { error, .. }) if !error.may_have_run => {
                self.settle_as(before);
            }
            AttemptResult::Failed(Failure::NoResponse { .. }) => {}
        }
    }

    /// The response has ended, and this is what the provider said of it. `is_whole`: it came to its end.
    pub(super) fn settle(&mut self, said: usage::Usage, is_whole: bool) {
        let Some(mut reserved) = self.0.take() else {
            return;
        };
        let mut usage = Usage {
            input_tokens: said
                .input_tokens
                .and_then(|tokens| u32::try_from(tokens).ok()),
            output_tokens: said
                .output_tokens
                .and_then(|tokens| u32::try_from(tokens).ok()),
        };
        let cost = *reserved.room.room.cost();
        if is_whole {
            if let Some(tokens) = &reserved.tokens {
                tokens.learn(&reserved.limits, reserved.caller, &usage);
            }
        } else {
            // The provider may go on after the part that came, so no less than what is held counts.
            let held = cost.output.alone();
            usage.output_tokens = usage.output_tokens.filter(|tokens| *tokens > held);
        }
        reserved
            .room
            .room
            .settle_when_dropped(Settlement::Ended(usage));
    }

    fn settle_as(&mut self, settlement: Settlement) -> Settlement {
        let Some(reserved) = &mut self.0 else {
            return settlement;
        };
        let room = &mut reserved.room.room;
        let before = room.if_dropped();
        room.settle_when_dropped(settlement);
        before
    }
}

/// Says which limit was exceeded, and what to do.
fn refusal(key: &VirtualKeySettings, cost: &Cost, refused: &Refused) -> GatewayError {
    use keypool_core::limit::Dimension;
    let (name, limit) = (&key.name, refused.limit);
    let what = match refused.dimension {
        Dimension::Requests => "requests a minute",
        Dimension::InputTokens => "input tokens a minute",
        Dimension::OutputTokens => "output tokens a minute",
        Dimension::Concurrency => "requests at once",
    };
    let Some(retry_after) = refused.retry_after else {
        let needs = match refused.dimension {
            Dimension::OutputTokens => cost.output.alone(),
            _ => cost.input_tokens,
        };
        let advice = match refused.dimension {
            Dimension::OutputTokens => "lower its maximum of output tokens",
            _ => "send a shorter one",
        };
        let message = format!(
            "this request needs about {needs} tokens, and the virtual key \"{name}\" may use {limit} {what}, so it can never be served: {advice}, or ask the operator of this gateway for a higher limit"
        );
        return GatewayError {
            dont_retry: true,
            ..GatewayError::new(Kind::RequestExceedsLimit(refused.dimension), message)
        };
    };
    let seconds = in_whole_seconds(retry_after);
    let message = format!(
        "the virtual key \"{name}\" may use {limit} {what}, and this request would exceed that: try again in {seconds} s"
    );
    GatewayError {
        retry_after: Some(retry_after.max(Duration::from_millis(1))),
        ..GatewayError::new(Kind::RateLimitExceeded(refused.dimension), message)
    }
}
