//! What the mock does for each key: scripted steps and standing behaviour; and the counts of each key.
//!
//! This module must never know of sockets, paths or any provider's wire format.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::prompt_cache::Cached;
use crate::recorded::Recorded;

/// The interval that `Behaviour::rpm` counts in.
const MINUTE: Duration = Duration::from_secs(60);

/// What happens to one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// The normal response.
    Answer,
    /// Exactly this response. Without a `content-type`, it gets JSON's or plain text's, by its first character.
    Status {
        /// HTTP status.
        status: u16,
        /// Further headers.
        headers: Vec<(String, String)>,
        /// The body, sent as it is.
        body: String,
    },
    /// A 200 with these bytes, which need not be text.
    Bytes {
        /// Its `content-type`.
        content_type: &'static str,
        /// The body, sent as it is.
        body: Bytes,
    },
    /// An error in the format of the request's protocol (Gemini refuses an unknown key with 400).
    Refuse {
        /// HTTP status.
        status: u16,
        /// Seconds to wait, sent where the provider sends them.
        retry_after: Option<u64>,
    },
    /// The connection is reset before any byte of the response.
    Reset,
    /// Half of the response, then a reset.
    ResetMidBody,
    /// No response, ever.
    Hang,
    /// A stream is cut after n whole events, without its last chunk. Any other response is cut after half of its body.
    CutAfter(usize),
    /// As `CutAfter`, but in the middle of the event after the first n.
    CutMidEvent(usize),
    /// As `CutAfter`, but the connection stays open and silent.
    StallAfter(usize),
    /// The normal response after this time, in addition to the behaviour's latency.
    Slow(Duration),
    /// `text` right after the head, then the normal response after `pause`. For keep-alive comments and blank lines.
    Prelude {
        /// Sent first, unchanged.
        text: String,
        /// Time from there to the first byte of the response.
        pause: Duration,
    },
    /// An error in a response with (usually) status 200: the whole body, or a stream's only event.
    /// A body that starts with `data:` or `event:` is put into a stream unchanged, any other is framed as an event.
    InBandError {
        /// HTTP status; 200 if `None`.
        status: Option<u16>,
        /// The error.
        body: String,
    },
}

/// The behaviour of a key for requests without a scripted step.
#[derive(Clone, Debug, PartialEq)]
pub struct Behaviour {
    /// Time from the end of the request to the head of the response. Refusals are sent at once.
    pub latency: Duration,
    /// Time between two events of a stream.
    pub chunk_interval: Duration,
    /// Number of text events in a stream; fewer if the call's token limit allows fewer words.
    pub chunks: usize,
    /// The share of calls that get 503, at random.
    pub fail_share: f64,
    /// What happens to every call.
    pub fault: Option<Step>,
    /// Maximum number of calls in flight; one more is refused with 429.
    pub max_concurrent: Option<u32>,
    /// Maximum number of calls in any 60 s; one more is refused with 429.
    pub rpm: Option<u32>,
    /// Writes streams in pieces of this many bytes, regardless of event ends.
    pub split: Option<usize>,
    /// Refuses keys that were not allowed with 401.
    pub require_key: bool,
    /// Input tokens to report, instead of an estimate from the body's length.
    pub input_tokens: Option<u64>,
    /// Output tokens to report, instead of the number of words.
    pub output_tokens: Option<u64>,
    /// JSON to report in place of each usage object, whatever the protocol: a wrong figure, or `null` for none.
    pub usage: Option<String>,
    /// How often a stream of chat, completions or messages states its final usage.
    pub usage_times: usize,
    /// How long chat prompts stay cached after their last use, as at providers.
    pub prompt_cache: Option<Duration>,
    /// Keys of one account share their prompt cache. `None`: the key has its own.
    pub account: Option<String>,
    /// Model names to list, instead of a few of the provider's.
    pub models: Vec<String>,
    /// Whether requests are kept for `recorded`. Off in benchmarks.
    pub record: bool,
}

impl Default for Behaviour {
    fn default() -> Self {
        Behaviour {
            latency: Duration::ZERO,
            chunk_interval: Duration::ZERO,
            chunks: 8,
            fail_share: 0.0,
            fault: None,
            max_concurrent: None,
            rpm: None,
            split: None,
            require_key: false,
            input_tokens: None,
            output_tokens: None,
            usage: None,
            usage_times: 1,
            prompt_cache: None,
            account: None,
            models: Vec::new(),
            record: true,
        }
    }
}

/// The counts of a key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Seen {
    /// Request heads received.
    pub requests: u64,
    /// Requests whose response has not been sent to its last byte.
    pub active: u64,
    /// The highest value of `active`.
    pub max_active: u64,
    /// Requests whose client left before the end of the response.
    pub cancelled: u64,
    /// Responses started, by status.
    pub by_status: BTreeMap<u16, u64>,
    /// Chat calls whose prompt was cached except for the last answer and the new message (`Behaviour::prompt_cache`).
    pub cache_hits: u64,
    /// Cached input tokens.
    pub cached_tokens: u64,
}

