//! Which conversation a call belongs to, for pools that balance by affinity.
//!
//! The protocol's own field for it comes first. Without one, the beginning of the conversation identifies it, since that
//! does not change while the conversation grows: the system prompt and the first user message.

use std::borrow::Cow;
use std::ops::Range;

use keypool_core::hash;
use keypool_core::settings::Strategy;
use keypool_providers::peek::Peek;
use keypool_providers::protocol::Protocol;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::PoolTarget;
use crate::proxy::inbound::{Call, Caller};

/// Number of bytes of each message that are hashed, together with its length. Enough to tell conversations apart.
const PART: usize = 4096;
/// Maximum number of messages that are searched for the user's first one.
const MAX_MESSAGES: usize = 8;

/// The conversation of a call, the same on every node. `None` if the pool does not balance by affinity, or the call
/// belongs to none.
pub(crate) fn conversation(call: &Call<'_>, target: &PoolTarget, caller: &Caller) -> Option<u64> {
    let strategy = target.entry.pool.current().settings().strategy;
    if strategy != Strategy::Affinity || !call.generates {
        return None;
    }
    let has_messages = call.fields.messages.is_some() || call.fields.contents.is_some();
    // Embeddings, moderations and speech have an `input` too, and no cache.
    if !has_messages && !call.path().ends_with("/responses") {
        return None;
    }
    let own = affinity_of(&call.fields, call.body(), call.protocol())?;
    // Two callers may choose the same id, and a cache belongs to one model.
    Some(hash::bytes(
        hash::bytes(own, caller.name.as_bytes()),
        target.model.as_bytes(),
    ))
}

/// A hash of what the body says of its conversation; `None` if it says nothing.
fn affinity_of(fields: &Peek, body: &[u8], protocol: Protocol) -> Option<u64> {
    let own = match protocol {
        Protocol::OpenAi => [
            (&fields.prompt_cache_key, 1),
            (&fields.safety_identifier, 2),
            (&fields.user, 3),
        ]
        .into_iter()
        .find_map(|(field, kind)| Some((field.as_ref()?, kind))),
        Protocol::Anthropic => fields.metadata_user_id.as_ref().map(|id| (id, 4)),
        Protocol::Gemini | Protocol::Tavily => None,
    };
    if let Some((id, kind)) = own {
        return Some(hash::bytes(kind, id.as_bytes()));
    }
    let part = |range: &Option<Range<usize>>| body.get(range.clone()?);
    let messages = [&fields.messages, &fields.contents, &fields.input];
    let messages = messages.into_iter().find_map(part)?;
    let systems = [
        &fields.system,
        &fields.instructions,
        &fields.system_instruction,
    ];
    let sum = systems.into_iter().filter_map(part).fold(0, add);
    (messages != b"null").then(|| prefix(sum, messages))
}

/// The messages up to the user's first one. A plain text is one message.
fn prefix(sum: u64, messages: &[u8]) -> u64 {
    if !messages.starts_with(b"[") {
        return add(sum, messages);
    }
    let mut prefix = ConversationPrefix { sum };
    // An error means that the list was not read to its end, or is no list of messages. What was seen counts.
    let _ = prefix.deserialize(&mut serde_json::Deserializer::from_slice(messages));
    prefix.sum
}

struct ConversationPrefix {
    sum: u64,
}

#[derive(Deserialize)]
struct Role<'a> {
    #[serde(borrow)]
    role: Option<Cow<'a, str>>,
}

impl<'de> DeserializeSeed<'de> for &mut ConversationPrefix {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, list: D) -> Result<(), D::Error> {
        list.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for &mut ConversationPrefix {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("messages")
    }

    /// Stops at the user's first message: most of a long conversation comes after it.
    fn visit_seq<A: SeqAccess<'de>>(self, mut messages: A) -> Result<(), A::Error> {
        for _ in 0..MAX_MESSAGES {
            let Some(message) = messages.next_element::<&RawValue>()? else {
                break;
            };
            self.sum = add(self.sum, message.get().as_bytes());
            let role = serde_json::from_str::<Role<'_>>(message.get());
            // In every protocol, a message without a role is the user's.
            if role.map_or(true, |role| role.role.is_none_or(|role| role == "user")) {
                break;
            }
        }
        Ok(())
    }
}

