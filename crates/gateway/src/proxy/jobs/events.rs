//! The progress of a job as server-sent events.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Response};
use keypool_core::store::{JobId, JobRecord};
use tokio::time::{Instant, timeout_at};

use super::access;
use super::view::JobView;
use crate::context::Gateway;
use crate::error::GatewayError;
use crate::jobs::Watch;
use crate::proxy::OutBody;
use crate::proxy::inbound::Caller;

/// Time between two comments in a silent stream, so that nothing on the way takes it for dead.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// How often a silent stream looks whether the gateway shuts down.
const LOOK: Duration = Duration::from_secs(1);

/// A stream of events about one job.
struct Following {
    gw: Arc<Gateway>,
    job: JobRecord,
    watch: Watch,
    is_first: bool,
    is_over: bool,
}

/// The job as it is now and after each change, until its end.
pub(super) async fn events(
    gw: &Arc<Gateway>,
    id: &JobId,
    caller: &Caller,
) -> Result<Response<OutBody>, GatewayError> {
    // Watched before it is read, so that no change is missed in between.
    let watch = gw.jobs.watchers.watch(id);
    let following = Following {
        gw: Arc::clone(gw),
        job: access::own(gw, id, caller).await?,
        watch,
        is_first: true,
        is_over: false,
    };
    let events = stream::unfold(following, async |mut following: Following| {
        let text = following.next().await?;
        Some((Ok::<_, Infallible>(text), following))
    });
    let mut response = Response::new(OutBody::Pieces(axum::body::Body::from_stream(events)));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok(response)
}

impl Following {
    /// The next event or comment; `None` after the job's end, or when the gateway shuts down.
    async fn next(&mut self) -> Option<String> {
        if self.is_over {
            return None;
        }
        if std::mem::take(&mut self.is_first) {
            return Some(self.event(JobView::of(&self.job)));
        }
        let heartbeat = Instant::now() + HEARTBEAT;
        loop {
            let look = heartbeat.min(Instant::now() + LOOK);
            match timeout_at(look, self.watch.next()).await {
                Ok(Some(change)) if change.status.has_ended() => {
                    // With the time of its end and its error, if the store responds.
                    let read = access::read(&self.gw, &self.job.id).await.ok().flatten();
                    self.job = read.unwrap_or(JobRecord {
                        status: change.status,
                        ..self.job.clone()
                    });
                    return Some(self.event(JobView::of(&self.job)));
                }
                Ok(Some(change)) => {
                    return Some(self.event(JobView::of(&self.job).changed(&change)));
                }
                Ok(None) => return None,
                Err(_) if self.gw.is_shutting_down() => return None,
                Err(_) if look == heartbeat => return Some(":\n\n".to_owned()),
                Err(_) => {}
            }
        }
    }

    fn event(&mut self, view: JobView) -> String {
        self.is_over = self.job.status.has_ended();
        let json = serde_json::to_string(&view).unwrap_or_default();
        format!("event: job\ndata: {json}\n\n")
    }
}
