//! Protection against web pages while no virtual key is required: which `Host` and `Origin` a request may have.

use http::header::{HOST, ORIGIN};
use http::request::Parts;

use super::cors::is_allowed;
use crate::error::GatewayError;
use crate::settings::ServerSettings;

/// Only local names and `allowed_hosts` pass. Otherwise a web page could reach the gateway under a name of its own (DNS
/// rebinding).
pub(super) fn check_host(server: &ServerSettings, parts: &Parts) -> Result<(), GatewayError> {
    let mut hosts = parts.headers.get_all(HOST).iter();
    let (host, second) = (
        hosts.next().and_then(|host| host.to_str().ok()),
        hosts.next(),
    );
    let named = parts.uri.authority().map(http::uri::Authority::as_str);
    let known = |host: &str| {
        is_local(host, server)
            || server
                .allowed_hosts
                .iter()
                .any(|allowed| allowed.eq_ignore_ascii_case(without_port(host)))
    };
    if second.is_none() && host.is_some_and(known) && named.is_none_or(known) {
        return Ok(());
    }
    let message = "this Host is not served: without a virtual key only localhost, 127.0.0.1 and [::1] are; \
                   add the name to server.allowed_hosts, or configure virtual keys";
    Err(GatewayError::invalid_request(message))
}

fn is_local(host: &str, server: &ServerSettings) -> bool {
    let name = without_port(host);
    let own = server.listen.ip();
    ["localhost", "127.0.0.1", "[::1]"]
        .iter()
        .any(|local| local.eq_ignore_ascii_case(name))
        || (!own.is_unspecified() && name.trim_matches(['[', ']']) == own.to_string())
}

/// `localhost:8080` without the port. `[::1]:8080` keeps its brackets.
fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    }
}

/// Only the gateway's own origin and `allowed_origins` pass.
pub(super) fn check_origin(server: &ServerSettings, parts: &Parts) -> Result<(), GatewayError> {
    let own = parts
        .headers
        .get(HOST)
        .and_then(|host| host.to_str().ok())
        .unwrap_or_default();
    let is_own = |origin: &str| {
        origin
            .split_once("://")
            .is_some_and(|(_, host)| host.eq_ignore_ascii_case(own))
    };
    let mut origins = parts.headers.get_all(ORIGIN).iter();
    if origins.all(|origin| origin.to_str().is_ok_and(is_own) || is_allowed(server, origin)) {
        return Ok(());
    }
    let message = "requests from other web pages are refused: add the page's origin to server.allowed_origins, or configure virtual keys";
    Err(GatewayError::invalid_request(message))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(host: &str, origin: Option<&str>) -> bool {
        let server = ServerSettings {
            allowed_hosts: vec!["llm.example.com".into()],
            allowed_origins: vec!["https://app.example.com".into()],
            ..ServerSettings::default()
        };
        let mut request = http::Request::builder()
            .uri("/v1/models")
            .header(HOST, host);
        if let Some(origin) = origin {
            request = request.header(ORIGIN, origin);
        }
        let (parts, ()) = request.body(()).unwrap().into_parts();
        check_host(&server, &parts).is_ok() && check_origin(&server, &parts).is_ok()
    }

    #[test]
    fn local_hosts_and_allowed_ones_pass() {
        for host in [
            "localhost",
            "localhost:8080",
            "LOCALHOST:1",
            "127.0.0.1:8080",
            "[::1]:8080",
            "[::1]",
            "llm.example.com:443",
        ] {
            assert!(check(host, None), "{host}");
        }
        for host in [
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example:8080",
            "",
            "evil.example@localhost",
        ] {
            assert!(!check(host, None), "{host}");
        }
    }

    #[test]
    fn only_own_and_allowed_origins_pass() {
        assert!(check("localhost:8080", Some("http://localhost:8080")));
        assert!(check("localhost:8080", Some("https://app.example.com")));
        for origin in ["https://evil.example", "null", "http://localhost:3000", ""] {
            assert!(!check("localhost:8080", Some(origin)), "{origin}");
        }
    }
}
