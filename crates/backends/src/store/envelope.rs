//! How secrets are encrypted.
//!
//! A random data key encrypts each field, and a random hash key turns digests of secrets into the hashes by which they are
//! found. Both are stored, encrypted with a key that is derived from the master key. So a change of the master key
//! does not change the hashes.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use keypool_core::secret::{HashKey, Secret};
use keypool_core::store::{StoreError, StoreErrorKind};

use super::convert::hex_bytes;
use super::sql::unexpected;

/// What everything that is secret in a store is encrypted with.
#[derive(Clone)]
pub struct MasterKey(Secret);

impl MasterKey {
    /// Any text. Nothing makes a guess at it slow, so it must be random: 32 random bytes as text, for example.
    pub fn new(text: impl Into<String>) -> Self {
        Self(Secret::new(text))
    }

    /// The cipher that encrypts the data key and the hash key.
    fn cipher(&self, salt: &str) -> XChaCha20Poly1305 {
        let key = HashKey::new(&self.0.digest().0)
            .hash_parts(&[b"keypool: encrypts the keys of a store", salt.as_bytes()]);
        XChaCha20Poly1305::new(&key.0.into())
    }
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MasterKey(…)")
    }
}

/// The keys of a store as they are stored.
pub(super) struct Envelope {
    /// Names the data key.
    pub(super) key_id: String,
    /// Random; another one for each store and master key.
    pub(super) salt: String,
    /// The data key, encrypted.
    pub(super) data_key: String,
    /// The hash key, encrypted.
    pub(super) hash_key: String,
}

/// The keys of a store.
pub(super) struct Keys {
    /// Names the data key.
    pub(super) id: String,
    data: XChaCha20Poly1305,
    /// Turns digests of secrets into the hashes by which they are found.
    pub(super) hash: HashKey,
    hash_bytes: [u8; 32],
}

impl Envelope {
    /// New random keys.
    pub(super) fn create(master_key: &MasterKey) -> Result<(Self, Keys), StoreError> {
        Self::seal(master_key, random()?)
    }

    /// A new random data key beside the hash key of `keys`.
    pub(super) fn renew(master_key: &MasterKey, keys: &Keys) -> Result<(Self, Keys), StoreError> {
        Self::seal(master_key, keys.hash_bytes)
    }

    fn seal(master_key: &MasterKey, hash_key: [u8; 32]) -> Result<(Self, Keys), StoreError> {
        let key_id = hex_bytes(&random::<8>()?);
        let salt = hex_bytes(&random::<16>()?);
        let data_key: [u8; 32] = random()?;
        let cipher = master_key.cipher(&salt);
        let envelope = Self {
            data_key: encrypt(&cipher, &data_key, &place("data_key", &key_id))?,
            hash_key: encrypt(&cipher, &hash_key, &place("hash_key", &key_id))?,
            key_id: key_id.clone(),
            salt,
        };
        Ok((envelope, Keys::new(key_id, &data_key, hash_key)))
    }

    /// Decrypts the keys.
    ///
    /// # Errors
    /// [`StoreErrorKind::WrongMasterKey`] if they were encrypted with another master key.
    pub(super) fn open(&self, master_key: &MasterKey) -> Result<Keys, StoreError> {
        let cipher = master_key.cipher(&self.salt);
        let key = |name, stored| {
            let bytes = decrypt(&cipher, stored, &place(name, &self.key_id));
            bytes
                .and_then(|bytes| <[u8; 32]>::try_from(bytes).ok())
                .ok_or_else(wrong_master_key)
        };
        let data_key = key("data_key", &self.data_key)?;
        let hash_key = key("hash_key", &self.hash_key)?;
        Ok(Keys::new(self.key_id.clone(), &data_key, hash_key))
    }
}

impl Keys {
    fn new(id: String, data_key: &[u8; 32], hash_key: [u8; 32]) -> Self {
        Self {
            id,
            data: XChaCha20Poly1305::new(data_key.into()),
            hash: HashKey::new(&hash_key),
            hash_bytes: hash_key,
        }
    }

    /// Encrypts a field. It can be decrypted for the same place only.
    pub(super) fn encrypt(&self, text: &str, place: &[&str]) -> Result<String, StoreError> {
        encrypt(&self.data, text.as_bytes(), &place.join("\n"))
    }

