//! What is simulated, and what must hold.

use super::*;

/// Runs a simulation in a time of its own.
fn simulate<F: Future>(simulation: impl FnOnce() -> F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    runtime.block_on(async { simulation().await })
}

/// The number of schedules of each kind is larger with `KEYPOOL_LONG`, as `make test-full` sets it.
fn seeds() -> std::ops::Range<u64> {
    match std::env::var_os("KEYPOOL_LONG") {
        Some(_) => 0..300,
        None => 0..6,
    }
}

fn limits(requests: u32, input: u32, output: u32) -> Limits {
    Limits {
        requests: Some(requests),
        input_tokens: Some(input),
        output_tokens: Some(output),
        concurrent: None,
    }
}

/// A plan without faults, which asks for this part of the requests that the limits admit.
fn plan(nodes: usize, requests: u32, load: f64) -> Plan {
    Plan {
        mode: Mode::Leased,
        nodes,
        conditions: Conditions {
            delay: Duration::from_millis(2),
            ..Conditions::default()
        },
        limits: limits(requests, 100 * requests, 100 * requests),
        rate: load * f64::from(requests) / WINDOW.as_secs_f64(),
        has_bursts: false,
        costs: [100, 100],
        call: Duration::from_secs(5),
        drift: 0.001,
        duration: 4 * WINDOW,
    }
}

/// What may happen in a schedule.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Faults {
    /// Nodes stall and die, and the server cannot be reached for a while.
    OfNodes,
    /// Beside short stalls, the server loses all.
    LossOfAll,
    /// The server is replaced by one that lacks the last moments.
    LossOfTheLast,
}

/// A plan drawn from a seed.
fn any_plan(random: &mut fastrand::Rng) -> Plan {
    let requests = [10, 60, 300, 900][random.usize(0..4)];
    let mut plan = plan(random.usize(1..=5), requests, 0.2 + 1.8 * random.f64());
    plan.has_bursts = random.bool();
    plan.limits = limits(requests, 40 * requests, 40 * requests);
    plan.conditions = Conditions {
        delay: Duration::from_micros(random.u64(100..20_000)),
        lost: [0.0, 0.001, 0.02][random.usize(0..3)],
        repeated: [0.0, 0.05][random.usize(0..2)],
        late: [0.0, 0.02][random.usize(0..2)],
    };
    plan.mode = [Mode::Leased, Mode::Leased, Mode::Strict][random.usize(0..3)];
    plan.costs = [[0, 0], [100, 100], [400, 10], [10, 400]][random.usize(0..4)];
    plan.call = Duration::from_millis(random.u64(1..20_000));
    let many = (plan.rate * plan.call.as_secs_f64()) as u32;
    plan.limits.concurrent = random.bool().then(|| random.u32(1..=many.max(1)));
    plan
}

async fn any_fault(world: &mut World, faults: Faults) {
    let mut random = world.random.fork();
    let index = random.usize(0..world.nodes.len());
    let (short, long) = (random.u64(1..2_000), random.u64(2_000..40_000));
    let network = Arc::clone(&world.network);
    match (faults, random.u32(0..4)) {
        (Faults::OfNodes, 0) => world.replace_node(index),
        (Faults::OfNodes, 1) => world.nodes[index]
            .endpoint
            .stall(Duration::from_millis(long)),
        (_, 2) => world.nodes[index]
            .endpoint
            .stall(Duration::from_millis(short)),
        (Faults::OfNodes, _) => network.go_down(Duration::from_millis(short)),
        (Faults::LossOfAll, _) => {
            network.go_down(Duration::from_millis(short));
            network.server.clear();
        }
        (Faults::LossOfTheLast, _) => {
            network.go_down(Duration::from_millis(short));
            // A heartbeat of each node is lost, too, so that each notices it.
            let lost = Duration::from_millis(random.u64(250..1_000));
            network.server.lose_last(lost);
        }
    }
}

/// Returns how many calls were admitted, and what was beyond the limits.
async fn any_schedule(seed: u64, faults: Faults) -> (usize, Option<String>) {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut world = World::new(any_plan(&mut random), seed);
    let begun = Instant::now();
    while begun.elapsed() < world.plan.duration {
        sleep(Duration::from_millis(random.u64(1_000..30_000))).await;
        any_fault(&mut world, faults).await;
    }
    (world.admitted(), world.violation())
}

