//! Affinity: conversations keep to a quota group, and no group is overloaded by it.

use std::collections::HashMap;

use super::*;
use crate::balance::AffinityMatch;

const CONVERSATIONS: u64 = 3000;

/// `groups` groups of `each` keys: `g0/0`, `g0/1`, `g1/0`, …
fn grouped(groups: usize, each: usize) -> PoolSettings {
    let mut wanted = settings(groups * each);
    wanted.strategy = Strategy::Affinity;
    for (n, key) in wanted.keys.iter_mut().enumerate() {
        key.name = format!("g{}/{}", n / each, n % each).into();
        key.group = Some(format!("org-{}", n / each).into());
    }
    wanted
}

fn of(conversation: u64) -> Demand {
    Demand {
        conversation: Some(conversation),
        ..Demand::of("m")
    }
}

fn group(lease: &Lease) -> String {
    let name = lease.member().name.to_string();
    name.split('/').next().unwrap_or_default().to_owned()
}

fn group_for(pool: &Arc<Pool>, conversation: u64) -> String {
    group(&pool.lease(&of(conversation)).expect("a key is free"))
}

fn by(pool: &Arc<Pool>, conversation: u64) -> Option<SelectedBy> {
    let leased = pool.acquire(&of(conversation)).expect("a key is free");
    leased.selection.by
}

fn home_groups(pool: &Arc<Pool>) -> Vec<String> {
    (0..CONVERSATIONS).map(|n| group_for(pool, n)).collect()
}

#[test]
fn a_conversation_keeps_to_its_group_and_all_keys_of_it() {
    let pool = World::new().pool(grouped(3, 2));
    let first = home_groups(&pool);
    assert_eq!(first, home_groups(&pool));
    let mut keys: HashMap<String, usize> = HashMap::new();
    for _ in 0..100 {
        let lease = pool.lease(&of(1)).expect("free");
        *keys.entry(lease.member().name.to_string()).or_default() += 1;
    }
    let mut shares: Vec<usize> = keys.into_values().collect();
    shares.sort_unstable();
    assert_eq!(shares, [50, 50], "the keys of a group reach the same cache");
}

#[test]
fn groups_get_conversations_by_the_weight_of_their_keys() {
    let mut wanted = grouped(4, 1);
    wanted.keys[3].weight = 3;
    let pool = World::new().pool(wanted);
    let mut shares: HashMap<String, u64> = HashMap::new();
    for home in home_groups(&pool) {
        *shares.entry(home).or_default() += 1;
    }
    for (name, expect) in [("g0", 1), ("g1", 1), ("g2", 1), ("g3", 3)] {
        let expect = CONVERSATIONS * expect / 6;
        let share = shares[name];
        assert!(
            share * 4 > expect * 3 && share * 4 < expect * 5,
            "{name}: {share} of {CONVERSATIONS}, expected about {expect}"
        );
    }
}

#[test]
fn a_new_key_takes_its_share_of_conversations_and_moves_no_other() {
    let world = World::new();
    let before = home_groups(&world.pool(grouped(9, 1)));
    let mut wanted = grouped(10, 1);
    wanted.keys.reverse();
    let after = home_groups(&world.pool(wanted));
    let moved: Vec<_> = before
        .iter()
        .zip(&after)
        .filter(|(old, new)| old != new)
        .collect();
    assert!(moved.iter().all(|(_, new)| **new == "g9"), "{moved:?}");
    let share = moved.len() as u64 * 10;
    assert!(
        (CONVERSATIONS * 7 / 10..CONVERSATIONS * 13 / 10).contains(&share),
        "{} of {CONVERSATIONS} moved",
        moved.len()
    );
}

/// The group that serves conversation 1 is rate-limited for a while.
fn limit(pool: &Arc<Pool>, wait: u64) {
    let fault = Fault::of(Class::RateLimited).with_wait(Some(seconds(wait)));
    let _ = pool.lease(&of(1)).expect("free").finish(&fault);
}

