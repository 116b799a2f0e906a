//! What the client gets when no key served it: the provider's last answer, or an error that says which case it is.

use std::time::{Duration, Instant};

use http::header::RETRY_AFTER;
use http::{HeaderValue, Response};
use keypool_core::fault::Class;
use keypool_core::pool::{KeyCounts, Pool};

use super::OutBody;
use super::attempts::{Attempts, Stop};
use super::relay;
use super::request_log::RequestLog;
use super::response::Answer;
use super::route::PoolTarget;
use crate::context::Gateway;
use crate::error::{GatewayError, Kind, in_whole_seconds, whole_seconds};
use crate::telemetry::{can_fail_over, why_no_failover};

/// An SDK is told not to wait for a key that is away for longer.
const WORTH_WAITING: Duration = Duration::from_secs(60);

pub(super) fn final_response(
    attempts: Attempts<'_>,
    stop: Stop,
    log: &mut RequestLog,
) -> Result<Response<OutBody>, GatewayError> {
    let (gw, call) = (attempts.gateway(), attempts.call());
    let (tried, made, waited) = (attempts.tried(), attempts.made(), attempts.waited());
    let pool = &attempts.route().entry.pool;
    log.no_key(pool, attempts.demand(), stop.why(), waited);
    let back = tried
        .iter()
        .filter_map(|route| time_to_return(gw, route))
        .min();
    let last = attempts.into_last();
    match last.class {
        None => Err(never_tried(gw, tried, stop, back, waited)),
        Some(Class::Rejected | Class::Exhausted | Class::Forbidden) => {
            Err(no_key(gw, tried, back, made))
        }
        Some(class) => match (last.answer, last.trouble) {
            (Some((answer, entry, key)), _) => {
                log.set_response_of(&entry, &key);
                let answer = marked(answer, class, back);
                Ok(relay::last_answer(gw, call, answer, log).map(OutBody::Relay))
            }
            (None, Some(trouble)) => {
                let pool = log.entry.as_ref();
                let pool = pool.map_or("-", |entry| entry.pool.name());
                Err(GatewayError {
                    retry_after: back,
                    ..trouble.error(pool)
                })
            }
            (None, None) => Err(no_key(gw, tried, back, made)),
        },
    }
}

/// How long until the target's first key is back; `None`: none comes back by itself.
fn time_to_return(gw: &Gateway, route: &PoolTarget) -> Option<Duration> {
    let next_available = route.entry.pool.next_available(&route.demand());
    let now: Instant = gw.clock.now();
    if next_available.slot_may_free {
        Some(Duration::ZERO)
    } else {
        next_available
            .cooldown_ends
            .map(|at| at.saturating_duration_since(now))
    }
}

/// The provider's answer with our own word on when to come again.
fn marked(mut answer: Answer, class: Class, back: Option<Duration>) -> Answer {
    let headers = &mut answer.parts.headers;
    headers.remove(RETRY_AFTER);
    headers.remove("retry-after-ms");
    headers.remove("x-should-retry");
    if let Some(back) = back {
        headers.insert(RETRY_AFTER, whole_seconds(back));
    }
    if class == Class::UpstreamTrouble || back.is_none_or(|back| back > WORTH_WAITING) {
        headers.insert("x-should-retry", HeaderValue::from_static("false"));
    }
    answer
}

/// `tried`: at least one target; what stopped the last is told.
fn never_tried(
    gw: &Gateway,
    tried: &[PoolTarget],
    stop: Stop,
    back: Option<Duration>,
    waited: Duration,
) -> GatewayError {
    let pool = &tried[tried.len() - 1].entry.pool;
    let (name, settings) = (pool.name(), pool.settings());
    match stop {
        Stop::QueueFull => GatewayError {
            retry_after: Some(Duration::from_secs(1)),
            ..GatewayError::new(
                Kind::QueueFull,
                format!(
                    "the queue of pool \"{name}\" is full ({} waiting): try again in a moment",
                    settings.queue.max_waiting
                ),
            )
        },
        Stop::QueueTimeout | Stop::Deadline => GatewayError {
            retry_after: back,
            ..GatewayError::new(
                Kind::QueueTimeout,
                format!(
                    "no key of pool \"{name}\" came free within {:.1} s: send fewer requests at once, or add keys",
                    waited.as_secs_f64()
                ),
            )
        },
        Stop::NoKey | Stop::OutOfAttempts | Stop::MustNotRepeat => no_key(gw, tried, back, 0),
    }
}

fn no_key(gw: &Gateway, tried: &[PoolTarget], back: Option<Duration>, made: u32) -> GatewayError {
    let told = tried.iter().map(|route| {
        let pool = &route.entry.pool;
        gw.pool_health.after_failure(pool, gw.clock.now());
        let back = time_to_return(gw, route);
        let made = if tried.len() == 1 { made } else { 0 };
        let mut told = explain(pool, &pool.key_counts(&route.demand()), back, made);
        if route.only_group.is_some() && !pool.is_one_group() {
            told += "; the request names an object, and only keys of the group that made it can serve it";
        }
        told
    });
    GatewayError {
        retry_after: back,
        dont_retry: back.is_none_or(|back| back > WORTH_WAITING),
        ..GatewayError::new(Kind::NoKeyAvailable, told.collect::<Vec<_>>().join(". "))
    }
}

/// How many keys are in which state and why, and which of the three cases it is.
fn explain(pool: &Pool, key_counts: &KeyCounts, back: Option<Duration>, made: u32) -> String {
    let name = pool.name();
    if key_counts.total == 0 {
        return format!("pool \"{name}\" has no key yet: add one");
    }
    let counts = [
        (key_counts.active, "usable"),
        (key_counts.rate_limited, "rate-limited"),
        (key_counts.exhausted, "out of quota or balance"),
        (key_counts.invalid, "rejected by the provider"),
        (key_counts.forbidden, "not allowed to use this model"),
        (key_counts.ejected, "set aside after failures"),
        (key_counts.disabled, "switched off"),
    ];
    let states: Vec<String> = counts
        .iter()
        .filter(|(n, _)| *n > 0)
        .map(|(n, what)| format!("{n} {what}"))
        .collect();
    let of_all = if key_counts.total == 1 {
        "its key".to_owned()
    } else {
        format!("its {} keys", key_counts.total)
    };
    let case = match counts.iter().filter(|(n, _)| *n > 0).count() {
        _ if !can_fail_over(pool) => format!("no fail-over is possible: {}", why_no_failover(pool)),
        1 if key_counts.active == 0 => {
            "all keys fail alike: look at the account or the provider, not at one key".to_owned()
        }
        _ if key_counts.active > 0 => {
            "some keys still work, but the attempts of this request ran out".to_owned()
        }
        _ => "the keys fail for different reasons: see /api/keys/stats".to_owned(),
    };
    let when = match back {
        Some(back) if back > Duration::ZERO => {
            format!("; the first is due back in {} s", in_whole_seconds(back))
        }
        Some(_) => String::new(),
        None => "; none comes back by itself".to_owned(),
    };
    let tried = if made > 0 {
        format!(" after {made} attempt{}", if made == 1 { "" } else { "s" })
    } else {
        String::new()
    };
    format!(
        "no key of pool \"{name}\" could serve this{tried}: of {of_all} {}; {case}{when}",
        states.join(", ")
    )
}
