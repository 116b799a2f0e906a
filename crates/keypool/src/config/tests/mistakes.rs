//! The mistakes that a file can have: each has its location and message, and the message contains no secret.

use proptest::prelude::{Strategy, any, prop, prop_assert, proptest};

use super::*;

const CANARY: &str = "canary";

/// Loads `text`, which has exactly one mistake, at the location marked by `§`. Its message must contain all `words`.
pub(super) fn check(text: &str, words: &[&str]) {
    let at = text.find('§').expect("a marked location");
    let (line, column) = (
        text[..at].matches('\n').count() + 1,
        text[..at].chars().rev().take_while(|c| *c != '\n').count() + 1,
    );
    let errors = toml(&text.replace('§', "")).errors();
    let [error] = &errors[..] else {
        panic!("one mistake in\n{text}\nfound {errors:#?}")
    };
    assert_eq!(
        error.location,
        format!("keypool.toml:{line}:{column}"),
        "{text}\n{error}"
    );
    let message = error.to_string();
    for word in words {
        assert!(
            message.contains(word),
            "`{word}` is missing for\n{text}\nin {message}"
        );
    }
    assert!(
        !message.contains(CANARY) && !format!("{errors:?}").contains(CANARY),
        "{message}"
    );
}

const SERVER: &[(&str, &[&str])] = &[
    (
        "[§sever]\nlisten = 'x'",
        &[
            "unknown table `sever`",
            "at the top level",
            "did you mean `server`?",
        ],
    ),
    ("§lisen = 1", &["unknown field", "known there: server, log"]),
    (
        "[server]\n§listn = '127.0.0.1:1'",
        &[
            "unknown field `listn` in `server`",
            "did you mean `listen`?",
        ],
    ),
    ("[server]\n§zzzzzz = 1", &["known there: listen, auth"]),
    ("server = §1", &["`server` must be a table, found a number"]),
    (
        "[server]\nlisten = §8080",
        &["`server.listen` must be a string, found a number"],
    ),
    (
        "server.listen = §'example.com:80'",
        &["an address and port", "found \"example.com:80\""],
    ),
    (
        "server.listen = §'127.0.0.1:65536'",
        &["an address and port"],
    ),
    (
        "server.admin_listen = §'nowhere'",
        &["`server.admin_listen`", "an address and port"],
    ),
    (
        "server.auth = §'requird'",
        &[
            "one of \"auto\", \"required\" or \"none\"",
            "found \"requird\"",
            "did you mean \"required\"?",
        ],
    ),
    ("server.max_request_body = §'64 XB'", &["a size such as"]),
    ("server.max_request_body = §0", &["a size such as"]),
    (
        "server.max_request_body = §true",
        &["a size such as", "found true"],
    ),
    (
        "server.shutdown_timeout = §30",
        &["a duration such as \"30s\"", "found a number"],
    ),
    (
        "server.shutdown_timeout = §'30'",
        &["a duration such as \"30s\"", "found \"30\""],
    ),
    (
        "server.shutdown_delay = §'soon'",
        &["`server.shutdown_delay`", "found \"soon\""],
    ),
    (
        "server.public_url = §'http://llm.example.com'",
        &["an https address", "http only for a loopback host"],
    ),
    (
        "server.public_url = §'llm.example.com'",
        &["an https address"],
    ),
    (
        "server.allowed_hosts = §'a.example'",
        &["must be a list of strings, found a string"],
    ),
    (
        "server.allowed_hosts = ['a.example', §'a.example:80']",
        &["a host without scheme and port"],
    ),
    (
        "server.allowed_origins = [§'*']",
        &["\"*\"", "list the origins"],
    ),
    (
        "server.allowed_origins = ['https://a', §'null']",
        &["\"null\"", "list the origins"],
    ),
    ("server.allowed_origins = [§' * ']", &["an origin such as"]),
    (
        "server.allowed_origins = [§'https://*.example.com']",
        &["an origin such as"],
    ),
    (
        "server.allowed_origins = [§'https://a/b']",
        &["an origin such as"],
    ),
    (
        "server.trusted_proxies = ['10.0.0.1', §'10.0.0.0/64']",
        &["an address or network"],
    ),
    (
        "[server]\ntls = §{ cert = 'c' }",
        &["`server.tls.key` is missing"],
    ),
    (
        "server.tls = { cert = 'c', key = 'k', §ca = 'x' }",
        &["unknown field `ca`"],
    ),
    (
        "log.level = §'inof'",
        &["one of \"error\"", "did you mean \"info\"?"],
    ),
    ("log.format = §'xml'", &["\"text\" or \"json\""]),
    ("log.§colour = true", &["unknown field `colour` in `log`"]),
    (
        "admin.token = §'canary-short'",
        &["`admin.token` must have at least 16 characters"],
    ),
    ("admin.token = §'canary-0123456789-ключ'", &["HTTP header"]),
    (
        "admin.token = §'canary 0123456789'",
        &["HTTP header", "without spaces"],
    ),
    ("admin.token = §0123456789", &["not valid TOML"]),
    (
        "admin.token = §123456789123456789",
        &["must be a string, found a number"],
    ),
    (
        "admin.token = §'${NO_SUCH_TOKEN}'",
        &["uses the environment variable `NO_SUCH_TOKEN`, which is not set"],
    ),
    (
        "log.level = §'${NO_A}'",
        &["`NO_A`, which is not set", "in the environment or in .env"],
    ),
];

