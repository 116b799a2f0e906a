//! The request body that nobody has read yet, so that an early answer stays readable by a client that writes first.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use http::header::EXPECT;
use http::request::Parts;
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};

use crate::context::Gateway;

/// What still comes after an early answer is discarded for so long …
const DISCARD_FOR: Duration = Duration::from_secs(5);

pub(super) struct UnreadBody {
    gw: Arc<Gateway>,
    body: Option<Incoming>,
    /// The client waits to be asked for its body: not reading it is answer enough.
    expects_continue: bool,
}

impl UnreadBody {
    pub(super) fn new(gw: &Arc<Gateway>, parts: &Parts, body: Incoming) -> Self {
        Self {
            gw: Arc::clone(gw),
            body: Some(body),
            expects_continue: expects_continue(&parts.headers),
        }
    }

    /// The body, to be read now.
    pub(super) fn take(&mut self) -> Option<Incoming> {
        self.expects_continue = false;
        self.body.take()
    }

    /// Gives back a body of which not all was read.
    pub(super) fn put_back(&mut self, body: Incoming) {
        self.body = Some(body);
    }

    /// Reads and forgets what still comes, in a task of its own.
    pub(super) fn discard(self) {
        let Some(mut body) = self
            .body
            .filter(|body| !body.is_end_stream() && !self.expects_continue)
        else {
            return;
        };
        // … or up to so many bytes.
        let mut left = 2 * self.gw.snapshot().settings.server.max_request_body;
        self.gw.tasks.spawn(async move {
            let reading = async {
                while let Some(Ok(frame)) = body.frame().await {
                    let length = frame.data_ref().map_or(0, |data| data.len() as u64);
                    match left.checked_sub(length) {
                        Some(rest) => left = rest,
                        None => break,
                    }
                }
            };
            drop(tokio::time::timeout(DISCARD_FOR, reading).await);
        });
    }
}

fn expects_continue(headers: &HeaderMap) -> bool {
    headers
        .get(EXPECT)
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}
