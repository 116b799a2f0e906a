//! The pool as a whole, in simulated time: what each outcome does, who is served when, and that nothing is lost.

mod affinity;
mod choices;
mod refusals;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::*;
use crate::clock::fake::FakeClock;
use crate::fault::{Class, Fault};
use crate::secret::Secret;
use crate::settings::{
    BreakerSettings, KeySettings, PoolSettings, QueueSettings, RetrySettings, Strategy,
    TimeoutSettings,
};

struct World {
    clock: Arc<FakeClock>,
    registry: Registry,
}

impl World {
    fn new() -> Self {
        let clock = Arc::new(FakeClock::new());
        Self {
            registry: Registry::new(Arc::clone(&clock) as Arc<dyn Clock>),
            clock,
        }
    }

    fn pool(&self, settings: PoolSettings) -> Arc<Pool> {
        self.registry.pools(&[settings], &[]).remove(0)
    }
}

fn key(n: usize) -> KeySettings {
    KeySettings {
        name: format!("k{n}").into(),
        secret: Secret::new(format!("secret-{n}")),
        base_url: "http://provider.example/v1".parse().unwrap(),
        proxy: None,
        model: None,
        group: None,
        weight: 1,
        max_concurrent: None,
    }
}

fn settings(keys: usize) -> PoolSettings {
    PoolSettings {
        name: "p".into(),
        provider: "mock",
        strategy: Strategy::RoundRobin,
        models: vec!["*".into()],
        keys: (1..=keys).map(key).collect(),
        retry: RetrySettings::default(),
        breaker: BreakerSettings::default(),
        queue: QueueSettings::default(),
        timeouts: TimeoutSettings::default(),
        source: "test".into(),
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
    let served = (0..calls).map(|_| pool.acquire(demand));
    served
        .map(|lease| lease.map_or("-".to_owned(), |lease| lease.member().name.to_string()))
        .collect()
}

fn fail(pool: &Arc<Pool>, demand: &Demand, name: &str, fault: &Fault) {
    for _ in 0..pool.members().len() {
        let lease = pool.acquire(demand).expect("a key is free");
        if &*lease.member().name == name {
            let _ = lease.failed(fault);
            return;
        }
    }
    panic!("{name} did not come");
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
fn attempts_are_bounded_by_retries_and_by_twice_the_keys_that_may_serve() {
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
fn a_rate_limit_rests_the_group_for_the_model_alone() {
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
        "one model of two rests"
    );
    assert_eq!(report.cooldowns[0].class, Class::RateLimited);
    world.clock.pass(seconds(7));
    assert!(names(&pool, &m, 3).contains(&"k2".to_owned()));
    assert!(state(&pool, "k1").cooldowns.is_empty());
}

#[test]
fn a_key_whose_only_model_rests_is_cooling() {
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
fn each_class_rests_what_it_should_for_as_long_as_it_should() {
    for (class, expect, rest) in [
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
        assert_eq!(report.failed, u64::from(class.is_failure()), "{class:?}");
        match rest {
            Some(0) => assert!(pool.acquire(&demand).is_some(), "{class:?}"),
            Some(rest) => {
                world.clock.pass(seconds(rest) - Duration::from_millis(1));
                assert!(pool.acquire(&demand).is_none(), "{class:?} rests {rest} s");
                world.clock.pass(Duration::from_millis(1));
                assert!(
                    pool.acquire(&demand).is_some(),
                    "{class:?} is back after {rest} s"
                );
            }
            None => {
                world.clock.pass(seconds(1_000_000));
                assert!(
                    pool.acquire(&demand).is_none(),
                    "{class:?} does not come back by itself"
                );
                assert_eq!(pool.outlook(&demand), Outlook::default());
                assert!(pool.reset("k1").is_some());
                assert!(
                    pool.acquire(&demand).is_some(),
                    "{class:?} is back after a reset"
                );
            }
        }
    }
}

#[test]
fn exhaustion_rests_every_key_of_the_group_and_a_reset_ends_it() {
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
    assert!(pool.reset("k1").is_some());
    assert_eq!(
        state(&pool, "k2").state,
        KeyState::Active,
        "the group has quota again, so both have"
    );
    assert!(state(&pool, "k2").cooldowns.is_empty());
    assert!(pool.reset("nobody").is_none());
}

fn break_key(pool: &Arc<Pool>, name: &str) {
    let demand = Demand::of("m");
    for _ in 0..pool.settings().breaker.min_requests {
        fail(pool, &demand, name, &Fault::of(Class::UpstreamTrouble));
    }
}

#[test]
fn a_dead_key_is_set_aside_and_the_others_share_its_load() {
    let world = World::new();
    let pool = world.pool(settings(3));
    break_key(&pool, "k2");
    let report = state(&pool, "k2");
    assert_eq!(
        (report.state, report.is_available),
        (KeyState::Cooling, false)
    );
    assert_eq!(
        (report.cooldowns[0].class, &report.cooldowns[0].model),
        (Class::UpstreamTrouble, &None)
    );
    let served = names(&pool, &Demand::of("m"), 1000);
    let count = |name: &str| served.iter().filter(|served| *served == name).count();
    assert_eq!((count("k1"), count("k2"), count("k3")), (500, 0, 500));
}

#[test]
fn after_the_cooldown_one_trial_decides_and_a_recovered_key_ramps_up() {
    let world = World::new();
    let pool = world.pool(settings(2));
    let demand = Demand::of("m");
    break_key(&pool, "k1");
    world.clock.pass(seconds(300));
    let leases: Vec<Lease> = (0..6).filter_map(|_| pool.acquire(&demand)).collect();
    let on_k1 = |leases: &[Lease]| {
        leases
            .iter()
            .filter(|lease| &*lease.member().name == "k1")
            .count()
    };
    assert_eq!(on_k1(&leases), 1, "one trial at a time");
    drop(leases);
    // The trial was given up: the next call is the trial, and fails.
    fail(&pool, &demand, "k1", &Fault::of(Class::UpstreamTrouble));
    assert_eq!(
        names(&pool, &demand, 4),
        ["k2"; 4],
        "set aside again at once"
    );
    world.clock.pass(seconds(300));
    fail(&pool, &demand, "k1", &Fault::of(Class::Success));
    let leases: Vec<Lease> = (0..40).filter_map(|_| pool.acquire(&demand)).collect();
    assert_eq!(
        (on_k1(&leases), leases.len()),
        (2, 40),
        "a recovered key takes a few calls at first"
    );
    for lease in leases {
        lease.succeeded();
    }
    let leases: Vec<Lease> = (0..40).filter_map(|_| pool.acquire(&demand)).collect();
    assert_eq!(on_k1(&leases), 4, "and more with each success");
}

#[test]
fn max_ejected_keeps_a_share_unless_a_healthy_key_remains() {
    let world = World::new();
    // All fail alike: of four keys two may be set aside; the third only while a healthy one remains.
    let pool = world.pool(settings(4));
    let demand = Demand::of("m");
    for _ in 0..400 {
        if let Some(lease) = pool.acquire(&demand) {
            let _ = lease.failed(&Fault::of(Class::UpstreamTrouble));
        }
    }
    let aside = pool
        .report()
        .iter()
        .filter(|report| !report.is_available)
        .count();
    assert_eq!(aside, 2);
    // Three dead keys beside one that works: all three go.
    let pool = World::new().pool(settings(4));
    for _ in 0..400 {
        if let Some(lease) = pool.acquire(&demand) {
            let class = if &*lease.member().name == "k4" {
                Class::Success
            } else {
                Class::UpstreamTrouble
            };
            let _ = lease.failed(&Fault::of(class));
        }
    }
    assert_eq!(names(&pool, &demand, 3), ["k4"; 3]);
}

#[test]
fn beyond_the_share_a_key_is_set_aside_only_for_clearly_better_ones() {
    let demand = Demand::of("m");
    // (calls of k2, failed), (calls of k3, failed), whether k2 goes as well when k1 is gone already.
    for (second, third, goes, what) in [
        (
            (20, 11),
            (20, 9),
            false,
            "a provider that fails half of all calls",
        ),
        ((20, 11), (20, 5), false, "chance may be that kind"),
        (
            (20, 11),
            (20, 4),
            true,
            "a key in trouble beside a better one",
        ),
        ((20, 20), (20, 9), true, "a dead key beside a weak one"),
        ((20, 20), (20, 10), false, "half is not below the threshold"),
        ((20, 20), (1, 0), false, "one call proves nothing"),
        ((20, 20), (2, 0), true, "a dead key beside one that works"),
    ] {
        let pool = World::new().pool(settings(3));
        break_key(&pool, "k1");
        let is_gone = || state(&pool, "k2").state == KeyState::Cooling;
        for (name, (calls, failed)) in [("k3", third), ("k2", second)] {
            for call in 0..calls {
                let class = if call < calls - failed {
                    Class::Success
                } else {
                    Class::UpstreamTrouble
                };
                if !is_gone() {
                    fail(&pool, &demand, name, &Fault::of(class));
                }
            }
        }
        assert_eq!(is_gone(), goes, "{what}");
        assert!(state(&pool, "k3").is_available, "{what}");
    }
}

#[test]
fn with_no_other_key_usable_one_that_is_set_aside_serves() {
    let world = World::new();
    let pool = world.pool(settings(1));
    let demand = Demand::of("m");
    break_key(&pool, "k1");
    assert_eq!(state(&pool, "k1").state, KeyState::Cooling);
    assert_eq!(
        names(&pool, &demand, 2),
        ["k1", "k1"],
        "when all fail it is the provider"
    );
    let pool = World::new().pool(settings(2));
    break_key(&pool, "k1");
    fail(&pool, &demand, "k2", &Fault::of(Class::RateLimited));
    assert_eq!(names(&pool, &demand, 1), ["k1"], "k2 rests, so k1 serves");
}

#[test]
fn a_failed_key_comes_again_in_the_same_request_after_the_back_off_and_never_before_an_untried_one()
{
    let world = World::new();
    let pool = world.pool(settings(2));
    let mut demand = Demand::of("m");
    let lease = pool.acquire(&demand).expect("k1");
    demand.note_failure(lease.place(), world.clock.now() + seconds(1));
    drop(lease);
    assert_eq!(names(&pool, &demand, 2), ["k2", "k2"]);
    demand.note_failure(1, world.clock.now() + seconds(2));
    assert!(pool.acquire(&demand).is_none());
    assert_eq!(
        pool.outlook(&demand),
        Outlook {
            busy: false,
            at: Some(world.clock.now() + seconds(1))
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
        Ok(Handoff::Lease(lease)) => Some(lease),
        _ => None,
    }
}

#[test]
fn a_cap_holds_and_a_freed_slot_goes_to_the_first_in_line() {
    let pool = World::new().pool(capped(1, 2));
    let (demand, caller): (_, Caller) = (Demand::of("m"), "a".into());
    let first = pool.acquire(&demand).expect("a slot");
    let second = pool.acquire(&demand).expect("a slot");
    assert!(pool.acquire(&demand).is_none());
    let mut third = pool.join(&demand, &caller).expect("room");
    let mut fourth = pool.join(&demand, &caller).expect("room");
    assert!(waits(&mut third) && waits(&mut fourth));
    assert!(pool.acquire(&demand).is_none(), "who waits comes first");
    drop(first);
    let third = served(&mut third).expect("handed over");
    assert!(waits(&mut fourth));
    drop(third);
    drop(second);
    assert!(served(&mut fourth).is_some());
    assert_eq!((pool.waiting(), pool.report()[0].active), (0, 0));
}

#[test]
fn a_caller_with_many_waiting_does_not_starve_one_with_one() {
    let pool = World::new().pool(capped(1, 1));
    let demand = Demand::of("m");
    let mut held = pool.acquire(&demand);
    let (many, one): (Caller, Caller) = ("many".into(), "one".into());
    let mut lines: Vec<Ticket> = (0..100)
        .map(|_| pool.join(&demand, &many).expect("room"))
        .collect();
    let mut single = pool.join(&demand, &one).expect("room");
    let mut turns = 0;
    while waits(&mut single) {
        drop(held.take());
        held = lines.iter_mut().find_map(served);
        turns += 1;
        assert!(turns <= 2, "served within two turns");
    }
}

#[test]
fn when_the_queue_is_full_the_newest_of_the_caller_with_most_waiting_goes() {
    let mut wanted = capped(1, 1);
    wanted.queue.max_waiting = 3;
    let pool = World::new().pool(wanted);
    let demand = Demand::of("m");
    let _held = pool.acquire(&demand);
    let (many, one): (Caller, Caller) = ("many".into(), "one".into());
    let mut lines: Vec<Ticket> = (0..3)
        .map(|_| pool.join(&demand, &many).expect("room"))
        .collect();
    assert!(
        pool.join(&demand, &many).is_err(),
        "its own line is the longest"
    );
    let mut single = pool.join(&demand, &one).expect("room is made");
    assert!(matches!(lines[2].handoff.try_recv(), Ok(Handoff::Refused)));
    assert!(waits(&mut lines[0]) && waits(&mut lines[1]) && waits(&mut single));
    assert_eq!(pool.waiting(), 3);
}

#[test]
fn a_request_that_leaves_gives_up_its_place_and_what_it_was_handed() {
    let pool = World::new().pool(capped(1, 1));
    let (demand, caller): (_, Caller) = (Demand::of("m"), "a".into());
    let held = pool.acquire(&demand);
    let gone = pool.join(&demand, &caller).expect("room");
    let handed = pool.join(&demand, &caller).expect("room");
    let mut stays = pool.join(&demand, &caller).expect("room");
    drop(gone);
    assert_eq!(pool.waiting(), 2);
    drop(held);
    drop(handed);
    assert!(
        served(&mut stays).is_some(),
        "the slot handed to one that left goes on to the next"
    );
    assert_eq!(pool.waiting(), 0);
}

#[test]
fn one_that_waits_for_a_resting_model_does_not_hold_up_the_others() {
    let world = World::new();
    let pool = world.pool(capped(1, 1));
    let (resting, free, caller): (_, _, Caller) =
        (Demand::of("resting"), Demand::of("free"), "a".into());
    fail(
        &pool,
        &resting,
        "k1",
        &Fault::of(Class::RateLimited).with_wait(Some(seconds(5))),
    );
    let mut first = pool.join(&resting, &caller).expect("room");
    let mut second = pool.join(&free, &caller).expect("room");
    assert!(waits(&mut first));
    drop(served(&mut second).expect("its model does not rest"));
    world.clock.pass(seconds(5));
    pool.serve_waiting();
    assert!(served(&mut first).is_some());
}

#[test]
fn one_secret_at_one_host_is_one_key_in_every_pool_with_the_lowest_cap() {
    let world = World::new();
    let (mut a, mut b) = (capped(1, 5), capped(1, 2));
    (a.name, b.name) = ("a".into(), "b".into());
    b.keys[0].name = "another name".into();
    let pools = world.registry.pools(&[a, b], &[]);
    let demand = Demand::of("m");
    let [of_a, of_b, none] = [0, 1, 0].map(|pool: usize| pools[pool].acquire(&demand));
    assert!(of_a.is_some() && of_b.is_some());
    assert!(none.is_none(), "of differing caps the lowest holds");
    let mut waiting = pools[1].join(&demand, &"c".into()).expect("room");
    drop(of_a);
    assert!(
        served(&mut waiting).is_some(),
        "a slot freed in one pool serves the other"
    );
    drop(of_b);
}

#[test]
fn a_slot_freed_by_a_call_of_an_ended_configuration_serves_who_waits_now() {
    let world = World::new();
    let before = world.registry.pools(&[capped(1, 1)], &[]);
    let demand = Demand::of("m");
    let held = before[0].acquire(&demand);
    assert!(held.is_some());
    let mut changed = capped(1, 1);
    changed.models = vec!["m".into()];
    let now = world.registry.pools(&[changed], &before);
    let mut waiting = now[0].join(&demand, &"c".into()).expect("room");
    assert!(waits(&mut waiting));
    drop((before, held));
    assert!(served(&mut waiting).is_some());
}

#[test]
fn a_reload_keeps_the_state_of_keys_that_stay_and_the_pools_that_did_not_change() {
    let world = World::new();
    let (mut first, mut second) = (settings(2), settings(2));
    (first.name, second.name) = ("first".into(), "second".into());
    second
        .keys
        .iter_mut()
        .for_each(|key| key.secret = Secret::new(format!("other-{}", key.name)));
    let before = world.registry.pools(&[first.clone(), second.clone()], &[]);
    let demand = Demand::of("m");
    fail(&before[0], &demand, "k2", &Fault::of(Class::Rejected));
    let in_flight = before[0].acquire(&demand).expect("k1");
    first.keys.reverse();
    first.keys[0].name = "renamed".into();
    first.keys.push(key(3));
    let after = world.registry.pools(&[first, second], &before);
    assert!(Arc::ptr_eq(&before[1], &after[1]) && !Arc::ptr_eq(&before[0], &after[0]));
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
    drop(before);
    in_flight.succeeded();
    assert_eq!(state(&after[0], "k1").active, 0);
    assert_eq!(names(&after[0], &demand, 2), ["k1", "k3"]);
}

#[test]
fn a_queue_full_of_waiters_for_one_model_does_not_refuse_one_whose_key_is_free() {
    let world = World::new();
    let mut wanted = settings(1);
    wanted.queue.max_waiting = 2;
    let pool = world.pool(wanted);
    let (resting, caller): (_, Caller) = (Demand::of("resting"), "a".into());
    fail(&pool, &resting, "k1", &Fault::of(Class::RateLimited));
    let _waiting: Vec<Ticket> = (0..2)
        .map(|_| pool.join(&resting, &caller).expect("room"))
        .collect();
    let mut ticket = pool
        .join(&Demand::of("free"), &caller)
        .expect("its key is free");
    assert!(served(&mut ticket).is_some());
    assert!(pool.join(&resting, &caller).is_err());
    drop(ticket);
    assert_eq!(pool.waiting(), 2);
}

#[test]
fn a_key_that_leaves_its_group_no_longer_shares_its_fate() {
    let world = World::new();
    let mut wanted = settings(2);
    wanted
        .keys
        .iter_mut()
        .for_each(|key| key.group = Some("org".into()));
    let before = world.registry.pools(&[wanted.clone()], &[]);
    wanted.keys[1].group = None;
    let after = world.registry.pools(&[wanted], &before);
    fail(
        &after[0],
        &Demand::of("m"),
        "k1",
        &Fault::of(Class::Exhausted),
    );
    assert_eq!(state(&after[0], "k1").state, KeyState::Exhausted);
    assert_eq!(state(&after[0], "k2").state, KeyState::Active);
}

#[test]
fn a_key_that_awaits_its_trial_is_no_healthy_key_to_spare_another_for() {
    let world = World::new();
    let pool = world.pool(settings(4));
    let demand = Demand::of("m");
    let fail_all_but = |good: &[&str], calls: usize| {
        for _ in 0..calls {
            let Some(lease) = pool.acquire(&demand) else {
                continue;
            };
            let good = good.contains(&&*lease.member().name);
            let class = if good {
                Class::Success
            } else {
                Class::UpstreamTrouble
            };
            let _ = lease.failed(&Fault::of(class));
        }
    };
    fail_all_but(&["k4"], 400);
    assert_eq!(
        names(&pool, &demand, 2),
        ["k4"; 2],
        "a healthy key remained"
    );
    world.clock.pass(seconds(300));
    let _trials: Vec<Lease> = (0..4).filter_map(|_| pool.acquire(&demand)).collect();
    for _ in 0..20 {
        fail(&pool, &demand, "k4", &Fault::of(Class::UpstreamTrouble));
    }
    assert_eq!(
        names(&pool, &demand, 2),
        ["k4"; 2],
        "the others are on trial, so it stays"
    );
}

/// Mission B: the provider answers 503 to half of all calls at random.
#[test]
fn while_half_of_all_calls_fail_three_keys_fail_few_requests_and_the_pool_is_never_empty() {
    let world = World::new();
    let pool = world.pool(settings(3));
    let mut random = fastrand::Rng::with_seed(7);
    let mut lost = 0;
    for _ in 0..20_000 {
        let mut demand = Demand::of("m");
        let mut attempts = 0;
        let answered = loop {
            let lease = loop {
                match pool.acquire(&demand) {
                    Some(lease) => break lease,
                    None => {
                        let at = pool
                            .outlook(&demand)
                            .at
                            .expect("a key comes back: the pool is never empty");
                        world.clock.pass(at - world.clock.now());
                    }
                }
            };
            attempts += 1;
            if random.bool() {
                lease.succeeded();
                break true;
            }
            demand.note_failure(lease.place(), world.clock.now() + seconds(1));
            let _ = lease.failed(&Fault::of(Class::UpstreamTrouble));
            if attempts == pool.max_attempts(&Demand::default()) {
                break false;
            }
        };
        lost += u32::from(!answered);
        world.clock.pass(Duration::from_millis(50));
    }
    assert!(
        lost < 400,
        "{lost} of 20,000 failed; 1/64 is to be expected"
    );
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
                let caller: Caller = format!("caller-{thread}").into();
                for _ in 0..5_000 {
                    let demand = Demand::of(if random.bool() { "m" } else { "n" });
                    let lease = pool
                        .acquire(&demand)
                        .or_else(|| wait_a_little(pool, &demand, &caller));
                    let Some(lease) = lease else { continue };
                    let place = lease.place();
                    assert!(
                        in_use[place].fetch_add(1, Ordering::SeqCst) < CAP,
                        "the cap holds"
                    );
                    std::thread::yield_now();
                    in_use[place].fetch_sub(1, Ordering::SeqCst);
                    end(lease, &mut random);
                    if random.u8(..) < 16 {
                        world.clock.pass(seconds(1));
                        let _ = pool.reset(&pool.members()[random.usize(..4)].name.clone());
                    }
                }
            });
        }
    });
    assert_eq!(pool.waiting(), 0);
    assert!(!pool.board.anyone_waits());
    for member in pool.members() {
        assert_eq!(member.key.active(), 0);
        pool.reset(&member.name);
    }
    let all: Vec<Lease> = (0..100)
        .filter_map(|_| pool.acquire(&Demand::of("m")))
        .collect();
    assert_eq!(all.len() as u32, 4 * CAP, "every slot can be had again");
}

