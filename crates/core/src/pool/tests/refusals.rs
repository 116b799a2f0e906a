//! A pool whose keys are all cooling refuses without looking at each again, and only while they are cooling.

use super::*;

fn looks(pool: &Pool) -> u64 {
    pool.keys().looks.load(Ordering::SeqCst)
}

/// A request that finds no key.
fn refused(pool: &Arc<Pool>, demand: &Demand) -> NextAvailable {
    assert!(pool.lease(demand).is_none());
    let next_available = pool.next_available(demand);
    let key_counts = pool.key_counts(demand);
    assert_eq!(key_counts.total, pool.current().members().len());
    next_available
}

fn all_fail(pool: &Arc<Pool>, demand: &Demand, fault: &Fault) {
    while let Some(lease) = pool.lease(demand) {
        finish(lease, fault);
    }
}

#[test]
fn a_refusal_does_not_look_at_every_key_again() {
    let world = World::new();
    let pool = world.pool(settings(500));
    // Two models that share a slot of the cache.
    let (m, n) = (Demand::of("m"), Demand::of("}"));
    let fault = Fault::of(Class::RateLimited).with_wait(Some(seconds(30)));
    all_fail(&pool, &m, &fault);
    let first = refused(&pool, &m);
    assert_eq!(
        first,
        NextAvailable {
            slot_may_free: false,
            cooldown_ends: Some(world.clock.now() + seconds(30))
        }
    );
    let before = looks(&pool);
    for _ in 0..100 {
        assert_eq!(refused(&pool, &m), first);
    }
    assert_eq!(looks(&pool), before);
    assert!(pool.lease(&n).is_some(), "another model is not cooling");
    assert!(pool.next_available(&n).slot_may_free);
    assert_eq!(refused(&pool, &m), first);
    assert_eq!(pool.key_counts(&m).rate_limited, 500);
}

#[test]
fn a_kept_result_ends_when_the_first_key_is_due_and_at_a_reset() {
    let world = World::new();
    let demand = Demand::of("m");
    let all_cooling = |class, wait| {
        let pool = world.pool(settings(3));
        let fault = Fault::of(class).with_wait(Some(seconds(wait)));
        all_fail(&pool, &demand, &fault);
        refused(&pool, &demand);
        pool
    };
    for class in [Class::RateLimited, Class::Exhausted, Class::Forbidden] {
        let pool = all_cooling(class, 5);
        world.clock.pass(seconds(5));
        assert!(pool.lease(&demand).is_some(), "{class:?} is over");
        let pool = all_cooling(class, 3600);
        assert!(pool.member("k2").map(|key| key.reset()).is_some());
        assert_eq!(names(&pool, &demand, 1), ["k2"], "{class:?} was cleared");
    }
    let pool = all_cooling(Class::Rejected, 0);
    assert_eq!(pool.max_attempts(&demand), 0);
    assert!(pool.member("k2").map(|key| key.reset()).is_some());
    assert_eq!(pool.max_attempts(&demand), 2);
    assert_eq!(names(&pool, &demand, 1), ["k2"]);
}

#[test]
fn every_change_of_a_flag_ends_a_kept_result() {
    let pool = World::new().pool(settings(2));
    let demand = Demand::of("m");
    let all = |set: u32, clear: u32| {
        for member in pool.current().members().iter() {
            member.key.change(set, clear);
        }
    };
    all(flag::DISABLED, 0);
    assert_eq!(refused(&pool, &demand), NextAvailable::default());
    all(0, flag::DISABLED);
    assert!(pool.lease(&demand).is_some());
}

#[test]
fn a_kept_result_is_not_used_for_a_request_that_has_tried_keys() {
    let world = World::new();
    let pool = world.pool(settings(1));
    let plain = Demand::of("m");
    let mut tried = plain.clone();
    let back = world.clock.now() + seconds(1);
    tried.note_failure(&pool.current().members()[0], back);
    let expect = NextAvailable {
        slot_may_free: false,
        cooldown_ends: Some(back),
    };
    assert_eq!(pool.next_available(&tried), expect);
    assert!(pool.next_available(&plain).slot_may_free && pool.lease(&plain).is_some());
    assert_eq!(pool.next_available(&tried), expect);
}

#[test]
fn a_longer_cooldown_set_later_replaces_a_kept_result() {
    let world = World::new();
    let pool = world.pool(settings(2));
    let (first, demand) = (Demand::of("m"), Demand::of("m"));
    let held = pool.lease(&demand).expect("free");
    all_fail(
        &pool,
        &first,
        &Fault::of(Class::RateLimited).with_wait(Some(seconds(5))),
    );
    assert_eq!(
        refused(&pool, &demand).cooldown_ends,
        Some(world.clock.now() + seconds(5))
    );
    for (name, wait) in [("k1", 50), ("k2", 40)] {
        let index = usize::from(name == "k2");
        let cooldown = crate::cooldowns::Cooldown {
            until: world.clock.now() + seconds(wait),
            class: Class::RateLimited,
        };
        let keys = pool.current();
        let member = &keys.members()[index];
        member
            .group
            .cooldowns
            .set(&demand.model, cooldown, world.clock.now());
        member.key.notify_changed();
    }
    assert_eq!(
        refused(&pool, &demand).cooldown_ends,
        Some(world.clock.now() + seconds(40))
    );
    drop(held);
}

/// One thread ends cooldowns while others keep asking, and so keep results.
#[test]
fn under_concurrency_an_available_key_is_never_taken_for_a_cooling_one() {
    let world = World::new();
    let pool = world.pool(settings(2));
    let demand = Demand::of("m");
    let over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !over.load(Ordering::SeqCst) {
                    drop(pool.lease(&demand));
                    pool.next_available(&demand);
                    pool.key_counts(&demand);
                }
            });
        }
        let all = || {
            for round in 0..5_000 {
                let class = [Class::RateLimited, Class::Exhausted, Class::Rejected][round % 3];
                all_fail(&pool, &demand, &Fault::of(class));
                pool.next_available(&demand);
                let back = if round % 2 == 0 { "k1" } else { "k2" };
                assert!(pool.member(back).map(|key| key.reset()).is_some());
                if pool.lease(&demand).is_none() {
                    return Err(round);
                }
            }
            Ok(())
        };
        let done = all();
        over.store(true, Ordering::SeqCst);
        assert_eq!(done, Ok(()), "a key that was reset could not be acquired");
    });
}
