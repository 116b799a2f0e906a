//! Text from outside, made safe for a log line.

use keypool_providers::secrets::looks_like_key;

/// Longest redacted text, in characters.
const MAX_CHARS: usize = 300;
/// Maximum number of words that are examined; the rest is cut.
const MAX_WORDS: usize = 120;

/// `text` for a log line: at most 300 characters, without control characters, and without `secret` or anything that
/// looks like a key.
pub(crate) fn redact(text: &str, secret: &str) -> String {
    let without = if secret.is_empty() {
        text.to_owned()
    } else {
        text.replace(secret, "[redacted]")
    };
    let mut line = String::new();
    for word in without
        .split_inclusive(|c: char| c.is_whitespace() || "\"'`,;()[]{}<>=".contains(c))
        .take(MAX_WORDS)
    {
        let bare =
            word.trim_end_matches(|c: char| !c.is_ascii_alphanumeric() && c != '*' && c != '…');
        if looks_like_key(bare) {
            line.push_str("[redacted]");
            line.push_str(&word[bare.len()..]);
        } else {
            line.push_str(word);
        }
    }
    line.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(MAX_CHARS)
        .collect()
}

/// [`redact`] where no secret is known.
pub(crate) fn redact_any(text: &str) -> String {
    redact(text, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redacts_the_key_and_whatever_looks_like_one() {
        let text = "Incorrect API key provided: \"sk-proj-abc***xyz9\". You sent my-own-secret, see https://x.example/y.";
        let line = redact(text, "my-own-secret");
        assert!(
            !line.contains("sk-proj") && !line.contains("my-own-secret"),
            "{line}"
        );
        assert!(
            line.starts_with("Incorrect API key provided: \"[redacted]\". You sent [redacted]"),
            "{line}"
        );
        assert!(line.contains("https://x.example/y"), "{line}");
        assert!(redact("token 0123456789abcdef0123456789abcdef", "").contains("[redacted]"));
        assert_eq!(redact("a\r\nb", ""), "a  b");
    }
}
