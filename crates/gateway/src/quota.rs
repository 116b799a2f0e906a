//! Refreshes what is known of the quota of keys: all providers are asked at once, and the results are stored in one
//! transaction. A refresh that runs already is joined.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::StreamExt;
use futures_util::stream;
use keypool_core::key::Key;
use keypool_core::pool::MemberRef;
use keypool_core::store::{
    AuditEntry, KeyStateChange, MarksChange, Quota, QuotaChange, StoreError, StoreErrorKind,
    UpstreamKeyId,
};
use keypool_providers::quota::{Allowance, QuotaFigures};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::context::Gateway;
use crate::free_call::{self, FreeCallError};
use crate::key_checks::CheckResult;
use crate::quota_refreshes::{RefreshReport, RefreshResult, RefreshedKey, Running};
use crate::snapshot::PoolEntry;
use crate::stored::Access;

/// Maximum number of providers' responses that are waited for at once.
const CONCURRENCY: usize = 256;
/// How long each call may take.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Time between two scheduled refreshes. Tavily allows ten calls of a key in ten minutes; this leaves most of them to
/// operators.
const EVERY: Duration = Duration::from_secs(600);
/// A scheduled refresh leaves out keys that were refreshed within this time, by any node.
const FRESH: Duration = Duration::from_secs(300);
/// The code of a key whose allowance of such calls is spent.
const ALLOWANCE_SPENT: &str = "refresh_allowance_spent";
/// The code of a key whose provider did not respond in time.
const TIMED_OUT: &str = "upstream_timeout";

/// A key to be refreshed, as one of its pools has it.
struct Target {
    key: Arc<Key>,
    entry: Arc<PoolEntry>,
    member: MemberRef,
}

/// A key in a pool.
struct Place {
    pool: Arc<str>,
    name: Arc<str>,
    /// The index of its target.
    target: usize,
}

/// What asking a provider brought.
enum Outcome {
    /// It was not asked: the allowance is spent.
    NotAsked,
    /// It did not respond in time.
    TimedOut { asked_at: SystemTime },
    Responded {
        asked_at: SystemTime,
        result: Result<QuotaFigures, FreeCallError>,
    },
}

impl Gateway {
    /// Asks the providers of all keys of these pools, except keys that are switched off, and waits for the result. The
    /// refresh goes on if the caller leaves.
    pub(crate) async fn refresh_quota(
        self: &Arc<Self>,
        pools: Vec<Arc<PoolEntry>>,
        audit: Option<AuditEntry>,
    ) -> RefreshResult {
        let names: Vec<Arc<str>> = pools
            .iter()
            .map(|entry| Arc::clone(entry.pool.name()))
            .collect();
        let mut result = self.join_refresh(&names, pools, audit);
        let finished = result.wait_for(Option::is_some).await;
        let result = finished.ok().and_then(|result| result.clone());
        let lost = || {
            Err(Arc::new(StoreError::new(
                StoreErrorKind::Internal,
                "the refresh ended unexpectedly; the log has the details",
            )))
        };
        let report = result.unwrap_or_else(lost)?;
        if report.keys.iter().all(|key| names.contains(&key.pool)) {
            return Ok(report);
        }
        let mut own = RefreshReport::clone(&report);
        own.keys.retain(|key| names.contains(&key.pool));
        Ok(Arc::new(own))
    }

    /// Asks for the quota of one key, which also shows whether it works.
    pub(crate) async fn refresh_key(
        &self,
        entry: &Arc<PoolEntry>,
        member: &MemberRef,
        audit: Option<&AuditEntry>,
    ) -> Result<CheckResult, StoreError> {
        let is_it = |other: &MemberRef| Arc::ptr_eq(&other.key, &member.key);
        let pools = std::slice::from_ref(entry);
        let report = self.refresh(pools, audit, is_it).await?;
        let not_found = CheckResult::Unknown("not_found".into());
        let key = report.keys.into_iter().next();
        Ok(key.map_or(not_found, |key| key.check))
    }

    /// The result of a refresh of these pools: one that runs already, or a new one.
    fn join_refresh(
        self: &Arc<Self>,
        names: &[Arc<str>],
        pools: Vec<Arc<PoolEntry>>,
        audit: Option<AuditEntry>,
    ) -> watch::Receiver<Option<RefreshResult>> {
        let mut running = self.quota.running.lock();
        running.retain(|one| one.result.borrow().is_none() && one.result.has_changed().is_ok());
        let covers = |one: &&Running| names.iter().all(|name| one.pools.contains(name));
        if let Some(one) = running.iter().find(covers).filter(|_| !names.is_empty()) {
            return one.result.clone();
        }
        let (sender, result) = watch::channel(None);
        running.push(Running {
            pools: names.to_vec(),
            result: result.clone(),
        });
        let gw = Arc::clone(self);
        self.tasks.spawn(async move {
            let refreshed = gw.refresh(&pools, audit.as_ref(), |_| true).await;
            let _ = sender.send(Some(refreshed.map(Arc::new).map_err(Arc::new)));
        });
        result
    }

