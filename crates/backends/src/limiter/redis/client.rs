//! Running scripts.

use redis::{FromRedisValue, from_redis_value};

use super::error::RedisError;
use super::link::Link;
use super::script::Script;
use super::target::{RedisTarget, RedisTimeouts};

/// A Redis server or cluster. All calls share one connection per server.
pub struct RedisClient {
    pub(super) target: RedisTarget,
    pub(super) timeouts: RedisTimeouts,
    link: Link,
}

impl RedisClient {
    /// Begins to connect and returns at once. Calls wait for the first attempt, up to their deadline.
    ///
    /// The connection lives on the runtime that this is called in, and is replaced there when it is lost.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn start(target: RedisTarget, timeouts: RedisTimeouts) -> Self {
        Self {
            link: Link::start(target.clone(), timeouts),
            target,
            timeouts,
        }
    }

    /// Runs `script`, and sends its source if Redis does not have it. All `keys` must be in one slot of a cluster: they
    /// have the same part in braces, or there is one key.
    ///
    /// # Errors
    /// Within the response timeout, in all cases. While Redis is unreachable, at once.
    pub async fn run<T: FromRedisValue>(
        &self,
        script: &Script,
        keys: &[&[u8]],
        args: &[&[u8]],
    ) -> Result<T, RedisError> {
        let deadline = self.link.deadline();
        let mut reply = self.link.send(&script.evalsha(keys, args), deadline).await;
        if reply == Err(RedisError::NoScript) {
            reply = self.link.send(&script.eval(keys, args), deadline).await;
        }
        from_redis_value(reply?).map_err(|error| RedisError::Unexpected {
            detail: error.to_string(),
        })
    }

    /// Whether Redis is known to be unreachable, so that a call would fail at once.
    pub fn is_down(&self) -> bool {
        self.link.is_down()
    }

    /// The number of the current connection, which rises with each that is opened; `None` while there is none.
    pub(super) fn connection(&self) -> Option<u64> {
        self.link.number()
    }

    /// Why Redis is unreachable at the moment; `None` while it is connected.
    pub fn problem(&self) -> Option<RedisError> {
        self.link.problem()
    }
}
