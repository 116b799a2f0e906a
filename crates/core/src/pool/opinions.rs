//! Second opinions: whether a refusal that no rule knows is about the request or about the account.
//!
//! Only another account can tell. It is asked rarely, what it says is remembered by the form of the refusal, and one caller
//! cannot use up the questions of the others. Must never know what a form is made of.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::{Lease, Pool};
use crate::key::Key;

/// How long an opinion holds.
const HOLDS: Duration = Duration::from_secs(600);
/// Maximum number of forms that are remembered. The one that ends first is forgotten.
const MAX_FORMS: usize = 1000;
/// Maximum number of keys that are remembered for one form.
const MAX_KEYS: usize = 64;
/// Maximum number of opinions that are sought in a minute, for all callers and for one.
const PER_MINUTE: usize = 10;
const PER_CALLER: usize = 5;
const MINUTE: Duration = Duration::from_secs(60);
/// Number of refusals in a row after which the key is forbidden for the model: a single one may be about the request.
const REFUSALS: u32 = 3;

/// What follows a refusal that no rule knows.
pub enum Opinion {
    /// The client gets it.
    Relay,
    /// Another group is asked, if one is free.
    Seek(Seeking),
    /// Other groups serve what this key refuses in this form: the next one is tried.
    NextGroup,
    /// The same; and by now it is clear that the key may not use the model.
    Forbidden,
}

/// What is remembered of the refusals of a pool.
#[derive(Default)]
pub(super) struct Opinions {
    memory: Mutex<Memory>,
    /// Whether a key is known to refuse what others serve. Read for each success, without the lock.
    any_refusing: AtomicBool,
}

#[derive(Default)]
struct Memory {
    forms: HashMap<Arc<str>, Form>,
    /// When opinions were sought within the last minute, and for which caller.
    sought: VecDeque<(Instant, Arc<str>)>,
}

struct Form {
    until: Instant,
    verdict: Verdict,
}

enum Verdict {
    /// Another group is being asked.
    Pending,
    /// Two groups refuse alike: it is the request.
    OfRequest,
    /// Other groups serve what these keys refuse.
    OfKeys(Vec<Refusing>),
}

/// A key that refuses what others serve.
struct Refusing {
    key: Weak<Key>,
    model: Arc<str>,
    until: Instant,
    /// Number of refusals since the last success for the model.
    in_a_row: u32,
}

/// Another group is being asked. Dropped without an answer, nothing is remembered.
#[must_use = "equal refusals are relayed until it is answered"]
pub struct Seeking {
    pool: Arc<Pool>,
    form: Arc<str>,
    key: Weak<Key>,
    model: Arc<str>,
    /// When it was counted, and for whom; `None` once the other group is asked.
    counted: Option<(Instant, Arc<str>)>,
    /// It marked the form as pending.
    is_pending: bool,
}

impl Pool {
    /// What follows a refusal in the form `form` that no rule knows, by the key of `lease`, of a request of `caller`.
    pub fn opinion(self: &Arc<Self>, lease: &Lease, form: &str, caller: &Arc<str>) -> Opinion {
        let may_seek = self.keys.load().settings.second_opinion;
        if !may_seek || lease.is_bound() || self.is_one_group() {
            return Opinion::Relay;
        }
        let now = self.clock.now();
        let mut memory = self.opinions.memory.lock();
        let known = memory.forms.get_mut(form).filter(|form| form.until > now);
        match known.map(|form| &mut form.verdict) {
            Some(Verdict::Pending | Verdict::OfRequest) => return Opinion::Relay,
            Some(Verdict::OfKeys(keys)) => {
                if let Some(refusing) = find(keys, lease, now) {
                    refusing.in_a_row += 1;
                    return match refusing.in_a_row >= REFUSALS {
                        true => Opinion::Forbidden,
                        false => Opinion::NextGroup,
                    };
                }
            }
            None => {}
        }
        if !memory.may_seek(caller, now) {
            return Opinion::Relay;
        }
        // Counted and marked at once, so that requests at the same time do not exceed the bounds.
        let (form, counted): (Arc<str>, _) = (form.into(), (now, Arc::clone(caller)));
        memory.sought.push_back(counted.clone());
        // Keys that are known to refuse stay known while another one is in doubt.
        let known = memory.forms.get(&form);
        let is_pending = known.is_none_or(|form| form.until <= now);
        if is_pending {
            memory.remember(&form, Verdict::Pending, now);
        }
        Opinion::Seek(Seeking {
            form,
            counted: Some(counted),
            is_pending,
            key: Arc::downgrade(&lease.member().key),
            model: Arc::clone(lease.model()),
            pool: Arc::clone(self),
        })
    }
}

