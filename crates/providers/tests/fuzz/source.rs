//! Derives test data from an input's bytes: choices, and bodies that look like those of clients and providers.
//!
//! The same bytes always give the same data, and a small change of the bytes a small change of the data: fuzzers need it.

use std::sync::LazyLock;

use http::{HeaderMap, HeaderName, HeaderValue};
use keypool_providers::catalogue;
use serde_json::Value;

/// An input that is read from its beginning. After its end all bytes are 0.
pub(crate) struct Source<'a> {
    left: &'a [u8],
}

impl<'a> Source<'a> {
    pub(crate) fn new(left: &'a [u8]) -> Self {
        Self { left }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.left.is_empty()
    }

    pub(crate) fn byte(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or_default()
    }

    pub(crate) fn flip(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    pub(crate) fn number(&mut self) -> u64 {
        let bytes = self.take(8).iter();
        bytes.fold(0, |number, byte| number << 8 | u64::from(*byte))
    }

    /// A number below `end`; 0 if there is none.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        let bytes = if end > 256 { 2 } else { 1 };
        let number = self.take(bytes).iter();
        number.fold(0, |number, byte| number << 8 | usize::from(*byte)) % end.max(1)
    }

    pub(crate) fn one_of<'c, T>(&mut self, choices: &'c [T]) -> &'c T {
        &choices[self.below(choices.len())]
    }

    pub(crate) fn take(&mut self, length: usize) -> &'a [u8] {
        let (taken, left) = self.left.split_at(length.min(self.left.len()));
        self.left = left;
        taken
    }

    pub(crate) fn rest(&mut self) -> &'a [u8] {
        self.take(usize::MAX)
    }

    /// Text out of `pieces` and of the input's own.
    pub(crate) fn text(&mut self, pieces: &[&str]) -> String {
        let mut text = String::new();
        while !self.is_empty() && text.len() < 400 {
            match self.byte() {
                0 => break,
                byte if byte % 4 == 1 => {
                    let length = self.below(12);
                    text.push_str(&String::from_utf8_lossy(self.take(length)));
                }
                _ => {
                    let piece = *self.one_of(pieces);
                    text.push_str(piece);
                }
            }
        }
        text
    }

    /// A body of any kind: bytes as they are, pieces of JSON, an object, an answer of a provider; some of them damaged.
    pub(crate) fn body(&mut self) -> Vec<u8> {
        match self.byte() % 8 {
            0 => self.rest().to_vec(),
            1 => {
                let pieces =
                    std::iter::from_fn(|| (!self.is_empty()).then(|| *self.one_of(PIECES)));
                pieces.collect::<Vec<_>>().concat()
            }
            2..=4 => self.object(),
            5 | 6 => {
                let body = self.object();
                self.damaged(body)
            }
            _ => {
                let body = self.one_of(&ANSWERS).body.clone();
                self.damaged(body)
            }
        }
    }

    /// `body` with a few small changes.
    pub(crate) fn damaged(&mut self, mut body: Vec<u8>) -> Vec<u8> {
        for _ in 0..8 {
            if self.is_empty() {
                break;
            }
            let kind = self.byte();
            let at = self.below(body.len() + 1);
            let run = at..(at + 1 + self.below(16)).min(body.len().max(at));
            match kind % 8 {
                0 | 1 => drop(body.splice(at..at, self.one_of(PIECES).iter().copied())),
                2 => drop(body.splice(run, self.one_of(PIECES).iter().copied())),
                3 => drop(body.drain(run)),
                4 => body.extend_from_within(run),
                5 => {
                    let length = self.below(8);
                    drop(body.splice(at..at, self.take(length).iter().copied()));
                }
                6 if at < body.len() => body[at] = self.byte(),
                _ => body.truncate(at),
            }
        }
        body
    }

    /// A JSON object with names that mean something.
    pub(crate) fn object(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend_from_slice(self.blank());
        self.write_object(&mut out, 0);
        out.extend_from_slice(self.blank());
        out
    }

    fn write_object(&mut self, out: &mut Vec<u8>, depth: usize) {
        out.push(b'{');
        for index in 0..self.below(6) {
            if index > 0 {
                out.push(b',');
            }
            out.extend_from_slice(self.blank());
            match self.byte() % 8 {
                0 => self.write_string(out),
                _ => out.extend_from_slice(format!("\"{}\"", self.one_of(NAMES)).as_bytes()),
            }
            out.extend_from_slice(self.blank());
            out.push(b':');
            out.extend_from_slice(self.blank());
            self.write_value(out, depth + 1);
            out.extend_from_slice(self.blank());
        }
        out.push(b'}');
    }

    fn write_value(&mut self, out: &mut Vec<u8>, depth: usize) {
        match self.byte() % 12 {
            0..=3 => self.write_string(out),
            4 | 5 if depth < 5 => self.write_object(out, depth),
            6 if depth < 5 => {
                out.push(b'[');
                out.extend_from_slice(self.blank());
                for index in 0..self.below(4) {
                    out.extend_from_slice(if index > 0 { b"," } else { b"" });
                    self.write_value(out, depth + 1);
                }
                out.push(b']');
            }
            7 => {
                let (open, close) = self.one_of(&[("[", "]"), ("{\"a\":", "}"), ("[{\"\":", "}]")]);
                let depth = self.below(200);
                out.extend_from_slice(open.repeat(depth).as_bytes());
                out.extend_from_slice(b"0");
                out.extend_from_slice(close.repeat(depth).as_bytes());
            }
            8 => out.extend_from_slice(format!("\"{}\"", self.one_of(WORDS)).as_bytes()),
            _ => out.extend_from_slice(self.one_of(SCALARS).as_bytes()),
        }
    }

    fn write_string(&mut self, out: &mut Vec<u8>) {
        out.push(b'"');
        for _ in 0..self.below(4) {
            match self.byte() % 4 {
                0 => out.extend(std::iter::repeat_n(b'x', self.below(300))),
                1 => {
                    let length = self.below(8);
                    let text = String::from_utf8_lossy(self.take(length)).into_owned();
                    let quoted = Value::from(text).to_string();
                    out.extend_from_slice(&quoted.as_bytes()[1..quoted.len() - 1]);
                }
                _ => out.extend_from_slice(self.one_of(ESCAPES).as_bytes()),
            }
        }
        out.push(b'"');
    }

    fn blank(&mut self) -> &'static [u8] {
        match self.byte() {
            0..200 => b"",
            200..240 => b" ",
            _ => b"\r\n\t ",
        }
    }

    /// Headers as providers send them; those that are no headers are left out.
    pub(crate) fn headers(&mut self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for _ in 0..self.below(5) {
            let name = *self.one_of(HEADERS);
            let value = match self.byte() % 4 {
                0 => {
                    let length = self.below(30);
                    self.take(length)
                }
                _ => self.one_of(WORDS).as_bytes(),
            };
            if let Ok(value) = HeaderValue::from_bytes(value) {
                headers.append(HeaderName::from_static(name), value);
            }
        }
        headers
    }
}

