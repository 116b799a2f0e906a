//! Who calls, and whether it may: virtual keys where they are required, Host and ObjectOrigin where they are not.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, LazyLock};

use crate::settings::{ServerSettings, VirtualKeySettings};
use http::header::{HOST, ORIGIN};
use http::request::Parts;
use keypool_core::pattern;
use keypool_providers::protocol;

use crate::context::Gateway;
use crate::error::{GatewayError, Kind};
use crate::objects::Owner;
use crate::snapshot::{PoolEntry, Snapshot};

/// Who calls.
pub(super) struct Caller {
    /// The virtual key's name, or `-`.
    pub(super) name: Arc<str>,
    address: IpAddr,
    key: Option<Arc<VirtualKeySettings>>,
    /// It presented no key: the address of an upload stands for it.
    by_address: bool,
}

impl Caller {
    /// `began`: the name of the virtual key to whose upload the request belongs, if it presents none itself.
    pub(super) fn authenticate(
        gw: &Gateway,
        snapshot: &Snapshot,
        parts: &Parts,
        peer: SocketAddr,
        began: Option<Arc<str>>,
    ) -> Result<Self, GatewayError> {
        if !snapshot.needs_virtual_key() {
            check_host(&snapshot.settings.server, parts)?;
            check_origin(&snapshot.settings.server, parts)?;
            return Ok(Self {
                name: nobody(),
                address: peer.ip(),
                key: None,
                by_address: false,
            });
        }
        let presented = protocol::presented(&parts.headers, parts.uri.query());
        let known = presented
            .iter()
            .find_map(|secret| snapshot.virtual_key(secret));
        let by_upload = || {
            let began = began.filter(|_| presented.is_empty())?;
            snapshot.virtual_key_named(&began)
        };
        let by_address = known.is_none();
        let Some(key) = known.or_else(by_upload) else {
            let message = if presented.is_empty() {
                "no virtual key was sent: put it where your SDK puts its API key (Authorization: Bearer, x-api-key, x-goog-api-key or ?key=)"
            } else {
                "this virtual key is not known here: check it, or ask the operator of this gateway for one"
            };
            return Err(GatewayError::new(Kind::InvalidVirtualKey, message));
        };
        let expired = key
            .expires
            .is_some_and(|expires| expires <= gw.clock.wall());
        if key.disabled || expired {
            let why = if key.disabled {
                "switched off"
            } else {
                "expired"
            };
            let message = format!(
                "the virtual key \"{}\" is {why}: ask the operator of this gateway",
                key.name
            );
            return Err(GatewayError::new(Kind::InvalidVirtualKey, message));
        }
        Ok(Self {
            name: Arc::clone(&key.name),
            address: peer.ip(),
            key: Some(Arc::clone(key)),
            by_address,
        })
    }

    /// In which line it waits: its virtual key's, else its address's.
    pub(super) fn line(&self) -> Arc<str> {
        match &self.key {
            Some(key) => Arc::clone(&key.name),
            None => self.address.to_string().into(),
        }
    }

    /// As whom it makes objects.
    pub(super) fn maker(&self) -> Owner {
        self.key.as_ref().map(|key| Arc::clone(&key.name))
    }

    pub(super) fn may_use_native_paths(&self) -> bool {
        self.key.as_ref().is_none_or(|key| key.native)
    }

    /// Whether it may see why a key was chosen: names and states of keys that it does not use. Who may use a
    /// provider's own paths, and so deals with keys' objects, may; and everyone where no key is required. Who has
    /// but an upload's address may add to that upload, and see nothing.
    pub(super) fn may_see_traces(&self) -> bool {
        !self.by_address && self.may_use_native_paths()
    }

    pub(super) fn may_use_pool(&self, entry: &PoolEntry) -> bool {
        let key = self.key.as_ref();
        key.is_none_or(|key| pattern::any_matches(&key.pools, entry.pool.name()))
    }

    pub(super) fn may_use_model(&self, model: &str) -> bool {
        let key = self.key.as_ref();
        key.is_none_or(|key| pattern::any_matches(&key.models, model))
    }

    /// Of a name or pattern of models, what it may use: `None` is all of it.
    pub(super) fn allowed_of(&self, models: &str) -> Option<Vec<String>> {
        // A pattern that matches another as text matches all that the other stands for.
        let key = self.key.as_ref().filter(|_| !self.may_use_model(models))?;
        let narrower = key
            .models
            .iter()
            .filter(|allowed| pattern::matches(models, allowed));
        Some(narrower.cloned().collect())
    }
}

/// Without a required key, a web page could reach the gateway under a name of its own: only local names pass.
fn check_host(server: &ServerSettings, parts: &Parts) -> Result<(), GatewayError> {
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
    Err(GatewayError::new(Kind::InvalidRequest, message))
}

fn is_local(host: &str, server: &ServerSettings) -> bool {
    let name = without_port(host);
    let own = server.listen.ip();
    ["localhost", "127.0.0.1", "[::1]"]
        .iter()
        .any(|local| local.eq_ignore_ascii_case(name))
        || (!own.is_unspecified() && name.trim_matches(['[', ']']) == own.to_string())
}

/// `localhost:8080` without the port; `[::1]:8080` keeps its brackets.
fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    }
}

fn check_origin(server: &ServerSettings, parts: &Parts) -> Result<(), GatewayError> {
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
    let allowed = |origin: &str| {
        is_own(origin)
            || server
                .allowed_origins
                .iter()
                .any(|known| known.eq_ignore_ascii_case(origin))
    };
    if parts
        .headers
        .get_all(ORIGIN)
        .iter()
        .all(|origin| origin.to_str().is_ok_and(allowed))
    {
        return Ok(());
    }
    let message = "requests from other web pages are refused: add the page's origin to server.allowed_origins, or configure virtual keys";
    Err(GatewayError::new(Kind::InvalidRequest, message))
}

/// The name of a caller that is not known.
pub(super) fn nobody() -> Arc<str> {
    static NAME: LazyLock<Arc<str>> = LazyLock::new(|| "-".into());
    Arc::clone(&NAME)
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
