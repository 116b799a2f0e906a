//! Errors inside a 200: whether a body or an event is one, and which status it implies.
//!
//! Must never decide what an error means for a key: a dialect does, from the status found here.

use std::borrow::Cow;
use std::sync::LazyLock;

use memchr::memmem::Finder;
use serde_json::value::RawValue;

use super::error_names::{stated_status, status_of_word};
use crate::read::json_scan::{pick, unescaped};
use crate::read::sse::{event_data, event_name};

/// Maximum size of an error, in bytes. Larger bodies are answers.
const LARGEST_ERROR: usize = 64 << 10;

/// Top-level fields of an answer: it has at least one of them.
const ANSWERS: [&str; 6] = ["choices", "output", "content", "candidates", "data", "id"];

/// Fields of an error that identify it, the most specific first.
const IDENTIFYING: [&str; 5] = ["code", "http_status", "status", "type", "error_type"];

/// The status implied by the body of a 200; `None` if it is not an error.
pub fn error_in_body(body: &[u8]) -> Option<u16> {
    if body.len() > LARGEST_ERROR {
        return None;
    }
    if !may_be_error(body) {
        return None;
    }
    let text = text_of(body);
    let object = only_object(&text)?;
    let has_no_answer =
        || pick(object, ANSWERS).is_some_and(|found| found.iter().all(Option::is_none));
    stated_error(object).filter(|_| has_no_answer())
}

/// Whether a text contains a word that every error has. Most texts are no errors, and need not be parsed.
fn may_be_error(text: &[u8]) -> bool {
    static SIGNS: LazyLock<[Finder<'static>; 3]> =
        LazyLock::new(|| ["\"error\"", "\"response.failed\"", "\\u"].map(Finder::new));
    SIGNS.iter().any(|sign| sign.find(text).is_some())
}

/// The status implied by an event of a stream; `None` if it is not an error. `event` is the event's raw bytes.
pub fn error_in_event(event: &[u8]) -> Option<u16> {
    error_in_data(&event_data(event), event_name(event) == Some(b"error"))
}

/// The status implied by an event's data. `is_named`: the event's name says that it is an error.
pub(crate) fn error_in_data(data: &[u8], is_named: bool) -> Option<u16> {
    if !is_named && !may_be_error(data) {
        return None;
    }
    let text = text_of(data);
    let object = only_object(&text);
    let in_data = object.and_then(error_in_object);
    in_data.or_else(|| is_named.then(|| object.map_or(DEFAULT_STATUS, implied_status)))
}

/// The status implied by an object of an event.
fn error_in_object(object: &str) -> Option<u16> {
    if let Some(status) = stated_error(object) {
        return Some(status);
    }
    let [kind, response] = pick(object, ["type", "response"])?;
    if kind.and_then(unescaped)? != "response.failed" {
        return None;
    }
    let [error] = response
        .and_then(|response| pick(response, ["error"]))
        .unwrap_or_default();
    Some(error.map_or(DEFAULT_STATUS, implied_status))
}

/// The status implied by an object that says of itself that it is an error.
fn stated_error(object: &str) -> Option<u16> {
    let [error, kind, object_kind] = pick(object, ["error", "type", "object"])?;
    if let Some(error) = not_null(error) {
        return Some(implied_status(error));
    }
    let is_error = |field: Option<&str>| field.and_then(unescaped).as_deref() == Some("error");
    (is_error(kind) || is_error(object_kind)).then(|| implied_status(object))
}

/// The text of the object in `json`, or of the only item if it is a list, as from Gemini.
pub(crate) fn only_object(json: &str) -> Option<&str> {
    let text = json.trim_start();
    if text.starts_with('[') {
        let [object] = serde_json::from_str::<[&RawValue; 1]>(text).ok()?;
        return Some(object.get());
    }
    text.starts_with('{').then_some(text)
}

/// The bytes as text. A provider's words may be in another encoding, and its codes are still ASCII.
pub(crate) fn text_of(bytes: &[u8]) -> Cow<'_, str> {
    simdutf8::basic::from_utf8(bytes).map_or_else(|_| String::from_utf8_lossy(bytes), Cow::Borrowed)
}

fn not_null(raw: Option<&str>) -> Option<&str> {
    raw.filter(|raw| *raw != "null")
}

/// The status of an error that gives no hint.
const DEFAULT_STATUS: u16 = 500;

