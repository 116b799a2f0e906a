//! What the gateway tells an operator: one function per event, so that wording and fields stand in one index.
//!
//! No event carries a secret: keys are named by number and name, and text from outside is passed through
//! `redact` first.

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use keypool_core::fault::{Class, Fault};
use keypool_core::pool::{Effect, KeyReport, KeyState, Pool};
use keypool_providers::secrets::looks_like_key;
use parking_lot::Mutex;
use tracing::{info, warn};

use crate::reload::Changes;
use crate::snapshot::Snapshot;

/// The same trouble is told no more often.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// At start: where it listens, and how many keys each pool has.
pub(crate) fn started(addr: SocketAddr, snapshot: &Snapshot) {
    for entry in &snapshot.pools {
        let settings = entry.pool.settings();
        let keys = settings.keys.len();
        let (pool, provider, source) = (&*settings.name, settings.provider, &*settings.source);
        info!(pool, provider, keys, source, "pool loaded");
    }
    info!(address = %addr, pools = snapshot.pools.len(), "listening on http://{addr}");
}

/// A connection could not be taken; it is tried again.
pub(crate) fn accept_failed(error: &std::io::Error) {
    tracing::error!(%error, "a connection could not be accepted and waits: raise the limit of open files where too many are open");
}

/// As many connections are open as this process has files for.
pub(crate) fn no_room() {
    warn!(
        "as many connections are open as there is room for, and more wait: raise the hard limit of open files (ulimit -Hn, LimitNOFILE=)"
    );
}

/// A client was cut off because it took next to nothing of what was ready for it.
pub(crate) fn client_too_slow(peer: SocketAddr) {
    warn!(
        client = %peer.ip(),
        "a client read so slowly that it would hold a key's slot for ever: its connection was closed"
    );
}

/// A list of names as a field's value. An event has no such type: written as JSON, it can be told from a text.
struct List<'a, T>(&'a [T]);

impl<T: AsRef<str>> fmt::Debug for List<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.0.iter().map(AsRef::as_ref).collect();
        f.write_str(&serde_json::to_string(&names).map_err(|_| fmt::Error)?)
    }
}

/// What may happen many times in a second, and is told once.
#[derive(Default)]
pub(crate) struct LogThrottle(Mutex<Option<tokio::time::Instant>>);

impl LogThrottle {
    /// Whether it is time to tell it again.
    pub(crate) fn is_due(&self) -> bool {
        let mut told = self.0.lock();
        let now = tokio::time::Instant::now();
        let is_due = told.is_none_or(|told| now - told >= TELL_EVERY);
        if is_due {
            *told = Some(now);
        }
        is_due
    }
}

/// A certificate of the system's, or of `SSL_CERT_FILE`, is not trusted since it cannot be read.
pub(crate) fn roots_unreadable(error: &rustls_native_certs::Error) {
    warn!(%error, "certificates of the system or of SSL_CERT_FILE or SSL_CERT_DIR cannot be read, and are not trusted");
}

/// A reload took effect.
pub(crate) fn reloaded(changes: &Changes) {
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

/// A reload was refused; the old configuration stays.
pub(crate) fn reload_refused(errors: &[String]) {
    for error in errors {
        tracing::error!("configuration refused, the old one stays: {error}");
    }
}

/// One failed attempt, and what it did.
pub(crate) struct FailedAttempt {
    pub(crate) pool: Arc<Pool>,
    /// The key's index in the pool.
    pub(crate) index: usize,
    pub(crate) model: Arc<str>,
    pub(crate) attempt: u32,
    pub(crate) max_attempts: u32,
    pub(crate) status: Option<u16>,
    pub(crate) fault: Fault,
    pub(crate) effect: Effect,
    /// The error or the provider's words, already without secrets.
    pub(crate) reason: String,
}

impl FailedAttempt {
    /// `next`: what is done about it.
    pub(crate) fn log(&self, request_id: &str, next: &str) {
        let effect = &self.effect;
        let (number, attempt, of) = (self.index + 1, self.attempt, self.max_attempts);
        let key_name = &*self.pool.members()[self.index].name;
        let class = self.fault.class.as_str();
        let cooldown_s = effect
            .cooldown
            .map(|wait| (wait + Duration::from_millis(500)).as_secs());
        warn!(
            request_id,
            pool = &**self.pool.name(),
            key = number,
            key_name,
            attempt,
            of,
            class,
            status = self.status,
            code = self.fault.code.as_deref(),
            model = &*self.model,
            cooldown_s,
            ejected = effect.ejected,
            reason = self.reason,
            next,
            "attempt {attempt} of {of} failed with key {number} \"{key_name}\": {class}; {next}"
        );
    }
}

/// An answer broke after it had begun.
pub(crate) fn answer_broke(
    request_id: &str,
    pool: &Pool,
    number: usize,
    key_name: &str,
    what: &str,
) {
    warn!(
        request_id,
        pool = &**pool.name(),
        key = number,
        key_name,
        class = "upstream_trouble",
        reason = what,
        next = "the client is told",
        "the answer of key {number} \"{key_name}\" broke off after it had begun"
    );
}

/// One request, at its end.
pub(crate) struct Finished<'a> {
    pub(crate) request_id: &'a str,
    pub(crate) method: &'a http::Method,
    pub(crate) path: &'a str,
    pub(crate) status: u16,
    pub(crate) pool: &'a str,
    /// The key's number in its pool, if there was one.
    pub(crate) number: Option<usize>,
    pub(crate) key_name: &'a str,
    pub(crate) attempts: u32,
    pub(crate) caller: &'a str,
    pub(crate) took: Duration,
    /// How it ended, where not as it should: `client left`, `answer broke off`, `shutdown`.
    pub(crate) ended: &'a str,
}

