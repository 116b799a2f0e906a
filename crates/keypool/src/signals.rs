//! Signals: SIGHUP reloads. The first SIGTERM or SIGINT starts an orderly shutdown, the second ends the process at once.

use std::sync::Arc;

use keypool_gateway::context::Gateway;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::logging;

/// The exit code after a second signal.
const EXIT_AFTER_SECOND_SIGNAL: i32 = 130;

/// Resolves when the server must stop accepting: after a signal and `server.shutdown_delay`. Signals are caught from
/// this call on, not only while the future is polled.
pub(crate) fn shutdown(gw: &Arc<Gateway>) -> impl Future<Output = ()> + use<> {
    let gw = Arc::clone(gw);
    let signals = (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
    );
    async move {
        let (Ok(mut terminate), Ok(mut interrupt)) = signals else {
            tracing::error!("cannot listen for signals; stop the process with SIGKILL");
            return std::future::pending().await;
        };
        either_signal(&mut terminate, &mut interrupt).await;
        gw.begin_shutdown();
        let delay = gw.snapshot().settings.server.shutdown_delay;
        tracing::info!(
            delay_s = delay.as_secs_f64(),
            "shutting down: requests in flight may finish; a second signal stops at once"
        );
        exit_on_second(terminate, interrupt);
        tokio::time::sleep(delay).await;
    }
}

async fn either_signal(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the shutdown must not wait for this task"
)]
fn exit_on_second(mut terminate: Signal, mut interrupt: Signal) {
    tokio::spawn(async move {
        either_signal(&mut terminate, &mut interrupt).await;
        tracing::warn!("second signal: stopping at once");
        logging::flush();
        std::process::exit(EXIT_AFTER_SECOND_SIGNAL);
    });
}

/// Reloads the configuration on each SIGHUP.
#[expect(
    clippy::disallowed_methods,
    reason = "lives as long as the process; a shutdown does not wait for it"
)]
pub(crate) fn reload_on_hangup(gw: &Arc<Gateway>) {
    let gw = Arc::clone(gw);
    let Ok(mut hangup) = signal(SignalKind::hangup()) else {
        tracing::error!(
            "cannot listen for SIGHUP; to reload, change the file or use the admin API"
        );
        return;
    };
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            reload(&gw).await;
        }
    });
}

/// Reloads on a blocking thread, off the tasks that serve requests. `Gateway::reload` logs what is wrong.
pub(crate) async fn reload(gw: &Arc<Gateway>) {
    let gw = Arc::clone(gw);
    let _ = tokio::task::spawn_blocking(move || gw.reload().is_ok()).await;
}
