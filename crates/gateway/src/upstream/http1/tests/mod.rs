//! A scripted provider: what a call reads from it, and what it writes to it.

mod requests;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use tokio::io::ReadBuf;

use super::*;
use crate::upstream::RequestBody;

/// The provider's side of a connection: what it sends, and what it received.
#[derive(Clone, Default)]
struct Provider(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    sends: VecDeque<Bytes>,
    /// It closes the connection once everything is sent.
    closes: bool,
    received: Vec<u8>,
    /// Maximum number of bytes that it reads.
    reads: Option<usize>,
    /// After those it waits; otherwise it breaks the connection in this direction.
    waits: bool,
}

impl Provider {
    fn new<B: Into<Bytes>>(pieces: impl IntoIterator<Item = B>, closes: bool) -> Self {
        let this = Self::default();
        this.send(pieces);
        this.0.lock().unwrap().closes = closes;
        this
    }

    fn send<B: Into<Bytes>>(&self, pieces: impl IntoIterator<Item = B>) {
        let pieces = pieces.into_iter().map(Into::into);
        let pieces = pieces.filter(|piece: &Bytes| !piece.is_empty());
        self.0.lock().unwrap().sends.extend(pieces);
    }

    fn received(&self) -> String {
        String::from_utf8(std::mem::take(&mut self.0.lock().unwrap().received)).unwrap()
    }
}

