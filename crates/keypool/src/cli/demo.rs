//! `keypool demo`: serves a mock provider, so that everything can be tried without an account.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use keypool_core::secret::Secret;
use keypool_core::settings::{KeySettings, PoolSettings};
use keypool_gateway::settings::ServerSettings;
use keypool_gateway::settings::{
    AdminSettings, AuthMode, LimiterSettings, Settings, StoreLocation, StoreSettings,
};
use keypool_testkit::{Behaviour, Mock};

use super::running::serve;
use super::{Common, Failure};
use crate::config::{self, Sources};
use crate::welcome;

/// The model in the printed `curl` line. The mock provider accepts any name.
pub(crate) const MODEL: &str = "demo-model";
const KEYS: usize = 3;

pub(super) fn run(args: &Common) -> Result<ExitCode, Failure> {
    let mut sources = args.sources()?;
    // The demo uses the configured server and log settings, but not the pools and keys.
    sources.environment_pools = false;
    let mut loaded = config::load(&sources)?;
    sources.file = None;
    args.threading.runtime()?.block_on(async {
        let behaviour = Behaviour {
            latency: Duration::from_millis(150),
            chunk_interval: Duration::from_millis(40),
            // What people type into a demo is private.
            record: false,
            ..Behaviour::default()
        };
        let mock = Mock::start_on(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), behaviour)
            .await
            .map_err(|error| Failure::because("cannot start the mock provider", error))?;
        loaded.settings = settings(loaded.settings, &mock, &sources)?;
        // The warnings are about pools and keys, which the demo does not use.
        loaded.warnings.clear();
        serve(loaded, None, welcome::Kind::Demo, args.threading).await
    })
}

fn settings(configured: Settings, mock: &Mock, sources: &Sources) -> Result<Settings, Failure> {
    let base_url = mock
        .origin()
        .parse()
        .map_err(|error| Failure::because("the mock provider has no address", error))?;
    let key = |n: usize| {
        let secret = Secret::new(format!("made-up-demo-key-{n}"));
        KeySettings {
            max_concurrent: Some(3),
            ..KeySettings::new(format!("demo-{n}"), secret, Clone::clone(&base_url))
        }
    };
    let pool = PoolSettings {
        name: "demo".into(),
        provider: "mock",
        models: vec![MODEL.to_owned(), "*".to_owned()],
        keys: (1..=KEYS).map(key).collect(),
        source: Arc::from("demo"),
        ..PoolSettings::default()
    };
    let token_file: PathBuf = sources.dir.join("keypool-demo.admin-token");
    let admin = AdminSettings {
        token: configured.admin.token,
        token_file,
    };
    // The keys are made up, so no virtual key is required. The Host check stays.
    let server = ServerSettings {
        auth: AuthMode::None,
        ..configured.server
    };
    Ok(Settings {
        server,
        pools: vec![pool.into()],
        virtual_keys: Vec::new(),
        admin,
        limiter: LimiterSettings::default(),
        store: StoreSettings {
            location: StoreLocation::Sqlite(sources.dir.join("keypool-demo.db")),
            master_key: None,
            master_key_file: sources.dir.join("keypool-demo.master-key"),
        },
        ..configured
    })
}
