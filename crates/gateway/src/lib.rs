//! The gateway: data plane, admin API, upstream connections, telemetry.
//!
//! It knows no configuration file, no SQL and no Redis. What is specific to a provider is decided by its dialect.

mod admin;
mod background;
mod checks;
pub mod clock;
pub mod context;
mod error;
mod free_call;
mod invalid_keys;
mod job_worker;
mod jobs;
mod key_checks;
mod limits;
mod model_lists;
mod objects;
mod prebuilt_headers;
mod proxy;
pub mod proxy_environment;
mod quota;
mod quota_refreshes;
mod reload;
mod resources;
pub mod server;
pub mod settings;
pub mod snapshot;
mod stored;
mod sync;
mod task_poll;
mod telemetry;
mod threads;
mod traces;
mod upstream;
pub mod webhook_hosts;
pub mod webhook_secret;
mod webhooks;
mod write_limit;

pub use admin::openapi_document;