#[test]
fn a_conversation_overflows_and_comes_home_after_a_pause() {
    let world = World::new();
    let pool = world.pool(grouped(3, 1));
    let home = group_for(&pool, 1);
    assert_eq!(
        by(&pool, 1),
        Some(SelectedBy::Affinity(AffinityMatch::Home))
    );
    limit(&pool, 10);
    assert_eq!(
        by(&pool, 1),
        Some(SelectedBy::Affinity(AffinityMatch::Overflow))
    );
    let away = group_for(&pool, 1);
    assert_ne!(away, home);
    world.clock.pass(seconds(290));
    assert_eq!(
        by(&pool, 1),
        Some(SelectedBy::Affinity(AffinityMatch::Warm)),
        "the cache is warm there, and cold at home"
    );
    assert_eq!(group_for(&pool, 1), away);
    world.clock.pass(seconds(300));
    assert_eq!(
        by(&pool, 1),
        Some(SelectedBy::Affinity(AffinityMatch::Home)),
        "no cache is warm any more"
    );
    assert_eq!(group_for(&pool, 1), home);
}

#[test]
fn a_conversation_comes_home_when_the_other_group_has_no_room() {
    let world = World::new();
    let pool = world.pool(grouped(3, 1));
    let home = group_for(&pool, 1);
    limit(&pool, 10);
    assert_ne!(group_for(&pool, 1), home);
    world.clock.pass(seconds(10));
    limit(&pool, 20);
    assert_eq!(
        group_for(&pool, 1),
        home,
        "the other has no room, and home has"
    );
    assert_eq!(
        by(&pool, 1),
        Some(SelectedBy::Affinity(AffinityMatch::Home))
    );
    world.clock.pass(seconds(20));
    assert_eq!(
        by(&pool, 1),
        Some(SelectedBy::Affinity(AffinityMatch::Home)),
        "it stays at home"
    );
}

#[test]
fn a_conversation_overflows_for_every_reason() {
    for class in [Class::Exhausted, Class::Rejected, Class::Forbidden] {
        let pool = World::new().pool(grouped(3, 1));
        let home = pool.lease(&of(5)).expect("free");
        let name = group(&home);
        let _ = home.finish(&Fault::of(class));
        assert_ne!(group_for(&pool, 5), name, "{class:?}");
    }
    let mut wanted = grouped(3, 1);
    wanted
        .keys
        .iter_mut()
        .for_each(|key| key.max_concurrent = Some(1));
    let pool = World::new().pool(wanted);
    let held: Vec<Lease> = (0..3).filter_map(|_| pool.lease(&of(5))).collect();
    let mut served: Vec<String> = held.iter().map(group).collect();
    served.sort_unstable();
    assert_eq!(served, ["g0", "g1", "g2"], "full");
    assert!(pool.lease(&of(5)).is_none());
    let mut again = of(5);
    drop(held);
    let home = pool.lease(&again).expect("free");
    again.note_failure(home.member(), World::new().clock.now() + seconds(3600));
    let name = group(&home);
    drop(home);
    assert_ne!(
        group(&pool.lease(&again).expect("free")),
        name,
        "tried in this request"
    );
}

#[test]
fn a_conversation_that_never_pauses_does_not_overload_its_home() {
    let pool = World::new().pool(grouped(3, 2));
    let leases: Vec<Lease> = (0..120).filter_map(|_| pool.lease(&of(42))).collect();
    let on = |name: &str| leases.iter().filter(|lease| group(lease) == name).count();
    let mut loads = [on("g0"), on("g1"), on("g2")];
    loads.sort_unstable();
    assert_eq!(leases.len(), 120);
    // 40 would be a third; a quarter more, and one for each of the two keys.
    assert!(loads[2] <= 52, "{loads:?}");
    drop(leases);
    let pool = World::new().pool(grouped(3, 2));
    let few: Vec<Lease> = (0..2).filter_map(|_| pool.lease(&of(42))).collect();
    assert_eq!(
        group(&few[0]),
        group(&few[1]),
        "a little more than the others is no overload"
    );
}

