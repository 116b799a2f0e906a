//! Reads the body of an error leniently: a code, a type and a message in whatever form, and the class of a status.
//!
//! Must never know what a provider's codes mean: each dialect does.

use std::time::Duration;

use keypool_core::fault::Class;
use serde_json::Value;

use super::{ErrorResponse, retry_after};
use crate::read::sse::FIELD_STARTS;
use crate::secrets::looks_like_key;

/// Maximum length of a code that is shown; a longer one is free text.
const LONGEST_CODE: usize = 80;
// A code of at least this length with at least this number of digits may be a credential.
const KEY_LENGTH: usize = 16;
const KEY_DIGITS: usize = 3;

/// Maximum size of a body of plain text that is read as a message.
const LONGEST_TEXT: usize = 2 << 10;

/// Cooldown after a daily limit without a stated end. Providers do not say when their day begins; a key that is tried
/// once an hour is back soon after.
const UNSTATED_DAY: Duration = Duration::from_secs(60 * 60);

/// The parts of an error's body that could be read. Of a body that is not JSON, only the message.
#[derive(Debug, Default)]
pub(crate) struct ErrorBody {
    /// `code`, a number as text.
    pub(crate) code: Option<String>,
    /// `type`.
    pub(crate) kind: Option<String>,
    /// `status`, if it is a word.
    pub(crate) status: Option<String>,
    /// `message`, or the field that serves as one; empty if there is none.
    pub(crate) message: String,
    /// The error object, for fields that only one provider has.
    pub(crate) error: Value,
    /// The body without the error object.
    pub(crate) around: Value,
}

impl ErrorBody {
    /// Reads a body: `{"error":{…}}`, `{"error":"…"}`, `{"detail":…}`, a flat object, an array of one of these, or a
    /// line of text.
    pub(crate) fn read(body: &[u8]) -> Self {
        let Some(root) = json(body) else {
            let message = plain_text(body).unwrap_or_default().to_owned();
            return Self {
                message,
                ..Self::default()
            };
        };
        let (error, around) = error_object(root);
        let message = ["message", "error", "detail"]
            .iter()
            .find_map(|name| error[*name].as_str());
        Self {
            code: text_of(&error["code"]),
            kind: text_of(&error["type"]).filter(|kind| kind != "error"),
            status: error["status"].as_str().map(str::to_owned),
            message: message.or(error.as_str()).unwrap_or_default().to_owned(),
            error,
            around,
        }
    }

    /// The code, otherwise the type; empty if there is neither.
    pub(crate) fn code_or_kind(&self) -> &str {
        self.code
            .as_deref()
            .or(self.kind.as_deref())
            .unwrap_or_default()
    }

