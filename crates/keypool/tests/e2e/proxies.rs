//! Outbound proxies, to providers with and without TLS.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use keypool_testkit::Mock;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::harness::{CHAT, Gateway, MARK, PoolConfig, key};
use crate::http2_provider::{Http2Provider, Rule};
use crate::tls::{Authority, TlsProxy};

/// How a proxy behaves.
#[derive(Clone, Copy, Debug)]
enum Mode {
    /// `CONNECT` and absolute URLs.
    Http,
    /// SOCKS 5, with this user and password if there are any.
    Socks(Option<(&'static str, &'static str)>),
    /// SOCKS 5 that refuses every target.
    SocksRefuses,
    /// Sends this answer to everything, then closes.
    Says(&'static str),
    /// Sends nothing.
    Silent,
}

/// A small proxy. It stops when dropped.
struct Proxy {
    addr: SocketAddr,
    /// The request on each connection: the head, or the SOCKS target.
    asked: Arc<Mutex<Vec<String>>>,
    _serving: JoinSet<()>,
}

#[derive(Clone)]
struct Context {
    mode: Mode,
    /// Connects to this address, whatever the requested target.
    leads_to: Option<SocketAddr>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    async fn start(mode: Mode) -> Proxy {
        Self::start_with(mode, None, None).await
    }

    async fn start_with(
        mode: Mode,
        tls: Option<TlsAcceptor>,
        leads_to: Option<SocketAddr>,
    ) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let addr = listener.local_addr().expect("an address");
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let context = Context {
            mode,
            leads_to,
            asked: Arc::clone(&asked),
        };
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (context, tls) = (context.clone(), tls.clone());
                connections.spawn(async move {
                    let _ = match tls {
                        Some(tls) => serve(tls.accept(stream).await?, context).await,
                        None => serve(stream, context).await,
                    };
                    io::Result::Ok(())
                });
            }
        });
        Proxy {
            addr,
            asked,
            _serving: serving,
        }
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().expect("what was asked").clone()
    }
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin>(stream: S, context: Context) -> io::Result<()> {
    match context.mode {
        Mode::Http => http(stream, context).await,
        Mode::Socks(credentials) => socks(stream, credentials, context).await,
        Mode::SocksRefuses => socks(stream, None, context).await,
        Mode::Says(answer) => {
            let mut stream = stream;
            let head = head(&mut stream).await?;
            context.asked.lock().expect("what was asked").push(head);
            stream.write_all(answer.as_bytes()).await?;
            stream.shutdown().await
        }
        Mode::Silent => {
            // Keep the connection open.
            let _stream = stream;
            std::future::pending().await
        }
    }
}

async fn head<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    Ok(String::from_utf8(head).expect("a head of text"))
}

async fn http<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    context: Context,
) -> io::Result<()> {
    let head = head(&mut stream).await?;
    context
        .asked
        .lock()
        .expect("what was asked")
        .push(head.clone());
    let target = head.split(' ').nth(1).expect("a target");
    let authority = target.trim_start_matches("http://").split('/').next();
    let mut onward = match context.leads_to {
        Some(addr) => TcpStream::connect(addr).await?,
        None => TcpStream::connect(authority.expect("an authority")).await?,
    };
    if head.starts_with("CONNECT ") {
        stream
            .write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")
            .await?;
    } else {
        onward.write_all(head.as_bytes()).await?;
    }
    copy_bidirectional(&mut stream, &mut onward).await.map(drop)
}

async fn socks<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    credentials: Option<(&str, &str)>,
    context: Context,
) -> io::Result<()> {
    assert_eq!(stream.read_u8().await?, 5);
    let methods = lengthy(&mut stream).await?;
    let method = if credentials.is_some() { 2 } else { 0 };
    assert!(methods.contains(&method), "{methods:?}");
    stream.write_all(&[5, method]).await?;
    if let Some((user, password)) = credentials {
        assert_eq!(stream.read_u8().await?, 1);
        let got = (lengthy(&mut stream).await?, lengthy(&mut stream).await?);
        let right = got == (user.into(), password.into());
        stream.write_all(&[1, u8::from(!right)]).await?;
        if !right {
            return Ok(());
        }
    }
    let mut request = [0; 4];
    stream.read_exact(&mut request).await?;
    let host = match request[3] {
        1 => {
            let mut address = [0; 4];
            stream.read_exact(&mut address).await?;
            std::net::Ipv4Addr::from(address).to_string()
        }
        3 => format!(
            "name {}",
            String::from_utf8_lossy(&lengthy(&mut stream).await?)
        ),
        4 => {
            let mut address = [0; 16];
            stream.read_exact(&mut address).await?;
            format!("[{}]", std::net::Ipv6Addr::from(address))
        }
        other => format!("kind {other}"),
    };
    let port = stream.read_u16().await?;
    context
        .asked
        .lock()
        .expect("what was asked")
        .push(format!("{host}:{port}"));
    if matches!(context.mode, Mode::SocksRefuses) {
        return stream.write_all(&[5, 2, 0, 1, 0, 0, 0, 0, 0, 0]).await;
    }
    let addr = context
        .leads_to
        .unwrap_or(SocketAddr::from(([127, 0, 0, 1], port)));
    let mut onward = TcpStream::connect(addr).await?;
    stream.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).await?;
    copy_bidirectional(&mut stream, &mut onward).await.map(drop)
}