    async fn refresh(
        &self,
        pools: &[Arc<PoolEntry>],
        audit: Option<&AuditEntry>,
        is_due: impl Fn(&MemberRef) -> bool,
    ) -> Result<RefreshReport, StoreError> {
        let began = self.clock.now();
        let (targets, places) = targets(pools, is_due);
        // Where such calls are limited, the next refresh must know of those of this one.
        let has_limited = targets.iter().any(Target::is_limited);
        let _one_at_a_time = match has_limited {
            true => Some(self.quota.limited.lock().await),
            false => None,
        };
        let calls = self.past_calls(&targets).await?;
        let now = self.clock.wall();
        let mut asking = Vec::with_capacity(targets.len());
        for (index, target) in targets.iter().enumerate() {
            let past = calls.get(&UpstreamKeyId::from(&target.key.id));
            let allowance = target.entry.dialect.quota.and_then(|call| call.allowance);
            let asked = self.ask(target, may_ask(allowance, past, now));
            asking.push(async move { (index, asked.await) });
        }
        // One that hangs holds up no other.
        let asking = stream::iter(asking).buffer_unordered(CONCURRENCY);
        let mut outcomes: Vec<(usize, Outcome)> = asking.collect().await;
        outcomes.sort_by_key(|(index, _)| *index);
        let changes: Vec<KeyStateChange> = outcomes
            .iter()
            .map(|(index, outcome)| change(&targets[*index], outcome))
            .collect();
        if !changes.is_empty() {
            self.change_key_states(&changes, audit).await?;
        }
        for (target, change) in targets.iter().zip(&changes) {
            self.apply_quota(target, change);
        }
        let duration = self.clock.now().saturating_duration_since(began);
        let keys: Vec<RefreshedKey> = places
            .into_iter()
            .map(|place| {
                let (change, outcome) = (&changes[place.target], &outcomes[place.target].1);
                self.refreshed(&place, change, outcome)
            })
            .collect();
        let failed = keys.iter().filter(|key| key.error.is_some()).count();
        self.telemetry
            .quota_refreshed(keys.len() - failed, failed, duration);
        Ok(RefreshReport { duration, keys })
    }

    /// When the providers of these keys were asked before, where that is limited. One query for all of them.
    async fn past_calls(
        &self,
        targets: &[Target],
    ) -> Result<HashMap<UpstreamKeyId, Vec<SystemTime>>, StoreError> {
        let limited = targets.iter().filter(|target| target.is_limited());
        let keys: Vec<UpstreamKeyId> = limited.map(|target| (&target.key.id).into()).collect();
        if keys.is_empty() {
            return Ok(HashMap::new());
        }
        let calls = self.stored.store()?.quota_calls(&keys).await;
        Ok(self.note_store(Access::Read, calls)?.into_iter().collect())
    }

    async fn ask(&self, target: &Target, may_ask: bool) -> Outcome {
        if !may_ask {
            return Outcome::NotAsked;
        }
        let asked_at = self.clock.wall();
        let asking = free_call::quota(self, &target.entry, &target.member);
        match timeout(TIMEOUT, asking).await {
            Ok(result) => Outcome::Responded { asked_at, result },
            Err(_) => Outcome::TimedOut { asked_at },
        }
    }

    /// Applies to the key what was found.
    fn apply_quota(&self, target: &Target, change: &KeyStateChange) {
        self.apply_marks(&target.entry, &target.member, change.marks);
        let Some(found) = &change.quota else {
            return;
        };
        let now = self.clock.wall();
        self.stored
            .records
            .change(&change.key, now, |record| match &found.outcome {
                Ok(quota) => record.quota = Some(quota.clone()),
                Err(code) => {
                    if let Some(quota) = &mut record.quota {
                        quota.error = Some(Arc::clone(code));
                    }
                }
            });
    }

    fn refreshed(&self, place: &Place, change: &KeyStateChange, outcome: &Outcome) -> RefreshedKey {
        let record = self.stored.records.get(&change.key);
        let found = change.quota.as_ref().map(|quota| &quota.outcome);
        RefreshedKey {
            pool: Arc::clone(&place.pool),
            name: Arc::clone(&place.name),
            quota: record.and_then(|record| record.quota),
            error: found.and_then(|found| found.as_ref().err().cloned()),
            check: outcome.check(),
        }
    }
}

/// The distinct keys of the pools, and where each of them is.
fn targets(
    pools: &[Arc<PoolEntry>],
    is_due: impl Fn(&MemberRef) -> bool,
) -> (Vec<Target>, Vec<Place>) {
    let (mut targets, mut places) = (Vec::new(), Vec::new());
    let mut known: HashMap<*const Key, usize> = HashMap::new();
    for entry in pools {
        for member in entry.pool.keys().all() {
            if member.is_disabled() || !is_due(&member) {
                continue;
            }
            let index = *known.entry(Arc::as_ptr(&member.key)).or_insert_with(|| {
                targets.push(Target {
                    key: Arc::clone(&member.key),
                    entry: Arc::clone(entry),
                    member: member.clone(),
                });
                targets.len() - 1
            });
            places.push(Place {
                pool: Arc::clone(entry.pool.name()),
                name: Arc::clone(&member.name),
                target: index,
            });
        }
    }
    (targets, places)
}

