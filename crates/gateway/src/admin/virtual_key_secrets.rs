//! The secrets of virtual keys: chosen by an operator or generated.

use std::sync::Arc;

use keypool_core::secret::{Digest256, Secret};
use keypool_core::store::{Catalog, StoredVirtualKey};
use keypool_core::values;

use super::problem::Problem;
use crate::context::Gateway;
use crate::webhook_secret::WebhookSecret;

/// Minimum length of a secret that an operator chooses.
const MIN_SECRET: usize = 16;

/// The secret of a virtual key.
pub(super) struct NewSecret {
    pub(super) digest: Digest256,
    pub(super) hint: String,
    /// It was generated, and must be shown once.
    pub(super) generated: Option<Secret>,
}

impl NewSecret {
    /// The secret that the operator gives, else a new one.
    pub(super) fn of(key: Option<&str>, sha256: Option<&str>) -> Result<Self, String> {
        match (key, sha256) {
            (Some(_), Some(_)) => Err("give `key` or `key_sha256`, not both".to_owned()),
            (Some(key), None) => {
                let key = key.trim();
                if key.chars().count() < MIN_SECRET {
                    return Err(format!("`key` must have at least {MIN_SECRET} characters"));
                }
                if !values::fits_header(key) || key.len() > values::MAX_SECRET {
                    return Err("`key` must consist of visible ASCII characters, without spaces, and have at most 8 KiB".to_owned());
                }
                let secret = Secret::new(key);
                Ok(Self {
                    digest: secret.digest(),
                    hint: secret.hint(),
                    generated: None,
                })
            }
            (None, Some(hex)) => {
                let digest = Digest256::from_hex(hex.trim());
                let digest =
                    digest.ok_or("`key_sha256` must be a SHA-256 in 64 hexadecimal digits")?;
                Ok(Self {
                    digest,
                    hint: String::new(),
                    generated: None,
                })
            }
            (None, None) => Self::generate(),
        }
    }

    /// 256 random bits.
    fn generate() -> Result<Self, String> {
        let mut bytes = [0u8; 32];
        getrandom::fill(&mut bytes).map_err(|_| "the system has no random numbers".to_owned())?;
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let secret = Secret::new(format!("kp-{hex}"));
        Ok(Self {
            digest: secret.digest(),
            hint: secret.hint(),
            generated: Some(secret),
        })
    }
}

/// The name of another virtual key with this secret.
fn with_secret(gw: &Gateway, catalog: &Catalog, digest: &Digest256) -> Option<Arc<str>> {
    let declared = gw.declared();
    let mut keys = declared.virtual_keys.iter();
    let found = keys
        .find(|key| key.digest == *digest)
        .map(|key| Arc::clone(&key.name));
    let hash = catalog.hash_key.hash(digest);
    let has = |key: &&StoredVirtualKey| {
        key.hash == hash || key.previous.is_some_and(|(previous, _)| previous == hash)
    };
    found.or_else(|| {
        catalog
            .virtual_keys
            .iter()
            .find(has)
            .map(|key| Arc::clone(&key.name))
    })
}

pub(super) fn refuse_taken_secret(
    gw: &Gateway,
    catalog: &Catalog,
    digest: &Digest256,
) -> Result<(), Problem> {
    match with_secret(gw, catalog, digest) {
        Some(other) => Err(Problem::conflict(
            "duplicate_key",
            format!(
                "the virtual key \"{other}\" has the same secret, or had it before its last rotation"
            ),
        )),
        None => Ok(()),
    }
}

/// A webhook secret, to be stored and shown once.
pub(super) fn new_webhook_secret() -> Result<Secret, Problem> {
    let secret = WebhookSecret::generate().ok_or_else(Problem::internal)?;
    Ok(secret.secret().clone())
}