    /// The names that the error has: code, type, status name.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        [&self.code, &self.kind, &self.status]
            .into_iter()
            .flatten()
            .map(String::as_str)
    }

    /// The class that `names` gives the code or, if it does not list the code, the type.
    pub(crate) fn named(&self, names: &[(&str, Class)]) -> Option<Class> {
        let mut own = [&self.code, &self.kind].into_iter().flatten();
        own.find_map(|name| class_in(names, name))
    }

    /// Whether the message begins with `words`, in any case.
    ///
    /// After its beginning, a message may quote the caller and so say whatever the caller likes.
    pub(crate) fn begins(&self, words: &str) -> bool {
        let start = self.message.trim_start().get(..words.len());
        start.is_some_and(|start| start.eq_ignore_ascii_case(words))
    }

    /// Whether the message begins with `words` and nothing in it looks like a quotation of the caller: see
    /// [`is_of_provider`]. For refusals that a request can cause with any text.
    pub(crate) fn states(&self, words: &str) -> bool {
        self.begins(words) && is_of_provider(&self.message) && ends_like_sentence(&self.message)
    }

    /// Whether the message contains `words`, given in lower case.
    ///
    /// Only if status, code or type show that the request is not at fault: see `begins`.
    pub(crate) fn says(&self, words: &str) -> bool {
        self.message.to_ascii_lowercase().contains(words)
    }

    /// Whether the message names a limit per day: of requests, tokens, images or seconds of sound. See `says`.
    fn names_a_day(&self) -> bool {
        const DAYS: &[&str] = &["RPD", "TPD", "IPD", "ASD"];
        let mut words = self.message.split(|c: char| !c.is_ascii_alphanumeric());
        words.any(|word| DAYS.contains(&word))
    }

    /// The wait for a daily rate limit that states none.
    pub(crate) fn unstated_day(&self) -> Option<Duration> {
        self.names_a_day().then_some(UNSTATED_DAY)
    }

    /// Whether code or type is about a content filter or moderation: at every provider, the request's fault.
    pub(crate) fn is_content_filter(&self) -> bool {
        const SIGNS: &[&str] = &[
            "content_filter",
            "content_policy",
            "policy_violation",
            "moderation",
            "sensitivecontent",
            "riskdetection",
        ];
        [&self.code, &self.kind].into_iter().flatten().any(|name| {
            let name = name.to_ascii_lowercase();
            SIGNS.iter().any(|sign| name.contains(sign))
        })
    }

    /// The wait that headers or message state, for the classes that have one.
    pub(crate) fn stated_wait(
        &self,
        class: Class,
        response: &ErrorResponse<'_>,
    ) -> Option<Duration> {
        let header = || retry_after::retry_after(response.headers, response.now);
        match class {
            Class::RateLimited => header().or_else(|| retry_after::wait_in_sentence(&self.message)),
            Class::Exhausted => {
                header().or_else(|| retry_after::date_in(&self.message, response.now))
            }
            Class::UpstreamTrouble => header(),
            _ => None,
        }
    }
}

/// Whether the last sentence is complete: it ends with a full stop, a quotation or an address.
pub(super) fn ends_like_sentence(message: &str) -> bool {
    let message = message.trim_end();
    let last = message
        .rsplit(char::is_whitespace)
        .next()
        .unwrap_or_default();
    message.ends_with(['.', '!', ')', '#', '"', '\'', '`']) || last.starts_with("http")
}

/// Whether a message cannot be a caller's text with the provider's words behind it, such as `{field}: Extra inputs are not
/// permitted` or `{role} is no role`: it has no colon except before an address, and every sentence begins like one.
pub(super) fn is_of_provider(message: &str) -> bool {
    let has_field = message
        .match_indices(": ")
        .any(|(at, _)| !message[at + 2..].starts_with("http"));
    let goes_on = message.match_indices(". ").any(|(at, _)| {
        message[at + 2..]
            .trim_start()
            .starts_with(char::is_lowercase)
    });
    !has_field && !goes_on
}

/// The class that `names` gives this name.
pub(crate) fn class_in(names: &[(&str, Class)], name: &str) -> Option<Class> {
    let found = names.iter().find(|(known, _)| *known == name);
    found.map(|(_, class)| *class)
}

/// The class of a status if nothing else in the response decides. A 403 without a reason is as likely about the request
/// as about the key.
pub(super) fn class_of_status(status: u16) -> Class {
    match status {
        0..=399 => Class::Success,
        401 => Class::Rejected,
        402 => Class::Exhausted,
        408 | 425 | 499 | 500.. => Class::UpstreamTrouble,
        429 => Class::RateLimited,
        400..=498 => Class::CallerFault,
    }
}

/// The code if it may be shown: short, visible ASCII, and not like a credential.
pub(crate) fn loggable_code(code: &str) -> Option<String> {
    let visible = code.bytes().all(|b| b.is_ascii_graphic());
    let digits = code.bytes().filter(u8::is_ascii_digit).count();
    let key_like = looks_like_key(code) || (code.len() >= KEY_LENGTH && digits >= KEY_DIGITS);
    let fit = !code.is_empty() && code.len() <= LONGEST_CODE && visible && !key_like;
    fit.then(|| code.to_owned())
}

