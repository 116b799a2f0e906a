//! Parsers for single values: durations, sizes, addresses, names, `${NAME}`.
//!
//! Everything here is pure: this module must never know a file, the environment or a section.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use keypool_core::base_url::BaseUrl;

/// `"500ms"`, `"1.5s"`, `"5m"`, `"1h"`, `"7d"`; at most 365 days.
pub(super) fn duration(text: &str) -> Option<Duration> {
    let (number, unit) = split_unit(text)?;
    let seconds = match unit {
        // Divided, so that 500 ms are exactly half a second.
        "ms" => number / 1_000.0,
        "s" => number,
        "m" => number * 60.0,
        "h" => number * 3_600.0,
        "d" => number * 86_400.0,
        _ => return None,
    };
    let in_range = seconds <= 365.0 * 86_400.0;
    in_range
        .then(|| Duration::try_from_secs_f64(seconds).ok())
        .flatten()
}

/// `"64MiB"`, `"10MB"`, `"1000"`; from 1 byte to 1 TiB.
pub(super) fn size(text: &str) -> Option<u64> {
    let (number, unit) = split_unit(text)?;
    let factor: u64 = match &*unit.to_ascii_lowercase() {
        "" | "b" => 1,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        "tib" => 1 << 40,
        _ => return None,
    };
    let bytes = number * factor as f64;
    (bytes.fract() == 0.0 && bytes <= 1e13)
        .then(|| size_in_range(bytes as i128))
        .flatten()
}

/// A number of bytes, if it is in the range of a size.
pub(super) fn size_in_range(bytes: i128) -> Option<u64> {
    u64::try_from(bytes)
        .ok()
        .filter(|bytes| (1..=1 << 40).contains(bytes))
}

/// Splits into a number (digits, at most one point between them) and a unit.
fn split_unit(text: &str) -> Option<(f64, &str)> {
    let (number, unit) = text.split_at(
        text.find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(text.len()),
    );
    let digits = |part: &str| !part.is_empty() && part.len() <= 18;
    let plain = match number.split_once('.') {
        Some((whole, part)) => digits(whole) && digits(part) && !part.contains('.'),
        None => digits(number),
    };
    Some((
        plain.then(|| number.parse().ok()).flatten()?,
        unit.trim_start_matches(' '),
    ))
}

/// `127.0.0.1:8080`, `[::]:8080`, `localhost:8080`.
pub(super) fn listen(text: &str) -> Option<SocketAddr> {
    let text = text.trim();
    match text.strip_prefix("localhost:") {
        Some(port) => Some(SocketAddr::from(([127, 0, 0, 1], self::port(port)?))),
        None => text.parse().ok(),
    }
}

/// `10.0.0.0/8`, `::1`: an address, or a network by its prefix length.
pub(super) fn is_network(text: &str) -> bool {
    let (address, prefix) = text
        .split_once('/')
        .map_or((text, None), |(address, prefix)| (address, Some(prefix)));
    let Ok(address) = address.parse::<IpAddr>() else {
        return false;
    };
    let bits = if address.is_ipv4() { 32 } else { 128 };
    let decimal = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()) && text.len() <= 3;
    prefix.is_none_or(|text| decimal(text) && text.parse().is_ok_and(|length: u32| length <= bits))
}

/// A host without a port, in lower case.
pub(super) fn host(text: &str) -> Option<String> {
    let (host, port) = host_port(text)?;
    port.is_none().then(|| host.to_ascii_lowercase())
}

/// An origin such as `https://app.example.com:8443`, in the form that browsers send.
pub(super) fn origin(text: &str) -> Option<String> {
    let (scheme, rest) = text.split_once("://")?;
    let plain = |c: char| c.is_ascii_alphanumeric() || "+-.".contains(c);
    if !scheme.starts_with(|c: char| c.is_ascii_alphabetic()) || !scheme.chars().all(plain) {
        return None;
    }
    let (host, port) = host_port(rest)?;
    let scheme = scheme.to_ascii_lowercase();
    let own = match &*scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    };
    let port = port
        .filter(|port| Some(*port) != own)
        .map_or(String::new(), |port| format!(":{port}"));
    Some(format!("{scheme}://{}{port}", host.to_ascii_lowercase()))
}

/// How clients reach this server. Plain HTTP would let anyone on the way read what the address carries.
pub(super) fn public_url(text: &str) -> Option<BaseUrl> {
    let url: BaseUrl = text.parse().ok()?;
    (url.is_https() || url.is_loopback()).then_some(url)
}

/// Whether `text` is a URL with one of `schemes`, an optional user and password, and one or more hosts separated by commas.
pub(super) fn is_url(text: &str, schemes: &[&str]) -> bool {
    let Some((scheme, rest)) = text.split_once("://") else {
        return false;
    };
    let authority = &rest[..rest.find(['/', '?', '#']).unwrap_or(rest.len())];
    let hosts = authority
        .rsplit_once('@')
        .map_or(authority, |(_, hosts)| hosts);
    schemes.contains(&scheme)
        && !text.contains(|c: char| c.is_control() || c.is_whitespace())
        && hosts.split(',').all(|host| host_port(host).is_some())
}