async fn lengthy<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; stream.read_u8().await?.into()];
    stream.read_exact(&mut bytes).await?;
    Ok(bytes)
}

/// A pool with one key at `base_url`, with further settings as TOML.
fn pool(base_url: &str, more: &str) -> String {
    format!(
        "[pools.p]\nprovider = \"mock\"\nbase_url = \"{base_url}\"\nkeys = [\"{}\"]\n{more}\n",
        key(1)
    )
}

/// A pool with two keys, the first through `proxy`, the second direct.
fn two_keys(base_url: &str, proxy: &str) -> String {
    PoolConfig::at(base_url, "p", [])
        .set("proxy", proxy)
        .set("timeouts.connect", "1s")
        .key(1, "")
        .key(2, "proxy = \"none\"")
        .to_string()
}

#[tokio::test]
async fn https_calls_share_a_kept_tunnel() {
    let authority = Authority::new();
    let (mock, proxy) = (Mock::start().await.unwrap(), Proxy::start(Mode::Http).await);
    let front = TlsProxy::start(authority.acceptor(&["127.0.0.1"], &[]), mock.addr()).await;
    let more = format!("proxy = \"http://me%40home:{MARK}%3A1@{}\"", proxy.addr);
    let config = pool(&format!("https://{}", front.addr), &more);
    let gw = Gateway::start_with(&config, &[authority.env()]).await;
    for _ in 0..3 {
        let reply = gw.chat().await;
        assert_eq!((reply.status, reply.attempts()), (200, "1"), "{reply:?}");
    }
    let asked = proxy.asked();
    assert_eq!(asked.len(), 1, "{asked:?}");
    let request_line = format!("CONNECT {0} HTTP/1.1\r\nHost: {0}\r\n", front.addr);
    assert!(asked[0].starts_with(&request_line), "{asked:?}");
    // "me@home:s3cr3t:1"
    let credentials = "\r\nProxy-Authorization: Basic bWVAaG9tZTpzM2NyM3Q6MQ==\r\n";
    assert!(asked[0].contains(credentials), "{asked:?}");
    assert_eq!(front.seen().0, 1);
    let seen = mock.last_request(&key(1)).unwrap();
    assert_eq!(seen.header("proxy-authorization"), None);
    gw.stop().await;
}

#[tokio::test]
async fn http_calls_reach_the_proxy_with_absolute_urls() {
    let (mock, proxy) = (Mock::start().await.unwrap(), Proxy::start(Mode::Http).await);
    let more = format!("proxy = \"http://me:{MARK}@{}\"", proxy.addr);
    let gw = Gateway::start(&pool(&mock.origin(), &more)).await;
    for _ in 0..3 {
        let reply = gw.chat().await;
        assert_eq!((reply.status, reply.attempts()), (200, "1"), "{reply:?}");
    }
    let asked = proxy.asked();
    assert_eq!(asked.len(), 1, "the connection is kept: {asked:?}");
    let line = format!(
        "POST http://{}/v1/chat/completions HTTP/1.1\r\n",
        mock.addr()
    );
    assert!(asked[0].starts_with(&line), "{asked:?}");
    let lower = asked[0].to_ascii_lowercase();
    assert!(
        lower.contains(&format!("\r\nhost: {}\r\n", mock.addr())),
        "{asked:?}"
    );
    assert!(
        lower.contains("\r\nproxy-authorization: basic bwu6cznjcjn0"),
        "{asked:?}"
    );
    gw.stop().await;
}

