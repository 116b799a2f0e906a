//! `x-keypool-webhook`: the end of a job is announced to a URL of its caller.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use keypool_testkit::{Mock, Step};
use serde_json::{Value, json};
use sha2::Sha256;
use tokio::time::{Instant, sleep};

use crate::harness::{
    CHAT, CHAT_PATH, DEADLINE, Folder, Gateway, MARK, bearer, eventually, key, pool, virtual_key,
};
use crate::http::Reply;
use crate::jobs::{ASYNC, id};
use crate::raw_provider::{RawProvider, Say};
use crate::store_kit::{JSON, ok, poll};
use crate::tls::{Authority, TlsProxy};

/// The webhook secret of the virtual key `a`: 32 bytes, among them the mark that no output may show.
fn secret() -> String {
    let bytes = format!("{MARK}{}", "x".repeat(26));
    format!("whsec_{}", STANDARD.encode(bytes))
}

/// A receiver of announcements, and what it has received.
struct Receiver {
    server: RawProvider,
    received: Arc<Mutex<Vec<Announcement>>>,
}

/// An announcement as it came.
#[derive(Clone, Debug)]
struct Announcement {
    head: String,
    body: String,
}

impl Announcement {
    fn of(request: &[u8]) -> Self {
        let text = String::from_utf8(request.to_vec()).expect("text");
        let (head, body) = text.split_once("\r\n\r\n").expect("a head");
        Self {
            head: head.to_owned(),
            body: body.to_owned(),
        }
    }

    fn header(&self, name: &str) -> &str {
        let mut lines = self
            .head
            .split("\r\n")
            .filter_map(|line| line.split_once(": "));
        let found = lines.find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.unwrap_or_else(|| panic!("{name}: {self:?}")).1
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.body).expect("JSON")
    }

    /// Checks the signature as the specification says.
    fn assert_signed_with(&self, secret: &str) {
        let key = secret.strip_prefix("whsec_").expect("a secret");
        let key = STANDARD.decode(key).expect("base64");
        let (id, at) = (self.header("webhook-id"), self.header("webhook-timestamp"));
        let mut mac = Hmac::<Sha256>::new_from_slice(&key).expect("a key");
        mac.update(format!("{id}.{at}.{}", self.body).as_bytes());
        let expected = format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()));
        assert_eq!(self.header("webhook-signature"), expected, "{self:?}");
        let now = std::time::UNIX_EPOCH.elapsed().expect("a time").as_secs();
        let age = now.abs_diff(at.parse().expect("seconds"));
        assert!(age < 60, "{age} s");
    }
}

fn status(status: u16) -> Say {
    Say::close(&format!(
        "HTTP/1.1 {status} x\r\ncontent-length: 2\r\n\r\nok"
    ))
}

impl Receiver {
    /// Says these, in order, and the last one to all further announcements.
    async fn start(says: impl IntoIterator<Item = Say>) -> Receiver {
        let says: Vec<Say> = says.into_iter().collect();
        let received: Arc<Mutex<Vec<Announcement>>> = Arc::default();
        let into = Arc::clone(&received);
        let server = RawProvider::choosing(move |n, request| {
            into.lock()
                .expect("no panic")
                .push(Announcement::of(request));
            says[n.min(says.len() - 1)].clone()
        });
        Receiver {
            server: server.await,
            received,
        }
    }

    fn port(&self) -> u16 {
        self.server.addr.port()
    }

    fn url(&self) -> String {
        format!("{}/hook", self.server.origin())
    }

    /// What it has received once there are this many announcements.
    async fn received(&self, number: usize) -> Vec<Announcement> {
        eventually("the announcement comes", || {
            self.received.lock().expect("no panic").len() >= number
        })
        .await;
        self.received.lock().expect("no panic").clone()
    }
}

/// A pool of one key, the virtual key `a` with a webhook secret, `b` without, and these entries of `webhook_hosts`.
fn config(mock: &Mock, hosts: &[&str]) -> String {
    let mut config = format!("[jobs]\nwebhook_hosts = {}\n", json!(hosts));
    config += &pool(mock, 1);
    config += &virtual_key("a", &format!("webhook_secret = \"{}\"", secret()));
    config + &virtual_key("b", "")
}

