//! Whole nodes and the real scripts, in a simulated time and on a simulated network.
//!
//! A schedule is drawn from a seed: how many nodes there are, what is asked, what gets lost, and who dies. Whatever happens,
//! an exact log of what all nodes admit says how much was used in any window.

#![expect(
    clippy::disallowed_methods,
    reason = "its tasks end with the simulated time"
)]

mod network;
mod schedules;
mod server;

pub(super) use network::{Endpoint, Wire};

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant as StdInstant, SystemTime};

use keypool_core::clock::Clock;
use keypool_core::limit::{
    Admission, Ask, Cost, DIMENSIONS, Ledger, LimitId, Limiter, Limits, OutputHold, Refusal,
    Settlement, Stored, Tick, Until, Usage,
};
use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use self::network::{Conditions, Network};
use super::{
    Mode, OnFailure, RedisAddress, RedisClient, RedisLimiter, RedisLimiterSettings, RedisTarget,
    RedisTimeouts,
};

/// The length of the window.
const WINDOW: Duration = Duration::from_secs(60);
/// How long a call waits for room if that is known to come.
const MICRO_WAIT: Duration = Duration::from_millis(250);

/// A clock that may run too fast or too slow.
struct DriftingClock {
    epoch: Instant,
    speed: f64,
    /// Time that has passed for nobody else, as after a pause of the machine in which no timer ran.
    paused: Mutex<Duration>,
}

impl Clock for DriftingClock {
    fn now(&self) -> StdInstant {
        let elapsed = (Instant::now() - self.epoch).mul_f64(self.speed);
        self.epoch.into_std() + elapsed + *self.paused.lock()
    }

    fn wall(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH
    }
}

/// What is simulated.
#[derive(Clone, Copy, Debug)]
struct Plan {
    mode: Mode,
    nodes: usize,
    conditions: Conditions,
    limits: Limits,
    /// Calls per second that ask, of all nodes together.
    rate: f64,
    /// In every third period of ten seconds, a node's callers ask eight times as often.
    has_bursts: bool,
    /// Maxima of input and output tokens of a call.
    costs: [u32; 2],
    /// The longest time that a call takes.
    call: Duration,
    /// How much a clock may be too fast or too slow.
    drift: f64,
    duration: Duration,
}

/// A call that was admitted.
#[derive(Clone, Copy, Debug)]
struct Admitted {
    /// When it counts, since the beginning.
    at: Duration,
    amounts: [u64; DIMENSIONS],
}

/// Calls that were admitted, and others.
#[derive(Default)]
struct Log {
    admitted: Mutex<Vec<Admitted>>,
    asked: AtomicUsize,
    in_flight: AtomicUsize,
    most_in_flight: AtomicUsize,
}

/// What an exact log admits of the same calls, at a single place.
struct Oracle {
    ledger: Mutex<Ledger>,
    admitted: AtomicUsize,
}

/// A simulation.
struct World {
    plan: Plan,
    epoch: Instant,
    network: Arc<Network>,
    nodes: Vec<Node>,
    /// Number of nodes that were started.
    started: u64,
    log: Arc<Log>,
    oracle: Arc<Oracle>,
    random: fastrand::Rng,
}

/// A node. Dropping it kills it, with all of its calls.
struct Node {
    endpoint: Endpoint,
    caller: Arc<Caller>,
    _callers: JoinSet<()>,
}

impl World {
    fn new(plan: Plan, seed: u64) -> Self {
        // The limiters draw their numbers from it.
        fastrand::seed(seed);
        let mut world = Self {
            plan,
            epoch: Instant::now(),
            network: Network::new(plan.conditions, seed),
            nodes: Vec::new(),
            started: 0,
            log: Arc::default(),
            oracle: Arc::new(Oracle {
                ledger: Mutex::default(),
                admitted: AtomicUsize::new(0),
            }),
            random: fastrand::Rng::with_seed(seed),
        };
        world.nodes = (0..plan.nodes).map(|_| world.node()).collect();
        world
    }