/// The status of an error value: the one that it states, otherwise that of its most specific name.
fn implied_status(error: &str) -> u16 {
    let of_word = |raw: &str| status_of_word(&unescaped(raw)?);
    let found = match pick(error, IDENTIFYING) {
        Some(fields) => {
            let fields = || fields.into_iter().flatten();
            fields()
                .find_map(stated_status)
                .or_else(|| fields().find_map(of_word))
        }
        None => of_word(error),
    };
    found.unwrap_or(DEFAULT_STATUS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_words(status: u16, words: &str) {
        for word in words.split_whitespace() {
            for field in ["code", "status", "type"] {
                let body = format!(r#"{{"error":{{"message":"m","{field}":"{word}"}}}}"#);
                assert_eq!(error_in_body(body.as_bytes()), Some(status), "{body}");
            }
        }
    }

    #[test]
    fn names_that_blame_the_request_or_the_key() {
        let bad_request = "invalid_request_error INVALID_ARGUMENT FAILED_PRECONDITION BadRequest
            context_length_exceeded MissingParameter.x InvalidParameter.m InvalidImageURL.EmptyURL";
        let filtered = "content_filter content_policy_violation SensitiveContentDetected
            InputTextSensitiveContentDetected.PolicyViolation OutputTextRiskDetection";
        let rejected =
            "invalid_api_key authentication_error UNAUTHENTICATED Unauthorized authentication
            AuthenticationError invalid_authentication_error InvalidAccountStatus";
        let forbidden = "permission_error PERMISSION_DENIED AccountOverdueError AccessDenied
            OperationDenied.ServiceNotOpen";
        let missing = "not_found_error NOT_FOUND model_not_found ModelNotOpen UnsupportedModel
            InvalidEndpointOrModel.NotFound InvalidEndpointOrModel.ModelIDAccessDisabled";
        check_words(400, bad_request);
        check_words(400, filtered);
        check_words(401, rejected);
        check_words(402, "billing_error payment_required");
        check_words(403, forbidden);
        check_words(404, missing);
        check_words(409, "conflict_error ABORTED");
        check_words(413, "request_too_large");
    }

    #[test]
    fn names_for_overload_and_limits() {
        let limited =
            "rate_limit_error rate_limit_exceeded rate_limited RESOURCE_EXHAUSTED slow_down
            RateLimitExceeded.EndpointRPMExceeded ModelAccountTpmRateLimitExceeded
            InflightBatchsizeExceeded ServerOverloaded RequestBurstTooFast engine_overloaded_error";
        let exhausted = "insufficient_quota exceeded_current_quota_error credit_balance_exhausted
            QuotaExceeded SetLimitExceeded";
        let overloaded =
            "UNAVAILABLE server_is_overloaded service_unavailable_error provider_overloaded";
        check_words(429, limited);
        check_words(429, exhausted);
        check_words(
            500,
            "INTERNAL api_error server_error InternalServiceError something_new",
        );
        check_words(502, "provider_unavailable");
        check_words(503, overloaded);
        check_words(504, "DEADLINE_EXCEEDED timeout_error timeout");
        check_words(529, "overloaded_error");
    }

    #[test]
    fn a_stated_status_comes_before_words_and_code_before_type() {
        for (error, status) in [
            (
                r#"{"code":503,"message":"m","status":"INVALID_ARGUMENT"}"#,
                503,
            ),
            (r#"{"code":"402","type":"rate_limit_error"}"#, 402),
            (r#"{"code":200,"type":"rate_limit_error"}"#, 429),
            (r#"{"code":"1300","type":"rate_limited"}"#, 429),
            (
                r#"{"error_type":"provider_overloaded","http_status":502}"#,
                502,
            ),
            (
                r#"{"code":"rate_limit_exceeded","type":"invalid_request_error"}"#,
                429,
            ),
            (r#"{"code":null,"type":"overloaded_error"}"#, 529),
            (r#"{"code":{"a":1},"type":["x"],"status":-1}"#, 500),
            (r#""Unauthorized""#, 401),
            (r#""Too Many Requests""#, 429),
            (r#""boom""#, 500),
            (r#""Unexpected role 'invalid_api_key'""#, 500),
            (r#"{"message":"invalid_api_key","type":"x"}"#, 500),
            ("true", 500),
            ("{}", 500),
        ] {
            assert_eq!(
                error_in_body(format!(r#"{{"error":{error}}}"#).as_bytes()),
                Some(status),
                "{error}"
            );
        }
        let sentence = format!(r#"{{"error":"{} rate limit"}}"#, "long ".repeat(40));
        assert_eq!(error_in_body(sentence.as_bytes()), Some(500));
    }

    #[test]
    fn a_body_with_an_answer_is_no_error() {
        for field in ANSWERS {
            for value in ["[]", "{}", "\"x\"", "null"] {
                let body = format!(r#"{{"error":{{"code":429}},"{field}":{value}}}"#);
                assert_eq!(error_in_body(body.as_bytes()), None, "{body}");
            }
        }
        for body in [
            "",
            "null",
            "[]",
            "{",
            r#"{"error":null}"#,
            r#"{"message":"x"}"#,
            r#"{"results":[{"error":"x"}]}"#,
            r#""error""#,
            "<html>",
            r#"[{"error":{"code":429}},{"error":{"code":429}}]"#,
            r#"[{"error":{"code":429}}"#,
            r#"{"error":{"code":429}} x"#,
            r#"[{"candidates":[],"error":{"code":429}}]"#,
            "[1]",
            "[[{\"error\":1}]]",
        ] {
            assert_eq!(error_in_body(body.as_bytes()), None, "{body}");
        }
        assert_eq!(
            error_in_body(b"{\"error\":{\"code\":503,\"message\":\"caf\xe9\"}}"),
            Some(503)
        );
    }

    #[test]
    fn leading_blanks_lists_and_sizes() {
        assert_eq!(
            error_in_body(b"\n\n\r\n {\"error\":{\"code\":503}}\n"),
            Some(503)
        );
        assert_eq!(
            error_in_body(br#" [ {"error":{"code":429,"status":"RESOURCE_EXHAUSTED"}} ] "#),
            Some(429)
        );
        let body = |size: usize| {
            let frame = r#"{"error":{"code":503,"message":""}}"#;
            frame
                .replace(
                    r#":""}"#,
                    &format!(r#":"{}"}}"#, "x".repeat(size - frame.len())),
                )
                .into_bytes()
        };
        assert_eq!(body(65_536).len(), 65_536);
        assert_eq!(error_in_body(&body(65_536)), Some(503));
        assert_eq!(error_in_body(&body(65_537)), None);
        let deep = format!(
            r#"{{"error":{}{}}}"#,
            "[".repeat(30_000),
            "]".repeat(30_000)
        );
        assert_eq!(error_in_body(deep.as_bytes()), Some(500));
    }

    #[test]
    fn first_events_that_are_errors() {
        for (event, status) in [
            (
                r#"data: {"error":{"message":"m","type":"server_error","code":"rate_limit_exceeded","param":null}}"#,
                429,
            ),
            (
                r#"data:{"id":"gen-1","choices":[{"finish_reason":"error"}],"error":{"code":502,"message":"m"}}"#,
                502,
            ),
            (
                "event: error\ndata: {\"type\":\"error\",\"code\":\"server_is_overloaded\",\"message\":\"m\",\"sequence_number\":0}",
                503,
            ),
            (
                r#"data: {"type":"error","code":null,"message":"m","param":null}"#,
                500,
            ),
            (
                "event: response.failed\ndata: {\"type\":\"response.failed\",\"response\":{\"id\":\"r\",\"error\":{\"code\":\"rate_limit_exceeded\"}}}",
                429,
            ),
            (
                r#"data: {"type":"response.failed","response":{"error":null}}"#,
                500,
            ),
            (r#"data: {"type":"response.failed"}"#, 500),
            (
                "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"m\"}}",
                529,
            ),
            (
                "event: error\r\ndata: {\"type\":\"error\",\r\ndata: \"error\":{\"type\":\"api_error\"}}\r\n",
                500,
            ),
            ("event: error\ndata: {\"code\":\"invalid_api_key\"}", 401),
            ("event: error\ndata: gone", 500),
            ("event: error", 500),
            (
                r#"data: {"error":{"code":503,"message":"m","status":"UNAVAILABLE"}}"#,
                503,
            ),
            (r#"data: [{"error":{"code":429,"message":"m"}}]"#, 429),
            (
                r#"data: {"event_type":"error","error":{"code":"resource_exhausted","message":"m"}}"#,
                429,
            ),
            (
                r#"data: {"object":"error","message":"m","type":"rate_limited","code":"1300"}"#,
                429,
            ),
        ] {
            assert_eq!(
                error_in_event(format!("{event}\n\n").as_bytes()),
                Some(status),
                "{event}"
            );
        }
    }

    #[test]
    fn first_events_that_are_not_errors() {
        for event in [
            r#"data: {"id":"c","choices":[{"delta":{"content":"error"}}]}"#,
            r#"data: {"id":"c","choices":[],"error":null}"#,
            "data: [DONE]",
            "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"error\":{\"code\":500}}}",
            "event: response.created\ndata: {\"type\":\"response.created\",\"response\":{\"error\":null}}",
            r#"data: {"candidates":[{"content":{"parts":[{"text":"{\"error\":{}}"}]}}]}"#,
            ": error\nid: 1",
            "data: error",
            "data:",
        ] {
            assert_eq!(
                error_in_event(format!("{event}\n\n").as_bytes()),
                None,
                "{event}"
            );
        }
    }
}
