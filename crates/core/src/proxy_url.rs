//! The address of an outbound proxy, which may contain credentials.
//!
//! This module must never show them: neither `Display`, `Debug` nor an error holds more than scheme, host and port.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;
use std::sync::Arc;

use http::Uri;

use crate::secret::Secret;

/// `http://user:password@proxy.example.com:3128`. Cheap to clone. Equal if all parts are.
#[derive(Clone)]
pub struct ProxyUrl(Arc<Parts>);

struct Parts {
    scheme: ProxyScheme,
    host: String,
    shown: String,
    url: Secret,
}

/// The protocol of a proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyScheme {
    /// HTTP: `CONNECT` for https, absolute URLs for http.
    Http,
    /// As `Http`, over TLS.
    Https,
    /// SOCKS 5 (RFC 1928), with names resolved here.
    Socks5,
    /// SOCKS 5, with names resolved by the proxy.
    Socks5h,
}

/// The `proxy` setting of a pool or key.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum ProxySetting {
    /// Not set: the pool's setting applies, else the environment's.
    #[default]
    Unset,
    /// `"none"`: calls go to the provider directly, even if the environment names a proxy.
    Direct,
    /// Calls go through this proxy.
    Proxy(ProxyUrl),
}

/// Why a text is not the URL of a proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProxyUrlError {
    /// Not a URL with a scheme and a host.
    #[error("must be the URL of a proxy, such as \"http://host:port\"")]
    Syntax,
    /// A scheme that is not supported.
    #[error(
        "must begin with http://, https://, socks5:// or socks5h://: other proxies are not supported"
    )]
    Scheme,
    /// A path or a query after the host.
    #[error("must end after the proxy's host and port")]
    Path,
    /// `@` or another character that must be percent-encoded in user and password.
    #[error(
        "has a user or password that must be percent-encoded (\"@\" is %40, \":\" is %3A, \"/\" is %2F)"
    )]
    UserInfo,
}

impl ProxyScheme {
    fn of(name: &str) -> Option<Self> {
        match name {
            "http" => Some(Self::Http),
            "https" => Some(Self::Https),
            "socks5" => Some(Self::Socks5),
            "socks5h" => Some(Self::Socks5h),
            _ => None,
        }
    }

    fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
            Self::Socks5 | Self::Socks5h => 1080,
        }
    }

    /// Whether the proxy speaks HTTP, so that it accepts requests with absolute URLs.
    pub fn is_http(self) -> bool {
        matches!(self, Self::Http | Self::Https)
    }
}

impl ProxyUrl {
    /// The proxy's protocol.
    pub fn scheme(&self) -> ProxyScheme {
        self.0.scheme
    }

    /// The proxy's host; an IPv6 address without brackets.
    pub fn host(&self) -> &str {
        &self.0.host
    }

    /// Whether the URL has a user or password.
    pub fn has_credentials(&self) -> bool {
        self.expose() != self.0.shown
    }

    /// The whole URL, with credentials and port, for the one place that connects.
    pub fn expose(&self) -> &str {
        self.0.url.expose()
    }
}

impl FromStr for ProxyUrl {
    type Err = ProxyUrlError;

    fn from_str(text: &str) -> Result<Self, ProxyUrlError> {
        let text = text.trim();
        let (scheme, rest) = text.split_once("://").ok_or(ProxyUrlError::Syntax)?;
        let scheme_name = scheme.to_ascii_lowercase();
        let scheme = ProxyScheme::of(&scheme_name).ok_or(ProxyUrlError::Scheme)?;
        let (user, host) = match rest.rsplit_once('@') {
            Some((user, host)) => (Some(user), host),
            None => (None, rest),
        };
        let plain = |byte: u8| byte.is_ascii_graphic() && !b"@/?#[]\\".contains(&byte);
        if user.is_some_and(|user| !user.bytes().all(plain)) {
            return Err(ProxyUrlError::UserInfo);
        }
        let uri: Uri = format!("http://{host}")
            .parse()
            .map_err(|_| ProxyUrlError::Syntax)?;
        let authority = uri.authority().ok_or(ProxyUrlError::Syntax)?;
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() || host.contains('#') {
            return Err(ProxyUrlError::Path);
        }
        let name = authority.host().to_ascii_lowercase();
        let after = &authority.as_str()[authority.host().len()..];
        if name.is_empty() || (!after.is_empty() && authority.port_u16().is_none()) {
            return Err(ProxyUrlError::Syntax);
        }
        let port = authority.port_u16().unwrap_or(scheme.default_port());
        let user = user.map_or_else(String::new, |user| format!("{user}@"));
        let url = Secret::new(format!("{scheme_name}://{user}{name}:{port}"));
        Ok(Self(Arc::new(Parts {
            scheme,
            shown: format!("{scheme_name}://{name}:{port}"),
            host: name.trim_matches(['[', ']']).to_owned(),
            url,
        })))
    }
}