/// Whether the allowance of a key has room for one more call.
fn may_ask(allowance: Option<Allowance>, past: Option<&Vec<SystemTime>>, now: SystemTime) -> bool {
    let (Some(allowance), Some(past)) = (allowance, past) else {
        return true;
    };
    let is_recent = |at: &&SystemTime| {
        now.duration_since(**at)
            .is_ok_and(|age| age < allowance.per)
    };
    past.iter().filter(is_recent).count() < allowance.calls as usize
}

impl Target {
    /// Whether its provider limits such calls.
    fn is_limited(&self) -> bool {
        let quota = self.entry.dialect.quota;
        quota.is_some_and(|call| call.allowance.is_some())
    }
}

impl Outcome {
    /// What it says about the key.
    fn check(&self) -> CheckResult {
        match self {
            Self::NotAsked => CheckResult::Unknown(ALLOWANCE_SPENT.into()),
            Self::TimedOut { .. } => CheckResult::Unknown(TIMED_OUT.into()),
            Self::Responded { result: Ok(_), .. } => CheckResult::Works,
            Self::Responded {
                result: Err(error), ..
            } => error.check(),
        }
    }
}

/// What the outcome changes.
fn change(target: &Target, outcome: &Outcome) -> KeyStateChange {
    let (marks, found, asked_at) = match outcome {
        Outcome::NotAsked => (MarksChange::Keep, Err(ALLOWANCE_SPENT.into()), None),
        Outcome::TimedOut { asked_at } => {
            (MarksChange::Keep, Err(TIMED_OUT.into()), Some(*asked_at))
        }
        Outcome::Responded { asked_at, result } => {
            let (marks, found) = read(result, *asked_at);
            (marks, found, Some(*asked_at))
        }
    };
    KeyStateChange {
        key: (&target.key.id).into(),
        disabled: None,
        marks,
        quota: Some(QuotaChange {
            outcome: found,
            asked_at,
        }),
    }
}

/// What a response means for the key, and its figures or why there are none, as a code.
fn read(
    result: &Result<QuotaFigures, FreeCallError>,
    asked_at: SystemTime,
) -> (MarksChange, Result<Quota, Arc<str>>) {
    let figures = match result {
        Ok(figures) => figures,
        Err(error) => {
            let marks = match error.check() {
                CheckResult::Rejected => MarksChange::Invalid,
                _ => MarksChange::Keep,
            };
            return (marks, Err(error.code().into()));
        }
    };
    // Without a figure nothing is known of what is left: a key without a limit may belong to an empty account.
    let has_quota = figures.remaining.is_some_and(|left| left > 0.0);
    let marks = match has_quota {
        true => MarksChange::Recovered,
        false => MarksChange::Valid,
    };
    (marks, Ok(quota(figures, asked_at)))
}

fn quota(figures: &QuotaFigures, at: SystemTime) -> Quota {
    Quota {
        remaining: figures.remaining,
        limit: figures.limit,
        unit: Arc::clone(&figures.unit),
        refreshed_at: at,
        error: None,
    }
}

/// Refreshes the quota of all keys whose provider reports it, every ten minutes.
pub(crate) async fn refresh_regularly(gw: &Arc<Gateway>) -> Infallible {
    loop {
        // At another time on each node.
        sleep(EVERY.mul_f64(0.8 + 0.4 * fastrand::f64())).await;
        let snapshot = gw.snapshot();
        let reporting = snapshot
            .pools
            .iter()
            .filter(|entry| entry.dialect.quota.is_some());
        let pools: Vec<Arc<PoolEntry>> = reporting.cloned().collect();
        let now = gw.clock.wall();
        let is_due = |member: &MemberRef| {
            let record = gw.stored.records.get(&UpstreamKeyId::from(&member.key.id));
            let at = record.and_then(|record| Some(record.quota?.refreshed_at));
            at.is_none_or(|at| now.duration_since(at).is_ok_and(|age| age >= FRESH))
        };
        // What failed is logged, and tried again the next time.
        let _ = gw.refresh(&pools, None, is_due).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_calls_in_ten_minutes_are_allowed() {
        let allowance = Some(Allowance {
            calls: 10,
            per: Duration::from_secs(600),
        });
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let ago = |seconds| now - Duration::from_secs(seconds);
        let nine: Vec<SystemTime> = (1..10).map(ago).collect();
        let with = |at: SystemTime| Some([nine.clone(), vec![at]].concat());
        assert!(may_ask(allowance, None, now));
        assert!(may_ask(allowance, Some(&nine), now));
        assert!(!may_ask(allowance, with(ago(599)).as_ref(), now));
        assert!(may_ask(allowance, with(ago(600)).as_ref(), now));
        assert!(may_ask(None, with(ago(1)).as_ref(), now));
    }
}
