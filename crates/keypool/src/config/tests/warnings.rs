//! Warnings about settings that are allowed but probably not meant, each with its location.

use super::*;

const POOLS: &str = "pools.a = { provider = 'openai' }\npools.b = { provider = 'anthropic' }\npools.t = { provider = 'tavily' }\n";

/// Checks the warnings about `text`: each starts with the next location marked by `§`, and contains the next expected text.
pub(super) fn check(text: &str, expect: &[&str]) {
    let mut locations = Vec::new();
    let mut plain = String::new();
    for part in text.split_inclusive('§') {
        plain.push_str(part.trim_end_matches('§'));
        if part.ends_with('§') {
            let line = plain.matches('\n').count() + 1;
            let column = plain.chars().rev().take_while(|c| *c != '\n').count() + 1;
            locations.push(format!("keypool.toml:{line}:{column}: "));
        }
    }
    let warnings = toml(&plain).env("SET", "canary-set").good().warnings;
    assert_eq!(
        (warnings.len(), locations.len()),
        (expect.len(), expect.len()),
        "{text}\n{warnings:#?}"
    );
    for ((warning, location), words) in warnings.iter().zip(locations).zip(expect) {
        assert!(
            warning.starts_with(&location)
                && warning.contains(words)
                && !warning.contains("canary"),
            "{text}\n{location}{words}\n{warning}"
        );
    }
}

#[test]
fn a_stray_dollar_brace_warns() {
    for value in ["${SET", "canary${", "${SET:-x}", "${}", "${SET}${SET"] {
        let text = format!("[pools.a]\nprovider = 'openai'\nmodels = [§'{value}']");
        let expected = "`pools.a.models` has a `${` that does not start a `${NAME}`";
        check(&text, &[expected]);
    }
    for value in ["${SET}", "$SET", "a$", "$${SET}", "}${SET}{"] {
        check(
            &format!("pools.a = {{ provider = 'openai', models = ['{value}'] }}"),
            &[],
        );
    }
}

#[test]
fn a_stray_dollar_brace_in_dotenv_warns() {
    let text = "KEYPOOL_ADMIN_TOKEN=0123456789abcdef${SET\nANTHROPIC_API_KEY=\"x\\${y${SET}\"\n  KEYPOOL_MASTER_KEY = \"x${}-0123456789abc\" # ${\nSET=${\nOTHER=${OTHER:-x}\n";
    let home = Home::new()
        .write(".env", text)
        .env("SET", "canary-set")
        .env("ANTHROPIC_API_KEY", "k");
    let begins = |warning: &String| warning.split(" that").next().unwrap().to_owned();
    let warnings = home.good().warnings;
    let strays = warnings.iter().filter(|warning| warning.contains("${"));
    let expected: Vec<String> = strays.map(begins).collect();
    assert_eq!(
        expected,
        [
            ".env:1:21: `KEYPOOL_ADMIN_TOKEN` has a `${`",
            ".env:3:24: `KEYPOOL_MASTER_KEY` has a `${`"
        ],
        "no warning about variables of the process or about variables that are not read"
    );
}

#[test]
fn a_base_url_without_the_path_that_its_host_needs_warns() {
    let expected = "`pools.a.base_url` lacks the version or path that this host needs: write \"https://api.groq.com/openai/v1\"";
    check(
        "[pools.a]\nprovider = 'groq'\nbase_url = §'https://api.groq.com'",
        &[expected],
    );
    check(
        "[pools.a]\nprovider = 'openai'\n[[pools.a.keys]]\nkey = 'k'\nbase_url = §'https://openrouter.ai/v1'",
        &["write \"https://openrouter.ai/api/v1\""],
    );
    check(
        "[pools.a]\nprovider = 'deepseek'\nbase_url = 'https://api.deepseek.com'",
        &[],
    );
    for (variable, value, expect) in [
        (
            "MOONSHOT",
            "https://api.moonshot.cn",
            "https://api.moonshot.cn/v1",
        ),
        (
            "ARK",
            "https://ark.cn-beijing.volces.com/",
            "https://ark.cn-beijing.volces.com/api/v3",
        ),
    ] {
        let home = Home::new()
            .env(&format!("{variable}_API_KEY"), "k")
            .env(&format!("{variable}_BASE_URL"), value);
        let warnings = home.good().warnings.concat();
        let place = format!("environment, {variable}_BASE_URL: `{variable}_BASE_URL` lacks");
        assert!(
            warnings.starts_with(&place) && warnings.ends_with(&format!("write \"{expect}\"")),
            "{warnings}"
        );
        let home = home.env(
            &format!("{variable}_BASE_URL"),
            &format!("{expect}/embeddings"),
        );
        let message = home.errors()[0].to_string();
        assert!(
            message.ends_with(&format!("write \"{expect}\"")),
            "{message}"
        );
    }
}

