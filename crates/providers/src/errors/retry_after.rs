//! Reads how long to wait, in every form that providers use: numbers, durations, dates, sentences.
//!
//! Must never know a provider: each dialect decides which text it trusts, and in which order.

use std::time::{Duration, SystemTime};

use http::HeaderMap;
use jiff::Timestamp;
use jiff::civil::{Date, Time};
use jiff::fmt::{rfc2822, strtime};
use jiff::tz::{Offset, TimeZone};

/// Maximum wait: longer ones are cut to it.
const LONGEST: Duration = Duration::from_secs(31 * 24 * 60 * 60);

/// Numbers from here are an instant in epoch seconds, not a number of seconds.
const EPOCH_SECONDS: f64 = 1e9;
/// Numbers from here are epoch milliseconds.
const EPOCH_MILLIS: f64 = 1e12;
/// Numbers from here mean nothing.
const ABSURD: f64 = 1e15;

/// US Pacific time. The rule is written out, so no time zone database is needed.
const PACIFIC: &str = "PST8PDT,M3.2.0,M11.1.0";

/// The words before a wait in a sentence, in lower case.
const LEADS: &[&str] = &[
    "try again in ",
    "try again after ",
    "retry in ",
    "retry after ",
];

/// Reads a wait: seconds (`20`, `1.5`), a Go or protobuf duration (`12ms`, `2m59.56s`, `24s`), an HTTP date,
/// an RFC 3339 instant, epoch seconds or milliseconds. More than 31 days are 31 days; the past says nothing.
pub fn parse_wait(text: &str, now: SystemTime) -> Option<Duration> {
    let text = text.trim();
    if text.is_empty() || text.len() > 64 {
        return None;
    }
    if let Some(number) = decimal(text) {
        return of_number(number, now);
    }
    if let Some(seconds) = go_duration(text) {
        return of_seconds(seconds);
    }
    until(instant(text)?, now)
}

/// The wait in `retry-after-ms`, otherwise in `Retry-After`.
pub fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let millis = text("retry-after-ms").and_then(|ms| decimal(ms.trim()));
    millis
        .and_then(|ms| of_seconds(ms / 1000.0))
        .or_else(|| parse_wait(text("retry-after")?, now))
}

/// The provider's own time, in the header `Date`.
pub(crate) fn date(headers: &HeaderMap) -> Option<SystemTime> {
    let text = headers.get("date")?.to_str().ok()?;
    instant(text.trim()).map(SystemTime::from)
}

/// The wait until the instant in `X-RateLimit-Reset`; `None` if it has passed.
pub(crate) fn reset_header(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get("x-ratelimit-reset")?.to_str().ok()?;
    parse_wait(text, now).filter(|wait| *wait > Duration::ZERO)
}

/// The wait that a sentence states as a span: `Please try again in 7m12s.`, `retry after 20 seconds`.
pub(crate) fn wait_in_sentence(sentence: &str) -> Option<Duration> {
    let lower = sentence.to_ascii_lowercase();
    LEADS.iter().find_map(|lead| {
        let at = lower.find(lead)?;
        spelled(&lower[at + lead.len()..]).and_then(of_seconds)
    })
}

/// The wait until the first future date in a sentence: `You will regain access on 2026-12-01 at 00:00 UTC.`
///
/// Past dates are skipped: they are usually part of a model's name.
pub(crate) fn date_in(sentence: &str, now: SystemTime) -> Option<Duration> {
    let mut dates = sentence
        .char_indices()
        .filter(|(_, c)| c.is_ascii_digit())
        .filter_map(|(at, _)| loose_instant(&sentence[at..]));
    dates.find_map(|at| until(at, now))
}

/// The wait until the next midnight in US Pacific time.
pub(crate) fn until_midnight_pacific(now: SystemTime) -> Option<Duration> {
    until_midnight(now, TimeZone::posix(PACIFIC).ok()?)
}

/// The wait until the next midnight in UTC.
pub(crate) fn until_midnight_utc(now: SystemTime) -> Option<Duration> {
    until_midnight(now, TimeZone::UTC)
}

