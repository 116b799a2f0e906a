//! `x-keypool-trace`: why this key, in one short line for a caller who asked for it.

use std::fmt::Write;

use http::{HeaderMap, HeaderValue};
use keypool_core::pool::{Obstacle, SelectedBy};

use super::access::NOT_THIS_POOL;
use crate::prebuilt_headers::name_value;
use crate::traces::{Outcome, Step};

/// The header's name, in requests (`1` asks for it) and in answers.
pub(super) const NAME: &str = "x-keypool-trace";
/// A longer line ends in dots.
const MAX_LENGTH: usize = 1024;

/// Whether a request asks for its trace.
pub(super) fn is_asked_for(headers: &HeaderMap) -> bool {
    headers.get(NAME).is_some_and(|value| value == "1")
}

/// All steps so far that the caller may know of: visible ASCII and blanks, at most 1 KiB. `None`: there are none.
pub(super) fn of(steps: &[Step]) -> Option<HeaderValue> {
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
        finish(&mut line, step);
        if line.len() > MAX_LENGTH - 4 {
            line.truncate(before);
            line.push_str(" ...");
            break;
        }
    }
    let line = Some(line).filter(|line| !line.is_empty())?;
    Some(HeaderValue::try_from(line).unwrap_or(HeaderValue::from_static("-")))
}

/// What a caller may not use is none of its business; an operator sees it.
fn is_hidden(step: &Step) -> bool {
    matches!(step.outcome, Outcome::PassedOver(NOT_THIS_POOL))
}

fn finish(line: &mut String, step: &Step) {
    let choice = &step.choice;
    if let Outcome::PassedOver(why) = step.outcome {
        line.push_str("passed over: ");
        line.push_str(why);
        return;
    }
    // Writing to a string does not fail.
    let _ = write!(line, "{}/{} free; ", choice.free, choice.keys);
    let mut counts: Vec<(Obstacle, usize)> = Vec::new();
    for excluded in &choice.excluded {
        match counts
            .iter_mut()
            .find(|(known, _)| *known == excluded.obstacle)
        {
            Some((_, count)) => *count += 1,
            None => counts.push((excluded.obstacle, 1)),
        }
    }
    let mut told: Vec<String> = counts
        .iter()
        .map(|(denial, count)| format!("{count} {}", denial.as_str().replace('_', "-")))
        .collect();
    if choice.more > 0 {
        told.push(format!("{} more not", choice.more));
    }
    if !told.is_empty() {
        line.push_str(&told.join(", "));
        line.push_str("; ");
    }
    if step.waited.as_millis() > 0 {
        let _ = write!(line, "waited {} ms; ", step.waited.as_millis());
    }
    if let Some(name) = &step.key_name {
        let by = choice.by.map_or("", SelectedBy::as_str);
        let _ = write!(line, "\"{}\" by {by}; ", encoded(name));
    }
    let ms = step.took.as_millis();
    let _ = match step.outcome {
        Outcome::Unfinished => write!(line, "under way"),
        Outcome::Answered(status) => write!(line, "{status} in {ms} ms"),
        Outcome::Failed { class, status, .. } => {
            let status = status
                .map(|status| format!("{status} "))
                .unwrap_or_default();
            write!(line, "{status}{} in {ms} ms", class.as_str())
        }
        Outcome::NoKey(why) | Outcome::PassedOver(why) => write!(line, "no key: {why}"),
    };
}

/// A name as `x-keypool-key` shows it.
fn encoded(name: &std::sync::Arc<str>) -> String {
    name_value(name).to_str().unwrap_or("-").to_owned()
}
