//! A provider's base URL, split into origin (part of a key's identity) and path (a prefix).

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use http::Uri;

/// `https://api.openai.com/v1` as origin and path.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BaseUrl {
    origin: Arc<str>,
    authority: Arc<str>,
    path: Arc<str>,
}

/// Why a text is not a base URL.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BaseUrlError {
    /// It is not a URL.
    #[error("not a URL")]
    Syntax,
    /// It has no host, or a port out of range.
    #[error("host or port are not valid")]
    Authority,
    /// It is neither http nor https.
    #[error("a base URL starts with http:// or https://")]
    Scheme,
    /// It contains a user or password.
    #[error("a base URL carries no user or password")]
    UserInfo,
    /// It contains a query string.
    #[error("a base URL carries no query")]
    Query,
}

impl BaseUrl {
    /// Scheme, host in lower case, and the port unless it is the scheme's default: `https://api.openai.com`.
    pub fn origin(&self) -> &Arc<str> {
        &self.origin
    }

    /// The value of the `Host` header: `api.openai.com`, `127.0.0.1:9000`.
    pub fn authority(&self) -> &Arc<str> {
        &self.authority
    }

    /// The path prefix without a trailing slash: `/v1`, or empty.
    pub fn path(&self) -> &Arc<str> {
        &self.path
    }

    /// Whether the host is this machine: `localhost`, `127.0.0.1`, `[::1]`.
    pub fn is_loopback(&self) -> bool {
        is_loopback(&self.authority)
    }

    /// Whether the connection is encrypted.
    pub fn is_https(&self) -> bool {
        self.origin.starts_with("https:")
    }
}

/// Whether a host, with or without a port, is this machine.
pub fn is_loopback(authority: &str) -> bool {
    let Ok(authority) = authority.parse::<http::uri::Authority>() else {
        return false;
    };
    let name = authority.host().trim_matches(['[', ']']);
    let is_address = name.parse().is_ok_and(|ip: IpAddr| ip.is_loopback());
    is_address || name.eq_ignore_ascii_case("localhost")
}

impl FromStr for BaseUrl {
    type Err = BaseUrlError;

    fn from_str(text: &str) -> Result<Self, BaseUrlError> {
        let uri: Uri = text.trim().parse().map_err(|_| BaseUrlError::Syntax)?;
        let (scheme, default_port) = match uri.scheme_str() {
            Some("http") => ("http", 80),
            Some("https") => ("https", 443),
            _ => return Err(BaseUrlError::Scheme),
        };
        if uri.query().is_some() {
            return Err(BaseUrlError::Query);
        }
        let authority = uri.authority().ok_or(BaseUrlError::Syntax)?;
        if authority.as_str().contains('@') {
            return Err(BaseUrlError::UserInfo);
        }
        let host = authority.host().to_ascii_lowercase();
        let after_host = &authority.as_str()[authority.host().len()..];
        let has_bad_port = !after_host.is_empty() && authority.port_u16().is_none();
        if host.is_empty() || has_bad_port {
            return Err(BaseUrlError::Authority);
        }
        let authority = match authority.port_u16().filter(|port| *port != default_port) {
            Some(port) => format!("{host}:{port}"),
            None => host,
        };
        Ok(Self {
            origin: format!("{scheme}://{authority}").into(),
            authority: authority.into(),
            path: uri.path().trim_end_matches('/').into(),
        })
    }
}

impl fmt::Display for BaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.origin, self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_url_is_split_and_normalised() {
        let url: BaseUrl = "https://API.OpenAI.com:443/v1/".parse().unwrap();
        assert_eq!(
            (&**url.origin(), &**url.authority(), &**url.path()),
            ("https://api.openai.com", "api.openai.com", "/v1")
        );
        let url: BaseUrl = "http://127.0.0.1:9000".parse().unwrap();
        assert_eq!(
            (&**url.origin(), &**url.path()),
            ("http://127.0.0.1:9000", "")
        );
        let url: BaseUrl = "http://[::1]:9000/x".parse().unwrap();
        assert_eq!(&**url.authority(), "[::1]:9000");
    }

    #[test]
    fn a_text_that_is_no_base_url_is_refused() {
        for (text, why) in [
            ("api.openai.com/v1", BaseUrlError::Syntax),
            ("api.openai.com", BaseUrlError::Scheme),
            ("ftp://x", BaseUrlError::Scheme),
            ("https://user:pw@x/", BaseUrlError::UserInfo),
            ("https://x/?a=b", BaseUrlError::Query),
            ("not a url", BaseUrlError::Syntax),
            ("", BaseUrlError::Syntax),
            ("http://[::1]:99999", BaseUrlError::Authority),
            ("http://x:99999", BaseUrlError::Authority),
        ] {
            assert_eq!(text.parse::<BaseUrl>(), Err(why), "{text}");
        }
    }
}
