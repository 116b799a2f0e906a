//! Providers' responses: every dialect's verdict, waits in every form, errors inside a 200.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderValue};
use keypool_core::fault::Class;
use keypool_providers::catalogue;
use keypool_providers::errors::ErrorResponse;
use keypool_providers::errors::retry_after::{parse_wait, retry_after};
use keypool_providers::protocol::{error_in_body, error_in_event, event_data};
use serde_json::Value;

use crate::fuzz;
use crate::source::{ANSWERS, Source, WORDS};

/// Maximum wait.
const LONGEST_WAIT: Duration = Duration::from_secs(31 * 24 * 60 * 60);

/// A time, also beyond the years that a calendar knows, on both sides.
fn time(source: &mut Source<'_>) -> SystemTime {
    let span = Duration::from_secs(source.number() % 1_000_000_000_000);
    let time = if source.flip() {
        SystemTime::UNIX_EPOCH.checked_add(span)
    } else {
        SystemTime::UNIX_EPOCH.checked_sub(span)
    };
    time.unwrap_or(SystemTime::UNIX_EPOCH)
}

#[test]
fn every_response_has_a_class_and_a_bounded_wait() {
    fuzz!(|source: &mut Source<'_>| {
        let known = source.one_of(&ANSWERS);
        let all = catalogue::ALL;
        let (name, status) = match source.byte() % 4 {
            // As in the fixture, or with another status, another dialect, or both.
            0 | 1 => (known.dialect, known.status),
            2 => (known.dialect, source.number() as u16),
            _ => (source.one_of(all).name, source.one_of(STATUSES).to_owned()),
        };
        let now = time(source);
        let mut headers = source.headers();
        if source.flip() {
            headers.extend(known.headers.clone());
        }
        let body = match source.byte() % 4 {
            0 => source.body(),
            1 => with_message(&known.body, &source.text(SENTENCES)),
            _ => source.damaged(known.body.clone()),
        };
        let dialect = catalogue::find(name).unwrap();
        let response = ErrorResponse {
            status,
            headers: &headers,
            body: &body,
            now,
        };
        let fault = dialect.judge(&response);
        assert_eq!(
            fault.class == Class::Success,
            status < 400,
            "{name} {status}"
        );
        assert!(
            fault.wait.is_none_or(|wait| wait <= LONGEST_WAIT),
            "{name}: {fault:?}"
        );
        let is_fit = |code: &str| {
            (1..=80).contains(&code.len()) && code.bytes().all(|b| b.is_ascii_graphic())
        };
        assert!(
            fault.code.as_deref().is_none_or(is_fit),
            "{name}: {fault:?}"
        );
        if matches!(fault.class, Class::Success | Class::CallerFault) {
            assert_eq!(
                fault.wait, None,
                "{name}: no key cools down for {:?}",
                fault.class
            );
        }
        let listed = dialect.parse_models(&body).unwrap_or_default();
        assert!(listed.iter().all(|model| !model.id.is_empty()));
    });
}

/// A body whose error says `message`.
fn with_message(body: &[u8], message: &str) -> Vec<u8> {
    let Ok(mut tree) = serde_json::from_slice::<Value>(body) else {
        return message.as_bytes().to_vec();
    };
    let place = [
        "/error/message",
        "/0/error/message",
        "/message",
        "/detail/error",
    ]
    .into_iter()
    .find(|place| tree.pointer(place).is_some());
    if let Some(said) = place.and_then(|place| tree.pointer_mut(place)) {
        *said = message.into();
    }
    tree.to_string().into_bytes()
}

