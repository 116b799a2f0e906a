//! Which upstream key a row is about: found by a keyed hash, stored encrypted.

use keypool_core::secret::Digest256;
use keypool_core::store::{StoreError, UpstreamKeyId};

use super::convert::hex;
use super::envelope::Keys;
use super::sql::unexpected;

/// The hash by which the key is found.
pub(super) fn hash(keys: &Keys, key: &UpstreamKeyId) -> String {
    hex(&keys.hash.hash_parts(&[
        key.provider.as_bytes(),
        key.origin.as_bytes(),
        &key.digest.0,
    ]))
}

/// Encrypts which key it is, for the row with this hash.
pub(super) fn encrypt(keys: &Keys, key: &UpstreamKeyId, hash: &str) -> Result<String, StoreError> {
    let identity = [&*key.provider, &*key.origin, &hex(&key.digest)];
    keys.encrypt(&identity.join("\n"), &["key_states", "identity", hash])
}

/// Decrypts which key it is.
pub(super) fn decrypt(
    keys: &Keys,
    identity: &str,
    hash: &str,
) -> Result<UpstreamKeyId, StoreError> {
    let identity = keys.decrypt(identity, &["key_states", "identity", hash])?;
    let mut parts = identity.split('\n');
    let mut part = || parts.next().ok_or_else(unexpected);
    Ok(UpstreamKeyId {
        provider: part()?.into(),
        origin: part()?.into(),
        digest: Digest256::from_hex(part()?).ok_or_else(unexpected)?,
    })
}
