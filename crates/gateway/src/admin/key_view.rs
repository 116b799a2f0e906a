//! A key as the admin API shows it, and what is known of its age and quota.

use std::collections::HashMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use keypool_core::clock::Moment;
use keypool_core::pool::{CooldownReport, KeyReport, MemberRef};
use keypool_core::settings::STORE;
use keypool_core::store::{Catalog, KeyRecord, Quota, StoredKey, UpstreamKeyId};
use serde::Serialize;
use utoipa::ToSchema;

use super::format::{amount, rfc3339, success_rate};
use crate::context::Gateway;
use crate::resources::KeyFields;

/// Age from which a key should be replaced, in days.
const ROTATION_DAYS: u64 = 90;

/// A key. Its secret is not shown.
#[derive(Serialize, ToSchema)]
#[schema(as = Key)]
pub(super) struct KeyView {
    /// Its name, unique in its pool.
    pub(super) name: String,
    /// The pool's name.
    pool: String,
    /// What may be shown of its secret.
    #[schema(example = "sk-…ab12")]
    key: String,
    /// Where it comes from, and so where it is changed: the configuration file's name, `environment` or `store`.
    pub(super) source: String,
    /// Why a stored key is not in effect, as a code; absent if it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    inactive: Option<&'static str>,
    /// When it was created; absent if it is declared.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    created_at: Option<String>,
    /// When it was last changed; absent if it is declared.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    updated_at: Option<String>,
    #[serde(flatten)]
    fields: KeyFields,
    #[serde(flatten)]
    stats: KeyStats,
}

/// The statistics of one key. The first six fields are stable.
#[derive(Serialize, ToSchema)]
pub(super) struct KeyStats {
    /// Calls in flight.
    active_requests: u32,
    /// Attempts so far.
    total_requests: u64,
    /// Attempts that failed.
    failed_requests: u64,
    /// Per cent, one decimal.
    success_rate: f64,
    /// Whether it could take a request now.
    is_available: bool,
    /// When it was last used; null if it never was.
    #[schema(required, format = DateTime)]
    last_used: Option<String>,
    /// `active`, `cooling`, `exhausted`, `invalid`, `disabled`, or `inactive` if it is stored and not in effect.
    state: &'static str,
    /// What it must not be asked for now.
    cooldowns: Vec<CooldownView>,
    #[serde(flatten)]
    facts: KeyFacts,
}

/// A time in which a key must not be asked for something.
#[derive(Serialize, ToSchema)]
#[schema(as = Cooldown)]
pub(super) struct CooldownView {
    /// The model; null if it applies to all models.
    #[schema(required)]
    model: Option<String>,
    /// When it ends.
    #[schema(format = DateTime)]
    until: String,
    /// What caused it.
    class: &'static str,
}

/// The age and quota of a key.
#[derive(Default, Serialize, ToSchema)]
pub(super) struct KeyFacts {
    /// Days since its secret was set, or was first seen if it is declared; null while the store is not loaded.
    #[schema(required)]
    age_days: Option<u64>,
    /// It is 90 days old or older, and should be replaced.
    rotation_due: bool,
    /// What is left of its quota, in `quota_unit`; null: unlimited, or not known.
    #[schema(required)]
    #[serde(serialize_with = "amount")]
    remaining_quota: Option<f64>,
    /// What its plan allows; null: unlimited, or not known.
    #[schema(required)]
    #[serde(serialize_with = "amount")]
    plan_limit: Option<f64>,
    /// `credits`, or a currency; null: not known.
    #[schema(required)]
    quota_unit: Option<String>,
    /// When the provider reported the quota; null: never.
    #[schema(required, format = DateTime)]
    quota_refreshed_at: Option<String>,
    /// Why the newest refresh failed, as a code; null: it did not.
    #[schema(required)]
    quota_error: Option<String>,
}

/// What is known of keys beside their state, to be looked up by pool and name.
pub(super) struct KnownKeys<'a> {
    gw: &'a Gateway,
    stored: HashMap<(&'a str, &'a str), &'a StoredKey>,
    moment: Moment,
}

impl<'a> KnownKeys<'a> {
    /// What `catalog` and the records say.
    pub(super) fn of(gw: &'a Gateway, catalog: Option<&'a Catalog>) -> Self {
        let keys = catalog.map_or(&[][..], |catalog| &catalog.keys);
        let by_name = keys.iter().map(|key| ((&*key.pool, &*key.name), key));
        Self {
            gw,
            stored: by_name.collect(),
            moment: Moment::of(&*gw.clock),
        }
    }