/// The first JSON value of a body, or of an event of a stream; of an array, its first element.
pub(crate) fn json(body: &[u8]) -> Option<Value> {
    let text = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    let value = first_value(text).or_else(|| {
        let lines = text.split(|b| matches!(b, b'\n' | b'\r'));
        lines
            .take_while(|line| is_event_line(line))
            .find_map(|line| first_value(line.strip_prefix(b"data:")?))
    });
    match value? {
        Value::Array(items) => items.into_iter().next(),
        value => Some(value),
    }
}

/// A short text that is neither a web page nor a part of JSON or of an event stream.
fn plain_text(body: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(body)
        .ok()?
        .trim_start_matches('\u{feff}')
        .trim();
    let is_other =
        text.starts_with(['<', '{', '[']) || text.lines().any(|line| line.starts_with("data:"));
    (text.len() <= LONGEST_TEXT && !is_other).then_some(text)
}

/// Whether a line can be part of an event. Other text may quote the caller, `data:` lines included.
fn is_event_line(line: &[u8]) -> bool {
    line.is_empty() || FIELD_STARTS.iter().any(|field| line.starts_with(field))
}

fn first_value(text: &[u8]) -> Option<Value> {
    serde_json::Deserializer::from_slice(text)
        .into_iter()
        .next()?
        .ok()
}

/// The object with code and message: nested in `error`, `detail` or `response.error`, or the body itself. Also the rest
/// of the body.
fn error_object(mut root: Value) -> (Value, Value) {
    for path in ["/error", "/detail", "/response/error"] {
        match root.pointer_mut(path) {
            Some(inner) if inner.is_object() => return (inner.take(), root),
            _ => {}
        }
    }
    (root, Value::Null)
}

