//! Tokens: what a provider says a call has used, what a request tells before it is sent, and how to ask a provider for its
//! figures.
//!
//! Must never know a provider by name, a key or a limit, and must never change or keep the bytes of a response.

mod counts;
mod find;
mod found;
mod guess;
mod image;
mod media;
mod prompts;
mod reader;
mod stream_options;
mod text;
mod walk;

pub use self::counts::Usage;
pub use self::guess::InputGuess;
pub use self::image::ImageRule;
pub use self::prompts::prompts;
pub use self::reader::{UsageForm, UsageReader};
pub use self::stream_options::{Edit, include_usage, is_usage_chunk, may_become_usage_chunk};
pub use self::text::InputKind;

#[cfg(test)]
mod tests;
