//! Reading a request body into memory: within its limit, in time, and within the memory that all bodies share.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use crate::context::{BUDGET_UNIT, BUDGET_WAIT, Gateway};
use crate::error::{GatewayError, Kind};
use crate::proxy::headers::announced_length;

/// Longest time between two pieces of a body. Beyond it the client gets 408.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a body may be slower than `MIN_RATE` without a 408.
const GRACE: Duration = Duration::from_secs(60);
/// Minimum rate of a body after `GRACE`, in bytes/s.
const MIN_RATE: u64 = 16 * 1024;
/// The first 64 KiB of every body are free. Most requests never touch the shared budget.
const BUDGET_FREE: u64 = 64 * 1024;
/// Beyond that, the shared body budget is acquired in steps of this size, in bytes.
const BUDGET_STEP: u64 = 1 << 20;

/// A whole request body, with the part of the shared memory that it occupies.
#[derive(Default)]
pub(crate) struct ReceivedBody {
    pub(crate) bytes: Bytes,
    /// Given back when this is dropped.
    _memory: Option<OwnedSemaphorePermit>,
}

impl ReceivedBody {
    /// A body whose memory is accounted for elsewhere.
    pub(crate) fn of(bytes: Bytes) -> Self {
        Self {
            bytes,
            _memory: None,
        }
    }
}

/// Reads one body. It acquires memory as the body comes, not for what was announced.
pub(crate) struct BodyReader {
    gw: Arc<Gateway>,
    began: Instant,
    /// `Content-Length`; 0 if unknown.
    announced: usize,
    limit: u64,
    /// The first piece. A body of one piece is not copied.
    first: Option<Bytes>,
    all: BytesMut,
    length: u64,
    /// What has come, whether it was added or not.
    received: u64,
    memory: Option<OwnedSemaphorePermit>,
}

impl BodyReader {
    /// Fails if the announced length exceeds `limit`.
    pub(super) fn new(
        gw: &Arc<Gateway>,
        headers: &HeaderMap,
        limit: u64,
    ) -> Result<Self, GatewayError> {
        let announced = announced_length(headers).unwrap_or(0);
        if announced > limit {
            return Err(too_large(limit));
        }
        Ok(Self {
            announced: usize::try_from(announced).unwrap_or(0),
            ..Self::of_part(gw, limit)
        })
    }

    /// For the first part of a body, whatever its announced length.
    pub(crate) fn of_part(gw: &Arc<Gateway>, limit: u64) -> Self {
        Self {
            began: gw.clock.now(),
            gw: Arc::clone(gw),
            announced: 0,
            limit,
            first: None,
            all: BytesMut::new(),
            length: 0,
            received: 0,
            memory: None,
        }
    }

    /// Adds the rest of the body.
    pub(crate) async fn read(&mut self, body: &mut Incoming) -> Result<(), GatewayError> {
        while let Some(data) = self.next_piece(body).await? {
            self.add(data).await?;
        }
        Ok(())
    }

    /// The next piece of the body, which is not added; `None` after the last one.
    pub(crate) async fn next_piece(
        &mut self,
        body: &mut Incoming,
    ) -> Result<Option<Bytes>, GatewayError> {
        loop {
            let frame = match timeout(IDLE_TIMEOUT, body.frame()).await {
                Err(_) => return Err(too_slow()),
                Ok(None) => return Ok(None),
                Ok(Some(Err(_))) => {
                    let message = "the request body broke off or is not valid HTTP";
                    return Err(GatewayError::invalid_request(message));
                }
                Ok(Some(Ok(frame))) => frame,
            };
            if let Ok(data) = frame.into_data() {
                self.received += data.len() as u64;
                let took = self.gw.clock.now().saturating_duration_since(self.began);
                if took > GRACE + Duration::from_secs(self.received / MIN_RATE) {
                    return Err(too_slow());
                }
                return Ok(Some(data));
            }
        }
    }

    /// Drops what was added.
    pub(crate) fn clear(&mut self) {
        (self.first, self.all, self.memory) = (None, BytesMut::new(), None);
    }

    /// Adds a piece.
    pub(crate) async fn add(&mut self, data: Bytes) -> Result<(), GatewayError> {
        self.length += data.len() as u64;
        if self.length > self.limit {
            return Err(too_large(self.limit));
        }
        self.acquire_memory().await?;
        match self.first.take() {
            None if self.all.is_empty() => self.first = Some(data),
            first => {
                if self.all.is_empty() {
                    self.all.reserve(self.announced.max(data.len()));
                }
                self.all
                    .extend_from_slice(first.as_deref().unwrap_or_default());
                self.all.extend_from_slice(&data);
            }
        }
        Ok(())
    }

    /// Keeps the acquired memory ahead of what has come, one step at a time.
    async fn acquire_memory(&mut self) -> Result<(), GatewayError> {
        let acquired = self
            .memory
            .as_ref()
            .map_or(0, |memory| memory.num_permits() as u64 * BUDGET_UNIT);
        if self.length <= acquired + BUDGET_FREE {
            return Ok(());
        }
        let units = u32::try_from(BUDGET_STEP / BUDGET_UNIT).unwrap_or(1);
        let acquiring = Arc::clone(&self.gw.body_budget).acquire_many_owned(units);
        let Ok(Ok(more)) = timeout(BUDGET_WAIT, acquiring).await else {
            let message = "too many large requests at once: try again in a moment";
            return Err(GatewayError {
                retry_after: Some(Duration::from_secs(1)),
                ..GatewayError::new(Kind::QueueFull, message)
            });
        };
        match &mut self.memory {
            Some(memory) => memory.merge(more),
            None => self.memory = Some(more),
        }
        Ok(())
    }

    pub(crate) fn finish(self) -> ReceivedBody {
        ReceivedBody {
            bytes: self.first.unwrap_or_else(|| self.all.freeze()),
            _memory: self.memory,
        }
    }
}

fn too_slow() -> GatewayError {
    let message = format!(
        "the request body came too slowly: nothing for {} s, or less than {MIN_RATE} bytes/s",
        IDLE_TIMEOUT.as_secs()
    );
    GatewayError::new(Kind::RequestTimeout, message)
}

fn too_large(limit: u64) -> GatewayError {
    let message =
        format!("the request body is larger than {limit} bytes (server.max_request_body)");
    GatewayError::new(Kind::RequestTooLarge, message)
}
