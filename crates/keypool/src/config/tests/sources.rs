//! The sources of values (file, environment, `.env`, flags), and which wins.

use keypool_gateway::settings::StoreLocation;

use super::*;

fn keys(pool: &keypool_core::settings::PoolSettings) -> Vec<(&str, &str)> {
    pool.keys
        .iter()
        .map(|key| (&*key.name, key.secret.expose()))
        .collect()
}

fn messages(home: &Home) -> Vec<String> {
    home.errors().iter().map(ToString::to_string).collect()
}

#[test]
fn flags_win_over_the_environment_and_that_over_the_file() {
    let mut home = toml(
        "server.listen = '127.0.0.1:1'\nlog = { level = 'error', format = 'json' }\nadmin.token = 'file-0123456789abcdef'",
    );
    let read = |home: &Home| {
        let settings = home.good().settings;
        (
            settings.server.listen.port(),
            settings.log.level,
            settings.log.format,
            settings.admin.token.unwrap().expose().to_owned(),
        )
    };
    assert_eq!(
        read(&home),
        (
            1,
            LogLevel::Error,
            LogFormat::Json,
            "file-0123456789abcdef".to_owned()
        )
    );
    for (name, value) in [
        ("KEYPOOL_LISTEN", "localhost:2"),
        ("KEYPOOL_LOG_LEVEL", "warn"),
        ("KEYPOOL_LOG_FORMAT", "text"),
        ("KEYPOOL_ADMIN_TOKEN", "env-0123456789abcdef"),
    ] {
        home = home.env(name, "").env("X", "1");
        assert_ne!(
            home.good().settings.server.listen.port(),
            2,
            "an empty variable counts as unset"
        );
        home = home.env(name, value);
        if name == "KEYPOOL_LISTEN" {
            home = home.env(name, "");
        }
    }
    home = home.env("KEYPOOL_LISTEN", "localhost:2");
    assert_eq!(
        read(&home),
        (
            2,
            LogLevel::Warn,
            LogFormat::Text,
            "env-0123456789abcdef".to_owned()
        )
    );
    home.sources.overrides = Overrides {
        listen: Some("[::1]:3".to_owned()),
        log_level: Some("trace".to_owned()),
        log_format: Some("json".to_owned()),
    };
    assert_eq!(
        read(&home),
        (
            3,
            LogLevel::Trace,
            LogFormat::Json,
            "env-0123456789abcdef".to_owned()
        )
    );
}

#[test]
fn mistakes_outside_the_file_name_their_source() {
    let mut home = Home::new()
        .env("KEYPOOL_LISTEN", "nowhere")
        .env("KEYPOOL_LOG_LEVEL", "inof")
        .env("KEYPOOL_ADMIN_TOKEN", "canary")
        .env("KEYPOOL_STORE_URL", "canary://x")
        .env("KEYPOOL_LIMITER_URL", "canary://x")
        .env("OPENAI_BASE_URL", "canary")
        .env("OPENAI_API_KEY", "k1")
        .env("GROQ_API_KEY", "canary\u{e9}");
    home.sources.overrides.log_format = Some("yaml".to_owned());
    let messages = messages(&home);
    let starts = [
        "environment, GROQ_API_KEY: `GROQ_API_KEY` contains a key with a character",
        "environment, KEYPOOL_ADMIN_TOKEN: `KEYPOOL_ADMIN_TOKEN` must have at least 16",
        "environment, KEYPOOL_LIMITER_URL: `KEYPOOL_LIMITER_URL` must be \"memory\"",
        "environment, KEYPOOL_LISTEN: `KEYPOOL_LISTEN` must be an address and port such as \"127.0.0.1:8080\", found \"nowhere\"",
        "environment, KEYPOOL_LOG_LEVEL: `KEYPOOL_LOG_LEVEL` must be one of",
        "environment, KEYPOOL_STORE_URL: `KEYPOOL_STORE_URL` must be a URL",
        "environment, OPENAI_BASE_URL: `OPENAI_BASE_URL` is not a base URL",
        "command line, --log-format: `--log-format` must be one of \"text\" or \"json\", found \"yaml\"",
    ];
    assert_eq!(messages.len(), starts.len(), "{messages:#?}");
    for (message, start) in messages.iter().zip(starts) {
        assert!(
            message.starts_with(start) && !message.contains("canary"),
            "{message}"
        );
    }
}

