//! The limits of virtual keys and upstream keys, and the store that counts them.

use std::path::Path;

use keypool_core::limit::{Limits, OutputReservation};
use keypool_gateway::settings::{
    LimiterMode, LimiterSettings, LimiterStore, OnLimit, OnStoreFailure, RedisAddress,
    RedisServers, RedisSettings, VirtualKeySettings,
};

use super::mistakes;
use super::warnings;
use super::*;

const POOL: &str = "[pools.a]\nprovider = 'openai'\n";
const UPSTREAM_KEY: &str = "[[pools.a.keys]]\nkey = 'canary'\n";
const VIRTUAL_KEY: &str = "[[virtual_keys]]\nname = 'a'\nkey = 'canary-0123456789'\n";

/// The virtual key in a file that has only one, with these lines.
fn caller(lines: &str) -> VirtualKeySettings {
    let loaded = toml(&format!("{VIRTUAL_KEY}{lines}")).good();
    loaded.settings.virtual_keys[0].clone()
}

fn single(host: &str, database: u32, password: Option<&str>) -> LimiterStore {
    let address = RedisAddress {
        host: host.to_owned(),
        port: 6379,
    };
    LimiterStore::Redis(RedisSettings {
        servers: RedisServers::Single { address, database },
        tls: false,
        user: None,
        password: password.map(Secret::new),
    })
}

#[test]
fn the_limits_of_the_example_are_read() {
    let settings = example().good().settings;
    let [team_a, team_b] = &settings.virtual_keys[..] else {
        panic!("two virtual keys")
    };
    let limits = Limits {
        requests: Some(60),
        input_tokens: Some(100_000),
        output_tokens: Some(20_000),
        concurrent: Some(10),
    };
    assert_eq!(team_a.limits, limits);
    assert_eq!(
        (
            team_a.output_reservation,
            team_a.on_limit,
            team_a.limit_wait
        ),
        (
            OutputReservation::MaxTokens,
            OnLimit::Wait,
            Duration::from_secs(5)
        )
    );
    let requests = Some(1);
    let one = Limits {
        requests,
        ..Limits::default()
    };
    assert_eq!(team_b.limits, one);
    assert_eq!(
        (
            team_b.output_reservation,
            team_b.on_limit,
            team_b.limit_wait
        ),
        (
            OutputReservation::Learned,
            OnLimit::Reject,
            Duration::from_secs(10)
        )
    );
    let keys = &settings.pools[0].keys;
    let limits = Limits {
        requests: Some(60),
        input_tokens: Some(1_000_000),
        output_tokens: Some(100_000),
        concurrent: None,
    };
    assert_eq!((keys[0].limits, keys[1].limits), (limits, one));
    assert_eq!(settings.pools[1].keys[0].limits, Limits::default());
}

#[test]
fn the_limiter_of_the_example_is_read() {
    let nodes = ["h1", "h2", "h3"].map(|host| RedisAddress {
        host: host.to_owned(),
        port: 7000,
    });
    let redis = RedisSettings {
        servers: RedisServers::Cluster(nodes.to_vec()),
        tls: true,
        user: Some("me".to_owned()),
        password: Some(Secret::new("canary/redis")),
    };
    assert_eq!(
        example().good().settings.limiter,
        LimiterSettings {
            store: LimiterStore::Redis(redis),
            mode: LimiterMode::Strict,
            on_store_failure: OnStoreFailure::Reject,
        }
    );
}

#[test]
fn a_limit_may_be_any_whole_number_from_1() {
    for (text, expect) in [
        ("rpm = 1", Some(1)),
        ("rpm = 1_000_000", Some(1_000_000)),
        ("rpm = 0xff", Some(255)),
        ("rpm = 4_294_967_295", Some(u32::MAX)),
        ("", None),
    ] {
        assert_eq!(caller(text).limits.requests, expect, "{text}");
    }
}

