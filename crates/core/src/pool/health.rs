//! Whether a pool is in trouble, and which case it is: some keys fail while others serve, all keys fail, or there is
//! no other key.
//!
//! Derived from the state of the keys at the moment of asking. Must never know who is informed of it.

use std::sync::Arc;

use super::{KeyReport, KeyState, Pool};
use crate::fault::Class;

/// The condition of a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PoolHealth {
    /// Every key serves.
    Healthy,
    /// Keys fail, and there is no other key to fail over to.
    NoFailover(NoFailover),
    /// All keys fail, for one cause (`UpstreamTrouble`: the provider or the way to it) or (`None`) for several.
    AllFail(Option<Class>),
    /// The named keys fail; the others serve.
    SomeFail(Vec<Arc<str>>),
}

/// Why a failed request cannot go to another key of the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoFailover {
    /// The pool has a single key.
    SingleKey,
    /// `retry.retries` is 0.
    NoRetries,
    /// All keys belong to one quota group, so they cool down together.
    OneGroup,
}

impl Pool {
    /// The pool's condition now. Looks at every key.
    pub fn health(&self) -> PoolHealth {
        let failing = self.failing();
        if failing.is_empty() {
            return PoolHealth::Healthy;
        }
        match self.no_failover() {
            Some(reason) => PoolHealth::NoFailover(reason),
            None if failing.len() == self.current().members().len() => {
                PoolHealth::AllFail(common_cause(&self.report()))
            }
            None => PoolHealth::SomeFail(failing),
        }
    }

    /// Why a failed request of this pool cannot go to another key; `None` if it can.
    pub fn no_failover(&self) -> Option<NoFailover> {
        if self.current().members().len() <= 1 {
            Some(NoFailover::SingleKey)
        } else if self.current().settings().retry.retries == 0 {
            Some(NoFailover::NoRetries)
        } else if self.is_one_group() {
            Some(NoFailover::OneGroup)
        } else {
            None
        }
    }
}

/// What the reports of all failing keys have in common.
fn common_cause(reports: &[KeyReport]) -> Option<Class> {
    let all = |test: &dyn Fn(&KeyReport) -> bool| reports.iter().all(test);
    let cools_by = |class: Class| {
        move |key: &KeyReport| key.cooldowns.iter().any(|cooldown| cooldown.class == class)
    };
    if all(&|key| key.state == KeyState::Invalid) {
        Some(Class::Rejected)
    } else if all(&|key| key.state == KeyState::Exhausted) {
        Some(Class::Exhausted)
    } else if all(&cools_by(Class::RateLimited)) {
        Some(Class::RateLimited)
    } else if all(&cools_by(Class::Forbidden)) {
        Some(Class::Forbidden)
    } else if all(&|key| matches!(key.state, KeyState::Active | KeyState::Cooling)) {
        Some(Class::UpstreamTrouble)
    } else {
        None
    }
}
