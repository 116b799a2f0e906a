//! Tables for people, and the form of times and quotas in them.

use std::io::IsTerminal;
use std::time::Duration;

use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Table};
use jiff::Timestamp;
use keypool_core::clock::Clock;
use keypool_gateway::clock::PollClock;

/// Minimum width of a terminal, in columns, for cells to be broken. In a narrower one, words would be broken too, so the
/// terminal breaks the lines.
const MIN_WIDTH: u16 = 120;

/// A table with these columns. In a wide terminal, it is as wide as that at most; elsewhere, each row is one line.
pub(super) fn table(columns: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(columns.to_vec());
    let (_, width) = console::Term::stdout().size();
    if std::io::stdout().is_terminal() && width >= MIN_WIDTH {
        table
            .set_content_arrangement(ContentArrangement::Dynamic)
            .set_width(width);
    }
    table.add_rows(rows);
    table.trim_fmt()
}

/// The time now.
pub(super) fn now() -> Timestamp {
    Timestamp::try_from(PollClock.wall()).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// How long ago `at` was, in one unit.
pub(super) fn ago(at: Option<Timestamp>, now: Timestamp) -> String {
    let Some(at) = at else {
        return "never".to_owned();
    };
    let passed = Duration::try_from(now.duration_since(at)).unwrap_or_default();
    let (count, unit) = match passed.as_secs() {
        seconds @ 0..120 => (seconds, "s"),
        seconds @ 120..7_200 => (seconds / 60, "min"),
        seconds @ 7_200..172_800 => (seconds / 3_600, "h"),
        seconds => (seconds / 86_400, "days"),
    };
    format!("{count} {unit} ago")
}

/// What is left of a quota.
pub(super) fn quota(remaining: Option<f64>, limit: Option<f64>, unit: Option<&str>) -> String {
    let unit = unit.map(|unit| format!(" {unit}")).unwrap_or_default();
    match (remaining, limit) {
        (Some(remaining), Some(limit)) => format!("{remaining} of {limit}{unit}"),
        (Some(remaining), None) => format!("{remaining}{unit}"),
        (None, _) => "-".to_owned(),
    }
}

/// A value, or a dash.
pub(super) fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// `yes` or `no`.
pub(super) fn yes(is_so: bool) -> String {
    if is_so { "yes" } else { "no" }.to_owned()
}

/// A number of things: `1 key`, `2 keys`.
pub(super) fn count(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_one_unit() {
        let now = Timestamp::from_second(1_000_000_000).unwrap();
        let at = |seconds: i64| ago(Timestamp::from_second(1_000_000_000 - seconds).ok(), now);
        assert_eq!(ago(None, now), "never");
        assert_eq!(
            [at(-5), at(0), at(119)],
            ["0 s ago", "0 s ago", "119 s ago"]
        );
        assert_eq!([at(120), at(7_199)], ["2 min ago", "119 min ago"]);
        assert_eq!([at(7_200), at(172_799)], ["2 h ago", "47 h ago"]);
        assert_eq!(at(172_800), "2 days ago");
    }

    #[test]
    fn quotas_show_what_is_known() {
        assert_eq!(
            quota(Some(12.0), Some(1000.0), Some("credits")),
            "12 of 1000 credits"
        );
        assert_eq!(quota(Some(7.25), None, Some("USD")), "7.25 USD");
        assert_eq!(quota(None, Some(1.0), None), "-");
    }

    #[test]
    fn a_table_has_one_line_per_row() {
        let rows = [
            vec!["a".to_owned(), "long ".repeat(60)],
            vec!["b".to_owned(), "c".to_owned()],
        ];
        let text = table(&["ONE", "TWO"], rows);
        assert_eq!(text.lines().count(), 3, "{text}");
    }
}
