//! Provider keys as text: one key, or several in one string.
//!
//! This module must never show a key, not even in part: messages name the setting and the variable.

use keypool_core::secret::Secret;
use keypool_core::values::SecretMistake;

use super::problem::Problem;
use super::text::Text;
use super::values;

/// The keys in one string: separated by commas, or a JSON list. A string that is not blank must contain one.
pub(super) fn several<'w>(text: &Text<'w>) -> Vec<Text<'w>> {
    let value = unquoted(&text.value);
    let list = serde_json::from_str(value);
    let list: Vec<String> = list.unwrap_or_else(|_| value.split(',').map(str::to_owned).collect());
    let keys = list.iter().map(|key| key.trim());
    let keys: Vec<_> = keys
        .filter(|key| !key.is_empty())
        .map(|key| text.with(key))
        .collect();
    if keys.is_empty() && !text.value.trim().is_empty() {
        let message = format!("{} contains no key", text.subject());
        text.report().add(Problem::new(&text.at, message));
    }
    keys
}

/// Reads a string that is one key.
pub(super) fn single(text: &Text<'_>) -> Option<Secret> {
    read(&text.with(unquoted(&text.value)))
}

/// Reads a provider's key, which must be valid in a header.
pub(super) fn read(text: &Text<'_>) -> Option<Secret> {
    let (secret, subject) = (text.value.trim(), text.subject());
    let wrong = |mistake: &str, hint: Option<&str>| {
        let problem = Problem::new(&text.at, format!("{subject} {mistake}"));
        text.report()
            .add(problem.maybe_hint(hint.map(str::to_owned)));
        None
    };
    if let Some(mistake) = values::secret_mistake(secret) {
        return wrong(mistake.text(), hint(mistake, secret));
    }
    if secret.contains(',') {
        let warning = format!(
            "{subject} has a comma, but is read as one key: for several keys, write `keys = \"key1, key2\"` in the pool"
        );
        text.report().warn_at(&text.at, &warning);
    }
    Some(Secret::new(secret))
}

/// How to write it instead.
fn hint(mistake: SecretMistake, secret: &str) -> Option<&'static str> {
    match mistake {
        SecretMistake::Leftovers if values::has_stray_reference(secret) => {
            Some("write `}` after the name of a variable: \"${NAME}\"")
        }
        SecretMistake::Leftovers => Some(
            "separate keys by commas, key1,key2, or write a JSON list, [\"key1\", \"key2\"]; where one key is expected, write it alone",
        ),
        SecretMistake::Blank => Some(
            "separate keys by commas: \"key1, key2\"; in a list of strings, write one key in each",
        ),
        SecretMistake::Empty | SecretMistake::TooLong | SecretMistake::NotAscii => None,
    }
}

/// A value without one pair of quotes around it. Some programs that set variables keep the quotes of their files.
pub(super) fn unquoted(value: &str) -> &str {
    let value = value.trim();
    let inner = ['"', '\''].into_iter().find_map(|quote| {
        let opened = value.strip_prefix(quote)?;
        opened.strip_suffix(quote)
    });
    inner.map_or(value, str::trim)
}