#[test]
fn server_log_and_admin_have_exact_mistakes() {
    for &(text, words) in SERVER {
        check(text, words);
    }
}

const REST: &[(&str, &[&str])] = &[
    (
        "[jobs]\nwebhook_hosts = ['a.example', §'https://b.example']",
        &[
            "`jobs.webhook_hosts",
            "a host such as \"hooks.example.com\"",
        ],
    ),
    (
        "[jobs]\nwebhook_hosts = [§'*']",
        &["`jobs.webhook_hosts", "a host such as"],
    ),
    (
        "store.url = §'mysql://u:canary@h/d'",
        &["`store.url` must be a URL such as"],
    ),
    (
        "store.url = §'sqlite://'",
        &["does not name a database file"],
    ),
    (
        "store.master_key = §''",
        &["`store.master_key` must have at least 16 characters"],
    ),
    (
        "admin.token = '0123456789abcdef'\nstore.url = §'postgres://u:canary@h/d'",
        &["`store.master_key` must be set if the store is PostgreSQL"],
    ),
    (
        "store.master_key = 'canary-0123456789'\nstore.url = §'postgres://u:canary@h/d'",
        &["`admin.token` must be set if the store is PostgreSQL"],
    ),
    ("files.max_size = §'big'", &["a size such as"]),
    ("files.§max = 1", &["unknown field `max` in `files`"]),
    (
        "metrics.public = §'yes'",
        &["true or false, found a string"],
    ),
    (
        "§[[routes]]\ntargets = [{ pool = '*' }]",
        &["`routes.model` is missing"],
    ),
    (
        "§[[routes]]\nmodel = 'best'",
        &["`routes.targets` is missing"],
    ),
    (
        "[[routes]]\nmodel = 'best'\ntargets = §[]",
        &["at least one target"],
    ),
    (
        "[[routes]]\nmodel = 'best'\ntargets = [{ pool = §'opnai' }]\n[pools.openai]\nprovider = 'openai'",
        &[
            "names a pool that does not exist: \"opnai\"",
            "did you mean `openai`?",
        ],
    ),
    (
        "[[routes]]\nmodel = 'best'\ntargets = [§{ model = 'm' }]",
        &["`routes.targets.pool` is missing"],
    ),
    (
        "[pools.p]\nprovider = 'ark'\n[[routes]]\nmodel = 'b'\ntargets = [{ pool = 'p' }]\n[[routes]]\nmodel = §'b'\ntargets = [{ pool = 'p' }]",
        &["already a route for the model `b`"],
    ),
    (
        "[pools.p]\nprovider = 'ark'\n[[routes]]\nmodel = §'gpt-*'\ntargets = [{ pool = 'p' }]",
        &["must be a name without `*`"],
    ),
    (
        "§[routes]\nmodel = 'best'",
        &["must be a list of tables, each under `[[routes]]`, found a table"],
    ),
];

#[test]
fn other_sections_have_exact_mistakes() {
    for &(text, words) in REST {
        let text = if text.contains("pool = '*'") {
            &*format!("pools.p.provider = 'ark'\n{}", text.replace("'*'", "'p'"))
        } else {
            text
        };
        check(text, words);
    }
}