impl Finished<'_> {
    pub(crate) fn log(&self) {
        let ms = self.took.as_secs_f64() * 1000.0;
        let ended = Some(self.ended).filter(|how| !how.is_empty());
        info!(
            status = self.status,
            method = %self.method,
            path = self.path,
            pool = self.pool,
            key = self.number,
            key_name = self.key_name,
            attempts = self.attempts,
            ms = (ms * 10.0).round() / 10.0,
            caller = self.caller,
            ended,
            request_id = self.request_id,
            "request"
        );
    }
}

/// Looking at a pool as a whole costs time for each key; more often than this nobody needs to know.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Pools of up to so many keys are looked at after every failure that changed something.
const SMALL_POOL: usize = 64;

/// Which of the three cases a pool in trouble is, told once per change.
#[derive(Default)]
pub(crate) struct PoolHealth {
    told: Mutex<HashMap<Arc<str>, Told>>,
    /// How many pools are in trouble, read at every success.
    troubled: AtomicUsize,
}

struct Told {
    case: Case,
    looked: Instant,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Case {
    Fine,
    NoFailover,
    /// All, for one reason (the text says which) or for several.
    AllFail(&'static str),
    SomeFail(Vec<Arc<str>>),
}

impl PoolHealth {
    /// After a success: looks whether a pool that was in trouble is well again.
    pub(crate) fn after_success(&self, pool: &Pool, now: Instant) {
        if self.troubled.load(Ordering::Relaxed) == 0 {
            return;
        }
        let is_due = |told: &Told| {
            told.case != Case::Fine && now.saturating_duration_since(told.looked) >= LOOK_EVERY
        };
        if self.told.lock().get(pool.name()).is_some_and(is_due) {
            self.after_failure(pool, now);
        }
    }

    /// Looks at the pool after a failure, and says what is wrong with it if that is new.
    pub(crate) fn after_failure(&self, pool: &Pool, now: Instant) {
        let is_recent = |told: &Told| now.saturating_duration_since(told.looked) < LOOK_EVERY;
        if pool.members().len() > SMALL_POOL
            && self.told.lock().get(pool.name()).is_some_and(is_recent)
        {
            return;
        }
        let case = case_of(pool, pool.failing());
        let told = Told {
            case: case.clone(),
            looked: now,
        };
        let mut all_told = self.told.lock();
        let before = all_told.insert(Arc::clone(pool.name()), told);
        let before = before.map_or(Case::Fine, |told| told.case);
        let troubled = all_told
            .values()
            .filter(|told| told.case != Case::Fine)
            .count();
        self.troubled.store(troubled, Ordering::Relaxed);
        drop(all_told);
        if before != case {
            Self::tell(pool, case);
        }
    }

    fn tell(pool: &Pool, case: Case) {
        let name = &**pool.name();
        let keys = pool.members().len();
        match case {
            Case::Fine => info!(pool = name, "pool \"{name}\" is well again"),
            Case::AllFail(why) => warn!(
                pool = name,
                case = "all_keys_fail",
                "all {keys} keys of pool \"{name}\" fail: {why}"
            ),
            Case::SomeFail(failing) => warn!(
                pool = name,
                case = "some_keys_fail",
                failing = ?List(&failing),
                "{} of {keys} keys of pool \"{name}\" fail while the others work: look at {}",
                failing.len(),
                quoted(&failing),
            ),
            Case::NoFailover => warn!(
                pool = name,
                case = "no_failover",
                "no fail-over is possible in pool \"{name}\": {}",
                why_no_failover(pool)
            ),
        }
    }
}

fn case_of(pool: &Pool, failing: Vec<Arc<str>>) -> Case {
    match failing.len() {
        0 => Case::Fine,
        _ if !can_fail_over(pool) => Case::NoFailover,
        all if all == pool.members().len() => Case::AllFail(why_all_fail(pool)),
        _ => Case::SomeFail(failing),
    }
}

/// What the keys' states have in common.
fn why_all_fail(pool: &Pool) -> &'static str {
    let reports = pool.report();
    let all = |test: &dyn Fn(&KeyReport) -> bool| reports.iter().all(test);
    let rests_by =
        |class| move |key: &KeyReport| key.cooldowns.iter().any(|cooldown| cooldown.class == class);
    if all(&|key| key.state == KeyState::Invalid) {
        "the provider rejects every one; look at the account, then replace or reset the keys"
    } else if all(&|key| key.state == KeyState::Exhausted) {
        "none has quota or balance left; top up, or add keys of another account"
    } else if all(&rests_by(Class::RateLimited)) {
        "all are rate-limited; slow down, or add keys of another account"
    } else if all(&rests_by(Class::Forbidden)) {
        "none may use this model; allow it at the provider, or add keys of an account that may"
    } else if all(&|key| matches!(key.state, KeyState::Active | KeyState::Cooling)) {
        "it is the provider or the way to it, not a key; requests still go out"
    } else {
        "for different reasons; see the warnings above and /api/keys/stats"
    }
}

fn quoted(names: &[Arc<str>]) -> String {
    names
        .iter()
        .take(5)
        .map(|name| format!("\"{name}\""))
        .collect::<Vec<_>>()
        .join(", ")
}

/// Whether a failed request of this pool can go to another key at all.
pub(crate) fn can_fail_over(pool: &Pool) -> bool {
    pool.members().len() > 1 && pool.settings().retry.retries > 0 && !pool.is_one_group()
}

/// Why a failed request of this pool cannot go to another key.
pub(crate) fn why_no_failover(pool: &Pool) -> &'static str {
    if pool.members().len() == 1 {
        "it has a single key; add another"
    } else if pool.settings().retry.retries == 0 {
        "`retry.retries` is 0; raise it"
    } else {
        "all its keys are of one quota group and rest together; add a key of another account"
    }
}