fn wait_a_little(pool: &Arc<Pool>, demand: &Demand, caller: &Caller) -> Option<Lease> {
    let mut ticket = pool.join(demand, caller).ok()?;
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
            let _ = lease.failed(&Fault::of(class).with_wait(Some(seconds(1))));
        }
        _ => lease.succeeded(),
    }
}

/// Four keys: two of the account `a`, two alone.
fn with_an_account() -> PoolSettings {
    let mut settings = capped(4, 1);
    settings.keys[1].group = Some("a".into());
    settings.keys[3].group = Some("a".into());
    settings
}

fn bound_to(pool: &Arc<Pool>, name: &str) -> Demand {
    let lease = (0..4)
        .map(|_| pool.acquire(&Demand::of("m")).expect("a key"))
        .find(|lease| &*lease.member().name == name)
        .expect("the key exists");
    let group = lease.origin().group_id();
    Demand {
        only_group: pool.group(&group),
        ..Demand::of("m")
    }
}

#[test]
fn a_request_bound_to_a_group_is_served_by_its_keys_alone() {
    let world = World::new();
    let pool = world.pool(with_an_account());
    let demand = bound_to(&pool, "k2");
    assert_eq!(names(&pool, &demand, 4), ["k4", "k2", "k4", "k2"]);
    assert_eq!(pool.max_attempts(&demand), 4, "twice the group's keys");
    assert_eq!(pool.census(&demand).total, 2);
    let alone = bound_to(&pool, "k3");
    assert_eq!(names(&pool, &alone, 2), ["k3", "k3"]);
    let _held = pool.acquire(&alone).unwrap();
    assert!(
        pool.acquire(&alone).is_none(),
        "others are free, but not for it"
    );
    assert!(pool.outlook(&alone).busy);
    fail(&pool, &demand, "k2", &Fault::of(Class::RateLimited));
    assert!(pool.acquire(&demand).is_none(), "the whole group rests");
    assert!(!pool.outlook(&demand).busy && pool.outlook(&demand).at.is_some());
}

