//! Warns of variables that look like a provider's but are not read: `GEMINI_API_KEYS`, `OPENAI_API_KEY_1`.
//!
//! This module must never know a provider by name: variables come from the dialects.

use keypool_providers::catalogue;

use super::display;
use super::report::Report;

/// Words after the name of a key's variable. They say that the variable holds something about a key.
const NOT_A_KEY: &[&str] = &[
    "ARN", "CMD", "COMMAND", "COUNT", "DIR", "DISABLED", "ENABLED", "ENV", "EXPIRES", "EXPIRY",
    "FILE", "FOLDER", "HASH", "HEADER", "HELPER", "ID", "LENGTH", "LIMIT", "LOCATION", "NAME",
    "OWNER", "PATH", "PATTERN", "PREFIX", "REF", "REGEX", "REQUIRED", "ROTATION", "SCRIPT",
    "SECRET", "SOURCE", "TYPE", "URI", "URL", "USER", "VAR", "VARIABLE", "VAULT", "VERSION",
];

/// The shortest name of a provider in which one wrong letter is a typing mistake and not another provider.
const MIN_MISTYPED: usize = 6;

/// Adds the warnings. All settings must have been read.
pub(super) fn warn(report: &Report<'_>) {
    let vars = report.vars();
    for name in vars.unread() {
        let advice = if let Some(key) = key_variable(name) {
            format!(
                "put all keys into `{key}`, separated by commas, or write `${{{name}}}` in {}",
                report.file_name()
            )
        } else if let Some(base) = base_variable(name).filter(|base| vars.get(base).is_none()) {
            format!("did you mean `{base}`?")
        } else {
            continue;
        };
        let warning = format!("`{}` is not read: {advice}", display::bare_name(name));
        report.warn_at(&vars.at(name), &warning);
    }
}

/// The variable of a provider's keys that `name` resembles.
fn key_variable(name: &str) -> Option<&'static str> {
    let name = without_numbers(name);
    let mut known = catalogue::ALL.iter().flat_map(|dialect| dialect.env_keys);
    known
        .find(|known| {
            let Some(provider) = known.strip_suffix("_API_KEY") else {
                return false;
            };
            let may_go_on = [format!("{provider}_APIKEY"), (**known).to_owned()];
            may_go_on.iter().any(|form| {
                let rest = name.strip_prefix(&**form);
                rest.is_some_and(is_about_keys)
            }) || is_plural(&name, &format!("{provider}_KEY"))
                || is_mistyped(&name, provider)
        })
        .copied()
}

/// The variable of a provider's base URL that `name` resembles.
fn base_variable(name: &str) -> Option<&'static str> {
    let name = name.to_ascii_uppercase();
    let mut known = catalogue::ALL.iter().filter_map(|it| it.env_base_url);
    known.find(|known| {
        let provider = known.strip_suffix("_BASE_URL");
        let rest = provider.and_then(|provider| name.strip_prefix(provider));
        let forms = ["_BASE_URL", "_BASEURL", "_API_BASE", "_API_BASE_URL"];
        rest.is_some_and(|rest| forms.contains(&rest))
    })
}

/// `name` in capitals, without digits: `OpenAI_1_API_KEY2` is `OPENAI_API_KEY`.
fn without_numbers(name: &str) -> String {
    let name = name.to_ascii_uppercase();
    let words = name
        .split('_')
        .map(|word| word.trim_matches(|c: char| c.is_ascii_digit()));
    words
        .filter(|word| !word.is_empty())
        .collect::<Vec<_>>()
        .join("_")
}

/// Whether a variable that goes on with `rest` after the name of a key's variable holds keys too: `S`, `_BACKUP`.
fn is_about_keys(rest: &str) -> bool {
    let rest = rest.strip_prefix('S').unwrap_or(rest);
    match rest.strip_prefix('_') {
        Some(words) => !words.split('_').any(|word| NOT_A_KEY.contains(&word)),
        None => rest.is_empty(),
    }
}

fn is_plural(name: &str, single: &str) -> bool {
    name.strip_suffix('S').unwrap_or(name) == single
}

/// Whether `name` is the key's variable of `provider`, with one wrong, missing or additional letter in the provider.
fn is_mistyped(name: &str, provider: &str) -> bool {
    let name = name.strip_suffix('S').unwrap_or(name);
    let written = name.strip_suffix("_API_KEY");
    written.is_some_and(|written| {
        provider.len() >= MIN_MISTYPED && strsim::damerau_levenshtein(written, provider) == 1
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_that_looks_like_a_providers_is_found() {
        for (name, expect) in [
            ("GEMINI_API_KEYS", "GEMINI_API_KEY"),
            ("OPENAI_API_KEY_1", "OPENAI_API_KEY"),
            ("OPENAI_API_KEY2", "OPENAI_API_KEY"),
            ("ANTHROPIC_API_KEY_BACKUP", "ANTHROPIC_API_KEY"),
            ("GROQ_API_KEYS_02", "GROQ_API_KEY"),
            ("OPENROUTER_1_API_KEY", "OPENROUTER_API_KEY"),
            ("MISTRAL2_API_KEY", "MISTRAL_API_KEY"),
            ("GOOGLE_API_KEY_LIST", "GOOGLE_API_KEY"),
            ("ARK_KEY", "ARK_API_KEY"),
            ("TAVILY_KEYS", "TAVILY_API_KEY"),
            ("DEEPSEEK_APIKEY", "DEEPSEEK_API_KEY"),
            ("openai_api_key", "OPENAI_API_KEY"),
            ("Moonshot_Api_Key_3", "MOONSHOT_API_KEY"),
            ("ANTHROPHIC_API_KEY", "ANTHROPIC_API_KEY"),
            ("OPENIA_API_KEY", "OPENAI_API_KEY"),
        ] {
            assert_eq!(key_variable(name), Some(expect), "{name}");
        }
        for (name, expect) in [
            ("OPENAI_API_BASE", "OPENAI_BASE_URL"),
            ("openai_base_url", "OPENAI_BASE_URL"),
            ("GROQ_API_BASE_URL", "GROQ_BASE_URL"),
            ("ANTHROPIC_BASEURL", "ANTHROPIC_BASE_URL"),
        ] {
            assert_eq!(base_variable(name), Some(expect), "{name}");
        }
    }

    #[test]
    fn a_variable_for_something_else_is_left_alone() {
        for name in [
            "OPENAI_API_KEY_FILE",
            "OPENAI_API_KEYS_FILE",
            "GEMINI_API_KEY_PATH",
            "ANTHROPIC_API_KEY_HELPER",
            "GROQ_API_KEY_SECRET_NAME",
            "OPENAI_ADMIN_KEY",
            "OPENAI_ORG_ID",
            "OPENAI_API_TYPE",
            "OPENAI_API_KEYBOARD",
            "OPENAI_KEY_VAULT",
            "AZURE_OPENAI_API_KEY",
            "VITE_OPENAI_API_KEY",
            "GROK_API_KEY",
            "XAI_API_KEY",
            "COHERE_API_KEY",
            "GOOGLE_MAPS_API_KEY",
            "GOOGLE_APPLICATION_CREDENTIALS",
            "API_KEY",
            "KEY",
            "PATH",
            "",
            "_",
        ] {
            assert_eq!(
                (key_variable(name), base_variable(name)),
                (None, None),
                "{name}"
            );
        }
    }
}
