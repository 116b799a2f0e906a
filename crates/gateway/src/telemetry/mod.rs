//! What the gateway tells its operator: one method per event, so that its wording and fields are in one place. Only
//! the line at the end of a request is written elsewhere, by the request's own record.
//!
//! No event carries a secret. Keys are named by number and name, and text from outside passes through [`redact`] first.

mod health;
mod redact;
mod throttle;

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use keypool_core::fault::{Class, Fault};
use keypool_core::pool::{Effect, MemberRef, Pool};
use keypool_core::store::{ClaimedWebhook, StoreError, WebhookOutcome};
use tracing::{debug, error, info, warn};

pub(crate) use health::no_failover;
pub(crate) use redact::{redact, redact_any};

use crate::reload::Changes;
use crate::snapshot::Snapshot;
use crate::stored::{Access, Inactive};
use crate::traces::NoKeyReason;
use health::HealthMonitor;
use throttle::LogThrottle;

/// The handle through which every part reports events.
#[derive(Default)]
pub(crate) struct Telemetry {
    /// The condition of the pools, which is logged when it changes.
    pub(crate) health: HealthMonitor,
    /// Trouble with accepting comes many times a second.
    accept: LogThrottle,
    /// A provider that redirects does so for every call.
    redirect: LogThrottle,
}

impl Telemetry {
    /// At start: where it listens, and how many keys each pool has.
    pub(crate) fn started(&self, addr: SocketAddr, snapshot: &Snapshot) {
        for entry in &snapshot.pools {
            let current = entry.pool.current();
            let settings = current.settings();
            let keys = settings.keys.len();
            let (pool, provider, source) = (&*settings.name, settings.provider, &*settings.source);
            info!(pool, provider, keys, source, "pool loaded");
        }
        info!(address = %addr, pools = snapshot.pools.len(), "listening on http://{addr}");
    }

    /// A connection could not be accepted. It is tried again.
    pub(crate) fn accept_failed(&self, error: &std::io::Error) {
        if self.accept.is_due() {
            error!(%error, "a connection could not be accepted and waits: raise the limit of open files if too many are open");
        }
    }

    /// The maximum number of connections is open, and another one waits.
    pub(crate) fn connection_limit_reached(&self) {
        if self.accept.is_due() {
            warn!(
                "the maximum number of connections is open, and more wait: raise the hard limit of open files (ulimit -Hn, LimitNOFILE=)"
            );
        }
    }

    /// A client read too slowly, and its connection was closed.
    pub(crate) fn client_too_slow(&self, peer: SocketAddr) {
        warn!(
            client = %peer.ip(),
            "a client read too slowly and held a key's slot: its connection was closed"
        );
    }

    /// A certificate of the system, or of `SSL_CERT_FILE`, cannot be read and is not trusted.
    pub(crate) fn roots_unreadable(&self, error: &rustls_native_certs::Error) {
        warn!(%error, "certificates of the system or of SSL_CERT_FILE or SSL_CERT_DIR cannot be read, and are not trusted");
    }

    /// A reload took effect.
    pub(crate) fn reloaded(&self, changes: &Changes) {
        info!(
            added = ?List(&changes.pools_added),
            removed = ?List(&changes.pools_removed),
            changed = ?List(&changes.pools_changed),
            sections = ?List(&changes.sections_changed),
            "configuration reloaded"
        );
        for warning in &changes.warnings {
            warn!("{warning}");
        }
    }

    /// A reload was rejected; the old configuration stays.
    pub(crate) fn reload_rejected(&self, errors: &[String]) {
        for error in errors {
            error!("configuration rejected, the old one stays: {error}");
        }
    }

