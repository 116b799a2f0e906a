//! Several nodes under load on a Redis that fails, and an exact log of what all of them admit.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use keypool_backends::limiter::redis::{
    Mode, OnFailure, RedisAddress, RedisClient, RedisLimiter, RedisLimiterSettings, RedisTarget,
    RedisTimeouts,
};
use keypool_core::limit::{Admission, Ask, Limiter, Refusal, Settlement, Until, Usage};
use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio::time::{sleep, sleep_until, timeout};

use crate::backend::{RealClock, ask, counts_at, now, wall_nanos};
use crate::traces::{Charge, worst};

/// Requests, input tokens, output tokens.
pub(crate) const LIMITS: [u32; 3] = [60, 12_000, 9_000];
/// How often a node beats in these tests.
pub(crate) const BEAT: Duration = Duration::from_millis(50);
/// Calls of one node that ask at the same time.
const AT_ONCE: usize = 6;

/// The longest pause between two calls of one caller.
const PAUSE_MS: u64 = 300;

/// A node of a fleet.
pub(crate) fn node(
    target: RedisTarget,
    mode: Mode,
    window: Duration,
    on_failure: OnFailure,
) -> Arc<RedisLimiter> {
    let timeouts = RedisTimeouts {
        response: Duration::from_millis(150),
        connect: Duration::from_millis(500),
    };
    let settings = RedisLimiterSettings {
        window,
        mode,
        on_failure,
        heartbeat: BEAT,
        record_ttl: window + BEAT,
    };
    let redis = RedisClient::start(target, timeouts);
    Arc::new(RedisLimiter::start(redis, settings, Arc::new(RealClock)))
}

pub(crate) fn address(addr: SocketAddr) -> RedisAddress {
    RedisAddress {
        host: addr.ip().to_string(),
        port: addr.port(),
    }
}

pub(crate) fn server(addr: SocketAddr) -> RedisTarget {
    RedisTarget::server(address(addr))
}

/// The time that Redis on this machine has too, in milliseconds.
pub(crate) fn wall_ms() -> u64 {
    wall_nanos() / 1_000_000
}

/// Asks as the gateway does. No decision may take longer than Redis's deadlines.
pub(crate) async fn decide(limiter: &RedisLimiter, one: &Ask) -> Result<Admission, Refusal> {
    let deciding = async {
        match limiter.try_reserve(one, now()) {
            Some(decided) => decided,
            None => limiter.reserve(one, now()).await,
        }
    };
    let decided = timeout(Duration::from_millis(1500), deciding).await;
    decided.expect("every decision has a deadline")
}

/// The same, but a short wait is better than a refusal: leases of other nodes may be in the way.
pub(crate) async fn decide_after_a_wait(
    limiter: &RedisLimiter,
    one: &Ask,
) -> Result<Admission, Refusal> {
    let begun = now();
    loop {
        let decided = decide(limiter, one).await;
        let Err(Refusal {
            until: Until::At(tick),
            ..
        }) = decided
        else {
            return decided;
        };
        if limiter.instant(tick) > begun + Duration::from_millis(250) {
            return decided;
        }
        sleep_until(limiter.instant(tick).into()).await;
    }
}

/// What all nodes have admitted.
pub(crate) type Log = Arc<Mutex<Vec<Charge>>>;

/// Nodes under load.
pub(crate) struct Fleet {
    pub(crate) log: Log,
    window: Duration,
    callers: JoinSet<()>,
    stop: Arc<std::sync::atomic::AtomicBool>,
}

impl Fleet {
    /// Begins to ask for the same caller at all of `nodes`.
    pub(crate) fn start(nodes: &[Arc<RedisLimiter>], window: Duration) -> Self {
        let mut fleet = Self {
            log: Log::default(),
            window,
            callers: JoinSet::new(),
            stop: Arc::default(),
        };
        for n in 0..nodes.len() * AT_ONCE {
            let node = Arc::clone(&nodes[n % nodes.len()]);
            let (log, stop) = (Arc::clone(&fleet.log), Arc::clone(&fleet.stop));
            fleet.callers.spawn(async move {
                let mut random = fastrand::Rng::with_seed(n as u64);
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    call(&node, &log, &mut random).await;
                    // About twice as often as the limit admits, and all the time.
                    sleep(Duration::from_millis(random.u64(0..PAUSE_MS))).await;
                }
            });
        }
        fleet
    }

    /// Ends the load, and returns the log.
    pub(crate) async fn stop(self) -> Vec<Charge> {
        self.stop.store(true, std::sync::atomic::Ordering::Relaxed);
        self.callers.join_all().await;
        std::mem::take(&mut *self.log.lock())
    }

    /// How many calls were admitted since a time, in nanoseconds.
    pub(crate) fn admitted_since(&self, at: u64) -> usize {
        self.log.lock().iter().filter(|(of, _)| *of >= at).count()
    }

    /// Ends the load. No window may hold more than the limits.
    pub(crate) async fn assert_no_more_than_the_limit(self) -> Vec<Charge> {
        let window = self.window;
        let log = self.stop().await;
        let most = worst(log.clone(), window);
        for (most, limit) in most.into_iter().zip(LIMITS) {
            assert!(most <= limit.into(), "{most} of {limit}");
        }
        assert!(most[0] >= 50, "nearly all of the limit was used: {most:?}");
        log
    }
}

/// The largest number of requests in any window that ends with a call since `since`, in nanoseconds.
pub(crate) fn most_since(log: &[Charge], window: Duration, since: u64) -> usize {
    let length = window.as_nanos() as u64;
    let in_window = |end: u64| {
        let counts = |(at, _): &&Charge| *at <= end && end < at + length;
        log.iter().filter(counts).count()
    };
    let ends = log.iter().map(|(at, _)| *at).filter(|at| *at >= since);
    ends.map(in_window).max().unwrap_or(0)
}

async fn call(node: &Arc<RedisLimiter>, log: &Log, random: &mut fastrand::Rng) {
    let (input, output) = (random.u32(0..300), random.u32(0..200));
    let one = ask(1, LIMITS, input, output);
    let Ok(admission) = decide(node, &one).await else {
        return;
    };
    let at = counts_at(node.as_ref(), &admission);
    sleep(Duration::from_micros(random.u64(0..5_000))).await;
    let (input, output) = (random.u32(0..=input), random.u32(0..=output));
    let usage = Usage {
        input_tokens: Some(input),
        output_tokens: Some(output),
    };
    node.settle(one.id, &admission, &Settlement::Ended(usage), now());
    log.lock().push((at, [1, input.into(), output.into()]));
}

/// Runs each test in both modes.
macro_rules! in_both_modes {
    ($($test:ident),+ $(,)?) => {
        mod leased {
            $(#[tokio::test]
            async fn $test() {
                super::$test(super::Mode::Leased).await;
            })+
        }

        mod strict {
            $(#[tokio::test]
            async fn $test() {
                super::$test(super::Mode::Strict).await;
            })+
        }
    };
}

pub(crate) use in_both_modes;