#[test]
fn a_limit_that_is_no_such_number_says_what_to_write() {
    const REMOVE: &str = "for no limit, remove the setting";
    const QUOTES: &str = "write the number without quotes";
    for (value, found, hint) in [
        ("0", "the whole number 0", REMOVE),
        ("-1", "the whole number -1", REMOVE),
        ("4_294_967_296", "the whole number 4294967296", REMOVE),
        (
            "9223372036854775807",
            "the whole number 9223372036854775807",
            REMOVE,
        ),
        ("1.5", "the number 1.5", REMOVE),
        ("60.0", "the number 60.0", REMOVE),
        ("1e6", "the number 1e6", REMOVE),
        ("inf", "the number inf", REMOVE),
        ("'60'", "a string", QUOTES),
        ("'1_000_000'", "a string", QUOTES),
        ("'unlimited'", "a string", QUOTES),
        ("true", "true", REMOVE),
        ("[60]", "a list", REMOVE),
        ("{}", "a table", REMOVE),
    ] {
        for (table, path) in [
            (VIRTUAL_KEY, "virtual_keys"),
            (UPSTREAM_KEY, "pools.a.keys"),
        ] {
            for field in ["rpm", "input_tpm", "output_tpm"] {
                let message = format!(
                    "`{path}.{field}` must be a whole number from 1 to 4294967295, found {found}"
                );
                let text = format!("{POOL}{table}{field} = §{value}");
                mistakes::check(&text, &[&message, hint]);
            }
        }
        let text = format!("{POOL}{VIRTUAL_KEY}max_concurrent = §{value}");
        mistakes::check(&text, &["`virtual_keys.max_concurrent`", found, hint]);
    }
}

#[test]
fn words_and_times_of_limits_have_exact_mistakes() {
    for (text, words) in [
        (
            "output_reservation = §'max'",
            &["\"learned\" or \"max_tokens\""][..],
        ),
        (
            "output_reservation = §1_000",
            &["\"learned\" or \"max_tokens\"", "found a number"],
        ),
        (
            "on_limit = §'wiat'",
            &["\"reject\" or \"wait\"", "did you mean \"wait\"?"],
        ),
        (
            "on_limit = §true",
            &["\"reject\" or \"wait\"", "found true"],
        ),
        (
            "limit_wait = §10",
            &["a duration above zero", "found a number"],
        ),
        (
            "limit_wait = §'0s'",
            &["a duration above zero", "found \"0s\""],
        ),
        ("§rmp = 1", &["unknown field `rmp`", "did you mean `rpm`?"]),
        ("§tpm = 1", &["unknown field `tpm`"]),
    ] {
        mistakes::check(&format!("{VIRTUAL_KEY}{text}"), words);
    }
}

#[test]
fn all_mistakes_about_limits_are_reported_at_once() {
    let text = format!(
        "limiter = {{ url = 'redis://:canary@h:0', mode = 'x', on_store_failure = 'y' }}\n\
         {POOL}{UPSTREAM_KEY}rpm = 0\ninput_tpm = -1\n\
         {VIRTUAL_KEY}output_tpm = 1.5\nmax_concurrent = '1'\nlimit_wait = 1\n"
    );
    let errors = toml(&text).errors();
    assert_eq!(errors.len(), 8, "{errors:#?}");
}

#[test]
fn the_limiter_has_exact_mistakes() {
    for (text, words) in [
        (
            "url = §'redis//:canary@h'",
            &["must be \"memory\" or a URL"][..],
        ),
        ("url = §''", &["must be \"memory\" or a URL"]),
        (
            "url = §'redis://u:can/ary@canary'",
            &["percent-encoded", "\"@\" is %40"],
        ),
        ("url = §'redis://u:canary@h:70000'", &["host or port"]),
        (
            "url = §'redis://u:canary@h/canary'",
            &["number of a database"],
        ),
        ("url = §'redis://u:canary@h?timeout=1'", &["`timeout`"]),
        (
            "url = §'redis://u:canary@h1:1,h2:1'",
            &["write \"redis-cluster://"],
        ),
        (
            "url = §'redis-cluster://u:canary@h1:1/1'",
            &["database number"],
        ),
        ("url = §6379", &["`limiter.url` must be a string"]),
        (
            "url = §'redis://:${NO_PASSWORD}@h'",
            &["`NO_PASSWORD`, which is not set"],
        ),
        ("mode = §'lease'", &["did you mean \"leased\"?"]),
        (
            "on_store_failure = §'ignore'",
            &["\"degrade\", \"reject\" or \"allow\""],
        ),
        (
            "§urls = 'memory'",
            &["unknown field `urls` in `limiter`", "did you mean `url`?"],
        ),
    ] {
        mistakes::check(&format!("[limiter]\n{text}"), words);
    }
}