#[test]
fn a_request_bound_to_a_group_is_not_served_by_a_key_set_aside_elsewhere() {
    let world = World::new();
    let mut settings = with_an_account();
    settings.breaker.min_requests = 1;
    settings.breaker.max_ejected = 1.0;
    let pool = world.pool(settings);
    let demand = bound_to(&pool, "k2");
    let trouble = Fault::of(Class::UpstreamTrouble);
    for name in ["k1", "k2", "k3", "k4"] {
        fail(&pool, &Demand::of("m"), name, &trouble);
    }
    for _ in 0..4 {
        let lease = pool
            .acquire(&demand)
            .expect("the provider may be well again");
        assert!(["k2", "k4"].contains(&&*lease.member().name), "{lease:?}");
    }
}

#[tokio::test]
async fn those_who_wait_for_a_group_keep_no_others_from_their_keys() {
    let world = World::new();
    let pool = world.pool(with_an_account());
    let bound = bound_to(&pool, "k1");
    let mut all: Vec<Lease> = (0..4)
        .map(|_| pool.acquire(&Demand::of("m")).unwrap())
        .collect();
    let caller: Caller = "c".into();
    let mut first = pool.join(&bound, &caller).unwrap();
    let mut second = pool.join(&Demand::of("m"), &caller).unwrap();
    let mut free = |name: &str| {
        let at = all.iter().position(|lease| &*lease.member().name == name);
        all.remove(at.unwrap()).succeeded();
    };
    free("k3");
    assert!(first.handoff.try_recv().is_err(), "k3 is of another group");
    assert!(
        matches!(second.handoff.try_recv(), Ok(Handoff::Lease(lease)) if &*lease.member().name == "k3")
    );
    free("k1");
    assert!(
        matches!(first.handoff.try_recv(), Ok(Handoff::Lease(lease)) if &*lease.member().name == "k1")
    );
}

