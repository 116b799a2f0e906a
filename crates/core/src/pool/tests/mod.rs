//! The pool as a whole, in simulated time: what each outcome does, who is served when, and that nothing is lost.

mod affinity;
mod breaking;
mod evidence;
mod groups;
mod queueing;
mod refusals;
mod reload;
mod selection;
mod shared_limits;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::*;
use crate::clock::fake::FakeClock;
use crate::fault::{Class, Fault};
use crate::secret::Secret;
use crate::settings::{KeySettings, PoolSettings, Strategy};

struct World {
    clock: Arc<FakeClock>,
    registry: Registry,
}

impl World {
    fn new() -> Self {
        let clock = Arc::new(FakeClock::new());
        Self {
            registry: Registry::new(Arc::clone(&clock) as Arc<dyn Clock>, Box::new(prepare)),
            clock,
        }
    }

    fn pool(&self, settings: PoolSettings) -> Arc<Pool> {
        self.registry.pools(&[settings.into()], &[]).remove(0)
    }
}

impl Pool {
    /// A key, without what it was selected among.
    fn lease(self: &Arc<Self>, demand: &Demand) -> Option<Lease> {
        self.acquire(demand).map(|leased| leased.lease)
    }
}

/// Prepares the name of the pool and of the key.
fn prepare(pool: &PoolSettings, key: &KeySettings) -> Arc<dyn std::any::Any + Send + Sync> {
    Arc::new(format!("{}/{}", pool.name, key.name))
}

fn key(n: usize) -> KeySettings {
    let base_url = "http://provider.example/v1".parse().unwrap();
    KeySettings::new(
        format!("k{n}"),
        Secret::new(format!("secret-{n}")),
        base_url,
    )
}

fn settings(keys: usize) -> PoolSettings {
    PoolSettings {
        name: "p".into(),
        provider: "mock",
        models: vec!["*".into()],
        keys: (1..=keys).map(key).collect(),
        ..PoolSettings::default()
    }
}

fn capped(keys: usize, cap: u32) -> PoolSettings {
    let mut settings = settings(keys);
    settings
        .keys
        .iter_mut()
        .for_each(|key| key.max_concurrent = Some(cap));
    settings
}

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn names(pool: &Arc<Pool>, demand: &Demand, calls: usize) -> Vec<String> {
    let served = (0..calls).map(|_| pool.lease(demand));
    served
        .map(|lease| lease.map_or("-".to_owned(), |lease| lease.member().name.to_string()))
        .collect()
}

fn fail(pool: &Arc<Pool>, demand: &Demand, name: &str, fault: &Fault) {
    for _ in 0..pool.current().members().len() {
        let lease = pool.lease(demand).expect("a key is free");
        if &*lease.member().name == name {
            finish(lease, fault);
            return;
        }
    }
    panic!("{name} did not come");
}

/// Ends the call. If it met trouble, the same request is taken to succeed on another group, so that the key is blamed.
fn finish(lease: Lease, fault: &Fault) -> Effect {
    let (suspect, pool) = (lease.suspect(), Arc::clone(lease.pool()));
    let effect = lease.finish(fault);
    match suspect {
        Some(suspect) if fault.class == Class::UpstreamTrouble && !pool.is_one_group() => {
            suspect.confirm()
        }
        _ => effect,
    }
}

fn break_key(pool: &Arc<Pool>, name: &str) {
    let demand = Demand::of("m");
    for _ in 0..pool.current().settings().breaker.min_requests {
        fail(pool, &demand, name, &Fault::of(Class::UpstreamTrouble));
    }
}

fn state(pool: &Pool, name: &str) -> KeyReport {
    pool.report()
        .into_iter()
        .find(|report| &*report.name == name)
        .expect("the key exists")
}

#[test]
fn keys_take_turns() {
    let pool = World::new().pool(settings(3));
    assert_eq!(names(&pool, &Demand::of("m"), 4), ["k1", "k2", "k3", "k1"]);
}

#[test]
fn attempts_are_bounded_by_retries_and_twice_the_usable_keys() {
    let world = World::new();
    for (keys, attempts) in [(3, 6), (2, 4), (1, 2), (0, 0), (10, 6)] {
        assert_eq!(
            world.pool(settings(keys)).max_attempts(&Demand::default()),
            attempts,
            "{keys} keys"
        );
    }
    let pool = world.pool(settings(2));
    fail(&pool, &Demand::of("m"), "k1", &Fault::of(Class::Rejected));
    assert_eq!(
        pool.max_attempts(&Demand::default()),
        2,
        "an invalid key does not count"
    );
}