impl Gateway {
    async fn submit_with_webhook(&self, secret: &str, url: &str) -> Reply {
        let headers = [
            JSON,
            ASYNC,
            ("authorization", secret),
            ("x-keypool-webhook", url),
        ];
        self.send("POST", CHAT_PATH, &headers, CHAT.as_bytes())
            .await
    }

    /// The id of a job of caller `a` whose end is announced there.
    async fn announced_job(&self, url: &str) -> String {
        let reply = self.submit_with_webhook(&bearer("a"), url).await;
        assert_eq!(reply.status, 202, "{reply:?}");
        id(&reply)
    }

    /// What an operator sees of a job's announcement, once `reached` says that it is there.
    async fn webhook(&self, id: &str, reached: impl Fn(&Value) -> bool) -> Value {
        let mut webhook = Value::Null;
        poll("the announcement is settled", async || {
            webhook = self.read(&format!("jobs/{id}")).await["webhook"].take();
            reached(&webhook)
        })
        .await;
        webhook
    }
}

#[tokio::test]
async fn each_end_of_a_job_is_announced_once_and_signed() {
    let mock = Mock::start().await.unwrap();
    let receiver = Receiver::start([status(204)]).await;
    let config = config(&mock, &[&receiver.server.origin()]);
    let gw = Gateway::start(&format!("[log]\nlevel = \"debug\"\n{config}")).await;
    let refused = Step::Refuse {
        status: 400,
        retry_after: None,
    };
    mock.script(
        &key(1),
        [Step::Slow(Duration::from_millis(200)), refused, Step::Hang],
    );
    // A credential in the query is sent, and shown nowhere.
    let url = format!("{}?token={MARK}", receiver.url());
    let mut ids = Vec::new();
    for end in ["succeeded", "failed", "cancelled"] {
        let id = gw.announced_job(&url).await;
        if end == "cancelled" {
            let path = format!("jobs/{id}");
            ok(&gw.api("DELETE", &path, Value::Null).await, 204);
        }
        let received = receiver.received(ids.len() + 1).await;
        let one = received.last().unwrap();
        one.assert_signed_with(&secret());
        assert!(
            one.head
                .starts_with(&format!("POST /hook?token={MARK} HTTP/1.1\r\n"))
        );
        assert_eq!(one.header("host"), receiver.server.addr.to_string());
        assert_eq!(one.header("content-type"), "application/json");
        assert_eq!(one.header("webhook-id"), id);
        let body = one.json();
        assert_eq!(body["type"], format!("job.{end}"));
        assert_eq!(body["data"], json!({ "id": id, "status": end }));
        let job = gw.read(&format!("jobs/{id}")).await;
        assert_eq!(
            (&body["timestamp"], &job["status"]),
            (&job["ended_at"], &json!(end))
        );
        let webhook = gw
            .webhook(&id, |webhook| webhook["status"] == "delivered")
            .await;
        let expected = json!({
            "url": receiver.url(), "status": "delivered", "attempts": 1, "next_attempt_at": null, "error": null,
        });
        assert_eq!(webhook, expected);
        ids.push(id);
    }
    gw.logged("webhook delivered to 127.0.0.1").await;
    assert_eq!(receiver.received(3).await.len(), 3);
    gw.stop().await;
}

#[tokio::test]
async fn an_announcement_is_repeated_until_it_is_accepted() {
    let mock = Mock::start().await.unwrap();
    let receiver = Receiver::start([status(500), status(200)]).await;
    let gw = Gateway::start(&config(&mock, &[&receiver.server.origin()])).await;
    let id = gw.announced_job(&receiver.url()).await;
    let failed = gw
        .webhook(&id, |webhook| webhook["error"].is_string())
        .await;
    assert_eq!(
        (&failed["status"], &failed["error"], &failed["attempts"]),
        (&json!("pending"), &json!("status 500"), &json!(1))
    );
    assert!(failed["next_attempt_at"].is_string(), "{failed}");
    let received = receiver.received(2).await;
    let at = |one: &Announcement| one.header("webhook-timestamp").parse::<u64>();
    let pause = at(&received[1]).unwrap() - at(&received[0]).unwrap();
    assert!((3..9).contains(&pause), "{pause} s");
    for one in &received {
        one.assert_signed_with(&secret());
        assert_eq!(one.header("webhook-id"), id);
    }
    assert_eq!(received[0].body, received[1].body);
    let delivered = gw
        .webhook(&id, |webhook| webhook["status"] == "delivered")
        .await;
    assert_eq!(
        (&delivered["attempts"], &delivered["error"]),
        (&json!(2), &Value::Null)
    );
    assert!(!gw.log().contains("given up"));
    gw.stop().await;
}

