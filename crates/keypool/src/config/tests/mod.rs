//! What the configuration promises, tested through `load` alone.

mod guide;
mod limits;
mod mistakes;
mod provider_keys;
mod proxies;
mod sources;
mod warnings;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use keypool_core::secret::{Digest256, Secret};
use keypool_core::settings::Strategy;
use keypool_core::store::JobLimits;
use keypool_gateway::settings::{AuthMode, LogFormat, LogLevel, RouteSettings, RouteTarget};
use keypool_gateway::webhook_hosts::WebhookHost;
use keypool_gateway::webhook_secret::WebhookSecret;

use super::errors::ConfigError;
use super::*;

/// A working directory that is removed after the test.
struct Home {
    sources: Sources,
}

impl Home {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "keypool-config-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        let dir = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&dir).unwrap();
        let sources = Sources {
            file: None,
            env: BTreeMap::new(),
            dir,
            overrides: Overrides::default(),
            environment_pools: true,
        };
        Self { sources }
    }

    fn write(self, name: &str, text: impl AsRef<[u8]>) -> Self {
        std::fs::write(self.sources.dir.join(name), text).unwrap();
        self
    }

    fn env(mut self, name: &str, value: &str) -> Self {
        self.sources.env.insert(name.to_owned(), value.to_owned());
        self
    }

    fn load(&self) -> Result<Loaded, Errors> {
        load(&self.sources)
    }

    fn good(&self) -> Loaded {
        self.load().unwrap_or_else(|errors| panic!("{errors}"))
    }

    fn errors(&self) -> Vec<ConfigError> {
        self.load()
            .map(|loaded| panic!("accepted: {loaded:?}"))
            .unwrap_err()
            .0
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.sources.dir).unwrap();
    }
}

/// The files that a reload reads.
fn paths(loaded: &Loaded) -> Vec<std::path::PathBuf> {
    loaded.files.iter().map(|file| file.path.clone()).collect()
}

/// A directory with `text` as `keypool.toml`.
fn toml(text: &str) -> Home {
    Home::new().write("keypool.toml", text)
}

/// A configuration with every field.
const EXAMPLE: &str = include_str!("example.toml");

/// A webhook secret of 27 bytes.
const WEBHOOK_SECRET: &str = "whsec_canarycanarycanarycanarycanarycanary";

fn example() -> Home {
    let env = [
        ("KEYPOOL_ADMIN_TOKEN", "canary-admin-token-0123456789"),
        ("ARK_MAIN", "canary-ark-main"),
        ("GEMINI_API_KEY", "canary-g1, canary-g2,canary-g3"),
        ("TEAM_A_KEY", "canary-team-a-0123456789"),
        ("TEAM_A_HOOK", WEBHOOK_SECRET),
    ];
    env.into_iter()
        .fold(toml(EXAMPLE), |home, (name, value)| home.env(name, value))
}

#[test]
fn the_whole_example_is_read() {
    let loaded = example().good();
    let settings = &loaded.settings;
    assert_eq!(
        (settings.server.auth, settings.server.max_request_body),
        (AuthMode::Required, 32 << 20)
    );
    let public_url = settings.server.public_url.as_ref().map(ToString::to_string);
    assert_eq!(
        public_url.as_deref(),
        Some("https://llm.example.com/gateway")
    );
    assert_eq!(settings.server.allowed_hosts, ["llm.example.com"]);
    assert_eq!(settings.server.allowed_origins, ["https://app.example.com"]);
    assert_eq!(
        (
            settings.server.shutdown_timeout,
            settings.server.shutdown_delay
        ),
        (Duration::from_secs(20), Duration::from_secs(3))
    );
    assert_eq!(
        (settings.log.level, settings.log.format),
        (LogLevel::Debug, LogFormat::Json)
    );
    assert_eq!(
        settings.admin.token,
        Some(Secret::new("canary-admin-token-0123456789"))
    );
}

