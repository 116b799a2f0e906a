//! What each node does: it asks Redis, or decides by itself on what Redis has lent it.
//!
//! Calls of one caller that come while Redis is asked are asked about together. A refusal is remembered until it ends, so a
//! caller who does not give up costs Redis nothing. Beside that, each node counts by itself what it has admitted: while
//! Redis does not respond, that decides.

mod account;
mod accounts;
mod lease;
mod nodes;
mod step;
mod without_redis;

use std::sync::Arc;
use std::time::{Duration, Instant};

use keypool_core::clock::Clock;
use keypool_core::limit::{
    Admission, Ask, DIMENSIONS, LimitId, Limiter, Limits, Ready, Refusal, Remaining, Reserving,
    Settlement, Tick,
};
use tokio::sync::oneshot;
use tokio::time::sleep;

use super::RedisClient;
use account::Account;
use accounts::Accounts;
use nodes::Nodes;

/// How long settlements wait for a call to ask about, which takes them along.
const FLUSH_AFTER: Duration = Duration::from_millis(100);
/// The same where another node may be refused meanwhile.
const FLUSH_SOON: Duration = Duration::from_millis(2);

/// A call that was admitted before anybody made it is given back if nobody has made it after this part of the window: 2 s.
const RESERVED_AHEAD_FOR: u32 = 30;

/// How long after a refusal Redis is asked again for a call that is to come, if calls in flight may make room.
const RECHECK_AFTER: Duration = Duration::from_millis(250);

/// What happens while Redis does not respond.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnFailure {
    /// Each node admits its share of the limits.
    #[default]
    Degrade,
    /// Nobody with limits is admitted.
    Reject,
    /// Everybody is admitted.
    Allow,
}

/// Who decides about calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Each node, on the leases that Redis grants it. Redis, if a lease has no room.
    #[default]
    Leased,
    /// Redis, about each call.
    Strict,
}

/// How a [`RedisLimiter`] counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RedisLimiterSettings {
    /// Length of the window.
    pub window: Duration,
    /// Who decides about calls.
    pub mode: Mode,
    /// What happens while Redis does not respond.
    pub on_failure: OnFailure,
    /// How often a node says that it lives. So often it learns, too, that Redis has lost data.
    pub heartbeat: Duration,
    /// How long Redis keeps what a node's calls hold, unless it hears from the node. Then it counts as used. Longer than the
    /// window, so that a record that is missing was lost as long as anything counts.
    pub record_ttl: Duration,
}

impl RedisLimiterSettings {
    /// The usual settings for a window.
    pub fn new(window: Duration, mode: Mode, on_failure: OnFailure) -> Self {
        let heartbeat = Duration::from_millis(200);
        Self {
            window,
            mode,
            on_failure,
            heartbeat,
            record_ttl: window + heartbeat,
        }
    }
}

/// Limits that Redis counts.
pub struct RedisLimiter(Arc<Shared>);

/// What the limiter and its tasks share.
struct Shared {
    redis: RedisClient,
    script: super::Reserve,
    clock: Arc<dyn Clock>,
    epoch: Instant,
    window: Duration,
    mode: Mode,
    on_failure: OnFailure,
    record_ttl: Duration,
    nodes: Nodes,
    accounts: Accounts,
}

impl RedisLimiter {
    /// Starts a limiter. Must be called within a runtime, which keeps its tasks.
    #[expect(
        clippy::disallowed_methods,
        reason = "lives as long as the limiter; a shutdown does not wait for it"
    )]
    pub fn start(
        redis: RedisClient,
        settings: RedisLimiterSettings,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let shared = Arc::new(Shared {
            redis,
            script: super::Reserve::default(),
            epoch: clock.now(),
            clock,
            window: settings.window,
            mode: settings.mode,
            on_failure: settings.on_failure,
            record_ttl: settings.record_ttl,
            nodes: Nodes::new(settings.heartbeat),
            accounts: Accounts::default(),
        });
        tokio::spawn(nodes::keep_counted(Arc::downgrade(&shared)));
        tokio::spawn(restate_regularly(Arc::downgrade(&shared)));
        Self(shared)
    }
}

impl Shared {
    #[expect(
        clippy::disallowed_methods,
        reason = "it ends by itself, after a moment and a call with a deadline"
    )]
    fn settle(
        self: &Arc<Self>,
        account: &Arc<Account>,
        admission: &Admission,
        settlement: &Settlement,
        now: Tick,
    ) {
        if let Some(wait) = account.settle(self, admission, settlement, now) {
            let (shared, account) = (Arc::clone(self), Arc::clone(account));
            tokio::spawn(async move {
                sleep(wait).await;
                if account.begin_flush() {
                    step::run(&shared, &account).await;
                }
            });
        }
    }

    /// Ends a call that nobody made.
    fn give_back(self: &Arc<Self>, account: &Arc<Account>, admission: Option<Admission>) {
        if let Some(admission) = admission {
            self.settle(account, &admission, &Settlement::NotSent, self.now());
        }
    }

    fn now(&self) -> Tick {
        self.tick(self.clock.now())
    }

    fn tick(&self, now: Instant) -> Tick {
        Tick::default() + now.saturating_duration_since(self.epoch)
    }

    /// Asks Redis until nothing is left to ask or to settle. One task does that for each caller at a time.
    #[expect(
        clippy::disallowed_methods,
        reason = "it ends by itself, since every call has a deadline"
    )]
    fn run_steps(self: &Arc<Self>, account: &Arc<Account>) {
        let (shared, account) = (Arc::clone(self), Arc::clone(account));
        tokio::spawn(async move { step::run(&shared, &account).await });
    }
}

