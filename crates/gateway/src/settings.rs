//! One whole configuration as plain values with their defaults. The program reads files and environment into these.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use keypool_core::base_url::BaseUrl;
use keypool_core::limit::{Limits, OutputReservation};
use keypool_core::secret::{Digest256, Secret};
use keypool_core::settings::PoolSettings;
use keypool_core::store::JobLimits;

use crate::proxy_environment::ProxyEnvironment;
use crate::webhook_hosts::WebhookHost;
use crate::webhook_secret::WebhookSecret;

/// One complete, validated configuration.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings {
    /// `[server]`
    pub server: ServerSettings,
    /// `[log]`
    pub log: LogSettings,
    /// `[admin]`
    pub admin: AdminSettings,
    /// `[limiter]`
    pub limiter: LimiterSettings,
    /// `[store]`
    pub store: StoreSettings,
    /// `[jobs]`
    pub jobs: JobSettings,
    /// `[files]`
    pub files: FileSettings,
    /// The proxies that the environment names.
    pub proxies: ProxyEnvironment,
    /// `[pools.*]` in the order of the file, then the pools made from environment keys.
    pub pools: Vec<Arc<PoolSettings>>,
    /// `[[virtual_keys]]`
    pub virtual_keys: Vec<VirtualKeySettings>,
    /// `[[routes]]`
    pub routes: Vec<RouteSettings>,
}

/// `[server]`
#[derive(Clone, Debug, PartialEq)]
pub struct ServerSettings {
    /// Where the data plane, admin API and dashboard listen.
    pub listen: SocketAddr,
    /// When a virtual key is required.
    pub auth: AuthMode,
    /// The largest request body, in bytes.
    pub max_request_body: u64,
    /// How long requests in flight may take once accepting has ended.
    pub shutdown_timeout: Duration,
    /// How long `/readyz` answers 503 before accepting ends.
    pub shutdown_delay: Duration,
    /// How clients reach this server, for addresses in responses: `https`, or `http` at a loopback host. `None`: as the
    /// request says.
    pub public_url: Option<BaseUrl>,
    /// `Host` values accepted in addition to the loopback names, without port.
    pub allowed_hosts: Vec<String>,
    /// `Origin` values accepted, such as `https://app.example.com`.
    pub allowed_origins: Vec<String>,
}

impl Default for ServerSettings {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            auth: AuthMode::Auto,
            max_request_body: 64 << 20,
            shutdown_timeout: Duration::from_secs(30),
            shutdown_delay: Duration::ZERO,
            public_url: None,
            allowed_hosts: Vec::new(),
            allowed_origins: Vec::new(),
        }
    }
}

/// `[jobs]`
#[derive(Clone, Debug, PartialEq)]
pub struct JobSettings {
    /// How much may be queued and stored.
    pub limits: JobLimits,
    /// Maximum number of jobs of one pool that this process works on at the same time.
    pub max_running: usize,
    /// How long a job is kept after its end.
    pub keep: Duration,
    /// Time from the submission of a job until it fails if no provider has served it.
    pub deadline: Duration,
    /// The hosts that callers may have called at the end of a job.
    pub webhook_hosts: Vec<WebhookHost>,
}

impl Default for JobSettings {
    fn default() -> Self {
        Self {
            limits: JobLimits {
                max_queued: 100_000,
                max_queued_per_caller: 50_000,
                max_stored: 20 << 30,
                max_stored_per_caller: 10 << 30,
            },
            max_running: 256,
            keep: Duration::from_secs(7 * 86_400),
            deadline: Duration::from_secs(86_400),
            webhook_hosts: Vec::new(),
        }
    }
}

/// `[files]`
#[derive(Clone, Debug, PartialEq)]
pub struct FileSettings {
    /// The largest file that may be uploaded, in bytes.
    pub max_size: u64,
}

impl Default for FileSettings {
    fn default() -> Self {
        Self {
            max_size: 512 << 20,
        }
    }
}

/// `server.auth`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AuthMode {
    /// Required while a virtual key is configured, and always on an address that is not loopback.
    #[default]
    Auto,
    /// Always required.
    Required,
    /// Never required.
    None,
}

/// `[log]`
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LogSettings {
    /// The least severe level that is written.
    pub level: LogLevel,
    /// Text for people, or JSON lines.
    pub format: LogFormat,
}

/// `log.level`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogLevel {
    /// An operator must act.
    Error,
    /// Recovered, but unexpected.
    Warn,
    /// Life cycle, and one line per request.
    #[default]
    Info,
    /// For those who debug keypool.
    Debug,
    /// Everything.
    Trace,
}

/// `log.format`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// `[admin]`, and the file for a generated token.
#[derive(Clone, Debug, PartialEq)]
pub struct AdminSettings {
    /// The token set by the operator.
    pub token: Option<Secret>,
    /// Where a generated token is stored if none is set.
    pub token_file: PathBuf,
}

/// `[store]`, and the file for a generated master key. A change takes effect at the next start.
#[derive(Clone, Debug, PartialEq)]
pub struct StoreSettings {
    /// `store.url`
    pub location: StoreLocation,
    /// `store.master_key`, which encrypts the secrets in the store.
    pub master_key: Option<Secret>,
    /// Where a generated master key is stored if none is set.
    pub master_key_file: PathBuf,
}

