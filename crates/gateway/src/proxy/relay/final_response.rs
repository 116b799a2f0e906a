//! What the client gets when no key served it: the provider's last response, or an error that says which case it is.

use std::sync::Arc;
use std::time::Duration;

use http::header::RETRY_AFTER;
use http::{HeaderValue, Response};
use keypool_core::fault::Class;
use keypool_core::pool::{KeyCounts, Pool};

use super::{OutBody, relay};
use crate::context::Gateway;
use crate::error::{GatewayError, Kind, in_whole_seconds, whole_seconds};
use crate::proxy::attempt::{Concluded, UpstreamResponse};
use crate::proxy::inbound::Call;
use crate::proxy::log::RequestLog;
use crate::proxy::routing::PoolTarget;
use crate::telemetry::no_failover;
use crate::traces::NoKeyReason;
use crate::upstream::UpstreamError;

/// If no key is due within this time, the response tells the SDK not to retry.
const WORTH_WAITING: Duration = Duration::from_secs(60);

pub(crate) fn final_response(
    gw: &Arc<Gateway>,
    call: &Call<'_>,
    concluded: Concluded<'_>,
    log: &mut RequestLog,
) -> Result<Response<OutBody>, GatewayError> {
    let tried = concluded.tried;
    let due = tried
        .iter()
        .filter_map(|target| time_until_due(gw, call, target))
        .min();
    let attempts = concluded.attempts;
    if concluded.last.class.is_none() {
        return Err(never_tried(gw, call, &concluded, due));
    }
    let last = concluded.last;
    match last.class {
        None => Err(no_key(gw, call, tried, due, attempts)),
        Some(Class::Rejected | Class::Exhausted | Class::Forbidden) => {
            Err(no_key(gw, call, tried, due, attempts))
        }
        Some(Class::IntermediaryTrouble) => Err(intermediary(tried, due)),
        Some(class) => match (last.response, last.error) {
            (Some(last), _) => {
                log.set_response_of(&last.entry, &last.key);
                let mut response = match class {
                    // It is about the request, so it stays as it is.
                    Class::CallerFault | Class::TooExpensive => last.response,
                    _ => with_advice(last.response, class, due),
                };
                response.class = class;
                Ok(relay(gw, call, &last.entry, response, None, log))
            }
            (None, Some(last)) => Err(unreachable(&last.error, last.pool.name(), due)),
            (None, None) => Err(no_key(gw, call, tried, due, attempts)),
        },
    }
}

/// How long until the target's first key is due; `None` if none comes back by itself.
fn time_until_due(gw: &Gateway, call: &Call<'_>, target: &PoolTarget) -> Option<Duration> {
    let next = target.entry.pool.next_available(&target.demand(call));
    if next.slot_may_free {
        return Some(Duration::ZERO);
    }
    let now = gw.clock.now();
    next.cooldown_ends
        .map(|ends| ends.saturating_duration_since(now))
}

/// The provider's response with our own advice on when to retry.
fn with_advice(
    mut response: UpstreamResponse,
    class: Class,
    due: Option<Duration>,
) -> UpstreamResponse {
    let headers = &mut response.parts.headers;
    headers.remove(RETRY_AFTER);
    headers.remove("retry-after-ms");
    headers.remove("x-should-retry");
    if let Some(due) = due {
        headers.insert(RETRY_AFTER, whole_seconds(due));
    }
    if class == Class::UpstreamTrouble || due.is_none_or(|due| due > WORTH_WAITING) {
        headers.insert("x-should-retry", HeaderValue::from_static("false"));
    }
    response
}

/// Something on the way to the provider refused the calls.
fn intermediary(tried: &[PoolTarget], due: Option<Duration>) -> GatewayError {
    let pool = tried[tried.len() - 1].entry.pool.name();
    let message = format!(
        "a CDN or proxy between this gateway and the provider of pool \"{pool}\" refused the call; the log names it"
    );
    GatewayError {
        retry_after: due,
        dont_retry: true,
        ..GatewayError::new(Kind::UpstreamUnreachable, message)
    }
}

/// The provider did not respond.
fn unreachable(error: &UpstreamError, pool: &str, due: Option<Duration>) -> GatewayError {
    let (kind, message) = match error.timeout() {
        Some(limit) => (
            Kind::UpstreamTimeout,
            format!("the provider of pool \"{pool}\" did not answer within {limit:?}"),
        ),
        None => (
            Kind::UpstreamUnreachable,
            format!(
                "the provider of pool \"{pool}\" could not be reached or broke the connection; the log has the details"
            ),
        ),
    };
    GatewayError {
        retry_after: due,
        dont_retry: true,
        ..GatewayError::new(kind, message)
    }
}

