//! How many tokens a call is expected to use, and what is learned once that is known.

use keypool_core::limit::{
    Cost, Estimates, LimitId, Limits, ModelId, OutputHold, OutputOf, OutputReservation, Usage,
};
use keypool_providers::dialect::Dialect;
use keypool_providers::peek::Peek;
use keypool_providers::protocol::Protocol;
use keypool_providers::usage::{InputGuess, UsageForm, prompts};

use super::MatchedEndpoint;

/// What was read of a call before it is sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TokenGuess {
    /// Who calls.
    pub(crate) caller: LimitId,
    model: ModelId,
    input: u32,
    /// Guesses of each kind of text are off by a factor of their own.
    kind: u8,
    /// The maximum that the call sets for each of its outputs.
    max_output: Option<u32>,
    /// Number of outputs: choices or candidates, for each prompt.
    outputs: u32,
    /// How the response reports what was used.
    pub(crate) form: UsageForm,
    /// The model reads nothing that is not in the body.
    is_whole: bool,
}

impl TokenGuess {
    /// Guesses from the request; `None` if its response will report no tokens. `dialect`: of the provider that is tried
    /// first.
    pub(super) fn of(
        endpoint: &MatchedEndpoint<'_>,
        model: ModelId,
        body: &[u8],
        fields: &Peek,
        dialect: &Dialect,
        caller: LimitId,
    ) -> Option<Self> {
        let (protocol, path) = (endpoint.protocol, &*endpoint.path);
        let form = UsageForm::of(protocol, path)?;
        let guess = InputGuess::of(protocol, path, body, dialect.image_rule);
        let outputs = outputs(protocol, path, body, fields);
        Some(Self {
            caller,
            model,
            // A float beyond the largest number becomes the largest number.
            input: guess.tokens.ceil() as u32,
            kind: guess.kind as u8,
            is_whole: guess.is_whole,
            max_output: fields.max_output_tokens.map(at_most_u32),
            outputs: at_most_u32(outputs),
            form,
        })
    }

    /// Whether calls of the endpoint produce tokens.
    fn produces(&self) -> bool {
        self.form != UsageForm::InputOnly
    }

    /// What is reserved for the call under `limits`. No call is expected to produce more than the whole limit.
    pub(crate) fn cost(
        &self,
        estimates: &Estimates,
        limits: &Limits,
        reservation: OutputReservation,
    ) -> Cost {
        let limit = limits.output_tokens;
        let output = match reservation {
            _ if !self.produces() => OutputHold::NONE,
            // A call without a maximum may get any number of tokens, so it is admitted alone.
            OutputReservation::MaxTokens => {
                let max = self.max_output.map(|max| max.saturating_mul(self.outputs));
                OutputHold::exactly(max.or(limit).unwrap_or_default())
            }
            OutputReservation::Learned => {
                let one = estimates.output(&self.one_output(limit));
                times(one, self.outputs).at_most(limit.unwrap_or(u32::MAX))
            }
        };
        // A correction that was learned must not make a call impossible.
        let most = limits.input_tokens.unwrap_or(u32::MAX).max(self.input);
        let input = estimates.input(self.model, self.kind, self.input);
        Cost {
            input_tokens: input.min(most),
            output,
        }
    }

    /// Learns from what the call used.
    pub(crate) fn learn(&self, estimates: &Estimates, usage: &Usage) {
        if let Some(tokens) = usage.input_tokens.filter(|_| self.is_whole) {
            estimates.note_input(self.model, self.kind, self.input, tokens);
        }
        if let Some(tokens) = usage.output_tokens.filter(|_| self.produces()) {
            estimates.note_output(&self.one_output(None), tokens.div_ceil(self.outputs));
        }
    }

    /// What is learned, of one of the outputs.
    fn one_output(&self, limit: Option<u32>) -> OutputOf {
        OutputOf {
            caller: self.caller,
            model: self.model,
            max: self.max_output,
            limit,
        }
    }
}

/// Number of outputs that the call asks for, at least 1.
fn outputs(protocol: Protocol, path: &str, body: &[u8], fields: &Peek) -> u64 {
    let takes_prompts = protocol == Protocol::OpenAi
        && path.ends_with("/completions")
        && !path.ends_with("/chat/completions");
    let prompts = if takes_prompts { prompts(body) } else { 1 };
    fields.choices.unwrap_or(1).max(1).saturating_mul(prompts)
}

/// What is held for several outputs. Those of one call may be alike, so they stray together.
fn times(one: OutputHold, outputs: u32) -> OutputHold {
    let factor = f64::from(outputs);
    OutputHold {
        mean: one.mean * factor,
        variance: one.variance * factor * factor,
        max: one.max.saturating_mul(outputs),
    }
}

fn at_most_u32(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
