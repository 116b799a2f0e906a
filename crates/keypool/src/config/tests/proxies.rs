//! Outbound proxies, from the file, the environment and `.env`.

use super::*;

/// The proxy of each key, in the order of pools and keys, without credentials.
fn proxies(home: &Home) -> Vec<String> {
    let pools = home.good().settings.pools;
    pools
        .iter()
        .flat_map(|pool| &pool.keys)
        .map(|key| {
            key.proxy
                .as_ref()
                .map_or("-".to_owned(), ToString::to_string)
        })
        .collect()
}

const POOLS: &str = r#"
    [pools.a]
    provider = "openai"
    keys = "k1"
    [pools.b]
    provider = "openai"
    proxy = "socks5://u:canary@pool"
    [[pools.b.keys]]
    key = "k2"
    [[pools.b.keys]]
    key = "k3"
    proxy = "https://key:1"
    [[pools.b.keys]]
    key = "k4"
    proxy = "none"
    [[pools.b.keys]]
    key = "k5"
    base_url = "http://plain.example.com"
    [pools.c]
    provider = "openai-compatible"
    base_url = "http://plain.example.com"
    keys = ["k6"]
"#;

#[test]
fn a_proxy_comes_from_key_pool_or_environment() {
    let plain = [
        "-",
        "socks5://pool:1080",
        "https://key:1",
        "-",
        "socks5://pool:1080",
        "-",
    ];
    assert_eq!(proxies(&toml(POOLS)), plain);
    for (name, value, a, c) in [
        (
            "HTTPS_PROXY",
            "http://u:canary@env:3128",
            "http://env:3128",
            "-",
        ),
        ("https_proxy", "http://env:3128", "http://env:3128", "-"),
        ("HTTP_PROXY", "env:3128", "-", "http://env:3128"),
        ("http_proxy", "http://env:3128/", "-", "http://env:3128"),
        (
            "ALL_PROXY",
            "socks5h://env",
            "socks5h://env:1080",
            "socks5h://env:1080",
        ),
        ("all_proxy", "http://env", "http://env:80", "http://env:80"),
    ] {
        let mut expect = plain;
        (expect[0], expect[5]) = (a, c);
        assert_eq!(proxies(&toml(POOLS).env(name, value)), expect, "{name}");
        let dotenv = toml(POOLS).write(".env", format!("{name}={value}\n"));
        assert_eq!(proxies(&dotenv), expect, "{name} in .env");
        for not_for in ["NO_PROXY", "no_proxy"] {
            let spared = toml(POOLS)
                .env(name, value)
                .env(not_for, "api.openai.com,.example.com");
            assert_eq!(proxies(&spared), plain, "{name} {not_for}");
        }
    }
    let own = toml(POOLS)
        .env("ALL_PROXY", "http://all:1")
        .env("HTTP_PROXY", "http://http:1");
    assert_eq!(
        (&*proxies(&own)[0], &*proxies(&own)[5]),
        ("http://all:1", "http://http:1")
    );
    let environment = Home::new()
        .env("OPENAI_API_KEY", "k1,k2")
        .env("HTTPS_PROXY", "http://env:1");
    assert_eq!(proxies(&environment), ["http://env:1", "http://env:1"]);
}

#[test]
fn an_invalid_proxy_is_reported_without_its_password() {
    for (value, words) in [
        ("socks4://u:canary@h", "socks5:// or socks5h://"),
        ("http://u:canary@h/path", "end after"),
        ("http://u:can@ary@h", "percent-encoded"),
        ("canary:x:y", "the URL of a proxy"),
    ] {
        for name in ["HTTPS_PROXY", "http_proxy", "ALL_PROXY"] {
            let errors = toml(POOLS).env(name, value).errors();
            let message = errors[0].to_string();
            assert!(
                message.contains(name) && message.contains(words),
                "{message}"
            );
            assert!(
                !message.contains("canary") && !message.contains("ary@"),
                "{message}"
            );
            assert_eq!(errors.len(), 1, "{errors:?}");
        }
    }
}
