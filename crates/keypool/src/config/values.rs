//! Parsers for single values: durations, sizes, addresses, names, `${NAME}`.
//!
//! Everything here is pure: this module must never know a file, the environment or a section.

use std::net::{IpAddr, SocketAddr};

use keypool_core::base_url::BaseUrl;
pub(super) use keypool_core::values::{
    duration, fits_header, host_port, is_listened_at, label_mistake, name_mistake,
    pool_name_mistake, port, secret_mistake, split_unit,
};

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
