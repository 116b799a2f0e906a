//! Signals: hang-up reloads; the first terminate or interrupt begins an orderly end, the second ends at once.

use std::sync::Arc;

use keypool_gateway::context::Gateway;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::logging;

/// The exit code after a second signal.
const ENDED_AT_ONCE: i32 = 130;

/// Resolves when accepting is to end: after a signal and `server.shutdown_delay`. Listens from the call on, not
/// only when awaited.
pub(crate) fn shutdown(gw: &Arc<Gateway>) -> impl Future<Output = ()> + use<> {
    let gw = Arc::clone(gw);
    let signals = (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
    );
    async move {
        let (Ok(mut terminate), Ok(mut interrupt)) = signals else {
            tracing::error!("cannot listen for signals; end the process by force");
            return std::future::pending().await;
        };
        either(&mut terminate, &mut interrupt).await;
        gw.begin_shutdown();
        let delay = gw.snapshot().settings.server.shutdown_delay;
        tracing::info!(
            delay_s = delay.as_secs_f64(),
            "shutting down: requests in flight may end; a second signal ends at once"
        );
        end_at_second(terminate, interrupt);
        tokio::time::sleep(delay).await;
    }
}

async fn either(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "must not keep the shutdown waiting for itself"
)]
fn end_at_second(mut terminate: Signal, mut interrupt: Signal) {
    tokio::spawn(async move {
        either(&mut terminate, &mut interrupt).await;
        tracing::warn!("second signal: ending at once");
        logging::flush();
        std::process::exit(ENDED_AT_ONCE);
    });
}

/// Reloads the configuration at each SIGHUP.
#[expect(
    clippy::disallowed_methods,
    reason = "lives as long as the process; a shutdown does not wait for it"
)]
pub(crate) fn reload_on_hangup(gw: &Arc<Gateway>) {
    let gw = Arc::clone(gw);
    let Ok(mut hangup) = signal(SignalKind::hangup()) else {
        tracing::error!("cannot listen for SIGHUP; reload by the file or the admin API");
        return;
    };
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            reload(&gw).await;
        }
    });
}

/// Reloads off the tasks that serve requests; what is wrong is logged there.
pub(crate) async fn reload(gw: &Arc<Gateway>) {
    let gw = Arc::clone(gw);
    let _ = tokio::task::spawn_blocking(move || gw.reload().is_ok()).await;
}
