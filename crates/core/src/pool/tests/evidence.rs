//! What a failure proves: against a key only what other groups disprove, and what a refusal says of key or request.

use super::*;
use crate::fault::Scope;
use crate::pool::{Opinion, Seeking};

fn trouble() -> Fault {
    Fault::of(Class::UpstreamTrouble)
}

/// A lease of the key of this name.
fn lease_of(pool: &Arc<Pool>, name: &str) -> Lease {
    let demand = Demand::of("m");
    let mut others = Vec::new();
    loop {
        let lease = pool.lease(&demand).expect("a key is free");
        if &*lease.member().name == name {
            return lease;
        }
        others.push(lease);
    }
}

fn is_available(pool: &Arc<Pool>, name: &str) -> bool {
    let report = pool.report();
    let key = report.iter().find(|key| &*key.name == name);
    key.expect("a key of that name").is_available
}

#[test]
fn failures_alone_eject_no_key_while_there_is_another_group() {
    let world = World::new();
    let pool = world.pool(settings(2));
    for _ in 0..100 {
        let _ = lease_of(&pool, "k1").finish(&trouble());
    }
    assert!(is_available(&pool, "k1"));
    // Each of the same requests is then served by the other group.
    for _ in 0..pool.current().settings().breaker.min_requests {
        let lease = lease_of(&pool, "k1");
        let suspect = lease.suspect().expect("it is bound to no group");
        let _ = lease.finish(&trouble());
        let other = lease_of(&pool, "k2");
        let _ = suspect.confirmed_by(&other);
        let _ = other.finish(&Fault::of(Class::Success));
    }
    assert!(!is_available(&pool, "k1"));
}

#[test]
fn a_success_within_the_same_group_proves_nothing() {
    let world = World::new();
    let mut wanted = settings(3);
    for key in &mut wanted.keys[..2] {
        key.group = Some("a".into());
    }
    let pool = world.pool(wanted);
    for _ in 0..20 {
        let lease = lease_of(&pool, "k1");
        let suspect = lease.suspect().expect("it is bound to no group");
        let _ = lease.finish(&trouble());
        let effect = suspect.confirmed_by(&lease_of(&pool, "k2"));
        assert!(!effect.ejected);
    }
    assert!(is_available(&pool, "k1"));
}

#[test]
fn the_failures_of_a_lone_group_count_at_once() {
    let world = World::new();
    let pool = world.pool(settings(1));
    let settings = pool.current().settings().breaker;
    let mut effect = Effect::default();
    for _ in 0..settings.min_requests {
        effect = lease_of(&pool, "k1").finish(&trouble());
    }
    assert!(effect.ejected);
}

#[test]
fn a_call_bound_to_an_object_is_no_evidence() {
    let world = World::new();
    let pool = world.pool(settings(1));
    let group = Arc::clone(&pool.current().members()[0].group);
    let demand = Demand {
        bound_group: Some(group),
        ..Demand::of("m")
    };
    for _ in 0..50 {
        let lease = pool.lease(&demand).expect("a key");
        assert!(lease.suspect().is_none());
        assert_eq!(lease.finish(&trouble()), Effect::default());
    }
}

#[test]
fn a_missing_scope_forbids_the_model_at_one_endpoint() {
    let world = World::new();
    let pool = world.pool(settings(1));
    let at = |endpoint: &str| Demand {
        endpoint: endpoint.into(),
        ..Demand::of("m")
    };
    let mut fault = Fault::of(Class::Forbidden);
    fault.scope = Scope::Endpoint;
    let lease = pool.lease(&at("/speech")).expect("a key");
    let _ = lease.finish(&fault);
    assert!(pool.lease(&at("/speech")).is_none());
    let next = pool.next_available(&at("/speech"));
    assert!(!next.slot_may_free && next.cooldown_ends.is_some());
    assert!(
        pool.lease(&at("/chat")).is_some(),
        "what holds at one endpoint is not taken for all"
    );
    world.clock.pass(seconds(600));
    assert!(pool.lease(&at("/speech")).is_some());
}

