//! A layer beside the log, such as an OpenTelemetry exporter, sees one span per request with its events inside.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use keypool_testkit::{Mock, Step};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::timeout;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Dispatch, Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::registry::{LookupSpan, Registry};

use crate::harness::{Client, Running, pool};

/// What the layer saw, by span, and a signal for each span that closes.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<HashMap<u64, SeenSpan>>>, Arc<Notify>);

#[derive(Clone, Debug, Default)]
struct SeenSpan {
    name: &'static str,
    fields: Fields,
    /// The messages of the events inside.
    events: Vec<String>,
    is_closed: bool,
}

#[derive(Clone, Debug, Default)]
struct Fields(HashMap<&'static str, String>);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let text = format!("{value:?}").trim_matches('"').to_owned();
        self.0.insert(field.name(), text);
    }
}

impl<S: Subscriber + for<'span> LookupSpan<'span>> Layer<S> for Seen {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, _: Context<'_, S>) {
        let mut span = SeenSpan {
            name: attributes.metadata().name(),
            ..SeenSpan::default()
        };
        attributes.record(&mut span.fields);
        self.0.lock().insert(id.into_u64(), span);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, _: Context<'_, S>) {
        if let Some(span) = self.0.lock().get_mut(&id.into_u64()) {
            values.record(&mut span.fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        // The libraries' own trace events are of no interest here.
        if event.metadata().target().starts_with("keypool")
            && let Some(current) = context.event_span(event)
            && let Some(span) = self.0.lock().get_mut(&current.id().into_u64())
        {
            let message = fields.0.remove("message").unwrap_or_default();
            span.events.push(message);
        }
    }

    fn on_close(&self, id: Id, _: Context<'_, S>) {
        if let Some(span) = self.0.lock().get_mut(&id.into_u64()) {
            span.is_closed = true;
        }
        self.1.notify_one();
    }
}

impl Seen {
    /// All spans, once `count` of them are closed.
    async fn closed(&self, count: usize) -> Vec<SeenSpan> {
        let closed = async {
            loop {
                let spans: Vec<SeenSpan> = self.0.lock().values().cloned().collect();
                if spans.iter().filter(|span| span.is_closed).count() >= count {
                    return spans;
                }
                self.1.notified().await;
            }
        };
        let closed = timeout(Duration::from_secs(10), closed).await;
        closed.unwrap_or_else(|_| panic!("not closed: {:?}", self.0.lock()))
    }
}

#[tokio::test]
async fn a_layer_sees_each_request_as_a_span_with_its_events() {
    let seen = Seen::default();
    // With a single dispatcher, tracing asks only the thread that reaches a callsite first whether it is enabled, and that
    // may be the thread of another test. With two, it asks both.
    let _second = Dispatch::new(Registry::default());
    let _subscribed = tracing::subscriber::set_default(Registry::default().with(seen.clone()));
    let mock = Mock::start().await.unwrap();
    mock.script("secret-key-1", [Step::rate_limited(600)]);
    // One thread, which is the test's own: the subscriber is this thread's.
    let running = Running::start_on(pool(&mock, 2), 1).await;
    let mut client = Client::new(running.addr);
    for stream in [false, true] {
        let answer = client.chat("m", stream).await.unwrap();
        assert_eq!(answer.status, 200);
    }
    let mut spans = seen.closed(2).await;
    spans.sort_by_key(|span| span.events.len());
    for span in &spans {
        assert_eq!(span.name, "request");
        let field = |name| span.fields.0.get(name).map_or("", String::as_str);
        assert_eq!(field("method"), "POST");
        assert_eq!(field("path"), "/v1/chat/completions");
        assert_eq!(field("status"), "200");
        assert!(!field("request_id").is_empty(), "{span:?}");
        assert_eq!(span.events.last().map(String::as_str), Some("request"));
    }
    let (second, first) = (&spans[0], &spans[1]);
    assert_eq!(second.events.len(), 1, "{second:?}");
    assert!(
        first.events[0].starts_with("attempt 1 of 4 failed with key 1"),
        "{first:?}"
    );
    assert!(running.stop().await);
}