const POOLS: &[(&str, &[&str])] = &[
    (
        "[pools.§v1]\nprovider = 'openai'",
        &["`v1`", "one of keypool's own paths"],
    ),
    (
        "[pools.§'a b']\nprovider = 'openai'",
        &["`a b`", "cannot be part of a path"],
    ),
    (
        "[pools.§'']\nprovider = 'openai'",
        &["cannot be part of a path"],
    ),
    (
        "[pools.§'.a']\nprovider = 'openai'",
        &["does not start with `.`"],
    ),
    (
        "[pools.§'пул']\nprovider = 'openai'",
        &["cannot be part of a path"],
    ),
    ("pools.§a = 1", &["`pools.a` must be a table"]),
    (
        "§[pools.a]\nkeys = 'canary'",
        &["no `provider`", "\"openai\", \"anthropic\"", "or \"mock\""],
    ),
    (
        "[pools.a]\nprovider = §'opnai'",
        &["\"openai\"", "did you mean \"openai\"?"],
    ),
    (
        "§[pools.a]\nprovider = 'mock'",
        &["`pools.a.base_url` is missing", "\"mock\""],
    ),
    (
        "§[pools.a]\nprovider = 'openai-compatible'\nkeys = 'canary1,canary2'",
        &["`pools.a.base_url` is missing"],
    ),
    (
        "§[pools.a]\nprovider = 'mock'\n[[pools.a.keys]]\nkey = 'k1'\nbase_url = 'http://h'\n[[pools.a.keys]]\nkey = 'k2'",
        &["`pools.a.base_url` is missing"],
    ),
    (
        "[pools.a]\nprovider = 'openai'\nbase_url = §'api.openai.com'",
        &[
            "`pools.a.base_url` is not a base URL",
            "http:// or https://",
        ],
    ),
    (
        "[pools.a]\nprovider = 'openai'\nbase_url = §'https://u:canary@h'",
        &["no user or password"],
    ),
    (
        "[pools.a]\nprovider = 'openai'\nbase_url = §'http://[::1]:99999'",
        &["host or port"],
    ),
    (
        "[pools.a]\nprovider = 'openai'\nbase_url = §'https://h/v1/chat/completions/'",
        &[
            "`pools.a.base_url` ends with an endpoint",
            "write \"https://h/v1\"",
        ],
    ),
    (
        "[pools.a]\nprovider = 'gemini'\n[[pools.a.keys]]\nkey = 'k'\nbase_url = §'https://h/v1beta/models/x:generateContent'",
        &[
            "`pools.a.keys.base_url` ends with an endpoint",
            "write \"https://h\"",
        ],
    ),
    (
        "[pools.a]\nprovider = 'tavily'\nbase_url = §'https://h/search'",
        &["write \"https://h\""],
    ),
    (
        "[pools.a]\nprovider = 'mock'\nbase_url = §'http://LOCALHOST:8080/v1'",
        &["keypool's own address, 127.0.0.1:8080"],
    ),
    (
        "[server]\nlisten = '0.0.0.0:80'\n[pools.a]\nprovider = 'mock'\n[[pools.a.keys]]\nkey = 'k'\nbase_url = §'http://127.0.0.1/v1'",
        &["keypool's own address"],
    ),
    (
        "[pools.a]\nprovider = 'openai'\nproxy = §'canary:3128'",
        &["the URL of a proxy"],
    ),
    (
        "[pools.a]\nprovider = 'openai'\nstrategy = §'least_load'",
        &["did you mean \"least_loaded\"?"],
    ),
    (
        "[pools.a]\nprovider = 'openai'\nmodels = [§'']",
        &["`pools.a.models` must not be empty"],
    ),
    (
        "[pools.a]\nprovider = 'openai'\nmodels = [§1]",
        &["must be a string"],
    ),
    (
        "[pools.a]\nprovider = 'openai'\nmax_concurrent_per_key = §0",
        &["a whole number of at least 1, found the whole number 0"],
    ),
    (
        "[pools.a]\nprovider = 'openai'\nmax_concurrent_per_key = §1.5",
        &["found the number 1.5"],
    ),
    (
        "[pools.a]\nprovider = 'openai'\nsecond_opinion = §'yes'",
        &["`pools.a.second_opinion` must be true or false, found a string"],
    ),
    (
        "[pools.a]\nprovider = 'openai'\nretry = §3",
        &["`pools.a.retry` must be a table"],
    ),
    (
        "[pools.a]\nprovider = 'openai'\n[pools.a.retry]\nretries = §101",
        &["a whole number from 0 to 100, found the whole number 101"],
    ),
    (
        "[pools.a]\nprovider = 'openai'\n[pools.a.retry]\nretries = §-1",
        &["from 0 to 100"],
    ),
    (
        "[pools.a]\nprovider = 'openai'\n[pools.a.retry]\n§retry = 1",
        &["in `pools.a.retry`", "known there: retries, backoff"],
    ),
    (
        "[pools.a]\nprovider = 'openai'\nbreaker.failure_rate = §0",
        &["above 0, up to 1"],
    ),
    (
        "[pools.a]\nprovider = 'openai'\nbreaker.failure_rate = §nan",
        &["above 0, up to 1"],
    ),
    (
        "[pools.a]\nprovider = 'openai'\nbreaker.max_ejected = §1.1",
        &["from 0 to 1, found the number 1.1"],
    ),
    (
        "[pools.a]\nprovider = 'openai'\nbreaker.min_requests = §0",
        &["at least 1"],
    ),
    (
        "[pools.a]\nprovider = 'openai'\nbreaker.window = §'0s'",
        &["above zero"],
    ),
    (
        "[pools.a]\nprovider = 'openai'\nqueue.max_waiting = §1_000_001",
        &["from 0 to 1000000"],
    ),
    (
        "[pools.a]\nprovider = 'openai'\nqueue.timeout = §'1 minute'",
        &["a duration such as"],
    ),
    (
        "[pools.a]\nprovider = 'openai'\ntimeouts.§totl = '1s'",
        &["did you mean `total`?"],
    ),
    (
        "[pools.a]\nprovider = 'openai'\ntimeouts.total = §'0s'",
        &["above zero"],
    ),
    (
        "[pools.a]\nprovider = 'openai'\n[pools.§a]\nstrategy = 'random'",
        &["`a` is set twice"],
    ),
    (
        "[pools.a]\nprovider = 'openai'\n§provider = 'ark'",
        &["`provider` is set twice"],
    ),
];

