//! What the mock is told to do: scripted steps, standing behaviour, and what each key has met.
//!
//! It must never know of sockets, paths or any provider's wire form.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::prompt_cache::Cached;
use crate::recorded::Recorded;

/// The interval that `Behaviour::rpm` counts in.
const MINUTE: Duration = Duration::from_secs(60);

/// What one request meets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// The normal answer.
    Answer,
    /// Exactly this answer. Without a `content-type` of its own it gets JSON's or plain text's, by its first character.
    Status {
        /// HTTP status.
        status: u16,
        /// Further headers.
        headers: Vec<(String, String)>,
        /// The body, sent as it is.
        body: String,
    },
    /// An error in the form of the protocol called (Gemini says an unknown key with 400).
    Refuse {
        /// HTTP status.
        status: u16,
        /// Seconds to wait, said where the provider says it.
        retry_after: Option<u64>,
    },
    /// The connection is reset without a byte of answer.
    Reset,
    /// Half of the answer, then a reset.
    ResetMidBody,
    /// Never answered.
    Hang,
    /// A stream ends after n whole events, without its last chunk; any other answer ends after half of its body.
    CutAfter(usize),
    /// The same in the midst of the event after the first n.
    CutMidEvent(usize),
    /// As `CutAfter`, but the connection stays open in silence.
    StallAfter(usize),
    /// The normal answer after so long, on top of the behaviour's latency.
    Slow(Duration),
    /// `text` right after the head, then the normal answer after `pause`: keep-alive comments, blank lines.
    Prelude {
        /// Sent first, as it is.
        text: String,
        /// From there to the answer's first byte.
        pause: Duration,
    },
    /// An error inside an answer of (usually) 200: the whole body, or a stream's first and only event.
    /// A body that starts with `data:` or `event:` goes into a stream as it is, any other is framed.
    InBandError {
        /// HTTP status; 200 if `None`.
        status: Option<u16>,
        /// The error.
        body: String,
    },
}

/// How a key behaves where no step is scripted.
#[derive(Clone, Debug, PartialEq)]
pub struct Behaviour {
    /// From the request's end to the answer's head. Refusals come at once.
    pub latency: Duration,
    /// Between two events of a stream.
    pub chunk_interval: Duration,
    /// Events with text in a stream; fewer if the call's token limit allows fewer words.
    pub chunks: usize,
    /// The share of calls answered 503, at random.
    pub fail_share: f64,
    /// What every call meets.
    pub fault: Option<Step>,
    /// Calls in flight at once; one more is refused with 429.
    pub max_concurrent: Option<u32>,
    /// Calls admitted in any 60 s; one more is refused with 429.
    pub rpm: Option<u32>,
    /// Streams are written in pieces of so many bytes, wherever events end.
    pub split: Option<usize>,
    /// Keys that were not allowed are refused with 401.
    pub require_key: bool,
    /// Input tokens reported, in place of an estimate from the body's length.
    pub input_tokens: Option<u64>,
    /// Output tokens reported, in place of the number of words.
    pub output_tokens: Option<u64>,
    /// Chat prompts are cached for so long after their last use, as providers do.
    pub prompt_cache: Option<Duration>,
    /// Keys of one account share their prompt cache; `None`: the key alone.
    pub account: Option<String>,
    /// Model names listed, in place of a few of the provider's.
    pub models: Vec<String>,
    /// Requests are kept for `recorded`. Off for benchmarks.
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
            prompt_cache: None,
            account: None,
            models: Vec::new(),
            record: true,
        }
    }
}

/// What a key has met.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Seen {
    /// Request heads received.
    pub requests: u64,
    /// Requests whose answer has not been handed over to its last byte.
    pub active: u64,
    /// The most of those at once.
    pub max_active: u64,
    /// The client went away before the answer's end.
    pub cancelled: u64,
    /// Answers begun, by status.
    pub by_status: BTreeMap<u16, u64>,
    /// Chat calls of which all but the last answer and what was said to it was cached (`Behaviour::prompt_cache`).
    pub cache_hits: u64,
    /// Input tokens that were cached.
    pub cached_tokens: u64,
}

