//! Where announcements of jobs' ends may go: the URLs that callers give, and the hosts that an operator allows.

use std::net::IpAddr;
use std::sync::Arc;

use http::Uri;
use keypool_core::base_url::BaseUrl;
use keypool_core::values;

/// Maximum length of a URL, in bytes.
const MAX_URL: usize = 2048;

/// The URL to which a caller has the end of a job announced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WebhookUrl {
    /// Scheme, host and port.
    pub(crate) base_url: BaseUrl,
    /// Path and query, as they are sent. The query may be a credential.
    pub(crate) path_and_query: String,
    /// In lower case; an IPv6 address without brackets.
    pub(crate) host: Arc<str>,
    pub(crate) port: u16,
}

/// One entry of `jobs.webhook_hosts`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebhookHost {
    host: Host,
    /// `None`: any port.
    port: Option<u16>,
    /// Written with `http://`: it may be called without encryption, and have any address.
    is_trusted: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Host {
    Name(String),
    /// Every name that ends with this, which begins with a dot.
    Below(String),
    Address(IpAddr),
}

/// What addresses a host may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Addresses {
    /// Addresses of the public internet only.
    Public,
    /// Any: the operator names the address, or trusts the host.
    Any,
}

impl WebhookUrl {
    /// Reads a URL.
    ///
    /// # Errors
    /// What is wrong, in a sentence that does not show it.
    pub(crate) fn parse(text: &str) -> Result<Self, &'static str> {
        const WRONG: &str =
            "must be one URL of at most 2048 characters, such as https://hooks.example.com/jobs";
        if text.len() > MAX_URL || text.contains('#') {
            return Err(WRONG);
        }
        let uri: Uri = text.parse().map_err(|_| WRONG)?;
        let scheme = match uri.scheme_str() {
            Some("https") => "https",
            Some("http") => "http",
            _ => return Err("must begin with https://"),
        };
        let authority = uri.authority().ok_or(WRONG)?.as_str();
        if authority.contains('@') {
            return Err("must not contain a user or password: put a token into its path or query");
        }
        let (host, port) = values::host_port(authority).ok_or(WRONG)?;
        let base_url: BaseUrl = format!("{scheme}://{authority}")
            .parse()
            .map_err(|_| WRONG)?;
        let default_port = if base_url.is_https() { 443 } else { 80 };
        let path_and_query = uri.path_and_query().map_or("/", |both| both.as_str());
        Ok(Self {
            path_and_query: match path_and_query.starts_with('/') {
                true => path_and_query.to_owned(),
                false => format!("/{path_and_query}"),
            },
            host: bare(host).into(),
            port: port.unwrap_or(default_port),
            base_url,
        })
    }

    /// Which addresses it may have, if one of these entries allows it.
    ///
    /// # Errors
    /// Why it is not allowed.
    pub(crate) fn allowed_by(&self, hosts: &[WebhookHost]) -> Result<Addresses, String> {
        let host = &self.host;
        let mut is_known = false;
        let mut addresses = None;
        for entry in hosts.iter().filter(|entry| entry.names(self)) {
            is_known = true;
            if self.base_url.is_https() || entry.is_trusted {
                let all = [addresses, Some(entry.addresses())];
                addresses = match all.contains(&Some(Addresses::Any)) {
                    true => Some(Addresses::Any),
                    false => Some(Addresses::Public),
                };
            }
        }
        match (addresses, is_known) {
            (Some(addresses), _) => Ok(addresses),
            (None, true) => Err(format!(
                "{host} may be called by https only: use https, or ask the operator of this gateway to list it with http:// in [jobs] webhook_hosts"
            )),
            (None, false) => Err(format!(
                "{host} is not among the hosts that this gateway may call, at this port: ask its operator to list it in [jobs] webhook_hosts"
            )),
        }
    }
}

impl WebhookHost {
    /// Reads an entry: `hooks.example.com`, `*.example.com`, `192.0.2.1`, each with a port or without, and with `http://` or
    /// without.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim().to_ascii_lowercase();
        let (is_trusted, authority) = match text.strip_prefix("http://") {
            Some(rest) => (true, rest),
            None => (false, &*text),
        };
        let (is_below, authority) = match authority.strip_prefix("*.") {
            Some(rest) => (true, rest),
            None => (false, authority),
        };
        let (host, port) = values::host_port(authority)?;
        let host = bare(host);
        let host = match (host.parse::<IpAddr>(), is_below) {
            (Ok(_), true) => return None,
            (Ok(address), false) => Host::Address(address),
            (Err(_), true) => Host::Below(format!(".{host}")),
            (Err(_), false) => Host::Name(host),
        };
        Some(Self {
            host,
            port,
            is_trusted,
        })
    }

    fn names(&self, url: &WebhookUrl) -> bool {
        let is_host = match &self.host {
            Host::Name(name) => **name == *url.host,
            Host::Below(end) => url.host.len() > end.len() && url.host.ends_with(&**end),
            Host::Address(address) => url.host.parse() == Ok(*address),
        };
        is_host && self.port.is_none_or(|port| port == url.port)
    }

    fn addresses(&self) -> Addresses {
        match self.is_trusted || matches!(self.host, Host::Address(_)) {
            true => Addresses::Any,
            false => Addresses::Public,
        }
    }
}

