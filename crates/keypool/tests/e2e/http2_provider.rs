//! Providers that speak HTTP/2: a regular one built on h2's server, and one that ends its connections by a script,
//! frame by frame.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use h2::Reason;
use h2::server::SendResponse;
use http::{HeaderMap, Request, Response};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// How the provider answers a request.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Rule {
    /// Answers once this many requests have arrived.
    Together(usize),
    /// Sends a stream of two events, the second after `finish` is called.
    Hold,
    /// Sends the request's body back.
    Echo,
    /// Announces the length, sends the body, and ends the stream only after `finish` is called.
    LateEnd,
}

/// What the provider has seen.
#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) connections: AtomicUsize,
    pub(crate) requests: AtomicUsize,
    /// Peak number of streams on one connection.
    pub(crate) most: AtomicUsize,
    /// Streams that the other side reset with CANCEL.
    pub(crate) cancelled: AtomicUsize,
    pub(crate) last: Mutex<Option<(String, HeaderMap)>>,
}

/// A regular provider. It stops when dropped.
pub(crate) struct Http2Provider {
    pub(crate) addr: SocketAddr,
    pub(crate) seen: Arc<Seen>,
    finish: watch::Sender<bool>,
    _serving: JoinSet<()>,
}

#[derive(Clone)]
struct Context {
    rule: Rule,
    seen: Arc<Seen>,
    there: Arc<watch::Sender<usize>>,
    finish: watch::Receiver<bool>,
}

impl Http2Provider {
    /// Allows `streams` concurrent requests per connection.
    pub(crate) async fn start(acceptor: TlsAcceptor, streams: u32, rule: Rule) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let addr = listener.local_addr().expect("an address");
        let seen = Arc::<Seen>::default();
        let (finish, finished) = watch::channel(false);
        let context = Context {
            rule,
            seen: Arc::clone(&seen),
            there: Arc::new(watch::Sender::new(0)),
            finish: finished,
        };
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, context) = (acceptor.clone(), context.clone());
                connections.spawn(async move {
                    if let Ok(stream) = acceptor.accept(stream).await {
                        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
                        serve(stream, streams, context).await;
                    }
                });
            }
        });
        Http2Provider {
            addr,
            seen,
            finish,
            _serving: serving,
        }
    }

    pub(crate) fn connections(&self) -> usize {
        self.seen.connections.load(Ordering::SeqCst)
    }

    /// Lets the held streams end.
    pub(crate) fn finish(&self) {
        self.finish.send_replace(true);
    }
}

async fn serve(stream: TlsStream<TcpStream>, streams: u32, context: Context) {
    context.seen.connections.fetch_add(1, Ordering::SeqCst);
    let connection = h2::server::Builder::new()
        .max_concurrent_streams(streams)
        .initial_window_size(1 << 20)
        .initial_connection_window_size(4 << 20)
        .handshake(stream)
        .await;
    let Ok(mut connection) = connection else {
        return;
    };
    let open = Arc::new(AtomicUsize::new(0));
    let mut calls = JoinSet::new();
    while let Some(Ok((request, respond))) = connection.accept().await {
        let (context, open) = (context.clone(), Arc::clone(&open));
        calls.spawn(async move {
            let now = open.fetch_add(1, Ordering::SeqCst) + 1;
            context.seen.most.fetch_max(now, Ordering::SeqCst);
            answer(request, respond, context).await;
            open.fetch_sub(1, Ordering::SeqCst);
        });
    }
}

async fn answer(
    request: Request<h2::RecvStream>,
    mut respond: SendResponse<Bytes>,
    mut context: Context,
) {
    let (head, mut body) = request.into_parts();
    context.seen.requests.fetch_add(1, Ordering::SeqCst);
    *context.seen.last.lock().expect("the last") = Some((head.uri.to_string(), head.headers));
    let mut sent = Vec::new();
    while let Some(Ok(piece)) = body.data().await {
        let _ = body.flow_control().release_capacity(piece.len());
        sent.extend_from_slice(&piece);
    }
    context.there.send_modify(|there| *there += 1);
    let json = |kind: &str| {
        let response = Response::builder().header("content-type", kind);
        response.body(()).expect("a head")
    };
    match context.rule {
        Rule::Together(n) => {
            let mut there = context.there.subscribe();
            let _ = there.wait_for(|there| *there >= n).await;
            if let Ok(mut stream) = respond.send_response(json("application/json"), false) {
                let _ = stream.send_data(Bytes::from_static(b"{\"id\":\"2\"}"), true);
            }
        }
        Rule::Echo => {
            if let Ok(mut stream) = respond.send_response(json("application/octet-stream"), false) {
                let _ = stream.send_data(sent.into(), true);
            }
        }
        Rule::LateEnd => {
            let mut head = json("application/json");
            head.headers_mut().insert("content-length", 10.into());
            let Ok(mut stream) = respond.send_response(head, false) else {
                return;
            };
            let _ = stream.send_data(Bytes::from_static(b"{\"id\":\"2\"}"), false);
            let _ = context.finish.wait_for(|finish| *finish).await;
            let _ = stream.send_data(Bytes::new(), true);
        }
        Rule::Hold => {
            let Ok(mut stream) = respond.send_response(json("text/event-stream"), false) else {
                return;
            };
            let _ = stream.send_data(Bytes::from_static(b"data: {\"n\":1}\n\n"), false);
            tokio::select! {
                reason = std::future::poll_fn(|cx| stream.poll_reset(cx)) => {
                    if matches!(reason, Ok(Reason::CANCEL)) {
                        context.seen.cancelled.fetch_add(1, Ordering::SeqCst);
                    }
                }
                _ = context.finish.wait_for(|finish| *finish) => {
                    let _ = stream.send_data(Bytes::from_static(b"data: [DONE]\n\n"), true);
                }
            }
        }
    }
}