    /// Starts a node, and its callers.
    fn node(&mut self) -> Node {
        let endpoint = self.network.endpoint();
        let target = RedisTarget {
            simulated: Some(endpoint.clone()),
            ..RedisTarget::server(RedisAddress::default())
        };
        let timeouts = RedisTimeouts {
            response: Duration::from_millis(150),
            connect: Duration::from_millis(500),
        };
        let clock = Arc::new(DriftingClock {
            epoch: Instant::now(),
            speed: 1.0 + self.plan.drift * (2.0 * self.random.f64() - 1.0),
            paused: Mutex::default(),
        });
        let limiter = RedisLimiter::start(
            RedisClient::start(target, timeouts),
            RedisLimiterSettings::new(WINDOW, self.plan.mode, OnFailure::Reject),
            Arc::clone(&clock) as Arc<dyn Clock>,
        );
        let caller = Arc::new(Caller {
            number: self.started,
            plan: self.plan,
            epoch: self.epoch,
            limiter,
            clock,
            log: Arc::clone(&self.log),
            oracle: Arc::clone(&self.oracle),
        });
        self.started += 1;
        let mut callers = JoinSet::new();
        let random = self.random.fork();
        let asking = Arc::clone(&caller);
        callers.spawn(async move { ask_again_and_again(&asking, random).await });
        Node {
            endpoint,
            caller,
            _callers: callers,
        }
    }

    /// Kills a node, and starts another one.
    fn replace_node(&mut self, index: usize) {
        let node = self.node();
        self.nodes[index] = node;
    }

    /// The largest part of each limit that was used in any window.
    fn most_used(&self) -> [f64; DIMENSIONS] {
        let mut log = self.log.admitted.lock().clone();
        log.sort_by_key(|call| call.at);
        let limits = [
            self.plan.limits.requests,
            self.plan.limits.input_tokens,
            self.plan.limits.output_tokens,
        ];
        let (mut oldest, mut sums, mut most) = (0, [0_u64; DIMENSIONS], [0_u64; DIMENSIONS]);
        for call in &log {
            while log[oldest].at + WINDOW <= call.at {
                for (sum, amount) in sums.iter_mut().zip(log[oldest].amounts) {
                    *sum -= amount;
                }
                oldest += 1;
            }
            for dimension in 0..DIMENSIONS {
                sums[dimension] += call.amounts[dimension];
                most[dimension] = most[dimension].max(sums[dimension]);
            }
        }
        std::array::from_fn(|dimension| {
            limits[dimension].map_or(0.0, |limit| most[dimension] as f64 / f64::from(limit))
        })
    }

    /// What was beyond the limits.
    fn violation(&self) -> Option<String> {
        let most = self.most_used();
        let in_flight = self.log.most_in_flight.load(Ordering::Relaxed);
        let limit = self.plan.limits.concurrent.unwrap_or(u32::MAX) as usize;
        let is_beyond = most.iter().any(|part| *part > 1.0) || in_flight > limit;
        is_beyond.then(|| {
            format!(
                "{most:?} of the limits, {in_flight} in flight, with {:?}",
                self.plan
            )
        })
    }

    fn admitted(&self) -> usize {
        self.log.admitted.lock().len()
    }

    /// Admitted calls, as a part of those that an exact log admits.
    fn of_oracle(&self) -> f64 {
        self.admitted() as f64 / self.oracle.admitted.load(Ordering::Relaxed) as f64
    }

    /// Calls to Redis for each call that asked.
    fn steps_per_ask(&self) -> f64 {
        self.network.server.steps() as f64 / self.log.asked.load(Ordering::Relaxed) as f64
    }
}

/// What the callers of one node share.
struct Caller {
    /// Among all nodes, in the order of their start.
    number: u64,
    plan: Plan,
    epoch: Instant,
    limiter: RedisLimiter,
    clock: Arc<DriftingClock>,
    log: Arc<Log>,
    oracle: Arc<Oracle>,
}