/// `store.url`
#[derive(Clone, Debug, PartialEq)]
pub enum StoreLocation {
    /// A database file, for this process alone.
    Sqlite(PathBuf),
    /// A PostgreSQL database, for all nodes that use it. The whole URL is a secret, since it may hold a password.
    Postgres(Secret),
}

impl Default for StoreSettings {
    fn default() -> Self {
        Self {
            location: StoreLocation::Sqlite("keypool.db".into()),
            master_key: None,
            master_key_file: "keypool.master-key".into(),
        }
    }
}

impl Default for AdminSettings {
    fn default() -> Self {
        Self {
            token: None,
            token_file: "keypool.admin-token".into(),
        }
    }
}

/// `[limiter]`: where limits are counted. A change takes effect at the next start.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LimiterSettings {
    /// `limiter.url`
    pub store: LimiterStore,
    /// How a Redis store is asked.
    pub mode: LimiterMode,
    /// What happens while a Redis store does not respond.
    pub on_store_failure: OnStoreFailure,
}

/// `limiter.url`
#[derive(Clone, Debug, Default, PartialEq)]
pub enum LimiterStore {
    /// In this process, for this process alone.
    #[default]
    Memory,
    /// In Redis, for all processes that use it.
    Redis(RedisSettings),
}

/// How to reach Redis.
#[derive(Clone, Debug, PartialEq)]
pub struct RedisSettings {
    /// One server, or the nodes of a cluster.
    pub servers: RedisServers,
    /// Whether connections are encrypted.
    pub tls: bool,
    /// The ACL user; `None`: the default user.
    pub user: Option<String>,
    /// The user's password; `None`: connections do not authenticate.
    pub password: Option<Secret>,
}

/// The servers of one Redis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RedisServers {
    /// A single server.
    Single {
        /// Its address.
        address: RedisAddress,
        /// The number of the database, from 0.
        database: u32,
    },
    /// Nodes of a cluster, from which the others are discovered; at least one.
    Cluster(Vec<RedisAddress>),
}

/// The host and port of a Redis server.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RedisAddress {
    /// A host name or an address; an IPv6 address without brackets.
    pub host: String,
    /// The port, at least 1.
    pub port: u16,
}

/// `limiter.mode`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LimiterMode {
    /// Nodes take a part of each limit for some seconds, and decide on it by themselves.
    #[default]
    Leased,
    /// Redis decides about each call.
    Strict,
}

/// `limiter.on_store_failure`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnStoreFailure {
    /// Each node admits its share of each limit.
    #[default]
    Degrade,
    /// Calls that have a limit are refused.
    Reject,
    /// Calls are admitted without limits.
    Allow,
}

/// One `[[virtual_keys]]` entry: what a client presents.
#[derive(Clone, Debug, PartialEq)]
pub struct VirtualKeySettings {
    /// Unique among virtual keys.
    pub name: Arc<str>,
    /// SHA-256 of the secret.
    pub digest: Digest256,
    /// Models it may call: names and patterns.
    pub models: Vec<String>,
    /// Pools it may call: names and patterns.
    pub pools: Vec<String>,
    /// Whether it may use native paths, which are not among the known endpoints.
    pub native: bool,
    /// No longer accepted from this time on.
    pub expires: Option<std::time::SystemTime>,
    /// Switched off: not accepted.
    pub disabled: bool,
    /// `rpm`, `input_tpm`, `output_tpm` and `max_concurrent`.
    pub limits: Limits,
    /// How many output tokens a call holds while it is in flight.
    pub output_reservation: OutputReservation,
    /// What a call gets that a limit does not admit now.
    pub on_limit: OnLimit,
    /// Maximum time that a call waits with `OnLimit::Wait`.
    pub limit_wait: Duration,
    /// What announcements of its jobs' ends are signed with; `None`: they cannot be asked for.
    pub webhook_secret: Option<WebhookSecret>,
    /// Where it comes from, and so where it is changed: the configuration file's name, or `store`.
    pub source: Arc<str>,
}

impl VirtualKeySettings {
    /// A virtual key with the default settings: every model and pool, no native paths, no end, no limits.
    pub fn new(name: impl Into<Arc<str>>, digest: Digest256) -> Self {
        Self {
            name: name.into(),
            digest,
            models: vec!["*".to_owned()],
            pools: vec!["*".to_owned()],
            native: false,
            expires: None,
            disabled: false,
            limits: Limits::default(),
            output_reservation: OutputReservation::default(),
            on_limit: OnLimit::default(),
            limit_wait: Duration::from_secs(10),
            webhook_secret: None,
            source: Arc::default(),
        }
    }
}

/// `on_limit`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnLimit {
    /// 429 at once, with the time until the call would be admitted.
    #[default]
    Reject,
    /// The call waits for up to `limit_wait`.
    Wait,
}

/// One `[[routes]]` entry: a model name that the operator chose.
#[derive(Clone, Debug, PartialEq)]
pub struct RouteSettings {
    /// The name that callers use; unique among routes.
    pub model: Arc<str>,
    /// Tried in order; at least one.
    pub targets: Vec<RouteTarget>,
}

/// One target of a route.
#[derive(Clone, Debug, PartialEq)]
pub struct RouteTarget {
    /// A pool's name.
    pub pool: Arc<str>,
    /// The model requested there. `None`: the name that the caller used.
    pub model: Option<Arc<str>>,
}
