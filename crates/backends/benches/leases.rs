//! What decisions of leased mode cost, with a real Redis: time and calls for one busy caller, and CPU time and calls for each
//! of several nodes that share one Redis.

#![expect(
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a benchmark"
)]

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use keypool_backends::limiter::redis::{
    Mode, OnFailure, RedisAddress, RedisClient, RedisLimiter, RedisLimiterSettings, RedisTarget,
    RedisTimeouts,
};
use keypool_core::clock::Clock;
use keypool_core::limit::{
    Ask, Cost, LimitId, Limiter, Limits, OutputHold, Settlement, Usage, WINDOW,
};
use keypool_testkit::RedisServer;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep};

struct RealClock;

impl Clock for RealClock {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn wall(&self) -> SystemTime {
        SystemTime::now()
    }
}

fn node(redis: &RedisServer) -> Arc<RedisLimiter> {
    let target = RedisTarget::server(RedisAddress {
        host: redis.addr().ip().to_string(),
        port: redis.addr().port(),
    });
    let client = RedisClient::start(target, RedisTimeouts::default());
    let settings = RedisLimiterSettings::new(WINDOW, Mode::Leased, OnFailure::Reject);
    Arc::new(RedisLimiter::start(client, settings, Arc::new(RealClock)))
}

fn ask(id: u128, requests: u32) -> Ask {
    Ask {
        id: LimitId(id),
        limits: Limits {
            requests: Some(requests),
            input_tokens: Some(requests.saturating_mul(1000)),
            output_tokens: Some(requests.saturating_mul(1000)),
            concurrent: None,
        },
        cost: Cost {
            input_tokens: 20,
            output: OutputHold::exactly(200),
        },
    }
}

/// Reserves and settles. Returns whether the call was admitted.
async fn pair(node: &RedisLimiter, ask: &Ask) -> bool {
    let decided = match node.try_reserve(ask, Instant::now()) {
        Some(decided) => decided,
        None => node.reserve(ask, Instant::now()).await,
    };
    let Ok(admission) = decided else {
        return false;
    };
    let ended = Settlement::Ended(Usage {
        input_tokens: Some(19),
        output_tokens: Some(150),
    });
    node.settle(ask.id, &admission, &ended, Instant::now());
    true
}

/// Scripts run, and seconds of CPU time used.
async fn of_redis(redis: &RedisServer) -> (f64, f64) {
    let stats = redis.command(&["INFO", "commandstats"]).await.unwrap();
    let calls = stats.lines().filter_map(|line| {
        let (command, facts) = line.split_once(":calls=")?;
        let is_script = command.contains("cmdstat_eval");
        is_script.then(|| facts.split(',').next()?.parse::<f64>().ok())?
    });
    let cpu = redis.command(&["INFO", "cpu"]).await.unwrap();
    let seconds = cpu.lines().filter_map(|line| {
        let (name, value) = line.split_once(':')?;
        let is_own = ["used_cpu_user", "used_cpu_sys"].contains(&name);
        is_own.then(|| value.trim().parse::<f64>().ok())?
    });
    (calls.sum(), seconds.sum())
}

/// Seconds of CPU time that this process has used.
fn own_cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let (_, fields) = stat.rsplit_once(')').unwrap();
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let ticks: f64 = fields[11..13]
        .iter()
        .map(|ticks| ticks.parse::<f64>().unwrap())
        .sum();
    // Linux counts in hundredths of a second.
    ticks / 100.0
}

/// As fast as it goes.
async fn one_busy_caller() {
    let redis = RedisServer::start().await.unwrap();
    let node = node(&redis);
    let ask = ask(1, 4_000_000);
    // The expected demand rises.
    let warm = Instant::now();
    while warm.elapsed() < Duration::from_secs(3) {
        pair(&node, &ask).await;
        sleep(Duration::from_micros(10)).await;
    }
    let (before, _) = of_redis(&redis).await;
    let begun = Instant::now();
    let (mut count, mut admitted) = (0_u64, 0_u64);
    while begun.elapsed() < Duration::from_secs(2) && admitted < 2_800_000 {
        for _ in 0..1000 {
            count += 1;
            admitted += u64::from(pair(&node, &ask).await);
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    let (after, _) = of_redis(&redis).await;
    println!(
        "one busy caller: {:.2} million decisions a second with their settlements, {:.6} calls to Redis for each, {:.1} % admitted",
        count as f64 / seconds / 1e6,
        (after - before) / count as f64,
        100.0 * admitted as f64 / count as f64,
    );
}

/// Each node has callers of its own, who use about half of their limits.
async fn several_nodes(count: u128) -> [f64; 3] {
    const CALLERS: u128 = 16;
    const RATE: u32 = 100;
    let redis = RedisServer::start().await.unwrap();
    let nodes: Vec<_> = (0..count).map(|_| node(&redis)).collect();
    let mut callers = JoinSet::new();
    let decided = Arc::new(std::sync::atomic::AtomicU64::new(0));
    for n in 0..count * CALLERS {
        let (node, decided) = (
            Arc::clone(&nodes[(n / CALLERS) as usize]),
            Arc::clone(&decided),
        );
        callers.spawn(async move {
            let ask = ask(n, 2 * 60 * RATE);
            let mut ticks = interval(Duration::from_secs(1) / RATE);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
            loop {
                ticks.tick().await;
                pair(&node, &ask).await;
                decided.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            }
        });
    }
    sleep(Duration::from_secs(8)).await;
    let now = || decided.load(std::sync::atomic::Ordering::Relaxed) as f64;
    let (calls, seconds, own, decisions) = {
        let (calls, seconds) = of_redis(&redis).await;
        (calls, seconds, own_cpu(), now())
    };
    sleep(Duration::from_secs(20)).await;
    let (calls_after, seconds_after) = of_redis(&redis).await;
    let decisions = now() - decisions;
    [
        1e6 * (own_cpu() - own) / decisions,
        1e6 * (seconds_after - seconds) / decisions,
        (calls_after - calls) / decisions,
    ]
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        // `cargo test` runs benchmarks too, to see that they work.
        one_busy_caller().await;
        if std::env::args().any(|arg| arg == "--test") {
            return;
        }
        let mut one = [0.0; 3];
        for count in [1, 2, 4, 8] {
            let each = several_nodes(count).await;
            if count == 1 {
                one = each;
            }
            println!(
                "{count} nodes with 16 callers each: {:.2} us of CPU time for each decision ({:.2} of one node's), {:.3} us of Redis's, {:.4} calls to Redis ({:.2})",
                each[0], each[0] / one[0], each[1], each[2], each[2] / one[2],
            );
        }
    });
}