#[test]
fn a_key_that_has_served_is_not_rejected_without_a_reason() {
    let world = World::new();
    let pool = world.pool(settings(1));
    let mut unclear = Fault::of(Class::Rejected);
    unclear.is_recognized = false;
    let _ = lease_of(&pool, "k1").finish(&Fault::of(Class::Success));
    let effect = lease_of(&pool, "k1").finish(&unclear);
    assert!(effect.needs_check && is_available(&pool, "k1"));
    // Words about the credential need no proof.
    let effect = lease_of(&pool, "k1").finish(&Fault::of(Class::Rejected));
    assert!(!effect.needs_check && !is_available(&pool, "k1"));
    // Neither does a key that never served.
    let other = world.pool(PoolSettings {
        keys: vec![key(7)],
        ..settings(1)
    });
    let effect = lease_of(&other, "k7").finish(&unclear);
    assert!(!effect.needs_check && !is_available(&other, "k7"));
}

fn seek(pool: &Arc<Pool>, form: &str) -> Option<Seeking> {
    let lease = lease_of(pool, "k1");
    match pool.opinion(&lease, form, &"caller".into()) {
        Opinion::Seek(mut seeking) => {
            seeking.begin();
            Some(seeking)
        }
        _ => None,
    }
}

fn opinion(pool: &Arc<Pool>, name: &str, form: &str) -> &'static str {
    let lease = lease_of(pool, name);
    match pool.opinion(&lease, form, &"other".into()) {
        Opinion::Relay => "relay",
        Opinion::Seek(_) => "seek",
        Opinion::NextGroup => "next_group",
        Opinion::Forbidden => "forbidden",
    }
}

#[test]
fn an_opinion_is_remembered_by_form_and_key() {
    let world = World::new();
    let pool = world.pool(settings(3));
    let seeking = seek(&pool, "f").expect("nobody knows it");
    assert_eq!(opinion(&pool, "k1", "f"), "relay", "while it is sought");
    seeking.served();
    assert_eq!(opinion(&pool, "k1", "f"), "next_group");
    assert_eq!(opinion(&pool, "k2", "f"), "seek", "another key");
    assert_eq!(opinion(&pool, "k1", "g"), "seek", "another form");
    let _ = lease_of(&pool, "k1").finish(&Fault::of(Class::Success));
    for expect in ["next_group", "next_group", "forbidden"] {
        assert_eq!(
            opinion(&pool, "k1", "f"),
            expect,
            "a success begins the count anew"
        );
    }
    world.clock.pass(seconds(601));
    assert_eq!(opinion(&pool, "k1", "f"), "seek");
}

#[test]
fn equal_refusals_are_the_requests_fault_and_no_answer_is_none() {
    let world = World::new();
    let pool = world.pool(settings(2));
    seek(&pool, "f").expect("nobody knows it").refused_alike();
    assert_eq!(opinion(&pool, "k1", "f"), "relay");
    assert_eq!(opinion(&pool, "k2", "f"), "relay");
    world.clock.pass(seconds(601));
    drop(seek(&pool, "f").expect("it is forgotten"));
    assert_eq!(
        opinion(&pool, "k1", "f"),
        "seek",
        "dropped without an answer"
    );
}

#[test]
fn opinions_are_bounded_per_caller_and_pool() {
    let world = World::new();
    let pool = world.pool(settings(2));
    let ask = |caller: &str, n: usize| {
        let lease = lease_of(&pool, "k1");
        let caller: Arc<str> = caller.into();
        let form = format!("{caller} {n}");
        match pool.opinion(&lease, &form, &caller) {
            Opinion::Seek(mut seeking) => {
                seeking.begin();
                true
            }
            _ => false,
        }
    };
    let asked = |caller: &str| (0..20).filter(|n| ask(caller, *n)).count();
    assert_eq!([asked("a"), asked("b"), asked("c")], [5, 5, 0]);
    world.clock.pass(seconds(60));
    assert_eq!(asked("c"), 5);
    let off = world.pool(PoolSettings {
        second_opinion: false,
        ..settings(2)
    });
    assert_eq!(opinion(&off, "k1", "f"), "relay");
    let lone = world.pool(settings(1));
    assert_eq!(
        opinion(&lone, "k1", "f"),
        "relay",
        "there is no other group"
    );
}
