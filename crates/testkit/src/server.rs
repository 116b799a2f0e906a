//! The server: accepts connections, reads requests, and performs the step that was decided for each.
//!
//! This module must never know any provider's wire format.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue, TRANSFER_ENCODING};
use http::request::Parts;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::rt::ReadBufCursor;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::answer::{Answer, ApiError, JSON, Kind};
use crate::body::{BreakSignal, PacedBody};
use crate::call::{Call, credential};
use crate::control;
use crate::recorded::{MAX_RECORDED_BODY, Recorded, fnv1a};
use crate::route::Route;
use crate::script::{Behaviour, Refusal, Step, Verdict, Visit};
use crate::shape::{Content, Ending, shape};
use crate::state::State;

/// Maximum size of a request body.
const BODY_LIMIT: usize = 256 << 20;
/// Pause after a failed `accept` (no file handles left), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);
/// Retry-After in seconds if too many calls are in flight: nobody knows when one ends.
const CONCURRENCY_WAIT: u64 = 1;

/// Starts the server. The returned channel closes when it has stopped.
#[expect(
    clippy::disallowed_methods,
    reason = "this task owns all others, and ends with its handle"
)]
pub(crate) fn start(
    listener: TcpListener,
    state: Arc<State>,
    stop: watch::Receiver<bool>,
) -> watch::Receiver<()> {
    let (end, alive) = watch::channel(());
    tokio::spawn(async move {
        serve(listener, state, stop).await;
        drop(end);
    });
    alive
}

async fn serve(listener: TcpListener, state: Arc<State>, mut stop: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(connection(stream, Arc::clone(&state)));
                }
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            },
            Some(_) = connections.join_next() => {}
            _ = stop.changed() => break,
        }
    }
    drop(listener);
    connections.shutdown().await;
}

async fn connection(stream: TcpStream, state: Arc<State>) {
    // Fails only if the connection is already closed, which the next read reports too.
    let _ = stream.set_nodelay(true);
    let break_signal = Arc::new(BreakSignal::default());
    let wire = BreakableSocket {
        io: TokioIo::new(stream),
        break_signal: Arc::clone(&break_signal),
    };
    let service = hyper::service::service_fn(move |request| {
        handle(Arc::clone(&state), Arc::clone(&break_signal), request)
    });
    // An error here means that the client left or that the connection was broken on purpose.
    let _ = hyper::server::conn::http1::Builder::new()
        .serve_connection(wire, service)
        .await;
}

/// Handles one request from its head to the head of the response. The response body holds the visit to the last byte.
async fn handle(
    state: Arc<State>,
    break_signal: Arc<BreakSignal>,
    request: Request<Incoming>,
) -> Result<Response<PacedBody>, Infallible> {
    let (head, incoming) = request.into_parts();
    if let Some(action) = head.uri.path().strip_prefix("/_mock/") {
        let answer = control::answer(&state, &head, action, read(incoming).await);
        return Ok(respond(&head, answer, &Step::Answer, None));
    }
    let query = head.uri.query().unwrap_or_default();
    let key = credential(&head.headers, query);
    let (mut visit, behaviour, verdict) = state.visit(&key);
    let route = Route::of(&head);
    let body = read(incoming).await;
    let call = Call {
        state: &state,
        key: &key,
        query,
        body: body.as_deref().unwrap_or_default(),
        behaviour: &behaviour,
        protocol: route.protocol(),
    };
    if let Err(error) = &body
        && error.kind != Kind::TooLarge
    {
        // The client left during its upload: the visit, dropped here, counts as cancelled.
        return Ok(respond(
            &head,
            Route::error(&call, error),
            &Step::Answer,
            None,
        ));
    }
    if behaviour.record {
        state.record(recorded(&key, &head, call.body));
    }
    let step = match &verdict {
        Verdict::Do(step) => step,
        Verdict::Refuse(_) => &Step::Answer,
    };
    let answer = match (&body, &verdict) {
        (Err(error), _) => Route::error(&call, error),
        (Ok(_), Verdict::Refuse(refusal)) => Route::error(&call, &api_error(*refusal)),
        (Ok(_), Verdict::Do(step)) => {
            wait_or_break(step, behaviour.latency, &break_signal, &mut visit).await;
            play(step, &route, &call)
        }
    };
    Ok(respond(
        &head,
        answer,
        step,
        Some((visit, behaviour, break_signal)),
    ))
}

/// Waits for the latency of the response. Never returns if there is none.
async fn wait_or_break(
    step: &Step,
    latency: Duration,
    break_signal: &BreakSignal,
    visit: &mut Visit,
) {
    match step {
        Step::Reset => {
            visit.finish();
            break_signal.reset();
            std::future::pending().await
        }
        Step::Hang => std::future::pending().await,
        _ => {}
    }
    let extra = if let Step::Slow(extra) = step {
        *extra
    } else {
        Duration::ZERO
    };
    if !(latency + extra).is_zero() {
        tokio::time::sleep(latency + extra).await;
    }
}

