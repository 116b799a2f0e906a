//! The server: accepts connections, reads requests, plays what was decided for each.
//!
//! It must never know any provider's wire form.

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

use crate::answer::{Answer, JSON, Kind, Trouble};
use crate::body::{Line, PacedBody};
use crate::call::{Call, credential};
use crate::control;
use crate::recorded::{KEPT_BODY, Recorded, fnv1a};
use crate::route::Route;
use crate::script::{Behaviour, Refusal, Step, Verdict, Visit};
use crate::shape::{Content, Ending, shape};
use crate::state::State;

/// The largest request body that is read.
const BODY_LIMIT: usize = 256 << 20;
/// After an `accept` that failed (no file handles left), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);
/// Retry-After where too many calls run at once: nobody knows when one ends.
const CONCURRENCY_WAIT: u64 = 1;

/// Starts the server; the channel returned closes when it has ended.
#[expect(
    clippy::disallowed_methods,
    reason = "the one task that owns all others; it ends with its handle"
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
    // Fails only on a connection that is gone already; reading it tells the same.
    let _ = stream.set_nodelay(true);
    let line = Arc::new(Line::default());
    let wire = Wire {
        io: TokioIo::new(stream),
        line: Arc::clone(&line),
    };
    let service = hyper::service::service_fn(move |request| {
        handle(Arc::clone(&state), Arc::clone(&line), request)
    });
    // An error here is a client that went away or a connection broken on purpose.
    let _ = hyper::server::conn::http1::Builder::new()
        .serve_connection(wire, service)
        .await;
}

/// One request from its head to the answer's head; the body keeps its visit until the last byte.
async fn handle(
    state: Arc<State>,
    line: Arc<Line>,
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
    if let Err(trouble) = &body
        && trouble.kind != Kind::TooLarge
    {
        // The client went away in the midst of its upload: the visit, dropped here, counts as cancelled.
        return Ok(respond(
            &head,
            Route::error(&call, trouble),
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
        (Err(trouble), _) => Route::error(&call, trouble),
        (Ok(_), Verdict::Refuse(refusal)) => Route::error(&call, &trouble_of(*refusal)),
        (Ok(_), Verdict::Do(step)) => {
            wait_or_break(step, behaviour.latency, &line, &mut visit).await;
            play(step, &route, &call)
        }
    };
    Ok(respond(&head, answer, step, Some((visit, behaviour, line))))
}

/// Waits as long as the answer takes. Does not return where there is none.
async fn wait_or_break(step: &Step, latency: Duration, line: &Line, visit: &mut Visit) {
    match step {
        Step::Reset => {
            visit.finish();
            line.reset();
            std::future::pending().await
        }
        Step::Hang => std::future::pending().await,
        _ => {}
    }
    let more = if let Step::Slow(more) = step {
        *more
    } else {
        Duration::ZERO
    };
    if !(latency + more).is_zero() {
        tokio::time::sleep(latency + more).await;
    }
}

/// The answer that a step makes of a call, not yet shaped.
fn play(step: &Step, route: &Route, call: &Call<'_>) -> Answer {
    match step {
        Step::Status {
            status,
            headers,
            body,
        } => verbatim(*status, headers, body),
        Step::Refuse {
            status,
            retry_after,
        } => Route::error(call, &Trouble::of_status(*status).after(*retry_after)),
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
        // The mock frames its answers itself.
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

/// Interim and impossible statuses cannot end a request.
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
    from: Option<(Visit, Arc<Behaviour>, Arc<Line>)>,
) -> Response<PacedBody> {
    let (visit, behaviour, line) = match from {
        Some((visit, behaviour, line)) => (Some(visit), behaviour, Some(line)),
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
    let mut response = Response::new(PacedBody::new(shaped, visit, line));
    *response.status_mut() = answer.status;
    *response.headers_mut() = answer.headers;
    response
}

fn trouble_of(refusal: Refusal) -> Trouble {
    match refusal {
        Refusal::UnknownKey => Trouble::new(401, Kind::UnknownKey, "Incorrect API key provided."),
        Refusal::Requests { wait_seconds } => {
            let message =
                format!("Rate limit reached for requests. Please try again in {wait_seconds}s.");
            Trouble::new(429, Kind::Requests, message).after(Some(wait_seconds))
        }
        Refusal::Concurrency => {
            let message = "Number of concurrent requests has exceeded your rate limit.";
            Trouble::new(429, Kind::Concurrency, message).after(Some(CONCURRENCY_WAIT))
        }
        Refusal::Overloaded => Trouble::of_status(503),
    }
}

/// Reads a body to its end.
async fn read(body: Incoming) -> Result<Bytes, Trouble> {
    match Limited::new(body, BODY_LIMIT).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(Trouble::new(
            413,
            Kind::TooLarge,
            "The request is larger than 256 MiB.",
        )),
        Err(_) => Err(Trouble::invalid("The request's body broke off.")),
    }
}

/// A request to keep. Copied: a slice would hold on to the connection's whole read buffer.
fn recorded(key: &str, head: &Parts, body: &[u8]) -> Recorded {
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let large = body.len() > KEPT_BODY;
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

/// A socket that breaks on demand, once what was written before is out.
struct Wire {
    io: TokioIo<TcpStream>,
    line: Arc<Line>,
}

impl Drop for Wire {
    fn drop(&mut self) {
        if self.line.is_reset() {
            // Closing with no time to linger is what sends RST. A socket that is gone already needs none.
            let _ = self.io.inner().set_zero_linger();
        }
    }
}

impl hyper::rt::Read for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl hyper::rt::Write for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    /// hyper calls this whenever its own buffer is empty: the moment to break the line.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.line.is_broken() {
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
