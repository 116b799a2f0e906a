//! What announcements of jobs' ends are signed with, in the form of Standard Webhooks
//! (<https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md>).
//!
//! This module must never show a secret, except to the one who is to keep it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use keypool_core::secret::Secret;
use sha2::Sha256;

/// What every secret begins with.
const PREFIX: &str = "whsec_";
/// Size of a secret that is made up, in bytes.
const GENERATED: usize = 32;

/// A secret: `whsec_` and 24 to 64 bytes in base64.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebhookSecret(Secret);

impl WebhookSecret {
    /// Reads a secret.
    ///
    /// # Errors
    /// What it must be, to continue a sentence after the name of the setting. It does not show the secret.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let text = text.trim();
        match key(text) {
            Some(key) if (24..=64).contains(&key.len()) => Ok(Self(Secret::new(text))),
            _ => Err("must be `whsec_` and 24 to 64 random bytes in base64"),
        }
    }

    /// A new random secret; `None` if the system has no random numbers.
    pub(crate) fn generate() -> Option<Self> {
        let mut bytes = [0_u8; GENERATED];
        getrandom::fill(&mut bytes).ok()?;
        let text = format!("{PREFIX}{}", STANDARD.encode(bytes));
        Some(Self(Secret::new(text)))
    }

    /// The secret itself, to be stored encrypted or shown once.
    pub(crate) fn secret(&self) -> &Secret {
        &self.0
    }

    /// The value of `webhook-signature` for a message. `timestamp`: seconds since 1970.
    pub(crate) fn sign(&self, id: &str, timestamp: u64, body: &str) -> String {
        let key = key(self.0.expose()).unwrap_or_default();
        let mac = Hmac::<Sha256>::new_from_slice(&key);
        let mut mac = mac.unwrap_or_else(|_| unreachable!("HMAC takes keys of any length"));
        mac.update(format!("{id}.{timestamp}.{body}").as_bytes());
        format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
    }
}

fn key(text: &str) -> Option<Vec<u8>> {
    STANDARD.decode(text.strip_prefix(PREFIX)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the specification's libraries.
    #[test]
    fn a_signature_is_that_of_the_reference_libraries() {
        let secret = WebhookSecret::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let signature = secret.sign(
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            1_614_265_330,
            r#"{"test": 2432232314}"#,
        );
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn a_secret_has_24_to_64_bytes_in_base64() {
        let of = |length: usize| format!("whsec_{}", STANDARD.encode(vec![7_u8; length]));
        for good in [24, 32, 64] {
            assert!(WebhookSecret::parse(&of(good)).is_ok(), "{good}");
        }
        for wrong in [of(23), of(65), of(0), of(32).replace("whsec_", "")] {
            assert!(WebhookSecret::parse(&wrong).is_err(), "{wrong}");
        }
        assert!(WebhookSecret::parse("whsec_not base64, but long enough for it").is_err());
    }

    #[test]
    fn a_generated_secret_is_valid_and_new() {
        let (one, other) = (
            WebhookSecret::generate().unwrap(),
            WebhookSecret::generate().unwrap(),
        );
        assert_ne!(one, other);
        assert_eq!(WebhookSecret::parse(one.secret().expose()), Ok(one.clone()));
        assert!(!format!("{one:?}").contains("whsec"), "{one:?}");
    }
}