/// Why the mock refuses a call without a scripted step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    UnknownKey,
    Requests { wait_seconds: u64 },
    Concurrency,
    Overloaded,
}

/// What was decided for a request when its head arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Refuse(Refusal),
    Do(Step),
}

/// What the decision needs besides the key.
pub(crate) struct VisitContext<'a> {
    pub(crate) defaults: &'a Arc<Behaviour>,
    pub(crate) known: bool,
    pub(crate) now: Instant,
    /// Takes the next step scripted for any key.
    pub(crate) any_step: &'a dyn Fn() -> Option<Step>,
    /// A random number in [0, 1).
    pub(crate) chance: &'a dyn Fn() -> f64,
}

/// One key's script, behaviour and counts.
#[derive(Debug)]
pub(crate) struct Key {
    inner: Mutex<KeyState>,
    changed: Arc<Notify>,
}

#[derive(Debug, Default)]
struct KeyState {
    seen: Seen,
    /// Requests in flight that were not refused.
    admitted: u32,
    script: VecDeque<Step>,
    behaviour: Option<Arc<Behaviour>>,
    /// When the calls of the last minute were admitted. Only used with `rpm`.
    window: VecDeque<Instant>,
    last: Option<Arc<Recorded>>,
}

impl Key {
    pub(crate) fn new(changed: Arc<Notify>) -> Self {
        Key {
            inner: Mutex::new(KeyState::default()),
            changed,
        }
    }

    pub(crate) fn script(&self, steps: impl IntoIterator<Item = Step>) {
        self.inner.lock().script.extend(steps);
    }

    pub(crate) fn behave(&self, behaviour: Behaviour) {
        self.inner.lock().behaviour = Some(Arc::new(behaviour));
    }

    pub(crate) fn seen(&self) -> Seen {
        self.inner.lock().seen.clone()
    }

    pub(crate) fn count_cached(&self, cached: Cached) {
        let mut state = self.inner.lock();
        state.seen.cache_hits += u64::from(cached.is_hit);
        state.seen.cached_tokens += cached.tokens;
    }

    pub(crate) fn last(&self) -> Option<Arc<Recorded>> {
        self.inner.lock().last.clone()
    }

    pub(crate) fn set_last(&self, recorded: Arc<Recorded>) {
        self.inner.lock().last = Some(recorded);
    }

    /// Counts a request whose head has arrived, and decides what happens to it.
    pub(crate) fn visit(
        self: &Arc<Self>,
        context: &VisitContext<'_>,
    ) -> (Visit, Arc<Behaviour>, Verdict) {
        let mut state = self.inner.lock();
        state.seen.requests += 1;
        state.seen.active += 1;
        state.seen.max_active = state.seen.max_active.max(state.seen.active);
        let behaviour = Arc::clone(state.behaviour.as_ref().unwrap_or(context.defaults));
        let verdict = match state.script.pop_front().or_else(context.any_step) {
            Some(step) => Verdict::Do(step),
            None => state.decide(&behaviour, context),
        };
        let admitted = matches!(verdict, Verdict::Do(_));
        if admitted {
            state.admitted += 1;
        }
        drop(state);
        self.changed.notify_waiters();
        (
            Visit {
                key: Arc::clone(self),
                admitted,
                is_finished: false,
            },
            behaviour,
            verdict,
        )
    }
}

impl KeyState {
    fn decide(&mut self, behaviour: &Behaviour, context: &VisitContext<'_>) -> Verdict {
        if behaviour.require_key && !context.known {
            return Verdict::Refuse(Refusal::UnknownKey);
        }
        if let Some(fault) = &behaviour.fault {
            return Verdict::Do(fault.clone());
        }
        if behaviour.fail_share > 0.0 && (context.chance)() < behaviour.fail_share {
            return Verdict::Refuse(Refusal::Overloaded);
        }
        if behaviour
            .max_concurrent
            .is_some_and(|limit| self.admitted >= limit)
        {
            return Verdict::Refuse(Refusal::Concurrency);
        }
        match behaviour
            .rpm
            .and_then(|rpm| self.admit_or_wait(rpm, context.now))
        {
            Some(wait_seconds) => Verdict::Refuse(Refusal::Requests { wait_seconds }),
            None => Verdict::Do(Step::Answer),
        }
    }

    /// Adds the call to the window of the last minute, or returns the seconds until it has capacity.
    fn admit_or_wait(&mut self, rpm: u32, now: Instant) -> Option<u64> {
        while self
            .window
            .front()
            .is_some_and(|admitted| now.duration_since(*admitted) >= MINUTE)
        {
            self.window.pop_front();
        }
        if self.window.len() < rpm as usize {
            self.window.push_back(now);
            return None;
        }
        // Only the newest `rpm` entries count: after the limit was lowered, more than the oldest must expire.
        let leaving = self.window.len().saturating_sub(rpm.max(1) as usize);
        let frees = self
            .window
            .get(leaving)
            .map_or(MINUTE, |at| (*at + MINUTE).saturating_duration_since(now));
        Some(frees.as_millis().div_ceil(1000) as u64)
    }
}

