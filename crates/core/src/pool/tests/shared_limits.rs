//! Keys whose limits a limiter counts for several nodes. It cannot always decide at once.

use std::collections::HashMap;
use std::time::Instant;

use parking_lot::Mutex;

use super::*;
use crate::limit::{
    Admission, Ask, DIMENSIONS, Dimension, Ledger, LimitId, Limiter, Limits, Ready, Refusal,
    Remaining, Reserving, Settlement, Tick, Until, WINDOW,
};

/// What the limiter knows of a key.
#[derive(Clone, Copy)]
enum Known {
    Nothing,
    Room,
    NoRoom(Until, bool),
}

/// A limiter whose store responds when the test says so.
struct Scripted {
    epoch: Instant,
    known: Mutex<HashMap<LimitId, Known>>,
    /// For what the store is being asked.
    asked: Mutex<Vec<(LimitId, Ready)>>,
}

impl Scripted {
    fn new(epoch: Instant) -> Arc<Self> {
        Arc::new(Self {
            epoch,
            known: Mutex::default(),
            asked: Mutex::default(),
        })
    }

    fn known(&self, id: LimitId) -> Known {
        let known = self.known.lock();
        known.get(&id).copied().unwrap_or(Known::Nothing)
    }

    fn asked(&self) -> usize {
        self.asked.lock().len()
    }

    /// The store refuses the first question, and will be asked about it again.
    fn refuse_for_now(&self) -> Ready {
        let (_, ready) = self.asked.lock().remove(0);
        ready(false);
        ready
    }

    /// The store responds to the first question.
    fn respond(&self, known: Known) {
        let (id, ready) = self.asked.lock().remove(0);
        self.known.lock().insert(id, known);
        ready(true);
    }
}

impl Limiter for Scripted {
    fn try_reserve(&self, ask: &Ask, now: Instant) -> Option<Result<Admission, Refusal>> {
        let tick = Tick::default() + now.saturating_duration_since(self.epoch);
        let admit = || Ledger::default().admit_anyway(tick, WINDOW, &ask.limits, &ask.cost);
        Some(self.check(ask, now)?.map(|()| admit()))
    }

    fn reserve<'a>(&'a self, _: &'a Ask, _: Instant) -> Reserving<'a> {
        unreachable!("choosing a key waits for nothing")
    }

    fn check(&self, ask: &Ask, _: Instant) -> Option<Result<(), Refusal>> {
        match self.known(ask.id) {
            Known::Nothing => None,
            Known::Room => Some(Ok(())),
            Known::NoRoom(until, may_be_sooner) => Some(Err(Refusal {
                dimension: Dimension::Requests,
                limit: 5,
                until,
                may_be_sooner,
            })),
        }
    }