/// The response of a step to a call, not yet cut into pieces.
fn play(step: &Step, route: &Route, call: &Call<'_>) -> Answer {
    match step {
        Step::Status {
            status,
            headers,
            body,
        } => verbatim(*status, headers, body),
        Step::Bytes { content_type, body } => {
            let headers = [("content-type".to_owned(), (*content_type).to_owned())];
            let mut answer = verbatim(200, &headers, "");
            answer.content = Content::Whole(body.clone());
            answer
        }
        Step::Refuse {
            status,
            retry_after,
        } => Route::error(call, &ApiError::of_status(*status).after(*retry_after)),
        Step::InBandError { status, body } => {
            let mut answer = route.answer(call);
            answer.status = status_of(status.unwrap_or(200));
            let events = answer
                .headers
                .get(CONTENT_TYPE)
                .is_some_and(|kind| kind.as_bytes().starts_with(b"text/event"));
            answer.content = match answer.content {
                Content::Stream(_) if events => {
                    Content::Stream(vec![Bytes::from(route.error_event(body))])
                }
                Content::Stream(_) => Content::Stream(vec![Bytes::from(body.clone())]),
                Content::Whole(_) => Content::Whole(Bytes::from(body.clone())),
            };
            answer
        }
        _ => route.answer(call),
    }
}

fn verbatim(status: u16, extra: &[(String, String)], body: &str) -> Answer {
    let mut headers = HeaderMap::with_capacity(extra.len() + 2);
    for (name, value) in extra {
        let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::from_str(value))
        else {
            continue;
        };
        // The mock frames its responses itself.
        if name != CONTENT_LENGTH && name != TRANSFER_ENCODING {
            headers.append(name, value);
        }
    }
    if !headers.contains_key(CONTENT_TYPE) && !body.is_empty() {
        let json = body.trim_start().starts_with(['{', '[']);
        headers.insert(
            CONTENT_TYPE,
            if json {
                JSON
            } else {
                HeaderValue::from_static("text/plain; charset=utf-8")
            },
        );
    }
    Answer {
        status: status_of(status),
        headers,
        content: Content::Whole(Bytes::from(body.to_owned())),
    }
}

/// `status`, or 500 if it is invalid or informational: those cannot end a request.
fn status_of(status: u16) -> StatusCode {
    StatusCode::from_u16(status)
        .ok()
        .filter(|status| !status.is_informational())
        .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

fn respond(
    head: &Parts,
    answer: Answer,
    step: &Step,
    from: Option<(Visit, Arc<Behaviour>, Arc<BreakSignal>)>,
) -> Response<PacedBody> {
    let (visit, behaviour, break_signal) = match from {
        Some((visit, behaviour, break_signal)) => (Some(visit), behaviour, Some(break_signal)),
        None => (None, Arc::default(), None),
    };
    if let Some(visit) = &visit {
        visit.answered(answer.status.as_u16());
    }
    let mut shaped = shape(answer.content, step, &behaviour);
    let bodiless = matches!(
        answer.status,
        StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED
    );
    if head.method == Method::HEAD || bodiless {
        shaped.pieces.clear();
        shaped.ending = Ending::Complete;
    }
    let mut response = Response::new(PacedBody::new(shaped, visit, break_signal));
    *response.status_mut() = answer.status;
    *response.headers_mut() = answer.headers;
    response
}

fn api_error(refusal: Refusal) -> ApiError {
    match refusal {
        Refusal::UnknownKey => ApiError::new(401, Kind::UnknownKey, "Incorrect API key provided."),
        Refusal::Requests { wait_seconds } => {
            let message =
                format!("Rate limit reached for requests. Please try again in {wait_seconds}s.");
            ApiError::new(429, Kind::Requests, message).after(Some(wait_seconds))
        }
        Refusal::Concurrency => {
            let message = "Number of concurrent requests has exceeded your rate limit.";
            ApiError::new(429, Kind::Concurrency, message).after(Some(CONCURRENCY_WAIT))
        }
        Refusal::Overloaded => ApiError::of_status(503),
    }
}

/// Reads a body to its end.
async fn read(body: Incoming) -> Result<Bytes, ApiError> {
    match Limited::new(body, BODY_LIMIT).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(ApiError::new(
            413,
            Kind::TooLarge,
            "The request is larger than 256 MiB.",
        )),
        Err(_) => Err(ApiError::invalid("The request's body broke off.")),
    }
}

/// The recording of a request. Its body is copied: a slice would keep the connection's whole read buffer alive.
fn recorded(key: &str, head: &Parts, body: &[u8]) -> Recorded {
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let large = body.len() > MAX_RECORDED_BODY;
    Recorded {
        key: key.to_owned(),
        method: head.method.as_str().to_owned(),
        path: head
            .uri
            .path_and_query()
            .map_or_else(String::new, |path| path.as_str().to_owned()),
        headers: head
            .headers
            .iter()
            .map(|(name, value)| (name.as_str().to_owned(), text(value)))
            .collect(),
        body: if large {
            Bytes::new()
        } else {
            Bytes::copy_from_slice(body)
        },
        body_len: body.len() as u64,
        large_hash: large.then(|| fnv1a(body)),
    }
}

/// A socket that breaks on demand, once everything before is written.
struct BreakableSocket {
    io: TokioIo<TcpStream>,
    break_signal: Arc<BreakSignal>,
}

impl Drop for BreakableSocket {
    fn drop(&mut self) {
        if self.break_signal.is_reset() {
            // Closing with a linger time of zero sends RST. Fails only if the socket is already closed.
            let _ = self.io.inner().set_zero_linger();
        }
    }
}

impl hyper::rt::Read for BreakableSocket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl hyper::rt::Write for BreakableSocket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    /// hyper calls this when its own buffer is empty: the moment to break the connection.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.break_signal.is_broken() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }
}