#[test]
fn pools_have_exact_mistakes() {
    for &(text, words) in POOLS {
        let text = &*text.replace("pools.§a = 1", "pools.a = §1");
        check(text, words);
    }
}

const KEYS: &[(&str, &[&str])] = &[
    (
        "keys = §1",
        &[
            "`pools.a.keys` must be a string with commas",
            "found a number",
        ],
    ),
    (
        "keys = ['canary', §1]",
        &["must be a string, found a number"],
    ),
    ("keys = ['canary', §'']", &["must not be empty"]),
    (
        "keys = §'canary1, canary2,canary1'",
        &["repeats the secret of `a-1` for `a-3`"],
    ),
    ("keys = §'canary\u{e9}'", &["HTTP header"]),
    (
        "keys = §'canary1 canary2'",
        &[
            "`pools.a.keys` contains a key with a space or line break inside",
            "separate keys by commas",
        ],
    ),
    (
        "keys = §'canary1, canary2\tcanary3'",
        &["space or line break inside"],
    ),
    (
        "keys = §\"\"\"canary1\ncanary2\"\"\"",
        &["space or line break inside", "separate keys by commas"],
    ),
    (
        "keys = ['canary', §'canary2 canary3']",
        &["space or line break inside", "one key in each"],
    ),
    (
        "[[pools.a.keys]]\nkey = §'canary1 canary2'",
        &["`pools.a.keys.key` contains a key with a space"],
    ),
    ("keys = §\"canary\\u007f\"", &["HTTP header"]),
    (
        "keys = §['canary', { key = 'canary2' }]",
        &["both strings and tables"],
    ),
    (
        "keys = 'canary'\n[[pools.a.§keys]]\nkey = 'canary2'",
        &[
            "`keys` is set twice",
            "either `keys = …` or `[[pools.<name>.keys]]`",
        ],
    ),
    (
        "§[[pools.a.keys]]\nname = 'x'",
        &["`pools.a.keys.key` is missing"],
    ),
    (
        "[[pools.a.keys]]\nkey = §['canary']",
        &["must be a string, found a list"],
    ),
    (
        "[[pools.a.keys]]\nkey = 'canary'\n§disabled = true",
        &["unknown field `disabled` in `pools.a.keys`"],
    ),
    (
        "[[pools.a.keys]]\nkey = 'canary'\n§modell = 'm'",
        &["did you mean `model`?"],
    ),
    (
        "[[pools.a.keys]]\nkey = 'canary1'\n[[pools.a.keys]]\nkey = §'canary1'",
        &["repeats the secret of `a-1`"],
    ),
    (
        "[[pools.a.keys]]\nkey = 'canary1'\nname = 'n'\n[[pools.a.keys]]\nkey = 'canary2'\nname = §'n'",
        &["two keys named `n`"],
    ),
    (
        "[[pools.a.keys]]\nkey = 'canary1'\nname = 'a-2'\n§[[pools.a.keys]]\nkey = 'canary2'",
        &["two keys named `a-2`", "<position>"],
    ),
    (
        "[[pools.a.keys]]\nkey = 'canary'\nname = §' '",
        &["`pools.a.keys.name` must not be empty"],
    ),
    (
        "[[pools.a.keys]]\nkey = 'canary'\nname = §\"a\\nb\"",
        &["control characters"],
    ),
    (
        "[[pools.a.keys]]\nkey = 'canary'\nweight = §101",
        &["from 1 to 100"],
    ),
    (
        "[[pools.a.keys]]\nkey = 'canary'\nweight = §0",
        &["from 1 to 100"],
    ),
    (
        "[[pools.a.keys]]\nkey = 'canary'\nmax_concurrent = §0",
        &["at least 1"],
    ),
    (
        "[[pools.a.keys]]\nkey = 'canary'\ngroup = §''",
        &["must not be empty"],
    ),
    (
        "[[pools.a.keys]]\nkey = §'${NO_KEY}'",
        &["`NO_KEY`, which is not set"],
    ),
    (
        "[[pools.a.keys]]\nkey = 'canary'\nbase_url = §'ftp://canary'",
        &["is not a base URL"],
    ),
    (
        "[[pools.a.keys]]\nkey = 'canary'\nproxy = §'ftp://canary'",
        &["http://, https://, socks5:// or socks5h://"],
    ),
];