/// Why the mock refuses a call by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    UnknownKey,
    Requests { wait_seconds: u64 },
    Concurrency,
    Overloaded,
}

/// What was decided for a request when its head came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Refuse(Refusal),
    Do(Step),
}

/// What the decision needs from outside the key.
pub(crate) struct Circumstances<'a> {
    pub(crate) defaults: &'a Arc<Behaviour>,
    pub(crate) known: bool,
    pub(crate) now: Instant,
    /// A step scripted for any key.
    pub(crate) any_step: &'a dyn Fn() -> Option<Step>,
    /// A random number of [0, 1).
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
    /// When the calls of the last minute were admitted; kept only under `rpm`.
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

    pub(crate) fn note_cached(&self, cached: Cached) {
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

    /// Counts a request whose head has come, and decides what it meets.
    pub(crate) fn visit(
        self: &Arc<Self>,
        around: &Circumstances<'_>,
    ) -> (Visit, Arc<Behaviour>, Verdict) {
        let mut state = self.inner.lock();
        state.seen.requests += 1;
        state.seen.active += 1;
        state.seen.max_active = state.seen.max_active.max(state.seen.active);
        let behaviour = Arc::clone(state.behaviour.as_ref().unwrap_or(around.defaults));
        let verdict = match state.script.pop_front().or_else(around.any_step) {
            Some(step) => Verdict::Do(step),
            None => state.judge(&behaviour, around),
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
                over: false,
            },
            behaviour,
            verdict,
        )
    }
}

impl KeyState {
    fn judge(&mut self, behaviour: &Behaviour, around: &Circumstances<'_>) -> Verdict {
        if behaviour.require_key && !around.known {
            return Verdict::Refuse(Refusal::UnknownKey);
        }
        if let Some(fault) = &behaviour.fault {
            return Verdict::Do(fault.clone());
        }
        if behaviour.fail_share > 0.0 && (around.chance)() < behaviour.fail_share {
            return Verdict::Refuse(Refusal::Overloaded);
        }
        if behaviour
            .max_concurrent
            .is_some_and(|most| self.admitted >= most)
        {
            return Verdict::Refuse(Refusal::Concurrency);
        }
        match behaviour
            .rpm
            .and_then(|rpm| self.wait_for_room(rpm, around.now))
        {
            Some(wait_seconds) => Verdict::Refuse(Refusal::Requests { wait_seconds }),
            None => Verdict::Do(Step::Answer),
        }
    }

    /// Takes a place in the last minute's window, or says in how many seconds one frees.
    fn wait_for_room(&mut self, rpm: u32, now: Instant) -> Option<u64> {
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
        // The newest `rpm` count: a limit that was lowered meanwhile frees later than the oldest entry.
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
    over: bool,
}

impl Visit {
    /// Counts the status of the answer that begins.
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

    /// The answer was handed over as far as it was meant to be.
    pub(crate) fn finish(&mut self) {
        self.leave(false);
    }

    fn leave(&mut self, cancelled: bool) {
        if std::mem::replace(&mut self.over, true) {
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
        self.leave(true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn visit(key: &Arc<Key>, now: Instant, known: bool) -> (Visit, Verdict) {
        let around = Circumstances {
            defaults: &Arc::new(Behaviour::default()),
            known,
            now,
            any_step: &|| None,
            chance: &|| 0.5,
        };
        let (visit, _, verdict) = key.visit(&around);
        (visit, verdict)
    }

    #[test]
    fn rpm_holds_over_any_minute_and_says_the_true_wait() {
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
    fn refusals_come_in_a_fixed_order_and_scripts_stand_above_them() {
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
    fn refused_calls_take_no_place_and_only_unfinished_visits_are_cancelled() {
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
            "the refused call in flight takes no place"
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
