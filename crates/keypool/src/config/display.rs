//! Formats names and values for messages, and suggests the known name that was meant.
//!
//! This module must never know a file or a section. The caller decides whether a text may be shown at all.

/// The closest of the `known` names, if it is close enough to be what the user meant.
pub(super) fn nearest<'k>(name: &str, known: &[&'k str]) -> Option<&'k str> {
    // A long text is not a mistyped name, and the distance takes quadratic time.
    if name.len() > 64 {
        return None;
    }
    let plain = |text: &str| text.to_lowercase().replace(['-', ' '], "_");
    let name = plain(name);
    let length = name.chars().count();
    let max_distance = (length / 3).clamp(1, 3).min(length / 2);
    let distances = known
        .iter()
        .map(|known| (strsim::damerau_levenshtein(&name, &plain(known)), *known));
    distances
        .filter(|(distance, _)| *distance <= max_distance)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, known)| known)
}

/// `"a", "b" or "c"`.
pub(super) fn alternatives(words: &[&str]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| format!("\"{word}\"")).collect();
    match quoted.split_last() {
        Some((last, others)) if !others.is_empty() => {
            format!("{} or {last}", others.join(", "))
        }
        _ => quoted.concat(),
    }
}

/// A name that the user chose, in backticks. A long one is cut: it may be a misplaced secret.
pub(super) fn name(name: &str) -> String {
    format!("`{}`", bare_name(name))
}

/// A name that the user chose, without backticks.
pub(super) fn bare_name(name: &str) -> String {
    cut(name, is_long(name))
}

/// A name that should be one of keypool's, in backticks. Cut if it looks like a secret.
pub(super) fn unknown_name(name: &str) -> String {
    format!("`{}`", cut(name, may_be_secret(name)))
}

/// A value in quotes. Cut if it looks like a secret.
pub(super) fn value(text: &str) -> String {
    format!("\"{}\"", cut(text, may_be_secret(text)))
}

/// A variable's name. Names in capitals may be long; secrets also have lower-case letters.
pub(super) fn variable(name: &str) -> String {
    let capitals = !name.contains(|c: char| c.is_ascii_lowercase()) && name.contains('_');
    cut(name, !capitals && may_be_secret(name))
}

/// Whether a text has the length of a secret. Shorter names are shown in full.
fn is_long(text: &str) -> bool {
    text.chars().count() >= 32
}

/// Whether a text may be a key or token. Addresses, times and sentences contain dots, colons or spaces.
fn may_be_secret(text: &str) -> bool {
    is_long(text)
        || (text.chars().count() >= 16
            && text.contains(|c: char| c.is_ascii_digit())
            && !text.contains(['.', ':', ' ']))
}

fn cut(text: &str, secret: bool) -> String {
    let (kept, mark) = if secret { (6, "…") } else { (usize::MAX, "") };
    let kept = text.chars().take(kept);
    kept.flat_map(char::escape_debug).collect::<String>() + mark
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_close_name_is_suggested() {
        for (name, expect) in [
            ("base_ulr", Some("base_url")),
            ("Base-URL", Some("base_url")),
            ("xyz", None),
            ("b", None),
            ("kez", Some("key")),
            ("", None),
        ] {
            assert_eq!(
                nearest(name, &["base_url", "key", "provider", "a"]),
                expect,
                "{name}"
            );
        }
    }

    #[test]
    fn long_names_are_cut() {
        assert_eq!(name("a\n\u{1b}"), "`a\\n\\u{1b}`");
        assert_eq!(name(&"s".repeat(31)), format!("`{}`", "s".repeat(31)));
        assert_eq!(name(&"s".repeat(32)), "`ssssss…`");
        assert_eq!(name("production-openai-2"), "`production-openai-2`");
    }

    #[test]
    fn a_text_that_may_be_a_secret_is_cut() {
        // As long as keys of Gemini, Mistral and DeepSeek, and as the shortest virtual key.
        for secret in [
            format!("AIzaSy{}", "x".repeat(33)),
            format!("a1b2c3{}", "x".repeat(26)),
            format!("sk-abc{}", "0".repeat(29)),
            "team-a-012345678".to_owned(),
        ] {
            let start = &secret[..6];
            assert_eq!(value(&secret), format!("\"{start}…\""));
            assert_eq!(unknown_name(&secret), format!("`{start}…`"));
            assert_eq!(variable(&secret), format!("{start}…"));
        }
        for plain in [
            "least_load",
            "openai-compatibel",
            "127.0.0.1:65536",
            "http://h:99999/v1",
            "2027-01-31 at noon",
        ] {
            assert_eq!(value(plain), format!("\"{plain}\""));
        }
        for name in ["MY_TEAM_OPENAI_API_KEY_PRODUCTION_2", "k", "NO_SUCH_2"] {
            assert_eq!(variable(name), name);
        }
    }
}
