//! A pool outlives its keys: waiting requests, calls in flight and the memory of conversations survive a reload.

use super::*;
use crate::balance::AffinityMatch;

fn reload(world: &World, pool: &Arc<Pool>, settings: PoolSettings) {
    let after = world
        .registry
        .pools(&[settings.into()], std::slice::from_ref(pool));
    assert!(Arc::ptr_eq(&after[0], pool), "it is the same pool");
}

fn join(pool: &Arc<Pool>, caller: &str) -> Ticket {
    let caller: FairnessKey = caller.into();
    pool.join(&Demand::of("m"), &caller, Lane::Interactive)
        .expect("room")
}

#[test]
fn a_waiting_request_is_served_by_a_key_added_meanwhile() {
    let world = World::new();
    let pool = world.pool(capped(1, 1));
    let _held = pool.lease(&Demand::of("m")).expect("k1");
    let mut waiting = join(&pool, "a");
    assert!(waits(&mut waiting));
    reload(&world, &pool, capped(2, 1));
    let lease = served(&mut waiting).expect("the new key is free");
    assert_eq!(&*lease.member().name, "k2");
    assert_eq!(pool.waiting(), 0);
}

#[test]
fn a_new_key_takes_no_more_waiting_requests_than_its_cap_allows() {
    let world = World::new();
    let pool = world.pool(capped(1, 1));
    let _held = pool.lease(&Demand::of("m")).expect("k1");
    let mut waiting: Vec<Ticket> = (0..3).map(|_| join(&pool, "a")).collect();
    reload(&world, &pool, capped(2, 1));
    let leases: Vec<Lease> = waiting.iter_mut().filter_map(served).collect();
    assert_eq!((leases.len(), pool.waiting()), (1, 2));
}

#[test]
fn a_key_removed_while_in_use_finishes_its_calls() {
    let world = World::new();
    let pool = world.pool(settings(2));
    let demand = Demand::of("m");
    let leases: Vec<Lease> = (0..4).filter_map(|_| pool.lease(&demand)).collect();
    let removed = Arc::clone(&pool.current().members()[1].key);
    assert_eq!(removed.active(), 2);
    reload(&world, &pool, settings(1));
    assert_eq!(names(&pool, &demand, 3), ["k1"; 3], "it takes no new calls");
    for (lease, class) in leases.into_iter().zip([
        Class::Success,
        Class::Success,
        Class::UpstreamTrouble,
        Class::RateLimited,
    ]) {
        let name = Arc::clone(&lease.member().name);
        let effect = finish(lease, &Fault::of(class));
        let cooldown = (class == Class::RateLimited).then_some(seconds(60));
        assert_eq!(effect.cooldown, cooldown, "{name}");
    }
    assert_eq!(
        (removed.active(), removed.total(), removed.failed()),
        (0, 2, 1)
    );
    assert_eq!(state(&pool, "k1").active, 0);
    let weak = Arc::downgrade(&removed);
    drop(removed);
    assert!(weak.upgrade().is_none(), "nothing holds on to it");
}

#[test]
fn a_slot_of_a_key_that_stays_goes_to_the_waiting_request() {
    let world = World::new();
    let pool = world.pool(capped(2, 1));
    let held: Vec<Lease> = (0..2)
        .filter_map(|_| pool.lease(&Demand::of("m")))
        .collect();
    let mut waiting = join(&pool, "a");
    let mut changed = capped(2, 1);
    changed.keys.remove(0);
    reload(&world, &pool, changed);
    let [first, second]: [Lease; 2] = held.try_into().unwrap();
    drop(first);
    assert!(waits(&mut waiting), "k1 has left the pool");
    drop(second);
    let lease = served(&mut waiting).expect("k2 is free");
    assert_eq!((&*lease.member().name, lease.member().index()), ("k2", 0));
}