#[tokio::test]
async fn each_key_uses_its_own_proxy_to_the_same_provider() {
    let authority = Authority::new();
    let mock = Mock::start().await.unwrap();
    let front = TlsProxy::start(authority.acceptor(&["127.0.0.1"], &[]), mock.addr()).await;
    let (pool_proxy, key_proxy) = (
        Proxy::start(Mode::Http).await,
        Proxy::start(Mode::Http).await,
    );
    let config = format!(
        "{}[[pools.p.keys]]\nkey = \"{}\"\nproxy = \"http://{}\"\n",
        two_keys(
            &format!("https://{}", front.addr),
            &format!("http://{}", pool_proxy.addr)
        ),
        key(3),
        key_proxy.addr
    );
    let gw = Gateway::start_with(&config, &[authority.env()]).await;
    for n in [1, 2, 3, 1, 2, 3] {
        let reply = gw.chat().await;
        assert_eq!(
            (reply.status, reply.key()),
            (200, &*format!("p-{n}")),
            "{reply:?}"
        );
    }
    assert_eq!((pool_proxy.asked().len(), key_proxy.asked().len()), (1, 1));
    assert_eq!(
        front.seen().0,
        3,
        "one connection per proxy and one without"
    );
    gw.stop().await;
}

#[tokio::test]
async fn a_proxy_of_the_environment_is_not_used_for_loopback() {
    let authority = Authority::new();
    let mock = Mock::start().await.unwrap();
    let acceptor = authority.acceptor(&["provider.test"], &[]);
    let front = TlsProxy::start(acceptor, mock.addr()).await;
    let proxy = Proxy::start_with(Mode::Http, None, Some(front.addr)).await;
    let local = PoolConfig::new(&mock, "q", [1]);
    let config = format!("{}{local}", pool("https://provider.test", ""));
    let url = format!("http://{}", proxy.addr);
    for name in ["HTTPS_PROXY", "all_proxy"] {
        let env = [authority.env(), (name, &*url), ("HTTP_PROXY", &*url)];
        let gw = Gateway::start_with(&config, &env).await;
        let reply = gw.chat().await;
        assert_eq!(
            (reply.status, reply.key()),
            (200, "p-1"),
            "{name}: {reply:?}"
        );
        let asked = std::mem::take(&mut *proxy.asked.lock().expect("what was asked"));
        assert_eq!(asked.len(), 1, "{name}: {asked:?}");
        assert!(
            asked[0].starts_with("CONNECT provider.test:443 "),
            "{asked:?}"
        );
        let reply = gw.post("/q/v1/chat/completions", CHAT).await;
        assert_eq!(
            (reply.status, reply.key()),
            (200, "q-1"),
            "{name}: {reply:?}"
        );
        assert_eq!(proxy.asked(), [""; 0], "{name}");
        gw.stop().await;
    }
}

/// Failures of a proxy for an https provider, and what the log says about each.
fn without_tunnel() -> Vec<(Mode, &'static str)> {
    vec![
        (
            Mode::Says("HTTP/1.1 407 Who\r\ncontent-length: 0\r\n\r\n"),
            "it answered 407 Proxy Authentication Required",
        ),
        (
            Mode::Says("HTTP/1.1 502 Bad\r\n\r\n"),
            "it answered 502 Bad Gateway",
        ),
        (
            Mode::Says("HTTP/1.0 403 No\r\ncontent-length: 4\r\n\r\nno!\n"),
            "it answered 403 Forbidden",
        ),
        (
            Mode::Says("HTTP/1.1 200 OK\r\n\r\nnot yours"),
            "its answer is not HTTP/1",
        ),
        (Mode::Says("what?\r\n\r\n"), "its answer is not HTTP/1"),
        (
            Mode::Says("x".repeat(40_000).leak()),
            "longer than 16384 bytes",
        ),
        (Mode::Says("what?"), "it closed the connection"),
        (Mode::Says(""), "it closed the connection"),
        (Mode::Silent, "opened no tunnel to 127.0.0.1:"),
    ]
}

/// The same for an http provider.
fn without_forwarding() -> Vec<(Mode, &'static str)> {
    vec![
        (
            Mode::Says("HTTP/1.1 407 Who\r\ncontent-length: 0\r\n\r\n"),
            "asks for other credentials (407)",
        ),
        (
            Mode::Says(
                "HTTP/1.1 403 No\r\nx-squid-error: ERR_ACCESS_DENIED 0\r\ncontent-length: 0\r\n\r\n",
            ),
            "answered 403 Forbidden itself (ERR_ACCESS_DENIED 0)",
        ),
        (
            Mode::Says(
                "HTTP/1.1 504 Late\r\nproxy-status: p; error=connection_timeout\r\ncontent-length: 0\r\n\r\n",
            ),
            "answered 504 Gateway Timeout itself (Proxy-Status: connection_timeout)",
        ),
        (
            Mode::Says("HTTP/1.1 502 Bad\r\ncontent-length: 0\r\n\r\n"),
            "status=502",
        ),
        (Mode::Says(""), "broke before a response"),
    ]
}