fn until_midnight(now: SystemTime, zone: TimeZone) -> Option<Duration> {
    let here = Timestamp::try_from(now).ok()?.to_zoned(zone.clone());
    let midnight = here.date().tomorrow().ok()?.to_zoned(zone).ok()?;
    until(midnight.timestamp(), now)
}

/// The wait until 00:00 UTC on the first of the next month.
pub(crate) fn until_next_month(now: SystemTime) -> Option<Duration> {
    let today = Timestamp::try_from(now)
        .ok()?
        .to_zoned(TimeZone::UTC)
        .date();
    let first = today.last_of_month().tomorrow().ok()?;
    until(first.to_zoned(TimeZone::UTC).ok()?.timestamp(), now)
}

fn decimal(text: &str) -> Option<f64> {
    let plain = text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    plain.then(|| text.parse().ok()).flatten()
}

fn of_seconds(seconds: f64) -> Option<Duration> {
    let seconds = seconds.min(LONGEST.as_secs_f64());
    Duration::try_from_secs_f64(seconds).ok()
}

fn of_number(number: f64, now: SystemTime) -> Option<Duration> {
    if number < EPOCH_SECONDS {
        return of_seconds(number);
    }
    let millis = match number {
        seconds if seconds < EPOCH_MILLIS => seconds * 1000.0,
        millis if millis < ABSURD => millis,
        _ => return None,
    };
    // Below `ABSURD`, so it fits.
    until(
        Timestamp::from_millisecond(millis.round() as i64).ok()?,
        now,
    )
}

/// The wait until an instant; `None` if it has passed.
fn until(at: Timestamp, now: SystemTime) -> Option<Duration> {
    let wait = SystemTime::from(at).duration_since(now).ok()?;
    Some(wait.min(LONGEST))
}

/// Seconds of `1h2m3s`, `7.66s`, `12ms`.
fn go_duration(text: &str) -> Option<f64> {
    let mut rest = text;
    let mut total = 0.0;
    while !rest.is_empty() {
        let (number, after) = split_number(rest)?;
        let (word, after) = split_word(after);
        total += number * unit(word)?;
        rest = after;
    }
    Some(total)
}

/// Seconds of the span at the start of a sentence in lower case: `1 minute and 30 seconds.`, `7m12s`, `20`.
fn spelled(text: &str) -> Option<f64> {
    let mut total = None;
    let mut rest = text.trim_start();
    while let Some((number, after)) = split_number(rest) {
        let (word, after) = split_word(after.trim_start_matches(' '));
        let seconds = match (unit(word), total) {
            (Some(unit), _) => number * unit,
            (None, None) if word.is_empty() => number,
            _ => break,
        };
        total = Some(total.unwrap_or(0.0) + seconds);
        rest = after.trim_start_matches([' ', ',']);
        rest = rest.strip_prefix("and ").unwrap_or(rest);
    }
    total
}

/// A decimal number and the rest of the text. A full stop at its end belongs to the sentence.
fn split_number(text: &str) -> Option<(f64, &str)> {
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let number = text[..end].trim_end_matches('.');
    Some((number.parse().ok()?, &text[number.len()..]))
}

fn split_word(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_alphabetic());
    text.split_at(end.unwrap_or(text.len()))
}

/// Seconds in one unit of time.
fn unit(word: &str) -> Option<f64> {
    Some(match word {
        "ns" => 1e-9,
        "us" | "µs" | "μs" => 1e-6,
        "ms" | "millisecond" | "milliseconds" => 1e-3,
        "s" | "sec" | "secs" | "second" | "seconds" => 1.0,
        "m" | "min" | "mins" | "minute" | "minutes" => 60.0,
        "h" | "hr" | "hrs" | "hour" | "hours" => 3600.0,
        "d" | "day" | "days" => 86_400.0,
        _ => return None,
    })
}

