//! A credential that cannot be printed by accident.
//!
//! This module must never gain a `Display`, a `Serialize` or a `Debug` that shows the text.

use std::fmt;
use std::sync::Arc;

use hmac::{Hmac, KeyInit, Mac};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};

/// A provider key, virtual key or admin token. Clones share its text, which is wiped from memory with the last of them.
#[derive(Clone)]
pub struct Secret(Arc<Content>);

struct Content {
    text: SecretString,
    digest: Digest256,
}

/// SHA-256 of a secret. Secrets are compared and looked up by it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest256(pub [u8; 32]);

impl Secret {
    /// Wraps `text`.
    pub fn new(text: impl Into<String>) -> Self {
        let text = SecretString::from(text.into());
        let digest = Digest256::of(text.expose_secret().as_bytes());
        Self(Arc::new(Content { text, digest }))
    }

    /// The text itself, for the one place that sends it upstream.
    pub fn expose(&self) -> &str {
        self.0.text.expose_secret()
    }

    /// SHA-256 of the text.
    pub fn digest(&self) -> Digest256 {
        self.0.digest
    }

    /// A hint that may be shown to an operator: `sk-…ab12`. Secrets under 12 characters show nothing.
    pub fn hint(&self) -> String {
        let chars: Vec<char> = self.expose().chars().collect();
        if chars.len() < 12 {
            return "…".to_owned();
        }
        let head = self
            .expose()
            .split('-')
            .next()
            .filter(|h| h.len() <= 6 && h.len() < chars.len() / 2);
        let tail: String = chars[chars.len() - 4..].iter().collect();
        head.map_or_else(|| format!("…{tail}"), |h| format!("{h}-…{tail}"))
    }
}

impl Digest256 {
    /// SHA-256 of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// All of it.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Its first 64 bits: enough to tell keys apart where confusing two of them does no harm.
    pub(crate) fn head(&self) -> u64 {
        self.0[..8]
            .iter()
            .fold(0, |head, byte| head << 8 | u64::from(*byte))
    }

    /// Reads 64 hexadecimal digits; `None` for anything else.
    pub fn from_hex(text: &str) -> Option<Self> {
        if text.len() != 64 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
        }
        Some(Self(bytes))
    }
}

/// Turns digests of secrets into the hashes by which a store finds them. Without it, nobody can tell whether a secret
/// belongs to a stored hash.
#[derive(Clone)]
pub struct HashKey(Hmac<Sha256>);

impl HashKey {
    /// Made of 256 random bits.
    pub fn new(key: &[u8; 32]) -> Self {
        let mac = Hmac::new_from_slice(key);
        Self(mac.unwrap_or_else(|_| unreachable!("HMAC takes keys of any length")))
    }

    /// HMAC-SHA-256 of a secret's digest. Hashing the digest, not the secret, lets an operator give a digest alone.
    pub fn hash(&self, digest: &Digest256) -> Digest256 {
        self.hash_parts(&[&digest.0])
    }

    /// HMAC-SHA-256 of `parts`, each with its length before it.
    pub fn hash_parts(&self, parts: &[&[u8]]) -> Digest256 {
        let mut mac = self.0.clone();
        for part in parts {
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part);
        }
        Digest256(mac.finalize().into_bytes().into())
    }
}

impl fmt::Debug for HashKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HashKey(…)")
    }
}

impl PartialEq for Secret {
    /// Compares digests, so that the time it takes reveals nothing about the text.
    fn eq(&self, other: &Self) -> bool {
        self.0.digest == other.0.digest
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl fmt::Debug for Digest256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Digest256(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_and_hint_never_show_the_text() {
        let secret = Secret::new("sk-proj-abcdefghijkl9876");
        assert_eq!(format!("{secret:?}"), "Secret(…)");
        assert_eq!(secret.hint(), "sk-…9876");
        assert_eq!(Secret::new("AIzaSyABCDEFGH1234").hint(), "…1234");
        assert_eq!(Secret::new("short-one").hint(), "…");
    }

    #[test]
    fn digest_reads_its_own_hex() {
        let digest = Digest256::of(b"x");
        let hex: String = digest.0.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(Digest256::from_hex(&hex), Some(digest));
        assert_eq!(Digest256::from_hex("zz"), None);
        assert_eq!(Digest256::from_hex(&"+1".repeat(32)), None);
    }
}
