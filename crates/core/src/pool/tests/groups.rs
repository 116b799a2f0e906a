//! Requests that only the keys of one quota group may serve.

use super::*;

/// Four keys: two of the account `a`, two alone.
fn with_an_account() -> PoolSettings {
    let mut settings = capped(4, 1);
    settings.keys[1].group = Some("a".into());
    settings.keys[3].group = Some("a".into());
    settings
}

fn bound_to(pool: &Arc<Pool>, name: &str) -> Demand {
    let lease = (0..4)
        .map(|_| pool.lease(&Demand::of("m")).expect("a key"))
        .find(|lease| &*lease.member().name == name)
        .expect("the key exists");
    let group = lease.origin().group_id();
    Demand {
        bound_group: pool.group(&group),
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
    assert_eq!(pool.key_counts(&demand).total, 2);
    let alone = bound_to(&pool, "k3");
    assert_eq!(names(&pool, &alone, 2), ["k3", "k3"]);
    let _held = pool.lease(&alone).unwrap();
    assert!(
        pool.lease(&alone).is_none(),
        "other keys are free, but not for it"
    );
    assert!(pool.next_available(&alone).slot_may_free);
    fail(&pool, &demand, "k2", &Fault::of(Class::RateLimited));
    assert!(
        pool.lease(&demand).is_none(),
        "the whole group is rate-limited"
    );
    assert!(
        !pool.next_available(&demand).slot_may_free
            && pool.next_available(&demand).cooldown_ends.is_some()
    );
}

#[test]
fn a_bound_request_is_not_served_by_an_ejected_key_of_another_group() {
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
            .lease(&demand)
            .expect("an ejected key serves as a last resort");
        assert!(["k2", "k4"].contains(&&*lease.member().name), "{lease:?}");
    }
}

#[tokio::test]
async fn requests_bound_to_a_group_do_not_hold_up_others() {
    let world = World::new();
    let pool = world.pool(with_an_account());
    let bound = bound_to(&pool, "k1");
    let mut all: Vec<Lease> = (0..4)
        .map(|_| pool.lease(&Demand::of("m")).unwrap())
        .collect();
    let caller: FairnessKey = "c".into();
    let mut first = pool.join(&bound, &caller, Lane::Interactive).unwrap();
    let mut second = pool
        .join(&Demand::of("m"), &caller, Lane::Interactive)
        .unwrap();
    let mut free = |name: &str| {
        let at = all.iter().position(|lease| &*lease.member().name == name);
        drop(all.remove(at.unwrap()));
    };
    free("k3");
    assert!(first.handoff.try_recv().is_err(), "k3 is of another group");
    assert!(served(&mut second).is_some_and(|lease| &*lease.member().name == "k3"));
    free("k1");
    assert!(served(&mut first).is_some_and(|lease| &*lease.member().name == "k1"));
}

#[test]
fn a_group_is_recognised_in_another_pool() {
    let world = World::new();
    let pool = world.pool(with_an_account());
    let ids: Vec<GroupId> = (0..4)
        .map(|_| pool.lease(&Demand::of("m")).unwrap().origin().group_id())
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
    assert_eq!(pool.sole_group(), None);
    assert_eq!(world.pool(settings(0)).sole_group(), None);
    let one = world.pool(settings(1));
    assert_eq!(one.sole_group(), Some(ids[0].clone()));
}

#[test]
fn objects_are_found_in_the_group_that_their_key_has_now() {
    let world = World::new();
    let pool = world.pool(with_an_account());
    let made: Vec<ObjectOrigin> = (0..4)
        .map(|_| pool.lease(&Demand::of("m")).unwrap().origin())
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
    // The account has another name, a different one has its name, and the first key belongs to that.
    let renamed = now(&|other| {
        other.keys[1].group = Some("b".into());
        other.keys[3].group = Some("b".into());
        other.keys[0].group = Some("a".into());
    });
    assert_eq!(renamed, [named("a"), named("b"), alone(2), named("b")]);
    // The key that made it is gone, and another key of the account is there.
    let fewer = now(&|other| {
        other.keys.remove(1);
        other.keys.remove(0);
    });
    assert_eq!(fewer, [None, named("a"), alone(2), named("a")]);
}