/// The error says what ended the search on the last one.
fn never_tried(
    gw: &Gateway,
    call: &Call<'_>,
    concluded: &Concluded<'_>,
    due: Option<Duration>,
) -> GatewayError {
    let (tried, waited) = (concluded.tried, concluded.waited);
    let pool = &tried[tried.len() - 1].entry.pool;
    let (name, keys) = (pool.name(), pool.current());
    let (kind, retry_after, message) = match concluded.reason {
        NoKeyReason::QueueFull => (
            Kind::QueueFull,
            Some(Duration::from_secs(1)),
            format!(
                "the queue of pool \"{name}\" is full ({} waiting): try again in a moment",
                keys.settings().queue.max_waiting
            ),
        ),
        NoKeyReason::QueueTimeout | NoKeyReason::DeadlineExceeded => (
            Kind::QueueTimeout,
            due,
            format!(
                "no key of pool \"{name}\" became free within {:.1} s: send fewer requests at once, or add keys",
                waited.as_secs_f64()
            ),
        ),
        NoKeyReason::NoKeyInTime | NoKeyReason::NoAttemptsLeft | NoKeyReason::NotRepeatable => {
            return no_key(gw, call, tried, due, 0);
        }
    };
    GatewayError {
        retry_after,
        ..GatewayError::new(kind, message)
    }
}

fn no_key(
    gw: &Gateway,
    call: &Call<'_>,
    tried: &[PoolTarget],
    due: Option<Duration>,
    attempts: u32,
) -> GatewayError {
    let explained = tried.iter().map(|target| {
        let pool = &target.entry.pool;
        gw.telemetry.health.after_failure(pool, gw.clock.now());
        let due = time_until_due(gw, call, target);
        let attempts = if tried.len() == 1 { attempts } else { 0 };
        let mut text = explain(pool, &pool.key_counts(&target.demand(call)), due, attempts);
        if target.bound_group.is_some() && !pool.is_one_group() {
            text += "; the request names an object, and only keys of the group that made it can serve it";
        }
        text
    });
    GatewayError {
        retry_after: due,
        dont_retry: due.is_none_or(|due| due > WORTH_WAITING),
        ..GatewayError::new(
            Kind::NoKeyAvailable,
            explained.collect::<Vec<_>>().join(". "),
        )
    }
}

/// How many keys are in which state and why, and which of the three cases it is.
fn explain(pool: &Pool, keys: &KeyCounts, due: Option<Duration>, attempts: u32) -> String {
    let name = pool.name();
    if keys.total == 0 {
        return format!("pool \"{name}\" has no key yet: add one");
    }
    let counts = [
        (keys.active, "usable"),
        (keys.rate_limited, "rate-limited"),
        (keys.over_limit, "at a limit of their own"),
        (keys.exhausted, "out of quota or balance"),
        (keys.invalid, "rejected by the provider"),
        (keys.forbidden, "not allowed to use this model"),
        (keys.ejected, "ejected after failures"),
        (keys.disabled, "switched off"),
    ];
    let states: Vec<String> = counts
        .iter()
        .filter(|(n, _)| *n > 0)
        .map(|(n, state)| format!("{n} {state}"))
        .collect();
    let of_all = if keys.total == 1 {
        "its key".to_owned()
    } else {
        format!("its {} keys", keys.total)
    };
    let case = match pool.no_failover() {
        Some(reason) => format!("no failover is possible: {}", no_failover(reason)),
        None if keys.over_limit == keys.total => {
            "all keys are at limits that this gateway was given for them: raise those, or add keys"
                .to_owned()
        }
        None if states.len() == 1 && keys.active == 0 => {
            "all keys fail alike: look at the account or the provider, not at one key".to_owned()
        }
        None if keys.active > 0 => {
            "some keys still work, but the attempts of this request ran out".to_owned()
        }
        None => "the keys fail for different reasons: see /api/keys/stats".to_owned(),
    };
    let when = match due {
        Some(due) if due > Duration::ZERO => {
            format!("; the first is due back in {} s", in_whole_seconds(due))
        }
        Some(_) => String::new(),
        None => "; none comes back by itself".to_owned(),
    };
    let after = match attempts {
        0 => String::new(),
        1 => " after 1 attempt".to_owned(),
        n => format!(" after {n} attempts"),
    };
    format!(
        "no key of pool \"{name}\" could serve this{after}: of {of_all} {}; {case}{when}",
        states.join(", ")
    )
}