#[test]
fn a_pool_named_like_the_first_segment_of_an_endpoint_warns() {
    for name in ["chat", "messages", "models", "embeddings", "cachedContents"] {
        let text = format!("[pools.§{name}]\nprovider = 'openai'");
        let expected =
            format!("the pool `{name}` gets every call whose path begins with `/{name}`");
        check(&text, &[&expected]);
    }
    for name in ["openai", "chatter", "Chat", "beta", "models-eu"] {
        check(&format!("[pools.{name}]\nprovider = 'openai'"), &[]);
    }
}

#[test]
fn an_empty_list_of_a_virtual_key_warns() {
    // In a pool it makes sense: the pool is for routes, or for calls by its path.
    check("pools.a = { provider = 'openai', models = [] }", &[]);
    check(
        "[[virtual_keys]]\nname = 'a'\nkey = '0123456789abcdef'\nmodels = §[]\npools = §[]\n",
        &["may use no model", "may use no pool"],
    );
}

#[test]
fn virtual_keys_without_effect_warn() {
    let key = "[[virtual_keys]]\nname = 'a'\nkey = '0123456789abcdef'\n";
    let expected = "`server.auth` is \"none\", so no caller needs a virtual key";
    check(&format!("[server]\nauth = §'none'\n{key}"), &[expected]);
    for auth in ["auto", "required"] {
        check(&format!("server.auth = '{auth}'\n{key}"), &[]);
    }
    check("server.auth = 'none'", &[]);
}

#[test]
fn a_target_that_is_in_a_route_twice_warns() {
    let again = "is in the route twice";
    for (targets, expect) in [
        (
            "{ pool = 'a', model = 'x' }, §{ pool = 'a', model = 'x' }",
            &[again][..],
        ),
        ("{ pool = 'a' }, §{ pool = 'a', model = 'best' }", &[again]),
        (
            "{ pool = 'a' }, { pool = 'b' }, §{ pool = 'a' }, §{ pool = 'b' }",
            &[again, again],
        ),
        (
            "{ pool = 'a', model = 'x' }, { pool = 'a', model = 'y' }, { pool = 'b', model = 'x' }",
            &[],
        ),
    ] {
        check(
            &format!("{POOLS}[[routes]]\nmodel = 'best'\ntargets = [{targets}]"),
            expect,
        );
    }
}

#[test]
fn a_target_that_no_call_with_a_model_reaches_warns() {
    let none = "calls to the provider of the pool `t` do not name a model";
    for (targets, expect) in [
        ("§{ pool = 't' }", &[none][..]),
        ("{ pool = 'a' }, §{ pool = 't' }", &[none]),
        ("{ pool = 'a' }, { pool = 'b' }", &[]),
    ] {
        check(
            &format!("{POOLS}[[routes]]\nmodel = 'best'\ntargets = [{targets}]"),
            expect,
        );
    }
}

#[test]
fn a_route_that_no_virtual_key_may_use_warns() {
    let none = "no virtual key may use the route `best`";
    for (key, route, expect) in [
        ("models = ['gpt-*']", "§'best'", &[none][..]),
        ("pools = ['b']", "§'best'", &[none]),
        ("models = ['x']\npools = ['b']", "§'best'", &[none]),
        ("models = ['best']", "'best'", &[]),
        ("models = ['x']", "'best'", &[]),
        ("models = ['be*']\npools = ['a']", "'best'", &[]),
    ] {
        let text = format!(
            "{POOLS}[[virtual_keys]]\nname = 'v'\nkey = '0123456789abcdef'\n{key}\n\
             [[routes]]\nmodel = {route}\ntargets = [{{ pool = 'a', model = 'x' }}]\n"
        );
        check(&text, expect);
        // An enabled key that may use everything removes the warning.
        let other = "[[virtual_keys]]\nname = 'w'\nkey = '0123456789abcdefg'\n";
        check(&format!("{}{other}", text.replace('§', "")), &[]);
        check(&format!("{text}{other}disabled = true\n"), expect);
    }
}
