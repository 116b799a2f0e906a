//! Headers that are the same for every call of a key, built once per configuration.

use std::any::Any;
use std::sync::Arc;

use http::{HeaderName, HeaderValue};
use keypool_core::pool::Member;
use keypool_core::settings::{KeySettings, PoolSettings};
use keypool_providers::catalogue;
use keypool_providers::dialect::Dialect;
use keypool_providers::protocol::Protocol;
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

/// Characters of a name that must be encoded in a header.
const UNSAFE_IN_HEADER: &AsciiSet = &CONTROLS.add(b' ').add(b'%');

/// The unchanging headers of a key. They travel with the key, since a lease can come from newer keys than the request's
/// snapshot.
pub(crate) struct KeyHeaders {
    /// The key's name, as clients see it.
    pub(crate) name: HeaderValue,
    /// The `Host` of its base URL; `None` if no header can carry it.
    pub(crate) host: Option<HeaderValue>,
    /// The credential for each protocol that the dialect speaks, if a header can carry the secret.
    credentials: Box<[(Protocol, HeaderName, HeaderValue)]>,
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

    fn new(key: &KeySettings, dialect: &Dialect) -> Self {
        let secret = key.secret.expose();
        let credential = |protocol: &Protocol| {
            let (name, value) = (dialect.credential)(*protocol, secret)?;
            Some((*protocol, name, value))
        };
        Self {
            name: name_value(&key.name),
            host: HeaderValue::from_str(key.base_url.authority()).ok(),
            credentials: dialect.protocols.iter().filter_map(credential).collect(),
        }
    }

    /// The header with the credential for calls by `protocol`.
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
