//! The form of a refusal: what stays the same when the same refusal meets another request.
//!
//! Must never decide what a refusal means.

use serde_json::Value;

use super::ErrorResponse;
use super::error_body::{ErrorBody, loggable_code};
use super::quotes::{BLANK, quotation};
use crate::secrets::looks_like_key;

/// Maximum length of the message's part of a form, in characters. What follows is rarely the same twice.
const LONGEST_MESSAGE: usize = 200;
/// An unquoted word of at least this length that mixes upper and lower case is taken for an id.
const ID_LENGTH: usize = 20;
/// Words before a colon that are no field.
const NO_FIELDS: &[&str] = &["error", "forbidden", "unauthorized", "denied", "refused"];

/// The form of a refusal: status, type, code, and the message without quoted text, numbers and ids.
///
/// `None` if the refusal names a field of the request, and so is about the request.
pub fn refusal_form(response: &ErrorResponse<'_>) -> Option<String> {
    let body = ErrorBody::read(response.body);
    if names_field(&body) {
        return None;
    }
    let name = |name: &Option<String>| name.as_deref().and_then(loggable_code).unwrap_or_default();
    let form = [
        response.status.to_string(),
        name(&body.kind),
        name(&body.status),
        name(&body.code),
        without_particulars(&body.message),
    ];
    Some(form.join(" "))
}

/// Whether a refusal names a field of the request, by its own fields or at the beginning of its message.
pub(super) fn names_field(body: &ErrorBody) -> bool {
    has_field(&body.error) || has_field(&body.around) || starts_with_field(&body.message)
}

/// Whether an error's fields name a field of the request: `param` (OpenAI), `fieldViolations` (Google), `loc` (FastAPI).
fn has_field(error: &Value) -> bool {
    match error {
        Value::Object(fields) => fields
            .iter()
            .any(|(name, value)| match (name.as_str(), value) {
                ("param", Value::String(param)) => !param.is_empty(),
                ("loc" | "fieldViolations" | "field_violations", Value::Array(path)) => {
                    !path.is_empty()
                }
                (_, value) => has_field(value),
            }),
        Value::Array(items) => items.iter().any(has_field),
        // Some servers print the list of FastAPI into the message.
        Value::String(text) => text.contains("'loc': ("),
        _ => false,
    }
}

/// Whether a message begins with the path of a field: `messages.0.content: …`, `max_tokens: …`.
fn starts_with_field(message: &str) -> bool {
    let message = message.trim_start_matches([' ', '\n', '*']);
    if message.starts_with("Invalid value at '") {
        return true;
    }
    let Some((path, _)) = message.split_once(": ") else {
        return false;
    };
    let path = path.trim_end().trim_matches(['\'', '"', '`']);
    let is_of_path =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'[' | b']' | b'$');
    let is_compound = path.contains(['.', '_', '[']);
    let is_lower = path.bytes().all(|byte| byte.is_ascii_lowercase());
    !path.is_empty()
        && path.bytes().all(is_of_path)
        && (is_compound || (is_lower && !NO_FIELDS.contains(&path)))
}

/// The message in lower case, with [`BLANK`] in place of quoted text, numbers and ids.
fn without_particulars(message: &str) -> String {
    let mut form = String::new();
    let mut rest = message;
    let mut before = ' ';
    while let Some(first) = rest.chars().next() {
        if form.chars().count() >= LONGEST_MESSAGE {
            break;
        }
        let len = if let Some(len) = quotation(rest, first, before) {
            push(&mut form, BLANK);
            len
        } else if is_of_word(first) {
            let len = rest.find(|c| !is_of_word(c)).unwrap_or(rest.len());
            push_word(&mut form, &rest[..len]);
            len
        } else {
            push(&mut form, first);
            first.len_utf8()
        };
        before = rest[..len].chars().next_back().unwrap_or(' ');
        rest = &rest[len..];
    }
    form.trim_end().to_owned()
}

fn is_of_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ',' | ':' | '/' | '@')
}

/// Appends a word, or [`BLANK`] if it is a number, an id, an address or a credential. Punctuation at its end stays.
fn push_word(form: &mut String, text: &str) {
    let word = text.trim_end_matches(['.', ',', ':', '-', '/']);
    let has = |test: fn(&u8) -> bool| word.as_bytes().iter().any(test);
    let is_mixed = has(u8::is_ascii_uppercase) && has(u8::is_ascii_lowercase);
    let is_particular = has(u8::is_ascii_digit)
        || (is_mixed && word.len() >= ID_LENGTH)
        || word.contains("//")
        || word.contains('@')
        || looks_like_key(word);
    match is_particular {
        true => push(form, BLANK),
        false => word.chars().for_each(|c| push(form, c)),
    }
    text[word.len()..].chars().for_each(|c| push(form, c));
}

