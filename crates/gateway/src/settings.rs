//! One whole configuration as plain values with their defaults. The program reads files and environment into these.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use keypool_core::secret::{Digest256, Secret};
use keypool_core::settings::PoolSettings;

/// One whole, validated configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// `[server]`
    pub server: ServerSettings,
    /// `[log]`
    pub log: LogSettings,
    /// `[admin]`
    pub admin: AdminSettings,
    /// `[pools.*]` in the order of the file, then the pools made from environment keys.
    pub pools: Vec<PoolSettings>,
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
    /// How long requests in flight may take to end after accepting ended.
    pub shutdown_timeout: Duration,
    /// How long `/readyz` says 503 before accepting ends.
    pub shutdown_delay: Duration,
    /// `Host` values accepted beside the loopback names, without port.
    pub allowed_hosts: Vec<String>,
    /// `ObjectOrigin` values accepted, such as `https://app.example.com`.
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
            allowed_hosts: Vec::new(),
            allowed_origins: Vec::new(),
        }
    }
}

/// `server.auth`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AuthMode {
    /// Required while a virtual key is configured, and always where the address is not loopback.
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
    /// Recovered, but not as it should be.
    Warn,
    /// Life cycle, and one line a request.
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
    /// One JSON object a line.
    Json,
}

/// `[admin]`, with the index of a token that is made at first start.
#[derive(Clone, Debug, PartialEq)]
pub struct AdminSettings {
    /// The token set by the operator.
    pub token: Option<Secret>,
    /// Where a made-up token is kept when none is set.
    pub token_file: PathBuf,
}

/// One `[[virtual_keys]]` entry: what a client presents.
#[derive(Clone, Debug, PartialEq)]
pub struct VirtualKeySettings {
    /// Unique among virtual keys.
    pub name: Arc<str>,
    /// SHA-256 of the secret.
    pub digest: Digest256,
    /// Models and patterns it may call.
    pub models: Vec<String>,
    /// Pools (names and patterns) it may call.
    pub pools: Vec<String>,
    /// Whether native paths outside the known endpoints are open to it.
    pub native: bool,
    /// Not accepted from then on.
    pub expires: Option<std::time::SystemTime>,
    /// Not accepted.
    pub disabled: bool,
}

/// One `[[routes]]` entry: a model name of the operator's own.
#[derive(Clone, Debug, PartialEq)]
pub struct RouteSettings {
    /// The name that callers use; unique among routes.
    pub model: Arc<str>,
    /// Tried in turn; at least one.
    pub targets: Vec<RouteTarget>,
}

/// Where a route leads.
#[derive(Clone, Debug, PartialEq)]
pub struct RouteTarget {
    /// A pool's name.
    pub pool: Arc<str>,
    /// The model asked for there; `None`: the name that the caller used.
    pub model: Option<Arc<str>>,
}