#[test]
fn keys_have_exact_mistakes() {
    let pool = "[pools.a]\nprovider = 'openai'\n";
    for &(text, words) in KEYS {
        check(&format!("{pool}{text}"), words);
    }
    let long = format!(
        "{pool}[[pools.a.keys]]\nkey = 'canary'\nname = §'{}'",
        "n".repeat(129)
    );
    check(&long, &["at most 128 characters"]);
    toml(&long.replace('§', "").replace("nn'", "n'")).good();
}

const VIRTUAL_KEYS: &[(&str, &[&str])] = &[
    (
        "§key = 'canary-0123456789'",
        &["`virtual_keys.name` is missing"],
    ),
    ("§name = 'a'", &["neither `key` nor `key_sha256`"]),
    (
        "name = 'a'\nkey = §'canary-15-chars'",
        &["at least 16 characters"],
    ),
    (
        "name = 'a'\nkey = §'canary-0123456789-\u{e9}'",
        &["HTTP header"],
    ),
    (
        "name = 'a'\nkey = §'canary 0123456789'",
        &["HTTP header", "without spaces"],
    ),
    (
        "name = 'a'\nkey_sha256 = §'canary'",
        &["64 hexadecimal digits"],
    ),
    (
        "name = 'a'\nkey = 'canary-0123456789'\nkey_sha256 = §'canary'",
        &["both `key` and `key_sha256`"],
    ),
    (
        "name = 'a'\nkey = 'canary-0123456789'\npools = ['*', §'nowhere']",
        &["a pool that does not exist: \"nowhere\"", "pools: openai"],
    ),
    (
        "name = 'a'\nkey = 'canary-0123456789'\nnative = §1",
        &["true or false"],
    ),
    (
        "name = 'a'\nkey = 'canary-0123456789'\nwebhook_secret = §'whsec_canary'",
        &["webhook_secret` must be `whsec_` and 24 to 64 random bytes in base64"],
    ),
    (
        "name = 'a'\nkey = 'canary-0123456789'\nexpires = §'2027-01-31'",
        &["a date and time with its offset"],
    ),
    (
        "name = 'a'\nkey = 'canary-0123456789'\nexpires = §2027-01-31",
        &["a date and time with its offset", "found a date"],
    ),
    (
        "name = 'a'\nkey = 'canary-0123456789'\n§pool = ['*']",
        &["did you mean `pools`?"],
    ),
    (
        "name = 'a'\nkey = 'canary-0123456789'\n[[virtual_keys]]\nname = §'a'\nkey = 'canary-1123456789'",
        &["two virtual keys named `a`"],
    ),
    (
        "name = 'a'\nkey = 'canary-0123456789'\n[[virtual_keys]]\nname = 'b'\nkey = §'canary-0123456789'",
        &["the secret of `a`"],
    ),
    (
        "name = ''\nkey = 'canary-0123456789'",
        &["must not be empty"],
    ),
];

