//! Runs a gateway until a signal stops it. Used by `serve` and `demo`.

use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use clap::ValueEnum;
use keypool_core::clock::Clock;
use keypool_core::secret::Digest256;
use keypool_gateway::clock::PollClock;
use keypool_gateway::context::{Backends, Gateway, HeldVirtualKey, LoadSettings, Reloaded};
use keypool_gateway::server::Server;
use keypool_gateway::settings::{
    AdminSettings, LimiterSettings, LogFormat, LogSettings, ServerSettings, Settings,
    StoreLocation, StoreSettings,
};
use tokio::runtime::{Builder, Runtime};
use tokio::time::Instant;

use super::{Failure, print, print_error};
use crate::admin_token::{self, AdminToken};
use crate::config::Loaded;
use crate::logging::{self, Logging};
use crate::open_files::OpenFiles;
use crate::reloader::Reloader;
use crate::store::{self, held_virtual_key};
use crate::{limiter, signals, watch, welcome};

/// How work is spread over the CPU cores.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Threading {
    /// One single-threaded runtime per core, the cheapest: a connection stays on its core.
    #[default]
    PerCore,
    /// One runtime whose threads take work from each other: balances a few very busy connections.
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

    /// Number of threads that accept connections, each with its own runtime.
    fn acceptors(self) -> usize {
        match self {
            Self::PerCore => std::thread::available_parallelism().map_or(1, usize::from),
            Self::WorkStealing => 1,
        }
    }
}

/// Serves until a signal stops it. Without a `reloader`, the configuration stays as it is.
pub(super) async fn serve(
    loaded: Loaded,
    reloader: Option<Arc<Reloader>>,
    kind: welcome::Kind,
    threading: Threading,
) -> Result<ExitCode, Failure> {
    let Loaded {
        settings,
        warnings,
        files: _,
    } = loaded;
    let logging = Arc::new(logging::start(&settings.log));
    for warning in &warnings {
        tracing::warn!("{warning}");
    }
    let open_files = OpenFiles::raise(threading.acceptors());
    let token = admin_token::load_or_generate(&settings.admin).map_err(|error| {
        Failure::because(
            format!(
                "cannot store the admin token in {}",
                settings.admin.token_file.display()
            ),
            error,
        )
    })?;
    let load = load_again(reloader.clone(), &settings);
    let clock: Arc<dyn Clock> = Arc::new(PollClock);
    let backends = backends(&settings, &clock).await?;
    let gw = gateway(settings, &token, load, &logging, backends);
    let loaded = gw.load_store().await;
    // It may return, and what is wrong was logged.
    if let Some(error) = loaded.err().filter(|error| !error.may_pass()) {
        return Err(Failure::because("cannot use the store", error));
    }
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
        .map_err(|error| Failure::because("cannot find out the address it listens on", error))?;
    if let Some(reloader) = reloader {
        watch::start(&gw, reloader);
    }
    signals::reload_on_hangup(&gw);
    let shutdown = signals::shutdown(&gw);
    // Printed last: its reader may change files or send signals at once.
    open_files.log();
    let welcome = welcome::text(kind, addr, open_files, &gw.snapshot(), &token);
    if let Err(failure) = print(&welcome) {
        // Callers can be served all the same.
        print_error(&failure.to_string());
    }
    let all_ended = server
        .with_max_connections(usize::try_from(open_files.streams).unwrap_or(usize::MAX))
        .serve(threading.acceptors(), shutdown)
        .await
        .map_err(|error| Failure::because("cannot serve", error))?;
    if !all_ended {
        tracing::warn!("some requests did not end within server.shutdown_timeout and were aborted");
    }
    tracing::info!("stopped");
    Ok(ExitCode::SUCCESS)
}

/// The limiter and the store that the settings ask for.
async fn backends(settings: &Settings, clock: &Arc<dyn Clock>) -> Result<Backends, Failure> {
    let limiter = limiter::start(&settings.limiter, clock)
        .await
        .map_err(|problem| Failure::because("cannot count limits", problem))?;
    let store = store::open(&settings.store)
        .await
        .map_err(|problem| Failure::because("cannot open the store", problem))?;
    let held_virtual_key = match &settings.store.location {
        StoreLocation::Sqlite(_) => HeldVirtualKey::default(),
        StoreLocation::Postgres(_) => {
            let dir = settings.store.master_key_file.parent();
            held_virtual_key::in_dir(dir.unwrap_or(Path::new(".")))
        }
    };
    Ok(Backends {
        limiter,
        store: Some(store),
        held_virtual_key,
    })
}

fn load_again(reloader: Option<Arc<Reloader>>, settings: &Settings) -> LoadSettings {
    if let Some(reloader) = reloader {
        return Box::new(move || reloader.load(Instant::now()));
    }
    let unchanged = settings.clone();
    Box::new(move || {
        Ok(Reloaded {
            settings: unchanged.clone(),
            warnings: Vec::new(),
        })
    })
}

fn gateway(
    settings: Settings,
    token: &AdminToken,
    load: LoadSettings,
    logging: &Arc<Logging>,
    backends: Backends,
) -> Arc<Gateway> {
    let digest = Digest256::of(token.secret.expose().as_bytes());
    let logging = Arc::clone(logging);
    let fixed = Fixed::new(&settings);
    let load = move || {
        let mut reloaded = load()?;
        logging.set_level(reloaded.settings.log.level);
        let postponed = fixed.restore(&mut reloaded.settings);
        let warning = |setting| format!("{setting} takes effect at the next start");
        reloaded.warnings.extend(postponed.into_iter().map(warning));
        Ok(reloaded)
    };
    Gateway::new(
        settings,
        digest,
        Arc::new(PollClock),
        backends,
        Box::new(load),
    )
}

/// The settings that only change at a restart, as they were at the start.
struct Fixed {
    listen: SocketAddr,
    format: LogFormat,
    admin: AdminSettings,
    limiter: LimiterSettings,
    store: StoreSettings,
}

impl Fixed {
    /// Takes them from `settings`. Every setting is named here, so that the compiler asks about a new one.
    fn new(settings: &Settings) -> Self {
        let Settings {
            server,
            log,
            admin,
            limiter,
            store,
            // The gateway reads these from the current snapshot.
            jobs: _,
            files: _,
            proxies: _,
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
            public_url: _,
            allowed_hosts: _,
            allowed_origins: _,
        } = server;
        // A new level applies at once.
        let LogSettings { level: _, format } = log;
        Self {
            listen: *listen,
            format: *format,
            admin: admin.clone(),
            limiter: limiter.clone(),
            store: store.clone(),
        }
    }

    /// Restores these settings in `settings`, and returns the names of those that differed.
    fn restore(&self, settings: &mut Settings) -> Vec<&'static str> {
        let changed = [
            ("`server.listen`", settings.server.listen != self.listen),
            ("`log.format`", settings.log.format != self.format),
            ("`[admin]`", settings.admin != self.admin),
            ("`[limiter]`", settings.limiter != self.limiter),
            ("`[store]`", settings.store != self.store),
        ];
        // The address that was bound still counts: it decides whether a virtual key is required.
        settings.server.listen = self.listen;
        settings.log.format = self.format;
        settings.admin = self.admin.clone();
        settings.limiter = self.limiter.clone();
        settings.store = self.store.clone();
        let names = changed.into_iter().filter(|(_, differs)| *differs);
        names.map(|(name, _)| name).collect()
    }
}
