//! What `serve` and `demo` have in common: a gateway that runs until it is told to stop.

use std::process::ExitCode;
use std::sync::Arc;

use clap::ValueEnum;
use keypool_core::secret::Digest256;
use keypool_core::settings::{LogSettings, Settings};
use keypool_gateway::clock::TokioClock;
use keypool_gateway::context::{Gateway, LoadSettings};
use keypool_gateway::server::Server;
use tokio::runtime::{Builder, Runtime};

use super::{Failure, say};
use crate::admin_token::{self, AdminToken};
use crate::config::Loaded;
use crate::logging::{self, Logging};
use crate::open_files::OpenFiles;
use crate::{signals, watch, welcome};

/// How the work is spread over the processor's cores.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Threading {
    /// A single-threaded runtime for each core: a connection stays on its core. The cheapest.
    #[default]
    PerCore,
    /// One runtime whose threads take work from each other: evens out a few very busy connections.
    WorkStealing,
}

impl Threading {
    /// The runtime of the main thread.
    pub(super) fn runtime(self) -> Result<Runtime, Failure> {
        let mut builder = match self {
            Self::PerCore => Builder::new_current_thread(),
            Self::WorkStealing => Builder::new_multi_thread(),
        };
        let runtime = builder.enable_all().build();
        runtime.map_err(|error| Failure::because("cannot start", error))
    }

    /// How many threads accept connections, each with a runtime of its own.
    fn acceptors(self) -> usize {
        match self {
            Self::PerCore => std::thread::available_parallelism().map_or(1, usize::from),
            Self::WorkStealing => 1,
        }
    }
}

/// Serves until a signal says stop.
pub(super) async fn serve(
    loaded: Loaded,
    load: LoadSettings,
    kind: welcome::Kind,
    threading: Threading,
) -> Result<ExitCode, Failure> {
    let Loaded {
        settings,
        warnings,
        files,
    } = loaded;
    let logging = Arc::new(logging::start(&settings.log));
    for warning in &warnings {
        tracing::warn!("{warning}");
    }
    let room = OpenFiles::raise(threading.acceptors());
    let token = admin_token::find_or_make(&settings.admin).map_err(|error| {
        Failure::because(
            format!(
                "cannot keep the admin token in {}",
                settings.admin.token_file.display()
            ),
            error,
        )
    })?;
    let gw = gateway(settings, &token, load, &logging);
    let listen = gw.snapshot().settings.server.listen;
    let server = Server::bind(Arc::clone(&gw)).await.map_err(|error| {
        let hint = if error.kind() == std::io::ErrorKind::AddrInUse {
            " (another program listens there; choose another with --listen)"
        } else {
            ""
        };
        Failure::because(format!("cannot listen on {listen}{hint}"), error)
    })?;
    let addr = server
        .addr()
        .map_err(|error| Failure::because("cannot tell the address", error))?;
    watch::start(&gw, files);
    signals::reload_on_hangup(&gw);
    let shutdown = signals::shutdown(&gw);
    // Last: who reads this may change files and send signals at once.
    room.tell();
    say(&welcome::text(kind, addr, room, &gw.snapshot(), &token));
    let all_ended = server
        .with_room_for(usize::try_from(room.streams).unwrap_or(usize::MAX))
        .serve(threading.acceptors(), shutdown)
        .await
        .map_err(|error| Failure::because("cannot serve", error))?;
    if !all_ended {
        tracing::warn!(
            "some requests did not end within server.shutdown_timeout and were broken off"
        );
    }
    tracing::info!("stopped");
    Ok(ExitCode::SUCCESS)
}

fn gateway(
    settings: Settings,
    token: &AdminToken,
    load: LoadSettings,
    logging: &Arc<Logging>,
) -> Arc<Gateway> {
    let digest = Digest256::of(token.secret.expose().as_bytes());
    let logging = Arc::clone(logging);
    let started_with = (settings.server.listen, settings.admin.clone());
    let load = move || {
        let mut reloaded = load()?;
        follow_log_settings(&logging, &reloaded.settings.log);
        let read = (
            reloaded.settings.server.listen,
            reloaded.settings.admin.clone(),
        );
        if read != started_with {
            let warning = "`server.listen` and `[admin]` take effect at the next start";
            reloaded.warnings.push(warning.to_owned());
        }
        // What is in force is what was bound: whether a virtual key is required hangs on the address.
        (reloaded.settings.server.listen, reloaded.settings.admin) = started_with.clone();
        Ok(reloaded)
    };
    Gateway::new(settings, digest, Arc::new(TokioClock), Box::new(load))
}

fn follow_log_settings(logging: &Logging, settings: &LogSettings) {
    logging.set_level(settings.level);
}
