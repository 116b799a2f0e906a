//! The log alone and beside another layer.

use parking_lot::Mutex;
use tracing::span::{Attributes, Id};

use super::*;

/// Collects what a layer saw.
type Seen = Arc<Mutex<Vec<String>>>;

/// Records the name of each span, and the level and span of each event.
struct Spans(Seen);

impl<S: Subscriber + for<'span> LookupSpan<'span>> Layer<S> for Spans {
    fn on_new_span(&self, attributes: &Attributes<'_>, _: &Id, _: Context<'_, S>) {
        let name = attributes.metadata().name();
        self.0.lock().push(format!("span {name}"));
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let span = context.event_span(event).map(|span| span.name());
        let level = event.metadata().level();
        self.0.lock().push(format!("{level} in {span:?}"));
    }
}

/// A log in text form, and its lines without their times, each with whether it is urgent.
fn log<S>(max_level: &Arc<MaxLevel>) -> (impl Layer<S>, Seen)
where
    S: Subscriber + for<'span> LookupSpan<'span>,
{
    let lines = Seen::default();
    let seen = Arc::clone(&lines);
    let write = move |line: &[u8], is_urgent: bool| {
        let line = std::str::from_utf8(line).unwrap();
        seen.lock().push(format!("{} {is_urgent}", &line[28..]));
    };
    let form = Form::Text { coloured: false };
    (layer(form, Arc::clone(max_level), write), lines)
}

fn log_in_a_span() {
    tracing::info_span!("request", id = 7).in_scope(|| {
        tracing::info!(status = 200u64, "done");
        tracing::debug!("detail");
        tracing::warn!("odd");
    });
}

const LINES: [&str; 2] = [" INFO done status=200\n false", " WARN odd\n true"];

#[test]
fn another_layer_sees_spans_and_the_lines_stay_the_same() {
    let (log, lines) = log(&Arc::new(MaxLevel::new(LogLevel::Info)));
    let seen = Seen::default();
    let subscriber = Registry::default().with(log).with(Spans(Arc::clone(&seen)));
    tracing::subscriber::with_default(subscriber, log_in_a_span);
    assert_eq!(*lines.lock(), LINES);
    let in_request = |level| format!("{level} in Some(\"request\")");
    let events = ["INFO", "DEBUG", "WARN"].map(in_request);
    assert_eq!(
        *seen.lock(),
        [&["span request".to_owned()], &events[..]].concat()
    );
}

#[test]
fn without_another_layer_spans_are_disabled() {
    // Asked directly: the callsite caches the combined interest of all tests that run at the moment.
    let (log, _) = log(&Arc::new(MaxLevel::new(LogLevel::Trace)));
    let subscriber = Registry::default().with(log);
    let other = Registry::default();
    let span = tracing::subscriber::with_default(other, || tracing::info_span!("request"));
    let interest = subscriber.register_callsite(span.metadata().unwrap());
    assert!(interest.is_never());
}

#[test]
fn a_new_level_applies_to_the_next_event() {
    let max_level = Arc::new(MaxLevel::new(LogLevel::Error));
    let (log, lines) = log(&max_level);
    let logging = Logging { max_level };
    tracing::subscriber::with_default(Registry::default().with(log), || {
        for level in [LogLevel::Error, LogLevel::Debug, LogLevel::Warn] {
            logging.set_level(level);
            log_in_a_span();
            lines.lock().push("---".to_owned());
        }
    });
    let (all, odd) = ([LINES[0], "DEBUG detail\n false", LINES[1]], LINES[1]);
    let expect = [&["---"], &all[..], &["---"], &[odd, "---"]].concat();
    assert_eq!(*lines.lock(), expect);
}
