//! Progress bars on standard error. They are hidden where it is no terminal; a line says what is done then.

use std::fmt::Write;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressState, ProgressStyle};

use super::print_error;

/// A bar for `total` bytes.
pub(super) fn bytes(what: &str, total: u64, is_quiet: bool) -> ProgressBar {
    start(
        what,
        ProgressBar::new(total),
        "{msg} {wide_bar} {bytes}/{total_bytes}",
        is_quiet,
    )
}

/// A bar for `total` calls.
pub(super) fn calls(what: &str, total: usize, is_quiet: bool) -> ProgressBar {
    start(
        what,
        ProgressBar::new(total as u64),
        "{msg} {wide_bar} {pos}/{len}",
        is_quiet,
    )
}

/// A bar for `total` calls of a batch, of which `done` have ended. Its message is the number of those that failed.
pub(super) fn batch(total: u64, done: u64) -> ProgressBar {
    let bar = start(
        "0",
        ProgressBar::new(total).with_position(done),
        "{wide_bar} {pos} of {len} done, {msg} failed, {rate}, {eta} left",
        true,
    );
    bar.set_style(bar.style().with_key("rate", rate));
    // The rate is that of what is seen here.
    bar.reset_eta();
    bar
}

fn rate(state: &ProgressState, text: &mut dyn Write) {
    // Writing to a text does not fail.
    let _ = write!(text, "{:.1}/s", state.per_sec());
}

/// Shows that a call of unknown duration goes on.
pub(super) fn waiting(what: &str, is_quiet: bool) -> ProgressBar {
    start(
        what,
        ProgressBar::new_spinner(),
        "{spinner} {msg} {elapsed}",
        is_quiet,
    )
}

fn start(what: &str, bar: ProgressBar, template: &'static str, is_quiet: bool) -> ProgressBar {
    if bar.is_hidden() {
        if !is_quiet {
            print_error(what);
        }
        return bar;
    }
    let style = ProgressStyle::with_template(template);
    let bar = bar
        .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        .with_message(what.to_owned());
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}
