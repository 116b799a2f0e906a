//! A provider's prompt cache: remembers for a while the prefixes of conversations that each account has sent.
//!
//! This module must never know of scripts or responses.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::Instant;

use crate::recorded::fnv1a;

/// Maximum number of prefixes per account. Beyond it, the account's cache is cleared.
const MAX_PREFIXES: usize = 100_000;

/// The cached part of one call's prompt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cached {
    /// Cached tokens, estimated as four bytes each.
    pub(crate) tokens: u64,
    /// Whether everything was cached except at most the last two messages: the last answer and the new message.
    pub(crate) is_hit: bool,
}

/// The expiry time of each prefix of a conversation, by the prefix's hash.
type Prefixes = HashMap<u64, Instant>;

/// The caches of all accounts.
#[derive(Debug, Default)]
pub(crate) struct PromptCaches(Mutex<HashMap<String, Prefixes>>);

#[derive(Deserialize)]
struct Body<'a> {
    model: Option<String>,
    #[serde(borrow)]
    messages: Option<Vec<&'a RawValue>>,
}

impl PromptCaches {
    /// Returns how much of the chat call `body` was cached for `account`, and caches all of it for `ttl`.
    pub(crate) fn read(&self, account: &str, body: &[u8], now: Instant, ttl: Duration) -> Cached {
        let Ok(body) = serde_json::from_slice::<Body<'_>>(body) else {
            return Cached::default();
        };
        let messages = body.messages.unwrap_or_default();
        let mut accounts = self.0.lock();
        let known = accounts.entry(account.to_owned()).or_default();
        if known.len() >= MAX_PREFIXES {
            known.clear();
        }
        let mut prefix = fnv1a(body.model.unwrap_or_default().as_bytes());
        let (mut bytes, mut cached, mut cached_bytes) = (0, 0, 0);
        for (nth, message) in messages.iter().enumerate() {
            let text = message.get().as_bytes();
            bytes += text.len();
            prefix = fnv1a(&[&prefix.to_le_bytes(), text].concat());
            let expires = known.insert(prefix, now + ttl);
            if cached == nth && expires.is_some_and(|at| at > now) {
                (cached, cached_bytes) = (nth + 1, bytes);
            }
        }
        Cached {
            tokens: cached_bytes as u64 / 4,
            is_hit: messages.len() > 2 && cached + 2 >= messages.len(),
        }
    }

    pub(crate) fn clear(&self) {
        self.0.lock().clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prompt_is_cached_for_its_account_until_it_expires() {
        let caches = PromptCaches::default();
        let start = Instant::now();
        let body = |model: &str, texts: &[&str]| {
            let messages: Vec<String> = texts
                .iter()
                .map(|text| format!("{{\"t\":\"{text}\"}}"))
                .collect();
            format!(
                r#"{{"model":"{model}","messages":[{}]}}"#,
                messages.join(",")
            )
        };
        let ttl = Duration::from_secs(10);
        let read = |account: &str, at: u64, body: String| {
            let cached = caches.read(
                account,
                body.as_bytes(),
                start + Duration::from_secs(at),
                ttl,
            );
            (cached.tokens, cached.is_hit)
        };
        let first = body("m", &["one"]);
        let second = body("m", &["one", "a", "two"]);
        assert_eq!(read("a", 0, first.clone()), (0, false));
        assert_eq!(read("b", 0, second.clone()), (0, false), "another account");
        assert_eq!(
            read("a", 0, body("n", &["one"])),
            (0, false),
            "another model"
        );
        assert_eq!(read("a", 9, second.clone()), (2, true));
        assert_eq!(read("a", 10, second.clone()), (7, true), "all of it");
        assert_eq!(
            read("a", 11, body("m", &["one", "a", "b", "c", "d"])),
            (5, false)
        );
        assert_eq!(read("a", 11, body("m", &["two", "a", "two"])), (0, false));
        assert_eq!(read("a", 21, second), (0, false), "forgotten");
        caches.clear();
        assert_eq!(read("a", 21, first), (0, false));
        assert_eq!(read("a", 21, "no".to_owned()), (0, false));
    }
}