#[test]
fn a_rate_limit_cools_the_group_for_the_model_alone() {
    let world = World::new();
    let mut wanted = settings(3);
    wanted.keys[0].group = Some("org".into());
    wanted.keys[1].group = Some("org".into());
    let pool = world.pool(wanted);
    let (m, other) = (Demand::of("m"), Demand::of("other"));
    names(&pool, &other, 3);
    fail(
        &pool,
        &m,
        "k1",
        &Fault::of(Class::RateLimited).with_wait(Some(seconds(7))),
    );
    assert_eq!(
        names(&pool, &m, 3),
        ["k3", "k3", "k3"],
        "k2 shares the limit of k1"
    );
    assert!(
        names(&pool, &other, 3).contains(&"k1".to_owned()),
        "other models are served"
    );
    let report = state(&pool, "k1");
    assert_eq!(
        (report.state, report.is_available),
        (KeyState::Active, true),
        "one model of two is cooling"
    );
    assert_eq!(report.cooldowns[0].class, Class::RateLimited);
    world.clock.pass(seconds(7));
    assert!(names(&pool, &m, 3).contains(&"k2".to_owned()));
    assert!(state(&pool, "k1").cooldowns.is_empty());
}

#[test]
fn a_key_whose_only_model_is_rate_limited_is_cooling() {
    let world = World::new();
    let pool = world.pool(settings(1));
    fail(
        &pool,
        &Demand::of("m"),
        "k1",
        &Fault::of(Class::RateLimited),
    );
    let report = state(&pool, "k1");
    assert_eq!(
        (report.state, report.is_available),
        (KeyState::Cooling, false)
    );
    assert_eq!(
        report.cooldowns[0].until,
        world.clock.now() + seconds(60),
        "60 s where the provider does not say"
    );
}

#[test]
fn each_class_starts_the_cooldown_it_should() {
    for (class, expect, cooldown) in [
        (Class::Exhausted, KeyState::Exhausted, Some(3600)),
        (Class::Rejected, KeyState::Invalid, None),
        (Class::Forbidden, KeyState::Cooling, Some(600)),
        (Class::CallerFault, KeyState::Active, Some(0)),
        (Class::Success, KeyState::Active, Some(0)),
    ] {
        let world = World::new();
        let pool = world.pool(settings(1));
        let demand = Demand::of("m");
        fail(&pool, &demand, "k1", &Fault::of(class));
        let report = state(&pool, "k1");
        assert_eq!(report.state, expect, "{class:?}");
        assert_eq!(report.failed, u64::from(class.blames_key()), "{class:?}");
        match cooldown {
            Some(0) => assert!(pool.lease(&demand).is_some(), "{class:?}"),
            Some(cooldown) => {
                world
                    .clock
                    .pass(seconds(cooldown) - Duration::from_millis(1));
                assert!(
                    pool.lease(&demand).is_none(),
                    "{class:?} lasts {cooldown} s"
                );
                world.clock.pass(Duration::from_millis(1));
                assert!(
                    pool.lease(&demand).is_some(),
                    "{class:?} is over after {cooldown} s"
                );
            }
            None => {
                world.clock.pass(seconds(1_000_000));
                assert!(
                    pool.lease(&demand).is_none(),
                    "{class:?} does not end by itself"
                );
                assert_eq!(pool.next_available(&demand), NextAvailable::default());
                assert!(pool.member("k1").map(|key| key.reset()).is_some());
                assert!(
                    pool.lease(&demand).is_some(),
                    "{class:?} is over after a reset"
                );
            }
        }
    }
}

#[test]
fn exhaustion_stops_every_key_of_the_group_until_a_reset() {
    let world = World::new();
    let mut wanted = settings(3);
    wanted.keys[0].group = Some("org".into());
    wanted.keys[1].group = Some("org".into());
    let pool = world.pool(wanted);
    let demand = Demand::of("m");
    fail(
        &pool,
        &demand,
        "k2",
        &Fault::of(Class::Exhausted).with_wait(Some(seconds(100))),
    );
    assert_eq!(names(&pool, &Demand::of("any"), 2), ["k3", "k3"]);
    assert_eq!(state(&pool, "k1").state, KeyState::Exhausted);
    assert!(pool.member("k1").map(|key| key.reset()).is_some());
    assert_eq!(
        state(&pool, "k2").state,
        KeyState::Active,
        "a reset of one key of the group is a reset of its quota"
    );
    assert!(state(&pool, "k2").cooldowns.is_empty());
    assert!(pool.member("nobody").map(|key| key.reset()).is_none());
}

