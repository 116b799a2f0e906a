//! Responses and errors before they are sent, and what all protocols share: headers, generated text, JSON helpers.
//!
//! This module must never know of sockets, scripts or paths.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue, SET_COOKIE};
use http::{HeaderMap, StatusCode};

use crate::script::Behaviour;
use crate::shape::Content;
use crate::state::State;

pub(crate) const JSON: HeaderValue = HeaderValue::from_static("application/json");
pub(crate) const EVENTS: HeaderValue = HeaderValue::from_static("text/event-stream; charset=utf-8");

const FIRST_SENTENCE: &str = "This answer is made up by keypool's mock provider. You said: ";

/// The wire format of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    OpenAi,
    /// OpenAI's format with its own error codes and images.
    Ark,
    Anthropic,
    Gemini,
    Tavily,
}

/// A response whose body is not yet cut into timed pieces.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) content: Content,
}

/// The kind of an error, for all protocols.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Invalid,
    UnknownKey,
    Requests,
    Concurrency,
    Overloaded,
    NotFound,
    TooLarge,
    Forbidden,
    Other,
}

/// An error that a protocol then formats.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ApiError {
    pub(crate) status: u16,
    pub(crate) kind: Kind,
    pub(crate) message: String,
    pub(crate) retry_after: Option<u64>,
}

impl ApiError {
    pub(crate) fn new(status: u16, kind: Kind, message: impl Into<String>) -> Self {
        ApiError {
            status,
            kind,
            message: message.into(),
            retry_after: None,
        }
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(400, Kind::Invalid, message)
    }

    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(404, Kind::NotFound, message)
    }

    pub(crate) fn after(mut self, seconds: Option<u64>) -> Self {
        self.retry_after = seconds;
        self
    }

    /// The error that a status usually means.
    pub(crate) fn of_status(status: u16) -> Self {
        let (kind, message) = match status {
            400 => (
                Kind::Invalid,
                "The mock provider was told to call this request invalid.",
            ),
            401 => (
                Kind::UnknownKey,
                "The mock provider was told not to know this key.",
            ),
            403 => (
                Kind::Forbidden,
                "The mock provider was told to forbid this model.",
            ),
            404 => (
                Kind::NotFound,
                "The mock provider was told not to know what was asked for.",
            ),
            413 => (
                Kind::TooLarge,
                "The mock provider was told to find this request too large.",
            ),
            429 => (
                Kind::Requests,
                "Rate limit reached for requests (scripted in the mock provider).",
            ),
            503 | 529 => (
                Kind::Overloaded,
                "The mock provider is overloaded, as it was told to be.",
            ),
            _ => (Kind::Other, "The mock provider was told to fail."),
        };
        Self::new(status, kind, message)
    }
}

impl Answer {
    /// 200 with a JSON body.
    pub(crate) fn json(protocol: Protocol, state: &State, body: String) -> Self {
        Self::whole(protocol, state, JSON, Bytes::from(body))
    }

    /// 200 with any body.
    pub(crate) fn whole(
        protocol: Protocol,
        state: &State,
        content_type: HeaderValue,
        body: Bytes,
    ) -> Self {
        let headers = provider_headers(protocol, state, content_type);
        Answer {
            status: StatusCode::OK,
            headers,
            content: Content::Whole(body),
        }
    }

    /// 200 with a stream of events.
    pub(crate) fn stream(
        protocol: Protocol,
        state: &State,
        content_type: HeaderValue,
        events: Vec<Bytes>,
    ) -> Self {
        let headers = provider_headers(protocol, state, content_type);
        Answer {
            status: StatusCode::OK,
            headers,
            content: Content::Stream(events),
        }
    }

    /// An error with a JSON body.
    pub(crate) fn error(protocol: Protocol, state: &State, status: u16, body: String) -> Self {
        let mut answer = Self::json(protocol, state, body);
        answer.status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        answer
    }

    pub(crate) fn retry_after(mut self, seconds: Option<u64>) -> Self {
        if let Some(seconds) = seconds {
            self.headers
                .insert(http::header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        self
    }

    pub(crate) fn header(mut self, name: &'static str, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.insert(HeaderName::from_static(name), value);
        }
        self
    }
}

/// The headers of the provider's responses. A gateway must relay some of them and strip others.
fn provider_headers(protocol: Protocol, state: &State, content_type: HeaderValue) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(12);
    let mut fixed = |name, value| {
        headers.insert(
            HeaderName::from_static(name),
            HeaderValue::from_static(value),
        )
    };
    match protocol {
        Protocol::OpenAi => {
            fixed("openai-organization", "org-mock");
            fixed("openai-version", "2020-10-01");
            fixed("openai-processing-ms", "7");
            fixed("x-ratelimit-limit-requests", "10000");
            fixed("x-ratelimit-remaining-requests", "9999");
            fixed("x-ratelimit-reset-requests", "6ms");
        }
        Protocol::Anthropic => {
            fixed("anthropic-organization-id", "org-mock");
            fixed("anthropic-ratelimit-requests-limit", "4000");
            fixed("anthropic-ratelimit-requests-remaining", "3999");
        }
        Protocol::Gemini => {
            fixed("x-frame-options", "SAMEORIGIN");
        }
        Protocol::Ark | Protocol::Tavily => {}
    }
    headers.insert(CONTENT_TYPE, content_type);
    headers.insert(
        SET_COOKIE,
        HeaderValue::from_static("__mock=chocolate; path=/; HttpOnly; Secure"),
    );
    let id = match protocol {
        Protocol::Gemini => return headers,
        Protocol::Anthropic => (HeaderName::from_static("request-id"), state.id("req_")),
        _ => (HeaderName::from_static("x-request-id"), state.id("req_")),
    };
    if let Ok(value) = HeaderValue::from_str(&id.1) {
        headers.insert(id.0, value);
    }
    headers
}