#[test]
fn the_jobs_of_the_example_are_read() {
    let jobs = example().good().settings.jobs;
    let limits = JobLimits {
        max_queued: 1_000,
        max_queued_per_caller: 500,
        max_stored: 2 << 30,
        max_stored_per_caller: 1 << 30,
    };
    assert_eq!((jobs.limits, jobs.max_running), (limits, 8));
    let times = (jobs.keep.as_secs(), jobs.deadline.as_secs());
    assert_eq!(times, (86_400, 7_200));
    let hosts = [
        "hooks.example.com",
        "*.example.org",
        "http://127.0.0.1:9000",
    ];
    let hosts = hosts.map(|host| WebhookHost::parse(host).unwrap());
    assert_eq!(jobs.webhook_hosts, hosts);
    assert!(toml("").good().settings.jobs.webhook_hosts.is_empty());
}

#[test]
fn the_pools_of_the_example_are_read() {
    let settings = example().good().settings;
    let names: Vec<(&str, &str)> = settings
        .pools
        .iter()
        .map(|pool| (&*pool.name, pool.provider))
        .collect();
    assert_eq!(
        names,
        [
            ("vision", "ark"),
            ("gemini", "gemini"),
            ("anthropic", "anthropic")
        ]
    );

    let vision = &settings.pools[0];
    assert_eq!(
        (vision.strategy, &*vision.models, &*vision.source),
        (
            Strategy::LeastLoaded,
            &["doubao-*".to_owned()][..],
            "keypool.toml"
        )
    );
    assert_eq!(
        (vision.retry.retries, vision.retry.backoff),
        (4, Duration::from_millis(500))
    );
    assert_eq!(
        (
            settings.pools[0].second_opinion,
            settings.pools[1].second_opinion
        ),
        (false, true)
    );
    let breaker = vision.breaker;
    assert_eq!(
        (
            breaker.failure_rate,
            breaker.min_requests,
            breaker.max_ejected
        ),
        (0.25, 5, 1.0)
    );
    assert_eq!(
        (breaker.window, breaker.cooldown),
        (Duration::from_secs(30), Duration::from_secs(120))
    );
    assert_eq!(
        (vision.queue.max_waiting, vision.queue.timeout),
        (10, Duration::from_secs(6))
    );
    let times = vision.timeouts;
    assert_eq!(
        [times.connect, times.first_byte, times.idle, times.total].map(|t| t.as_secs()),
        [2, 200, 60, 3600]
    );
}

#[test]
fn the_routes_of_the_example_are_read() {
    let settings = example().good().settings;
    let target = |pool: &str, model: Option<&str>| RouteTarget {
        pool: pool.into(),
        model: model.map(Into::into),
    };
    let route = |model: &str, targets| RouteSettings {
        model: model.into(),
        targets,
    };
    assert_eq!(
        settings.routes,
        [
            route(
                "best",
                vec![
                    target("anthropic", Some("claude-x")),
                    target("vision", None)
                ]
            ),
            route("second", vec![target("gemini", Some("gemini-x"))]),
        ]
    );
}

#[test]
fn the_keys_of_the_example_are_read() {
    let settings = example().good().settings;
    let [main, spare] = &settings.pools[0].keys[..] else {
        panic!("two keys")
    };
    assert_eq!(
        (&*main.name, main.weight, main.max_concurrent),
        ("主账号", 2, Some(4))
    );
    assert_eq!(
        (main.model.as_deref(), main.group.as_deref()),
        (Some("doubao-1-5"), Some("org-a"))
    );
    assert_eq!(
        (main.base_url.to_string(), main.secret.expose()),
        (
            "https://key.example.com/api/v3".to_owned(),
            "canary-ark-main"
        )
    );
    let proxies = [main, spare].map(|key| key.proxy.as_ref().map(|proxy| proxy.expose()));
    assert_eq!(
        proxies,
        [
            Some("http://proxy.example.com:3128"),
            Some("http://user:canary-proxy@proxy.example.com:3128")
        ]
    );
    assert_eq!(
        (&*spare.name, spare.weight, spare.max_concurrent),
        ("vision-2", 1, Some(6))
    );
    assert_eq!(
        (spare.base_url.to_string(), spare.secret.expose()),
        (
            "https://pool.example.com/api/v3".to_owned(),
            "canary-literal"
        )
    );

    let gemini: Vec<_> = settings.pools[1]
        .keys
        .iter()
        .map(|key| (&*key.name, key.secret.expose()))
        .collect();
    assert_eq!(
        gemini,
        [
            ("gemini-1", "canary-g1"),
            ("gemini-2", "canary-g2"),
            ("gemini-3", "canary-g3")
        ]
    );
    assert_eq!(
        settings.pools[2].keys[0].secret.expose(),
        "a,b",
        "an item of a list is one key"
    );
}