#[tokio::test]
async fn the_status_counts_whatever_body_follows() {
    let mock = Mock::start().await.unwrap();
    let endless = "HTTP/1.1 200 x\r\ncontent-length: 999999999999\r\n\r\n";
    let receiver = Receiver::start([
        Say::endless(endless, "x"),
        Say::stay("HTTP/1.1 202 x\r\ncontent-length: 5\r\n\r\n"),
        Say::close("HTTP/1.1 200 x\r\ntransfer-encoding: chunked\r\n\r\nno chunk"),
    ])
    .await;
    let gw = Gateway::start(&config(&mock, &[&receiver.server.origin()])).await;
    for _ in 0..3 {
        let id = gw.announced_job(&receiver.url()).await;
        let webhook = gw
            .webhook(&id, |webhook| {
                webhook["attempts"] == 1 && webhook["next_attempt_at"].is_null()
            })
            .await;
        assert_eq!(webhook["status"], "delivered", "{webhook}");
    }
    gw.stop().await;
}

#[tokio::test]
async fn a_redirect_is_not_followed_and_410_ends_the_attempts() {
    let mock = Mock::start().await.unwrap();
    let elsewhere = Receiver::start([status(200)]).await;
    let redirect = format!(
        "HTTP/1.1 307 x\r\nlocation: {}\r\ncontent-length: 0\r\n\r\n",
        elsewhere.url()
    );
    let receiver = Receiver::start([Say::close(&redirect)]).await;
    let gone = Receiver::start([status(410)]).await;
    let hosts = [&elsewhere, &receiver, &gone].map(|one| one.server.origin());
    let hosts: Vec<&str> = hosts.iter().map(String::as_str).collect();
    let gw = Gateway::start(&config(&mock, &hosts)).await;
    let redirected = gw.announced_job(&receiver.url()).await;
    let webhook = gw
        .webhook(&redirected, |webhook| webhook["error"].is_string())
        .await;
    assert_eq!(webhook["error"], "status 307: redirects are not followed");
    assert_eq!(webhook["status"], "pending");
    assert_eq!(elsewhere.server.requests(), 0);

    let unwanted = gw.announced_job(&gone.url()).await;
    let webhook = gw
        .webhook(&unwanted, |webhook| webhook["error"].is_string())
        .await;
    assert_eq!(
        (
            &webhook["status"],
            &webhook["error"],
            &webhook["next_attempt_at"]
        ),
        (&json!("given_up"), &json!("status 410"), &Value::Null)
    );
    gw.logged("webhook to 127.0.0.1 is given up: status 410")
        .await;
    assert_eq!(gw.log().matches("given up").count(), 1);
    gw.stop().await;
}

