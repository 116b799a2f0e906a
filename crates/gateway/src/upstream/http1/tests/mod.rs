//! A provider made of pieces to say: what a call makes of them, and what it tells the provider.

mod requests;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use tokio::io::ReadBuf;

use super::*;
use crate::upstream::RequestBody;

/// The provider's side of a connection: what it says, and what it was told.
#[derive(Clone, Default)]
struct Provider(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    says: VecDeque<Bytes>,
    /// It closes the connection when all is said.
    closes: bool,
    told: Vec<u8>,
    /// It takes so many bytes, …
    takes: Option<usize>,
    /// … and then waits, or else breaks the connection in this direction.
    waits: bool,
}

impl Provider {
    fn new<B: Into<Bytes>>(says: impl IntoIterator<Item = B>, closes: bool) -> Self {
        let this = Self::default();
        this.say(says);
        this.0.lock().unwrap().closes = closes;
        this
    }

    fn say<B: Into<Bytes>>(&self, says: impl IntoIterator<Item = B>) {
        let says = says.into_iter().map(Into::into);
        let said = says.filter(|piece: &Bytes| !piece.is_empty());
        self.0.lock().unwrap().says.extend(said);
    }

    fn told(&self) -> String {
        String::from_utf8(std::mem::take(&mut self.0.lock().unwrap().told)).unwrap()
    }
}