impl PartialEq for ProxyUrl {
    fn eq(&self, other: &Self) -> bool {
        self.0.url == other.0.url
    }
}

impl Eq for ProxyUrl {}

impl Hash for ProxyUrl {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.url.digest().hash(state);
    }
}

impl fmt::Display for ProxyUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.shown)
    }
}

impl fmt::Debug for ProxyUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ProxyUrl({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_is_always_shown_and_credentials_never() {
        for (text, shown, whole) in [
            (
                "http://p.example.com:3128",
                "http://p.example.com:3128",
                None,
            ),
            ("HTTP://P.example.com/", "http://p.example.com:80", None),
            ("https://p.example.com", "https://p.example.com:443", None),
            ("socks5://127.0.0.1", "socks5://127.0.0.1:1080", None),
            ("socks5h://[::1]:9", "socks5h://[::1]:9", None),
            (
                " http://me:s3cr3t@p:1 ",
                "http://p:1",
                Some("http://me:s3cr3t@p:1"),
            ),
            (
                "http://me%40x:s3cr3t%3a@p:1",
                "http://p:1",
                Some("http://me%40x:s3cr3t%3a@p:1"),
            ),
        ] {
            let url: ProxyUrl = text.parse().unwrap();
            assert_eq!(url.to_string(), shown, "{text}");
            assert_eq!(url.expose(), whole.unwrap_or(shown), "{text}");
            assert!(!format!("{url:?}").contains("s3cr3t"), "{text}");
        }
        let host = |text: &str| text.parse::<ProxyUrl>().unwrap().host().to_owned();
        assert_eq!(host("http://[::1]:9"), "::1");
        assert_eq!(host("http://me:pw@P.example.com"), "p.example.com");
    }

    #[test]
    fn proxies_with_different_credentials_differ() {
        let url = |text: &str| text.parse::<ProxyUrl>().unwrap();
        assert_eq!(url("http://a:b@p:80"), url("http://a:b@P"));
        assert_ne!(url("http://a:b@p:80"), url("http://a:c@p:80"));
        assert_ne!(url("http://p:80"), url("https://p:80"));
    }

    #[test]
    fn a_text_that_is_no_proxy_url_is_refused() {
        for (text, why) in [
            ("", ProxyUrlError::Syntax),
            ("p.example.com:3128", ProxyUrlError::Syntax),
            ("http://", ProxyUrlError::Syntax),
            ("http://p:99999", ProxyUrlError::Syntax),
            ("http://p:x", ProxyUrlError::Syntax),
            ("http://a b", ProxyUrlError::Syntax),
            ("socks4://p:1", ProxyUrlError::Scheme),
            ("ftp://p:1", ProxyUrlError::Scheme),
            ("http://p/path", ProxyUrlError::Path),
            ("http://p?x=1", ProxyUrlError::Path),
            ("http://a:b@c@p", ProxyUrlError::UserInfo),
            ("http://a:b/c@p", ProxyUrlError::UserInfo),
            ("http://a:b c@p", ProxyUrlError::UserInfo),
        ] {
            assert_eq!(text.parse::<ProxyUrl>().err(), Some(why), "{text}");
        }
    }
}
