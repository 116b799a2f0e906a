//! Reads the few fields of request bodies that the mock needs, without parsing the rest into memory.
//!
//! This module must never reject a body: each protocol decides which fields are required.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

/// Maximum number of characters of the user's message that a response quotes.
const QUOTED_CHARS: usize = 80;

/// A message of any chat protocol.
#[derive(Debug, Deserialize)]
pub(crate) struct Message<'a> {
    #[serde(default, borrow)]
    role: Option<Cow<'a, str>>,
    /// OpenAI and Anthropic: a text or a list of parts.
    #[serde(default, borrow)]
    content: Option<&'a RawValue>,
    /// Gemini: a list of parts.
    #[serde(default, borrow)]
    parts: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Part {
    #[serde(default)]
    text: Option<String>,
}

/// The first characters of the last user message.
pub(crate) fn last_words(messages: &[Message<'_>]) -> String {
    let is_user =
        |message: &&Message<'_>| message.role.as_deref().is_none_or(|role| role == "user");
    let last = messages.iter().rev().find(is_user).or(messages.last());
    let raw = last.and_then(|message| message.content.or(message.parts));
    raw.map(|raw| words_of(raw.get())).unwrap_or_default()
}

/// The first characters of a text, of the last text among parts, or of the last user message among messages.
pub(crate) fn words_of(raw: &str) -> String {
    if let Ok(text) = serde_json::from_str::<String>(raw) {
        return clip(&text);
    }
    if let Ok(messages) = serde_json::from_str::<Vec<Message<'_>>>(raw)
        && messages.iter().any(|message| message.content.is_some())
    {
        return last_words(&messages);
    }
    let parts = serde_json::from_str::<Vec<Part>>(raw).unwrap_or_default();
    parts
        .into_iter()
        .filter_map(|part| part.text)
        .next_back()
        .map(|text| clip(&text))
        .unwrap_or_default()
}

fn clip(text: &str) -> String {
    text.chars().take(QUOTED_CHARS).collect()
}

/// The elements of a JSON array; anything else is one element.
pub(crate) fn elements(raw: &str) -> Vec<&RawValue> {
    match serde_json::from_str::<Vec<&RawValue>>(raw) {
        Ok(list) => list,
        Err(_) => serde_json::from_str(raw)
            .map(|one| vec![one])
            .unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_words_are_the_user_s_in_every_protocol() {
        let long = "é".repeat(100);
        for (messages, expect) in [
            (r#"[{"role":"system","content":"s"},{"role":"user","content":"hello"}]"#.to_owned(), "hello"),
            (r#"[{"role":"user","content":"hello"},{"role":"assistant","content":"no"}]"#.to_owned(), "hello"),
            (r#"[{"role":"assistant","content":"only"}]"#.to_owned(), "only"),
            (
                r#"[{"role":"user","content":[{"type":"image_url","image_url":{"url":"x"}},{"type":"text","text":"what?"}]}]"#
                    .to_owned(),
                "what?",
            ),
            (r#"[{"parts":[{"text":"gem"},{"inlineData":{}}]}]"#.to_owned(), "gem"),
            (r#"[{"role":"user","content":null}]"#.to_owned(), ""),
            ("[]".to_owned(), ""),
            (format!(r#"[{{"role":"user","content":"{long}"}}]"#), &long[..160]),
        ] {
            let parsed: Vec<Message<'_>> = serde_json::from_str(&messages).unwrap();
            assert_eq!(last_words(&parsed), expect, "{messages}");
        }
    }

    #[test]
    fn the_input_of_responses_is_a_text_or_items() {
        assert_eq!(words_of(r#""plain""#), "plain");
        assert_eq!(
            words_of(r#"[{"role":"user","content":[{"type":"input_text","text":"item"}]}]"#),
            "item"
        );
        assert_eq!(words_of(r#"{"odd":1}"#), "");
    }
}