#[test]
fn provider_keys_make_pools_in_the_order_of_the_providers() {
    let home = Home::new()
        .env("GOOGLE_API_KEY", "g3, g1")
        .env("GEMINI_API_KEY", " g1,, g2 ,")
        .env("OPENAI_API_KEY", "o1")
        .env("OPENAI_BASE_URL", "https://proxy.example.com/v1/")
        .env("ARK_API_KEY", "a1")
        .env("GROQ_API_KEY", "  ");
    let pools = home.good().settings.pools;
    let names: Vec<_> = pools
        .iter()
        .map(|pool| (&*pool.name, pool.provider, &*pool.source))
        .collect();
    assert_eq!(
        names,
        [
            ("openai", "openai", "environment"),
            ("gemini", "gemini", "environment"),
            ("ark", "ark", "environment")
        ]
    );
    assert_eq!(
        keys(&pools[1]),
        [("gemini-1", "g1"), ("gemini-2", "g2"), ("gemini-3", "g3")]
    );
    assert_eq!(
        pools[0].keys[0].base_url.to_string(),
        "https://proxy.example.com/v1"
    );
    assert_eq!(
        (
            pools[0].keys[0].max_concurrent,
            pools[2].keys[0].max_concurrent
        ),
        (None, Some(3))
    );
    for pool in &pools {
        assert_eq!(
            pool.models,
            keypool_providers::catalogue::find(pool.provider)
                .unwrap()
                .default_models
        );
    }
}

#[test]
fn every_dialect_with_variables_makes_a_pool() {
    for dialect in keypool_providers::catalogue::ALL {
        for variable in dialect.env_keys {
            let pools = Home::new().env(variable, "k1,k2").good().settings.pools;
            assert_eq!(pools.len(), 1, "{variable}");
            assert_eq!((&*pools[0].name, pools[0].keys.len()), (dialect.name, 2));
            assert_eq!(
                pools[0].keys[0].base_url.to_string(),
                dialect.default_base_url.unwrap().trim_end_matches('/')
            );
        }
    }
}

#[test]
fn a_pool_in_the_file_replaces_the_provider_s_variables() {
    let file = "[pools.mine]\nprovider = 'openai'\nkeys = '${OPENAI_API_KEY}'\n[pools.groq]\nprovider = 'ark'\n";
    let home = toml(file)
        .env("OPENAI_API_KEY", "o1,o2")
        .env("GROQ_API_KEY", "canary")
        .env("ARK_BASE_URL", "https://ark.example.com/api/v3");
    let loaded = home.good();
    let names: Vec<_> = loaded
        .settings
        .pools
        .iter()
        .map(|pool| &*pool.name)
        .collect();
    assert_eq!(names, ["mine", "groq"]);
    assert_eq!(
        keys(&loaded.settings.pools[0]),
        [("mine-1", "o1"), ("mine-2", "o2")]
    );
    let skipped: Vec<_> = loaded
        .warnings
        .iter()
        .filter(|warning| warning.contains("is not used"))
        .collect();
    assert_eq!(
        skipped,
        [
            "`GROQ_API_KEY` is not used: keypool.toml has a pool named \"groq\" with another provider"
        ]
    );
}

#[test]
fn a_base_url_comes_from_key_pool_environment_or_provider() {
    let base = |home: Home| home.good().settings.pools[0].keys[0].base_url.to_string();
    let key = "[[pools.p.keys]]\nkey = 'k'\n";
    let home =
        |pool: &str, own: &str| toml(&format!("[pools.p]\nprovider = 'openai'\n{pool}{key}{own}"));
    assert_eq!(base(home("", "")), "https://api.openai.com/v1");
    let env = |home: Home| home.env("OPENAI_BASE_URL", "https://env/v1");
    assert_eq!(base(env(home("", ""))), "https://env/v1");
    assert_eq!(
        base(env(home("base_url = 'https://pool/v1'\n", ""))),
        "https://pool/v1"
    );
    assert_eq!(
        base(env(home(
            "base_url = 'https://pool/v1'\n",
            "base_url = 'https://key/v1'"
        ))),
        "https://key/v1"
    );
}