#[test]
fn a_failed_key_is_retried_after_its_back_off_and_after_untried_keys() {
    let world = World::new();
    let pool = world.pool(settings(2));
    let mut demand = Demand::of("m");
    let lease = pool.lease(&demand).expect("k1");
    demand.note_failure(lease.member(), world.clock.now() + seconds(1));
    drop(lease);
    assert_eq!(names(&pool, &demand, 2), ["k2", "k2"]);
    demand.note_failure(&pool.current().members()[1], world.clock.now() + seconds(2));
    assert!(pool.lease(&demand).is_none());
    assert_eq!(
        pool.next_available(&demand),
        NextAvailable {
            slot_may_free: false,
            cooldown_ends: Some(world.clock.now() + seconds(1))
        }
    );
    world.clock.pass(seconds(1));
    assert_eq!(names(&pool, &demand, 1), ["k1"]);
}

fn waits(ticket: &mut Ticket) -> bool {
    matches!(
        ticket.handoff.try_recv(),
        Err(tokio::sync::oneshot::error::TryRecvError::Empty)
    )
}

fn served(ticket: &mut Ticket) -> Option<Lease> {
    match ticket.handoff.try_recv() {
        Ok(Handoff::Lease(leased)) => Some(leased.lease),
        _ => None,
    }
}

#[test]
fn one_secret_at_one_host_is_one_key_in_all_pools() {
    let world = World::new();
    let (mut a, mut b) = (capped(1, 5), capped(1, 2));
    (a.name, b.name) = ("a".into(), "b".into());
    b.keys[0].name = "another name".into();
    let pools = world.registry.pools(&[a.into(), b.into()], &[]);
    let demand = Demand::of("m");
    let [of_a, of_b, none] = [0, 1, 0].map(|pool: usize| pools[pool].lease(&demand));
    assert!(of_a.is_some() && of_b.is_some());
    assert!(none.is_none(), "the lowest of the two caps holds");
    let mut waiting = pools[1]
        .join(&demand, &"c".into(), Lane::Interactive)
        .expect("room");
    drop(of_a);
    assert!(
        served(&mut waiting).is_some(),
        "a slot freed in one pool serves the other"
    );
    drop(of_b);
}

#[test]
fn a_slot_freed_under_an_old_configuration_serves_waiting_requests() {
    let world = World::new();
    let before = world.registry.pools(&[capped(1, 1).into()], &[]);
    let demand = Demand::of("m");
    let held = before[0].lease(&demand);
    assert!(held.is_some());
    let mut changed = capped(1, 1);
    changed.models = vec!["m".into()];
    let now = world.registry.pools(&[changed.into()], &before);
    let mut waiting = now[0]
        .join(&demand, &"c".into(), Lane::Interactive)
        .expect("room");
    assert!(waits(&mut waiting));
    drop((before, held));
    assert!(served(&mut waiting).is_some());
}

#[test]
fn a_reload_keeps_the_state_of_keys_that_stay() {
    let world = World::new();
    let (mut first, mut second) = (settings(2), settings(2));
    (first.name, second.name) = ("first".into(), "second".into());
    second
        .keys
        .iter_mut()
        .for_each(|key| key.secret = Secret::new(format!("other-{}", key.name)));
    let before = world
        .registry
        .pools(&[first.clone().into(), second.clone().into()], &[]);
    let keys_before = [before[0].keys(), before[1].keys()];
    let demand = Demand::of("m");
    fail(&before[0], &demand, "k2", &Fault::of(Class::Rejected));
    let in_flight = before[0].lease(&demand).expect("k1");
    first.keys.reverse();
    first.keys[0].name = "renamed".into();
    first.keys.push(key(3));
    let after = world
        .registry
        .pools(&[first.into(), second.into()], &before);
    assert!(Arc::ptr_eq(&before[0], &after[0]) && Arc::ptr_eq(&before[1], &after[1]));
    assert!(!Arc::ptr_eq(&keys_before[0], &after[0].keys()));
    assert!(
        Arc::ptr_eq(&keys_before[1], &after[1].keys()),
        "unchanged settings keep their keys"
    );
    assert_eq!(
        (
            state(&after[0], "renamed").state,
            state(&after[0], "renamed").failed
        ),
        (KeyState::Invalid, 1)
    );
    assert_eq!(
        state(&after[0], "k1").active,
        1,
        "calls of the old configuration still count"
    );
    drop((before, keys_before));
    in_flight.finish(&Fault::of(Class::Success));
    assert_eq!(state(&after[0], "k1").active, 0);
    assert_eq!(names(&after[0], &demand, 2), ["k1", "k3"]);
}

