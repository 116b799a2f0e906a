//! A gateway and a mock provider in this process, and a small client.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use keypool_backends::limiter::MemoryLimiter;
use keypool_core::clock::Clock;
use keypool_core::limit::WINDOW;
use keypool_core::secret::{Digest256, Secret};
use keypool_core::settings::{KeySettings, PoolSettings, RetrySettings, Strategy};
use keypool_gateway::clock::PollClock;
use keypool_gateway::context::{Backends, Gateway, Reloaded};
use keypool_gateway::server::Server;
use keypool_gateway::settings::{ServerSettings, Settings};
use keypool_testkit::Mock;
use parking_lot::Mutex;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

pub(crate) const ADMIN_TOKEN: &str = "admin-token-of-the-test";

/// A running gateway.
pub(crate) struct Running {
    pub(crate) gw: Arc<Gateway>,
    pub(crate) addr: SocketAddr,
    /// The settings that the next reload reads.
    pub(crate) next: Arc<Mutex<Settings>>,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<std::io::Result<bool>>,
}

/// A pool of `keys` keys (`key-1`, …) at the mock provider.
pub(crate) fn pool(mock: &Mock, keys: usize) -> PoolSettings {
    let key = |n: usize| {
        let secret = Secret::new(format!("secret-key-{n}"));
        KeySettings::new(format!("key-{n}"), secret, mock.origin().parse().unwrap())
    };
    PoolSettings {
        second_opinion: true,
        name: "pool".into(),
        provider: "mock",
        strategy: Strategy::RoundRobin,
        models: vec!["*".into()],
        keys: (1..=keys).map(key).collect(),
        retry: RetrySettings {
            backoff: Duration::from_millis(1),
            ..RetrySettings::default()
        },
        source: "test".into(),
        ..PoolSettings::default()
    }
}

fn settings(pool: PoolSettings) -> Settings {
    Settings {
        server: ServerSettings {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            ..ServerSettings::default()
        },
        pools: vec![pool.into()],
        ..Settings::default()
    }
}

impl Running {
    pub(crate) async fn start(pool: PoolSettings) -> Self {
        Self::start_on(pool, 2).await
    }

    /// Starts with this many threads. The first is the test's own: a gateway with only that one shares the test's time.
    pub(crate) async fn start_on(pool: PoolSettings, threads: usize) -> Self {
        let settings = settings(pool);
        let next = Arc::new(Mutex::new(settings.clone()));
        let reads = Arc::clone(&next);
        let load = move || {
            Ok(Reloaded {
                settings: reads.lock().clone(),
                warnings: Vec::new(),
            })
        };
        let clock: Arc<dyn Clock> = Arc::new(PollClock);
        let gw = Gateway::new(
            settings,
            Digest256::of(ADMIN_TOKEN.as_bytes()),
            Arc::clone(&clock),
            Backends::without_store(Arc::new(MemoryLimiter::new(WINDOW, clock.now()))),
            Box::new(load),
        );
        let server = Server::bind(Arc::clone(&gw)).await.unwrap();
        let addr = server.addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        #[expect(clippy::disallowed_methods, reason = "the test stops it")]
        let serving = tokio::spawn(server.serve(threads, async move {
            let _ = stopped.await;
        }));
        Self {
            gw,
            addr,
            next,
            stop,
            serving,
        }
    }

    /// Stops the gateway; `true` if every task that it had started ended by itself.
    pub(crate) async fn stop(self) -> bool {
        self.stop.send(()).unwrap();
        self.serving.await.unwrap().unwrap()
    }

    /// Calls in flight, by key.
    pub(crate) fn active(&self) -> Vec<u32> {
        self.gw.snapshot().pools[0]
            .pool
            .report()
            .iter()
            .map(|key| key.active)
            .collect()
    }

    /// Failed attempts of the key with this name.
    pub(crate) fn failed(&self, name: &str) -> u64 {
        let reports = self.gw.snapshot().pools[0].pool.report();
        reports
            .iter()
            .find(|key| &*key.name == name)
            .map_or(0, |key| key.failed)
    }
}

/// One keep-alive connection.
pub(crate) struct Client {
    addr: SocketAddr,
    sender: Option<SendRequest<Full<Bytes>>>,
}

/// An answer, read to its end.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) key: String,
    pub(crate) attempts: u32,
    pub(crate) body: Bytes,
}

impl Client {
    pub(crate) fn new(addr: SocketAddr) -> Self {
        Self { addr, sender: None }
    }

    /// Makes a chat call; `None` if the connection broke.
    pub(crate) async fn chat(&mut self, model: &str, stream: bool) -> Option<Answer> {
        let response = self.send(model, stream).await?;
        let number = |response: &Response<Incoming>, name: &str| {
            response.headers().get(name)?.to_str().ok()?.parse().ok()
        };
        let text = |name: &str| {
            response
                .headers()
                .get(name)
                .and_then(|v| v.to_str().ok())
                .unwrap_or_default()
                .to_owned()
        };
        let (status, key, attempts) = (
            response.status().as_u16(),
            text("x-keypool-key"),
            number(&response, "x-keypool-attempts").unwrap_or(0),
        );
        let body = response.into_body().collect().await;
        if body.is_err() {
            self.hang_up();
        }
        Some(Answer {
            status,
            key,
            attempts,
            body: body.ok()?.to_bytes(),
        })
    }

    async fn send(&mut self, model: &str, stream: bool) -> Option<Response<Incoming>> {
        let body = format!(
            r#"{{"model":"{model}","stream":{stream},"messages":[{{"role":"user","content":"hi"}}]}}"#
        );
        let request = Request::post("/v1/chat/completions").body(body);
        self.request(request.unwrap()).await
    }

    /// Sends any request; `None` if the connection broke.
    pub(crate) async fn request(&mut self, request: Request<String>) -> Option<Response<Incoming>> {
        let mut request = request.map(|body| Full::new(Bytes::from(body)));
        let host = HeaderValue::try_from(self.addr.to_string()).unwrap();
        request.headers_mut().insert("host", host);
        let json = HeaderValue::from_static("application/json");
        request.headers_mut().insert("content-type", json);
        let mut sender = match self.sender.take() {
            Some(sender) => sender,
            None => self.connect().await,
        };
        if sender.ready().await.is_err() {
            sender = self.connect().await;
        }
        self.sender.insert(sender).send_request(request).await.ok()
    }

    #[expect(clippy::disallowed_methods, reason = "ends with its connection")]
    async fn connect(&self) -> SendRequest<Full<Bytes>> {
        let stream = TcpStream::connect(self.addr).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (sender, connection) =
            hyper::client::conn::http1::handshake::<_, Full<Bytes>>(TokioIo::new(stream))
                .await
                .unwrap();
        tokio::spawn(async move {
            let _ = connection.await;
            Ok::<_, Infallible>(())
        });
        sender
    }

    /// Closes the connection.
    pub(crate) fn hang_up(&mut self) {
        self.sender = None;
    }
}