/// A non-empty string, or a number as text.
fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::String(text) if !text.is_empty() => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &str) -> (Option<String>, Option<String>, String) {
        let body = ErrorBody::read(body.as_bytes());
        (body.code, body.kind, body.message)
    }

    fn some(text: &str) -> Option<String> {
        (!text.is_empty()).then(|| text.to_owned())
    }

    #[test]
    fn every_form_of_an_error_is_read() {
        for (body, code, kind, message) in [
            (
                r#"{"error":{"code":"c","type":"t","message":"m"}}"#,
                "c",
                "t",
                "m",
            ),
            (r#"{"error":{"code":429,"message":"m"}}"#, "429", "", "m"),
            ("\r\n\n {\"error\":{\"code\":\"c\"}}", "c", "", ""),
            ("\u{feff}{\"error\":{\"code\":\"c\"}}", "c", "", ""),
            (r#"[{"error":{"code":400,"message":"m"}}]"#, "400", "", "m"),
            (
                r#"{"type":"error","error":{"type":"t","message":"m"}}"#,
                "",
                "t",
                "m",
            ),
            (r#"{"type":"error","code":"c","message":"m"}"#, "c", "", "m"),
            (
                r#"{"type":"response.failed","response":{"error":{"code":"c","message":"m"}}}"#,
                "c",
                "",
                "m",
            ),
            (
                r#"{"object":"error","code":"1300","type":"t","message":"m"}"#,
                "1300",
                "t",
                "m",
            ),
            (r#"{"error":"m","code":"c"}"#, "c", "", "m"),
            (r#"{"detail":{"error":"m"}}"#, "", "", "m"),
            (r#"{"detail":"m"}"#, "", "", "m"),
            (r#"{"detail":[{"loc":["body"]}]}"#, "", "", ""),
            (r#""m""#, "", "", "m"),
            (
                r#"{"error":{"code":"","type":null,"message":7}}"#,
                "",
                "",
                "",
            ),
            (r#"{"error":null}{"more":1}"#, "", "", ""),
            ("[]", "", "", ""),
            ("<html>502</html>", "", "", ""),
            (" Insufficient Balance\n", "", "", "Insufficient Balance"),
            ("{\"error\":{\"code\":", "", "", ""),
            ("", "", "", ""),
        ] {
            assert_eq!(
                read(body),
                (some(code), some(kind), message.to_owned()),
                "{body}"
            );
        }
    }

    #[test]
    fn an_event_is_read_but_not_one_quoted_in_a_text() {
        for (body, code, kind, message) in [
            (
                "event: error\r\ndata: {\"type\":\"error\",\"error\":{\"type\":\"t\"}}\r\n\r\n",
                "",
                "t",
                "",
            ),
            (
                ": busy\n\ndata:{\"error\":{\"code\":\"c\"}}\n\n",
                "c",
                "",
                "",
            ),
            (
                "retry: 1\nid: 7\n\ndata: {\"error\":{\"code\":\"c\"}}\n\n",
                "c",
                "",
                "",
            ),
            (
                "no such role:\ndata: {\"error\":{\"code\":\"c\"}}\n\n",
                "",
                "",
                "",
            ),
            ("data: [DONE]\n\n", "", "", ""),
        ] {
            assert_eq!(
                read(body),
                (some(code), some(kind), message.to_owned()),
                "{body}"
            );
        }
    }

    #[test]
    fn only_the_beginning_of_a_message_is_trusted() {
        let body = ErrorBody::read(r#"{"error":{"message":" API key not valid: é"}}"#.as_bytes());
        for (words, begins) in [
            ("api key not valid", true),
            ("api key not valid: \u{e9}", true),
            ("key not valid", false),
            // Ends inside a character, or after the message.
            ("api key not valid: x", false),
            ("api key not valid: \u{e9} or so", false),
            ("", true),
        ] {
            assert_eq!(body.begins(words), begins, "{words}");
        }
        assert!(body.says("key not valid"));
    }

    #[test]
    fn a_statement_of_the_provider_differs_from_a_quotation() {
        for (message, states) in [
            ("API key expired. Please renew the API key.", true),
            ("API key expired. Go to: https://a.example/x", true),
            ("API key expired: Extra inputs are not permitted", false),
            ("API key expired. Please renew. is no role", false),
            ("API key expired. See https://a.example/x is no role", false),
            ("Unknown role: API key expired", false),
        ] {
            let body = ErrorBody::read(message.as_bytes());
            assert_eq!(body.states("api key expired"), states, "{message}");
        }
    }

    #[test]
    fn a_code_never_shows_a_credential() {
        for fit in [
            "insufficient_quota",
            "429",
            "InvalidEndpointOrModel.NotFound",
            "RESOURCE_EXHAUSTED",
            "20012",
        ] {
            assert_eq!(loggable_code(fit).as_deref(), Some(fit));
        }
        let long = "x".repeat(81);
        for unfit in [
            "",
            "two words",
            "naïve",
            "line\nbreak",
            "sk-a",
            "invalid:sk-proj-abcdefgh",
            "AIzaSyABC",
            "tvly-dev-x",
            "0f5e3a1c-7a8b-4c2d-9e1f-aabbccddeeff",
            &long,
        ] {
            assert_eq!(loggable_code(unfit), None, "{unfit}");
        }
    }

    #[test]
    fn every_status_has_a_class() {
        for (class, statuses) in [
            (Class::Success, &[0, 100, 200, 204, 301, 304, 399][..]),
            (
                Class::CallerFault,
                &[400, 403, 404, 405, 409, 410, 413, 415, 422, 432, 451, 498],
            ),
            (Class::Rejected, &[401]),
            (Class::Exhausted, &[402]),
            (Class::RateLimited, &[429]),
            (
                Class::UpstreamTrouble,
                &[
                    408,
                    425,
                    499,
                    500,
                    501,
                    502,
                    503,
                    504,
                    520,
                    527,
                    529,
                    599,
                    600,
                    u16::MAX,
                ],
            ),
        ] {
            for status in statuses {
                assert_eq!(class_of_status(*status), class, "{status}");
            }
        }
    }
}