impl AsyncRead for Provider {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut state = self.0.lock().unwrap();
        let Some(piece) = state.says.front_mut() else {
            return if state.closes {
                Poll::Ready(Ok(()))
            } else {
                Poll::Pending
            };
        };
        let length = piece.len().min(buffer.remaining());
        buffer.put_slice(&piece.split_to(length));
        if piece.is_empty() {
            state.says.pop_front();
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
            .takes
            .map(|takes| takes.saturating_sub(state.told.len()));
        let length = left.map_or(bytes.len(), |left| left.min(bytes.len()));
        if length == 0 && state.waits {
            return Poll::Pending;
        }
        if length == 0 {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        state.told.extend_from_slice(&bytes[..length]);
        Poll::Ready(Ok(length))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// What there is of a future's outcome without waiting.
fn now<T>(future: impl Future<Output = T>) -> Option<T> {
    let mut cx = Context::from_waker(Waker::noop());
    match std::pin::pin!(future).poll(&mut cx) {
        Poll::Ready(outcome) => Some(outcome),
        Poll::Pending => None,
    }
}

/// Sends a request and reads its answer's head.
fn send(
    http1: &mut Http1<Provider>,
    request: UpstreamRequest<'_>,
) -> Option<Result<Response<()>, ConnectionError>> {
    http1.begin(request);
    now(http1.answer())
}

/// What became of one exchange.
#[derive(Debug)]
struct Exchange {
    status: u16,
    headers: HeaderMap,
    body: Vec<u8>,
    /// The connection may carry the next request.
    is_free: bool,
}

/// Gives `None` where the answer neither ends nor breaks.
fn exchange(provider: &Provider, method: Method) -> Option<Result<Exchange, ConnectionError>> {
    let mut http1 = Http1::new(provider.clone());
    let response = match send(&mut http1, ask(&method, []))? {
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
    assert!(http1.is_done());
    Some(Ok(Exchange {
        status: response.status().as_u16(),
        headers: response.headers().clone(),
        body,
        is_free: http1.is_free(),
    }))
}

fn answered(says: &str, closes: bool, method: Method) -> Exchange {
    let provider = Provider::new([says.to_owned()], closes);
    let outcome = exchange(&provider, method);
    let outcome = outcome.unwrap_or_else(|| panic!("{says:?} has no end"));
    outcome.unwrap_or_else(|error| panic!("{says:?}: {error}"))
}

/// An answer, whether the connection is closed behind it, and then its body and whether another request may follow.
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
        "HTTP/1.1 200 OK\r\n\r\nall that comes",
        true,
        "all that comes",
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
    for (says, closes, body, is_free) in BODIES {
        let answer = answered(says, closes, Method::GET);
        assert_eq!(answer.body, body.as_bytes(), "{says:?}");
        assert_eq!(answer.is_free, is_free, "{says:?}");
        // Where the end is not told by the connection's own, it must not be waited for.
        assert_eq!(
            closes,
            exchange(&Provider::new([says], false), Method::GET).is_none()
        );
    }
    let head = answered(
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n",
        false,
        Method::HEAD,
    );
    assert_eq!((head.body.len(), head.is_free), (0, true));
    assert_eq!(head.headers["content-length"], "5", "as for a GET");
}

#[test]
fn heads_are_read_as_they_are() {
    let says = "HTTP/1.1 429 Too Many\r\nX-Twice: 1\r\ncontent-type:text/plain \r\nx-TWICE:\t2\r\nx-bytes: \u{e9}\r\ncontent-length: 0\r\n\r\n";
    let answer = answered(says, false, Method::GET);
    assert_eq!(answer.status, 429);
    assert_eq!(answer.headers["content-type"], "text/plain");
    assert_eq!(
        answer.headers["x-bytes"],
        HeaderValue::from_bytes("é".as_bytes()).unwrap()
    );
    let twice: Vec<_> = answer.headers.get_all("x-twice").iter().collect();
    assert_eq!(twice, ["1", "2"]);
    // Names are kept for the next head: similar ones must not take each other's destination.
    for name in [
        "x-request-id",
        "x-request-ie",
        "y-request-id",
        "x-requesu-id",
        "X-Request-Id",
    ] {
        let says = format!("HTTP/1.1 200 OK\r\n{name}: {name}\r\ncontent-length: 0\r\n\r\n");
        assert_eq!(answered(&says, false, Method::GET).headers[name], name);
    }
}

#[test]
fn what_is_no_answer_breaks_the_call() {
    let long = format!("HTTP/1.1 200 OK\r\nx: {}", "x".repeat(MAX_HEAD));
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "x: y\r\n".repeat(257));
    let interim = "HTTP/1.1 102 Processing\r\n\r\n".repeat(MAX_HEAD / 20);
    let chunked =
        |body: &str| format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{body}");
    let sized = |length: &str| format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\nhi");
    for says in [
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
        let start = &says[..says.len().min(80)];
        let outcome = exchange(&Provider::new([says.clone()], false), Method::GET);
        let broken = outcome.map(|outcome| outcome.err());
        assert!(
            matches!(broken, Some(Some(ConnectionError::Malformed(_)))),
            "{start:?}: {broken:?}"
        );
    }
}

#[test]
fn an_answer_that_breaks_off_is_not_taken_for_a_whole_one() {
    for says in [
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
        let outcome = exchange(&Provider::new([says], true), Method::GET);
        let broken = outcome.map(|outcome| outcome.err());
        assert!(
            matches!(broken, Some(Some(ConnectionError::Closed))),
            "{says:?}: {broken:?}"
        );
    }
}

static HOST: HeaderValue = HeaderValue::from_static("provider:8080");
static NAME: HeaderName = HeaderName::from_static("x-custom");
static VALUE: HeaderValue = HeaderValue::from_static("yes");

fn ask(method: &Method, body: impl IntoIterator<Item = Bytes>) -> UpstreamRequest<'_> {
    let headers = vec![(&NAME, &VALUE)];
    let target = "/v1/chat?x=1".to_owned();
    UpstreamRequest::new(method, target, &HOST, headers, RequestBody::new(body)).unwrap()
}

fn post(body: &str) -> UpstreamRequest<'static> {
    let middle = body.len() / 2;
    let pieces = [&body[..middle], &body[middle..]];
    ask(
        &Method::POST,
        pieces.map(|piece| Bytes::copy_from_slice(piece.as_bytes())),
    )
}

#[test]
fn a_connection_that_waits_is_over_when_it_is_closed_or_says_anything() {
    for (provider, expect) in [
        (Provider::default(), false),
        (Provider::new::<Bytes>([], true), true),
        (Provider::new(["HTTP/1.1 408 Timeout\r\n\r\n"], false), true),
    ] {
        assert_eq!(Http1::new(provider).is_over(), expect);
    }
}

