//! What happened to one request: collected along its way, told in its headers and, at its end, in one log line.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderValue, Method, Response};
use keypool_core::pool::{Lease, Pool};

use super::headers::{add_key_headers, name_value};
use crate::context::Gateway;
use crate::telemetry::Finished;

/// The longest request id taken from a caller.
const MAX_REQUEST_ID: usize = 128;

/// Logged when it ends, or when it is dropped unended (the client left).
pub(super) struct Story {
    gw: Arc<Gateway>,
    began: Instant,
    request_id: HeaderValue,
    method: Method,
    path: String,
    pub(super) caller: Arc<str>,
    pub(super) pool: Option<Arc<Pool>>,
    key_name: Option<Arc<str>>,
    attempts: u32,
    waited: Duration,
    status: u16,
    ended: bool,
}

impl Story {
    pub(super) fn begin(gw: &Arc<Gateway>, parts: &Parts) -> Self {
        Self {
            began: gw.clock.now(),
            gw: Arc::clone(gw),
            request_id: request_id(gw, parts),
            method: parts.method.clone(),
            path: parts.uri.path().chars().take(200).collect(),
            caller: "-".into(),
            pool: None,
            key_name: None,
            attempts: 0,
            waited: Duration::ZERO,
            status: 0,
            ended: false,
        }
    }

    pub(super) fn request_id(&self) -> &str {
        self.request_id.to_str().unwrap_or_default()
    }

    /// Notes the attempt that begins now.
    pub(super) fn attempt(&mut self, lease: &Lease, attempt: u32, waited: Duration) {
        self.answered_by(lease.pool(), &lease.member().name);
        self.attempts = attempt;
        self.waited = waited;
    }

    /// Notes whose answer the client gets, as far as it is known now.
    pub(super) fn answered_by(&mut self, pool: &Arc<Pool>, key_name: &Arc<str>) {
        self.pool = Some(Arc::clone(pool));
        self.key_name = Some(Arc::clone(key_name));
    }

    /// Notes how long the request waited for a key in all.
    pub(super) fn waited(&mut self, waited: Duration) {
        self.waited = waited;
    }

    /// Adds the gateway's own headers, and notes the status.
    pub(super) fn head<B>(&mut self, response: &mut Response<B>, lease: Option<&Lease>) {
        self.status = response.status().as_u16();
        let headers = response.headers_mut();
        headers.insert("x-request-id", self.request_id.clone());
        match (lease, &self.pool) {
            (Some(lease), _) => add_key_headers(headers, lease),
            (None, Some(pool)) => {
                headers.insert("x-keypool-pool", name_value(pool.name()));
                if let Some(key) = &self.key_name {
                    headers.insert("x-keypool-key", name_value(key));
                }
            }
            (None, None) => return,
        }
        headers.insert("x-keypool-attempts", HeaderValue::from(self.attempts));
        let waited_ms = u64::try_from(self.waited.as_millis()).unwrap_or(u64::MAX);
        headers.insert("x-keypool-queue-ms", HeaderValue::from(waited_ms));
    }

    /// An answer of the gateway's own, told and done with.
    pub(super) fn tell(&mut self, response: Response<Bytes>) -> Response<Bytes> {
        let mut response = response;
        self.head(&mut response, None);
        self.end("");
        response
    }

    /// An error of the gateway's own, told and done with.
    pub(super) fn tell_error(mut self, response: Response<Bytes>) -> Response<Bytes> {
        self.tell(response)
    }

    /// The request is over. `how`: where it did not end as it should.
    pub(super) fn end(&mut self, how: &str) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        let finished = Finished {
            request_id: self.request_id(),
            method: &self.method,
            path: &self.path,
            status: self.status,
            pool: self.pool.as_ref().map_or("-", |pool| pool.name()),
            key_name: self.key_name.as_deref().unwrap_or("-"),
            attempts: self.attempts,
            caller: &self.caller,
            took: self.gw.clock.now().saturating_duration_since(self.began),
            ended: how,
        };
        finished.log();
    }

    /// Hands the story over to the answer that is being relayed.
    pub(super) fn hand_over(&mut self) -> Self {
        let rest = Self {
            gw: Arc::clone(&self.gw),
            began: self.began,
            request_id: self.request_id.clone(),
            method: self.method.clone(),
            path: std::mem::take(&mut self.path),
            caller: Arc::clone(&self.caller),
            pool: self.pool.take(),
            key_name: self.key_name.take(),
            attempts: self.attempts,
            waited: self.waited,
            status: self.status,
            ended: false,
        };
        self.ended = true;
        rest
    }
}

impl Drop for Story {
    fn drop(&mut self) {
        self.end("client left");
    }
}

/// The caller's own id, if it is at most 128 visible ASCII characters; else a new one.
fn request_id(gw: &Gateway, parts: &Parts) -> HeaderValue {
    let own = parts.headers.get("x-request-id").filter(|id| {
        !id.is_empty()
            && id.len() <= MAX_REQUEST_ID
            && id.as_bytes().iter().all(u8::is_ascii_graphic)
    });
    own.cloned().unwrap_or_else(|| new_request_id(gw))
}

/// A version 7 UUID (RFC 9562). It names a request and guards nothing, so a quick random source is enough.
fn new_request_id(gw: &Gateway) -> HeaderValue {
    let since = gw
        .clock
        .wall()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    let mut random = [0; 10];
    fastrand::fill(&mut random);
    let millis = u64::try_from(since.as_millis()).unwrap_or_default();
    let id = uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid();
    let mut text = uuid::Uuid::encode_buffer();
    HeaderValue::from_str(id.hyphenated().encode_lower(&mut text))
        .unwrap_or(HeaderValue::from_static("-"))
}
