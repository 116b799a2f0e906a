//! Rules for single values that users write, in the configuration or in the admin API: durations, names, hosts, secrets.
//!
//! Everything here is pure: this module must never know a file, the environment or a section.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

/// `"500ms"`, `"1.5s"`, `"5m"`, `"1h"`, `"7d"`; at most 365 days.
pub fn duration(text: &str) -> Option<Duration> {
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

/// The shortest text that [`duration`] reads as `time`: `"5m"`, `"1500ms"`. Parts of a millisecond are dropped.
pub fn duration_text(time: Duration) -> String {
    let millis = time.as_millis();
    let units = [
        (86_400_000, "d"),
        (3_600_000, "h"),
        (60_000, "m"),
        (1_000, "s"),
    ];
    let unit = units
        .iter()
        .find(|(length, _)| millis >= *length && millis.is_multiple_of(*length));
    match unit {
        Some((length, name)) => format!("{}{name}", millis / length),
        None if millis == 0 => "0s".to_owned(),
        None => format!("{millis}ms"),
    }
}

/// Splits into a number (digits, at most one point between them) and a unit.
pub fn split_unit(text: &str) -> Option<(f64, &str)> {
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

/// Splits a host name or address from its port.
pub fn host_port(text: &str) -> Option<(&str, Option<u16>)> {
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

/// Reads a port.
pub fn port(text: &str) -> Option<u16> {
    text.bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| text.parse().ok())
        .flatten()
}

/// Whether a server that listens on `listen` answers at `host` and `port`.
pub fn is_listened_at(listen: SocketAddr, host: &str, port: u16) -> bool {
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
pub fn label_mistake(text: &str) -> Option<&'static str> {
    if text.trim().is_empty() {
        Some("must not be empty")
    } else if text.chars().any(char::is_control) {
        Some("must not have control characters, such as line breaks")
    } else {
        None
    }
}

/// What is wrong with the name of a key; `None` if it is valid.
pub fn name_mistake(text: &str) -> Option<&'static str> {
    label_mistake(text)
        .or_else(|| (text.chars().count() > 128).then_some("must have at most 128 characters"))
}

/// What is wrong with the name of a pool; `None` if it is valid.
pub fn pool_name_mistake(name: &str) -> Option<&'static str> {
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

/// Whether a secret is valid in an HTTP header: visible ASCII, no spaces.
pub fn fits_header(secret: &str) -> bool {
    secret.bytes().all(|byte| byte.is_ascii_graphic())
}

/// What is wrong with a provider's key, after blanks around it are removed; `None` if it is valid.
pub fn secret_mistake(secret: &str) -> Option<SecretMistake> {
    if secret.is_empty() {
        Some(SecretMistake::Empty)
    } else if secret.len() > MAX_SECRET {
        Some(SecretMistake::TooLong)
    } else if secret.contains(LEFTOVERS) {
        Some(SecretMistake::Leftovers)
    } else if secret.contains(char::is_whitespace) {
        Some(SecretMistake::Blank)
    } else if !fits_header(secret) {
        Some(SecretMistake::NotAscii)
    } else {
        None
    }
}

/// Maximum length of a secret in bytes: no provider has longer ones, and servers refuse longer headers.
pub const MAX_SECRET: usize = 8 * 1024;

/// Characters of lists and quotes that were not understood. No provider's key has them.
const LEFTOVERS: &[char] = &['"', '\'', '[', ']', '{', '}', ';'];

/// Why a text is not a provider's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecretMistake {
    /// There is nothing.
    Empty,
    /// It is longer than any provider's key.
    TooLong,
    /// It has a character of a list or quotes.
    Leftovers,
    /// It has a space or a line break inside.
    Blank,
    /// It has a character that no HTTP header can carry.
    NotAscii,
}

impl SecretMistake {
    /// The end of a sentence that begins with what contains the key.
    pub fn text(self) -> &'static str {
        match self {
            Self::Empty => "must not be empty",
            Self::TooLong => "contains a key with more than 8 KiB, which no provider's key has",
            Self::Leftovers => {
                "contains a key with one of the characters \" ' [ ] { } ; that no key has"
            }
            Self::Blank => "contains a key with a space or line break inside",
            Self::NotAscii => {
                "contains a key with a character that is not allowed in an HTTP header, such as a non-ASCII letter"
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_written_as_it_is_read() {
        for (text, millis) in [
            ("0s", 0),
            ("1500ms", 1_500),
            ("30s", 30_000),
            ("5m", 300_000),
            ("36h", 129_600_000),
            ("2d", 172_800_000),
        ] {
            let time = Duration::from_millis(millis);
            assert_eq!(duration_text(time), text);
            assert_eq!(duration(text), Some(time));
        }
    }

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
}