    /// An attempt failed, and `next` is what follows.
    pub(crate) fn attempt_failed(&self, request_id: &str, failed: &FailedAttempt, next: NextStep) {
        let effect = &failed.effect;
        let (number, attempt, of) = (failed.key.index() + 1, failed.attempt, failed.max_attempts);
        let key_name = &*failed.key.name;
        let (next, words) = next.describe();
        let class = failed.fault.class.as_str();
        let cooldown_s = effect
            .cooldown
            .map(|cooldown| (cooldown + Duration::from_millis(500)).as_secs());
        warn!(
            request_id,
            pool = &**failed.pool.name(),
            key = number,
            key_name,
            attempt,
            of,
            class,
            status = failed.status,
            code = failed.fault.code.as_deref(),
            model = &*failed.model,
            cooldown_s,
            ejected = effect.ejected,
            reason = failed.reason,
            next,
            "attempt {attempt} of {of} failed with key {number} \"{key_name}\": {class}; {words}",
        );
    }

    /// A key was ejected, since its failures are its own: other groups served the same requests.
    pub(crate) fn ejected(&self, pool: &Pool, key: &MemberRef, cooldown: Duration) {
        let (number, key_name) = (key.index() + 1, &*key.name);
        warn!(
            pool = &**pool.name(),
            key = number,
            key_name,
            cooldown_s = cooldown.as_secs(),
            ejected = true,
            "key {number} \"{key_name}\" is ejected: it fails where keys of other groups serve"
        );
    }

    /// A provider redirects calls. The client gets the redirect, which SDKs do not follow with their key.
    pub(crate) fn redirected(&self, pool: &Pool, location: &str) {
        if self.redirect.is_due() {
            warn!(
                pool = &**pool.name(),
                location,
                "the provider redirects calls to another address: use that address as the base URL"
            );
        }
    }

    /// A provider rejected a key that had served, and the check confirms it.
    pub(crate) fn check_failed(&self, pool: &Pool, key: &MemberRef) {
        let (number, key_name) = (key.index() + 1, &*key.name);
        error!(
            pool = &**pool.name(),
            key = number,
            key_name,
            class = Class::Rejected.as_str(),
            "key {number} \"{key_name}\" is invalid: the provider rejects a call that costs nothing too; replace or reset it"
        );
    }

    /// A key was invalid, and the provider accepts it now.
    pub(crate) fn check_passed(&self, pool: &Pool, key: &MemberRef) {
        let (number, key_name) = (key.index() + 1, &*key.name);
        info!(
            pool = &**pool.name(),
            key = number,
            key_name,
            "key {number} \"{key_name}\" recovered: the provider accepts it again"
        );
    }

    /// The quota of some keys was refreshed.
    pub(crate) fn quota_refreshed(&self, succeeded: usize, failed: usize, took: Duration) {
        let duration_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        info!(succeeded, failed, duration_ms, "quota refreshed");
    }

    /// A response failed when it was being relayed, so no other key could be tried.
    pub(crate) fn response_failed(
        &self,
        request_id: &str,
        pool: &Pool,
        key: &MemberRef,
        class: Class,
        reason: &str,
    ) {
        let (number, key_name) = (key.index() + 1, &*key.name);
        let (next, _) = NextStep::ClientInformed.describe();
        warn!(
            request_id,
            pool = &**pool.name(),
            key = number,
            key_name,
            class = class.as_str(),
            reason,
            next,
            "the response of key {number} \"{key_name}\" failed after it had begun: {reason}"
        );
    }
}

/// What concerns the store.
impl Telemetry {
    /// The store does not respond, or refuses to work. Said once, until it recovers.
    pub(crate) fn store_failed(&self, access: Access, error: &StoreError) {
        let (code, effect) = (error.kind.as_str(), access.effect());
        let access = access.as_str();
        error!(code, access, "the store fails: {error}; {effect}");
    }

    /// The store works again.
    pub(crate) fn store_recovered(&self, access: Access) {
        let access = access.as_str();
        info!(access, "the store can be used again: {access}");
    }

    /// What was read of the store could not be applied, because of a bug.
    pub(crate) fn store_not_applied(&self) {
        error!("what was read of the store could not be applied: restart keypool, and report this");
    }

    /// The process ends, and what it counted last is lost.
    pub(crate) fn not_flushed(&self) {
        error!(
            "what was counted last could not be stored before the end: the store does not respond"
        );
    }