#[test]
fn an_environment_base_url_that_is_keypool_itself_is_a_mistake() {
    let home = Home::new()
        .env("OPENAI_API_KEY", "k")
        .env("OPENAI_BASE_URL", "http://localhost:8080/v1");
    assert!(
        messages(&home)[0].starts_with(
            "environment, OPENAI_BASE_URL: `OPENAI_BASE_URL` is keypool's own address"
        )
    );
    home.env("KEYPOOL_LISTEN", "127.0.0.1:8081").good();
}

#[test]
fn the_process_wins_over_dotenv() {
    let dotenv = "GEMINI_API_KEY=key1, key2,key3\nOPENAI_API_KEY=from-file\nEMPTY=filled\nTOKEN='0123456789abcdef'\n";
    let home = toml("admin.token = '${TOKEN}'\n")
        .write(".env", dotenv)
        .env("OPENAI_API_KEY", "from-process");
    let settings = home.good().settings;
    assert_eq!(keys(&settings.pools[0]), [("openai-1", "from-process")]);
    assert_eq!(
        keys(&settings.pools[1]),
        [
            ("gemini-1", "key1"),
            ("gemini-2", "key2"),
            ("gemini-3", "key3")
        ]
    );
    assert_eq!(settings.admin.token.unwrap().expose(), "0123456789abcdef");
    let errors = toml("log.level = '${EMPTY}'")
        .write(".env", dotenv)
        .env("EMPTY", "")
        .errors();
    assert!(
        errors[0].message.contains("`EMPTY`, which is empty"),
        "a variable that is set is not overridden, even by nothing"
    );
}

#[test]
fn a_mistake_in_dotenv_has_its_line_and_shows_no_secret() {
    let home = toml("server.listen = 1").write(".env", "A=1\ncanary secret\nB=\"canary\n");
    let errors = home.errors();
    let locations: Vec<_> = errors.iter().map(|error| &*error.location).collect();
    assert_eq!(locations, [".env:2:1", ".env:3:1", "keypool.toml:1:17"]);
    assert!(!format!("{errors:?}").contains("canary"));
    let errors = Home::new().write(".env", b"A=1\nB=\xff\n").errors();
    assert_eq!((&*errors[0].location, errors.len()), (".env:2:1", 1));
    let home = Home::new();
    std::fs::create_dir(home.sources.dir.join(".env")).unwrap();
    home.good();
}

#[test]
fn a_wrong_value_in_dotenv_has_line_and_column() {
    let dotenv = "# мой ключ\nKEYPOOL_LISTEN=nope\n\n  export KEYPOOL_LOG_LEVEL = 'inof'\nOPENAI_BASE_URL=canary\nOPENAI_API_KEY=k1\n\
                  KEYPOOL_ADMIN_TOKEN=\"canary\"\nGROQ_API_KEY=canary\nGROQ_API_KEY=k1, canary k2\nKEYPOOL_STORE_URL=canary://x\n";
    let home = Home::new().write(".env", dotenv);
    let errors = home.errors();
    let messages: Vec<_> = errors
        .iter()
        .map(|error| (&*error.location, error.message.split('`').nth(1).unwrap()))
        .collect();
    assert_eq!(
        messages,
        [
            (".env:2:16", "KEYPOOL_LISTEN"),
            (".env:4:30", "KEYPOOL_LOG_LEVEL"),
            (".env:5:17", "OPENAI_BASE_URL"),
            (".env:7:21", "KEYPOOL_ADMIN_TOKEN"),
            (".env:9:14", "GROQ_API_KEY"),
            (".env:10:19", "KEYPOOL_STORE_URL"),
        ]
    );
    assert!(!format!("{errors:?}").contains("canary"), "{errors:#?}");
    // A variable of the process is not located in the file, even if both are wrong.
    let errors = home
        .env("KEYPOOL_LISTEN", "nowhere")
        .env("KEYPOOL_LOG_LEVEL", "")
        .errors();
    let locations: Vec<_> = errors.iter().map(|error| &*error.location).collect();
    assert_eq!(
        (locations.len(), locations[0], locations[4]),
        (5, ".env:5:17", "environment, KEYPOOL_LISTEN")
    );
}