#[test]
fn virtual_keys_have_exact_mistakes() {
    for &(text, words) in VIRTUAL_KEYS {
        let text = text
            .replace("§key = 'c", "key = 'c")
            .replace("§name = 'a'", "name = 'a'")
            .replace("name = ''", "name = §''");
        let mark = if text.contains('§') { "" } else { "§" };
        check(
            &format!("pools.openai.provider = 'openai'\n{mark}[[virtual_keys]]\n{text}"),
            words,
        );
    }
}

#[test]
fn all_mistakes_are_reported_in_order() {
    let text = r#"[server]
listen = "nowhere"
lisen = 1
auth = true
[pools.api]
provider = "opnai"
weight = 3
[pools.b]
provider = "openai"
keys = "canary,canary"
retry.retries = 1000
queue.timeout = "${NO_SUCH}"
[[virtual_keys]]
name = "a"
key = "canary"
pools = ["c"]
"#;
    let errors = toml(text).errors();
    let locations: Vec<_> = errors
        .iter()
        .map(|error| error.location.strip_prefix("keypool.toml:").unwrap())
        .collect();
    assert_eq!(
        locations,
        [
            "2:10", "3:1", "4:8", "5:8", "6:12", "7:1", "10:8", "11:17", "12:17", "15:7", "16:10"
        ]
    );
    let message = Errors(errors).to_string();
    assert_eq!(message.matches("\n\n").count(), 10);
    assert!(
        message.starts_with("keypool.toml:2:10: `server.listen` must be an address"),
        "{message}"
    );
    assert!(!message.contains(CANARY), "{message}");
}

#[test]
fn syntax_errors_hide_only_the_mistakes_they_may_cause() {
    let text = "[server]\nlisten = \nauth = 'canary\nlisen = 1\n[pools.a]\nprovider = openai\nkeys = canary\n[[virtual_keys]]\nname = 'x\"\n";
    let errors = toml(text).errors();
    let locations: Vec<_> = errors.iter().map(|error| error.location.clone()).collect();
    for line in [2, 3, 6, 7, 9] {
        assert_eq!(
            locations
                .iter()
                .filter(|place| place.starts_with(&format!("keypool.toml:{line}:")))
                .count(),
            1,
            "{line}: {errors:#?}"
        );
    }
    assert_eq!(
        locations
            .iter()
            .filter(|place| *place == "keypool.toml:4:1")
            .count(),
        1,
        "{errors:#?}"
    );
    assert_eq!(errors.len(), 6, "{errors:#?}");
    assert!(!format!("{errors:?}").contains(CANARY), "{errors:#?}");
}

#[test]
fn fields_under_a_broken_header_are_not_checked() {
    let errors =
        toml("log.level = 'inof'\n[server\nlisten = 1\n[pools.a]\nprovider = 'opnai'\n").errors();
    let locations: Vec<_> = errors.iter().map(|error| &*error.location).collect();
    assert_eq!(
        locations,
        ["keypool.toml:1:13", "keypool.toml:2:8", "keypool.toml:5:12"]
    );
}

#[test]
fn bytes_that_are_not_utf_8_have_a_location() {
    let errors = Home::new()
        .write("keypool.toml", b"[server]\n# \xd0\xba \xff\n")
        .errors();
    assert_eq!(errors.len(), 1);
    assert_eq!(errors[0].location, "keypool.toml:2:5");
    assert!(errors[0].message.contains("not UTF-8"));
}