/// Appends a character in lower case. Blanks and [`BLANK`]s in a row become one: `10 000` is one number.
fn push(form: &mut String, c: char) {
    let c = match c {
        c if c.is_whitespace() || c.is_control() => ' ',
        c if c.is_numeric() => BLANK,
        c => c.to_ascii_lowercase(),
    };
    let repeats = match c {
        ' ' => form.is_empty() || form.ends_with(' '),
        BLANK => form.trim_end().ends_with(BLANK),
        _ => false,
    };
    if !repeats {
        form.push(c);
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use http::HeaderMap;

    use super::*;

    fn form(status: u16, body: &str) -> Option<String> {
        refusal_form(&ErrorResponse {
            status,
            headers: &HeaderMap::new(),
            body: body.as_bytes(),
            now: SystemTime::UNIX_EPOCH,
        })
    }

    fn of_message(message: &str) -> String {
        let body = serde_json::json!({"error": {"type": "t", "message": message}});
        form(400, &body.to_string()).unwrap()
    }

    #[test]
    fn refusals_that_differ_only_in_particulars_have_one_form() {
        for (one, other) in [
            (
                "The model `gpt-4o` does not exist",
                "The model `o1` does not exist",
            ),
            (
                "The model 'a b' is closed",
                "The model 'it isn't' is closed",
            ),
            (
                r#"Unknown role "x""#,
                r#"Unknown role "Your \"credit\" is low""#,
            ),
            ("Model “x” is closed", "Model “yy” is closed"),
            ("模型「甲」不存在", "模型「乙丙」不存在"),
            ("剩余额度：1.25，需要：7", "剩余额度：0.3，需要：12,000"),
            ("Not more than 10 000 tokens.", "Not more than 7 tokens."),
            (
                "Failed (request id: req_011CSHoEeq)",
                "Failed (request id: req_9)",
            ),
            (
                "No rights to 0f5e3a1c-7a8b-4c2d-9e1f-aabbccddeeff.",
                "No rights to 11111111-2222-3333-4444-555555555555.",
            ),
            (
                "Trace QwErTyUiOpAsDfGhJkLzXc refused",
                "Trace ZxCvBnMaSdFgHjKlQwErTy refused",
            ),
            ("Ask joe@example.com", "Ask ann@example.org"),
            (
                "See https://a.example/x for more",
                "See https://b.example/y/z for more",
            ),
            ("You  can't\nuse gpt-4o", "You can't use gpt-5-mini"),
            (r#"Bad role "never closed"#, r#"Bad role "nor, this"#),
        ] {
            assert_eq!(of_message(one), of_message(other));
        }
    }

    #[test]
    fn different_refusals_have_different_forms() {
        let forms = [
            form(
                400,
                r#"{"error":{"type":"t","message":"Model `x` does not exist"}}"#,
            ),
            form(
                404,
                r#"{"error":{"type":"t","message":"Model `x` does not exist"}}"#,
            ),
            form(
                400,
                r#"{"error":{"type":"u","message":"Model `x` does not exist"}}"#,
            ),
            form(
                400,
                r#"{"error":{"code":"c","message":"Model `x` does not exist"}}"#,
            ),
            form(
                400,
                r#"{"error":{"status":"S","message":"Model `x` does not exist"}}"#,
            ),
            form(
                400,
                r#"{"error":{"type":"t","message":"Model `x` isn't open to 'you'"}}"#,
            ),
            form(
                400,
                r#"{"error":{"type":"t","message":"This organization has been disabled."}}"#,
            ),
            form(400, r#"{"error":"This organization has been disabled."}"#),
            form(403, "Forbidden"),
            form(403, ""),
        ];
        for (at, one) in forms.iter().enumerate() {
            assert!(one.is_some());
            assert!(!forms[at + 1..].contains(one), "{one:?}");
        }
    }

    #[test]
    fn a_refusal_that_names_a_field_has_no_form() {
        for body in [
            r#"{"error":{"type":"t","param":"max_tokens","message":"Too large"}}"#,
            r#"{"detail":[{"loc":["body","model"],"msg":"Field required"}]}"#,
            r#"{"object":"error","message":{"detail":[{"loc":["body","x"],"msg":"m"}]}}"#,
            r#"{"message":"[{'type': 'missing', 'loc': ('body', 'model')}]"}"#,
            r#"{"error":{"status":"INVALID_ARGUMENT","message":"m","details":[{"fieldViolations":[{"field":"x"}]}]}}"#,
            r#"{"error":{"message":"messages.0.content: Input should be a list"}}"#,
            r#"{"error":{"message":"messages[3].role: unknown"}}"#,
            r#"{"error":{"message":"max_tokens: must be positive"}}"#,
            r#"{"error":{"message":"messages: at least one is required"}}"#,
            r#"{"error":{"message":"'messages.0.role' : value must be one of 'user'"}}"#,
            r#"{"error":{"message":"Invalid value at 'contents[0].role' (TYPE_STRING), \"x\""}}"#,
            r#"{"error":{"message":"* GenerateContentRequest.contents: contents is not specified"}}"#,
        ] {
            assert_eq!(form(400, body), None, "{body}");
        }
        for body in [
            r#"{"error":{"param":null,"message":"Error: no"}}"#,
            r#"{"error":{"param":"","message":"forbidden: no"}}"#,
            r#"{"error":{"message":"Access to this is denied: no plan"}}"#,
            r#"{"detail":"Not available: ask sales"}"#,
        ] {
            assert!(form(400, body).is_some(), "{body}");
        }
    }

    #[test]
    fn a_form_is_bounded_and_shows_no_credential() {
        let long = of_message(&"word ".repeat(10_000));
        assert!(long.len() < 300, "{long}");
        assert!(of_message(&"é\u{0}\"".repeat(50_000)).len() < 600);
        assert_eq!(of_message("Key sk-abcdef is off"), "400 t   key # is off");
    }
}
