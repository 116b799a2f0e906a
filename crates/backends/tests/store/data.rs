//! What tests store.

use std::time::{Duration, Instant, SystemTime};

use keypool_core::secret::{Digest256, Secret};
use keypool_core::store::{
    AuditEntry, Change, Expected, Flush, KeyStateChange, KeyUse, MarksChange, NewKey,
    NewVirtualKey, Quota, QuotaChange, Store, StoreError, StoreErrorKind, UpstreamKeyId,
};

/// Seconds after the beginning of a day in 2026.
pub(crate) fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_784_160_000 + seconds)
}

#[expect(
    clippy::disallowed_methods,
    reason = "the database has a clock of its own"
)]
pub(crate) fn now() -> SystemTime {
    SystemTime::now()
}

#[expect(
    clippy::disallowed_methods,
    reason = "the time that a real server takes"
)]
pub(crate) fn instant() -> Instant {
    Instant::now()
}

pub(crate) fn audit(action: &'static str, at: SystemTime) -> AuditEntry {
    AuditEntry {
        at,
        actor: "admin",
        source: "192.0.2.1".to_owned(),
        action,
        target: "pools/p".to_owned(),
        details: "{\"n\":1}".to_owned(),
    }
}

/// Makes a change at the second 1,000.
pub(crate) async fn change(store: &dyn Store, change: Change) -> Result<u64, StoreError> {
    store.change(&change, &audit("test", at(1_000))).await
}

pub(crate) fn kind<T: std::fmt::Debug>(result: Result<T, StoreError>) -> StoreErrorKind {
    result.unwrap_err().kind
}

pub(crate) fn put_pool(name: &str, settings: &str, expected: Expected) -> Change {
    Change::PutPool {
        name: name.into(),
        settings: settings.to_owned(),
        expected,
    }
}

pub(crate) fn new_key(name: &str, secret: &str) -> NewKey {
    NewKey {
        name: name.into(),
        secret: Secret::new(secret),
        bound_to: "https://api.example.com".to_owned(),
        settings: "{\"tier\":\"free\"}".to_owned(),
    }
}

pub(crate) fn add_keys(pool: &str, keys: &[(&str, &str)]) -> Change {
    let keys = keys
        .iter()
        .map(|(name, secret)| new_key(name, secret))
        .collect();
    Change::AddKeys {
        pool: pool.into(),
        pool_is_stored: false,
        keys,
    }
}

pub(crate) fn virtual_key(name: &str, hashed: &str) -> NewVirtualKey {
    NewVirtualKey {
        name: name.into(),
        hash: Digest256::of(hashed.as_bytes()),
        hint: format!("kp-…{name}"),
        webhook_secret: None,
        settings: "{\"rpm\":1}".to_owned(),
    }
}

pub(crate) fn upstream(secret: &str) -> UpstreamKeyId {
    UpstreamKeyId {
        provider: "tavily".into(),
        origin: "https://api.tavily.com:443".into(),
        digest: Secret::new(secret).digest(),
    }
}

pub(crate) fn state_change(secret: &str) -> KeyStateChange {
    KeyStateChange {
        key: upstream(secret),
        disabled: None,
        marks: MarksChange::Keep,
        quota: None,
    }
}

pub(crate) fn quota(remaining: f64, refreshed_at: SystemTime) -> Quota {
    Quota {
        remaining: Some(remaining),
        limit: Some(1_000.0),
        unit: "credits".into(),
        refreshed_at,
        error: None,
    }
}

/// The quota was asked for at `asked_at`, and told.
pub(crate) fn told(secret: &str, remaining: f64, asked_at: SystemTime) -> KeyStateChange {
    let outcome = Ok(quota(remaining, asked_at));
    KeyStateChange {
        quota: Some(QuotaChange {
            outcome,
            asked_at: Some(asked_at),
        }),
        ..state_change(secret)
    }
}

pub(crate) fn key_use(secret: &str, total: u64, failed: u64) -> KeyUse {
    KeyUse {
        key: upstream(secret),
        total,
        failed,
        last_used: None,
        marks: None,
    }
}

pub(crate) fn flush(node: u64, number: u64) -> Flush {
    Flush {
        node,
        number,
        followed: u64::MAX,
        ..Flush::default()
    }
}
