//! Holds the unread request body. If we respond before reading it, the rest is drained for a moment; otherwise closing
//! the connection would reset it, and the client would never see the response.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use http::header::EXPECT;
use http::request::Parts;
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};

use super::body::{BodyReader, ReceivedBody};
use crate::context::Gateway;
use crate::error::GatewayError;

/// How long the rest of a body is drained, at most.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// The body of a request, until it is read.
pub(crate) struct UnreadBody {
    gw: Arc<Gateway>,
    body: Option<Incoming>,
    /// The client sends its body only when asked for it, so there is nothing to drain.
    expects_continue: bool,
}

impl UnreadBody {
    pub(crate) fn new(gw: &Arc<Gateway>, parts: &Parts, body: Incoming) -> Self {
        Self {
            gw: Arc::clone(gw),
            body: Some(body),
            expects_continue: expects_continue(&parts.headers),
        }
    }

    /// Reads the whole body, within `limit` bytes, the time for a body and the gateway's memory for bodies.
    pub(crate) async fn read(
        &mut self,
        headers: &HeaderMap,
        limit: u64,
    ) -> Result<ReceivedBody, GatewayError> {
        let mut reader = BodyReader::new(&self.gw, headers, limit)?;
        self.expects_continue = false;
        let Some(mut body) = self.body.take().filter(|body| !body.is_end_stream()) else {
            return Ok(ReceivedBody::default());
        };
        match reader.read(&mut body).await {
            Ok(()) => Ok(reader.finish()),
            Err(error) => {
                self.body = Some(body);
                Err(error)
            }
        }
    }

    /// The body, to be read piece by piece.
    ///
    /// # Errors
    /// If its announced length exceeds `limit`, or it was read before.
    pub(crate) fn begin(
        &mut self,
        headers: &HeaderMap,
        limit: u64,
    ) -> Result<Incoming, GatewayError> {
        BodyReader::new(&self.gw, headers, limit)?;
        self.expects_continue = false;
        let empty = || GatewayError::invalid_request("the body is empty");
        self.body.take().ok_or_else(empty)
    }

    /// What was not read of the body is to be discarded.
    pub(crate) fn give_back(&mut self, body: Incoming) {
        self.body = Some(body);
    }

    /// Reads and discards what is left, in a task of its own: for 5 s at most, and up to 2 × `max_request_body`.
    pub(crate) fn drain(self) {
        let Some(mut body) = self
            .body
            .filter(|body| !body.is_end_stream() && !self.expects_continue)
        else {
            return;
        };
        let mut left = 2 * self.gw.snapshot().settings.server.max_request_body;
        self.gw.tasks.spawn(async move {
            let draining = async {
                while let Some(Ok(frame)) = body.frame().await {
                    let length = frame.data_ref().map_or(0, |data| data.len() as u64);
                    match left.checked_sub(length) {
                        Some(rest) => left = rest,
                        None => break,
                    }
                }
            };
            drop(tokio::time::timeout(DRAIN_TIMEOUT, draining).await);
        });
    }
}

fn expects_continue(headers: &HeaderMap) -> bool {
    headers
        .get(EXPECT)
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}