async fn ask_again_and_again(caller: &Arc<Caller>, mut random: fastrand::Rng) {
    let mut calls = JoinSet::new();
    let usual = caller.plan.nodes as f64 / caller.plan.rate;
    loop {
        let period = caller.epoch.elapsed().as_secs() / 10;
        let is_burst = caller.plan.has_bursts && (period + caller.number).is_multiple_of(3);
        let pause = if is_burst { usual / 8.0 } else { usual };
        sleep(Duration::from_secs_f64(-pause * (1.0 - random.f64()).ln())).await;
        let (caller, random) = (Arc::clone(caller), random.fork());
        calls.spawn(async move { caller.call(random).await });
        while calls.try_join_next().is_some() {}
    }
}

impl Caller {
    async fn call(&self, mut random: fastrand::Rng) {
        let [input, output] = self.plan.costs.map(|most| random.u32(0..=most));
        let ask = Ask {
            id: LimitId(1),
            limits: self.plan.limits,
            cost: Cost {
                input_tokens: input,
                output: OutputHold::exactly(output),
            },
        };
        let takes = self.plan.call.mul_f64(random.f64());
        let used = [random.u32(0..=input), random.u32(0..=output)];
        let settlement = Settlement::Ended(Usage {
            input_tokens: Some(used[0]),
            output_tokens: Some(used[1]),
        });
        self.log.asked.fetch_add(1, Ordering::Relaxed);
        self.oracle.call(&ask, takes, settlement, self.epoch);
        let Ok(admission) = self.decide(&ask).await else {
            return;
        };
        let flight = Flight::begin(&self.log, &admission, self.counts_at(&admission));
        sleep(takes).await;
        self.limiter
            .settle(ask.id, &admission, &settlement, self.clock.now());
        flight.used(used);
    }

    /// Decides as the gateway does: a short wait is better than a refusal.
    async fn decide(&self, ask: &Ask) -> Result<Admission, Refusal> {
        let begun = Instant::now();
        loop {
            let now = self.clock.now();
            let decided = match self.limiter.try_reserve(ask, now) {
                Some(decided) => decided,
                None => self.limiter.reserve(ask, now).await,
            };
            let Err(Refusal {
                until: Until::At(tick),
                ..
            }) = decided
            else {
                return decided;
            };
            let wait = self
                .limiter
                .instant(tick)
                .saturating_duration_since(self.clock.now());
            if begun.elapsed() + wait > MICRO_WAIT {
                return decided;
            }
            sleep(wait + Duration::from_millis(1)).await;
        }
    }

    /// When a call counts, since the beginning.
    fn counts_at(&self, admission: &Admission) -> Duration {
        match admission.stored {
            Stored::At(at_ms) => Duration::from_millis(at_ms - server::BEGINS),
            _ => self.epoch.elapsed(),
        }
    }
}

/// A call in flight. If its node dies, it counts as if it used all that it held.
struct Flight {
    log: Arc<Log>,
    index: usize,
}

impl Flight {
    fn begin(log: &Arc<Log>, admission: &Admission, at: Duration) -> Self {
        let cost = admission.cost();
        let mut admitted = log.admitted.lock();
        admitted.push(Admitted {
            at,
            amounts: [1, cost.input_tokens.into(), cost.output.max.into()],
        });
        let in_flight = log.in_flight.fetch_add(1, Ordering::Relaxed) + 1;
        log.most_in_flight.fetch_max(in_flight, Ordering::Relaxed);
        Self {
            log: Arc::clone(log),
            index: admitted.len() - 1,
        }
    }

    fn used(&self, [input, output]: [u32; 2]) {
        let mut admitted = self.log.admitted.lock();
        admitted[self.index].amounts = [1, input.into(), output.into()];
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.log.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Oracle {
    /// Decides about a call, and ends it in time.
    fn call(self: &Arc<Self>, ask: &Ask, takes: Duration, settlement: Settlement, epoch: Instant) {
        let now = Tick::default() + epoch.elapsed();
        let decided = self
            .ledger
            .lock()
            .admit(now, WINDOW, &ask.limits, &ask.cost);
        let Ok(admission) = decided else { return };
        self.admitted.fetch_add(1, Ordering::Relaxed);
        let oracle = Arc::clone(self);
        tokio::spawn(async move {
            sleep(takes).await;
            let now = Tick::default() + epoch.elapsed();
            oracle
                .ledger
                .lock()
                .settle(now, WINDOW, &admission, &settlement);
        });
    }
}
