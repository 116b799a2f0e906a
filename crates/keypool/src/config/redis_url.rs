//! The URL of Redis: `redis://`, `rediss://`, `redis-cluster://` and `rediss-cluster://`.
//!
//! Everything here is pure. A message must never quote more of a URL than the names of its query parameters.

use keypool_core::secret::Secret;
use keypool_gateway::settings::{RedisAddress, RedisServers, RedisSettings};
use percent_encoding::percent_decode_str;

use super::display;
use super::values;

const DEFAULT_PORT: u16 = 6379;
const FORMS: &str = "must be \"memory\" or a URL such as \"redis://host:6379\", \"rediss://user:password@host:6379/0\" or \"redis-cluster://h1:6379,h2:6379\"";
const ENCODE: &str = "has a user or password that must be percent-encoded (\"@\" is %40, \":\" is %3A, \"/\" is %2F, \"%\" is %25)";

/// Reads a URL, or returns what is wrong with it, as the end of a sentence that begins with the setting's name.
pub(super) fn parse(text: &str) -> Result<RedisSettings, String> {
    let (scheme, rest) = text.split_once("://").ok_or(FORMS)?;
    let (is_cluster, tls) = match &*scheme.to_ascii_lowercase() {
        "redis" => (false, false),
        "rediss" => (false, true),
        "redis-cluster" => (true, false),
        "rediss-cluster" => (true, true),
        _ => return Err(FORMS.to_owned()),
    };
    let (authority, tail) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let (user_info, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
    // A password with one of `/?#` ends the authority early, and what follows is a part of it.
    if tail.contains('@') || user_info.contains('@') {
        return Err(ENCODE.to_owned());
    }
    if is_cluster && user_info.contains(',') {
        return Err("has user and password after another host: write them once, before the first host, with \",\" as %2C".to_owned());
    }
    let (user, password) = user_info.split_once(':').unwrap_or((user_info, ""));
    let (user, password) = (decoded(user)?, decoded(password)?.map(Secret::new));
    let database = database(tail)?;
    let addresses = hosts.split(',').map(address);
    let mut addresses = addresses.collect::<Result<Vec<_>, _>>()?;
    let servers = match (is_cluster, database) {
        (true, Some(_)) => return Err(
            "has a database number, which a Redis cluster does not have: remove it from the end"
                .to_owned(),
        ),
        (true, None) => RedisServers::Cluster(addresses),
        (false, _) if addresses.len() > 1 => {
            return Err(format!(
                "names several servers: for a cluster, write \"{}-cluster://h1:6379,h2:6379\"",
                if tls { "rediss" } else { "redis" }
            ));
        }
        (false, database) => RedisServers::Single {
            address: addresses.remove(0),
            database: database.unwrap_or_default(),
        },
    };
    Ok(RedisSettings {
        servers,
        tls,
        user,
        password,
    })
}

/// A percent-decoded user or password; `None` if it is empty.
fn decoded(part: &str) -> Result<Option<String>, String> {
    let is_encoded = |rest: &str| {
        rest.get(..2)
            .is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
    };
    let has_space = part.contains(|c: char| c.is_whitespace() || c.is_control());
    if has_space || !part.split('%').skip(1).all(is_encoded) {
        return Err(ENCODE.to_owned());
    }
    let text = percent_decode_str(part)
        .decode_utf8()
        .map_err(|_| "has a user or password that is not UTF-8 once it is percent-decoded")?;
    Ok((!text.is_empty()).then(|| text.into_owned()))
}

/// The database number after the hosts; `None` if there is none.
fn database(tail: &str) -> Result<Option<u32>, String> {
    let (path, query) = tail.split_once('?').unwrap_or((tail, ""));
    if tail.contains('#') {
        return Err(
            "has a `#`: write nothing after the database number, and \"#\" in a password as %23"
                .to_owned(),
        );
    }
    let names: Vec<_> = query
        .split('&')
        .filter(|parameter| !parameter.is_empty())
        .map(|parameter| display::unknown_name(parameter.split('=').next().unwrap_or_default()))
        .collect();
    if !names.is_empty() {
        return Err(format!(
            "has query parameters that keypool does not know: remove {}",
            names.join(", ")
        ));
    }
    let number = path.strip_prefix('/').unwrap_or(path);
    if number.is_empty() {
        return Ok(None);
    }
    let is_decimal = number.bytes().all(|byte| byte.is_ascii_digit());
    match number.parse() {
        Ok(number) if is_decimal => Ok(Some(number)),
        _ => Err(
            "must end after the port, or with the number of a database, such as \"/0\"".to_owned(),
        ),
    }
}

fn address(text: &str) -> Result<RedisAddress, String> {
    match values::host_port(text) {
        Some((host, port)) if port != Some(0) => Ok(RedisAddress {
            host: host.trim_matches(['[', ']']).to_ascii_lowercase(),
            port: port.unwrap_or(DEFAULT_PORT),
        }),
        _ => Err(
            "has a host or port that is not valid: write host:port, an IPv6 address in brackets, and a user or password percent-encoded before \"@\"".to_owned(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(host: &str, port: u16) -> RedisAddress {
        let host = host.to_owned();
        RedisAddress { host, port }
    }

    fn single(host: &str, port: u16, database: u32) -> RedisServers {
        let address = address(host, port);
        RedisServers::Single { address, database }
    }

    /// Checks servers, TLS, user and password of a URL.
    fn assert_parts(text: &str, parts: (RedisServers, bool, Option<&str>, Option<&str>)) {
        let read = parse(text).unwrap_or_else(|mistake| panic!("{text}: {mistake}"));
        let (user, password) = (read.user.as_deref(), read.password.as_ref());
        let password = password.map(Secret::expose);
        assert_eq!((read.servers, read.tls, user, password), parts, "{text}");
    }

    #[test]
    fn the_parts_of_a_url_are_read() {
        for (text, servers, tls, user, password) in [
            ("redis://h", single("h", 6379, 0), false, None, None),
            ("REDIS://H:7/", single("h", 7, 0), false, None, None),
            (
                "redis://10.0.0.1/15",
                single("10.0.0.1", 6379, 15),
                false,
                None,
                None,
            ),
            ("rediss://[::1]:7/2", single("::1", 7, 2), true, None, None),
            (
                "rediss://[2001:db8::1]",
                single("2001:db8::1", 6379, 0),
                true,
                None,
                None,
            ),
            (
                "redis://:pw@h:7",
                single("h", 7, 0),
                false,
                None,
                Some("pw"),
            ),
            (
                "redis://me@h",
                single("h", 6379, 0),
                false,
                Some("me"),
                None,
            ),
            (
                "redis://me:@h?",
                single("h", 6379, 0),
                false,
                Some("me"),
                None,
            ),
            (
                "redis://me:a:b,c@h",
                single("h", 6379, 0),
                false,
                Some("me"),
                Some("a:b,c"),
            ),
            (
                "rediss://m%40e:p%2Fw%3a%25%D0%BA@h:7/1",
                single("h", 7, 1),
                true,
                Some("m@e"),
                Some("p/w:%к"),
            ),
        ] {
            assert_parts(text, (servers, tls, user, password));
        }
    }

    #[test]
    fn the_nodes_of_a_cluster_are_read() {
        for (text, servers, tls, user, password) in [
            (
                "redis-cluster://h1:1,h2,[::1]:3",
                RedisServers::Cluster(vec![
                    address("h1", 1),
                    address("h2", 6379),
                    address("::1", 3),
                ]),
                false,
                None,
                None,
            ),
            (
                "rediss-cluster://me:p%2cw@h1/",
                RedisServers::Cluster(vec![address("h1", 6379)]),
                true,
                Some("me"),
                Some("p,w"),
            ),
        ] {
            assert_parts(text, (servers, tls, user, password));
        }
    }

    #[test]
    fn debug_does_not_show_the_password() {
        let read = parse("redis://me:canary@h").unwrap();
        assert!(!format!("{read:?}").contains("canary"), "{read:?}");
    }

    #[test]
    fn a_mistake_is_explained_without_its_secret() {
        for (text, why) in [
            ("", FORMS),
            ("redis", FORMS),
            ("memory://", FORMS),
            ("http://:canary@h", FORMS),
            ("redis:/:canary@h", FORMS),
            ("canary", FORMS),
            ("redis://", "host or port"),
            ("redis://:canary", "host or port"),
            ("redis://h:canary", "host or port"),
            ("redis://h:0", "host or port"),
            ("redis://h:65536", "host or port"),
            ("redis://h:+1", "host or port"),
            ("redis://::1", "in brackets"),
            ("redis://[canary]", "host or port"),
            ("redis-cluster://h1,,h2", "host or port"),
            ("redis://:canary@", "host or port"),
            ("redis://u:can@ary@h", ENCODE),
            ("redis://u:can/ary@h", ENCODE),
            ("redis://u:can?ary@h", ENCODE),
            ("redis://u:can#ary@h", ENCODE),
            ("redis://u:can ary@h", ENCODE),
            ("redis://u:canary%@h", ENCODE),
            ("redis://u:canary%4@h", ENCODE),
            ("redis://u:canary%4к@h", ENCODE),
            ("redis://u:canary%FF@h", "not UTF-8"),
            ("redis://h/canary", "number of a database"),
            ("redis://h/-1", "number of a database"),
            ("redis://h/+1", "number of a database"),
            ("redis://h/4294967296", "number of a database"),
            ("redis://h/0/", "number of a database"),
            ("redis://h/0#canary", "has a `#`"),
            ("redis://h?password=canary", "remove `password`"),
            ("redis://h/0?a=canary&b&db=canary", "remove `a`, `b`, `db`"),
            ("redis://h1:1,h2:2", "write \"redis-cluster://"),
            ("rediss://u:canary@h1,h2", "write \"rediss-cluster://"),
            ("redis-cluster://h1:1/0", "does not have"),
            (
                "redis-cluster://h1:1,u:canary@h2:2",
                "before the first host",
            ),
        ] {
            let mistake = parse(text).expect_err(text);
            assert!(mistake.contains(why), "{text}: {mistake}");
            assert!(
                !mistake.contains("canary") && !mistake.contains("ary@"),
                "{text}: {mistake}"
            );
        }
    }
}