/// One request in flight. Dropped before `finish`, it counts as cancelled by the client.
#[derive(Debug)]
pub(crate) struct Visit {
    key: Arc<Key>,
    admitted: bool,
    is_finished: bool,
}

impl Visit {
    /// Counts the status of a response that starts.
    pub(crate) fn answered(&self, status: u16) {
        *self
            .key
            .inner
            .lock()
            .seen
            .by_status
            .entry(status)
            .or_default() += 1;
        self.key.changed.notify_waiters();
    }

    /// Marks the response as sent, up to where it was meant to end.
    pub(crate) fn finish(&mut self) {
        self.end(false);
    }

    fn end(&mut self, cancelled: bool) {
        if std::mem::replace(&mut self.is_finished, true) {
            return;
        }
        let mut state = self.key.inner.lock();
        state.seen.active -= 1;
        state.seen.cancelled += u64::from(cancelled);
        if self.admitted {
            state.admitted -= 1;
        }
        drop(state);
        self.key.changed.notify_waiters();
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        self.end(true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn visit(key: &Arc<Key>, now: Instant, known: bool) -> (Visit, Verdict) {
        let context = VisitContext {
            defaults: &Arc::new(Behaviour::default()),
            known,
            now,
            any_step: &|| None,
            chance: &|| 0.5,
        };
        let (visit, _, verdict) = key.visit(&context);
        (visit, verdict)
    }

    #[test]
    fn rpm_holds_over_any_minute_and_gives_the_exact_wait() {
        let key = Arc::new(Key::new(Arc::default()));
        key.behave(Behaviour {
            rpm: Some(2),
            ..Behaviour::default()
        });
        let start = Instant::now();
        let at = |seconds| visit(&key, start + Duration::from_secs(seconds), true).1;
        let refused = |wait_seconds| Verdict::Refuse(Refusal::Requests { wait_seconds });
        assert_eq!(at(0), Verdict::Do(Step::Answer));
        assert_eq!(at(50), Verdict::Do(Step::Answer));
        assert_eq!(at(59), refused(1));
        assert_eq!(at(60), Verdict::Do(Step::Answer));
        assert_eq!(at(61), refused(49));
        key.behave(Behaviour {
            rpm: Some(1),
            ..Behaviour::default()
        });
        assert_eq!(at(62), refused(58));
        key.behave(Behaviour {
            rpm: Some(0),
            ..Behaviour::default()
        });
        assert!(matches!(at(63), Verdict::Refuse(Refusal::Requests { .. })));
    }

    #[test]
    fn scripts_come_before_refusals_and_those_have_a_fixed_order() {
        let key = Arc::new(Key::new(Arc::default()));
        let now = Instant::now();
        key.behave(Behaviour {
            require_key: true,
            fail_share: 0.6,
            ..Behaviour::default()
        });
        assert_eq!(
            visit(&key, now, false).1,
            Verdict::Refuse(Refusal::UnknownKey)
        );
        assert_eq!(
            visit(&key, now, true).1,
            Verdict::Refuse(Refusal::Overloaded)
        );
        key.behave(Behaviour {
            fail_share: 0.5,
            max_concurrent: Some(0),
            ..Behaviour::default()
        });
        assert_eq!(
            visit(&key, now, true).1,
            Verdict::Refuse(Refusal::Concurrency)
        );
        key.behave(Behaviour {
            fault: Some(Step::Hang),
            max_concurrent: Some(0),
            ..Behaviour::default()
        });
        assert_eq!(visit(&key, now, true).1, Verdict::Do(Step::Hang));
        key.script([Step::Reset]);
        assert_eq!(visit(&key, now, true).1, Verdict::Do(Step::Reset));
        assert_eq!(visit(&key, now, true).1, Verdict::Do(Step::Hang));
    }

    #[test]
    fn refused_calls_take_no_slot_and_unfinished_visits_are_cancelled() {
        let key = Arc::new(Key::new(Arc::default()));
        let now = Instant::now();
        key.behave(Behaviour {
            max_concurrent: Some(1),
            ..Behaviour::default()
        });
        let (mut first, verdict) = visit(&key, now, true);
        assert_eq!(verdict, Verdict::Do(Step::Answer));
        let (refused, verdict) = visit(&key, now, true);
        assert_eq!(verdict, Verdict::Refuse(Refusal::Concurrency));
        assert_eq!((key.seen().active, key.seen().max_active), (2, 2));
        first.finish();
        first.finish();
        drop(first);
        let (third, verdict) = visit(&key, now, true);
        assert_eq!(
            verdict,
            Verdict::Do(Step::Answer),
            "the refused call in flight takes no slot"
        );
        drop(refused);
        drop(third);
        assert_eq!(
            key.seen(),
            Seen {
                requests: 3,
                max_active: 2,
                cancelled: 2,
                ..Seen::default()
            }
        );
    }
}
