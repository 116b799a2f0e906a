//! Where log lines go and how they look: text for people, JSON lines for machines; always to standard error.
//!
//! A line for each request is a cost of each request. Lines are therefore formatted straight into a buffer and
//! written together a few times a tenth of a second, warnings and errors at once.

mod line;
mod output;

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use keypool_gateway::settings::{LogFormat, LogLevel, LogSettings};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::{Interest, Subscriber};
use tracing::{Event, Level, Metadata};

use line::Form;
pub(crate) use output::flush;

/// A handle on the running log.
pub(crate) struct Logging {
    least: Arc<Least>,
}

/// Starts logging; from then on only the level can change.
pub(crate) fn start(settings: &LogSettings) -> Logging {
    let least = Arc::new(Least::of(settings.level));
    let form = match settings.format {
        LogFormat::Text => Form::Text {
            coloured: std::io::stderr().is_terminal(),
        },
        LogFormat::Json => Form::Json,
    };
    output::start();
    let lines = Lines {
        form,
        least: Arc::clone(&least),
    };
    // Fails where a log is running already, as in tests that start twice: that one stays.
    let _ = tracing::subscriber::set_global_default(lines);
    Logging { least }
}

impl Logging {
    /// Changes the least severe level that is written.
    pub(crate) fn set_level(&self, level: LogLevel) {
        self.least.set(level);
        tracing::callsite::rebuild_interest_cache();
    }
}

/// The least severe level that is written, as its place in `LEVELS`.
struct Least(AtomicUsize);

const LEVELS: [Level; 5] = [
    Level::ERROR,
    Level::WARN,
    Level::INFO,
    Level::DEBUG,
    Level::TRACE,
];

impl Least {
    fn of(level: LogLevel) -> Self {
        let least = Self(AtomicUsize::new(0));
        least.set(level);
        least
    }

    fn set(&self, level: LogLevel) {
        let place = match level {
            LogLevel::Error => 0,
            LogLevel::Warn => 1,
            LogLevel::Info => 2,
            LogLevel::Debug => 3,
            LogLevel::Trace => 4,
        };
        self.0.store(place, Ordering::Relaxed);
    }

    fn level(&self) -> Level {
        LEVELS[self.0.load(Ordering::Relaxed)]
    }
}

/// Writes a line for each event. Spans are not kept: every event carries what belongs to it.
struct Lines {
    form: Form,
    least: Arc<Least>,
}

impl Subscriber for Lines {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        // Asked once for each place in the code and again after the level has changed, so that a line that is not
        // wanted costs nothing.
        if self.enabled(metadata) {
            Interest::always()
        } else {
            Interest::never()
        }
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && *metadata.level() <= self.least.level()
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::from_level(self.least.level()))
    }

    fn event(&self, event: &Event<'_>) {
        let is_urgent = *event.metadata().level() <= Level::WARN;
        line::with(self.form, event, |line| output::append(line, is_urgent));
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}