/// Splits a host name or address from its port.
pub(super) fn host_port(text: &str) -> Option<(&str, Option<u16>)> {
    let end = match text.strip_prefix('[') {
        Some(rest) => rest.find(']')? + 2,
        None => text.find(':').unwrap_or(text.len()),
    };
    let (host, rest) = text.split_at(end);
    let valid = match host.strip_prefix('[') {
        Some(address) => address.trim_end_matches(']').parse::<Ipv6Addr>().is_ok(),
        None => {
            !host.is_empty()
                && host
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
        }
    };
    let port = match rest.strip_prefix(':') {
        Some(text) => Some(port(text)?),
        None if rest.is_empty() => None,
        None => return None,
    };
    valid.then_some((host, port))
}

fn port(text: &str) -> Option<u16> {
    text.bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| text.parse().ok())
        .flatten()
}

/// Whether a server that listens on `listen` answers at `host` and `port`.
pub(super) fn is_listened_at(listen: SocketAddr, host: &str, port: u16) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let address = match host.trim_end_matches('.') {
        name if name.eq_ignore_ascii_case("localhost") => Some(IpAddr::from([127, 0, 0, 1])),
        name => name
            .parse::<IpAddr>()
            .ok()
            .map(|address| address.to_canonical()),
    };
    let local = |address: IpAddr| address.is_loopback() || address.is_unspecified();
    port == listen.port()
        && address.is_some_and(|address| {
            address == listen.ip().to_canonical() || (local(address) && local(listen.ip()))
        })
}

/// What is wrong with a name or label; `None` if nothing is.
pub(super) fn label_mistake(text: &str) -> Option<&'static str> {
    if text.trim().is_empty() {
        Some("must not be empty")
    } else if text.chars().any(char::is_control) {
        Some("must not have control characters, such as line breaks")
    } else {
        None
    }
}

/// What is wrong with the name of a key; `None` if it is valid.
pub(super) fn name_mistake(text: &str) -> Option<&'static str> {
    label_mistake(text)
        .or_else(|| (text.chars().count() > 128).then_some("must have at most 128 characters"))
}

/// What is wrong with the name of a pool; `None` if it is valid.
pub(super) fn pool_name_mistake(name: &str) -> Option<&'static str> {
    const RESERVED: &[&str] = &[
        "v1", "v1beta", "api", "ui", "metrics", "healthz", "readyz", "search", "extract", "crawl",
        "map", "research", "usage", "upload",
    ];
    if RESERVED.contains(&name) {
        Some("is one of keypool's own paths; choose another name")
    } else if name.is_empty()
        || name.starts_with('.')
        || !name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
    {
        Some(
            "cannot be part of a path: a pool's name takes ASCII letters, digits, `-`, `_` and `.`, and does not start with `.`",
        )
    } else {
        None
    }
}

/// Whether `name` begins an endpoint whose version clients may leave out, such as `/chat/completions`.
pub(super) fn begins_endpoint(name: &str) -> bool {
    const FIRST_SEGMENTS: &[&str] = &[
        "assistants",
        "audio",
        "batches",
        "cachedContents",
        "chat",
        "completions",
        "containers",
        "conversations",
        "embeddings",
        "evals",
        "fileSearchStores",
        "files",
        "fine_tuning",
        "images",
        "interactions",
        "messages",
        "models",
        "moderations",
        "operations",
        "rerank",
        "responses",
        "skills",
        "threads",
        "tunedModels",
        "uploads",
        "vector_stores",
        "videos",
    ];
    FIRST_SEGMENTS.contains(&name)
}

