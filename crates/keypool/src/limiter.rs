//! Where limits are counted: the limiter that the settings ask for.

use std::sync::Arc;

use keypool_backends::limiter::MemoryLimiter;
use keypool_backends::limiter::redis::{
    Mode, OnFailure, RedisAddress, RedisClient, RedisLimiter, RedisLimiterSettings, RedisTarget,
    RedisTimeouts, Tls,
};
use keypool_core::clock::Clock;
use keypool_core::limit::{Limiter, WINDOW};
use keypool_gateway::settings::{
    LimiterMode, LimiterSettings, LimiterStore, OnStoreFailure, RedisServers, RedisSettings,
};

/// Starts the limiter. Must be called within the runtime that is to keep its connections.
///
/// # Errors
/// A sentence that says what is wrong with the settings. A store that does not respond now is no error: it may return.
pub(crate) async fn start(
    settings: &LimiterSettings,
    clock: &Arc<dyn Clock>,
) -> Result<Arc<dyn Limiter>, String> {
    let LimiterStore::Redis(redis) = &settings.store else {
        return Ok(Arc::new(MemoryLimiter::new(WINDOW, clock.now())));
    };
    let client = RedisClient::start(target(redis), RedisTimeouts::default());
    match client.check().await {
        Ok(facts) => {
            let version = facts.version.as_deref().unwrap_or("unknown");
            tracing::info!(version, "limits are counted in Redis");
            for warning in facts.warnings {
                tracing::warn!(code = warning.code(), "{warning}");
            }
        }
        Err(problem) if problem.may_pass() => {
            tracing::error!(code = problem.code(), "{problem}");
        }
        Err(problem) => return Err(problem.to_string()),
    }
    let on_failure = match settings.on_store_failure {
        OnStoreFailure::Degrade => OnFailure::Degrade,
        OnStoreFailure::Reject => OnFailure::Reject,
        OnStoreFailure::Allow => OnFailure::Allow,
    };
    let mode = match settings.mode {
        LimiterMode::Leased => Mode::Leased,
        LimiterMode::Strict => Mode::Strict,
    };
    let settings = RedisLimiterSettings::new(WINDOW, mode, on_failure);
    let limiter = RedisLimiter::start(client, settings, Arc::clone(clock));
    Ok(Arc::new(limiter))
}

fn target(settings: &RedisSettings) -> RedisTarget {
    let address = |of: &keypool_gateway::settings::RedisAddress| RedisAddress {
        host: of.host.clone(),
        port: of.port,
    };
    let (addresses, cluster, database) = match &settings.servers {
        RedisServers::Single {
            address: of,
            database,
        } => (vec![address(of)], false, *database),
        RedisServers::Cluster(nodes) => (nodes.iter().map(address).collect(), true, 0),
    };
    RedisTarget {
        addresses,
        cluster,
        tls: settings.tls.then(Tls::with_system_roots),
        user: settings.user.clone(),
        password: settings.password.clone(),
        database,
    }
}
