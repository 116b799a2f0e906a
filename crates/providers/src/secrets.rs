//! Recognises what may be a credential, so that it is neither logged nor shown.
//!
//! The one list of what keys look like. Must never hold a key.

/// How the keys of the known providers begin, and the scheme that introduces one.
const PREFIXES: &[&str] = &[
    "sk-", "tvly-", "AIza", "AQ.", "gsk_", "ark-", "xai-", "Bearer",
];
/// A word of this length that mixes letters and digits may be a key without a known prefix.
const LONG: usize = 32;

/// A name that begins as keys do is a key from this length on. Shorter ones are names, such as `xai-1`.
const SHORTEST: usize = 20;

/// Whether a name that someone gave is probably a key, written into the wrong field or column.
pub fn is_key_as_name(name: &str) -> bool {
    name.len() >= SHORTEST && PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// Whether a word without blanks may be a provider's key, or contain one: it has a known prefix at its start or after a
/// character that is no letter and no digit, or it is long and mixes letters and digits.
pub fn looks_like_key(word: &str) -> bool {
    let has_prefix = PREFIXES.iter().any(|prefix| {
        word.match_indices(prefix).any(|(at, _)| {
            let before = word[..at].bytes().next_back();
            let is_word_start = before.is_none_or(|byte| !byte.is_ascii_alphanumeric());
            is_word_start && at + prefix.len() < word.len()
        })
    });
    has_prefix || word.contains("key=") || is_long_mix(word)
}

fn is_long_mix(word: &str) -> bool {
    let is_of_key = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    word.len() >= LONG
        && word.bytes().all(is_of_key)
        && word.bytes().any(|byte| byte.is_ascii_digit())
        && word.bytes().any(|byte| byte.is_ascii_alphabetic())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_in_the_place_of_a_name_is_recognised() {
        assert!(is_key_as_name("sk-proj-abcdefghijklmn"));
        assert!(is_key_as_name("tvly-dev-abcdefghijklmn"));
        for name in [
            "xai-1",
            "ark-production",
            "team-of-sk-abcdefghijklmn",
            "0f5e3a1c-7a8b-4c2d-9e1f-aabbccddeeff",
        ] {
            assert!(!is_key_as_name(name), "{name}");
        }
    }

    #[test]
    fn keys_are_recognised_and_other_words_are_not() {
        for key in [
            "sk-a",
            "sk-proj-abcdefgh",
            "invalid:sk-proj-abcdefgh",
            "tvly-dev-x",
            "AIzaSyABC",
            "AQ.Ab8R",
            "gsk_abc",
            "ark-0f5e",
            "xai-abc",
            "Bearer-x",
            "api_key=x",
            "apikey=x",
            "0123456789abcdef0123456789abcdef",
            "0f5e3a1c-7a8b-4c2d-9e1f-aabbccddeeff",
        ] {
            assert!(looks_like_key(key), "{key}");
        }
        for word in [
            "",
            "sk-",
            "Bearer",
            "risk-control",
            "task-failed",
            "InvalidEndpointOrModel.NotFound",
            "claude-sonnet-4-5-20250929",
            "https://x.example/y",
            "0123456789012345678901234567890123456789",
            "a-long-word-without-any-digit-in-it-at-all",
        ] {
            assert!(!looks_like_key(word), "{word}");
        }
    }
}
