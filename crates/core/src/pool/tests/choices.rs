//! Why this key: what a choice says of the keys that did not come.

use super::*;

fn choice(pool: &Arc<Pool>, demand: &Demand) -> Selection {
    pool.acquire(demand)
        .expect("a key is free")
        .take_selection()
}

fn named(choice: &Selection) -> Vec<(usize, &'static str)> {
    choice
        .excluded
        .iter()
        .map(|excluded| (excluded.index, excluded.obstacle.as_str()))
        .collect()
}

#[test]
fn a_choice_names_every_obstacle() {
    let world = World::new();
    let mut wanted = settings(9);
    wanted.keys[5].max_concurrent = Some(1);
    let pool = world.pool(wanted);
    let mut demand = Demand::of("m");
    break_key(&pool, "k4");
    let indexes: Vec<Lease> = (0..16).filter_map(|_| pool.acquire(&demand)).collect();
    let mut held = None;
    for lease in indexes {
        let class = match lease.index() {
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
        let _ = lease.failed(&Fault::of(class));
    }
    assert!(held.is_some());
    demand.note_failure(6, world.clock.now() + seconds(9));
    let choice = choice(&pool, &demand);
    assert_eq!(
        named(&choice),
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
    assert_eq!((choice.keys, choice.free, choice.more), (9, 2, 0));
    assert_eq!(choice.by.map(SelectedBy::as_str), Some("round_robin"));
    let ends: Vec<Option<u64>> = choice
        .excluded
        .iter()
        .map(|excluded| Some((pool.ends(excluded)? - world.clock.now()).as_secs()))
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
    let none = pool.obstacles(&demand);
    assert_eq!(named(&none), [(0, "invalid"), (1, "rate_limited")]);
    assert_eq!((none.by, none.keys, none.free), (None, 2, 0));
}

#[test]
fn a_key_that_serves_as_a_last_resort_says_so() {
    let pool = World::new().pool(settings(1));
    break_key(&pool, "k1");
    assert_eq!(
        choice(&pool, &Demand::of("m")).by,
        Some(SelectedBy::LastResort)
    );
}

/// Every key that serves the demand ends with `fault`, and somebody has asked when one is back.
fn all_of(pool: &Arc<Pool>, demand: &Demand, fault: &Fault) {
    while let Some(lease) = pool.acquire(demand) {
        let _ = lease.failed(fault);
    }
    pool.next_available(demand);
}

#[test]
fn of_a_large_pool_few_are_named_and_all_are_counted() {
    let pool = World::new().pool(settings(1000));
    let demand = Demand::of("m");
    let leases: Vec<Lease> = (0..1000).filter_map(|_| pool.acquire(&demand)).collect();
    for lease in leases {
        match lease.index() {
            index if index % 3 == 0 => drop(lease.failed(&Fault::of(Class::Rejected))),
            998 | 1 | 2 => drop(lease.failed(&Fault::of(Class::RateLimited))),
            _ => drop(lease),
        }
    }
    let choice = choice(&pool, &demand);
    assert_eq!((choice.keys, choice.free), (1000, 666));
    assert_eq!(choice.excluded.len(), 8);
    assert_eq!(choice.more, 334 - 6);
    assert_eq!(
        named(&choice)[..3],
        [(1, "rate_limited"), (2, "rate_limited"), (0, "invalid")],
        "those passed by come first"
    );
    all_of(&pool, &demand, &Fault::of(Class::RateLimited));
    let none = pool.obstacles(&demand);
    assert_eq!((none.free, none.excluded.len(), none.more), (0, 8, 992));
}