/// Whether a secret is valid in an HTTP header: visible ASCII, no spaces.
pub(super) fn fits_header(secret: &str) -> bool {
    secret.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Whether `name` is valid as the name of a variable.
pub(super) fn is_variable(name: &str) -> bool {
    !name.starts_with(|c: char| c.is_ascii_digit())
        && !name.is_empty()
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// Replaces each `${NAME}` in `raw` by the `value` of the name.
pub(super) fn replace(raw: &str, mut value: impl FnMut(&str) -> String) -> String {
    let mut out = String::with_capacity(raw.len());
    let mut rest = raw;
    while let Some(at) = rest.find("${") {
        let (before, reference) = rest.split_at(at);
        out.push_str(before);
        match reference[2..].split_once('}') {
            Some((name, after)) if is_variable(name) => {
                out.push_str(&value(name));
                rest = after;
            }
            _ => {
                out.push_str("${");
                rest = &reference[2..];
            }
        }
    }
    out.push_str(rest);
    out
}

/// The names in each `${NAME}` in `raw`.
pub(super) fn references(raw: &str) -> Vec<String> {
    let mut names = Vec::new();
    replace(raw, |name| {
        names.push(name.to_owned());
        String::new()
    });
    names
}

/// Whether `raw` has a `${` that does not start a `${NAME}`.
pub(super) fn has_stray_reference(raw: &str) -> bool {
    raw.match_indices("${").any(|(at, _)| {
        let name = raw[at + 2..].split_once('}').map(|(name, _)| name);
        !name.is_some_and(is_variable)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_parsed() {
        for (text, millis) in [
            ("500ms", 500),
            ("30s", 30_000),
            ("5m", 300_000),
            ("1h", 3_600_000),
            ("2d", 172_800_000),
            ("1.5s", 1_500),
            ("0s", 0),
        ] {
            assert_eq!(
                duration(text),
                Some(Duration::from_millis(millis)),
                "{text}"
            );
        }
        for text in [
            "",
            "30",
            "s",
            "-1s",
            "1e3s",
            "1.s",
            ".5s",
            "1.2.3s",
            "1m30s",
            "30 sec",
            "366d",
            "9999999999999999999999s",
            "１s",
        ] {
            assert_eq!(duration(text), None, "{text}");
        }
    }

    #[test]
    fn sizes_are_parsed() {
        for (text, bytes) in [
            ("64MiB", 64 << 20),
            ("512KiB", 512 << 10),
            ("1GiB", 1 << 30),
            ("10MB", 10_000_000),
            ("1000", 1_000),
            ("1.5kb", 1_500),
            ("1TiB", 1 << 40),
        ] {
            assert_eq!(size(text), Some(bytes), "{text}");
        }
        for text in [
            "",
            "0",
            "0MiB",
            "MiB",
            "1.5",
            "-1",
            "1XB",
            "2TiB",
            "99999999999999999TiB",
        ] {
            assert_eq!(size(text), None, "{text}");
        }
    }

    #[test]
    fn addresses_are_parsed() {
        assert_eq!(
            listen("localhost:80"),
            Some(SocketAddr::from(([127, 0, 0, 1], 80)))
        );
        assert!(listen("[::1]:8080").is_some() && listen("0.0.0.0:0").is_some());
        for text in [
            "",
            ":8080",
            "8080",
            "127.0.0.1",
            "localhost",
            "localhost:65536",
            "localhost:+1",
            "example.com:80",
            "127.0.0.1:99999",
        ] {
            assert_eq!(listen(text), None, "{text}");
        }
        for (text, expect) in [
            ("10.0.0.0/8", true),
            ("::1", true),
            ("fd00::/128", true),
            ("10.0.0.0/33", false),
            ("10.0.0/8", false),
            ("1.2.3.4/", false),
            ("1.2.3.4/+8", false),
            ("::/129", false),
        ] {
            assert_eq!(is_network(text), expect, "{text}");
        }
        for (text, expect) in [
            ("LLM.example.com", Some("llm.example.com")),
            ("[::1]", Some("[::1]")),
            ("a:80", None),
            ("a/b", None),
            ("", None),
            ("[::1", None),
            ("*", None),
        ] {
            assert_eq!(host(text).as_deref(), expect, "{text}");
        }
    }

    #[test]
    fn origins_and_urls_are_parsed() {
        for (text, expect) in [
            (
                "https://App.example.com:443",
                Some("https://app.example.com"),
            ),
            ("http://localhost:3000", Some("http://localhost:3000")),
            ("chrome-extension://abc", Some("chrome-extension://abc")),
            ("https://a/", None),
            ("*", None),
            ("example.com", None),
            ("://a", None),
            ("https://a:99999", None),
            ("https://", None),
        ] {
            assert_eq!(origin(text).as_deref(), expect, "{text}");
        }
        for (text, expect) in [
            ("redis://h1:1,h2:2", true),
            ("redis://user:p@ss@h:6379/0", true),
            ("redis://", false),
            ("http://h", false),
            ("redis://h h", false),
            ("redis://h:x", false),
        ] {
            assert_eq!(is_url(text, &["redis"]), expect, "{text}");
        }
    }

    #[test]
    fn only_visible_ascii_fits_a_header() {
        for (text, expect) in [
            ("!az-AZ_09.,~", true),
            ("a b", false),
            ("a\tb", false),
            ("a\nb", false),
            ("a\u{7f}", false),
            ("a\u{a0}b", false),
            ("\u{e9}", false),
        ] {
            assert_eq!(fits_header(text), expect, "{text:?}");
        }
    }

    #[test]
    fn base_urls_of_the_own_listener_are_found() {
        let listen = |text: &str| text.parse::<SocketAddr>().unwrap();
        for (at, host, port, expect) in [
            ("127.0.0.1:8080", "localhost", 8080, true),
            ("127.0.0.1:8080", "LOCALHOST.", 8080, true),
            ("127.0.0.1:8080", "[::1]", 8080, true),
            ("0.0.0.0:8080", "127.0.0.1", 8080, true),
            ("[::]:8080", "localhost", 8080, true),
            ("10.0.0.1:8080", "10.0.0.1", 8080, true),
            ("10.0.0.1:8080", "127.0.0.1", 8080, false),
            ("127.0.0.1:8080", "localhost", 8081, false),
            ("127.0.0.1:8080", "example.com", 8080, false),
            ("127.0.0.1:8080", "[::ffff:127.0.0.1]", 8080, true),
        ] {
            assert_eq!(
                is_listened_at(listen(at), host, port),
                expect,
                "{at} {host}:{port}"
            );
        }
    }
}
