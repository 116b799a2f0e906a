//! Headers that are the same for every call of a pool or key: built once per configuration.

use std::any::Any;
use std::sync::Arc;

use http::{HeaderName, HeaderValue};
use keypool_core::pool::{Member, Pool};
use keypool_core::settings::{KeySettings, PoolSettings};
use keypool_providers::catalogue;
use keypool_providers::dialect::Dialect;
use keypool_providers::protocol::Protocol;
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

/// Characters of a name that cannot stand in a header as they are.
const UNSAFE_IN_HEADER: &AsciiSet = &CONTROLS.add(b' ').add(b'%');

/// The unchanging headers of a pool.
pub struct PoolHeaders {
    /// The pool's name.
    pub(crate) pool: HeaderValue,
}

/// The unchanging headers of a key. They belong to a key of a pool, whatever snapshot a request has.
pub(crate) struct KeyHeaders {
    /// The key's name, as clients are told it.
    pub(crate) name: HeaderValue,
    /// The `Host` of its base URL. `None`: it cannot stand in a header.
    pub(crate) host: Option<HeaderValue>,
    /// The credential for each protocol that the dialect speaks, as far as the secret can stand in a header.
    credentials: Box<[(Protocol, HeaderName, HeaderValue)]>,
}

impl PoolHeaders {
    pub(crate) fn new(pool: &Pool) -> Self {
        Self {
            pool: name_value(pool.name()),
        }
    }
}

/// Builds the headers of a key for [`KeyHeaders::of`].
pub(crate) fn prepare(pool: &PoolSettings, key: &KeySettings) -> Arc<dyn Any + Send + Sync> {
    match catalogue::find(pool.provider) {
        Some(dialect) => Arc::new(KeyHeaders::new(key, dialect)),
        None => Arc::new(()),
    }
}

impl KeyHeaders {
    /// The headers of a pool's key; `None` if its provider has no dialect.
    pub(crate) fn of(member: &Member) -> Option<&Self> {
        member.prepared()
    }

    fn new(key: &KeySettings, dialect: &dyn Dialect) -> Self {
        let secret = key.secret.expose();
        let credential = |protocol: &Protocol| {
            let (name, value) = dialect.credential(*protocol, secret)?;
            Some((*protocol, name, value))
        };
        Self {
            name: name_value(&key.name),
            host: HeaderValue::from_str(key.base_url.authority()).ok(),
            credentials: dialect.protocols().iter().filter_map(credential).collect(),
        }
    }

    /// The header that carries the key for calls by `protocol`.
    pub(crate) fn credential(&self, protocol: Protocol) -> Option<(&HeaderName, &HeaderValue)> {
        let mut known = self.credentials.iter();
        let (_, name, value) = known.find(|(of, ..)| *of == protocol)?;
        Some((name, value))
    }
}

/// A name as a header value: percent-encoded UTF-8 outside visible ASCII.
pub(crate) fn name_value(name: &str) -> HeaderValue {
    let encoded = utf8_percent_encode(name, UNSAFE_IN_HEADER).to_string();
    HeaderValue::try_from(encoded).unwrap_or(HeaderValue::from_static("-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_outside_ascii_are_percent_encoded() {
        assert_eq!(name_value("main account"), "main%20account");
        assert_eq!(name_value("主"), "%E4%B8%BB");
        assert_eq!(name_value("100%"), "100%25");
    }
}
