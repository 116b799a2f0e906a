//! Where log lines go and how they look: text for people, JSON lines for machines; always to standard error.

use std::io::IsTerminal;

use keypool_core::settings::{LogFormat, LogLevel, LogSettings};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, fmt, reload};

/// A handle on the running log.
pub(crate) struct Logging {
    level: reload::Handle<LevelFilter, Registry>,
}

/// Starts logging; from then on only the level can change.
pub(crate) fn start(settings: &LogSettings) -> Logging {
    let (filter, level) = reload::Layer::new(filter(settings.level));
    let lines = match settings.format {
        LogFormat::Text => fmt::layer()
            .with_target(false)
            .with_writer(std::io::stderr)
            .with_ansi(std::io::stderr().is_terminal())
            .boxed(),
        LogFormat::Json => fmt::layer()
            .json()
            .flatten_event(true)
            .with_target(false)
            .with_writer(std::io::stderr)
            .boxed(),
    };
    // Fails where a log is running already, as in tests that start twice: that one stays.
    let _ = tracing_subscriber::registry()
        .with(filter)
        .with(lines)
        .try_init();
    Logging { level }
}

impl Logging {
    /// Changes the least severe level that is written.
    pub(crate) fn set_level(&self, level: LogLevel) {
        let _ = self.level.modify(|current| *current = filter(level));
    }
}

fn filter(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    }
}