#[test]
fn a_named_file_must_exist() {
    let mut home = Home::new()
        .write("other.toml", "server.listen = '127.0.0.1:5'\n")
        .write("third.toml", "server.listn = 1");
    home = home.env("KEYPOOL_CONFIG", "other.toml");
    let loaded = home.good();
    assert_eq!(loaded.settings.server.listen.port(), 5);
    assert_eq!(loaded.files[0].path, home.sources.dir.join("other.toml"));
    home.sources.file = Some("third.toml".into());
    assert!(messages(&home)[0].starts_with("third.toml:1:8: unknown field `listn`"));
    home.sources.file = Some("none.toml".into());
    let errors = home.errors();
    assert_eq!((&*errors[0].location, errors.len()), ("none.toml", 1));
    assert!(errors[0].message.contains("cannot be read"));
    home.sources.file = None;
    assert_eq!(
        &*home.env("KEYPOOL_CONFIG", "gone.toml").errors()[0].location,
        "gone.toml"
    );
}

#[test]
fn the_token_file_is_beside_the_database() {
    for (url, expect) in [
        ("sqlite://keypool.db", "keypool.admin-token"),
        (
            "sqlite://data/pool.v2.sqlite?mode=rwc",
            "data/pool.v2.admin-token",
        ),
        ("sqlite:plain", "plain.admin-token"),
        (
            "sqlite:///var/lib/keypool/k.db",
            "/var/lib/keypool/k.admin-token",
        ),
    ] {
        let home = toml(&format!("store.url = '{url}'"));
        assert_eq!(
            home.good().settings.admin.token_file,
            home.sources.dir.join(expect),
            "{url}"
        );
        let home = Home::new().env("KEYPOOL_STORE_URL", url);
        let settings = home.good().settings;
        let dir = &home.sources.dir;
        assert_eq!(settings.admin.token_file, dir.join(expect), "{url}");
        let master_key = dir.join(expect.replace("admin-token", "master-key"));
        assert_eq!(settings.store.master_key_file, master_key, "{url}");
    }
}

#[test]
fn variables_replace_the_store_and_its_master_key() {
    let home = toml("[store]\nurl = 'postgres://h/d'\nmaster_key = '0123456789abcdef'\n[admin]\ntoken = '0123456789abcdef'")
        .env("KEYPOOL_STORE_URL", "postgresql://u:canary@h/e")
        .env("KEYPOOL_MASTER_KEY", " canary-0123456789\n");
    let loaded = home.good();
    assert_eq!(loaded.warnings, Vec::<String>::new());
    let store = loaded.settings.store;
    let location = StoreLocation::Postgres(Secret::new("postgresql://u:canary@h/e"));
    assert_eq!(store.location, location);
    assert_eq!(store.master_key, Some(Secret::new("canary-0123456789")));
}

#[test]
fn a_route_may_refer_to_a_pool_from_the_environment() {
    let file = "[[virtual_keys]]\nname = 'a'\nkey = '0123456789abcdef'\npools = ['groq']\n";
    toml(file).env("GROQ_API_KEY", "k").good();
    assert!(messages(&toml(file))[0].contains("no pool is configured"));
}

#[test]
fn the_process_is_a_source() {
    let sources = Sources::from_process(Some("x.toml".into()), Overrides::default()).unwrap();
    assert_eq!(sources.dir, std::env::current_dir().unwrap());
    assert!(sources.env.contains_key("PATH"));
}