/// Ends the first connection after it received `after` complete requests. Requests on later ones are answered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) after: usize,
    pub(crate) end: Ending,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Ending {
    /// GOAWAY with this last stream; streams up to it are answered.
    GoAway(u32),
    /// Streams above this one are reset with this reason; the others are answered.
    Reset(u32, Reason),
    /// The connection is closed.
    Break,
}

/// A provider that follows a plan. It stops when dropped.
pub(crate) struct Frames {
    pub(crate) addr: SocketAddr,
    pub(crate) connections: Arc<AtomicUsize>,
    pub(crate) requests: Arc<AtomicUsize>,
    _serving: JoinSet<()>,
}

impl Frames {
    pub(crate) async fn start(acceptor: TlsAcceptor, plan: Plan) -> Frames {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let addr = listener.local_addr().expect("an address");
        let (connections, requests) =
            (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let counts = (Arc::clone(&connections), Arc::clone(&requests));
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, requests) = (acceptor.clone(), Arc::clone(&counts.1));
                let first = counts.0.fetch_add(1, Ordering::SeqCst) == 0;
                open.spawn(async move {
                    if let Ok(stream) = acceptor.accept(stream).await {
                        let _ = play(stream, first.then_some(plan), &requests).await;
                    }
                });
            }
        });
        Frames {
            addr,
            connections,
            requests,
            _serving: serving,
        }
    }
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// 200 with a small JSON body.
fn whole_answer(stream: u32) -> Vec<u8> {
    let json = b"application/json";
    // `:status: 200`, and `content-type` by its index in the static table.
    let head = [&[0x88, 0x0f, 0x10, json.len() as u8], &json[..]].concat();
    let head = frame(HEADERS, END_HEADERS, stream, &head);
    [head, frame(DATA, END_STREAM, stream, b"{\"id\":\"1\"}")].concat()
}

async fn play(
    mut io: TlsStream<TcpStream>,
    mut plan: Option<Plan>,
    requests: &AtomicUsize,
) -> std::io::Result<()> {
    let mut preface = [0; 24];
    io.read_exact(&mut preface).await?;
    io.write_all(&frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 100]))
        .await?;
    let mut whole = Vec::new();
    loop {
        let mut head = [0; 9];
        io.read_exact(&mut head).await?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let (kind, flags) = (head[3], head[4]);
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        let mut payload = vec![0; length as usize];
        io.read_exact(&mut payload).await?;
        match kind {
            SETTINGS if flags & ACK == 0 => io.write_all(&frame(SETTINGS, ACK, 0, &[])).await?,
            PING if flags & ACK == 0 => io.write_all(&frame(PING, ACK, 0, &payload)).await?,
            HEADERS | DATA if flags & END_STREAM != 0 => {
                requests.fetch_add(1, Ordering::SeqCst);
                whole.push(stream);
                // The first is answered at once, so that the connection is known before the others arrive.
                let answered = plan.is_none() || stream == 1;
                if answered {
                    io.write_all(&whole_answer(stream)).await?;
                }
            }
            _ => {}
        }
        if let Some(Plan { end, .. }) = plan.take_if(|plan| whole.len() == plan.after) {
            let waiting = whole.iter().copied().filter(|stream| *stream != 1);
            let Some(bytes) = ending(end, waiting) else {
                return Ok(());
            };
            io.write_all(&bytes).await?;
        }
    }
}

/// The bytes that end the connection; `None` to close it without any.
fn ending(end: Ending, waiting: impl Iterator<Item = u32>) -> Option<Vec<u8>> {
    let (last, mut bytes, reason) = match end {
        Ending::GoAway(last) => {
            let payload = [last.to_be_bytes(), [0; 4]].concat();
            (last, frame(GOAWAY, 0, 0, &payload), None)
        }
        Ending::Reset(last, reason) => (last, Vec::new(), Some(u32::from(reason))),
        Ending::Break => return None,
    };
    for stream in waiting {
        match reason {
            _ if stream <= last => bytes.extend(whole_answer(stream)),
            Some(reason) => bytes.extend(frame(RST_STREAM, 0, stream, &reason.to_be_bytes())),
            None => {}
        }
    }
    Some(bytes)
}