#[test]
fn the_variable_wins_over_the_file_and_the_file_takes_variables() {
    let home = toml("limiter.url = 'redis://:${REDIS_PASSWORD}@file/3'")
        .env("REDIS_PASSWORD", "canary%40");
    let store = |home: &Home| home.good().settings.limiter.store;
    assert_eq!(store(&home), single("file", 3, Some("canary@")));
    let home = home.env("KEYPOOL_LIMITER_URL", "redis://variable");
    assert_eq!(store(&home), single("variable", 0, None));
    let home = home.env("KEYPOOL_LIMITER_URL", " memory ");
    assert_eq!(store(&home), LimiterStore::Memory);
    assert_eq!(
        Home::new().good().settings.limiter,
        LimiterSettings::default()
    );
    // `$` may be part of a password in a variable.
    let home = Home::new().env("KEYPOOL_LIMITER_URL", "redis://:${X}@variable");
    assert_eq!(store(&home), single("variable", 0, Some("${X}")));
}

#[test]
fn a_setting_about_limits_without_effect_warns() {
    for (lines, expect) in [
        (
            "rpm = 1\noutput_reservation = §'max_tokens'",
            &["`virtual_keys.output_reservation` has no effect without `output_tpm`"][..],
        ),
        ("output_tpm = 1\noutput_reservation = 'max_tokens'", &[]),
        ("output_reservation = 'learned'", &[]),
        (
            "rpm = 1\nlimit_wait = §'5s'",
            &["`virtual_keys.limit_wait` has no effect without `on_limit = \"wait\"`"],
        ),
        ("rpm = 1\non_limit = 'wait'\nlimit_wait = '5s'", &[]),
        ("max_concurrent = 1\non_limit = 'wait'", &[]),
        (
            "on_limit = §'wait'",
            &[
                "`virtual_keys.on_limit` has no effect without `rpm`, `input_tpm`, `output_tpm` or `max_concurrent`",
            ],
        ),
    ] {
        warnings::check(&format!("{VIRTUAL_KEY}{lines}"), expect);
    }
    for (lines, expect) in [
        (
            "mode = §'strict'",
            &["`limiter.mode` has no effect without Redis"][..],
        ),
        (
            "url = 'memory'\nmode = §'strict'\non_store_failure = §'allow'",
            &[
                "`limiter.mode` has no effect without Redis",
                "`limiter.on_store_failure` has no effect without Redis",
            ],
        ),
        ("mode = 'leased'\non_store_failure = 'degrade'", &[]),
    ] {
        warnings::check(&format!("[limiter]\n{lines}"), expect);
    }
}

#[test]
fn a_redis_user_without_a_password_warns() {
    for (url, count) in [
        ("redis://canary@h", 1),
        ("redis://canary:@h", 1),
        ("redis://:canary@h", 0),
        ("redis://me:canary@h", 0),
        ("redis://h", 0),
    ] {
        let warnings = toml(&format!("limiter = {{ url = '{url}' }}"))
            .good()
            .warnings;
        let start = "keypool.toml:1:19: `limiter.url` has a user and no password";
        let found = warnings.iter().filter(|warning| warning.starts_with(start));
        assert_eq!(found.count(), count, "{url}: {warnings:#?}");
        let all = warnings.concat();
        assert!(
            !all.contains("canary") && !all.contains("no effect"),
            "{all}"
        );
    }
}

/// The blocks of TOML in a page.
fn toml_blocks(markdown: &str) -> Vec<&str> {
    let blocks = markdown.split("```toml\n").skip(1);
    blocks
        .map(|block| block.split("```").next().unwrap())
        .collect()
}

#[test]
fn the_examples_of_the_page_about_limits_are_read_without_a_warning() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/limits.md");
    let page = std::fs::read_to_string(page).unwrap();
    let blocks = toml_blocks(&page);
    assert_eq!(blocks.len(), 4, "{blocks:#?}");
    for block in blocks {
        let home = crate::config::values::references(block)
            .iter()
            .fold(toml(block), |home, name| {
                home.env(name, &format!("{name}-0123456789"))
            });
        assert_eq!(home.good().warnings, Vec::<String>::new(), "{block}");
    }
}