#[test]
fn the_load_bound_counts_only_groups_that_can_serve() {
    let world = World::new();
    let pool = world.pool(grouped(10, 1));
    // Eight of ten are cooling for this model, which their flags do not show.
    for index in 0..10 {
        let mut lease = pool.lease(&Demand::of("m"));
        while let Some(held) = lease.take() {
            if held.member().index() == index && index < 8 {
                let _ = held.finish(&Fault::of(Class::RateLimited).with_wait(Some(seconds(3600))));
            } else if index < 8 {
                lease = pool.lease(&Demand::of("m"));
            }
        }
    }
    let same: Vec<Lease> = (0..400).filter_map(|_| pool.lease(&of(7))).collect();
    let most = same.iter().filter(|lease| group(lease) == group(&same[0]));
    assert!(
        (200..=252).contains(&most.count()),
        "no conversation takes all calls"
    );
    drop(same);
    let mut leases: Vec<Lease> = (0..400).filter_map(|n| pool.lease(&of(n))).collect();
    let on =
        |leases: &[Lease], name: &str| leases.iter().filter(|lease| group(lease) == name).count();
    let loads = [on(&leases, "g8"), on(&leases, "g9")];
    assert_eq!(loads[0] + loads[1], 400);
    assert!(loads[0].abs_diff(loads[1]) <= 120, "{loads:?}");
    // With their loads as they are, a conversation of the lighter group still goes there, not anywhere.
    leases.truncate(200);
    let first: Vec<String> = (1000..1050).map(|n| group_for(&pool, n)).collect();
    let second: Vec<String> = (1000..1050).map(|n| group_for(&pool, n)).collect();
    assert_eq!(first, second);
    assert!(first.contains(&"g8".to_owned()) && first.contains(&"g9".to_owned()));
}

#[test]
fn calls_without_conversation_go_to_the_least_loaded_key() {
    let pool = World::new().pool(grouped(3, 1));
    let leases: Vec<Lease> = (0..30)
        .filter_map(|_| pool.lease(&Demand::of("m")))
        .collect();
    for name in ["g0", "g1", "g2"] {
        assert_eq!(
            leases.iter().filter(|lease| group(lease) == name).count(),
            10,
            "{name}"
        );
    }
}

#[test]
fn the_only_key_that_can_serve_is_found_among_many() {
    let world = World::new();
    for (groups, each) in [(1000, 1), (1, 1000), (10, 100)] {
        let mut wanted = grouped(groups, each);
        wanted
            .keys
            .iter_mut()
            .for_each(|key| key.max_concurrent = Some(1));
        let pool = world.pool(wanted);
        let mut leases: Vec<Lease> = (0..1000).filter_map(|n| pool.lease(&of(n))).collect();
        assert_eq!(
            leases.len(),
            1000,
            "{groups} groups of {each}: each key serves once"
        );
        let free = leases.remove(777).member().index();
        let last = pool.lease(&of(123)).expect("one is free");
        assert_eq!(last.member().index(), free);
        assert!(pool.lease(&of(123)).is_none());
    }
}

#[test]
fn no_load_is_left_when_every_call_has_ended() {
    let world = World::new();
    let pool = world.pool(grouped(3, 2));
    let leases: Vec<Lease> = (0..120).filter_map(|_| pool.lease(&of(42))).collect();
    for (n, lease) in leases.into_iter().enumerate() {
        match n % 3 {
            0 => drop(lease),
            1 => drop(lease.finish(&Fault::of(Class::Success))),
            _ => drop(lease.finish(&Fault::of(Class::CallerFault))),
        }
    }
    world.clock.pass(seconds(300));
    // If load were left, its home would seem crowded, and the conversation would overflow.
    assert_eq!(
        by(&pool, 42),
        Some(SelectedBy::Affinity(AffinityMatch::Home))
    );
}
