//! The limiters under test.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use keypool_backends::limiter::MemoryLimiter;
use keypool_backends::limiter::redis::{
    Mode, OnFailure, RedisAddress, RedisClient, RedisLimiter, RedisLimiterSettings, RedisTarget,
    RedisTimeouts,
};
use keypool_core::clock::Clock;
use keypool_core::limit::{
    Admission, Ask, Cost, LimitId, Limiter, Limits, OutputHold, Refusal, Settlement, Stored,
};
use keypool_testkit::RedisServer;

/// The real time.
pub(crate) struct RealClock;

#[expect(clippy::disallowed_methods, reason = "a clock")]
impl Clock for RealClock {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn wall(&self) -> SystemTime {
        SystemTime::now()
    }
}

/// One or more nodes that share limits. Calls go to them in turn.
pub(crate) struct Backend {
    nodes: Vec<Arc<dyn Limiter>>,
    next: AtomicUsize,
    /// Stopped when dropped.
    _redis: Option<RedisServer>,
}

/// A call that was admitted, and by which node.
#[derive(Debug)]
pub(crate) struct Admitted {
    node: usize,
    id: LimitId,
    pub(crate) admission: Admission,
}

pub(crate) fn now() -> Instant {
    RealClock.now()
}

/// A limiter on this server.
pub(crate) fn on_redis(
    redis: &RedisServer,
    mode: Mode,
    window: Duration,
    on_failure: OnFailure,
) -> RedisLimiter {
    let target = RedisTarget::server(RedisAddress {
        host: "127.0.0.1".to_owned(),
        port: redis.addr().port(),
    });
    let client = RedisClient::start(target, RedisTimeouts::default());
    let settings = RedisLimiterSettings::new(window, mode, on_failure);
    RedisLimiter::start(client, settings, Arc::new(RealClock))
}

impl Backend {
    pub(crate) async fn memory(window: Duration) -> Self {
        let limiter: Arc<dyn Limiter> = Arc::new(MemoryLimiter::new(window, now()));
        Self::of(vec![limiter], None)
    }

    pub(crate) async fn strict(window: Duration) -> Self {
        Self::redis_nodes(Mode::Strict, window, 1).await
    }

    pub(crate) async fn strict_with_four_nodes(window: Duration) -> Self {
        Self::redis_nodes(Mode::Strict, window, 4).await
    }

    pub(crate) async fn leased(window: Duration) -> Self {
        Self::redis_nodes(Mode::Leased, window, 1).await
    }

    pub(crate) async fn leased_with_four_nodes(window: Duration) -> Self {
        Self::redis_nodes(Mode::Leased, window, 4).await
    }

    async fn redis_nodes(mode: Mode, window: Duration, nodes: usize) -> Self {
        let redis = RedisServer::start().await.expect("a server");
        let node = |_| {
            let limiter = on_redis(&redis, mode, window, OnFailure::Reject);
            Arc::new(limiter) as Arc<dyn Limiter>
        };
        Self::of((0..nodes).map(node).collect(), Some(redis))
    }

    fn of(nodes: Vec<Arc<dyn Limiter>>, redis: Option<RedisServer>) -> Self {
        Self {
            nodes,
            next: AtomicUsize::new(0),
            _redis: redis,
        }
    }

    /// Asks the next node.
    pub(crate) async fn ask(&self, ask: &Ask) -> Result<Admitted, (Refusal, usize)> {
        let node = self.next.fetch_add(1, Ordering::Relaxed) % self.nodes.len();
        let limiter = &self.nodes[node];
        let decided = match limiter.try_reserve(ask, now()) {
            Some(decided) => decided,
            None => limiter.reserve(ask, now()).await,
        };
        match decided {
            Ok(admission) => Ok(Admitted {
                node,
                id: ask.id,
                admission,
            }),
            Err(refusal) => Err((refusal, node)),
        }
    }

    pub(crate) fn settle(&self, call: &Admitted, settlement: &Settlement) {
        self.nodes[call.node].settle(call.id, &call.admission, settlement, now());
    }

    /// As [`counts_at`].
    pub(crate) fn counts_at(&self, call: &Admitted) -> u64 {
        counts_at(self.nodes[call.node].as_ref(), &call.admission)
    }

    pub(crate) fn node(&self, node: usize) -> &Arc<dyn Limiter> {
        &self.nodes[node]
    }

    /// Waits until all nodes know what was settled.
    pub(crate) async fn settled(&self) {
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}

/// When a call counts, in nanoseconds since 1970: as Redis says, or as its node does. `limiter`: that node.
pub(crate) fn counts_at(limiter: &dyn Limiter, admission: &Admission) -> u64 {
    if let Stored::At(at_ms) = admission.stored {
        return at_ms * 1_000_000;
    }
    let age = now().saturating_duration_since(limiter.instant(admission.at));
    wall_nanos().saturating_sub(age.as_nanos() as u64)
}

/// The time that Redis on this machine has too, in nanoseconds since 1970.
pub(crate) fn wall_nanos() -> u64 {
    let since = RealClock.wall().duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap_or_default().as_nanos() as u64
}

/// An ask with limits of requests, input tokens and output tokens (0: none), input tokens and a hold of exactly `output`.
pub(crate) fn ask(id: u128, limits: [u32; 3], input: u32, output: u32) -> Ask {
    let limit = |value: u32| (value > 0).then_some(value);
    Ask {
        id: LimitId(id),
        limits: Limits {
            requests: limit(limits[0]),
            input_tokens: limit(limits[1]),
            output_tokens: limit(limits[2]),
            concurrent: None,
        },
        cost: Cost {
            input_tokens: input,
            output: OutputHold::exactly(output),
        },
    }
}