#[test]
fn a_key_that_left_its_group_does_not_share_its_exhaustion() {
    let world = World::new();
    let mut wanted = settings(2);
    wanted
        .keys
        .iter_mut()
        .for_each(|key| key.group = Some("org".into()));
    let before = world.registry.pools(&[wanted.clone().into()], &[]);
    wanted.keys[1].group = None;
    let after = world.registry.pools(&[wanted.into()], &before);
    fail(
        &after[0],
        &Demand::of("m"),
        "k1",
        &Fault::of(Class::Exhausted),
    );
    assert_eq!(state(&after[0], "k1").state, KeyState::Exhausted);
    assert_eq!(state(&after[0], "k2").state, KeyState::Active);
}

/// Many threads, every kind of outcome, clients that leave: caps hold, and every count returns to zero.
#[test]
fn under_concurrency_caps_hold_and_no_slot_or_waiter_is_lost() {
    const CAP: u32 = 3;
    let world = World::new();
    let mut wanted = capped(4, CAP);
    wanted.keys[1].group = Some("g".into());
    wanted.keys[2].group = Some("g".into());
    let pool = world.pool(wanted);
    let in_use: Vec<AtomicU32> = (0..4).map(|_| AtomicU32::new(0)).collect();
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let (pool, in_use, world) = (&pool, &in_use, &world);
            scope.spawn(move || {
                let mut random = fastrand::Rng::with_seed(thread);
                let caller: FairnessKey = format!("caller-{thread}").into();
                for _ in 0..5_000 {
                    let demand = Demand::of(if random.bool() { "m" } else { "n" });
                    let lease = pool
                        .lease(&demand)
                        .or_else(|| wait_a_little(pool, &demand, &caller));
                    let Some(lease) = lease else { continue };
                    let index = lease.member().index();
                    assert!(
                        in_use[index].fetch_add(1, Ordering::SeqCst) < CAP,
                        "the cap holds"
                    );
                    std::thread::yield_now();
                    in_use[index].fetch_sub(1, Ordering::SeqCst);
                    end(lease, &mut random);
                    if random.u8(..) < 16 {
                        world.clock.pass(seconds(1));
                        pool.keys().members()[random.usize(..4)].reset();
                    }
                }
            });
        }
    });
    assert_eq!(pool.waiting(), 0);
    assert!(!pool.wait_signal.anyone_anywhere());
    for member in pool.current().members().iter() {
        assert_eq!(member.key.active(), 0);
        member.reset();
    }
    let all: Vec<Lease> = (0..100)
        .filter_map(|_| pool.lease(&Demand::of("m")))
        .collect();
    assert_eq!(all.len() as u32, 4 * CAP, "every slot is free again");
}

fn wait_a_little(pool: &Arc<Pool>, demand: &Demand, caller: &FairnessKey) -> Option<Lease> {
    let mut ticket = pool.join(demand, caller, Lane::Interactive).ok()?;
    for _ in 0..50 {
        if let Some(lease) = served(&mut ticket) {
            return Some(lease);
        }
        std::thread::yield_now();
    }
    None
}

fn end(lease: Lease, random: &mut fastrand::Rng) {
    const CLASSES: [Class; 7] = [
        Class::Success,
        Class::CallerFault,
        Class::RateLimited,
        Class::Exhausted,
        Class::Rejected,
        Class::Forbidden,
        Class::UpstreamTrouble,
    ];
    match random.u8(..) {
        0..=20 => drop(lease),
        21..=60 => {
            let class = CLASSES[random.usize(..CLASSES.len())];
            finish(lease, &Fault::of(class).with_wait(Some(seconds(1))));
        }
        _ => drop(lease.finish(&Fault::of(Class::Success))),
    }
}
