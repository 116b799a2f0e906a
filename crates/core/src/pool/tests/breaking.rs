//! Keys that the breaker ejects, and keys that it must keep.

use super::*;

#[test]
fn a_dead_key_is_ejected_and_the_others_share_its_load() {
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
fn one_probe_decides_and_a_recovered_key_starts_slowly() {
    let world = World::new();
    let pool = world.pool(settings(2));
    let demand = Demand::of("m");
    break_key(&pool, "k1");
    world.clock.pass(seconds(300));
    let leases: Vec<Lease> = (0..6).filter_map(|_| pool.lease(&demand)).collect();
    let on_k1 = |leases: &[Lease]| {
        leases
            .iter()
            .filter(|lease| &*lease.member().name == "k1")
            .count()
    };
    assert_eq!(on_k1(&leases), 1, "one probe at a time");
    drop(leases);
    // The probe was given up: the next call is the probe, and fails.
    fail(&pool, &demand, "k1", &Fault::of(Class::UpstreamTrouble));
    assert_eq!(names(&pool, &demand, 4), ["k2"; 4], "ejected again at once");
    world.clock.pass(seconds(300));
    fail(&pool, &demand, "k1", &Fault::of(Class::Success));
    let leases: Vec<Lease> = (0..40).filter_map(|_| pool.lease(&demand)).collect();
    assert_eq!(
        (on_k1(&leases), leases.len()),
        (2, 40),
        "a recovered key takes a few calls at first"
    );
    for lease in leases {
        lease.finish(&Fault::of(Class::Success));
    }
    let leases: Vec<Lease> = (0..40).filter_map(|_| pool.lease(&demand)).collect();
    assert_eq!(on_k1(&leases), 4, "and more with each success");
}

#[test]
fn max_ejected_keeps_a_share_unless_a_healthy_key_remains() {
    let world = World::new();
    // All fail alike: of four keys two may be ejected; the third only while a healthy one remains.
    let pool = world.pool(settings(4));
    let demand = Demand::of("m");
    for _ in 0..400 {
        if let Some(lease) = pool.lease(&demand) {
            finish(lease, &Fault::of(Class::UpstreamTrouble));
        }
    }
    let ejected = pool
        .report()
        .iter()
        .filter(|report| !report.is_available)
        .count();
    assert_eq!(ejected, 2);
    // Three dead keys and one that works: all three are ejected.
    let pool = World::new().pool(settings(4));
    for _ in 0..400 {
        if let Some(lease) = pool.lease(&demand) {
            let class = if &*lease.member().name == "k4" {
                Class::Success
            } else {
                Class::UpstreamTrouble
            };
            finish(lease, &Fault::of(class));
        }
    }
    assert_eq!(names(&pool, &demand, 3), ["k4"; 3]);
}

#[test]
fn beyond_max_ejected_only_clearly_better_keys_let_one_be_ejected() {
    let demand = Demand::of("m");
    // (calls of k2, failed), (calls of k3, failed), whether k2 is ejected when k1 already is.
    for (second, third, goes, what) in [
        (
            (20, 11),
            (20, 9),
            false,
            "a provider that fails half of all calls",
        ),
        ((20, 11), (20, 5), false, "that may be chance"),
        ((20, 11), (20, 4), true, "a failing key and a better one"),
        ((20, 20), (20, 9), true, "a dead key and a weak one"),
        ((20, 20), (20, 10), false, "half is not below the threshold"),
        ((20, 20), (1, 0), false, "one call proves nothing"),
        ((20, 20), (2, 0), true, "a dead key and one that works"),
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
fn an_ejected_key_serves_if_no_other_key_is_usable() {
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
    assert_eq!(
        names(&pool, &demand, 1),
        ["k1"],
        "k2 is rate-limited, so k1 serves"
    );
}

#[test]
fn a_half_open_key_does_not_count_as_healthy() {
    let world = World::new();
    let pool = world.pool(settings(4));
    let demand = Demand::of("m");
    let fail_all_but = |good: &[&str], calls: usize| {
        for _ in 0..calls {
            let Some(lease) = pool.lease(&demand) else {
                continue;
            };
            let good = good.contains(&&*lease.member().name);
            let class = if good {
                Class::Success
            } else {
                Class::UpstreamTrouble
            };
            finish(lease, &Fault::of(class));
        }
    };
    fail_all_but(&["k4"], 400);
    assert_eq!(
        names(&pool, &demand, 2),
        ["k4"; 2],
        "a healthy key remained"
    );
    world.clock.pass(seconds(300));
    let _probes: Vec<Lease> = (0..4).filter_map(|_| pool.lease(&demand)).collect();
    for _ in 0..20 {
        fail(&pool, &demand, "k4", &Fault::of(Class::UpstreamTrouble));
    }
    assert_eq!(
        names(&pool, &demand, 2),
        ["k4"; 2],
        "the others are being probed, so it stays"
    );
}

/// The provider answers 503 to half of all calls at random.
#[test]
fn while_half_of_all_calls_fail_few_requests_do() {
    let world = World::new();
    let pool = world.pool(settings(3));
    let mut random = fastrand::Rng::with_seed(7);
    let mut lost = 0;
    for _ in 0..20_000 {
        let mut demand = Demand::of("m");
        let mut attempts = 0;
        let answered = loop {
            let lease = loop {
                match pool.lease(&demand) {
                    Some(lease) => break lease,
                    None => {
                        let at = pool
                            .next_available(&demand)
                            .cooldown_ends
                            .expect("a key comes back: the pool is never empty");
                        world.clock.pass(at - world.clock.now());
                    }
                }
            };
            attempts += 1;
            if random.bool() {
                lease.finish(&Fault::of(Class::Success));
                break true;
            }
            demand.note_failure(lease.member(), world.clock.now() + seconds(1));
            finish(lease, &Fault::of(Class::UpstreamTrouble));
            if attempts == pool.max_attempts(&Demand::default()) {
                break false;
            }
        };
        lost += u32::from(!answered);
        world.clock.pass(Duration::from_millis(50));
    }
    assert!(
        lost < 400,
        "{lost} of 20,000 failed; 1/64 is expected (seed 7)"
    );
}