#[test]
fn the_virtual_keys_of_the_example_are_read() {
    let settings = example().good().settings;
    let [team_a, team_b] = &settings.virtual_keys[..] else {
        panic!("two virtual keys")
    };
    assert_eq!(team_a.digest, Digest256::of(b"canary-team-a-0123456789"));
    assert_eq!(
        (
            &*team_a.models,
            &*team_a.pools,
            team_a.native,
            team_a.disabled
        ),
        (
            &["gpt-*".to_owned()][..],
            &["vision".to_owned(), "g*".to_owned()][..],
            true,
            false
        )
    );
    assert_eq!(
        team_a.expires,
        Some(std::time::UNIX_EPOCH + Duration::from_secs(1_801_353_600))
    );
    let secret = WebhookSecret::parse(WEBHOOK_SECRET).unwrap();
    assert_eq!(team_a.webhook_secret, Some(secret));
    assert_eq!(team_b.webhook_secret, None);
    assert_eq!(team_b.digest, Digest256([0xab; 32]));
    assert_eq!(
        (
            &team_b.models,
            &team_b.pools,
            team_b.native,
            team_b.disabled
        ),
        (&vec!["*".to_owned()], &vec!["*".to_owned()], false, true)
    );
    assert_eq!(team_b.expires, team_a.expires, "with and without quotes");
}

#[test]
fn a_setting_that_is_not_implemented_warns_once() {
    let loaded = example().good();
    let warnings: Vec<_> = loaded
        .warnings
        .iter()
        .filter(|warning| warning.contains("not implemented yet"))
        .collect();
    for setting in [
        "server.admin_listen",
        "server.trusted_proxies",
        "server.tls",
        "strategy = \"headroom\"",
        "metrics.public",
    ] {
        let start = format!("`{setting}` is");
        assert_eq!(
            warnings
                .iter()
                .filter(|warning| warning.starts_with(&start))
                .count(),
            1,
            "{setting}: {warnings:#?}"
        );
    }
    assert_eq!(warnings.len(), 5, "{warnings:#?}");
    assert!(loaded.settings.pools[1..].iter().all(|pool| {
        let is_affine = &*pool.name == "anthropic";
        pool.strategy
            == if is_affine {
                Strategy::Affinity
            } else {
                Strategy::RoundRobin
            }
    }));
}

#[test]
fn defaults_give_no_warning_whether_written_or_not() {
    let defaults = r#"
        [server]
        trusted_proxies = []
        [store]
        url = "sqlite://keypool.db"
        [limiter]
        url = "memory"
        mode = "leased"
        on_store_failure = "degrade"
        [files]
        max_size = "512MiB"
        [metrics]
        public = false
        [[virtual_keys]]
        name = "a"
        key = "0123456789abcdef"
        output_reservation = "learned"
        on_limit = "reject"
        limit_wait = "10s"
    "#;
    assert_eq!(toml(defaults).good().warnings, Vec::<String>::new());
    let home = Home::new();
    let loaded = home.good();
    assert_eq!(loaded.warnings, Vec::<String>::new());
    assert_eq!(loaded.settings.server, Default::default());
    assert_eq!(loaded.settings.log, Default::default());
    assert_eq!(loaded.settings.pools, Vec::new());
    assert_eq!(loaded.settings.admin.token, None);
    assert_eq!(
        loaded.settings.admin.token_file,
        home.sources.dir.join("keypool.admin-token")
    );
    assert_eq!(
        paths(&loaded),
        [
            home.sources.dir.join("keypool.toml"),
            home.sources.dir.join(".env")
        ]
    );
}

