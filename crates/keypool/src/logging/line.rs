//! Formats one event as one line: the message first, then the fields in the order in which the code lists them.

use std::cell::{Cell, RefCell};
use std::error::Error;
use std::fmt::{self, Debug, Write as _};
use std::io::Write as _;
use std::time::UNIX_EPOCH;

use tracing::field::{Field, Visit};
use tracing::{Event, Level};

/// The format of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// `time LEVEL message field=value …`
    Text {
        /// With colours, for a terminal.
        coloured: bool,
    },
    /// A JSON object with `timestamp`, `level`, `message` and the fields.
    Json,
}

/// Formats the event and passes its line, with the line break, to `write`. Each thread reuses one buffer.
pub(super) fn with(form: Form, event: &Event<'_>, write: impl FnOnce(&[u8])) {
    thread_local! {
        static LINE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    }
    LINE.with(|line| {
        // If formatting a field logs an event itself, the buffer is in use: take a new one.
        let (mut shared, mut new) = (line.try_borrow_mut().ok(), Vec::new());
        let line = shared.as_deref_mut().unwrap_or(&mut new);
        line.clear();
        format(form, event, line);
        write(line);
    });
}

fn format(form: Form, event: &Event<'_>, line: &mut Vec<u8>) {
    let level = *event.metadata().level();
    match form {
        Form::Text { coloured } => {
            let (dim, plain) = if coloured {
                ("\x1b[2m", "\x1b[0m")
            } else {
                ("", "")
            };
            line.extend_from_slice(dim.as_bytes());
            write_time(line);
            line.extend_from_slice(plain.as_bytes());
            let colour = if coloured { colour_of(level) } else { "" };
            let _ = write!(line, " {colour}{:>5}{plain}", level.as_str());
            event.record(&mut Text(line));
        }
        Form::Json => {
            line.extend_from_slice(b"{\"timestamp\":\"");
            write_time(line);
            let _ = write!(line, "\",\"level\":\"{}\"", level.as_str());
            event.record(&mut Json(line));
            line.push(b'}');
        }
    }
    line.push(b'\n');
}

fn colour_of(level: Level) -> &'static str {
    match level {
        Level::ERROR => "\x1b[31m",
        Level::WARN => "\x1b[33m",
        Level::INFO => "\x1b[32m",
        _ => "\x1b[34m",
    }
}

/// RFC 3339 in UTC with microseconds. Date and time of day are formatted once per second.
fn write_time(line: &mut Vec<u8>) {
    thread_local! {
        static SECOND: Cell<(u64, [u8; 20])> = const { Cell::new((u64::MAX, [0; 20])) };
    }
    #[expect(
        clippy::disallowed_methods,
        reason = "a log line has the real time, even where a test simulates another"
    )]
    let now = std::time::SystemTime::now();
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (second, mut text) = SECOND.get();
    if second != since.as_secs() {
        text = time_of_day(since.as_secs());
        SECOND.set((since.as_secs(), text));
    }
    line.extend_from_slice(&text);
    let micros = since.subsec_micros();
    for power in [100_000, 10_000, 1000, 100, 10, 1] {
        line.push(b'0' + u8::try_from(micros / power % 10).unwrap_or(0));
    }
    line.push(b'Z');
}

/// `2026-11-22T04:48:09.`
fn time_of_day(second: u64) -> [u8; 20] {
    let second = i64::try_from(second).unwrap_or_default();
    let time = jiff::Timestamp::from_second(second).unwrap_or_default();
    let text = time.strftime("%Y-%m-%dT%H:%M:%S.").to_string();
    text.into_bytes()
        .try_into()
        .unwrap_or(*b"0000-00-00T00:00:00.")
}

/// Writes the message, then ` field=value` for each field. Strings are quoted and escaped.
struct Text<'a>(&'a mut Vec<u8>);

impl Text<'_> {
    fn name(&mut self, field: &Field) {
        self.0.push(b' ');
        if field.name() != "message" {
            self.0.extend_from_slice(field.name().as_bytes());
            self.0.push(b'=');
        }
    }
}

impl Visit for Text<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.name(field);
        if field.name() == "message" {
            let _ = OneLine(self.0).write_str(value);
            return;
        }
        let is_plain = |byte: u8| (b' '..0x7f).contains(&byte) && byte != b'"' && byte != b'\\';
        if value.bytes().all(is_plain) {
            self.0.push(b'"');
            self.0.extend_from_slice(value.as_bytes());
            self.0.push(b'"');
        } else {
            let _ = write!(self.0, "{value:?}");
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.name(field);
        self.0
            .extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.name(field);
        let _ = write!(OneLine(self.0), "{value:?}");
    }

    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        self.name(field);
        let _ = write!(OneLine(self.0), "{value}");
    }
}

