//! The script of `Reserve` on a real Redis, beside an exact log of every charge.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use keypool_backends::limiter::redis::{
    Correction, Decision, Known, MAX_DECISIONS, NodeCall, NodeReply, RedisClient, RefusedUntil,
    Report, Reserve, Wants,
};
use keypool_core::limit::{Cost, Dimension, Held, LimitId, Limits, OutputHold};
use keypool_testkit::RedisServer;
use tokio::time::sleep;

use crate::harness::{client, target};

const MINUTE: Duration = Duration::from_secs(60);

/// One node: what it holds, and its number of steps.
struct Node<'a> {
    redis: &'a RedisClient,
    script: Reserve,
    id: LimitId,
    node: u32,
    seq: u32,
    length: Duration,
    record_ttl: Duration,
    limits: Limits,
    held: Held,
}

impl<'a> Node<'a> {
    fn new(redis: &'a RedisClient, node: u32, length: Duration, limits: Limits) -> Self {
        Self {
            redis,
            script: Reserve::default(),
            id: LimitId(7),
            node,
            seq: 0,
            length,
            record_ttl: MINUTE,
            limits,
            held: Held::default(),
        }
    }

    async fn step(&mut self, settlements: &[Correction], calls: &[Cost]) -> NodeReply {
        self.seq += 1;
        let reply = self.again(settlements, calls).await;
        for (call, decision) in calls.iter().zip(&reply.decisions) {
            if matches!(decision, Decision::Admitted { .. }) {
                self.held.calls += 1;
                self.held.mean += call.output.mean;
                self.held.variance += call.output.variance;
                self.held.max += u64::from(call.output.max);
            }
        }
        reply
    }

    /// Sends the newest step, for the first time or once more.
    async fn again(&self, settlements: &[Correction], calls: &[Cost]) -> NodeReply {
        let call = NodeCall {
            id: self.id,
            length: self.length,
            limits: self.limits,
            node: self.node,
            seq: self.seq,
            record_ttl: self.record_ttl,
            held: self.held,
            confirmed: 0,
            knows: Known::default(),
            wants: Wants::default(),
            report: Report::default(),
            settlements,
            calls,
        };
        self.script.step(self.redis, &call).await.expect("a reply")
    }

    /// A call that was admitted holds nothing any more.
    fn release(&mut self, call: &Cost) {
        self.held.calls -= 1;
        self.held.mean -= call.output.mean;
        self.held.variance -= call.output.variance;
        self.held.max -= u64::from(call.output.max);
    }
}