fn no_schedule_admits_too_much(faults: Faults) {
    let (mut admitted, mut violations) = (0, Vec::new());
    for seed in seeds() {
        let (of_this, violation) = simulate(|| any_schedule(seed, faults));
        admitted += of_this;
        violations.extend(violation.map(|violation| format!("seed {seed}: {violation}")));
    }
    assert!(
        violations.is_empty(),
        "{} schedules: {violations:#?}",
        violations.len()
    );
    assert!(admitted > 500, "{admitted}");
}

#[test]
fn nodes_that_stall_or_die_admit_no_more_than_the_limits() {
    no_schedule_admits_too_much(Faults::OfNodes);
}

#[test]
fn after_a_loss_of_all_no_more_than_the_limits_is_admitted() {
    no_schedule_admits_too_much(Faults::LossOfAll);
}

#[test]
fn after_a_loss_of_the_last_no_more_than_the_limits_is_admitted() {
    no_schedule_admits_too_much(Faults::LossOfTheLast);
}

/// Runs a plan without faults. Returns the part of the oracle's admissions that was admitted, and calls to Redis for each
/// call that asked.
fn without_faults(nodes: usize, requests: u32, load: f64) -> (f64, f64) {
    simulate(|| async {
        let world = World::new(plan(nodes, requests, load), 1);
        sleep(world.plan.duration).await;
        assert_eq!(world.violation(), None);
        (world.of_oracle(), world.steps_per_ask())
    })
}

#[expect(clippy::print_stdout, reason = "figures")]
#[test]
fn leases_cost_few_calls_to_redis_and_refuse_little() {
    let mut failures = Vec::new();
    for (nodes, requests, load, most_steps) in [
        (1, 1200, 0.5, 0.05),
        (1, 750, 0.8, 0.05),
        (4, 750, 0.8, 0.15),
        (8, 750, 0.8, 0.2),
        (8, 1200, 0.5, 0.2),
        (8, 3000, 0.95, 0.3),
    ] {
        let (of_oracle, steps) = without_faults(nodes, requests, load);
        println!(
            "{nodes} nodes, rpm {requests}, {load} of it asked: {steps:.3} calls to Redis for each, {:.2} % of what an exact log admits",
            100.0 * of_oracle
        );
        if steps > most_steps || of_oracle < 0.995 {
            failures.push((nodes, requests, load));
        }
    }
    assert!(failures.is_empty(), "{failures:?}");
}

/// Leases of such limits would keep most of them from others.
#[test]
fn case_14_tiny_limits_on_eight_nodes_are_used_up() {
    let (of_oracle, steps) = without_faults(8, 10, 3.0);
    assert!(of_oracle > 0.98, "{of_oracle}");
    assert!(steps < 2.0, "{steps}");
}

#[test]
fn case_9_a_node_that_was_paused_admits_nothing_on_its_lease() {
    simulate(|| async {
        let world = World::new(plan(1, 600, 0.5), 9);
        sleep(WINDOW / 2).await;
        let caller = &world.nodes[0].caller;
        let ask = Ask {
            id: LimitId(1),
            limits: world.plan.limits,
            cost: Cost::REQUEST,
        };
        let decided = || caller.limiter.check(&ask, caller.clock.now());
        while decided() != Some(Ok(())) {
            sleep(Duration::from_millis(10)).await;
        }
        *caller.clock.paused.lock() += Duration::from_secs(30);
        assert_eq!(decided(), None);
    });
}

#[test]
fn case_10_messages_in_any_order_and_crashes_create_no_room() {
    for seed in seeds() {
        let violation = simulate(|| async move {
            let mut plan = plan(3, 300, 0.7);
            plan.has_bursts = true;
            plan.conditions = Conditions {
                delay: Duration::from_millis(100),
                lost: 0.02,
                repeated: 0.5,
                late: 0.2,
            };
            let mut world = World::new(plan, seed);
            for n in 0..9 {
                sleep(WINDOW / 4).await;
                world.replace_node(n % 3);
            }
            world.violation()
        });
        assert_eq!(violation, None, "seed {seed}");
    }
}