#[tokio::test]
async fn a_failing_proxy_fails_over_and_is_named_in_the_log() {
    let authority = Authority::new();
    let over_tls = without_tunnel().into_iter().map(|case| (true, case));
    let plain = without_forwarding().into_iter().map(|case| (false, case));
    for (over_tls, (mode, words)) in over_tls.chain(plain) {
        let (mock, proxy) = (Mock::start().await.unwrap(), Proxy::start(mode).await);
        let front = TlsProxy::start(authority.acceptor(&["127.0.0.1"], &[]), mock.addr()).await;
        let base_url = if over_tls {
            format!("https://{}", front.addr)
        } else {
            mock.origin()
        };
        let config = two_keys(&base_url, &format!("http://me:{MARK}@{}", proxy.addr));
        let gw = Gateway::start_with(&config, &[authority.env()]).await;
        let reply = gw.chat().await;
        assert_eq!(
            (reply.status, reply.key(), reply.attempts()),
            (200, "p-2", "2"),
            "{mode:?}: {reply:?}"
        );
        gw.logged(words).await;
        gw.logged("upstream_trouble").await;
        if over_tls || words.contains("407") || words.contains("itself") {
            gw.logged(&format!("the proxy http://{} ", proxy.addr))
                .await;
        }
        let stats = gw.key_stats("p", "p-1").await;
        assert_eq!(
            (&stats["failed_requests"], &stats["cooldowns"]),
            (&json!(1), &json!([])),
            "{mode:?}: {stats}"
        );
        gw.stop().await;
    }
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start(&two_keys(&mock.origin(), "http://127.0.0.1:1")).await;
    assert_eq!(gw.chat().await.key(), "p-2");
    gw.logged("the proxy http://127.0.0.1:1 cannot be reached")
        .await;
    gw.stop().await;
}

#[tokio::test]
async fn a_silent_proxy_is_a_timeout_and_the_log_names_the_step() {
    let mock = Mock::start().await.unwrap();
    let port = mock.addr().port();
    for (scheme, step) in [
        (
            "http",
            format!("opened no tunnel to 127.0.0.1:{port} within 1s"),
        ),
        (
            "socks5",
            format!("opened no tunnel to 127.0.0.1:{port} within 1s"),
        ),
        (
            "socks5h",
            format!("opened no tunnel to 127.0.0.1:{port} within 1s"),
        ),
        ("https", "began no TLS within 1s".to_owned()),
    ] {
        let proxy = Proxy::start(Mode::Silent).await;
        let more = format!(
            "proxy = \"{scheme}://{}\"\ntimeouts = {{ connect = \"1s\" }}\nretry = {{ retries = 0 }}",
            proxy.addr
        );
        let gw = Gateway::start(&pool(&format!("https://127.0.0.1:{port}"), &more)).await;
        let reply = gw.chat().await;
        assert_eq!(
            (reply.status, reply.code().as_str()),
            (504, "upstream_timeout"),
            "{scheme}: {reply:?}"
        );
        gw.logged(&format!("the proxy {scheme}://{} {step}", proxy.addr))
            .await;
        gw.stop().await;
    }
    // The tunnel opens, but nothing comes through it.
    let (behind, proxy) = (
        Proxy::start(Mode::Silent).await,
        Proxy::start(Mode::Http).await,
    );
    let more = format!(
        "proxy = \"http://{}\"\ntimeouts = {{ connect = \"1s\" }}\nretry = {{ retries = 0 }}",
        proxy.addr
    );
    let gw = Gateway::start(&pool(&format!("https://{}", behind.addr), &more)).await;
    let reply = gw.chat().await;
    assert_eq!(
        (reply.status, reply.code().as_str()),
        (504, "upstream_timeout")
    );
    gw.logged(&format!(
        "the proxy http://{} leads to {}, but TLS did not begin there within 1s",
        proxy.addr, behind.addr
    ))
    .await;
    gw.stop().await;
}

