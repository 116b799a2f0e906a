//! Requests that wait for a key.

use super::*;

#[test]
fn a_cap_holds_and_a_freed_slot_goes_to_the_first_in_the_queue() {
    let pool = World::new().pool(capped(1, 2));
    let (demand, caller): (_, FairnessKey) = (Demand::of("m"), "a".into());
    let first = pool.lease(&demand).expect("a slot");
    let second = pool.lease(&demand).expect("a slot");
    assert!(pool.lease(&demand).is_none());
    let mut third = pool
        .join(&demand, &caller, Lane::Interactive)
        .expect("room");
    let mut fourth = pool
        .join(&demand, &caller, Lane::Interactive)
        .expect("room");
    assert!(waits(&mut third) && waits(&mut fourth));
    assert!(pool.lease(&demand).is_none(), "waiting requests come first");
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
    let mut held = pool.lease(&demand);
    let (many, one): (FairnessKey, FairnessKey) = ("many".into(), "one".into());
    let mut tickets: Vec<Ticket> = (0..100)
        .map(|_| pool.join(&demand, &many, Lane::Interactive).expect("room"))
        .collect();
    let mut single = pool.join(&demand, &one, Lane::Interactive).expect("room");
    let mut turns = 0;
    while waits(&mut single) {
        drop(held.take());
        held = tickets.iter_mut().find_map(served);
        turns += 1;
        assert!(turns <= 2, "served within two turns");
    }
}

#[test]
fn a_full_queue_refuses_the_newest_of_the_caller_with_most_waiting() {
    let mut wanted = capped(1, 1);
    wanted.queue.max_waiting = 3;
    let pool = World::new().pool(wanted);
    let demand = Demand::of("m");
    let _held = pool.lease(&demand);
    let (many, one): (FairnessKey, FairnessKey) = ("many".into(), "one".into());
    let mut tickets: Vec<Ticket> = (0..3)
        .map(|_| pool.join(&demand, &many, Lane::Interactive).expect("room"))
        .collect();
    assert!(
        pool.join(&demand, &many, Lane::Interactive).is_err(),
        "its own queue is the longest"
    );
    let mut single = pool
        .join(&demand, &one, Lane::Interactive)
        .expect("room is made");
    assert!(matches!(
        tickets[2].handoff.try_recv(),
        Ok(Handoff::Evicted)
    ));
    assert!(waits(&mut tickets[0]) && waits(&mut tickets[1]) && waits(&mut single));
    assert_eq!(pool.waiting(), 3);
}

#[test]
fn a_request_that_leaves_gives_back_its_place_or_its_key() {
    let pool = World::new().pool(capped(1, 1));
    let (demand, caller): (_, FairnessKey) = (Demand::of("m"), "a".into());
    let held = pool.lease(&demand);
    let gone = pool
        .join(&demand, &caller, Lane::Interactive)
        .expect("room");
    let handed = pool
        .join(&demand, &caller, Lane::Interactive)
        .expect("room");
    let mut stays = pool
        .join(&demand, &caller, Lane::Interactive)
        .expect("room");
    drop(gone);
    assert_eq!(pool.waiting(), 2);
    drop(held);
    drop(handed);
    assert!(
        served(&mut stays).is_some(),
        "a slot handed to a request that left goes to the next"
    );
    assert_eq!(pool.waiting(), 0);
}

#[test]
fn a_request_for_a_cooling_model_does_not_hold_up_others() {
    let world = World::new();
    let pool = world.pool(capped(1, 1));
    let (cooling, free, caller): (_, _, FairnessKey) =
        (Demand::of("cooling"), Demand::of("free"), "a".into());
    fail(
        &pool,
        &cooling,
        "k1",
        &Fault::of(Class::RateLimited).with_wait(Some(seconds(5))),
    );
    let mut first = pool
        .join(&cooling, &caller, Lane::Interactive)
        .expect("room");
    let mut second = pool.join(&free, &caller, Lane::Interactive).expect("room");
    assert!(waits(&mut first));
    drop(served(&mut second).expect("its model is not cooling"));
    world.clock.pass(seconds(5));
    pool.serve_waiting();
    assert!(served(&mut first).is_some());
}

#[test]
fn a_full_queue_does_not_refuse_a_request_whose_key_is_free() {
    let world = World::new();
    let mut wanted = settings(1);
    wanted.queue.max_waiting = 2;
    let pool = world.pool(wanted);
    let (cooling, caller): (_, FairnessKey) = (Demand::of("cooling"), "a".into());
    fail(&pool, &cooling, "k1", &Fault::of(Class::RateLimited));
    let _waiting: Vec<Ticket> = (0..2)
        .map(|_| {
            pool.join(&cooling, &caller, Lane::Interactive)
                .expect("room")
        })
        .collect();
    let mut ticket = pool
        .join(&Demand::of("free"), &caller, Lane::Interactive)
        .expect("its key is free");
    assert!(served(&mut ticket).is_some());
    assert!(pool.join(&cooling, &caller, Lane::Interactive).is_err());
    drop(ticket);
    assert_eq!(pool.waiting(), 2);
}

#[test]
fn clients_come_before_jobs_and_every_tenth_key_goes_to_a_job() {
    let pool = World::new().pool(capped(1, 1));
    let demand = Demand::of("m");
    let mut held = pool.lease(&demand);
    let (client, batch): (FairnessKey, FairnessKey) = ("client".into(), "batch".into());
    let join = |caller: &FairnessKey, lane| pool.join(&demand, caller, lane).expect("room");
    let mut jobs: Vec<Ticket> = (0..5).map(|_| join(&batch, Lane::Job)).collect();
    let mut clients: Vec<Ticket> = (0..30).map(|_| join(&client, Lane::Interactive)).collect();
    let mut order = String::new();
    while order.len() < 35 {
        drop(held.take());
        held = clients.iter_mut().find_map(served);
        if held.is_some() {
            order.push('c');
            continue;
        }
        held = jobs.iter_mut().find_map(served);
        assert!(held.is_some(), "somebody is served");
        order.push('j');
    }
    assert_eq!(order, "cccccccccjcccccccccjcccccccccjcccjj");
    assert_eq!(pool.waiting(), 0);
}

#[test]
fn jobs_take_no_room_from_the_queue_of_clients() {
    let mut wanted = capped(1, 1);
    wanted.queue.max_waiting = 1;
    let pool = World::new().pool(wanted);
    let demand = Demand::of("m");
    let held = pool.lease(&demand);
    let caller: FairnessKey = "a".into();
    let mut jobs: Vec<Ticket> = (0..3)
        .map(|_| pool.join(&demand, &caller, Lane::Job).expect("no bound"))
        .collect();
    let mut first = pool
        .join(&demand, &caller, Lane::Interactive)
        .expect("room");
    assert!(pool.join(&demand, &caller, Lane::Interactive).is_err());
    drop(jobs.pop());
    assert_eq!(pool.waiting(), 3);
    drop(held);
    let held = served(&mut first).expect("the client comes first");
    drop(held);
    assert!(served(&mut jobs[0]).is_some());
}