/// An answer of a provider, from the fixtures of its dialect.
pub(crate) struct Answer {
    pub(crate) dialect: &'static str,
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

/// Every fixture of every dialect.
pub(crate) static ANSWERS: LazyLock<Vec<Answer>> = LazyLock::new(|| {
    let dialects = catalogue::ALL.iter().map(|dialect| dialect.name);
    dialects.flat_map(answers_of).collect()
});

fn answers_of(dialect: &'static str) -> Vec<Answer> {
    let path = format!("{}/fixtures/{dialect}.json", env!("CARGO_MANIFEST_DIR"));
    let file: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let headers = |fixture: &Value| {
        let pairs = fixture["headers"].as_object().unwrap().iter();
        pairs
            .map(|(name, value)| {
                (
                    name.parse().unwrap(),
                    value.as_str().unwrap().parse().unwrap(),
                )
            })
            .collect()
    };
    let answer = |fixture: &Value| Answer {
        dialect,
        status: fixture["status"].as_u64().unwrap().try_into().unwrap(),
        headers: headers(fixture),
        body: match &fixture["body"] {
            Value::String(text) => text.clone().into_bytes(),
            json => json.to_string().into_bytes(),
        },
    };
    file["fixtures"]
        .as_array()
        .unwrap()
        .iter()
        .map(answer)
        .collect()
}

/// Pieces that break JSON, or mend it.
const PIECES: &[&[u8]] = &[
    b"{", b"}", b"[", b"]", b",", b":", b"\"", b"\\", b"\\u", b"\\ud83d\\ude00", b"\\ud800", b" ", b"\n",
    b"\r", b"\t", b"0", b"-", b"1", b"01", b".", b"1.5e+3", b"1e999", b"-0", b"e", b"E-", b"true", b"false",
    b"null", b"nul", b"{}", b"[]", b"\"\"", b"\x00", b"\x1f", b"\x7f", b"\xc3\xa9", b"\xff", b"\xef\xbb\xbf",
    b"\xed\xa0\x80", b"\xc2\xa0", b"\"model\":", b"\"model\":\"m\",", b"\"mod\\u0065l\":\"m\"", b"\"stream\":true",
    b"\"user\":\"u\",", b"\"error\":{\"code\":429},", b"data: ", b"event: error\n", b"\n\n", b"[DONE]",
    b"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
    b"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[",
    b"]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]",];

/// Names of fields, as they stand between quotes: of requests, then of errors.
const NAMES: &[&str] = &[
    "usage",
    "usageMetadata",
    "prompt_tokens",
    "completion_tokens",
    "input_tokens",
    "output_tokens",
    "total_tokens",
    "promptTokenCount",
    "x_groq",
    "choices",
    "stream_options",
    "include_usage",
    "max_tokens",
    "generationConfig",
    "maxOutputTokens",
    "candidateCount",
    "best_of",
    "n",
    "model",
    "mod\\u0065l",
    "\\u006Dodel",
    "Model",
    "stream",
    "str\\u0065am",
    "store",
    "background",
    "previous_response_id",
    "conversation",
    "cachedContent",
    "cached_content",
    "input_file_id",
    "prompt_cache_key",
    "safety_identifier",
    "user",
    "metadata",
    "user_id",
    "messages",
    "contents",
    "input",
    "instructions",
    "system",
    "systemInstruction",
    "system_instruction",
    "\\ud800",
    "",
    "a\\\"model",
    "error",
    "code",
    "type",
    "status",
    "message",
    "detail",
    "details",
    "reason",
    "error_code",
    "violations",
    "quotaId",
    "retryDelay",
    "retry_after_seconds",
    "response",
    "data",
    "models",
    "id",
    "name",
    "created_at",
    "availability",
    "retryable",
    "retry_after",
    "resets_at",
    "limit_source",
    "error_type",
    "headers",
    "X-RateLimit-Reset",
    "choices",
    "output",
    "content",
    "candidates",
    "object",
    "http_status",
    "@type",
];

const SCALARS: &[&str] = &[
    "null",
    "true",
    "false",
    "0",
    "-0",
    "7",
    "-1.5e-3",
    "429",
    "503",
    "1795348860",
    "18446744073709551616",
    "1e400",
    "\"\"",
    "[]",
    "{}",
];

const ESCAPES: &[&str] = &[
    "\\n",
    "\\\"",
    "\\\\",
    "\\/",
    "\\b\\f\\r\\t",
    "\\u00e9",
    "\\ud83d\\ude00",
    "\\ud83d",
    "\\ude00",
    "\\u0000",
    "gpt-4o",
    "}]",
    "é",
];

/// Headers that are read.
const HEADERS: &[&str] = &[
    "retry-after",
    "retry-after-ms",
    "x-ratelimit-remaining-tokens",
    "x-ratelimit-limit-tokens",
    "x-ratelimit-reset-tokens",
    "x-ratelimit-remaining-requests",
    "x-ratelimit-reset-requests",
    "x-ratelimit-reset",
    "anthropic-ratelimit-requests-remaining",
    "anthropic-ratelimit-requests-reset",
    "x-should-retry",
    "content-type",
    "anthropic-version",
    "x-goog-api-key",
    "x-api-key",
    "api-key",
    "authorization",
];

/// Texts that dialects look for.
pub(crate) const WORDS: &[&str] = &[
    "insufficient_quota",
    "rate_limit_exceeded",
    "Request too large: Limit 1, Requested 99999999999999999999999",
    "Please try again in 99999999999999999999h",
    "try again in 1.2.3s",
    "access on 2026-12-01 at 99:99 +9999",
    "regain access on 2026-12-01 at 00:00 UTC",
    "2026-11-22é",
    "-9999-01-01T00:00:00Z",
    "2026-11-22T20:00:30.5+08:00",
    "enforced_spend_limit_reached",
    "You have reached your API usage limits",
    "QuotaExceeded",
    "5-hour usage quota",
    "RESOURCE_EXHAUSTED",
    "GenerateRequestsPerDayPerProject",
    "API_KEY_INVALID",
    "999999999999s",
    "",
    "0",
    "-1",
    "NaN",
    "1e400",
    "18446744073709551616",
    "Sun, 22 Nov 2026 12:00:30 GMT",
    "Sunday, 22-Nov-26 12:01:00 GMT",
    "Sun Nov 22 12:01:00 2026",
    "2m59.56s",
    "250µs",
    "Insufficient Balance",
    "in_flight_budget_exhausted",
    "weight_exceeds_budget",
    "openrouter_free_tier_daily",
    "provider_unavailable",
    "exceeded_current_quota_error",
    "TPD limit reached",
    "30001",
    "blocked_api_access",
    "capacity_exceeded",
    "1300",
    "1795348860000",
    "Your account has insufficient balance",
    "error",
    "response.failed",
    "overloaded_error",
    "ServerOverloaded",
    "AccountOverdueError",
    "application/json",
    "Bearer sk-abcdefgh",
    "type.googleapis.com/google.rpc.RetryInfo",
    "type.googleapis.com/google.rpc.QuotaFailure",
    "type.googleapis.com/google.rpc.ErrorInfo",
    "PERMISSION_DENIED",
    "credit balance is too low",
    "not_found_error",
    "authentication_error",
    "false",
];