    /// Stored resources that are in effect no longer, or never were: one line for those of a pool with the same reason.
    pub(crate) fn inactive(&self, before: &[Inactive], now: &[Inactive]) {
        let before: HashSet<&Inactive> = before.iter().collect();
        let mut news: BTreeMap<(&str, &str), Vec<&Inactive>> = BTreeMap::new();
        for one in now.iter().filter(|one| !before.contains(one)) {
            let of = (one.resource.pool(), one.reason.code());
            news.entry(of).or_default().push(one);
        }
        for ((pool, reason), all) in news {
            let (number, first) = (all.len(), all[0]);
            warn!(
                pool,
                reason,
                number,
                "{number} stored not in effect, such as {}: {}",
                first.resource,
                first.reason
            );
        }
    }
}

/// What concerns announcements of jobs' ends. The URL is not logged: its path or query may be a credential.
impl Telemetry {
    /// A node has tried to announce the end of a job.
    pub(crate) fn webhook_attempted(&self, webhook: &ClaimedWebhook, outcome: &WebhookOutcome) {
        let (job, host, attempt) = (&*webhook.job, &*webhook.host, webhook.attempt);
        match outcome {
            WebhookOutcome::Delivered => {
                debug!(job, host, attempt, "webhook delivered to {host}");
            }
            WebhookOutcome::Retry { after, error } => {
                let next_s = after.as_secs();
                debug!(
                    job,
                    host,
                    attempt,
                    reason = error,
                    next_s,
                    "webhook to {host} failed and is tried again in {next_s} s: {error}"
                );
            }
            WebhookOutcome::GivenUp { error } => {
                warn!(
                    job,
                    host,
                    attempt,
                    reason = error,
                    "webhook to {host} is given up: {error}"
                );
            }
        }
    }
}

/// A list of names as the value of a field. Events have no such type; written as JSON, it differs from a text.
struct List<'a, T>(&'a [T]);

impl<T: AsRef<str>> fmt::Debug for List<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.0.iter().map(AsRef::as_ref).collect();
        f.write_str(&serde_json::to_string(&names).map_err(|_| fmt::Error)?)
    }
}

/// A failed attempt, and what it did to its key.
pub(crate) struct FailedAttempt {
    pub(crate) pool: Arc<Pool>,
    /// The key that was used.
    pub(crate) key: MemberRef,
    pub(crate) model: Arc<str>,
    pub(crate) attempt: u32,
    pub(crate) max_attempts: u32,
    pub(crate) status: Option<u16>,
    pub(crate) fault: Fault,
    pub(crate) effect: Effect,
    /// The error or the provider's words, without secrets.
    pub(crate) reason: String,
}

/// What follows a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NextStep {
    NextKey,
    SameKey,
    NextTarget,
    WaitForKey,
    /// Another group tells whether the refusal is about the request.
    SecondOpinion,
    /// Nothing: no key can be tried.
    End(NoKeyReason),
    /// The response had begun: the client gets an error in it.
    ClientInformed,
}

impl NextStep {
    /// The stable code, and the same in words.
    fn describe(self) -> (&'static str, &'static str) {
        match self {
            Self::NextKey => ("next_key", "the next key is tried"),
            Self::SameKey => ("same_key", "the same key is tried again"),
            Self::NextTarget => ("next_target", "the route's next target is tried"),
            Self::SecondOpinion => (
                "second_opinion",
                "another group is asked whether it is the request",
            ),
            Self::WaitForKey => ("wait_for_key", "the request waits for a key"),
            Self::End(reason) => (reason.as_str(), reason.text()),
            Self::ClientInformed => ("client_informed", "the client gets an error"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_names_is_written_as_json() {
        let names = ["कुंजी \"1\"", "b\u{301}"];
        let read: Vec<String> = serde_json::from_str(&format!("{:?}", List(&names))).unwrap();
        assert_eq!(read, names);
    }
}