impl AsyncRead for Provider {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut state = self.0.lock().unwrap();
        let Some(piece) = state.sends.front_mut() else {
            return if state.closes {
                Poll::Ready(Ok(()))
            } else {
                Poll::Pending
            };
        };
        let length = piece.len().min(buffer.remaining());
        buffer.put_slice(&piece.split_to(length));
        if piece.is_empty() {
            state.sends.pop_front();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Provider {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut state = self.0.lock().unwrap();
        let left = state
            .reads
            .map(|reads| reads.saturating_sub(state.received.len()));
        let length = left.map_or(bytes.len(), |left| left.min(bytes.len()));
        if length == 0 && state.waits {
            return Poll::Pending;
        }
        if length == 0 {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        state.received.extend_from_slice(&bytes[..length]);
        Poll::Ready(Ok(length))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// A future's output if it is ready without waiting.
fn now<T>(future: impl Future<Output = T>) -> Option<T> {
    let mut cx = Context::from_waker(Waker::noop());
    match std::pin::pin!(future).poll(&mut cx) {
        Poll::Ready(outcome) => Some(outcome),
        Poll::Pending => None,
    }
}

/// Sends a request and reads the head of its response.
fn send(
    http1: &mut Http1<Provider>,
    request: UpstreamRequest<'_>,
) -> Option<Result<Response<()>, ConnectionError>> {
    http1.begin(request);
    now(http1.response())
}

/// The result of one exchange.
#[derive(Debug)]
struct Exchange {
    status: u16,
    headers: HeaderMap,
    body: Vec<u8>,
    /// The connection may carry the next request.
    is_free: bool,
}

/// `None`: the response neither ends nor breaks.
fn exchange(provider: &Provider, method: Method) -> Option<Result<Exchange, ConnectionError>> {
    let mut http1 = Http1::new(provider.clone());
    let response = match send(&mut http1, request(&method, []))? {
        Ok(response) => response,
        Err(error) => return Some(Err(error)),
    };
    let mut body = Vec::new();
    loop {
        match now(poll_fn(|cx| http1.poll_data(cx)))? {
            Some(Ok(data)) => {
                assert!(!data.is_empty());
                body.extend_from_slice(&data);
            }
            Some(Err(broken)) => return Some(Err(broken)),
            None => break,
        }
    }
    assert!(http1.is_body_done());
    Some(Ok(Exchange {
        status: response.status().as_u16(),
        headers: response.headers().clone(),
        body,
        is_free: http1.is_free(),
    }))
}

fn responded(sent: &str, closes: bool, method: Method) -> Exchange {
    let provider = Provider::new([sent.to_owned()], closes);
    let outcome = exchange(&provider, method);
    let outcome = outcome.unwrap_or_else(|| panic!("{sent:?} has no end"));
    outcome.unwrap_or_else(|error| panic!("{sent:?}: {error}"))
}

/// A response, whether the connection is closed after it, its body, and whether another request may follow.
type Row = (&'static str, bool, &'static str, bool);

const BODIES: [Row; 17] = [
    (
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello",
        false,
        "hello",
        true,
    ),
    (
        "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
        false,
        "",
        true,
    ),
    (
        "HTTP/1.1 200\r\nContent-Length: 2, 2\r\n\r\nhi",
        false,
        "hi",
        true,
    ),
    (
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 2\r\n\r\nhi",
        false,
        "hi",
        true,
    ),
    (
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: Close\r\n\r\nhi",
        false,
        "hi",
        false,
    ),
    (
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi!",
        false,
        "hi",
        false,
    ),
    (
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n1\r\n!\r\n0\r\n\r\n",
        false,
        "hello!",
        true,
    ),
    (
        "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, Chunked\r\n\r\nA;x=\"y\"\r\n0123456789\r\n0 \r\nx: y\r\n\r\n",
        false,
        "0123456789",
        true,
    ),
    (
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 1\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
        false,
        "hi",
        false,
    ),
    (
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nmore",
        false,
        "",
        false,
    ),
    (
        "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\nzipped",
        true,
        "zipped",
        false,
    ),
    (
        "HTTP/1.1 200 OK\r\n\r\neverything sent",
        true,
        "everything sent",
        false,
    ),
    (
        "HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nhi",
        false,
        "hi",
        false,
    ),
    (
        "HTTP/1.0 200 OK\r\ncontent-length: 2\r\nconnection: keep-alive\r\n\r\nhi",
        false,
        "hi",
        true,
    ),
    (
        "HTTP/1.1 204 No Content\r\ncontent-length: 5\r\n\r\n",
        false,
        "",
        true,
    ),
    (
        "HTTP/1.1 304 Not Modified\r\ntransfer-encoding: chunked\r\n\r\n",
        false,
        "",
        true,
    ),
    (
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 201 Created\r\ncontent-length: 1\r\n\r\n1",
        false,
        "1",
        true,
    ),
];

#[test]
fn bodies_end_where_the_head_says() {
    for (sent, closes, body, is_free) in BODIES {
        let response = responded(sent, closes, Method::GET);
        assert_eq!(response.body, body.as_bytes(), "{sent:?}");
        assert_eq!(response.is_free, is_free, "{sent:?}");
        // Only a body that ends with the connection may wait for its close.
        assert_eq!(
            closes,
            exchange(&Provider::new([sent], false), Method::GET).is_none()
        );
    }
    let head = responded(
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n",
        false,
        Method::HEAD,
    );
    assert_eq!((head.body.len(), head.is_free), (0, true));
    assert_eq!(head.headers["content-length"], "5", "as for a GET");
}

#[test]
fn heads_are_parsed_with_repeated_and_mixed_case_names() {
    let sent = "HTTP/1.1 429 Too Many\r\nX-Twice: 1\r\ncontent-type:text/plain \r\nx-TWICE:\t2\r\nx-bytes: \u{e9}\r\ncontent-length: 0\r\n\r\n";
    let response = responded(sent, false, Method::GET);
    assert_eq!(response.status, 429);
    assert_eq!(response.headers["content-type"], "text/plain");
    assert_eq!(
        response.headers["x-bytes"],
        HeaderValue::from_bytes("é".as_bytes()).unwrap()
    );
    let twice: Vec<_> = response.headers.get_all("x-twice").iter().collect();
    assert_eq!(twice, ["1", "2"]);
}

#[test]
fn a_malformed_response_breaks_the_call() {
    let long = format!("HTTP/1.1 200 OK\r\nx: {}", "x".repeat(MAX_HEAD));
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "x: y\r\n".repeat(257));
    let interim = "HTTP/1.1 102 Processing\r\n\r\n".repeat(MAX_HEAD / 20);
    let chunked =
        |body: &str| format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{body}");
    let sized = |length: &str| format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\nhi");
    for sent in [
        "SSH-2.0-OpenSSH_9.2\r\n".to_owned(),
        "HTTP/2 200\r\n\r\n".to_owned(),
        "HTTP/1.7 200 OK\r\n\r\n".to_owned(),
        "HTTP/1.1 20 OK\r\n\r\n".to_owned(),
        "HTTP/1.1 200 OK\r\nno colon\r\n\r\n".to_owned(),
        "HTTP/1.1 200 OK\r\nspace : x\r\n\r\n".to_owned(),
        "HTTP/1.1 200 OK\r\nfolded: x\r\n y\r\n\r\n".to_owned(),
        "HTTP/1.1 200 OK\r\nnul: \0\r\n\r\n".to_owned(),
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\n".to_owned(),
        "\r\n\r\nHTTP/1.1 200 OK\r\n\r\n".to_owned(),
        long,
        many,
        interim,
        sized("two"),
        sized("+2"),
        sized("-2"),
        sized(""),
        sized("2, 3"),
        sized("99999999999999999999"),
        sized("2\r\ncontent-length: 3"),
        chunked("hello"),
        chunked("\r\n"),
        chunked("0x2\r\nhi\r\n"),
        chunked("-2\r\nhi\r\n"),
        chunked("2\nhi\r\n"),
        chunked("2;x\nhi\r\n"),
        chunked("2 2\r\nhi\r\n"),
        chunked("2 x\r\nhi\r\n"),
        chunked("2\r\nhi!\r\n"),
        chunked("2\r\nhi\n0\r\n\r\n"),
        chunked("2\r\nhi\r\n0\r\nx: y\n\r\n"),
        chunked("10000000000000000\r\nhi\r\n"),
        chunked(&format!("2;{}\r\nhi\r\n", "x".repeat(MAX_HEAD))),
        chunked(&format!("0\r\n{}", "x: y\r\n".repeat(MAX_HEAD))),
    ] {
        let start = &sent[..sent.len().min(80)];
        let outcome = exchange(&Provider::new([sent.clone()], false), Method::GET);
        let broken = outcome.map(|outcome| outcome.err());
        assert!(
            matches!(broken, Some(Some(ConnectionError::Malformed(_)))),
            "{start:?}: {broken:?}"
        );
    }
}

#[test]
fn a_response_that_breaks_off_is_not_complete() {
    for sent in [
        "",
        "HTTP/1.",
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n",
        "HTTP/1.1 100 Continue\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhell",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n",
    ] {
        let outcome = exchange(&Provider::new([sent], true), Method::GET);
        let broken = outcome.map(|outcome| outcome.err());
        assert!(
            matches!(broken, Some(Some(ConnectionError::Closed))),
            "{sent:?}: {broken:?}"
        );
    }
}

static HOST: HeaderValue = HeaderValue::from_static("provider:8080");
static NAME: HeaderName = HeaderName::from_static("x-custom");
static VALUE: HeaderValue = HeaderValue::from_static("yes");

fn request(method: &Method, body: impl IntoIterator<Item = Bytes>) -> UpstreamRequest<'_> {
    let headers = vec![(&NAME, &VALUE)];
    let target = "/v1/chat?x=1".to_owned();
    UpstreamRequest::new(method, target, &HOST, headers, RequestBody::new(body)).unwrap()
}

fn post(body: &str) -> UpstreamRequest<'static> {
    let middle = body.len() / 2;
    let pieces = [&body[..middle], &body[middle..]];
    request(
        &Method::POST,
        pieces.map(|piece| Bytes::copy_from_slice(piece.as_bytes())),
    )
}

#[test]
fn an_idle_connection_that_is_closed_or_has_bytes_is_unusable() {
    for (provider, expect) in [
        (Provider::default(), false),
        (Provider::new::<Bytes>([], true), true),
        (Provider::new(["HTTP/1.1 408 Timeout\r\n\r\n"], false), true),
    ] {
        assert_eq!(Http1::new(provider).is_unusable(), expect);
    }
}

#[test]
fn large_reads_are_shared_and_short_ones_copied() {
    let body = "x".repeat(3 * READ_BUFFER);
    let sent = format!(
        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let response = responded(&sent, false, Method::GET);
    assert!(response.body == body.as_bytes() && response.is_free);
    let pieces = sent
        .as_bytes()
        .chunks(MIN_SHARED - 1)
        .map(Bytes::copy_from_slice);
    let provider = Provider::new(pieces, false);
    let response = exchange(&provider, Method::GET).unwrap().unwrap();
    assert!(response.body == body.as_bytes());
    let spare = BUFFER.with_borrow(BytesMut::capacity);
    assert!(
        spare >= MIN_FREE,
        "{spare} bytes left of the thread's buffer"
    );

    BUFFER.with_borrow_mut(|buffer| *buffer = BytesMut::new());
    let pieces = [
        "HTTP/1.1 200 OK\r\n\r\n",
        &body[..MIN_SHARED],
        &body[..MIN_SHARED],
    ];
    let mut http1 = Http1::new(Provider::new(pieces.map(str::to_owned), false));
    assert!(send(&mut http1, request(&Method::GET, [])).unwrap().is_ok());
    let mut next = || now(poll_fn(|cx| http1.poll_data(cx))).unwrap();
    let (first, second) = (next().unwrap().unwrap(), next().unwrap().unwrap());
    let behind = first.as_ptr_range().end;
    assert_eq!(second.as_ptr(), behind, "both share one buffer");
}

/// The parts from which the fuzz test builds responses.
const PIECES: [&str; 34] = [
    "HTTP/1.1 200 OK\r\n",
    "HTTP/1.1 204 No Content\r\n",
    "HTTP/1.1 103 Early Hints\r\n\r\n",
    "HTTP/1.0 200 OK\r\n",
    "HTTP/1.1 ",
    "transfer-encoding: chunked\r\n",
    "Transfer-Encoding: gzip, chunked\r\n",
    "transfer-encoding: identity\r\n",
    "content-length: 5\r\n",
    "content-length: 0\r\n",
    "Content-Length: 5, 5\r\n",
    "connection: close\r\n",
    "connection: keep-alive\r\n",
    "x: y\r\n",
    "\r\n",
    "\r\n\r\n",
    "\n",
    "\r",
    "5\r\nhello\r\n",
    "0\r\n\r\n",
    "0\r\n",
    "3;x=y\r\nabc\r\n",
    "00a\r\n0123456789\r\n",
    "hello",
    "5",
    "f",
    " ",
    ";",
    ",",
    ":",
    "\t",
    "content-length",
    "chunked",
    "\u{e9}",
];

/// Builds the bytes of a response from fuzz input, whole and cut into pieces.
fn build_response(input: &[u8]) -> (Vec<u8>, Vec<Bytes>) {
    let (cuts, parts) = input.split_at(input.len().min(4));
    let mut sent = Vec::new();
    let (first, parts) = parts.split_first().unwrap_or((&0, &[]));
    // Usually a whole head with up to three relevant headers and then anything; sometimes anything from the start.
    let whole = usize::from(first % 8 > 0) * (1 + usize::from(first >> 4) % 4);
    let (head, parts) = parts.split_at(whole.min(parts.len()));
    for (index, part) in head.iter().enumerate() {
        let some = if index == 0 {
            &PIECES[..4]
        } else {
            &PIECES[5..14]
        };
        let piece = some[usize::from(*part) % some.len()];
        sent.extend_from_slice(piece.as_bytes());
    }
    if whole > 0 {
        sent.extend_from_slice(b"\r\n");
    }
    for part in parts {
        match PIECES.get(usize::from(*part) % 40) {
            Some(piece) => sent.extend_from_slice(piece.as_bytes()),
            None => sent.push(*part),
        }
    }
    let mut cuts: Vec<usize> = cuts
        .iter()
        .map(|cut| usize::from(*cut).min(sent.len()))
        .collect();
    cuts.sort_unstable();
    let ends = cuts.iter().copied().chain([sent.len()]);
    let mut from = 0;
    let pieces =
        ends.map(|end| Bytes::copy_from_slice(&sent[std::mem::replace(&mut from, end)..end]));
    let pieces = pieces.collect();
    (sent, pieces)
}

/// How hyper reads a response after which the connection is closed. `None`: it breaks the call.
fn read_by_hyper(sent: &[u8]) -> Option<(u16, Vec<u8>)> {
    use http_body_util::BodyExt;
    use hyper_util::rt::TokioIo;
    let provider = Provider::default();
    let mut builder = hyper::client::conn::http1::Builder::new();
    builder.max_headers(256);
    let handshake = builder.handshake::<_, RequestBody>(TokioIo::new(provider.clone()));
    let (mut sender, connection) = now(handshake)?.ok()?;
    let mut connection = std::pin::pin!(connection);
    let exchange = async {
        let response = sender
            .send_request(http::Request::new(RequestBody::default()))
            .await
            .ok()?;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.ok()?;
        Some((status, body.to_bytes().to_vec()))
    };
    let mut exchange = std::pin::pin!(exchange);
    for round in 0..1000 {
        let _ = now(connection.as_mut());
        if round == 3 {
            // Not before the request was received.
            assert!(!provider.received().is_empty());
            provider.send([sent.to_vec()]);
            provider.0.lock().unwrap().closes = true;
        }
        if let Some(outcome) = now(exchange.as_mut()) {
            return outcome;
        }
    }
    panic!("hyper never finishes with {}", sent.escape_ascii());
}

#[test]
fn a_response_is_read_as_by_hyper_or_refused_however_it_is_cut() {
    let target = bolero::check!();
    #[cfg(not(fuzzing))]
    let target = {
        let inputs = bolero::produce::<Vec<u8>>().with().len(0..=60usize);
        target.with_iterations(100_000).with_generator(inputs)
    };
    target.for_each(|input| {
        let (sent, pieces) = build_response(input);
        let outcome = exchange(&Provider::new([sent.clone()], true), Method::GET);
        let whole = outcome.expect("it ends when the connection is closed").ok();
        let cut = exchange(&Provider::new(pieces, true), Method::GET);
        let cut = cut.expect("it ends when the connection is closed").ok();
        let read = |exchange: &Exchange| (exchange.status, exchange.body.clone());
        assert_eq!(
            cut.as_ref().map(read),
            whole.as_ref().map(read),
            "{}",
            sent.escape_ascii()
        );
        if let Some(whole) = whole {
            let expect = read_by_hyper(&sent);
            assert_eq!(Some(read(&whole)), expect, "{}", sent.escape_ascii());
        }
    });
}