#[test]
fn a_server_warns_if_it_serves_nobody_or_everyone_on_the_network() {
    let key = "\n[[virtual_keys]]\nname = 'a'\nkey = '0123456789abcdef'\n";
    let disabled = format!("{key}disabled = true");
    let spend = "`server.auth` is \"none\": anyone who reaches ADDRESS may spend the keys";
    let shut = "ADDRESS can be reached from outside, but there is no enabled virtual key: every call gets 401 until one is configured";
    let local = "a virtual key is required, but all are disabled or missing: every call gets 401 until one is configured";
    for (auth, keys, expect, on_loopback) in [
        ("none", "", Some(spend), None),
        ("auto", "", Some(shut), None),
        ("required", "", Some(shut), Some(local)),
        ("auto", &*disabled, Some(shut), Some(local)),
        ("required", &*disabled, Some(shut), Some(local)),
        ("auto", key, None, None),
        ("required", key, None, None),
    ] {
        for address in ["0.0.0.0:8080", "[::]:8080", "192.0.2.7:80"] {
            let text = format!("server.listen = '{address}'\nserver.auth = '{auth}'{keys}");
            let expect = expect.map(|warnings| warnings.replace("ADDRESS", address));
            assert_eq!(
                toml(&text).good().warnings,
                Vec::from_iter(expect),
                "{text}"
            );
        }
        for address in ["127.0.0.1:8080", "[::1]:8080", "localhost:80"] {
            let text = format!("server.listen = '{address}'\nserver.auth = '{auth}'{keys}");
            let expect = Vec::from_iter(on_loopback.map(str::to_owned));
            assert_eq!(toml(&text).good().warnings, expect, "{text}");
        }
    }
    let home = Home::new().env("KEYPOOL_LISTEN", "0.0.0.0:1");
    assert_eq!(home.good().warnings.len(), 1, "wherever the address is set");
}

#[test]
fn no_provider_warns_by_itself() {
    let text = "pools.a = { provider = 'P', base_url = 'http://h/v1' }\npools.b = { provider = 'P', base_url = 'http://h/v1' }\n";
    for dialect in keypool_providers::catalogue::ALL {
        let warnings = toml(&text.replace('P', dialect.name)).good().warnings;
        assert_eq!(warnings, Vec::<String>::new(), "{}", dialect.name);
    }
}

#[test]
fn pools_keep_the_order_of_the_file() {
    let text = "[pools.z]\nprovider = 'openai'\n[pools.m.retry]\nretries = 1\n[pools.m]\nprovider = 'groq'\n[pools.a]\nprovider = 'ark'\n";
    let loaded = toml(text).good();
    let names: Vec<_> = loaded
        .settings
        .pools
        .iter()
        .map(|pool| &*pool.name)
        .collect();
    assert_eq!(names, ["z", "m", "a"]);
    for pool in &loaded.settings.pools {
        let dialect = keypool_providers::catalogue::find(pool.provider).unwrap();
        assert_eq!(pool.models, dialect.default_models);
        assert_eq!(
            (pool.keys.len(), pool.queue, pool.timeouts),
            (0, Default::default(), Default::default())
        );
    }
}

#[test]
fn unset_caps_come_from_pool_then_provider() {
    let keys = "[[pools.p.keys]]\nkey = 'k1'\nmax_concurrent = 9\n[[pools.p.keys]]\nkey = 'k2'\n";
    for (pool, expect) in [
        ("provider = 'ark'", [Some(9), Some(3)]),
        ("provider = 'openai'", [Some(9), None]),
        (
            "provider = 'ark'\nmax_concurrent_per_key = 5",
            [Some(9), Some(5)],
        ),
    ] {
        let loaded = toml(&format!("[pools.p]\n{pool}\n{keys}")).good();
        let caps: Vec<_> = loaded.settings.pools[0]
            .keys
            .iter()
            .map(|key| key.max_concurrent)
            .collect();
        assert_eq!(caps, expect, "{pool}");
    }
}

#[test]
fn numbers_take_underscores_and_sizes_take_bytes() {
    let loaded = toml("server.max_request_body = 1_000_000\npools.p = { provider = 'ark', breaker = { failure_rate = 1, max_ejected = 0, min_requests = 1_0 } }").good();
    assert_eq!(loaded.settings.server.max_request_body, 1_000_000);
    let breaker = loaded.settings.pools[0].breaker;
    assert_eq!(
        (
            breaker.failure_rate,
            breaker.max_ejected,
            breaker.min_requests
        ),
        (1.0, 0.0, 10)
    );
}