#[test]
fn large_reads_are_passed_on_without_a_copy_and_short_ones_hold_no_buffer() {
    let body = "x".repeat(3 * ROOM);
    let says = format!(
        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let answer = answered(&says, false, Method::GET);
    assert!(answer.body == body.as_bytes() && answer.is_free);
    let pieces = says
        .as_bytes()
        .chunks(SHORT - 1)
        .map(Bytes::copy_from_slice);
    let provider = Provider::new(pieces, false);
    let answer = exchange(&provider, Method::GET).unwrap().unwrap();
    assert!(answer.body == body.as_bytes());
    let spare = READ.with_borrow(BytesMut::capacity);
    assert!(spare >= LEAST_ROOM, "{spare} left of the thread's buffer");

    READ.with_borrow_mut(|room| *room = BytesMut::new());
    let pieces = ["HTTP/1.1 200 OK\r\n\r\n", &body[..SHORT], &body[..SHORT]];
    let mut http1 = Http1::new(Provider::new(pieces.map(str::to_owned), false));
    assert!(send(&mut http1, ask(&Method::GET, [])).unwrap().is_ok());
    let mut next = || now(poll_fn(|cx| http1.poll_data(cx))).unwrap();
    let (first, second) = (next().unwrap().unwrap(), next().unwrap().unwrap());
    let behind = first.as_ptr_range().end;
    assert_eq!(second.as_ptr(), behind, "both are where they were read to");
}

/// What a fuzzer puts answers together from.
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

/// The bytes of an answer and where they are cut into pieces.
fn made_of(input: &[u8]) -> (Vec<u8>, Vec<Bytes>) {
    let (cuts, parts) = input.split_at(input.len().min(4));
    let mut says = Vec::new();
    let (first, parts) = parts.split_first().unwrap_or((&0, &[]));
    // LogThrottle anything; mostly a whole head with up to three headers that matter, and then anything.
    let whole = usize::from(first % 8 > 0) * (1 + usize::from(first >> 4) % 4);
    let (head, parts) = parts.split_at(whole.min(parts.len()));
    for (destination, part) in head.iter().enumerate() {
        let some = if destination == 0 {
            &PIECES[..4]
        } else {
            &PIECES[5..14]
        };
        let piece = some[usize::from(*part) % some.len()];
        says.extend_from_slice(piece.as_bytes());
    }
    if whole > 0 {
        says.extend_from_slice(b"\r\n");
    }
    for part in parts {
        match PIECES.get(usize::from(*part) % 40) {
            Some(piece) => says.extend_from_slice(piece.as_bytes()),
            None => says.push(*part),
        }
    }
    let mut cuts: Vec<usize> = cuts
        .iter()
        .map(|cut| usize::from(*cut).min(says.len()))
        .collect();
    cuts.sort_unstable();
    let ends = cuts.iter().copied().chain([says.len()]);
    let mut from = 0;
    let pieces =
        ends.map(|end| Bytes::copy_from_slice(&says[std::mem::replace(&mut from, end)..end]));
    let pieces = pieces.collect();
    (says, pieces)
}

/// What hyper makes of an answer after which the connection is closed. `None`: it breaks the call.
fn as_hyper_reads(says: &[u8]) -> Option<(u16, Vec<u8>)> {
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
            // Not before it was asked.
            assert!(!provider.told().is_empty());
            provider.say([says.to_vec()]);
            provider.0.lock().unwrap().closes = true;
        }
        if let Some(outcome) = now(exchange.as_mut()) {
            return outcome;
        }
    }
    panic!("hyper comes to no end with {}", says.escape_ascii());
}

#[test]
fn an_answer_is_read_as_hyper_reads_it_or_not_at_all_however_it_is_cut() {
    let target = bolero::check!();
    #[cfg(not(fuzzing))]
    let target = {
        let inputs = bolero::produce::<Vec<u8>>().with().len(0..=60usize);
        target.with_iterations(100_000).with_generator(inputs)
    };
    target.for_each(|input| {
        let (says, pieces) = made_of(input);
        let outcome = exchange(&Provider::new([says.clone()], true), Method::GET);
        let whole = outcome.expect("a closed connection is the end").ok();
        let cut = exchange(&Provider::new(pieces, true), Method::GET);
        let cut = cut.expect("a closed connection is the end").ok();
        let told = |exchange: &Exchange| (exchange.status, exchange.body.clone());
        assert_eq!(
            cut.as_ref().map(told),
            whole.as_ref().map(told),
            "{}",
            says.escape_ascii()
        );
        if let Some(whole) = whole {
            let expect = as_hyper_reads(&says);
            assert_eq!(Some(told(&whole)), expect, "{}", says.escape_ascii());
        }
    });
}
