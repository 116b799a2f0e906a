//! The figures of a usage object, in every provider's form.
//!
//! Must never make a number out of something that is none: a wrong figure counts as unknown.

use crate::read::json_scan;
use crate::read::json_text::JsonText;

/// Numbers of tokens from here on are a provider's mistake.
const ABSURD: u64 = 1 << 31;

/// What a provider says that a call has used, in tokens. `None`: it does not say, or what it says cannot be right.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// All tokens of the request, with those read from the provider's prompt cache or written to it.
    pub input_tokens: Option<u64>,
    /// All tokens that the model has produced, with those of its reasoning.
    pub output_tokens: Option<u64>,
}

/// Names of the figures in a usage object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Names {
    /// `prompt_tokens` and `completion_tokens`, or `input_tokens` and `output_tokens`; the total tells what one of them
    /// leaves out.
    OpenAi,
    /// The same where nothing but the input counts, so that there may be no other figure than the total.
    InputOnly,
    /// Anthropic's: cached tokens are not part of `input_tokens`.
    Anthropic,
    /// Anthropic's at the beginning of a stream, where nothing is known of the output.
    AnthropicStart,
    /// Gemini's: reasoning is not part of `candidatesTokenCount`, tools' results not of `promptTokenCount`.
    Gemini,
}

/// One figure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Count {
    /// It is missing or null.
    #[default]
    Unstated,
    /// It is no number of tokens.
    Wrong,
    Of(u64),
}

/// The figures so far. A later usage object replaces what it states: providers repeat running figures.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    input: Count,
    /// Anthropic's tokens that were written to the cache or read from it.
    cached: [Count; 2],
    output: Count,
}

/// The figures of one object, by their meaning.
#[derive(Clone, Copy, Default)]
struct Stated {
    /// Under either of two names: some servers state both, and one of them as 0.
    input: [Count; 2],
    more_input: Count,
    cached: [Count; 2],
    output: [Count; 2],
    more_output: Count,
    total: Count,
}

impl Counts {
    /// Reads the usage object that follows. It tells nothing if `None` is returned, since it is not whole or no JSON.
    pub(super) fn read(&mut self, names: Names, text: &mut JsonText<'_>) -> Option<()> {
        let mut stated = Stated::default();
        text.object(|name, value| {
            let count = match name.has_escape {
                false => stated.named(names, name.written),
                true => {
                    unescaped(name.written).and_then(|name| stated.named(names, name.as_bytes()))
                }
            };
            if let Some(count) = count {
                *count = Count::read(value);
            }
        })?;
        let (input, output) = stated.sums(names);
        self.input = input.or(self.input);
        self.output = output.or(self.output);
        for (so_far, stated) in self.cached.iter_mut().zip(stated.cached) {
            *so_far = stated.or(*so_far);
        }
        Some(())
    }

    pub(super) fn usage(&self) -> Usage {
        let input = self
            .cached
            .iter()
            .fold(self.input, |sum, cached| sum.plus(*cached));
        Usage {
            input_tokens: input.known(),
            output_tokens: self.output.known(),
        }
    }
}

impl Stated {
    /// The figure that a name stands for.
    fn named(&mut self, names: Names, name: &[u8]) -> Option<&mut Count> {
        use Names::{Anthropic, AnthropicStart, Gemini, InputOnly, OpenAi};
        Some(match (names, name) {
            (OpenAi | InputOnly, b"prompt_tokens") => &mut self.input[0],
            (OpenAi | InputOnly | Anthropic | AnthropicStart, b"input_tokens") => {
                &mut self.input[1]
            }
            (InputOnly, b"promptTokenCount") => &mut self.input[0],
            (OpenAi, b"completion_tokens") => &mut self.output[0],
            (OpenAi | Anthropic, b"output_tokens") => &mut self.output[1],
            (OpenAi | InputOnly, b"total_tokens") => &mut self.total,
            (Anthropic | AnthropicStart, b"cache_creation_input_tokens") => &mut self.cached[0],
            (Anthropic | AnthropicStart, b"cache_read_input_tokens") => &mut self.cached[1],
            (Gemini, b"promptTokenCount" | b"total_input_tokens") => &mut self.input[0],
            (Gemini, b"toolUsePromptTokenCount" | b"total_tool_use_tokens") => &mut self.more_input,
            (Gemini, b"candidatesTokenCount" | b"total_output_tokens") => &mut self.output[0],
            (Gemini, b"thoughtsTokenCount" | b"total_thought_tokens") => &mut self.more_output,
            (Gemini, b"totalTokenCount" | b"total_tokens") => &mut self.total,
            _ => return None,
        })
    }

    /// Input and output. What one of them leaves out is in the total: some providers count reasoning only there, and
    /// Gemini omits a figure that is 0.
    fn sums(&self, names: Names) -> (Count, Count) {
        let input = self.input[0].larger(self.input[1]).plus(self.more_input);
        let stated = self.output[0].larger(self.output[1]);
        let output = match (stated, self.more_output) {
            (Count::Unstated, more) => more,
            (stated, more) => stated.plus(more),
        };
        if names == Names::InputOnly {
            let input = input.or(self.total);
            let nothing = match input {
                Count::Of(_) => Count::Of(0),
                _ => Count::Unstated,
            };
            return (input, nothing);
        }
        let Count::Of(total) = self.total else {
            return (input, output);
        };
        match (input, output) {
            (Count::Of(known), Count::Unstated) => (input, Count::rest(total, known)),
            (Count::Of(known), Count::Of(stated)) => {
                (input, Count::rest(total, known).larger(Count::Of(stated)))
            }
            (Count::Unstated, Count::Of(known)) => (Count::rest(total, known), output),
            _ => (input, output),
        }
    }
}

impl Count {
    /// Reads a figure as written.
    fn read(raw: &[u8]) -> Self {
        // JSON writes no number with a zero in front.
        let digits = match raw {
            b"null" => return Self::Unstated,
            [b'0', _, ..] | [] => return Self::Wrong,
            digits => digits,
        };
        let number = digits.iter().try_fold(0_u64, |number, byte| {
            let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
            Some(10 * number + digit).filter(|number| *number < ABSURD)
        });
        number.map_or(Self::Wrong, Self::Of)
    }

    fn known(self) -> Option<u64> {
        match self {
            Self::Of(number) if number < ABSURD => Some(number),
            _ => None,
        }
    }

    /// What `total` has beyond `known`; unstated if it has less.
    fn rest(total: u64, known: u64) -> Self {
        total.checked_sub(known).map_or(Self::Unstated, Self::Of)
    }

    fn or(self, other: Self) -> Self {
        match self {
            Self::Unstated => other,
            stated => stated,
        }
    }

    /// The sum. What is unstated adds nothing, to a figure that is stated.
    fn plus(self, other: Self) -> Self {
        match (self, other) {
            (Self::Of(one), Self::Of(other)) => Self::Of(one + other),
            (Self::Of(_), Self::Wrong) => Self::Wrong,
            (one, _) => one,
        }
    }

    fn larger(self, other: Self) -> Self {
        match (self, other) {
            (Self::Of(one), Self::Of(other)) => Self::Of(one.max(other)),
            (Self::Wrong, _) | (_, Self::Wrong) => Self::Wrong,
            (one, other) => one.or(other),
        }
    }
}

/// A name without escapes; `None` if one of them is broken.
fn unescaped(name: &[u8]) -> Option<String> {
    let quoted = format!("\"{}\"", std::str::from_utf8(name).ok()?);
    json_scan::unescaped(&quoted).map(Into::into)
}
