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
    assert_eq!(pool.key_counts(&demand).total, 2);
    let alone = bound_to(&pool, "k3");
    assert_eq!(names(&pool, &alone, 2), ["k3", "k3"]);
    let _held = pool.acquire(&alone).unwrap();
    assert!(
        pool.acquire(&alone).is_none(),
        "others are free, but not for it"
    );
    assert!(pool.next_available(&alone).slot_may_free);
    fail(&pool, &demand, "k2", &Fault::of(Class::RateLimited));
    assert!(pool.acquire(&demand).is_none(), "the whole group rests");
    assert!(
        !pool.next_available(&demand).slot_may_free
            && pool.next_available(&demand).cooldown_ends.is_some()
    );
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
    let made: Vec<ObjectOrigin> = (0..4)
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