/// Hashes the beginning of a part, and its length.
fn add(sum: u64, part: &[u8]) -> u64 {
    hash::bytes(sum ^ part.len() as u64, &part[..part.len().min(PART)])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(protocol: Protocol, body: &str) -> Option<u64> {
        let fields = keypool_providers::peek::peek(body.as_bytes()).ok()?;
        affinity_of(&fields, body.as_bytes(), protocol)
    }

    /// Bodies of one conversation, turn by turn; and bodies of others.
    fn cases() -> Vec<(Protocol, Vec<String>, Vec<String>)> {
        let system = "You are a helpful assistant. ".repeat(400);
        let chat = |first: &str, rest: &str| {
            format!(
                r#"{{"model":"m","messages":[{{"role":"system","content":"{system}"}},{{"role":"user","content":"{first}"}}{rest}]}}"#
            )
        };
        let claude = |system: &str, first: &str, rest: &str| {
            format!(
                r#"{{"system":"{system}","messages":[{{"role":"user","content":"{first}"}}{rest}]}}"#
            )
        };
        let gemini = |first: &str, rest: &str| {
            format!(
                r#"{{"contents":[{{"parts":[{{"text":"{first}"}}]}}{rest}],"systemInstruction":{{"parts":[]}}}}"#
            )
        };
        let later = r#",{"role":"assistant","content":"a"},{"role":"user","content":"b"}"#;
        let turns = |first: String, second: String| vec![first, second];
        vec![
            (
                Protocol::OpenAi,
                turns(chat("one", ""), chat("one", later)),
                vec![chat("two", ""), chat("one ", "")],
            ),
            (
                Protocol::OpenAi,
                turns(
                    chat("one", "").replacen('{', r#"{"prompt_cache_key":"k","user":"u","#, 1),
                    r#"{"user":"v","prompt_cache_key":"k"}"#.to_owned(),
                ),
                vec![
                    r#"{"prompt_cache_key":"l"}"#.to_owned(),
                    r#"{"user":"k"}"#.to_owned(),
                    r#"{"safety_identifier":"k"}"#.to_owned(),
                ],
            ),
            (
                Protocol::OpenAi,
                turns(
                    r#"{"input":"question","instructions":"i"}"#.to_owned(),
                    r#"{"instructions":"i","input":"question","user":""}"#.to_owned(),
                ),
                vec![r#"{"input":"question","instructions":"j"}"#.to_owned()],
            ),
            (
                Protocol::Anthropic,
                turns(claude("s", "one", ""), claude("s", "one", later)),
                vec![claude("t", "one", ""), claude("s", "two", "")],
            ),
            (
                Protocol::Anthropic,
                turns(
                    r#"{"metadata":{"user_id":"u"},"messages":[{"role":"user"}]}"#.to_owned(),
                    r#"{"messages":[],"metadata":{"x":1,"user_id":"u"}}"#.to_owned(),
                ),
                vec![r#"{"metadata":{"user_id":"w"}}"#.to_owned()],
            ),
            (
                Protocol::Gemini,
                turns(
                    gemini("one", ""),
                    gemini(
                        "one",
                        r#",{"role":"model","parts":[]},{"role":"user","parts":[]}"#,
                    ),
                ),
                vec![gemini("two", ""), gemini("one", "").replace("[]", "[1]")],
            ),
        ]
    }

    #[test]
    fn a_growing_conversation_keeps_its_identity() {
        for (protocol, turns, others) in cases() {
            let first = of(protocol, &turns[1]);
            assert!(first.is_some(), "{}", turns[1]);
            assert_eq!(of(protocol, &turns[0]), first, "{protocol:?}: {turns:?}");
            for other in others {
                assert_ne!(of(protocol, &other), first, "{protocol:?}: {other}");
            }
        }
    }

    #[test]
    fn a_body_without_messages_has_no_conversation() {
        for body in [
            "",
            "[]",
            "{",
            r#"{"model":"m"}"#,
            r#"{"messages":null,"user":7}"#,
            "\"x\"",
        ] {
            assert_eq!(of(Protocol::OpenAi, body), None, "{body}");
        }
    }
}
