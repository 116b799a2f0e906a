//! What goes wrong with Redis, as one type.

use redis::ErrorKind;
use thiserror::Error;

/// Why a call failed. After [`Unreachable`](Self::Unreachable) and [`Timeout`](Self::Timeout), it may still have run.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum RedisError {
    /// There is no connection, or it broke during the call.
    #[error(
        "Redis cannot be reached ({detail}): check that it runs, and that its address is right"
    )]
    Unreachable {
        /// The system's or the TLS library's words.
        detail: String,
    },
    /// No response in time.
    #[error("Redis did not respond in time: check its load and the network between")]
    Timeout,
    /// NOAUTH, WRONGPASS, NOPERM: wrong or missing password, unknown user, or a user that may not do this.
    #[error(
        "Redis refuses the user or its password ({detail}): check both, and what the user may do"
    )]
    Refused {
        /// Redis's own words.
        detail: String,
    },
    /// READONLY: it is a replica.
    #[error("this Redis is a read-only replica: use the address of its primary")]
    ReadOnly,
    /// LOADING: it has just started.
    #[error("Redis is still loading its data: it responds as soon as that is done")]
    Loading,
    /// CLUSTERDOWN, TRYAGAIN, MASTERDOWN: slots without a primary, or slots that are being moved.
    #[error(
        "the Redis Cluster does not serve this key at the moment ({detail}): check `redis-cli --cluster check`"
    )]
    ClusterUnavailable {
        /// Redis's own words.
        detail: String,
    },
    /// MOVED, ASK: one server was expected.
    #[error("this Redis is a node of a cluster: write its URL as redis-cluster://")]
    IsCluster,
    /// A cluster was expected.
    #[error("this Redis is not a cluster: write its URL as redis://, or rediss:// with TLS")]
    NotCluster,
    /// NOSCRIPT, twice in a row: scripts do not stay loaded.
    #[error("Redis lost a script that was just loaded: check who runs SCRIPT FLUSH")]
    NoScript,
    /// OOM: `maxmemory` is reached.
    #[error("Redis has no memory left for writes: raise its maxmemory")]
    OutOfMemory,
    /// Anything else.
    #[error("Redis returned an unexpected error: {detail}")]
    Unexpected {
        /// Redis's own words.
        detail: String,
    },
}

impl RedisError {
    /// The stable name, as in logs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unreachable { .. } => "redis_unreachable",
            Self::Timeout => "redis_timeout",
            Self::Refused { .. } => "redis_refused",
            Self::ReadOnly => "redis_read_only",
            Self::Loading => "redis_loading",
            Self::ClusterUnavailable { .. } => "redis_cluster_unavailable",
            Self::IsCluster => "redis_is_cluster",
            Self::NotCluster => "redis_not_cluster",
            Self::NoScript => "redis_no_script",
            Self::OutOfMemory => "redis_out_of_memory",
            Self::Unexpected { .. } => "redis_unexpected",
        }
    }
}

impl From<redis::RedisError> for RedisError {
    fn from(error: redis::RedisError) -> Self {
        let detail = error.to_string();
        let named = error.code().and_then(|code| of_code(code, &detail));
        if let Some(named) = named.or_else(|| of_text(&detail)) {
            return named;
        }
        if error.is_timeout() {
            return Self::Timeout;
        }
        let connection = matches!(
            error.kind(),
            ErrorKind::Io | ErrorKind::ClusterConnectionNotFound
        );
        match connection || error.is_unrecoverable_error() {
            true => Self::Unreachable { detail },
            false => Self::Unexpected { detail },
        }
    }
}

/// What an error code of Redis means.
fn of_code(code: &str, detail: &str) -> Option<RedisError> {
    let detail = detail.to_owned();
    Some(match code {
        "NOAUTH" | "WRONGPASS" | "NOPERM" => RedisError::Refused { detail },
        "READONLY" => RedisError::ReadOnly,
        "LOADING" => RedisError::Loading,
        "CLUSTERDOWN" | "TRYAGAIN" | "MASTERDOWN" => RedisError::ClusterUnavailable { detail },
        "MOVED" | "ASK" => RedisError::IsCluster,
        "NOSCRIPT" => RedisError::NoScript,
        "OOM" => RedisError::OutOfMemory,
        _ => return None,
    })
}

/// What is known only by its words: errors that Redis 6.2 puts around those of a script's commands, and errors that the
/// `redis` crate puts around those of a cluster's nodes.
fn of_text(text: &str) -> Option<RedisError> {
    if text.contains("cluster support disabled") {
        return Some(RedisError::NotCluster);
    }
    // A script that uses a command that its user may not.
    if text.contains("AuthenticationFailed") || text.contains("user executing the script can't") {
        let detail = text.to_owned();
        return Some(RedisError::Refused { detail });
    }
    let words = text.split(|c: char| !c.is_ascii_uppercase());
    words
        .filter(|word| word.len() > 2)
        .find_map(|word| of_code(word, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_inside_a_script_of_redis_6_2_is_recognised() {
        let text = "Error running script (call to f_2f1e): @user_script:1: -READONLY You can't write against a read only replica.";
        assert_eq!(of_text(text), Some(RedisError::ReadOnly));
        let text = "Error running script (call to f_2f1e): @user_script:1: -OOM command not allowed when used memory > 'maxmemory'.";
        assert_eq!(of_text(text), Some(RedisError::OutOfMemory));
        assert_eq!(of_text("Connection refused (os error 111)"), None);
    }
}