#[tokio::test]
async fn a_webhook_that_could_not_be_called_is_refused_at_once() {
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start(&config(&mock, &["hooks.example.com", "*.example.org"])).await;
    for (caller, url, says) in [
        (
            "b",
            "https://hooks.example.com/",
            "needs a virtual key with a `webhook_secret`",
        ),
        (
            "a",
            "https://other.example.com/",
            "other.example.com is not among the hosts",
        ),
        (
            "a",
            "http://127.0.0.1:9/",
            "127.0.0.1 is not among the hosts",
        ),
        (
            "a",
            "http://hooks.example.com/",
            "hooks.example.com may be called by https only",
        ),
        ("a", "https://u:p@hooks.example.com/", "user or password"),
        ("a", "hooks.example.com", "https://"),
    ] {
        let reply = gw.submit_with_webhook(&bearer(caller), url).await;
        assert_eq!(
            (reply.status, reply.code()),
            (400, "invalid_request".to_owned()),
            "{url}"
        );
        assert!(reply.message().contains(says), "{url}: {reply:?}");
    }
    let (caller, hook) = (
        bearer("a"),
        ("x-keypool-webhook", "https://hooks.example.com/"),
    );
    let twice = gw
        .submit(CHAT, &[("authorization", &*caller), hook, hook])
        .await;
    assert!(
        twice.status == 400 && twice.message().contains("once"),
        "{twice:?}"
    );
    assert_eq!(gw.read("jobs").await["items"], json!([]));
    gw.stop().await;

    let gw = Gateway::start(&config(&mock, &[])).await;
    let reply = gw
        .submit_with_webhook(&bearer("a"), "https://hooks.example.com/")
        .await;
    assert!(
        reply.status == 400 && reply.message().contains("webhook_hosts is empty"),
        "{reply:?}"
    );
    gw.stop().await;
}

#[tokio::test]
async fn a_name_that_has_a_loopback_address_is_not_called() {
    let mock = Mock::start().await.unwrap();
    let receiver = Receiver::start([status(200)]).await;
    let gw = Gateway::start(&config(&mock, &["localhost"])).await;
    let url = format!("https://localhost:{}/hook", receiver.port());
    let id = gw.announced_job(&url).await;
    let webhook = gw
        .webhook(&id, |webhook| webhook["error"].is_string())
        .await;
    let error = webhook["error"].as_str().unwrap();
    for part in [
        "localhost has the address",
        "a loopback address",
        "with http:// in [jobs] webhook_hosts",
    ] {
        assert!(error.contains(part), "{error}");
    }
    assert_eq!(
        (receiver.server.requests(), receiver.server.gone()),
        (0, 0),
        "nothing connected"
    );
    gw.stop().await;
}

#[tokio::test]
async fn https_is_checked_for_the_name_in_the_url() {
    let mock = Mock::start().await.unwrap();
    let receiver = Receiver::start([status(200)]).await;
    let authority = Authority::new();
    let right = authority.acceptor(&["localhost"], &["h2", "http/1.1"]);
    let wrong = authority.acceptor(&["other.example.com"], &["http/1.1"]);
    let right = TlsProxy::start(right, receiver.server.addr).await;
    let wrong = TlsProxy::start(wrong, receiver.server.addr).await;
    let config = config(&mock, &["http://localhost"]);
    let gw = Gateway::start_with(&config, &[authority.env()]).await;
    let url = |front: &TlsProxy| format!("https://localhost:{}/hook", front.addr.port());
    let delivered = gw.announced_job(&url(&right)).await;
    gw.webhook(&delivered, |webhook| webhook["status"] == "delivered")
        .await;
    let refused = gw.announced_job(&url(&wrong)).await;
    let webhook = gw
        .webhook(&refused, |webhook| webhook["error"].is_string())
        .await;
    let error = webhook["error"].as_str().unwrap();
    assert!(
        error.contains("cannot connect") && error.contains("certificate"),
        "{error}"
    );
    assert_eq!(receiver.received(1).await.len(), 1);
    gw.stop().await;
}

#[tokio::test]
async fn an_announcement_outlives_a_kill_between_the_end_and_the_delivery() {
    let mock = Mock::start().await.unwrap();
    // The first one never gets a response.
    let receiver = Receiver::start([Say::stay(""), status(200)]).await;
    let folder = Folder::new(&config(&mock, &[&receiver.server.origin()]));
    let gw = Gateway::start_in(&folder).await;
    let id = gw.announced_job(&receiver.url()).await;
    receiver.received(1).await;
    let token = gw.token.clone();
    let folder = gw.killed().await;
    let gw = Gateway::start_again(&folder, token).await;
    assert_eq!(gw.read(&format!("jobs/{id}")).await["status"], "succeeded");
    // The claim of the dead process lasts 15 s.
    let began = Instant::now();
    while receiver.server.requests() < 2 {
        assert!(began.elapsed() < 2 * DEADLINE, "it was not delivered");
        sleep(Duration::from_millis(20)).await;
    }
    let received = receiver.received(2).await;
    received[1].assert_signed_with(&secret());
    assert_eq!(
        received[1].json()["data"],
        json!({ "id": id, "status": "succeeded" })
    );
    let webhook = gw
        .webhook(&id, |webhook| webhook["status"] == "delivered")
        .await;
    assert_eq!(webhook["attempts"], 2);
    assert_eq!(mock.seen(&key(1)).requests, 1, "the job ran once");
    gw.stop().await;
}