    fn reserve_ahead(&self, ask: Ask, ready: Ready) {
        self.asked.lock().push((ask.id, ready));
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn settle(&self, _: LimitId, _: &Admission, _: &Settlement, _: Instant) {}

    fn remaining(&self, _: LimitId, _: &Limits, _: Instant) -> [Option<Remaining>; DIMENSIONS] {
        [None; DIMENSIONS]
    }

    fn sweep(&self, _: Instant) {}

    fn instant(&self, tick: Tick) -> Instant {
        self.epoch + tick.since(Tick::default())
    }
}

/// A pool whose keys have limits that the limiter counts.
fn shared(keys: usize) -> (Arc<Pool>, Arc<Scripted>, Arc<FakeClock>) {
    let world = World::new();
    let limiter = Scripted::new(world.clock.now());
    let as_limiter = Arc::clone(&limiter) as Arc<dyn Limiter>;
    let registry = world.registry.with_limiter(&as_limiter);
    let mut settings = settings(keys);
    for key in &mut settings.keys {
        key.limits.requests = Some(5);
    }
    let pool = registry.pools(&[settings.into()], &[]).remove(0);
    (pool, limiter, world.clock)
}

fn in_seconds(n: u64) -> Until {
    Until::At(Tick::default() + seconds(n))
}

#[test]
fn a_key_serves_once_the_store_has_responded() {
    let (pool, limiter, _) = shared(3);
    let demand = Demand::of("m");
    assert!(pool.lease(&demand).is_none());
    assert_eq!(limiter.asked(), 1, "one key is enough");
    assert!(state(&pool, "k1").is_available, "nothing speaks against it");
    limiter.respond(Known::Room);
    assert!(pool.lease(&demand).is_some());
    assert_eq!(limiter.asked(), 0);
}

#[test]
fn keys_without_room_do_not_keep_others_from_being_asked_about() {
    let (pool, limiter, _) = shared(8);
    let demand = Demand::of("m");
    let call_ends = Known::NoRoom(Until::CallEnds(None), true);
    for n in 1..8 {
        assert!(pool.lease(&demand).is_none(), "{n}");
        assert_eq!(limiter.asked(), 1, "{n}");
        limiter.respond(call_ends);
        // Soon nobody knows any more.
        limiter.known.lock().clear();
    }
    assert!(pool.lease(&demand).is_none());
    limiter.respond(Known::Room);
    let lease = pool.lease(&demand).expect("the eighth key");
    assert_eq!(&*lease.member().name, "k8");
}

#[test]
fn several_requests_ask_about_several_keys() {
    let (pool, limiter, _) = shared(3);
    let demand = Demand::of("m");
    for _ in 0..5 {
        assert!(pool.lease(&demand).is_none());
    }
    assert_eq!(limiter.asked(), 3, "each key once");
}

#[test]
fn a_request_waits_for_room_that_may_come_and_for_none_that_will_not() {
    let demand = Demand::of("m");
    for (known, slot_may_free, ends) in [
        (Known::NoRoom(in_seconds(40), false), false, Some(40)),
        (Known::NoRoom(in_seconds(40), true), true, Some(40)),
        (Known::NoRoom(Until::CallEnds(None), true), true, None),
        (Known::NoRoom(Until::StoreReturns, true), false, None),
    ] {
        let (pool, limiter, clock) = shared(1);
        assert!(pool.lease(&demand).is_none());
        let before = pool.next_available(&demand);
        assert!(before.slot_may_free, "the store may say so at any time");
        limiter.respond(known);
        assert!(pool.lease(&demand).is_none());
        let next = pool.next_available(&demand);
        assert_eq!(next.slot_may_free, slot_may_free);
        assert_eq!(next.cooldown_ends, ends.map(|n| clock.now() + seconds(n)));
    }
}

#[test]
fn an_ejected_key_is_asked_about_if_no_other_can_serve() {
    let (pool, limiter, _) = shared(1);
    let demand = Demand::of("m");
    assert!(pool.lease(&demand).is_none());
    limiter.respond(Known::Room);
    break_key(&pool, "k1");
    assert_eq!(state(&pool, "k1").state, KeyState::Cooling);
    limiter.known.lock().clear();
    assert!(pool.lease(&demand).is_none());
    assert_eq!(limiter.asked(), 1);
    limiter.respond(Known::Room);
    assert!(pool.lease(&demand).is_some(), "as the last resort");
}

#[test]
fn a_large_call_that_was_refused_does_not_hold_up_a_smaller_one() {
    let (pool, limiter, _) = shared(1);
    let [small, large] = [10, 1000].map(|input_tokens| {
        let mut demand = Demand::of("m");
        demand.cost.input_tokens = input_tokens;
        demand
    });
    assert!(pool.lease(&large).is_none());
    let ready = limiter.refuse_for_now();
    assert!(pool.lease(&large).is_none());
    assert_eq!(limiter.asked(), 0, "about that it was asked just now");
    assert!(pool.lease(&small).is_none());
    limiter.respond(Known::Room);
    assert!(pool.lease(&small).is_some());
    limiter.known.lock().clear();
    ready(true);
    assert!(pool.lease(&large).is_none());
    assert_eq!(limiter.asked(), 1, "again after a moment");
}