/// `text` for a log line: at most 300 characters, without control characters, and without anything that looks
/// like `secret` or like a key.
pub(crate) fn redact(text: &str, secret: &str) -> String {
    let without = if secret.is_empty() {
        text.to_owned()
    } else {
        text.replace(secret, "[redacted]")
    };
    let mut line = String::new();
    for word in without
        .split_inclusive(|c: char| c.is_whitespace() || "\"'`,;()[]{}<>=".contains(c))
        .take(120)
    {
        let bare =
            word.trim_end_matches(|c: char| !c.is_ascii_alphanumeric() && c != '*' && c != '…');
        if looks_like_key(bare) {
            line.push_str("[redacted]");
            line.push_str(&word[bare.len()..]);
        } else {
            line.push_str(word);
        }
    }
    line.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(300)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_happens_often_is_told_once_a_second() {
        let seldom = LogThrottle::default();
        let mut told = 0;
        for _ in 0..=250 {
            told += u32::from(seldom.is_due());
            tokio::time::advance(Duration::from_millis(10)).await;
        }
        assert_eq!(told, 3, "at 0, 1 and 2 seconds");
    }

    #[test]
    fn a_list_is_json_whatever_its_names_are() {
        let names = ["कुंजी \"1\"", "b\u{301}"];
        let read: Vec<String> = serde_json::from_str(&format!("{:?}", List(&names))).unwrap();
        assert_eq!(read, names);
    }

    #[test]
    fn redacts_the_key_and_whatever_looks_like_one() {
        let text = "Incorrect API key provided: \"sk-proj-abc***xyz9\". You sent my-own-secret, see https://x.example/y.";
        let line = redact(text, "my-own-secret");
        assert!(
            !line.contains("sk-proj") && !line.contains("my-own-secret"),
            "{line}"
        );
        assert!(
            line.starts_with("Incorrect API key provided: \"[redacted]\". You sent [redacted]"),
            "{line}"
        );
        assert!(line.contains("https://x.example/y"), "{line}");
        assert!(redact("token 0123456789abcdef0123456789abcdef", "").contains("[redacted]"));
        assert_eq!(redact("a\r\nb", ""), "a  b");
    }
}
