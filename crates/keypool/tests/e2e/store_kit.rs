//! What the tests of the store share: calls of the admin API, restarts, and databases on PostgreSQL.

use std::fs;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use keypool_testkit::{Mock, PostgresServer};
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};

use crate::harness::{CHAT, CHAT_PATH, DEADLINE, Folder, Gateway, MARK, PoolConfig, eventually};
use crate::http::{Connection, Reply};

pub(crate) const JSON: (&str, &str) = ("content-type", "application/json");

/// The admin token of gateways on PostgreSQL.
pub(crate) const TOKEN: &str = "operator-s3cr3t-token";

impl Gateway {
    /// Calls `/api/v1/admin/<path>` with the token, and with a JSON body unless it is null.
    pub(crate) async fn api(&self, method: &str, path: &str, body: Value) -> Reply {
        self.api_if(method, path, &[], body).await
    }

    /// The same with further headers.
    pub(crate) async fn api_if(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Value,
    ) -> Reply {
        match body.is_null() {
            true => self.api_raw(method, path, headers, b"").await,
            false => {
                let headers = [&[JSON], headers].concat();
                let body = body.to_string();
                self.api_raw(method, path, &headers, body.as_bytes()).await
            }
        }
    }

    /// The same with any body.
    pub(crate) async fn api_raw(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Reply {
        let bearer = format!("Bearer {}", self.token);
        let headers = [&[("authorization", &*bearer)], headers].concat();
        let path = format!("/api/v1/admin/{path}");
        self.send(method, &path, &headers, body).await
    }

    /// The same for a call that takes longer than others, within this time.
    pub(crate) async fn api_within(
        &self,
        limit: Duration,
        (method, path): (&str, &str),
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Reply {
        let bearer = format!("Bearer {}", self.token);
        let headers = [&[("authorization", &*bearer)], headers].concat();
        let path = format!("/api/v1/admin/{path}");
        let call = async {
            let mut connection = Connection::open(self.addr).await;
            connection.request(method, &path, &headers, body).await;
            connection.reply().await.expect("a reply").0
        };
        let reply = tokio::time::timeout(limit, call).await.expect("in time");
        assert!(!reply.text().contains(MARK), "{reply:?}");
        reply
    }

    /// What `GET /api/v1/admin/<path>` responds with.
    pub(crate) async fn read(&self, path: &str) -> Value {
        ok(&self.api("GET", path, Value::Null).await, 200)
    }

    /// A chat with this secret as virtual key.
    pub(crate) async fn chat_as(&self, secret: &str) -> Reply {
        let bearer = format!("Bearer {secret}");
        let headers = [JSON, ("authorization", &*bearer)];
        self.send("POST", CHAT_PATH, &headers, CHAT.as_bytes())
            .await
    }

    /// A chat with this model.
    pub(crate) async fn chat_with(&self, model: &str) -> Reply {
        self.post(CHAT_PATH, &CHAT.replace("gpt-x", model)).await
    }

    /// Stops it and starts it again in its folder.
    pub(crate) async fn restarted(self) -> Gateway {
        let folder = Arc::clone(self.folder());
        let token = self.token.clone();
        self.stop().await;
        Self::start_again(&folder, token).await
    }

    /// Kills it as the system would, and returns its folder.
    pub(crate) async fn killed(mut self) -> Arc<Folder> {
        self.process.signal("KILL");
        eventually("the process is gone", || self.process.has_ended()).await;
        self.process.assert_no_secret();
        Arc::clone(self.folder())
    }

    /// Starts in a folder in which a gateway with that token was.
    pub(crate) async fn start_again(folder: &Arc<Folder>, token: String) -> Gateway {
        let gw = Self::start_in(folder).await;
        Gateway { token, ..gw }
    }

    /// Waits until `/readyz` says whether the store is degraded.
    pub(crate) async fn store_is_degraded(&self, expected: bool) {
        poll("the store's state is reported", async || {
            self.admin("GET", "/readyz").await.json()["store_is_degraded"] == expected
        })
        .await;
    }
}

/// Prints a figure, which is shown with `--nocapture`.
#[expect(clippy::print_stdout, reason = "the figures of a run")]
pub(crate) fn show(figure: &str) {
    println!("{figure}");
}

/// The JSON of a response with that status; null if it has no body.
pub(crate) fn ok(reply: &Reply, status: u16) -> Value {
    assert_eq!(reply.status, status, "{reply:?}");
    match reply.body.is_empty() {
        true => Value::Null,
        false => reply.json(),
    }
}

/// Checks a problem document, and returns its detail.
pub(crate) fn problem(reply: &Reply, status: u16, code: &str) -> String {
    let document = reply.json();
    let shown = (reply.status, document["code"].as_str().unwrap_or_default());
    assert_eq!(shown, (status, code), "{reply:?}");
    let kind = reply.header("content-type");
    assert_eq!(kind, Some("application/problem+json"), "{reply:?}");
    document["detail"].as_str().expect("a sentence").to_owned()
}

pub(crate) fn etag(reply: &Reply) -> String {
    reply.header("etag").expect("an entity tag").to_owned()
}

/// The `name` of each item of a list.
pub(crate) fn names(list: &Value) -> Vec<&str> {
    let items = list["items"].as_array().expect("a list").iter();
    items
        .map(|item| item["name"].as_str().expect("a name"))
        .collect()
}

/// Pool `p` with keys 1 to `n`, which leaves models such as `own-x` to other pools.
pub(crate) fn pool(mock: &Mock, n: usize) -> String {
    let pool = PoolConfig::new(mock, "p", 1..=n);
    pool.set("models", vec!["gpt-*"]).to_string()
}

/// A secret that an operator chooses for a virtual key. Its hint shows nothing of it that tests search for.
pub(crate) fn chosen_secret(name: &str) -> String {
    format!("vk-{MARK}-0000-{name}")
}

/// The fields of a stored pool at the mock, for these models.
pub(crate) fn stored_pool(mock: &Mock, models: &str) -> Value {
    json!({
        "provider": "mock", "base_url": mock.origin(), "models": [models],
        "retry": { "backoff": "5ms" },
    })
}

/// Polls until `reached` is true, and returns how long that took.
pub(crate) async fn poll(what: &str, reached: impl AsyncFnMut() -> bool) -> Duration {
    poll_for(DEADLINE, what, reached).await
}

/// The same for what takes longer, within this time.
pub(crate) async fn poll_for(
    limit: Duration,
    what: &str,
    mut reached: impl AsyncFnMut() -> bool,
) -> Duration {
    let began = Instant::now();
    while !reached().await {
        assert!(began.elapsed() < limit, "not within {limit:?}: {what}");
        sleep(Duration::from_millis(10)).await;
    }
    began.elapsed()
}

/// A database of its own on a server that tests share.
pub(crate) struct Database {
    _server: Arc<PostgresServer>,
    pub(crate) url: String,
}

impl Database {
    pub(crate) async fn new() -> Database {
        static SHARED: Mutex<Weak<PostgresServer>> = Mutex::const_new(Weak::new());
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let mut shared = SHARED.lock().await;
        let server = match shared.upgrade() {
            Some(server) => server,
            None => Arc::new(PostgresServer::start().await.expect("a server")),
        };
        *shared = Arc::downgrade(&server);
        drop(shared);
        let name = format!("e2e_{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let made = server.execute(&format!("CREATE DATABASE {name}")).await;
        made.expect("a database");
        let url = server.url_of(&name);
        Database {
            _server: server,
            url,
        }
    }

    /// `[admin]` and `[store]` of a gateway that uses it.
    pub(crate) fn config(&self) -> String {
        postgres_config(&self.url)
    }
}

/// `[admin]` and `[store]` of a gateway on PostgreSQL.
pub(crate) fn postgres_config(url: &str) -> String {
    format!(
        "[admin]\ntoken = \"{TOKEN}\"\n[store]\nurl = \"{url}\"\nmaster_key = \"{MARK}-master-key-0123456789\"\n"
    )
}

/// A gateway on PostgreSQL in a folder of its own.
pub(crate) async fn node(config: &str) -> Gateway {
    Gateway::start_again(&Folder::new(config), TOKEN.to_owned()).await
}

/// The peak of the process's memory so far, in bytes.
pub(crate) fn peak_memory(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = peak.and_then(|text| text.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
    kib.expect("a size") * 1024
}