/// A key may be pasted anywhere. At most six of its characters are shown, so that the user can find it.
#[test]
fn a_key_in_a_wrong_field_is_not_shown() {
    let keys = [
        format!("AIzaSyCanary{}", "x".repeat(27)),
        format!("tvly-d{}", "0a".repeat(16)),
        format!("a1b2c3{}", "x".repeat(26)),
        "team-a-0123456789".to_owned(),
    ];
    for key in &keys {
        for text in [
            "server.listen = '§'",
            "server.auth = '§'",
            "server.shutdown_delay = '§'",
            "server.max_request_body = '§'",
            "server.allowed_hosts = ['§@']",
            "server.allowed_origins = ['§']",
            "server.trusted_proxies = ['§']",
            "log.level = '§'",
            "log.level = '${§}'",
            "limiter.mode = '§'",
            "§ = 1",
            "server.§ = 'x'",
            "[pools.a]\nprovider = '§'",
            "[pools.a]\nprovider = 'openai'\nstrategy = '§'",
            "[pools.a]\nprovider = 'openai'\n§ = 1\n§ = 1",
            "[[virtual_keys]]\nname = 'a'\nkey = '0123456789abcdef'\npools = ['§']",
            "[[virtual_keys]]\nname = 'a'\nkey = '0123456789abcdef'\nexpires = '§'",
        ] {
            let text = text.replace('§', key);
            let message = Errors(toml(&text).errors()).to_string();
            assert!(!message.contains(&key[..7]), "{text}\n{message}");
        }
        for name in ["KEYPOOL_LISTEN", "KEYPOOL_LOG_LEVEL"] {
            let message = Errors(Home::new().env(name, key).errors()).to_string();
            assert!(
                !message.contains(&key[..7]) && message.contains(&key[..6]),
                "{message}"
            );
        }
    }
}

/// The example with one part replaced by another: mistakes that nobody thought of.
fn mutated() -> impl Strategy<Value = String> {
    let length = EXAMPLE.len();
    let edit = (0..length, 0..60usize, 0..length, 0..60usize);
    prop::collection::vec(edit, 1..6).prop_map(|edits| {
        let mut text = EXAMPLE.to_owned();
        for (at, cut, from, take) in edits {
            let (at, end) = (
                text.floor_char_boundary(at),
                text.floor_char_boundary(at + cut),
            );
            let (from, to) = (
                EXAMPLE.floor_char_boundary(from),
                EXAMPLE.floor_char_boundary(from + take),
            );
            text.replace_range(at..end.max(at), &EXAMPLE[from..to]);
        }
        text
    })
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..400), dotenv in prop::collection::vec(any::<u8>(), 0..100)) {
        let _ = Home::new().write("keypool.toml", bytes).write(".env", dotenv).load();
    }

    #[test]
    fn no_text_makes_it_panic(text in "([\\[\\]a-z.'\"=#\n ,{}$0-9é]|pools|server|keys){0,60}") {
        let _ = Home::new().write("keypool.toml", &text).write(".env", &text).load();
    }

    #[test]
    fn no_change_of_the_example_makes_it_panic(text in mutated()) {
        let home = example().write("keypool.toml", text);
        if let Err(errors) = home.load() {
            prop_assert!(!errors.0.is_empty());
        }
    }

    #[test]
    fn no_secret_is_shown_when_fields_swap_values(at in 0..EXAMPLE.lines().count(), other in 0..EXAMPLE.lines().count()) {
        // keypool cannot know that a value of another field is a secret. Only keys and tokens are checked here.
        let lines: Vec<&str> = EXAMPLE.lines().collect();
        let secret = |line: &str| line.contains(CANARY) || line.contains("${");
        let value = lines[other].split_once('=').map(|(_, value)| value).filter(|_| !secret(lines[other]) || secret(lines[at]));
        if let (Some((name, _)), Some(value)) = (lines[at].split_once('='), value) {
            let mut lines: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
            lines[at] = format!("{name}={value}");
            let result = example().write("keypool.toml", lines.join("\n")).load();
            let message = format!("{result:?}") + &result.map_or_else(|errors| errors.to_string(), |loaded| loaded.warnings.concat());
            prop_assert!(!message.contains(CANARY), "{}", message);
        }
    }
}