/// An RFC 3339 instant, or one of the three forms of an HTTP date.
fn instant(text: &str) -> Option<Timestamp> {
    static MAIL_DATE: rfc2822::DateTimeParser =
        rfc2822::DateTimeParser::new().relaxed_weekday(true);
    let old = |form| {
        let civil = strtime::parse(form, text).ok()?.to_datetime().ok()?;
        Offset::UTC.to_timestamp(civil).ok()
    };
    text.parse()
        .ok()
        .or_else(|| MAIL_DATE.parse_timestamp(text).ok())
        .or_else(|| old("%A, %d-%b-%y %H:%M:%S GMT"))
        .or_else(|| old("%a %b %d %H:%M:%S %Y"))
}

/// An instant at the start of a sentence: a date, optionally a time, optionally an offset (default UTC).
fn loose_instant(text: &str) -> Option<Timestamp> {
    let date: Date = strtime::parse("%Y-%m-%d", text.get(..10)?)
        .ok()?
        .to_date()
        .ok()?;
    let rest = text[10..].trim_start_matches([' ', ',', 'T']);
    let rest = rest.strip_prefix("at ").unwrap_or(rest);
    let clock = |form, len| {
        let time = strtime::parse(form, rest.get(..len)?)
            .ok()?
            .to_time()
            .ok()?;
        Some((time, &rest[len..]))
    };
    let (time, rest) = clock("%H:%M:%S", 8)
        .or_else(|| clock("%H:%M", 5))
        .unwrap_or((Time::midnight(), ""));
    let zone = loose_offset(rest.trim_start()).unwrap_or(Offset::UTC);
    zone.to_timestamp(date.to_datetime(time)).ok()
}

