//! Provider keys in variables and strings: several in one, quotes that stayed, and what cannot be meant.

use super::*;

/// The secrets of the only pool.
fn secrets(home: &Home) -> Vec<String> {
    let settings = home.good().settings;
    let [pool] = &settings.pools[..] else {
        panic!("one pool: {:?}", settings.pools)
    };
    let secrets = pool.keys.iter().map(|key| key.secret.expose().to_owned());
    secrets.collect()
}

/// Checks the only error, which must contain `words` and no part of a key.
fn mistake(home: &Home, words: &[&str]) {
    let errors = home.errors();
    let [error] = &errors[..] else {
        panic!("one mistake: {errors:#?}")
    };
    let message = error.to_string();
    for word in words {
        assert!(message.contains(word), "{word} is missing in {message}");
    }
    assert!(!message.contains("canary"), "{message}");
}

/// A pool with the short form of this provider's variable.
fn short_form(provider: &str, variable: &str) -> Home {
    toml(&format!(
        "[pools.{provider}]\nprovider = '{provider}'\nkeys = '${{{variable}}}'\n"
    ))
}

/// A pool with the variable `K` as the only key, in the long form.
const LONG: &str = "[pools.p]\nprovider = 'openai'\n[[pools.p.keys]]\nkey = '${K}'\n";
/// The same as a list of strings.
const LIST: &str = "pools.p = { provider = 'openai', keys = ['${K}'] }";