#[test]
fn changed_settings_cost_nobody_a_place_in_a_full_queue() {
    let world = World::new();
    let mut wanted = capped(1, 1);
    wanted.queue.max_waiting = 4;
    let pool = world.pool(wanted.clone());
    let mut held = pool.lease(&Demand::of("m"));
    let mut waiting: Vec<Ticket> = ["a", "a", "a", "b"].map(|name| join(&pool, name)).into();
    wanted.queue.max_waiting = 2;
    wanted.retry.retries = 1;
    reload(&world, &pool, wanted);
    for newcomer in ["a", "c"] {
        let newcomer = pool.join(&Demand::of("m"), &newcomer.into(), Lane::Interactive);
        assert!(newcomer.is_err(), "no room for newcomers");
    }
    assert_eq!(pool.waiting(), 4);
    let mut order = Vec::new();
    while pool.waiting() > 0 {
        drop(held.take());
        let now = (0..4).find_map(|n| Some((n, served(&mut waiting[n])?)));
        let (n, lease) = now.expect("one is served");
        order.push(n);
        held = Some(lease);
    }
    assert_eq!(
        order,
        [0, 3, 1, 2],
        "callers in turn, first come first served"
    );
}

#[test]
fn a_caller_keeps_its_turn_when_the_keys_change() {
    let world = World::new();
    let pool = world.pool(capped(1, 1));
    let held = pool.lease(&Demand::of("m"));
    let mut a: Vec<Ticket> = (0..2).map(|_| join(&pool, "a")).collect();
    let mut b = join(&pool, "b");
    drop(held);
    let of_a = served(&mut a[0]).expect("a is first");
    let mut replaced = capped(1, 1);
    replaced.keys[0].secret = Secret::new("another secret");
    reload(&world, &pool, replaced);
    let _of_b = served(&mut b).expect("it is the turn of b");
    drop(of_a);
    assert!(waits(&mut a[1]), "the old key has left the pool");
}

#[test]
fn a_key_tried_before_a_reload_counts_as_tried_after_it() {
    let world = World::new();
    let pool = world.pool(settings(2));
    let mut demand = Demand::of("m");
    let back = world.clock.now() + seconds(9);
    demand.note_failure(&pool.current().members()[1], back);
    let mut turned = settings(2);
    turned.keys.reverse();
    reload(&world, &pool, turned);
    assert_eq!(names(&pool, &demand, 2), ["k1", "k1"]);
    demand.note_failure(&pool.current().members()[1], back);
    assert!(pool.lease(&demand).is_none(), "both were tried");
    assert_eq!(pool.next_available(&demand).cooldown_ends, Some(back));
    reload(&world, &pool, settings(3));
    assert_eq!(names(&pool, &demand, 1), ["k3"], "the new key was not");
}

#[test]
fn a_request_bound_to_a_group_stays_bound_after_a_reload() {
    let world = World::new();
    let mut wanted = capped(2, 1);
    wanted.keys[1].group = Some("org".into());
    let pool = world.pool(wanted.clone());
    let group = GroupId::Named("mock", "org".into());
    let bound = Demand {
        bound_group: pool.group(&group),
        ..Demand::of("m")
    };
    let _held = pool.lease(&bound).expect("k2");
    let mut waiting = pool
        .join(&bound, &"a".into(), Lane::Interactive)
        .expect("room");
    wanted.keys.push(key(3));
    wanted.keys[2].group = Some("org".into());
    wanted.keys.swap(0, 2);
    reload(&world, &pool, wanted);
    let lease = served(&mut waiting).expect("its group has a new key");
    assert_eq!(&*lease.member().name, "k3");
}

#[test]
fn a_conversation_away_from_home_stays_there_when_keys_change() {
    let world = World::new();
    let mut wanted = settings(3);
    wanted.strategy = Strategy::Affinity;
    let pool = world.pool(wanted.clone());
    let demand = Demand {
        conversation: Some(1),
        ..Demand::of("m")
    };
    let limited = Fault::of(Class::RateLimited).with_wait(Some(seconds(1)));
    let _ = pool.lease(&demand).expect("its home").finish(&limited);
    let away = pool.acquire(&demand).expect("another group");
    assert_eq!(
        away.selection.by,
        Some(SelectedBy::Affinity(AffinityMatch::Overflow))
    );
    let name = Arc::clone(&away.lease.member().name);
    drop(away);
    world.clock.pass(seconds(1));
    wanted.keys.insert(0, key(4));
    wanted.keys.push(key(5));
    reload(&world, &pool, wanted.clone());
    let warm = pool.acquire(&demand).expect("a key");
    assert_eq!(
        warm.selection.by,
        Some(SelectedBy::Affinity(AffinityMatch::Warm))
    );
    assert_eq!(warm.lease.member().name, name);
    drop(warm);
    wanted.keys.retain(|key| key.name != name);
    reload(&world, &pool, wanted);
    let leased = pool.acquire(&demand).expect("a key");
    assert_ne!(
        leased.selection.by,
        Some(SelectedBy::Affinity(AffinityMatch::Warm)),
        "that group is gone"
    );
}

