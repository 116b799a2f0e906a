//! What `serve` and `demo` have in common: a gateway that runs until it is told to stop.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;

use clap::ValueEnum;
use keypool_core::secret::Digest256;
use keypool_gateway::clock::PollClock;
use keypool_gateway::context::{Gateway, LoadSettings};
use keypool_gateway::server::Server;
use keypool_gateway::settings::{AdminSettings, LogFormat, LogSettings, ServerSettings, Settings};
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
        .with_max_connections(usize::try_from(room.streams).unwrap_or(usize::MAX))
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
    let fixed = Fixed::of(&settings);
    let load = move || {
        let mut reloaded = load()?;
        logging.set_level(reloaded.settings.log.level);
        let waiting = fixed.keep(&mut reloaded.settings);
        let waits = |setting| format!("{setting} takes effect at the next start");
        reloaded.warnings.extend(waiting.into_iter().map(waits));
        Ok(reloaded)
    };
    Gateway::new(settings, digest, Arc::new(PollClock), Box::new(load))
}

/// What stays as it was at the start, whatever is read later.
struct Fixed {
    listen: SocketAddr,
    format: LogFormat,
    admin: AdminSettings,
}

impl Fixed {
    /// Of all settings, each of which is named here: one that is new is to be judged.
    fn of(settings: &Settings) -> Self {
        let Settings {
            server,
            log,
            admin,
            // The gateway looks them up in the configuration in force.
            pools: _,
            virtual_keys: _,
            routes: _,
        } = settings;
        let ServerSettings {
            listen,
            auth: _,
            max_request_body: _,
            shutdown_timeout: _,
            shutdown_delay: _,
            allowed_hosts: _,
            allowed_origins: _,
        } = server;
        // The level is followed at once.
        let LogSettings { level: _, format } = log;
        Self {
            listen: *listen,
            format: *format,
            admin: admin.clone(),
        }
    }

    /// Puts back into `settings` what they cannot change, and names it.
    fn keep(&self, settings: &mut Settings) -> Vec<&'static str> {
        let changed = [
            ("`server.listen`", settings.server.listen != self.listen),
            ("`log.format`", settings.log.format != self.format),
            ("`[admin]`", settings.admin != self.admin),
        ];
        // What is in force is what was bound: whether a virtual key is required hangs on the address.
        settings.server.listen = self.listen;
        settings.log.format = self.format;
        settings.admin = self.admin.clone();
        let names = changed.into_iter().filter(|(_, differs)| *differs);
        names.map(|(name, _)| name).collect()
    }
}