fn cost(input_tokens: u32, output: u32) -> Cost {
    Cost {
        input_tokens,
        output: OutputHold::exactly(output),
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

fn admitted(reply: &NodeReply) -> Vec<Option<u64>> {
    let at = |decision: &Decision| match decision {
        Decision::Admitted { at_ms } => Some(*at_ms),
        Decision::Refused { .. } => None,
    };
    reply.decisions.iter().map(at).collect()
}

fn refused(decision: &Decision) -> (Dimension, RefusedUntil) {
    match decision {
        Decision::Refused { dimension, until } => (*dimension, *until),
        Decision::Admitted { at_ms } => panic!("admitted at {at_ms}"),
    }
}

/// Every charge, by its time.
#[derive(Default)]
struct ExactLog {
    limits: [u64; 3],
    charges: BTreeMap<u64, [u64; 3]>,
    held: u64,
}

impl ExactLog {
    fn used(&self, now: u64, length: u64) -> [u64; 3] {
        let live = self.charges.range((now + 1).saturating_sub(length)..);
        live.fold([0; 3], |sum, (_, amounts)| {
            std::array::from_fn(|d| sum[d] + amounts[d])
        })
    }

    fn add(&mut self, at: u64, amounts: [i64; 3]) {
        let sum = self.charges.entry(at).or_default();
        *sum = std::array::from_fn(|d| {
            sum[d]
                .checked_add_signed(amounts[d])
                .expect("not below zero")
        });
    }

    fn admits(&self, now: u64, length: u64, needed: [u64; 3]) -> bool {
        let used = self.used(now, length);
        let held = [0, 0, self.held];
        (0..3).all(|d| used[d] + held[d] + needed[d] <= self.limits[d])
    }

    fn settle(&mut self, now: u64, settlement: &Correction) {
        self.add(settlement.at_ms, settlement.then);
        let [input, output] = settlement.debt.map(i64::from);
        self.add(now + 1, [0, input, output]);
    }

    /// When the call will be admitted if nothing else happens; `None`: not before calls in flight end.
    fn retry(&self, now: u64, length: u64, needed: [u64; 3]) -> Option<u64> {
        let mut later = self
            .charges
            .keys()
            .map(|at| at + length)
            .filter(|time| *time > now);
        later.find(|time| self.admits(*time, length, needed))
    }
}

const NODES: usize = 3;

/// Random steps of three nodes, each compared with the exact log, which sees them in Redis's own order.
struct Trace<'a> {
    random: fastrand::Rng,
    length: u64,
    /// Amounts of tokens are multiples of this.
    scale: u32,
    nodes: Vec<Node<'a>>,
    /// Calls in flight: node, time of admission, cost.
    flights: Vec<(usize, u64, Cost)>,
    log: ExactLog,
    decisions: usize,
    /// How often the script refused what the exact log admits.
    too_strict: usize,
}

impl<'a> Trace<'a> {
    fn new(redis: &'a RedisClient, seed: u64, length: u64, scale: u32) -> Self {
        let limits = limits(12, 400 * scale, 900 * scale);
        let length_of = Duration::from_millis(length);
        Self {
            random: fastrand::Rng::with_seed(seed),
            length,
            scale,
            nodes: (1..=3)
                .map(|n| Node::new(redis, n, length_of, limits))
                .collect(),
            flights: Vec::new(),
            log: ExactLog {
                limits: [12, 400 * u64::from(scale), 900 * u64::from(scale)],
                ..ExactLog::default()
            },
            decisions: 0,
            too_strict: 0,
        }
    }

    async fn step(&mut self) {
        let index = self.random.usize(0..NODES);
        let settlements = self.end_calls(index);
        let calls: Vec<Cost> = (0..self.random.usize(0..4)).map(|_| self.cost()).collect();
        let reply = self.nodes[index].step(&settlements, &calls).await;
        for settlement in &settlements {
            self.log.settle(reply.now_ms, settlement);
        }
        for (call, decision) in calls.iter().zip(&reply.decisions) {
            self.compare(index, reply.now_ms, call, decision);
        }
        assert_eq!(reply.held_output, self.log.held);
        assert!(
            reply
                .used
                .iter()
                .zip(self.log.used(reply.now_ms, self.length))
                .all(|(used, exact)| *used >= exact)
        );
    }

    fn cost(&mut self) -> Cost {
        let (input, output) = (self.random.u32(0..60), self.random.u32(0..80));
        cost(input * self.scale, output * self.scale)
    }

    /// Ends some of the node's calls, with a usage above or below what was expected.
    fn end_calls(&mut self, index: usize) -> Vec<Correction> {
        let scale = self.scale;
        let (random, node, log) = (&mut self.random, &mut self.nodes[index], &mut self.log);
        let mut settlements = Vec::new();
        self.flights.retain(|(of, at, call)| {
            if *of != index || random.bool() {
                return true;
            }
            let (input, output) = (random.u32(0..60) * scale, random.u32(0..120) * scale);
            let (estimate, held) = (call.input_tokens, call.output.max);
            node.release(call);
            log.held -= u64::from(held);
            settlements.push(Correction {
                at_ms: *at,
                then: [
                    0,
                    i64::from(input.min(estimate)) - i64::from(estimate),
                    output.min(held).into(),
                ],
                debt: [input.saturating_sub(estimate), output.saturating_sub(held)],
            });
            false
        });
        settlements
    }

    fn compare(&mut self, index: usize, now: u64, call: &Cost, decision: &Decision) {
        self.decisions += 1;
        let needed = [1, call.input_tokens.into(), call.output.max.into()];
        let admits = self.log.admits(now, self.length, needed);
        match decision {
            Decision::Admitted { at_ms } => {
                assert!(*at_ms > now, "{at_ms} is before the end of {now}");
                assert!(
                    admits,
                    "admitted {needed:?} beside {:?}",
                    self.log.used(now, self.length)
                );
                self.log.add(*at_ms, [1, call.input_tokens.into(), 0]);
                self.log.held += needed[2];
                self.flights.push((index, *at_ms, *call));
            }
            Decision::Refused { .. } if admits => self.too_strict += 1,
            Decision::Refused { until, .. } => {
                if let RefusedUntil::At(time) = until {
                    let exact = self.log.retry(now, self.length, needed);
                    let late = time.checked_sub(exact.expect("the log knows a time"));
                    let late = late.expect("never too early");
                    assert!(late <= self.length / 60 + 1, "{late} ms late");
                }
            }
        }
    }
}

#[tokio::test]
async fn sparse_calls_are_decided_exactly_as_by_a_full_log() {
    let server = RedisServer::start().await.unwrap();
    let redis = client(target(server.addr()));
    let mut trace = Trace::new(&redis, 1, 300, 1);
    for _ in 0..200 {
        trace.step().await;
        sleep(Duration::from_millis(trace.random.u64(4..12))).await;
    }
    assert!(trace.decisions > 200, "{}", trace.decisions);
    assert_eq!(trace.too_strict, 0, "of {}", trace.decisions);
}

/// Ages the base time of a value by 65.4 s, as if its key had been in use without a pause.
const AGE: &str = "local value = redis.call('GET', KEYS[1]) \
    local header, item = '>BI6I5I5I5I3I2I2I2I3I2', '>I2I2I2I2' \
    local h = {struct.unpack(header, value)} \
    local at = h[12] \
    if h[1] > 1 or h[6] > 130 then return 0 end \
    h[6] = h[6] + 65400 \
    local parts = {struct.pack(header, unpack(h, 1, 11))} \
    for i = 1, h[8] do \
        local last, a, b, c, after = struct.unpack(item, value, at) \
        parts[#parts + 1] = struct.pack(item, last + 65400, a, b, c) \
        at = after \
    end \
    redis.call('SET', KEYS[1], table.concat(parts) .. string.sub(value, at), 'PX', 60000) \
    return 1";

#[tokio::test]
async fn a_key_in_use_for_long_and_large_amounts_are_decided_exactly_too() {
    for scale in [1, 1000, 1_000_000] {
        let server = RedisServer::start().await.unwrap();
        let redis = client(target(server.addr()));
        let mut trace = Trace::new(&redis, u64::from(scale), 100, scale);
        let mut aged = 0;
        for _ in 0..200 {
            trace.step().await;
            sleep(Duration::from_millis(trace.random.u64(2..6))).await;
            let age = ["EVAL", AGE, "1", "kp:{00000000000000000000000000000007}"];
            aged += server.command(&age).await.unwrap().parse::<u32>().unwrap();
        }
        assert_eq!(trace.too_strict, 0, "of {}", trace.decisions);
        assert!(scale > 1 || aged >= 3, "{aged}");
    }
}

#[tokio::test]
async fn dense_calls_never_exceed_a_limit_and_lose_little() {
    let server = RedisServer::start().await.unwrap();
    let redis = client(target(server.addr()));
    let mut trace = Trace::new(&redis, 2, 300, 1);
    for _ in 0..1500 {
        trace.step().await;
    }
    assert!(trace.decisions > 1500, "{}", trace.decisions);
    assert!(
        trace.too_strict * 50 < trace.decisions,
        "{} of {}",
        trace.too_strict,
        trace.decisions
    );
}

#[tokio::test]
async fn a_refused_call_leaves_no_trace_and_may_try_again_at_its_time() {
    let server = RedisServer::start().await.unwrap();
    let redis = client(target(server.addr()));
    let length = Duration::from_millis(200);
    let mut node = Node::new(&redis, 1, length, limits(10, 100, 1000));
    let first = node.step(&[], &[cost(60, 0)]).await;
    let at = admitted(&first)[0].unwrap();
    let reply = node
        .step(&[], &[cost(50, 10), cost(101, 0), cost(30, 0)])
        .await;
    let until = RefusedUntil::At(at + 200);
    assert_eq!(
        refused(&reply.decisions[0]),
        (Dimension::InputTokens, until)
    );
    assert_eq!(
        refused(&reply.decisions[1]),
        (Dimension::InputTokens, RefusedUntil::Never)
    );
    assert!(admitted(&reply)[2].is_some());
    assert_eq!((reply.used, reply.held_output), ([2, 90, 0], 0));
    // One step a millisecond: refused before its time, admitted from then on.
    loop {
        let reply = node.step(&[], &[cost(50, 10)]).await;
        let is_time = reply.now_ms >= at + 200;
        assert_eq!(admitted(&reply)[0].is_some(), is_time, "{reply:?}");
        if is_time {
            break;
        }
        sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn a_step_that_arrives_twice_counts_once_and_an_older_one_is_refused() {
    let server = RedisServer::start().await.unwrap();
    let redis = client(target(server.addr()));
    let mut node = Node::new(&redis, 1, MINUTE, limits(3, 1000, 1000));
    let calls = [cost(10, 10), cost(20, 20), cost(30, 30), cost(40, 40)];
    node.seq = 1;
    let debt = [Correction {
        debt: [5, 0],
        ..Correction::default()
    }];
    let first = node.again(&debt, &calls).await;
    assert!(!first.is_repetition);
    assert_eq!(first.used, [3, 65, 0]);
    for _ in 0..3 {
        let again = node.again(&debt, &calls).await;
        assert!(again.is_repetition);
        assert_eq!(admitted(&again), admitted(&first));
        let state = |reply: &NodeReply| (reply.used, reply.held_output, reply.calls);
        assert_eq!(state(&again), state(&first));
    }
    node.seq = 5;
    node.again(&[], &[]).await;
    let late = NodeCall {
        id: node.id,
        length: MINUTE,
        limits: node.limits,
        node: 1,
        seq: 4,
        record_ttl: MINUTE,
        held: Held::default(),
        confirmed: 0,
        knows: Known::default(),
        wants: Wants::default(),
        report: Report::default(),
        settlements: &[],
        calls: &[cost(1, 1)],
    };
    let error = node.script.step(&redis, &late).await.unwrap_err();
    assert!(error.to_string().contains("STALE"), "{error}");
    assert_eq!(node.again(&[], &[]).await.used, [3, 65, 0]);
}

#[tokio::test]
async fn what_a_call_gives_back_is_free_at_once_and_debt_is_not() {
    let server = RedisServer::start().await.unwrap();
    let redis = client(target(server.addr()));
    let mut node = Node::new(&redis, 1, MINUTE, limits(10, 100, 100));
    let call = cost(90, 50);
    let at_ms = admitted(&node.step(&[], &[call]).await)[0].unwrap();
    assert_eq!(admitted(&node.step(&[], &[cost(20, 0)]).await), [None]);
    node.release(&call);
    let then = [0, -80, 50];
    let ended = Correction {
        at_ms,
        then,
        debt: [0, 200],
    };
    let reply = node.step(&[ended], &[cost(20, 0), cost(0, 1)]).await;
    assert_eq!(reply.used, [1, 10, 250]);
    let (dimension, until) = refused(&reply.decisions[0]);
    assert_eq!(dimension, Dimension::OutputTokens, "{until:?}");
    assert!(
        matches!(until, RefusedUntil::At(time) if time > at_ms + 59_000),
        "{until:?}"
    );
}

#[tokio::test]
async fn holds_of_all_nodes_are_pooled_and_count_together() {
    let server = RedisServer::start().await.unwrap();
    let redis = client(target(server.addr()));
    let learned = Cost {
        input_tokens: 0,
        output: OutputHold {
            mean: 400.0,
            variance: 480.0 * 480.0,
            max: 4096,
        },
    };
    let mut all = limits(1000, 1000, 1_000_000);
    all.concurrent = Some(20);
    let mut nodes = HashMap::new();
    for n in 0..21 {
        let number = n % 4;
        let node = nodes
            .entry(number)
            .or_insert_with(|| Node::new(&redis, number, MINUTE, all));
        let reply = node.step(&[], &[learned]).await;
        match n {
            0 => assert_eq!(reply.held_output, u64::from(learned.output.alone())),
            // The same as the in-process limiter holds for 20 calls.
            19 => assert_eq!(reply.held_output, 20 * 400 + 8587),
            20 => assert_eq!(
                refused(&reply.decisions[0]),
                (Dimension::Concurrency, RefusedUntil::CallEnds(None))
            ),
            _ => assert_eq!(reply.calls, u64::from(n) + 1),
        }
    }
}

#[tokio::test]
async fn what_a_dead_node_held_counts_from_the_end_of_its_record() {
    let server = RedisServer::start().await.unwrap();
    let redis = client(target(server.addr()));
    let length = Duration::from_millis(300);
    let mut dead = Node::new(&redis, 1, length, limits(100, 100, 100));
    dead.record_ttl = Duration::from_millis(100);
    let mut other = Node::new(&redis, 2, length, limits(100, 100, 100));
    let begun = dead.step(&[], &[cost(0, 70)]).await.now_ms;
    loop {
        let reply = other.step(&[], &[cost(0, 40)]).await;
        match reply.now_ms - begun {
            0..100 => assert_eq!((reply.held_output, reply.calls), (70, 1)),
            100..400 => assert_eq!((reply.used[2], reply.held_output), (70, 0)),
            _ => {
                assert!(admitted(&reply)[0].is_some());
                break;
            }
        }
        sleep(Duration::from_millis(3)).await;
    }
}

#[tokio::test]
async fn a_clock_that_goes_back_stands_still() {
    let server = RedisServer::start().await.unwrap();
    let redis = client(target(server.addr()));
    let length = Duration::from_millis(100);
    let mut node = Node::new(&redis, 1, length, limits(1, 10, 10));
    let at = admitted(&node.step(&[], &[cost(1, 0)]).await)[0].unwrap();
    // A server's clock cannot be moved here. To the script, a decision in the future is the same.
    let ahead = "local value = redis.call('GET', KEYS[1]) \
        redis.call('SET', KEYS[1], string.sub(value, 1, 1) .. struct.pack('>I6', ARGV[1]) .. string.sub(value, 8))";
    let (key, future) = ("kp:{00000000000000000000000000000007}", at + 3_600_000);
    let set = ["EVAL", ahead, "1", key, &future.to_string()];
    server.command(&set).await.unwrap();
    for _ in 0..2 {
        let reply = node.step(&[], &[cost(1, 0)]).await;
        assert_eq!((reply.now_ms, admitted(&reply)), (future, vec![None]));
        sleep(Duration::from_millis(150)).await;
    }
}

#[tokio::test]
async fn an_idle_key_disappears_by_itself() {
    let server = RedisServer::start().await.unwrap();
    let redis = client(target(server.addr()));
    let mut node = Node::new(&redis, 1, Duration::from_millis(50), limits(10, 10, 10));
    node.record_ttl = Duration::from_millis(80);
    node.step(&[], &[cost(1, 1)]).await;
    assert_eq!(server.command(&["DBSIZE"]).await.unwrap(), "1");
    let gone = async {
        while server
            .command(&["EXISTS", "kp:{00000000000000000000000000000007}"])
            .await
            .unwrap()
            == "1"
        {
            sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(2), gone)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_key_takes_little_memory_and_large_numbers_are_right() {
    let server = RedisServer::start().await.unwrap();
    let redis = client(target(server.addr()));
    let memory = async || {
        let key = "kp:{00000000000000000000000000000007}";
        let bytes = server.command(&["MEMORY", "USAGE", key]).await.unwrap();
        bytes.parse::<u64>().unwrap()
    };
    let mut node = Node::new(
        &redis,
        1,
        Duration::from_secs(3),
        limits(1_000_000, 4_000_000_000, 4_000_000_000),
    );
    // Five entries, two calls in flight.
    for n in 0..5 {
        node.step(&[], &[cost(1000, 500)]).await;
        if n > 1 {
            node.release(&cost(1000, 500));
        }
        sleep(Duration::from_millis(2)).await;
    }
    let typical = memory().await;
    assert!(typical <= 230, "{typical} bytes");
    // As many entries as there can be, each below 65,536.
    let (mut most, begun) = (0, tokio::time::Instant::now());
    while begun.elapsed() < Duration::from_millis(2300) {
        let calls = [cost(1, 0); MAX_DECISIONS];
        node.held = Held::default();
        node.step(&[], &calls).await;
        most = most.max(memory().await);
    }
    assert!(most <= 1050, "{most} bytes");
    // The same with more in each, once the others have left the window.
    let (mut most, begun) = (0, tokio::time::Instant::now());
    while begun.elapsed() < Duration::from_millis(3_600) {
        node.held = Held::default();
        node.step(&[], &[cost(70_000, 0)]).await;
        sleep(Duration::from_millis(1)).await;
        if begun.elapsed() > Duration::from_millis(3_200) {
            most = most.max(memory().await);
        }
    }
    assert!(
        (600..=1050).contains(&most),
        "{most} bytes with large amounts"
    );
    let big = cost(1_000_000_000, 1_000_000_000);
    node.held = Held::default();
    let reply = node.step(&[], &[big, big, big, big]).await;
    assert_eq!(admitted(&reply).iter().flatten().count(), 3, "{reply:?}");
    assert!(reply.used[1] > 3_000_000_000);
    assert_eq!(reply.held_output, 3_000_000_000);
}