#[test]
fn a_group_is_known_again_after_a_reload_and_in_another_pool() {
    let world = World::new();
    let pool = world.pool(with_an_account());
    let ids: Vec<GroupId> = (0..4)
        .map(|_| pool.acquire(&Demand::of("m")).unwrap().origin().group_id())
        .collect();
    assert_eq!(ids[1], ids[3]);
    assert_eq!(
        ids.iter().collect::<std::collections::HashSet<_>>().len(),
        3
    );
    let mut other = with_an_account();
    other.name = "q".into();
    other.keys.rotate_left(1);
    other.keys.pop();
    let other = world.pool(other);
    let found: Vec<bool> = ids.iter().map(|id| other.group(id).is_some()).collect();
    assert_eq!(found, [false, true, true, true]);
    assert_eq!(pool.only_group(), None);
    assert_eq!(world.pool(settings(0)).only_group(), None);
    let one = world.pool(settings(1));
    assert_eq!(one.only_group(), Some(ids[0].clone()));
}

#[test]
fn what_a_key_made_is_found_where_the_key_is_now() {
    let world = World::new();
    let pool = world.pool(with_an_account());
    let made: Vec<Origin> = (0..4)
        .map(|_| pool.acquire(&Demand::of("m")).unwrap().origin())
        .collect();
    assert!(made[1].is_account_of(&made[3]) && !made[1].is_account_of(&made[0]));
    assert!(made[0].is_account_of(&made[0]) && !made[0].is_account_of(&made[2]));
    let named = |name: &str| Some(GroupId::Named(settings(1).provider, name.into()));
    let now = |changed: &dyn Fn(&mut PoolSettings)| -> Vec<Option<GroupId>> {
        let mut other = with_an_account();
        other.name = "q".into();
        changed(&mut other);
        let other = world.pool(other);
        made.iter()
            .map(|origin| other.group_of_origin(origin))
            .collect()
    };
    let alone = |n: usize| Some(GroupId::OfKey(made[n].key.clone()));
    // The account has another name, another one has its name, and the first key belongs to that.
    let renamed = now(&|other| {
        other.keys[1].group = Some("b".into());
        other.keys[3].group = Some("b".into());
        other.keys[0].group = Some("a".into());
    });
    assert_eq!(renamed, [named("a"), named("b"), alone(2), named("b")]);
    // The key that made it is gone, and another of the account is there.
    let fewer = now(&|other| {
        other.keys.remove(1);
        other.keys.remove(0);
    });
    assert_eq!(fewer, [None, named("a"), alone(2), named("a")]);
}
