//! How names and values stand in messages, and which known name was meant.
//!
//! This module must never know a file or a section; whoever calls it knows that a text may be shown.

/// The one of `known` that is close enough to `name` to be meant.
pub(super) fn nearest<'k>(name: &str, known: &[&'k str]) -> Option<&'k str> {
    // Who writes this much did not mistype a name; and the distance takes quadratic time.
    if name.len() > 64 {
        return None;
    }
    let plain = |text: &str| text.to_lowercase().replace(['-', ' '], "_");
    let name = plain(name);
    let length = name.chars().count();
    let far = (length / 3).clamp(1, 3).min(length / 2);
    let distances = known
        .iter()
        .map(|known| (strsim::damerau_levenshtein(&name, &plain(known)), *known));
    distances
        .filter(|(distance, _)| *distance <= far)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, known)| known)
}

/// `"a", "b" or "c"`.
pub(super) fn listed(words: &[&str]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| format!("\"{word}\"")).collect();
    match quoted.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => quoted.concat(),
    }
}

/// A name as it stands in a message. A long one is cut: it may be a secret in the wrong place.
pub(super) fn shown(name: &str) -> String {
    format!("`{}`", escaped(name))
}

/// The same without marks around it.
pub(super) fn escaped(name: &str) -> String {
    let kept = if name.chars().count() > 32 { 6 } else { 32 };
    let cut = if kept == 6 { "…" } else { "" };
    name.chars()
        .take(kept)
        .flat_map(char::escape_debug)
        .collect::<String>()
        + cut
}

/// A value as it stands in a message, cut at 40 characters.
pub(super) fn quoted(text: &str) -> String {
    let cut = if text.chars().count() > 40 { "…" } else { "" };
    format!(
        "\"{}{cut}\"",
        text.chars()
            .take(40)
            .flat_map(char::escape_debug)
            .collect::<String>()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suggests_only_what_is_close() {
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
        assert_eq!(shown("a\n\u{1b}"), "`a\\n\\u{1b}`");
        assert_eq!(shown(&"s".repeat(33)), "`ssssss…`");
        assert_eq!(quoted(&"s".repeat(50)).chars().count(), 43);
    }
}
