//! The mock's remote control at `/_mock/…`: tests in any language script it over HTTP. These requests are not counted or
//! recorded.
//!
//! This module must never touch a connection or a provider's wire format.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, Method, StatusCode};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::answer::{Answer, ApiError, JSON};
use crate::call::query_param;
use crate::quota::Quota;
use crate::recorded::Recorded;
use crate::script::{Behaviour, Step};
use crate::shape::Content;
use crate::state::State;

/// The response to a request to `/_mock/{action}`.
pub(crate) fn answer(
    state: &State,
    head: &Parts,
    action: &str,
    body: Result<Bytes, ApiError>,
) -> Answer {
    let key = query_param(head.uri.query().unwrap_or_default(), "key");
    let done = body
        .map_err(|error| error.message)
        .and_then(|body| match (&head.method, action) {
            (&Method::POST, "script") => script(state, &body),
            (&Method::POST, "behave") => behave(state, &body),
            (&Method::POST, "quota") => quota(state, &body),
            (&Method::POST, "allow") => allow(state, &body),
            (&Method::POST, "seed") => parse::<Seed>(&body)
                .map(|seed| state.seed(seed.seed))
                .map(|()| json!({})),
            (&Method::POST, "clear") => {
                state.clear();
                Ok(json!({}))
            }
            (&Method::GET, "seen") => Ok(match key {
                Some(key) => json!(state.seen(&key)),
                None => json!(state.seen_all()),
            }),
            (&Method::GET, "recorded") => {
                let wanted =
                    |recorded: &Recorded| key.as_ref().is_none_or(|key| *key == recorded.key);
                Ok(state
                    .recorded()
                    .iter()
                    .filter(|recorded| wanted(recorded))
                    .map(described)
                    .collect())
            }
            _ => Err(ACTIONS.to_owned()),
        });
    let (status, body) = match done {
        Ok(body) => (StatusCode::OK, body),
        Err(error) => (StatusCode::BAD_REQUEST, json!({ "error": error })),
    };
    let headers = HeaderMap::from_iter([(http::header::CONTENT_TYPE, JSON)]);
    Answer {
        status,
        headers,
        content: Content::Whole(Bytes::from(body.to_string())),
    }
}

const ACTIONS: &str = "the mock takes POST /_mock/script, behave, quota, allow, seed, clear and GET /_mock/seen, recorded";

fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, String> {
    serde_json::from_slice(body).map_err(|error| error.to_string())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Seed {
    seed: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Allow {
    keys: Vec<String>,
}

fn allow(state: &State, body: &[u8]) -> Result<Value, String> {
    state.allow_keys(parse::<Allow>(body)?.keys.into_iter());
    Ok(json!({}))
}

/// The quota of each key. Together, so that thousands are set at once.
fn quota(state: &State, body: &[u8]) -> Result<Value, String> {
    for (key, quota) in parse::<BTreeMap<String, Quota>>(body)? {
        state.set_quota(&key, quota);
    }
    Ok(json!({}))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Script {
    key: String,
    steps: Vec<WrittenStep>,
}

fn script(state: &State, body: &[u8]) -> Result<Value, String> {
    let script: Script = parse(body)?;
    let steps: Vec<Step> = script
        .steps
        .into_iter()
        .map(WrittenStep::step)
        .collect::<Result<_, _>>()?;
    let scripted = steps.len();
    state.script(&script.key, steps);
    Ok(json!({ "scripted": scripted }))
}

/// A step as JSON. One field selects the step; `headers`, `body`, `retry_after` and `pause_ms` are its parameters.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct WrittenStep {
    answer: bool,
    status: Option<u16>,
    refuse: Option<u16>,
    reset: bool,
    reset_mid_body: bool,
    hang: bool,
    cut_after: Option<usize>,
    cut_mid_event: Option<usize>,
    stall_after: Option<usize>,
    slow_ms: Option<u64>,
    prelude: Option<String>,
    in_band_error: Option<Value>,
    headers: Map<String, Value>,
    body: Option<Value>,
    retry_after: Option<u64>,
    pause_ms: Option<u64>,
}

impl WrittenStep {
    fn step(self) -> Result<Step, String> {
        let on = |set: bool, step: Step| set.then_some(step);
        let headers = self
            .headers
            .iter()
            .map(|(name, value)| (name.clone(), text(value)))
            .collect();
        let body = self.body.as_ref().map(text).unwrap_or_default();
        let status = if self.in_band_error.is_some() {
            None
        } else {
            self.status
        };
        let pause = Duration::from_millis(self.pause_ms.unwrap_or(0));
        let named = [
            on(self.answer, Step::Answer),
            status.map(|status| Step::Status {
                status,
                headers,
                body,
            }),
            self.refuse.map(|status| Step::Refuse {
                status,
                retry_after: self.retry_after,
            }),
            on(self.reset, Step::Reset),
            on(self.reset_mid_body, Step::ResetMidBody),
            on(self.hang, Step::Hang),
            self.cut_after.map(Step::CutAfter),
            self.cut_mid_event.map(Step::CutMidEvent),
            self.stall_after.map(Step::StallAfter),
            self.slow_ms
                .map(|millis| Step::Slow(Duration::from_millis(millis))),
            self.prelude
                .clone()
                .map(|text| Step::Prelude { text, pause }),
            self.in_band_error.as_ref().map(|body| Step::InBandError {
                status: self.status,
                body: text(body),
            }),
        ];
        if let Some(status) = self.status.or(self.refuse)
            && !(200..=999).contains(&status)
        {
            return Err(format!("{status} is no status that ends a request"));
        }
        let mut named = named.into_iter().flatten();
        match (named.next(), named.next()) {
            (Some(step), None) => Ok(step),
            (None, _) => Err("a step is empty: give one of answer, status, refuse, reset, reset_mid_body, hang, cut_after, cut_mid_event, stall_after, slow_ms, prelude, in_band_error".to_owned()),
            (Some(one), Some(other)) => Err(format!("a step is two at once: {one:?} and {other:?}")),
        }
    }
}

/// A string unchanged, any other value as JSON.
fn text(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

/// A behaviour as JSON. An absent field has its default, not the value set before.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenBehaviour {
    key: String,
    latency_ms: Option<u64>,
    chunk_interval_ms: Option<u64>,
    chunks: Option<usize>,
    fail_share: Option<f64>,
    fault: Option<WrittenStep>,
    max_concurrent: Option<u32>,
    rpm: Option<u32>,
    split: Option<usize>,
    require_key: Option<bool>,
    input_tokens: Option<u64>,
    output_tokens: Option<u64>,
    /// As JSON, or as a string that holds JSON: `"null"` for none.
    usage: Option<Value>,
    usage_times: Option<usize>,
    prompt_cache_ms: Option<u64>,
    account: Option<String>,
    models: Option<Vec<String>>,
    record: Option<bool>,
}

fn behave(state: &State, body: &[u8]) -> Result<Value, String> {
    let written: WrittenBehaviour = parse(body)?;
    let usual = Behaviour::default();
    let behaviour = Behaviour {
        latency: Duration::from_millis(written.latency_ms.unwrap_or(0)),
        chunk_interval: Duration::from_millis(written.chunk_interval_ms.unwrap_or(0)),
        chunks: written.chunks.unwrap_or(usual.chunks),
        fail_share: written.fail_share.unwrap_or(usual.fail_share),
        fault: written.fault.map(WrittenStep::step).transpose()?,
        max_concurrent: written.max_concurrent,
        rpm: written.rpm,
        split: written.split,
        require_key: written.require_key.unwrap_or(usual.require_key),
        input_tokens: written.input_tokens,
        output_tokens: written.output_tokens,
        usage: written.usage.as_ref().map(text),
        usage_times: written.usage_times.unwrap_or(usual.usage_times),
        prompt_cache: written.prompt_cache_ms.map(Duration::from_millis),
        account: written.account,
        models: written.models.unwrap_or_default(),
        record: written.record.unwrap_or(usual.record),
    };
    state.behave(&written.key, behaviour);
    Ok(json!({}))
}

/// A recorded request as JSON. `body` is null if it was too large to keep.
fn described(recorded: &Recorded) -> Value {
    let mut headers: Map<String, Value> = Map::new();
    for (name, value) in &recorded.headers {
        match headers.get_mut(name) {
            Some(Value::String(sofar)) => *sofar = format!("{sofar}, {value}"),
            _ => {
                headers.insert(name.clone(), Value::from(value.as_str()));
            }
        }
    }
    let kept = recorded.body.len() as u64 == recorded.body_len;
    json!({
        "key": recorded.key,
        "method": recorded.method,
        "path": recorded.path,
        "headers": headers,
        "body": kept.then(|| recorded.text()),
        "body_len": recorded.body_len,
        "body_hash": recorded.body_hash(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_json_step_selects_exactly_one_step() {
        for (text, step) in [
            (r#"{"answer":true}"#, Step::Answer),
            (
                r#"{"status":429,"headers":{"retry-after":7},"body":{"a":1}}"#,
                Step::Status {
                    status: 429,
                    headers: vec![("retry-after".to_owned(), "7".to_owned())],
                    body: r#"{"a":1}"#.to_owned(),
                },
            ),
            (r#"{"refuse":429,"retry_after":2}"#, Step::rate_limited(2)),
            (r#"{"reset":true}"#, Step::Reset),
            (r#"{"reset_mid_body":true}"#, Step::ResetMidBody),
            (r#"{"hang":true}"#, Step::Hang),
            (r#"{"cut_after":3}"#, Step::CutAfter(3)),
            (r#"{"cut_mid_event":0}"#, Step::CutMidEvent(0)),
            (r#"{"stall_after":1}"#, Step::StallAfter(1)),
            (r#"{"slow_ms":100}"#, Step::slow_ms(100)),
            (
                r#"{"prelude":"\n","pause_ms":5}"#,
                Step::Prelude {
                    text: "\n".to_owned(),
                    pause: Duration::from_millis(5),
                },
            ),
            (
                r#"{"in_band_error":"x"}"#,
                Step::InBandError {
                    status: None,
                    body: "x".to_owned(),
                },
            ),
            (
                r#"{"in_band_error":{},"status":201}"#,
                Step::InBandError {
                    status: Some(201),
                    body: "{}".to_owned(),
                },
            ),
        ] {
            let written: WrittenStep = serde_json::from_str(text).unwrap();
            assert_eq!(written.step(), Ok(step), "{text}");
        }
        for text in [
            "{}",
            r#"{"reset":false}"#,
            r#"{"reset":true,"hang":true}"#,
            r#"{"status":99}"#,
        ] {
            let written: WrittenStep = serde_json::from_str(text).unwrap();
            assert!(written.step().is_err(), "{text}");
        }
        assert!(serde_json::from_str::<WrittenStep>(r#"{"rset":true}"#).is_err());
    }
}