#[test]
fn a_wait_is_read_in_every_form_or_not_at_all() {
    fuzz!(|source: &mut Source<'_>| {
        let now = time(source);
        let text = match source.byte() % 4 {
            0 => source.number().to_string(),
            1 => String::from_utf8_lossy(source.rest()).into_owned(),
            _ => source.text(WAITS),
        };
        let wait = parse_wait(&text, now);
        assert!(
            wait.is_none_or(|wait| wait <= LONGEST_WAIT),
            "{text:?}: {wait:?}"
        );
        if text.len() < 62 {
            assert_eq!(parse_wait(&format!(" {text}\t"), now), wait, "{text:?}");
        }
        let is_number = (1..10).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
        if let Some(seconds) = text.parse().ok().filter(|_| is_number) {
            let expect = Duration::from_secs(seconds).min(LONGEST_WAIT);
            assert_eq!(wait, Some(expect), "{text:?}");
            assert_eq!(
                parse_wait(&format!("{text}s"), now),
                Some(expect),
                "{text:?}"
            );
        }
        let Ok(value) = HeaderValue::from_str(&text) else {
            return;
        };
        let mut headers = HeaderMap::new();
        headers.insert("retry-after", value.clone());
        if text.is_ascii() {
            assert_eq!(retry_after(&headers, now), wait, "{text:?}");
        }
        headers.insert("retry-after-ms", value);
        let wait = retry_after(&headers, now);
        assert!(
            wait.is_none_or(|wait| wait <= LONGEST_WAIT),
            "{text:?}: {wait:?}"
        );
    });
}

#[test]
fn an_error_inside_a_200_is_one_by_a_full_parse_too() {
    fuzz!(|source: &mut Source<'_>| {
        let body = source.body();
        let status = error_in_body(&body);
        assert!(
            status.is_none_or(|status| (400..600).contains(&status)),
            "{status:?}"
        );
        if let Ok(tree) = serde_json::from_slice::<Value>(&body) {
            let object = match &tree {
                Value::Array(items) if items.len() == 1 => &items[0],
                tree => tree,
            };
            let is = |name: &str| object.get(name).is_some_and(|value| value == "error");
            let has_error = object.get("error").is_some_and(|error| !error.is_null());
            let is_error = has_error || is("type") || is("object");
            let answers = ["choices", "output", "content", "candidates", "data", "id"];
            let is_answer = answers.iter().any(|name| object.get(name).is_some());
            assert_eq!(status.is_some(), is_error && !is_answer, "{tree}");
        }
        let event = match source.byte() % 3 {
            0 => body,
            1 => [b"data: ", &*body, b"\n\n"].concat(),
            _ => [b"event: error\r\ndata:", &*body, b"\r\n\r\n"].concat(),
        };
        let status = error_in_event(&event);
        assert!(
            status.is_none_or(|status| (400..600).contains(&status)),
            "{status:?}"
        );
        if let Ok(tree) = serde_json::from_slice::<Value>(&event_data(&event)) {
            let has_error = tree.get("error").is_some_and(|error| !error.is_null());
            assert!(status.is_some() || !has_error, "{tree}");
        }
    });
}

const STATUSES: &[u16] = &[
    0, 200, 302, 399, 400, 401, 402, 403, 404, 408, 413, 422, 425, 429, 432, 433, 498, 499, 500,
    502, 503, 504, 529, 600,
];

/// Pieces of sentences in which providers state a wait.
const SENTENCES: &[&str] = &[
    "Please try again in ",
    "retry after ",
    "Retry in ",
    "regain access on ",
    "2026-12-01",
    " at 00:00 UTC",
    "7m12s",
    "20",
    " seconds",
    "1 minute and 30 seconds",
    ".",
    ", ",
    "1.5",
    "ms",
    "h",
    "9999999999999999999",
    "TPD",
    "RPD",
    " limit 1, requested 2",
    "Request too large",
    "Limit 30,000",
    "Requested ~12903",
    "-",
    "+08:00",
    "12:30:61",
    "T",
    "é",
    "usage quota",
    "5-hour",
    "monthly",
    "free trial quota",
    "insufficient balance",
    "Your account ",
];

const WAITS: &[&str] = &[
    "0",
    "1",
    "59",
    "1.5",
    ".",
    "s",
    "ms",
    "m",
    "h",
    "µs",
    "ns",
    "d",
    "2026-11-22",
    "T",
    "12:00:30",
    "Z",
    "+08:00",
    " ",
    "Sun, 22 Nov 2026 12:00:30 GMT",
    "Sunday, 22-Nov-26 12:01:00 GMT",
    "Sun Nov 22 12:01:00 2026",
    "GMT",
    "Sun, ",
    "31 Feb",
    "1795348860",
    "1795348860123",
    "-",
    "99999999",
    ":",
    "e9",
    "é",
];

#[test]
fn no_text_that_dialects_look_for_is_an_endless_wait() {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_348_800);
    for word in WORDS {
        assert!(
            parse_wait(word, now).is_none_or(|wait| wait <= LONGEST_WAIT),
            "{word}"
        );
    }
}