#[tokio::test]
async fn a_host_that_hangs_holds_up_no_other() {
    let mock = Mock::start().await.unwrap();
    let (hanging, good) = (
        Receiver::start([Say::stay("")]).await,
        Receiver::start([status(200)]).await,
    );
    let hang = format!("http://localhost:{}", hanging.port());
    let gw = Gateway::start(&config(&mock, &[&hang, &good.server.origin()])).await;
    for _ in 0..12 {
        gw.announced_job(&format!("{hang}/hook")).await;
    }
    hanging.received(4).await;
    let began = Instant::now();
    for _ in 0..6 {
        gw.announced_job(&good.url()).await;
    }
    good.received(6).await;
    // Before an attempt to the other host has timed out.
    assert!(
        began.elapsed() < Duration::from_secs(8),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(hanging.server.requests(), 4);
    drop(hanging);
    gw.stop().await;
}

#[tokio::test]
async fn the_webhook_secret_of_a_stored_virtual_key_is_shown_once() {
    let mock = Mock::start().await.unwrap();
    let receiver = Receiver::start([status(200)]).await;
    let hosts = format!(
        "[jobs]\nwebhook_hosts = [\"{}\"]\n",
        receiver.server.origin()
    );
    let gw = Gateway::start(&(hosts + &pool(&mock, 1))).await;
    let created = gw
        .api("POST", "virtual-keys", json!({ "name": "own" }))
        .await;
    let created = ok(&created, 201);
    let (mut key, mut secret) = shown(&created);
    assert!(
        secret.starts_with("whsec_") && secret.len() > 40,
        "{}",
        secret.len()
    );
    for replaced in [Value::Null, json!(false), json!(true)] {
        let bearer = format!("Bearer {key}");
        let reply = gw.submit_with_webhook(&bearer, &receiver.url()).await;
        let id = ok(&reply, 202)["id"].as_str().unwrap().to_owned();
        gw.webhook(&id, |webhook| webhook["status"] == "delivered")
            .await;
        let all = receiver.received.lock().unwrap().clone();
        all.last().unwrap().assert_signed_with(&secret);

        let view = gw.read("virtual-keys/own").await;
        assert_eq!(view["has_webhook_secret"], true);
        let list = gw.read("virtual-keys").await;
        for shown in [
            view.to_string(),
            list.to_string(),
            gw.read("audit").await.to_string(),
        ] {
            assert!(
                !shown.contains(&secret) && !shown.contains("whsec"),
                "{shown}"
            );
        }
        let body = json!({ "grace": "0s", "webhook_secret": replaced });
        let rotated = gw.api("POST", "virtual-keys/own/rotate", body).await;
        let rotated = ok(&rotated, 200);
        match replaced == true {
            true => {
                let before = secret.clone();
                (key, secret) = shown(&rotated);
                assert_ne!(before, secret);
            }
            false => {
                assert!(rotated.get("webhook_secret").is_none(), "{rotated}");
                key = rotated["key"].as_str().unwrap().to_owned();
            }
        }
    }
    let reply = gw
        .submit_with_webhook(&format!("Bearer {key}"), &receiver.url())
        .await;
    ok(&reply, 202);
    receiver.received(4).await[3].assert_signed_with(&secret);
    gw.stop().await;
}

/// The secrets in a response.
fn shown(view: &Value) -> (String, String) {
    let text = |field: &str| view[field].as_str().expect(field).to_owned();
    (text("key"), text("webhook_secret"))
}
