//! What the store knows of an upstream key.

use std::sync::Arc;
use std::time::SystemTime;

use super::Revision;
use crate::secret::Digest256;

/// Identifies an upstream key by what its pools share: the same secret at the same provider and host. See
/// [`KeyId`](crate::key::KeyId).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UpstreamKeyId {
    /// The provider's name.
    pub provider: Arc<str>,
    /// Scheme, host and port.
    pub origin: Arc<str>,
    /// SHA-256 of the secret. Stored encrypted, and found by a keyed hash.
    pub digest: Digest256,
}

/// What is stored of an upstream key.
#[derive(Clone, Debug, PartialEq)]
pub struct KeyRecord {
    /// The key.
    pub key: UpstreamKeyId,
    /// When the store first heard of it.
    pub first_seen: SystemTime,
    /// Attempts so far, on all nodes.
    pub total: u64,
    /// Attempts that failed, on all nodes.
    pub failed: u64,
    /// When it was last used.
    pub last_used: Option<SystemTime>,
    /// An operator switched it off.
    pub disabled: bool,
    /// What keeps it from serving.
    pub marks: KeyMarks,
    /// The change that last cleared its cooldowns; 0: none did.
    pub reset_at: Revision,
    /// The change that last changed this record; 0: only its use was recorded.
    pub revision: Revision,
    /// Its quota, if the provider ever reported it.
    pub quota: Option<Quota>,
}

impl KeyRecord {
    /// The record of a key of which nothing is known yet.
    pub fn first_seen(key: UpstreamKeyId, now: SystemTime) -> Self {
        Self {
            key,
            first_seen: now,
            total: 0,
            failed: 0,
            last_used: None,
            disabled: false,
            marks: KeyMarks::default(),
            reset_at: 0,
            revision: 0,
            quota: None,
        }
    }
}

/// What keeps a key from serving, or did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyMarks {
    /// The provider does not accept it.
    pub invalid: bool,
    /// A call with it went well at some time.
    pub has_served: bool,
    /// Its quota group has no quota left until then.
    pub exhausted_until: Option<SystemTime>,
    /// Its cooldowns and those of its quota group, for single models.
    pub cooldowns: Vec<KeyCooldown>,
}

/// One cooldown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyCooldown {
    /// The model; empty where calls name none.
    pub model: Arc<str>,
    /// When it ends.
    pub until: SystemTime,
    /// The name of the class that caused it, as in [`Class::as_str`](crate::fault::Class::as_str).
    pub class: Arc<str>,
    /// It is the whole quota group's, not this key's alone.
    pub of_group: bool,
}

/// The quota of a key as its provider reported it.
#[derive(Clone, Debug, PartialEq)]
pub struct Quota {
    /// What is left, in `unit`; `None`: unlimited, or not reported.
    pub remaining: Option<f64>,
    /// What the plan allows for its period, in `unit`; `None`: unlimited, or not reported.
    pub limit: Option<f64>,
    /// `credits`, or a currency such as `USD`.
    pub unit: Arc<str>,
    /// When the provider reported it.
    pub refreshed_at: SystemTime,
    /// Why the newest refresh failed, as a code; `None`: it did not.
    pub error: Option<Arc<str>>,
}

/// A change of what is known of a key, which other nodes follow.
#[derive(Clone, Debug, PartialEq)]
pub struct KeyStateChange {
    /// The key.
    pub key: UpstreamKeyId,
    /// Switches it off or on; `None`: as it is.
    pub disabled: Option<bool>,
    /// What becomes of its marks.
    pub marks: MarksChange,
    /// What a refresh of its quota found; `None`: there was none.
    pub quota: Option<QuotaChange>,
}

/// What becomes of a key's marks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MarksChange {
    /// Nothing.
    #[default]
    Keep,
    /// `invalid` and `exhausted` end, cooldowns stay.
    Recovered,
    /// Only `invalid` ends.
    Valid,
    /// The provider does not accept the key.
    Invalid,
    /// `invalid`, `exhausted` and all cooldowns end.
    Cleared,
}

/// What a refresh of a key's quota found.
#[derive(Clone, Debug, PartialEq)]
pub struct QuotaChange {
    /// The figures, or why there are none, as a code. With a code, the last figures stay.
    pub outcome: Result<Quota, Arc<str>>,
    /// When the provider was asked; `None`: it was not.
    pub asked_at: Option<SystemTime>,
}

/// What a node has counted and noted of a key since its last flush.
#[derive(Clone, Debug, PartialEq)]
pub struct KeyUse {
    /// The key.
    pub key: UpstreamKeyId,
    /// Further attempts.
    pub total: u64,
    /// Further attempts that failed.
    pub failed: u64,
    /// When it was last used.
    pub last_used: Option<SystemTime>,
    /// Its marks that have changed on this node; `None`: none has.
    pub marks: Option<NewMarks>,
}

/// Marks of a key that have changed on a node. Those that have not may have changed on another one, and stay.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewMarks {
    /// See [`KeyMarks::invalid`]; `None`: unchanged. The others likewise.
    pub invalid: Option<bool>,
    /// See [`KeyMarks::has_served`].
    pub has_served: Option<bool>,
    /// See [`KeyMarks::exhausted_until`]; `Some(None)`: it has quota again.
    pub exhausted_until: Option<Option<SystemTime>>,
    /// See [`KeyMarks::cooldowns`]. All of them, if one has changed.
    pub cooldowns: Option<Vec<KeyCooldown>>,
}

impl NewMarks {
    /// Of `marks`, those that differ from `saved`; `None`: none does.
    pub fn since(saved: &KeyMarks, marks: KeyMarks) -> Option<Self> {
        let new = Self {
            invalid: (marks.invalid != saved.invalid).then_some(marks.invalid),
            has_served: (marks.has_served != saved.has_served).then_some(marks.has_served),
            exhausted_until: (marks.exhausted_until != saved.exhausted_until)
                .then_some(marks.exhausted_until),
            cooldowns: (marks.cooldowns != saved.cooldowns).then_some(marks.cooldowns),
        };
        (new != Self::default()).then_some(new)
    }

    /// Puts them in the place of those in `marks`.
    pub fn apply(&self, marks: &mut KeyMarks) {
        marks.invalid = self.invalid.unwrap_or(marks.invalid);
        marks.has_served = self.has_served.unwrap_or(marks.has_served);
        marks.exhausted_until = self.exhausted_until.unwrap_or(marks.exhausted_until);
        if let Some(cooldowns) = &self.cooldowns {
            marks.cooldowns.clone_from(cooldowns);
        }
    }

    /// Takes over what has changed later.
    pub fn merge(&mut self, later: &Self) {
        self.invalid = later.invalid.or(self.invalid);
        self.has_served = later.has_served.or(self.has_served);
        self.exhausted_until = later.exhausted_until.or(self.exhausted_until);
        if later.cooldowns.is_some() {
            self.cooldowns.clone_from(&later.cooldowns);
        }
    }
}

impl From<KeyMarks> for NewMarks {
    fn from(marks: KeyMarks) -> Self {
        Self {
            invalid: Some(marks.invalid),
            has_served: Some(marks.has_served),
            exhausted_until: Some(marks.exhausted_until),
            cooldowns: Some(marks.cooldowns),
        }
    }
}
