//! A first guess of a request's input tokens, from its text, images, recordings and files.
//!
//! The guess need not be right: what providers report corrects it, for each model and kind of input. It must be cheap, and
//! pictures in base64 must be passed over.

use super::found::Found;
use super::image::ImageRule;
use super::text::InputKind;
use super::walk::walk;
use crate::protocol::Protocol;

/// Tokens that begin the answer of a chat (OpenAI's cookbook on counting tokens).
const ANSWER: f64 = 3.0;

/// A first guess of a request's input tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct InputGuess {
    /// Number of tokens, at least 1.
    pub tokens: f64,
    /// What to correct it by.
    pub kind: InputKind,
    /// Everything that the model reads is in the body. Otherwise there is more: an earlier response, a cached content, a
    /// file that is only referred to. Then what the provider reports says nothing about guesses.
    pub is_whole: bool,
}

impl InputGuess {
    /// Guesses from a call's path and body. `image_rule`: the provider's.
    pub fn of(protocol: Protocol, path: &str, body: &[u8], image_rule: ImageRule) -> Self {
        let mut found = Found::new(protocol, image_rule);
        if body.trim_ascii_start().starts_with(b"{") {
            walk(body, &mut found);
        } else if path.contains("/audio/") {
            // A form with a recording.
            found.recording(body.len() as f64, None);
        } else if path.contains("/images/") {
            found.image_part();
        }
        let is_chat = path.ends_with("/chat/completions") || path.ends_with("/messages");
        let tokens = found.tokens() + if is_chat { ANSWER } else { 0.0 };
        Self {
            tokens: tokens.max(1.0),
            kind: found.kind(),
            is_whole: found.is_whole(),
        }
    }
}