    /// The stored key of that name.
    pub(super) fn stored(&self, pool: &str, name: &str) -> Option<&'a StoredKey> {
        self.stored.get(&(pool, name)).copied()
    }

    /// The state and counters of a key in effect.
    pub(super) fn stats(&self, pool: &str, member: &MemberRef) -> KeyStats {
        let facts = self.facts(pool, member);
        KeyStats::of(member.report(&self.moment), facts, &self.moment)
    }

    fn facts(&self, pool: &str, member: &MemberRef) -> KeyFacts {
        let record = self
            .gw
            .stored
            .records
            .get(&UpstreamKeyId::from(&member.key.id));
        let is_stored = member.keys().settings().keys[member.index()].is_stored;
        let stored = self
            .stored
            .get(&(pool, &*member.name))
            .filter(|_| is_stored);
        self.facts_of(record.as_ref(), stored.map(|key| key.secret_set_at))
    }

    fn facts_of(&self, record: Option<&KeyRecord>, set_at: Option<SystemTime>) -> KeyFacts {
        // A key without a record is stored with the next flush, as first seen now.
        let is_loaded = self.gw.stored.catalog().is_some();
        let first_seen = record.map(|record| record.first_seen);
        let since = set_at
            .or(first_seen)
            .or(is_loaded.then_some(self.moment.wall));
        let age = since.map(|at| self.moment.wall.duration_since(at).unwrap_or_default());
        let age_days = age.map(|age| age.as_secs() / 86_400);
        let facts = KeyFacts {
            age_days,
            rotation_due: age_days.is_some_and(|days| days >= ROTATION_DAYS),
            ..KeyFacts::default()
        };
        match record.and_then(|record| record.quota.as_ref()) {
            Some(quota) => facts.with_quota(quota),
            None => facts,
        }
    }

    /// A key in effect.
    pub(super) fn show(&self, pool: &str, member: &MemberRef) -> KeyView {
        let keys = member.keys();
        let settings = &keys.settings().keys[member.index()];
        let stored = self
            .stored
            .get(&(pool, &*member.name))
            .filter(|_| settings.is_stored);
        let source = match settings.is_stored {
            true => STORE,
            false => &keys.settings().source,
        };
        KeyView {
            name: member.name.to_string(),
            pool: pool.to_owned(),
            key: settings.secret.hint(),
            source: source.to_owned(),
            inactive: None,
            created_at: stored.map(|key| rfc3339(key.created_at)),
            updated_at: stored.map(|key| rfc3339(key.updated_at)),
            fields: KeyFields::of(settings),
            stats: self.stats(pool, member),
        }
    }

    /// A stored key that is not in effect.
    pub(super) fn show_inactive(&self, key: &StoredKey, reason: &'static str) -> KeyView {
        KeyView {
            name: key.name.to_string(),
            pool: key.pool.to_string(),
            key: key.secret.hint(),
            source: STORE.to_owned(),
            inactive: Some(reason),
            created_at: Some(rfc3339(key.created_at)),
            updated_at: Some(rfc3339(key.updated_at)),
            fields: serde_json::from_str(&key.settings).unwrap_or_default(),
            stats: KeyStats::inactive(self.facts_of(None, Some(key.secret_set_at))),
        }
    }
}

impl KeyFacts {
    fn with_quota(self, quota: &Quota) -> Self {
        Self {
            remaining_quota: quota.remaining,
            plan_limit: quota.limit,
            quota_unit: Some(quota.unit.to_string()).filter(|unit| !unit.is_empty()),
            quota_refreshed_at: Some(rfc3339(quota.refreshed_at)),
            quota_error: quota.error.as_deref().map(str::to_owned),
            ..self
        }
    }
}

impl KeyStats {
    pub(super) fn of(key: KeyReport, facts: KeyFacts, moment: &Moment) -> Self {
        let at = |ms| rfc3339(UNIX_EPOCH + Duration::from_millis(ms));
        Self {
            active_requests: key.active,
            total_requests: key.total,
            failed_requests: key.failed,
            success_rate: success_rate(key.total, key.failed),
            is_available: key.is_available,
            last_used: key.last_used_ms.map(at),
            state: key.state.as_str(),
            cooldowns: CooldownView::all(key.cooldowns, moment),
            facts,
        }
    }

    /// The statistics of a stored key that is not in effect.
    pub(super) fn inactive(facts: KeyFacts) -> Self {
        Self {
            active_requests: 0,
            total_requests: 0,
            failed_requests: 0,
            success_rate: success_rate(0, 0),
            is_available: false,
            last_used: None,
            state: "inactive",
            cooldowns: Vec::new(),
            facts,
        }
    }
}

impl CooldownView {
    fn all(cooldowns: Vec<CooldownReport>, moment: &Moment) -> Vec<Self> {
        let view = |cooldown: CooldownReport| Self {
            model: cooldown
                .model
                .filter(|model| !model.is_empty())
                .map(|model| model.to_string()),
            until: rfc3339(moment.date(cooldown.until)),
            class: cooldown.class.as_str(),
        };
        cooldowns.into_iter().map(view).collect()
    }
}
