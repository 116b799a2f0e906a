//! One whole configuration as plain values with their defaults. The program reads files and environment into these.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use keypool_core::base_url::BaseUrl;
use keypool_core::secret::{Digest256, Secret};
use keypool_core::settings::PoolSettings;

/// One complete, validated configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// `[server]`
    pub server: ServerSettings,
    /// `[log]`
    pub log: LogSettings,
    /// `[admin]`
    pub admin: AdminSettings,
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