impl Opinions {
    /// A call of the model went well with this key.
    pub(super) fn note_success(&self, key: &Arc<Key>, model: &Arc<str>, now: Instant) {
        if !self.any_refusing.load(Ordering::Relaxed) {
            return;
        }
        let mut memory = self.memory.lock();
        memory.forms.retain(|_, form| form.until > now);
        let mut any_refusing = false;
        for form in memory.forms.values_mut() {
            if let Verdict::OfKeys(keys) = &mut form.verdict {
                any_refusing = true;
                keys.iter_mut()
                    .filter(|refusing| refusing.is_of(key, model))
                    .for_each(|refusing| refusing.in_a_row = 0);
            }
        }
        self.any_refusing.store(any_refusing, Ordering::Relaxed);
    }
}

impl Memory {
    fn may_seek(&mut self, caller: &Arc<str>, now: Instant) -> bool {
        while self
            .sought
            .front()
            .is_some_and(|(at, _)| now.saturating_duration_since(*at) >= MINUTE)
        {
            self.sought.pop_front();
        }
        let of_caller = self.sought.iter().filter(|(_, of)| of == caller).count();
        self.sought.len() < PER_MINUTE && of_caller < PER_CALLER
    }

    fn remember(&mut self, form: &Arc<str>, verdict: Verdict, now: Instant) {
        if self.forms.len() >= MAX_FORMS && !self.forms.contains_key(form) {
            self.forms.retain(|_, form| form.until > now);
            let first = self.forms.iter().min_by_key(|(_, form)| form.until);
            let first = first.map(|(name, _)| Arc::clone(name));
            if let Some(first) = first.filter(|_| self.forms.len() >= MAX_FORMS) {
                self.forms.remove(&first);
            }
        }
        let until = now + HOLDS;
        self.forms.insert(Arc::clone(form), Form { until, verdict });
    }
}

fn find<'k>(keys: &'k mut [Refusing], lease: &Lease, now: Instant) -> Option<&'k mut Refusing> {
    keys.iter_mut()
        .find(|refusing| refusing.until > now && refusing.is_of(&lease.member().key, lease.model()))
}

impl Refusing {
    fn is_of(&self, key: &Arc<Key>, model: &Arc<str>) -> bool {
        self.key.as_ptr() == Arc::as_ptr(key) && self.model == *model
    }
}

impl Seeking {
    /// Another group is free and is asked now.
    pub fn begin(&mut self) {
        self.counted = None;
    }

    /// The other group served the request: the first refusal was about its account.
    pub fn served(self) {
        let now = self.pool.clock.now();
        let mut memory = self.pool.opinions.memory.lock();
        let mut keys = match memory.forms.remove(&self.form).map(|form| form.verdict) {
            Some(Verdict::OfKeys(keys)) => keys,
            _ => Vec::new(),
        };
        keys.retain(|refusing| refusing.until > now && refusing.key.strong_count() > 0);
        keys.truncate(MAX_KEYS - 1);
        keys.push(Refusing {
            key: self.key.clone(),
            model: Arc::clone(&self.model),
            until: now + HOLDS,
            in_a_row: 1,
        });
        self.pool
            .opinions
            .any_refusing
            .store(true, Ordering::Relaxed);
        memory.remember(&self.form, Verdict::OfKeys(keys), now);
    }

    /// The other group refused it in the same form: it is the request.
    pub fn refused_alike(self) {
        let now = self.pool.clock.now();
        let mut memory = self.pool.opinions.memory.lock();
        // If others serve what some keys refuse, the group that was asked may be closed as well.
        let known = memory.forms.get(&self.form).map(|form| &form.verdict);
        if !matches!(known, Some(Verdict::OfKeys(_))) {
            memory.remember(&self.form, Verdict::OfRequest, now);
        }
    }

    /// The form of the refusal.
    pub fn form(&self) -> &str {
        &self.form
    }
}

impl Drop for Seeking {
    fn drop(&mut self) {
        let mut memory = self.pool.opinions.memory.lock();
        if let Some(counted) = &self.counted
            && let Some(at) = memory.sought.iter().position(|sought| sought == counted)
        {
            // No other group was free.
            memory.sought.remove(at);
        }
        let known = memory.forms.get(&self.form).map(|form| &form.verdict);
        if self.is_pending && matches!(known, Some(Verdict::Pending)) {
            memory.forms.remove(&self.form);
        }
    }
}
