//! The log: one line per event, on standard error, as text for people or JSON for machines.
//!
//! A line for each request is a cost of each request. Lines are therefore formatted straight into a buffer and
//! written in batches every 20 ms, warnings and errors at once.
//!
//! The log is one layer of a `tracing_subscriber::Registry`. Others, such as an OpenTelemetry exporter, are added to it in
//! `start`; only they make spans cost anything.

mod line;
mod output;
#[cfg(test)]
mod tests;

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use keypool_gateway::settings::{LogFormat, LogLevel, LogSettings};
use tracing::level_filters::LevelFilter;
use tracing::subscriber::Interest;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::{Context, Filter, SubscriberExt};
use tracing_subscriber::registry::{LookupSpan, Registry};

use line::Form;
pub(crate) use output::flush;

/// A handle on the running log.
pub(crate) struct Logging {
    max_level: Arc<MaxLevel>,
}

/// Starts logging. Afterwards only the level can change.
pub(crate) fn start(settings: &LogSettings) -> Logging {
    let max_level = Arc::new(MaxLevel::new(settings.level));
    let form = match settings.format {
        LogFormat::Text => Form::Text {
            coloured: std::io::stderr().is_terminal(),
        },
        LogFormat::Json => Form::Json,
    };
    output::start();
    let log = layer(form, Arc::clone(&max_level), output::append);
    // Fails if a log is already running, as in tests that start twice: that one stays.
    let _ = tracing::subscriber::set_global_default(Registry::default().with(log));
    Logging { max_level }
}

impl Logging {
    /// Changes the least severe level that is written.
    pub(crate) fn set_level(&self, level: LogLevel) {
        self.max_level.set(level);
        tracing::callsite::rebuild_interest_cache();
    }
}

/// The layer that writes the log. `write` takes a line with its end, and whether the line is urgent.
fn layer<S>(
    form: Form,
    max_level: Arc<MaxLevel>,
    write: impl Fn(&[u8], bool) + 'static,
) -> impl Layer<S>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
{
    LineLayer { form, write }.with_filter(EventFilter(max_level))
}

/// The least severe level that is written, as its index in `LEVELS`.
struct MaxLevel(AtomicUsize);

/// In the order of [`LogLevel`].
const LEVELS: [Level; 5] = [
    Level::ERROR,
    Level::WARN,
    Level::INFO,
    Level::DEBUG,
    Level::TRACE,
];

impl MaxLevel {
    fn new(level: LogLevel) -> Self {
        Self(AtomicUsize::new(level as usize))
    }

    fn set(&self, level: LogLevel) {
        self.0.store(level as usize, Ordering::Relaxed);
    }

    fn get(&self) -> Level {
        LEVELS[self.0.load(Ordering::Relaxed)]
    }
}

/// Writes one line per event.
struct LineLayer<W> {
    form: Form,
    write: W,
}

impl<S: Subscriber, W: Fn(&[u8], bool) + 'static> Layer<S> for LineLayer<W> {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let is_urgent = *event.metadata().level() <= Level::WARN;
        line::with(self.form, event, |line| (self.write)(line, is_urgent));
    }
}

/// Lets the log see events of the configured level and no spans: every event carries the fields that belong to it.
///
/// A filter of this layer alone. A `register_callsite` of the layer itself would hide spans from the other layers too.
struct EventFilter(Arc<MaxLevel>);

impl<S> Filter<S> for EventFilter {
    fn enabled(&self, metadata: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        metadata.is_event() && *metadata.level() <= self.0.get()
    }

    /// Called once per place in the code, and again after the level has changed. If no other layer wants the event or
    /// span, it is disabled there and costs nothing.
    fn callsite_enabled(&self, metadata: &'static Metadata<'static>) -> Interest {
        if metadata.is_event() && *metadata.level() <= self.0.get() {
            Interest::always()
        } else {
            Interest::never()
        }
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::from_level(self.0.get()))
    }
}
