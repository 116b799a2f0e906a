//! Outbound proxies that the environment names, and which one applies to a key.
//!
//! This module must never read the environment.

use std::net::IpAddr;

use http::Uri;
use hyper_util::client::proxy::matcher::Matcher;
use keypool_core::base_url::BaseUrl;
use keypool_core::proxy_url::{ProxySetting, ProxyUrl};

/// The proxies that the environment names.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ProxyEnvironment {
    /// For calls to http addresses.
    pub for_http: Option<ProxyUrl>,
    /// For calls to https addresses.
    pub for_https: Option<ProxyUrl>,
    /// The entries of `NO_PROXY`.
    pub no_proxy: Vec<String>,
}

impl ProxyEnvironment {
    /// The proxy for calls to `base_url`, for a key with the setting `own` in a pool with the setting `pool`.
    pub fn resolve(
        &self,
        own: &ProxySetting,
        pool: &ProxySetting,
        base_url: &BaseUrl,
    ) -> Option<ProxyUrl> {
        let setting = if *own == ProxySetting::Unset {
            pool
        } else {
            own
        };
        match setting {
            ProxySetting::Unset => self.of(base_url),
            ProxySetting::Direct => None,
            ProxySetting::Proxy(proxy) => Some(proxy.clone()),
        }
    }

    fn of(&self, base_url: &BaseUrl) -> Option<ProxyUrl> {
        let proxy = if base_url.is_https() {
            self.for_https.as_ref()
        } else {
            self.for_http.as_ref()
        }?;
        let target: Uri = base_url.origin().parse().ok()?;
        let bypassed = is_loopback(target.host()?) || self.bypasses(&target, base_url.is_https());
        (!bypassed).then(|| proxy.clone())
    }

    /// Whether `NO_PROXY` covers the target.
    fn bypasses(&self, target: &Uri, https: bool) -> bool {
        let port = target.port_u16().unwrap_or(if https { 443 } else { 80 });
        let entries: Vec<&str> = self
            .no_proxy
            .iter()
            .filter_map(|entry| at_port(entry, port))
            .collect();
        // The matcher supports names, suffixes, addresses and networks, but not ports, nor `*` for addresses.
        let matcher = Matcher::builder()
            .all("http://proxy")
            .no(entries.join(","))
            .build();
        entries.contains(&"*") || matcher.intercept(target).is_none()
    }
}

/// The host of a `NO_PROXY` entry, if the entry applies to targets at `port`.
fn at_port(entry: &str, port: u16) -> Option<&str> {
    let is_port = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let host = match entry.rsplit_once(':') {
        // Several colons without brackets are an IPv6 address.
        Some((host, own)) if is_port(own) && (host.ends_with(']') || !host.contains(':')) => {
            if own.parse() != Ok(port) {
                return None;
            }
            host
        }
        _ => entry,
    };
    // Many write `*.example.com` for `.example.com`.
    let host = host.strip_prefix("*.").unwrap_or(host);
    Some(host.trim_start_matches('[').trim_end_matches(']'))
}

fn is_loopback(host: &str) -> bool {
    let host = host.trim_matches(['[', ']']).trim_end_matches('.');
    let address = host.parse::<IpAddr>();
    host.eq_ignore_ascii_case("localhost")
        || address.is_ok_and(|address| address.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(no_proxy: &str) -> ProxyEnvironment {
        ProxyEnvironment {
            for_http: Some("http://for-http:1".parse().unwrap()),
            for_https: Some("http://for-https:1".parse().unwrap()),
            no_proxy: no_proxy
                .split(',')
                .map(|text| text.trim().to_owned())
                .collect(),
        }
    }

    fn goes_through(no_proxy: &str, target: &str) -> bool {
        let target = target.parse().unwrap();
        environment(no_proxy).of(&target).is_some()
    }

    #[test]
    fn no_proxy_takes_names_suffixes_networks_and_ports() {
        for (no_proxy, bypassed, proxied) in [
            ("*", "https://1.2.3.4 https://a.example.com", ""),
            (
                "example.com",
                "https://example.com https://a.EXAMPLE.com http://example.com:81",
                "https://notexample.com https://example.com.net",
            ),
            (
                ".example.com",
                "https://a.example.com https://example.com",
                "https://notexample.com",
            ),
            (
                "*.example.com",
                "https://a.example.com",
                "https://notexample.com",
            ),
            (
                "x, 10.0.0.0/8",
                "https://10.1.2.3 http://10.255.0.1:99",
                "https://11.0.0.1 https://10.example.com",
            ),
            ("192.0.2.7", "https://192.0.2.7", "https://192.0.2.70"),
            (
                "2001:db8::/32,2001:db9::1",
                "https://[2001:db8::5] https://[2001:db9::1]:99",
                "https://[2001:db9::2]",
            ),
            (
                "example.com:443",
                "https://example.com https://a.example.com",
                "https://example.com:8443 http://example.com",
            ),
            (
                "example.com:8443",
                "https://example.com:8443",
                "https://example.com",
            ),
            (
                "192.0.2.7:81,[2001:db8::1]:81",
                "http://192.0.2.7:81 http://[2001:db8::1]:81",
                "http://192.0.2.7 http://[2001:db8::1]",
            ),
            ("", "", "https://example.com"),
            (
                "",
                "http://localhost:1 https://127.0.0.1:1 https://127.9.9.9 http://[::1]:1",
                "",
            ),
        ] {
            for target in bypassed.split_whitespace() {
                assert!(!goes_through(no_proxy, target), "{no_proxy}: {target}");
            }
            for target in proxied.split_whitespace() {
                assert!(goes_through(no_proxy, target), "{no_proxy}: {target}");
            }
        }
    }

    #[test]
    fn the_key_decides_before_the_pool_and_the_pool_before_the_environment() {
        let through = |url: &str| ProxySetting::Proxy(url.parse().unwrap());
        let (key, pool) = (through("http://key:1"), through("http://pool:1"));
        for (own, of_pool, target, expect) in [
            (
                &ProxySetting::Unset,
                &ProxySetting::Unset,
                "https://h",
                Some("http://for-https:1"),
            ),
            (
                &ProxySetting::Unset,
                &ProxySetting::Unset,
                "http://h",
                Some("http://for-http:1"),
            ),
            (
                &ProxySetting::Unset,
                &pool,
                "https://h",
                Some("http://pool:1"),
            ),
            (&key, &pool, "https://h", Some("http://key:1")),
            (&ProxySetting::Direct, &pool, "https://h", None),
            (
                &ProxySetting::Unset,
                &ProxySetting::Direct,
                "https://h",
                None,
            ),
            (
                &ProxySetting::Unset,
                &pool,
                "http://127.0.0.1:1",
                Some("http://pool:1"),
            ),
        ] {
            let found = environment("").resolve(own, of_pool, &target.parse().unwrap());
            let found = found.map(|proxy| proxy.to_string());
            assert_eq!(found.as_deref(), expect, "{own:?} {of_pool:?} {target}");
        }
    }
}