/// A host in lower case and without brackets.
fn bare(host: &str) -> String {
    host.trim_matches(['[', ']']).to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_split_into_where_it_leads_and_what_is_sent() {
        for (text, origin, path_and_query, host, port) in [
            (
                "https://Hooks.example.com/a?b=c",
                "https://hooks.example.com",
                "/a?b=c",
                "hooks.example.com",
                443,
            ),
            (
                "https://hooks.example.com",
                "https://hooks.example.com",
                "/",
                "hooks.example.com",
                443,
            ),
            (
                "https://h.example?b",
                "https://h.example",
                "/?b",
                "h.example",
                443,
            ),
            (
                "http://127.0.0.1:9000/x",
                "http://127.0.0.1:9000",
                "/x",
                "127.0.0.1",
                9000,
            ),
            (
                "https://[::1]:8443/",
                "https://[::1]:8443",
                "/",
                "::1",
                8443,
            ),
        ] {
            let url = WebhookUrl::parse(text).unwrap();
            assert_eq!(&**url.base_url.origin(), origin, "{text}");
            let rest = (&*url.path_and_query, &*url.host, url.port);
            assert_eq!(rest, (path_and_query, host, port), "{text}");
        }
        let long = format!("https://h.example/{}", "x".repeat(MAX_URL));
        for wrong in [
            "",
            "hooks.example.com",
            "/jobs",
            "ftp://h.example",
            "https://",
            "https://u:p@h.example/",
            "https://h.example/ b",
            "https://h.example/#b",
            "https://h.example:99999/",
            "https://a.example/, https://b.example/",
            &long,
        ] {
            let parsed = WebhookUrl::parse(wrong);
            assert!(parsed.is_err(), "{wrong}: {parsed:?}");
        }
    }

    fn allowed(entry: &str, url: &str) -> Option<Addresses> {
        let hosts = [WebhookHost::parse(entry).unwrap()];
        WebhookUrl::parse(url).unwrap().allowed_by(&hosts).ok()
    }

    #[test]
    fn an_entry_allows_its_host_its_port_and_https_unless_it_says_http() {
        let (public, any) = (Some(Addresses::Public), Some(Addresses::Any));
        for (entry, url, expected) in [
            ("hooks.example.com", "https://hooks.example.com/x", public),
            ("Hooks.Example.com", "https://HOOKS.example.com/x", public),
            (
                "hooks.example.com",
                "https://hooks.example.com:8443/",
                public,
            ),
            (
                "hooks.example.com:8443",
                "https://hooks.example.com:8443/",
                public,
            ),
            ("hooks.example.com:8443", "https://hooks.example.com/", None),
            ("hooks.example.com", "http://hooks.example.com/", None),
            (
                "hooks.example.com",
                "https://hooks.example.com.evil.example/",
                None,
            ),
            ("hooks.example.com", "https://hooks.example.com./", None),
            ("hooks.example.com", "https://a.hooks.example.com/", None),
            ("*.example.com", "https://a.example.com/", public),
            ("*.example.com", "https://a.b.example.com/", public),
            ("*.example.com", "https://example.com/", None),
            ("*.example.com", "https://.example.com/", None),
            ("*.example.com", "https://aexample.com/", None),
            ("10.0.0.1", "https://10.0.0.1/", any),
            ("10.0.0.1", "http://10.0.0.1/", None),
            ("10.0.0.1", "https://10.0.0.2/", None),
            ("10.0.0.1", "https://[::ffff:10.0.0.1]/", None),
            ("[::1]", "https://[0:0::1]:7/", any),
            ("http://127.0.0.1:9000", "http://127.0.0.1:9000/x", any),
            ("http://127.0.0.1:9000", "http://127.0.0.1:9001/x", None),
            ("http://localhost", "http://localhost:9000/", any),
            ("http://localhost", "https://localhost/", any),
            ("localhost", "https://localhost/", public),
        ] {
            assert_eq!(allowed(entry, url), expected, "{entry}: {url}");
        }
    }

    #[test]
    fn a_refusal_says_what_would_help() {
        let url = WebhookUrl::parse("http://h.example/token?secret").unwrap();
        let said = url.allowed_by(&[]).unwrap_err();
        assert!(
            said.contains("webhook_hosts") && !said.contains("secret"),
            "{said}"
        );
        let hosts = [WebhookHost::parse("h.example").unwrap()];
        let said = url.allowed_by(&hosts).unwrap_err();
        assert!(said.contains("https only"), "{said}");
    }

    #[test]
    fn what_is_no_host_is_no_entry() {
        for wrong in [
            "",
            "*",
            "*.",
            "https://a.example",
            "a.example/x",
            "a.*.example",
            "*.10.0.0.1",
            "a.example:0x1",
            "u@a.example",
            "http://",
            "::1",
        ] {
            assert_eq!(WebhookHost::parse(wrong), None, "{wrong}");
        }
    }
}
