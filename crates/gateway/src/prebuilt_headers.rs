//! What goes over the wire with every call of a pool and does not depend on the call: made once per configuration.

use http::{HeaderName, HeaderValue};
use keypool_core::pool::{Member, Pool};
use keypool_providers::dialect::Dialect;
use keypool_providers::protocol::Protocol;
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

/// Characters of a name that cannot stand in a header as they are.
const UNSAFE_IN_HEADER: &AsciiSet = &CONTROLS.add(b' ').add(b'%');

/// The unchanging headers of a pool and its keys.
pub struct PoolHeaders {
    /// The pool's name.
    pub(crate) pool: HeaderValue,
    /// One for each key, in the pool's order.
    keys: Box<[KeyHeaders]>,
}

/// The unchanging headers of a key.
pub(crate) struct KeyHeaders {
    /// The key's name, as clients are told it.
    pub(crate) name: HeaderValue,
    /// The `Host` of its base URL. `None`: it cannot stand in a header.
    pub(crate) host: Option<HeaderValue>,
    /// The credential for each protocol that the dialect speaks, as far as the secret can stand in a header.
    credentials: Box<[(Protocol, HeaderName, HeaderValue)]>,
}

impl PoolHeaders {
    pub(crate) fn new(pool: &Pool, dialect: &dyn Dialect) -> Self {
        let key = |member: &Member| KeyHeaders::new(member, dialect);
        Self {
            pool: name_value(pool.name()),
            keys: pool.members().iter().map(key).collect(),
        }
    }

    /// The headers of the key at `index`.
    pub(crate) fn key(&self, index: usize) -> &KeyHeaders {
        &self.keys[index]
    }
}

impl KeyHeaders {
    fn new(member: &Member, dialect: &dyn Dialect) -> Self {
        let secret = member.key.secret().expose();
        let credential = |protocol: &Protocol| {
            let (name, value) = dialect.credential(*protocol, secret)?;
            Some((*protocol, name, value))
        };
        Self {
            name: name_value(&member.name),
            host: HeaderValue::from_str(member.base_url.authority()).ok(),
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
