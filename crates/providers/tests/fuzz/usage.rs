//! Usage in responses, the request for it, and the guess of a request's input.

use bytes::Bytes;
use keypool_providers::peek::peek;
use keypool_providers::protocol::Protocol;
use keypool_providers::usage::{
    ImageRule, InputGuess, Usage, UsageForm, UsageReader, include_usage, is_usage_chunk,
};
use serde_json::{Value, json};

use crate::fuzz;
use crate::source::Source;

const FORMS: [UsageForm; 4] = [
    UsageForm::OpenAi,
    UsageForm::InputOnly,
    UsageForm::Anthropic,
    UsageForm::Gemini,
];

/// The places where a response of each form may state its usage.
const PLACES: [&[&str]; 4] = [
    &["/usage", "/response/usage", "/x_groq/usage"],
    &["/usage", "/usageMetadata", "/tokens", "/meta/tokens"],
    &["/usage", "/message/usage"],
    &[
        "/usage",
        "/usageMetadata",
        "/response/usageMetadata",
        "/response/usage",
        "/interaction/usage",
    ],
];

#[test]
fn usage_is_found_in_its_places_only_however_a_body_is_cut() {
    fuzz!(|source: &mut Source<'_>| {
        let index = source.below(FORMS.len());
        let size = 1 + source.below(40);
        let body = source.body();
        let read = |size: usize| {
            let mut reader = UsageReader::new(FORMS[index]);
            body.chunks(size)
                .for_each(|piece| reader.read_body(&Bytes::copy_from_slice(piece)));
            reader.usage(true)
        };
        let (usage, in_pieces) = (read(body.len().max(1)), read(size));
        let parsed = serde_json::from_slice::<Value>(&body);
        // Of what is no JSON, something or nothing is read.
        if parsed.is_ok() {
            assert_eq!(in_pieces, usage, "{size}: {}", body.escape_ascii());
        }
        // Rankings are not streamed.
        let is_line = !body.iter().any(|byte| matches!(byte, b'\n' | b'\r'));
        if is_line && FORMS[index] != UsageForm::InputOnly {
            let line = [b"data: ", &*body].concat();
            let mut at_once = UsageReader::new(FORMS[index]);
            at_once.read_line(&line, true);
            assert_eq!(at_once.usage(true), usage, "{}", body.escape_ascii());
            let mut in_parts = UsageReader::new(FORMS[index]);
            let last = line.len().div_ceil(size) - 1;
            for (part, text) in line.chunks(size).enumerate() {
                in_parts.read_line(text, part == last);
            }
            if parsed.is_ok() {
                let usage = in_parts.usage(true);
                assert_eq!(usage, in_pieces, "{size}: {}", body.escape_ascii());
            }
        }
        let Ok(tree) = parsed else {
            return;
        };
        let text = body.escape_ascii().to_string();
        // Of a repeated field the tree has only the last.
        let is_repeated = ["usage", "tokens", "response", "choices"]
            .iter()
            .any(|name| text.matches(name).count() > 1);
        if is_repeated || !tree.is_object() {
            return;
        }
        let is_stated = |place: &&str| tree.pointer(place).is_some_and(Value::is_object);
        let in_choice = |choice: &Value| choice["usage"].is_object();
        let choices = &tree["choices"];
        let may_state = PLACES[index].iter().any(is_stated)
            || in_choice(choices)
            || choices
                .as_array()
                .is_some_and(|all| all.iter().any(in_choice));
        assert!(may_state || usage == Usage::default(), "{text}");
    });
}

#[test]
fn asking_for_usage_changes_nothing_else() {
    fuzz!(|source: &mut Source<'_>| {
        let mut body = source.object();
        if source.flip() {
            body = String::from_utf8_lossy(&body)
                .replacen('{', "{\"stream\":true,", 1)
                .into_bytes();
            if body.trim_ascii_end().ends_with(b",}") {
                return;
            }
        }
        let Ok(peek) = peek(&body) else {
            return;
        };
        let Some(edit) = include_usage(&body, &peek) else {
            return;
        };
        let edited = [
            &body[..edit.range.start],
            edit.text.as_bytes(),
            &body[edit.range.end..],
        ]
        .concat();
        // Some JSON does not fit into a tree.
        let Ok(mut tree) = serde_json::from_slice::<Value>(&body) else {
            return;
        };
        if tree["stream_options"].is_null() {
            tree["stream_options"] = json!({});
        }
        tree["stream_options"]["include_usage"] = true.into();
        assert_eq!(serde_json::from_slice::<Value>(&edited).unwrap(), tree);
    });
}

#[test]
fn any_request_has_a_guess() {
    fuzz!(|source: &mut Source<'_>| {
        let rules = [
            ImageRule::OpenAi,
            ImageRule::Anthropic,
            ImageRule::Gemini,
            ImageRule::Ark,
        ];
        let rule = *source.one_of(&rules);
        let protocol = *source.one_of(&[Protocol::OpenAi, Protocol::Anthropic, Protocol::Gemini]);
        let path = *source.one_of(&[
            "/v1/chat/completions",
            "/v1/audio/transcriptions",
            "/v1/images/edits",
        ]);
        let body = source.body();
        let guess = InputGuess::of(protocol, path, &body, rule);
        let most = 2000.0 + 6000.0 * body.len() as f64;
        assert!((1.0..=most).contains(&guess.tokens), "{guess:?}");
        is_usage_chunk(&body);
    });
}