/// `+0800` or `+08:00` at the start of a text.
fn loose_offset(text: &str) -> Option<Offset> {
    let sign = match text.bytes().next()? {
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    let hours: i32 = text.get(1..3)?.parse().ok()?;
    let minutes = text[3..].strip_prefix(':').unwrap_or(&text[3..]);
    let minutes: i32 = minutes.get(..2)?.parse().ok()?;
    Offset::from_seconds(sign * (hours * 3600 + minutes * 60)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn at(text: &str) -> SystemTime {
        SystemTime::from(text.parse::<Timestamp>().unwrap())
    }

    fn now() -> SystemTime {
        at("2026-11-22T12:00:00Z")
    }

    fn millis(wait: Option<Duration>) -> Option<u128> {
        wait.map(|wait| wait.as_millis())
    }

    #[test]
    fn every_form_of_a_wait_is_read() {
        for (text, expect) in [
            ("0", 0),
            ("20", 20_000),
            (" 20 ", 20_000),
            ("1.5", 1500),
            ("12ms", 12),
            ("7.66s", 7660),
            ("24s", 24_000),
            ("24.912933014s", 24_912),
            ("2m59.56s", 179_560),
            ("6m0s", 360_000),
            ("1h2m3s", 3_723_000),
            ("250µs", 0),
            ("Sun, 22 Nov 2026 12:01:00 GMT", 60_000),
            ("Sunday, 22-Nov-26 12:01:00 GMT", 60_000),
            ("Sun Nov 22 12:01:00 2026", 60_000),
            ("2026-11-22T12:00:30Z", 30_000),
            ("2026-11-22T20:00:30.5+08:00", 30_500),
            ("1795348860", 60_000),
            ("1795348860000", 60_000),
            ("1795348860123", 60_123),
            ("999999999", 2_678_400_000),
            ("9999999999", 2_678_400_000),
            ("100000h", 2_678_400_000),
            ("2099-01-01T00:00:00Z", 2_678_400_000),
        ] {
            assert_eq!(millis(parse_wait(text, now())), Some(expect), "{text}");
        }
    }

    #[test]
    fn other_texts_give_no_wait() {
        let long = "9".repeat(400);
        for text in [
            "",
            " ",
            "-1",
            "-5s",
            "NaN",
            "inf",
            "1e9999",
            "1e3",
            "soon",
            "5 apples",
            "s",
            ".",
            "1.2.3",
            "5x",
            "1h2",
            "2026-13-01T00:00:00Z",
            // The past.
            "Sun, 22 Nov 2026 11:59:59 GMT",
            "2026-11-22T11:00:00Z",
            "1600000000",
            "1000000000000000",
            "٣",
            &long,
        ] {
            assert_eq!(parse_wait(text, now()), None, "{text}");
        }
    }

    #[test]
    fn milliseconds_come_before_seconds() {
        let mut headers = HeaderMap::new();
        assert_eq!(retry_after(&headers, now()), None);
        headers.insert("retry-after", HeaderValue::from_static("3"));
        assert_eq!(millis(retry_after(&headers, now())), Some(3000));
        headers.insert("retry-after-ms", HeaderValue::from_static("1250.5"));
        assert_eq!(millis(retry_after(&headers, now())), Some(1250));
        headers.insert("retry-after-ms", HeaderValue::from_static("-7"));
        assert_eq!(millis(retry_after(&headers, now())), Some(3000));
    }

    #[test]
    fn spans_are_found_in_sentences() {
        for (text, expect) in [
            ("Please try again in 7m12s. Visit our site.", Some(432_000)),
            ("Please retry in 24.912933014s.", Some(24_912)),
            ("Please RETRY AFTER 20 seconds.", Some(20_000)),
            ("try again after 1 minute and 30 seconds", Some(90_000)),
            ("try again in 6ms, 5 tokens used", Some(6)),
            ("try again in 20.", Some(20_000)),
            ("try again in 5 attempts", None),
            ("try again in a while", None),
            ("nothing", None),
        ] {
            assert_eq!(millis(wait_in_sentence(text)), expect, "{text}");
        }
    }

    #[test]
    fn future_dates_are_found_in_sentences() {
        for (text, expect) in [
            (
                "You will regain access on 2026-12-01 at 00:00 UTC.",
                Some(734_400_000),
            ),
            ("back on 2026-12-01", Some(734_400_000)),
            (
                "model gpt-4o-2024-08-06 until 2026-11-22T13:00:00Z",
                Some(3_600_000),
            ),
            (
                "It will reset at 2026-11-22 21:00:30 +0800 CST.",
                Some(3_630_000),
            ),
            ("reset at 2026-11-22 21:00:00+08:00", Some(3_600_000)),
            ("model gpt-4o-2024-08-06", None),
            ("on 2026-99-99, é 20", None),
        ] {
            assert_eq!(millis(date_in(text, now())), expect, "{text}");
        }
    }

    #[test]
    fn pacific_midnight_follows_summer_time() {
        for (from, expect) in [
            ("2026-11-22T12:00:00Z", 72_000_000),
            ("2026-07-15T12:00:00Z", 68_400_000),
            // The day on which summer time ends has 25 hours.
            ("2026-11-01T07:30:00Z", 88_200_000),
            ("2026-11-23T08:00:00Z", 86_400_000),
        ] {
            assert_eq!(
                millis(until_midnight_pacific(at(from))),
                Some(expect),
                "{from}"
            );
        }
    }

    #[test]
    fn a_day_in_utc_ends_at_midnight() {
        for (from, expect) in [
            ("2026-11-22T12:00:00Z", 43_200_000),
            ("2026-11-22T23:59:59Z", 1000),
            ("2026-12-31T00:00:00Z", 86_400_000),
        ] {
            assert_eq!(millis(until_midnight_utc(at(from))), Some(expect), "{from}");
        }
    }

    #[test]
    fn a_reset_in_the_past_gives_no_wait() {
        let read = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert("x-ratelimit-reset", HeaderValue::from_static(value));
            millis(reset_header(&headers, now()))
        };
        assert_eq!(read("1795348860"), Some(60_000));
        assert_eq!(read("1795348860000"), Some(60_000));
        assert_eq!(read("30"), Some(30_000));
        for nothing in ["1795348700", "0", "soon", ""] {
            assert_eq!(read(nothing), None, "{nothing}");
        }
        assert_eq!(reset_header(&HeaderMap::new(), now()), None);
    }

    #[test]
    fn the_next_month_may_be_the_next_year() {
        for (from, expect) in [
            ("2026-11-22T12:00:00Z", 734_400_000),
            ("2026-12-31T23:59:59Z", 1000),
            ("2027-01-01T00:00:00Z", 2_678_400_000),
        ] {
            assert_eq!(millis(until_next_month(at(from))), Some(expect), "{from}");
        }
    }
}
