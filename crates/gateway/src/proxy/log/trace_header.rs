//! `x-keypool-trace`: why this key, in one short line for a caller who asked for it.

use std::fmt::Write;
use std::sync::Arc;

use http::{HeaderMap, HeaderValue};
use keypool_core::pool::{Obstacle, SelectedBy};

use crate::prebuilt_headers::name_value;
use crate::traces::{Outcome, SkipReason, Step};

/// The header's name, in requests (`1` asks for it) and in responses.
pub(super) const NAME: &str = "x-keypool-trace";
/// Longest line, in bytes. A longer one is cut and ends in dots.
const MAX_LENGTH: usize = 1024;

/// Whether a request asks for its trace.
pub(super) fn is_requested(headers: &HeaderMap) -> bool {
    headers.get(NAME).is_some_and(|value| value == "1")
}

/// All steps so far that the caller may know of: visible ASCII and spaces, at most 1 KiB. `None` if there are none.
pub(super) fn value(steps: &[Step]) -> Option<HeaderValue> {
    let mut line = String::new();
    let mut pool = None;
    for step in steps.iter().filter(|step| !is_hidden(step)) {
        let before = line.len();
        if before > 0 {
            line.push_str(" | ");
        }
        if pool != Some(&step.pool_name) {
            line.push_str(&encoded(&step.pool_name));
            line.push_str(": ");
            pool = Some(&step.pool_name);
        }
        write_step(&mut line, step);
        if line.len() > MAX_LENGTH - 4 {
            line.truncate(before);
            line.push_str(" ...");
            break;
        }
    }
    let line = Some(line).filter(|line| !line.is_empty())?;
    Some(HeaderValue::try_from(line).unwrap_or(HeaderValue::from_static("-")))
}

/// A caller does not learn of pools that it may not use. An operator sees them.
fn is_hidden(step: &Step) -> bool {
    matches!(step.outcome, Outcome::Skipped(SkipReason::PoolNotAllowed))
}

fn write_step(line: &mut String, step: &Step) {
    if let Outcome::Skipped(reason) = step.outcome {
        line.push_str("skipped: ");
        line.push_str(&words(reason.as_str()));
        return;
    }
    write_selection(line, step);
    let ms = step.took.as_millis();
    // Writing to a string does not fail.
    let _ = match step.outcome {
        Outcome::Unfinished => write!(line, "in flight"),
        Outcome::Answered(status) => write!(line, "{status} in {ms} ms"),
        Outcome::Failed { class, status, .. } => {
            let status = status
                .map(|status| format!("{status} "))
                .unwrap_or_default();
            write!(line, "{status}{} in {ms} ms", class.as_str())
        }
        Outcome::NoKey(reason) => write!(line, "{}", words(reason.as_str())),
        Outcome::Skipped(_) => Ok(()),
    };
}

/// How many keys were free, what kept the others from serving, how long it took, and which key was selected.
fn write_selection(line: &mut String, step: &Step) {
    let selection = &step.selection;
    let _ = write!(line, "{}/{} free; ", selection.free, selection.keys);
    let mut counts: Vec<(Obstacle, usize)> = Vec::new();
    for excluded in &selection.excluded {
        match counts
            .iter_mut()
            .find(|(known, _)| *known == excluded.obstacle)
        {
            Some((_, count)) => *count += 1,
            None => counts.push((excluded.obstacle, 1)),
        }
    }
    let mut parts: Vec<String> = counts
        .iter()
        .map(|(obstacle, count)| format!("{count} {}", obstacle.as_str().replace('_', "-")))
        .collect();
    if selection.more > 0 {
        parts.push(format!("{} more not", selection.more));
    }
    if !parts.is_empty() {
        line.push_str(&parts.join(", "));
        line.push_str("; ");
    }
    if step.waited.as_millis() > 0 {
        let _ = write!(line, "waited {} ms; ", step.waited.as_millis());
    }
    if let Some(name) = &step.key_name {
        let by = selection.by.map_or("", SelectedBy::as_str);
        let _ = write!(line, "\"{}\" by {by}; ", encoded(name));
    }
}

/// A code as words: `no_key_in_time` as `no key in time`.
fn words(code: &str) -> String {
    code.replace('_', " ")
}

/// A name as `x-keypool-key` shows it.
fn encoded(name: &Arc<str>) -> String {
    name_value(name).to_str().unwrap_or("-").to_owned()
}