#[test]
fn waiting_requests_of_a_removed_pool_are_served_by_its_old_keys() {
    let world = World::new();
    let mut other = capped(1, 1);
    other.name = "other".into();
    let pool = world.pool(capped(1, 1));
    let held = pool.lease(&Demand::of("m"));
    let mut waiting = join(&pool, "a");
    let after = world
        .registry
        .pools(&[other.into()], std::slice::from_ref(&pool));
    assert!(!Arc::ptr_eq(&after[0], &pool));
    drop(held);
    assert!(served(&mut waiting).is_some());
}

#[test]
fn a_change_of_keys_wakes_those_who_wait_for_a_cooldown() {
    let world = World::new();
    let pool = world.pool(settings(1));
    let mut changed = Box::pin(pool.cooldowns_changed());
    changed.as_mut().enable();
    reload(&world, &pool, settings(1));
    let waker = std::task::Waker::noop();
    let mut context = std::task::Context::from_waker(waker);
    let mut is_changed = || changed.as_mut().poll(&mut context).is_ready();
    assert!(!is_changed(), "nothing changed");
    reload(&world, &pool, settings(2));
    assert!(is_changed());
}

#[test]
fn what_was_prepared_comes_with_the_key_and_follows_its_settings() {
    let world = World::new();
    let pool = world.pool(settings(1));
    let before = pool.lease(&Demand::of("m")).expect("k1");
    let mut renamed = settings(1);
    renamed.keys[0].name = "renamed".into();
    reload(&world, &pool, renamed);
    let after = pool.lease(&Demand::of("m")).expect("k1");
    let prepared = |lease: &Lease| lease.member().prepared::<String>().cloned();
    assert_eq!(prepared(&before).as_deref(), Some("p/k1"));
    assert_eq!(prepared(&after).as_deref(), Some("p/renamed"));
    assert_eq!(after.member().prepared::<u8>(), None);
}

/// Keys come and go while requests are served and wait: caps hold, and nothing is lost.
#[test]
fn under_concurrency_reloads_lose_no_slot_and_no_waiting_request() {
    const CAP: u32 = 2;
    let world = World::new();
    let pool = world.pool(capped(3, CAP));
    let calls = AtomicU32::new(0);
    std::thread::scope(|scope| {
        for thread in 0..3u64 {
            let (pool, calls) = (&pool, &calls);
            scope.spawn(move || {
                let mut random = fastrand::Rng::with_seed(thread);
                let caller: FairnessKey = format!("caller-{thread}").into();
                let demand = Demand::of("m");
                for _ in 0..3_000 {
                    let lease = pool
                        .lease(&demand)
                        .or_else(|| wait_a_little(pool, &demand, &caller));
                    let Some(lease) = lease else { continue };
                    assert!(lease.member().key.active() <= CAP, "the cap holds");
                    calls.fetch_add(1, Ordering::SeqCst);
                    std::thread::yield_now();
                    end(lease, &mut random);
                    if random.u8(..) < 32 {
                        let members = pool.keys();
                        members.members().iter().for_each(|one| one.reset());
                    }
                }
            });
        }
        let mut random = fastrand::Rng::with_seed(9);
        for _ in 0..300 {
            reload(&world, &pool, capped(random.usize(1..=4), CAP));
            std::thread::yield_now();
        }
    });
    assert!(calls.load(Ordering::SeqCst) > 0);
    reload(&world, &pool, capped(4, CAP));
    assert!(pool.waiting() == 0 && !pool.wait_signal.anyone_anywhere());
    for member in pool.current().members().iter() {
        member.reset();
        assert_eq!(member.key.active(), 0);
    }
    let all: Vec<Lease> = (0..100)
        .filter_map(|_| pool.lease(&Demand::of("m")))
        .collect();
    assert_eq!(all.len() as u32, 4 * CAP, "every slot is free again");
}