/// A call that waits for its decision. If its client leaves just when that comes, what it was admitted is given back.
struct Asking {
    shared: Arc<Shared>,
    account: Arc<Account>,
    answered: oneshot::Receiver<Option<Result<Admission, Refusal>>>,
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.answered.close();
        if let Ok(Some(Ok(admission))) = self.answered.try_recv() {
            self.shared.give_back(&self.account, Some(admission));
        }
    }
}

impl Limiter for RedisLimiter {
    fn try_reserve(&self, ask: &Ask, now: Instant) -> Option<Result<Admission, Refusal>> {
        let shared = &self.0;
        let (account, now) = (shared.accounts.of(ask.id), shared.tick(now));
        match account.decide_here(shared, ask, now) {
            None if shared.redis.is_down() => Some(account.decide_without_redis(shared, ask, now)),
            decided => decided,
        }
    }

    fn reserve<'a>(&'a self, ask: &'a Ask, _now: Instant) -> Reserving<'a> {
        let shared = &self.0;
        let account = shared.accounts.of(ask.id);
        let (answer, answered) = oneshot::channel();
        if account.enqueue(ask, answer) {
            shared.run_steps(&account);
        }
        let mut asking = Asking {
            shared: Arc::clone(shared),
            account: Arc::clone(&account),
            answered,
        };
        Box::pin(async move {
            match (&mut asking.answered).await {
                Ok(Some(decided)) => decided,
                // Redis did not respond, which took time.
                Ok(None) | Err(_) => account.decide_without_redis(shared, ask, shared.now()),
            }
        })
    }

    fn check(&self, ask: &Ask, now: Instant) -> Option<Result<(), Refusal>> {
        let shared = &self.0;
        let (account, now) = (shared.accounts.of(ask.id), shared.tick(now));
        match account.check_here(shared, ask, now) {
            None if shared.redis.is_down() => Some(account.check_without_redis(shared, ask, now)),
            checked => checked,
        }
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "it ends by itself, after a call with a deadline and a moment"
    )]
    fn reserve_ahead(&self, ask: Ask, ready: Ready) {
        let limiter = Self(Arc::clone(&self.0));
        tokio::spawn(async move {
            let shared = &limiter.0;
            let decided = limiter.reserve(&ask, shared.clock.now()).await;
            let account = shared.accounts.of(ask.id);
            match decided {
                Ok(admission) => {
                    shared.give_back(&account, account.replace_reserved_ahead(admission));
                    ready(true);
                    sleep(shared.window / RESERVED_AHEAD_FOR).await;
                    shared.give_back(&account, account.take_reserved_ahead(&admission));
                }
                Err(refusal) => {
                    // Nobody tells this node of room that another one gives back.
                    if refusal.may_be_sooner {
                        ready(false);
                        sleep(RECHECK_AFTER).await;
                    }
                    ready(true);
                }
            }
        });
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn settle(&self, id: LimitId, admission: &Admission, settlement: &Settlement, now: Instant) {
        let shared = &self.0;
        let account = shared.accounts.of(id);
        shared.settle(&account, admission, settlement, shared.tick(now));
    }

    fn remaining(
        &self,
        id: LimitId,
        limits: &Limits,
        now: Instant,
    ) -> [Option<Remaining>; DIMENSIONS] {
        let shared = &self.0;
        let account = shared.accounts.of(id);
        account.remaining(shared, limits, shared.tick(now))
    }

    fn sweep(&self, now: Instant) {
        let shared = &self.0;
        let now = shared.tick(now);
        shared
            .accounts
            .retain(|account| !account.is_idle(now, shared));
    }

    fn is_degraded(&self) -> bool {
        self.0.redis.is_down()
    }

    fn instant(&self, tick: Tick) -> Instant {
        self.0.epoch + tick.since(Tick::default())
    }
}

/// States what calls in flight hold before Redis forgets it.
async fn restate_regularly(shared: std::sync::Weak<Shared>) {
    while let Some(pause) = shared.upgrade().map(|shared| shared.record_ttl / 4) {
        sleep(pause).await;
        let Some(shared) = shared.upgrade() else {
            return;
        };
        let accounts = shared.accounts.all().into_iter();
        let accounts: Vec<_> = accounts
            .filter(|account| account.has_calls_in_flight())
            .collect();
        nodes::restate_all(&shared, &accounts).await;
    }
}