#[test]
fn several_keys_are_read_from_one_variable() {
    for (variable, provider, value) in [
        ("GEMINI_API_KEY", "gemini", r#"["a","b"]"#),
        ("OPENAI_API_KEY", "openai", r#" [ "a" , "b" ] "#),
        ("ANTHROPIC_API_KEY", "anthropic", r#""a,b""#),
        ("GROQ_API_KEY", "groq", "'a, b'"),
        ("ARK_API_KEY", "ark", r#"'["a","b"]'"#),
        ("TAVILY_API_KEY", "tavily", r#""["a","b"]""#),
        ("MISTRAL_API_KEY", "mistral", "a,,b,"),
        ("GOOGLE_API_KEY", "gemini", r#"["a", " ", "b"]"#),
    ] {
        let home = Home::new().env(variable, value);
        assert_eq!(secrets(&home), ["a", "b"], "{value}");
        let home = short_form(provider, variable).env(variable, value);
        assert_eq!(secrets(&home), ["a", "b"], "{value} in the file");
        // A quoted value of .env must not have its own quotes inside.
        if !value.starts_with("\"[") {
            let home = Home::new().write(".env", format!("{variable}={value}\n"));
            assert_eq!(secrets(&home), ["a", "b"], "{value} in .env");
        }
    }
}

#[test]
fn quotes_around_one_key_are_removed_wherever_it_is_read() {
    for value in ["\"a\"", "'a'", " \" a \" ", "a"] {
        for text in [LONG, LIST] {
            assert_eq!(secrets(&toml(text).env("K", value)), ["a"], "{value}");
        }
        let home = Home::new().env("DEEPSEEK_API_KEY", value);
        assert_eq!(secrets(&home), ["a"], "{value}");
    }
}

#[test]
fn quotes_around_nothing_are_an_unset_variable() {
    for value in ["\"\"", "''", "\" \""] {
        let home = Home::new().env("OPENAI_API_KEY", value);
        assert_eq!(home.good().settings.pools, Vec::new(), "{value}");
        let home = short_form("openai", "OPENAI_API_KEY").env("OPENAI_API_KEY", value);
        mistake(&home, &["(from `OPENAI_API_KEY`) contains no key"]);
    }
    for value in ["[]", ",", "[\"\"]"] {
        let home = Home::new().env("MOONSHOT_API_KEY", value);
        mistake(&home, &["`MOONSHOT_API_KEY` contains no key"]);
    }
}

#[test]
fn a_key_with_characters_of_another_syntax_is_a_mistake() {
    let says = "contains a key with one of the characters";
    for (variable, provider, value) in [
        ("GEMINI_API_KEY", "gemini", "canary1;canary2"),
        ("OPENAI_API_KEY", "openai", "['canary1'"),
        ("ANTHROPIC_API_KEY", "anthropic", "[canary1"),
        ("GROQ_API_KEY", "groq", "canary1\"canary2"),
        ("ARK_API_KEY", "ark", "{\"key\":\"canary1\"}"),
        ("TAVILY_API_KEY", "tavily", "canary1'"),
        ("MISTRAL_API_KEY", "mistral", "[\"canary1;canary2\"]"),
        ("OPENROUTER_API_KEY", "openrouter", "\"\"canary1\"\""),
        ("SILICONFLOW_API_KEY", "siliconflow", "[1234]"),
        ("MOONSHOT_API_KEY", "moonshot", "${canary1"),
        ("DEEPSEEK_API_KEY", "deepseek", "\""),
    ] {
        let name = format!("environment, {variable}: `{variable}` {says}");
        mistake(&Home::new().env(variable, value), &[&name]);
        let name = format!("`pools.{provider}.keys` (from `{variable}`) {says}");
        let home = short_form(provider, variable).env(variable, value);
        mistake(&home, &[&name]);
        let name = format!("`pools.p.keys` (from `K`) {says}");
        mistake(&toml(LIST).env("K", value), &[&name]);
        let name = format!("`pools.p.keys.key` (from `K`) {says}");
        mistake(&toml(LONG).env("K", value), &[&name]);
    }
    let home = Home::new().write(".env", "A=1\nGEMINI_API_KEY=canary1;canary2\n");
    mistake(&home, &[".env:2:16: `GEMINI_API_KEY` contains", "commas"]);
    let home = Home::new().env("GEMINI_API_KEY", "['canary1','canary2']");
    let errors = home.errors();
    assert!(
        errors.iter().all(|error| error.message.contains(says)),
        "{errors:#?}"
    );
}

#[test]
fn several_keys_where_one_is_expected_are_reported() {
    for (text, name) in [
        (LONG, "keypool.toml:4:7: `pools.p.keys.key` (from `K`)"),
        (LIST, "keypool.toml:1:42: `pools.p.keys` (from `K`)"),
    ] {
        let warnings = toml(text).env("K", "canary1,canary2").good().warnings;
        let [warning] = &warnings[..] else {
            panic!("one warning: {warnings:?}")
        };
        let expected = format!("{name} has a comma, but is read as one key");
        assert!(warning.starts_with(&expected), "{warning}");
        assert!(!warning.contains("canary"), "{warning}");
        mistake(
            &toml(text).env("K", "[\"canary1\",\"canary2\"]"),
            &["(from `K`) contains a key with", "write it alone"],
        );
    }
}

#[test]
fn a_variable_that_only_looks_like_a_providers_warns() {
    for (name, advice) in [
        (
            "GEMINI_API_KEYS",
            "`GEMINI_API_KEYS` is not read: put all keys into `GEMINI_API_KEY`, separated by commas",
        ),
        (
            "OPENAI_API_KEY_1",
            "`OPENAI_API_KEY_1` is not read: put all keys into `OPENAI_API_KEY`, separated by commas",
        ),
        ("mistral_api_key", "put all keys into `MISTRAL_API_KEY`"),
        ("ARK_KEY", "write `${ARK_KEY}` in keypool.toml"),
        ("GROQ_API_BASE", "did you mean `GROQ_BASE_URL`?"),
    ] {
        let warnings = Home::new().env(name, "canary").good().warnings;
        let [warning] = &warnings[..] else {
            panic!("one warning about {name}: {warnings:?}")
        };
        let place = format!("environment, {name}: ");
        assert!(
            warning.starts_with(&place) && warning.contains(advice) && !warning.contains("canary"),
            "{warning}"
        );
        let dotenv = format!("# keys\n{name}=canary\n");
        let warnings = Home::new().write(".env", dotenv).good().warnings;
        assert!(warnings.concat().starts_with(".env:2:"), "{warnings:?}");
        for value in ["", " "] {
            let warnings = Home::new().env(name, value).good().warnings;
            assert_eq!(warnings, Vec::<String>::new(), "{name} is not set");
        }
    }
}

#[test]
fn a_variable_that_something_refers_to_does_not_warn() {
    let file = "pools.p = { provider = 'openai', keys = ['${OPENAI_API_KEY_1}', '${OPENAI_KEY}'] }";
    let home = toml(file)
        .env("OPENAI_API_KEY_1", "a")
        .env("OPENAI_KEY", "b");
    assert_eq!(home.good().warnings, Vec::<String>::new());
    let dotenv =
        "GROQ_API_KEY_1=a\nGROQ_API_KEY_2=b\nGROQ_API_KEY=${GROQ_API_KEY_1},${GROQ_API_KEY_2}\n";
    let home = Home::new().write(".env", dotenv);
    assert_eq!(secrets(&home), ["a", "b"]);
    assert_eq!(home.good().warnings, Vec::<String>::new());
    let home = Home::new()
        .env("OPENAI_API_KEY", "k")
        .env("OPENAI_BASE_URL", "https://h/v1")
        .env("OPENAI_API_BASE", "https://h/v1")
        .env("OPENAI_ORG_ID", "org");
    assert_eq!(home.good().warnings, Vec::<String>::new());
}