/// A generated answer, in the pieces in which a stream sends it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) pieces: Vec<String>,
    pub(crate) input_tokens: u64,
    pub(crate) output_tokens: u64,
    /// Tokens of the input.
    pub(crate) cached_tokens: u64,
    /// Whether the call's token limit ended it.
    pub(crate) cut_short: bool,
}

impl Reply {
    /// An answer to `said` of at most `max_tokens` words.
    pub(crate) fn to(
        said: &str,
        max_tokens: Option<u64>,
        body_len: usize,
        behaviour: &Behaviour,
    ) -> Self {
        let mut text = format!("{FIRST_SENTENCE}{said}");
        if text.split_inclusive(' ').count() < behaviour.chunks && !text.ends_with(' ') {
            text.push(' ');
        }
        let mut words: Vec<&str> = text.split_inclusive(' ').collect();
        let lacking = behaviour.chunks.saturating_sub(words.len());
        words.extend(FIRST_SENTENCE.split_inclusive(' ').cycle().take(lacking));
        let most = usize::try_from(max_tokens.unwrap_or(u64::MAX))
            .unwrap_or(usize::MAX)
            .max(1);
        let cut_short = words.len() > most;
        words.truncate(most);
        let n_pieces = behaviour.chunks.clamp(1, words.len());
        let start_of = |piece: usize| piece * words.len() / n_pieces;
        let pieces = (0..n_pieces)
            .map(|piece| words[start_of(piece)..start_of(piece + 1)].concat())
            .collect();
        Reply {
            pieces,
            input_tokens: input_tokens(body_len, behaviour),
            output_tokens: behaviour.output_tokens.unwrap_or(words.len() as u64),
            cached_tokens: 0,
            cut_short,
        }
    }

    pub(crate) fn text(&self) -> String {
        self.pieces.concat()
    }

    pub(crate) fn total_tokens(&self) -> u64 {
        self.input_tokens + self.output_tokens
    }
}

/// Input tokens, estimated as four bytes each.
pub(crate) fn input_tokens(body_len: usize, behaviour: &Behaviour) -> u64 {
    behaviour.input_tokens.unwrap_or(body_len as u64 / 4 + 1)
}

/// `text` as a JSON string, quotes included.
pub(crate) fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// A list of texts as a JSON array.
pub(crate) fn array(items: impl IntoIterator<Item = String>) -> String {
    let items: Vec<String> = items.into_iter().collect();
    format!("[{}]", items.join(","))
}

/// `seconds` since 1970 as RFC 3339 in UTC.
pub(crate) fn rfc3339(seconds: u64) -> String {
    let (days, of_day) = (seconds / 86_400, seconds % 86_400);
    // Civil date from days. Years start in March, so that the leap day comes last.
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// A unit vector that depends on `seed` alone.
pub(crate) fn vector(seed: u64, dimensions: usize) -> Vec<f32> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let raw: Vec<f32> = (0..dimensions).map(|_| rng.f32() - 0.5).collect();
    let norm = raw
        .iter()
        .map(|x| x * x)
        .sum::<f32>()
        .sqrt()
        .max(f32::MIN_POSITIVE);
    raw.iter().map(|x| x / norm).collect()
}

/// A vector as a JSON array of numbers.
pub(crate) fn numbers(vector: &[f32]) -> String {
    array(vector.iter().map(|x| format!("{x:.8}")))
}

/// Standard base64 with padding.
pub(crate) fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let byte = |n: usize| u32::from(group.get(n).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for digit in 0..4 {
            let value = (bits >> (18 - 6 * digit)) as usize & 63;
            text.push(if digit <= group.len() {
                char::from(DIGITS[value])
            } else {
                '='
            });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_pads() {
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
        assert_eq!(base64(&[0xfb, 0xff, 0xfe]), "+//+");
    }

    #[test]
    fn dates_respect_leap_years() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_827_696, "2000-02-29T12:34:56Z"),
            (1_709_251_199, "2024-02-29T23:59:59Z"),
            (1_735_689_600, "2025-01-01T00:00:00Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(rfc3339(seconds), text);
        }
    }

    #[test]
    fn replies_have_the_requested_chunks_and_respect_the_token_limit() {
        let reply = |chunks, max| {
            Reply::to(
                "hi there",
                max,
                40,
                &Behaviour {
                    chunks,
                    ..Behaviour::default()
                },
            )
        };
        for chunks in [1, 2, 8, 13, 14, 100] {
            let reply = reply(chunks, None);
            assert_eq!(reply.pieces.len(), chunks);
            assert!(reply.pieces.iter().all(|piece| !piece.is_empty()));
            assert!(
                reply
                    .text()
                    .starts_with(&format!("{FIRST_SENTENCE}hi there"))
            );
            assert_eq!(
                reply.output_tokens as usize,
                reply.text().split(' ').filter(|w| !w.is_empty()).count()
            );
        }
        assert_eq!(
            (reply(8, None).input_tokens, reply(8, None).cut_short),
            (11, false)
        );
        let short = reply(8, Some(3));
        assert_eq!(
            (short.text().as_str(), short.output_tokens, short.cut_short),
            ("This answer is ", 3, true)
        );
        assert_eq!(reply(0, Some(0)).pieces, ["This "]);
    }

    #[test]
    fn vectors_have_length_one_and_depend_on_the_seed() {
        let one = vector(5, 64);
        assert!((one.iter().map(|x| x * x).sum::<f32>() - 1.0).abs() < 1e-4);
        assert_eq!(one, vector(5, 64));
        assert_ne!(one, vector(6, 64));
    }
}