    /// Decrypts a field.
    pub(super) fn decrypt(&self, stored: &str, place: &[&str]) -> Result<String, StoreError> {
        let bytes = decrypt(&self.data, stored, &place.join("\n"));
        bytes
            .and_then(|bytes| String::from_utf8(bytes).ok())
            .ok_or_else(unexpected)
    }

    /// Refuses to go on if what is stored was encrypted with another data key by now.
    pub(super) fn check(&self, key_id: &str) -> Result<(), StoreError> {
        if self.id == key_id {
            return Ok(());
        }
        Err(StoreError::new(
            StoreErrorKind::WrongMasterKey,
            "the store has another master key since this server has started; restart it with the new one",
        ))
    }
}

fn place(name: &str, key_id: &str) -> String {
    format!("meta\n{name}\n{key_id}")
}

fn wrong_master_key() -> StoreError {
    StoreError::new(
        StoreErrorKind::WrongMasterKey,
        "the master key is not the one that the store was written with; set the right one as `master_key` of [store], or \
         put its file back beside the database. Without it, the provider keys in the store cannot be read",
    )
}

/// The nonce and what `cipher` made of `bytes`, in base64.
fn encrypt(cipher: &XChaCha20Poly1305, bytes: &[u8], place: &str) -> Result<String, StoreError> {
    let nonce: [u8; 24] = random()?;
    let payload = Payload {
        msg: bytes,
        aad: place.as_bytes(),
    };
    let encrypted = cipher.encrypt(&XNonce::from(nonce), payload);
    let encrypted = encrypted.map_err(|_| {
        StoreError::new(
            StoreErrorKind::Internal,
            "a value is too long to be encrypted",
        )
    })?;
    Ok(STANDARD.encode([&nonce[..], &encrypted].concat()))
}

/// What was encrypted; `None` if it was with another key, for another place, or was changed since.
fn decrypt(cipher: &XChaCha20Poly1305, stored: &str, place: &str) -> Option<Vec<u8>> {
    let bytes = STANDARD.decode(stored).ok()?;
    let (nonce, encrypted) = bytes.split_first_chunk::<24>()?;
    let payload = Payload {
        msg: encrypted,
        aad: place.as_bytes(),
    };
    cipher.decrypt(&XNonce::from(*nonce), payload).ok()
}

fn random<const N: usize>() -> Result<[u8; N], StoreError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|_| {
        StoreError::new(
            StoreErrorKind::Internal,
            "the operating system gave no random numbers; try again",
        )
    })?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_decrypted_for_its_own_place_only() {
        let (_, keys) = Envelope::create(&MasterKey::new("m")).unwrap();
        let stored = keys.encrypt("sk-1", &["keys", "secret", "p", "k"]).unwrap();
        assert_eq!(
            keys.decrypt(&stored, &["keys", "secret", "p", "k"])
                .unwrap(),
            "sk-1"
        );
        assert!(
            keys.decrypt(&stored, &["keys", "secret", "p", "other"])
                .is_err()
        );
        assert_ne!(
            stored,
            keys.encrypt("sk-1", &["keys", "secret", "p", "k"]).unwrap()
        );
    }

    #[test]
    fn only_the_master_key_opens_the_envelope() {
        let (envelope, keys) = Envelope::create(&MasterKey::new("m")).unwrap();
        assert!(envelope.open(&MasterKey::new("m")).unwrap().id == keys.id);
        let error = envelope.open(&MasterKey::new("n")).err().unwrap();
        assert_eq!(error.kind, StoreErrorKind::WrongMasterKey);
    }

    #[test]
    fn a_new_data_key_reads_no_old_fields_and_finds_the_same_hashes() {
        let (_, keys) = Envelope::create(&MasterKey::new("m")).unwrap();
        let (envelope, renewed) = Envelope::renew(&MasterKey::new("n"), &keys).unwrap();
        let stored = keys.encrypt("sk-1", &["x"]).unwrap();
        assert!(renewed.decrypt(&stored, &["x"]).is_err());
        assert!(envelope.open(&MasterKey::new("m")).is_err());
        let digest = Secret::new("sk-1").digest();
        assert_eq!(renewed.hash.hash(&digest), keys.hash.hash(&digest));
        assert!(keys.check(&renewed.id).is_err());
    }

    #[test]
    fn a_master_key_is_not_printed() {
        assert_eq!(format!("{:?}", MasterKey::new("text")), "MasterKey(…)");
    }
}