#[tokio::test]
async fn a_call_that_may_have_run_is_not_repeated_after_a_proxy_error() {
    const ONCE: &str = r#"{"model":"gpt-x","input":"hello","store":true}"#;
    for (status, expect) in [(501, (200, "2")), (403, (502, "1")), (504, (502, "1"))] {
        let mock = Mock::start().await.unwrap();
        let says: String = format!(
            "HTTP/1.1 {status} No\r\nx-squid-error: ERR_READ_TIMEOUT 0\r\ncontent-length: 0\r\n\r\n"
        );
        let proxy = Proxy::start(Mode::Says(says.leak())).await;
        let config = two_keys(&mock.origin(), &format!("http://{}", proxy.addr));
        let gw = Gateway::start(&config).await;
        let reply = gw.post("/v1/responses", ONCE).await;
        assert_eq!((reply.status, reply.attempts()), expect, "{reply:?}");
        assert_eq!(mock.seen(&key(2)).requests, u64::from(status == 501));
        gw.stop().await;
    }
}

#[tokio::test]
async fn a_socks_proxy_is_asked_for_every_address_of_a_name() {
    let (mock, proxy) = (
        Mock::start().await.unwrap(),
        Proxy::start(Mode::SocksRefuses).await,
    );
    let port = mock.addr().port();
    let known = tokio::net::lookup_host(("localhost", port)).await.unwrap();
    let known: BTreeSet<String> = known.map(|address| address.to_string()).collect();
    let more = format!(
        "proxy = \"socks5://{}\"\nretry = {{ retries = 0 }}",
        proxy.addr
    );
    let gw = Gateway::start(&pool(&format!("http://localhost:{port}"), &more)).await;
    let reply = gw.chat().await;
    assert_eq!(reply.code(), "upstream_unreachable", "{reply:?}");
    let asked = proxy.asked();
    assert_eq!(asked.len(), known.len(), "{asked:?}");
    assert_eq!(BTreeSet::from_iter(asked), known);
    gw.logged(&format!(
        "the proxy socks5://{} opened no tunnel to ",
        proxy.addr
    ))
    .await;
    gw.stop().await;
}

#[tokio::test]
async fn https_and_socks_proxies_are_supported() {
    let authority = Authority::new();
    let mock = Mock::start().await.unwrap();
    let front = TlsProxy::start(authority.acceptor(&["localhost"], &[]), mock.addr()).await;
    let https = format!("https://localhost:{}", front.addr.port());
    let (plain, port) = (mock.origin(), mock.addr().port());
    let by_name = format!("name localhost:{}", front.addr.port());
    let by_address = format!("127.0.0.1:{}", front.addr.port());
    let there = format!("127.0.0.1:{port}");
    let user = Mode::Socks(Some(("me", "s3cr3t:1")));
    for (scheme, mode, base_url, asked) in [
        ("https", Mode::Http, &https, "CONNECT localhost:"),
        ("https", Mode::Http, &plain, "POST http://127.0.0.1:"),
        ("socks5h", Mode::Socks(None), &https, &*by_name),
        ("socks5", Mode::Socks(None), &https, &*by_address),
        ("socks5h", user, &https, &*by_name),
        ("socks5", user, &plain, &*there),
    ] {
        let tls = (scheme == "https").then(|| authority.acceptor(&["127.0.0.1"], &[]));
        let proxy = Proxy::start_with(
            mode,
            tls,
            Some(if *base_url == plain {
                mock.addr()
            } else {
                front.addr
            }),
        )
        .await;
        let credentials = match mode {
            Mode::Socks(Some(_)) => format!("me:{MARK}%3A1@"),
            _ => String::new(),
        };
        let more = format!("proxy = \"{scheme}://{credentials}{}\"", proxy.addr);
        let gw = Gateway::start_with(&pool(base_url, &more), &[authority.env()]).await;
        for _ in 0..2 {
            let reply = gw.chat().await;
            assert_eq!(
                (reply.status, reply.attempts()),
                (200, "1"),
                "{scheme} {mode:?}: {reply:?}"
            );
        }
        let seen = proxy.asked();
        assert_eq!(seen.len(), 1, "{scheme} {mode:?}: {seen:?}");
        assert!(seen[0].starts_with(asked), "{scheme} {mode:?}: {seen:?}");
        gw.stop().await;
    }
}

#[tokio::test]
async fn http2_works_through_a_tunnel() {
    let authority = Authority::new();
    let acceptor = authority.acceptor(&["127.0.0.1"], &["h2"]);
    let provider = Http2Provider::start(acceptor, 100, Rule::Together(1)).await;
    let proxy = Proxy::start(Mode::Http).await;
    let more = format!("proxy = \"http://{}\"", proxy.addr);
    let config = pool(&format!("https://{}", provider.addr), &more);
    let gw = Gateway::start_with(&config, &[authority.env()]).await;
    for _ in 0..3 {
        assert_eq!(gw.chat().await.status, 200);
    }
    assert_eq!((proxy.asked().len(), provider.connections()), (1, 1));
    gw.stop().await;
}
