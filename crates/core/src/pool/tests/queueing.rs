//! Requests that wait for a key.

use super::*;

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