/// Escapes control characters, which could end the line or control a terminal.
struct OneLine<'a>(&'a mut Vec<u8>);

impl fmt::Write for OneLine<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if !text.chars().any(char::is_control) {
            self.0.extend_from_slice(text.as_bytes());
            return Ok(());
        }
        for c in text.chars() {
            if c.is_control() {
                let _ = write!(self.0, "{}", c.escape_default());
            } else {
                self.0
                    .extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            }
        }
        Ok(())
    }
}

/// Writes `,"field":value` for each field.
struct Json<'a>(&'a mut Vec<u8>);

impl Json<'_> {
    fn value(&mut self, field: &Field, value: impl serde::Serialize) {
        self.0.extend_from_slice(b",\"");
        self.0.extend_from_slice(field.name().as_bytes());
        self.0.extend_from_slice(b"\":");
        // Cannot fail: the values are strings, numbers and lists of strings.
        let _ = serde_json::to_writer(&mut *self.0, &value);
    }
}

impl Visit for Json<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.value(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.value(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.value(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.value(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.value(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let text = format!("{value:?}");
        match list(field, &text) {
            Some(names) => self.value(field, names),
            None => self.value(field, text),
        }
    }

    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        self.value(field, value.to_string());
    }
}

/// `tracing` has no list values: the gateway formats a list as JSON, which is recognised here. The only outside value
/// formatted this way is a request's method, which cannot contain brackets.
fn list(field: &Field, text: &str) -> Option<Vec<String>> {
    if field.name() == "message" || !text.starts_with('[') {
        return None;
    }
    serde_json::from_str(text).ok()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use keypool_gateway::settings::LogLevel;
    use parking_lot::Mutex;
    use tracing_subscriber::layer::SubscriberExt;
    use tracing_subscriber::registry::Registry;

    use super::super::{MaxLevel, layer};
    use super::*;

    fn lines(form: Form, log: impl FnOnce()) -> Vec<String> {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let written = Arc::clone(&lines);
        let write = move |line: &[u8], _| {
            let line = String::from_utf8(line.to_vec()).unwrap();
            written.lock().push(line);
        };
        let max_level = Arc::new(MaxLevel::new(LogLevel::Trace));
        let subscriber = Registry::default().with(layer(form, max_level, write));
        tracing::subscriber::with_default(subscriber, log);
        lines.lock().clone()
    }

    fn log_one() {
        let error = std::io::Error::other("no\nway");
        tracing::warn!(
            status = 200u64,
            ms = 1.5,
            path = "/a\"b\n",
            ok = true,
            less = -1i64,
            absent = None::<u64>,
            method = %"GET\u{1b}[0m",
            names = ?format_args!("{}", r#"["a","küche \"2\""]"#),
            address = %"[::1]:80",
            error = &error as &(dyn Error + 'static),
            "two\r\nlines of {}",
            "主"
        );
    }

    #[test]
    fn a_text_line_has_no_control_characters() {
        let lines = lines(Form::Text { coloured: false }, log_one);
        let (time, line) = lines[0].split_at(27);
        assert!(time.parse::<jiff::Timestamp>().is_ok(), "{time}");
        assert_eq!(
            line,
            "  WARN two\\r\\nlines of 主 status=200 ms=1.5 path=\"/a\\\"b\\n\" ok=true less=-1 \
             method=GET\\u{1b}[0m names=[\"a\",\"küche \\\"2\\\"\"] address=[::1]:80 error=no\\nway\n"
        );
    }

    #[test]
    fn a_json_line_is_one_object() {
        let lines = lines(Form::Json, log_one);
        assert_eq!(lines[0].matches('\n').count(), 1, "{}", lines[0]);
        let mut object: serde_json::Value = serde_json::from_str(&lines[0]).unwrap();
        let time = object["timestamp"].take();
        assert!(
            time.as_str().unwrap().parse::<jiff::Timestamp>().is_ok(),
            "{time}"
        );
        let expect = serde_json::json!({
            "timestamp": null, "level": "WARN", "message": "two\r\nlines of 主", "status": 200, "ms": 1.5,
            "path": "/a\"b\n", "ok": true, "less": -1, "method": "GET\u{1b}[0m",
            "names": ["a", "küche \"2\""], "address": "[::1]:80", "error": "no\nway"
        });
        assert_eq!(object, expect);
    }
}
