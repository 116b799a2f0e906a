//! Why this key: what a selection says about the keys that were not selected.

use super::*;

fn selection(pool: &Arc<Pool>, demand: &Demand) -> Selection {
    pool.acquire(demand).expect("a key is free").selection
}

fn named(selection: &Selection) -> Vec<(usize, &'static str)> {
    selection
        .excluded
        .iter()
        .map(|excluded| (excluded.index, excluded.obstacle.as_str()))
        .collect()
}

#[test]
fn a_selection_names_every_obstacle() {
    let world = World::new();
    let mut wanted = settings(9);
    wanted.keys[5].max_concurrent = Some(1);
    let pool = world.pool(wanted);
    let mut demand = Demand::of("m");
    break_key(&pool, "k4");
    let indexes: Vec<Lease> = (0..16).filter_map(|_| pool.lease(&demand)).collect();
    let mut held = None;
    for lease in indexes {
        let class = match lease.member().index() {
            0 => Class::Rejected,
            1 => Class::Exhausted,
            2 => Class::RateLimited,
            4 => Class::Forbidden,
            5 => {
                held = Some(lease);
                continue;
            }
            _ => Class::CallerFault,
        };
        finish(lease, &Fault::of(class));
    }
    assert!(held.is_some());
    demand.note_failure(&pool.current().members()[6], world.clock.now() + seconds(9));
    let selection = selection(&pool, &demand);
    assert_eq!(
        named(&selection),
        [
            (0, "invalid"),
            (1, "exhausted"),
            (2, "rate_limited"),
            (3, "ejected"),
            (4, "forbidden"),
            (5, "full"),
            (6, "tried_before"),
        ]
    );
    assert_eq!((selection.keys, selection.free, selection.more), (9, 2, 0));
    assert_eq!(selection.by.map(SelectedBy::as_str), Some("round_robin"));
    let ends: Vec<Option<u64>> = selection
        .excluded
        .iter()
        .map(|excluded| Some((pool.keys().ends(excluded)? - world.clock.now()).as_secs()))
        .collect();
    assert_eq!(
        ends,
        [
            None,
            Some(3600),
            Some(60),
            Some(300),
            Some(600),
            None,
            Some(9)
        ]
    );
    drop(held);
}

#[test]
fn with_no_key_free_the_obstacles_say_why() {
    let pool = World::new().pool(settings(2));
    let demand = Demand::of("m");
    fail(&pool, &demand, "k1", &Fault::of(Class::Rejected));
    fail(&pool, &demand, "k2", &Fault::of(Class::RateLimited));
    let (none, _) = pool.obstacles(&demand);
    assert_eq!(named(&none), [(0, "invalid"), (1, "rate_limited")]);
    assert_eq!((none.by, none.keys, none.free), (None, 2, 0));
}

#[test]
fn a_key_that_serves_as_a_last_resort_says_so() {
    let pool = World::new().pool(settings(1));
    break_key(&pool, "k1");
    assert_eq!(
        selection(&pool, &Demand::of("m")).by,
        Some(SelectedBy::LastResort)
    );
}

/// Every key that serves the demand fails with `fault`, and somebody has asked when one is available.
fn all_of(pool: &Arc<Pool>, demand: &Demand, fault: &Fault) {
    while let Some(lease) = pool.lease(demand) {
        finish(lease, fault);
    }
    pool.next_available(demand);
}

#[test]
fn in_a_large_pool_a_few_keys_are_named_and_all_counted() {
    let pool = World::new().pool(settings(1000));
    let demand = Demand::of("m");
    let leases: Vec<Lease> = (0..1000).filter_map(|_| pool.lease(&demand)).collect();
    for lease in leases {
        match lease.member().index() {
            index if index % 3 == 0 => drop(lease.finish(&Fault::of(Class::Rejected))),
            998 | 1 | 2 => drop(lease.finish(&Fault::of(Class::RateLimited))),
            _ => drop(lease),
        }
    }
    let selection = selection(&pool, &demand);
    assert_eq!((selection.keys, selection.free), (1000, 666));
    assert_eq!(selection.excluded.len(), 8);
    assert_eq!(selection.more, 334 - 6);
    assert_eq!(
        named(&selection)[..3],
        [(1, "rate_limited"), (2, "rate_limited"), (0, "invalid")],
        "keys that were passed by come first"
    );
    all_of(&pool, &demand, &Fault::of(Class::RateLimited));
    let (none, _) = pool.obstacles(&demand);
    assert_eq!((none.free, none.excluded.len(), none.more), (0, 8, 992));
}
