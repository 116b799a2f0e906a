//! Calls that are accepted now and made later: `Prefer: respond-async` and `/v1/jobs`.

use std::sync::Arc;
use std::time::Duration;

use keypool_testkit::{Mock, Step};
use serde_json::{Value, json};

use crate::harness::{
    CHAT, CHAT_PATH, Folder, Gateway, MARK, PoolConfig, STREAM, bearer, eventually, key, pool,
    virtual_key, virtual_secret, within,
};
use crate::http::Reply;
use crate::store_kit::JSON;

pub(crate) const ASYNC: (&str, &str) = ("prefer", "respond-async");

impl Gateway {
    /// Submits a chat as a job.
    pub(crate) async fn submit(&self, body: &str, headers: &[(&str, &str)]) -> Reply {
        let headers = [&[JSON, ASYNC], headers].concat();
        self.send("POST", CHAT_PATH, &headers, body.as_bytes())
            .await
    }

    /// The id of a job that was accepted.
    pub(crate) async fn job(&self, body: &str, headers: &[(&str, &str)]) -> String {
        let reply = self.submit(body, headers).await;
        assert_eq!(reply.status, 202, "{reply:?}");
        id(&reply)
    }

    /// The job at its end.
    pub(crate) async fn ended(&self, id: &str, headers: &[(&str, &str)]) -> Value {
        loop {
            let path = format!("/v1/jobs/{id}?wait=9s");
            let reply = self.send("GET", &path, headers, b"").await;
            assert_eq!(reply.status, 200, "{reply:?}");
            let job = reply.json();
            if !job["ended_at"].is_null() {
                return job;
            }
        }
    }

    pub(crate) async fn job_call(&self, method: &str, path: &str) -> Reply {
        self.send(method, &format!("/v1/jobs/{path}"), &[], b"")
            .await
    }
}

pub(crate) fn id(reply: &Reply) -> String {
    reply.json()["id"].as_str().expect("an id").to_owned()
}

#[tokio::test]
async fn a_job_is_accepted_at_once_and_its_response_collected_later() {
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start(&pool(&mock, 1)).await;
    mock.script(&key(1), [Step::Slow(Duration::from_millis(300))]);
    let accepted = gw.submit(CHAT, &[("x-request-id", "mine")]).await;
    assert_eq!(accepted.status, 202, "{accepted:?}");
    let id = id(&accepted);
    assert!(id.starts_with("job_") && id.len() == 36, "{id}");
    let location = format!("/v1/jobs/{id}");
    assert_eq!(accepted.header("location"), Some(&*location));
    assert_eq!(accepted.header("preference-applied"), Some("respond-async"));
    let job = accepted.json();
    assert_eq!(
        (&job["object"], &job["status"]),
        (&json!("job"), &json!("queued"))
    );
    assert_eq!(
        (&job["path"], &job["model"]),
        (&json!(CHAT_PATH), &json!("gpt-x"))
    );
    let early = gw.job_call("GET", &format!("{id}/response")).await;
    assert_eq!(
        (early.status, early.code()),
        (409, "job_not_ended".to_owned())
    );

    let job = gw.ended(&id, &[]).await;
    assert_eq!(
        (&job["status"], &job["attempts"]),
        (&json!("succeeded"), &json!(1))
    );
    assert_eq!(job["response"]["status"], 200);
    let text = job["response"]["body"]["choices"][0]["message"]["content"].clone();
    assert!(text.is_string(), "{job}");
    assert_eq!(job["response"]["headers"]["x-keypool-key"], "p-1");
    let replayed = gw.job_call("GET", &format!("{id}/response")).await;
    assert_eq!(replayed.status, 200);
    assert_eq!(replayed.json()["choices"][0]["message"]["content"], text);
    assert_eq!(replayed.header("content-type"), Some("application/json"));
    assert_eq!(mock.seen(&key(1)).requests, 1);
    gw.stop().await;
}

#[tokio::test]
async fn a_stream_and_bytes_are_replayed_as_they_were() {
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start(&pool(&mock, 1)).await;
    let stream = gw.job(STREAM, &[]).await;
    let job = gw.ended(&stream, &[]).await;
    assert_eq!(job["status"], "succeeded", "{job}");
    assert!(job["response"]["body_base64"].is_string());
    let replayed = gw.job_call("GET", &format!("{stream}/response")).await;
    let content_type = replayed.header("content-type").unwrap();
    assert!(
        content_type.starts_with("text/event-stream"),
        "{content_type}"
    );
    let direct = gw.post(CHAT_PATH, STREAM).await;
    let events = |reply: &Reply| reply.text().matches("\ndata: ").count();
    assert_eq!(events(&replayed), events(&direct));
    assert!(replayed.text().ends_with("data: [DONE]\n\n"));

    let large: Vec<u8> = (0..900_000_u32).map(|n| (n % 253) as u8).collect();
    let bytes = Step::Bytes {
        content_type: "audio/mpeg",
        body: large.clone().into(),
    };
    mock.script(&key(1), [bytes]);
    let headers = [JSON, ASYNC];
    let speech = r#"{"model":"tts","input":"hello","voice":"x"}"#;
    let reply = gw
        .send("POST", "/v1/audio/speech", &headers, speech.as_bytes())
        .await;
    assert_eq!(reply.status, 202, "{reply:?}");
    let speech = id(&reply);
    let job = gw.ended(&speech, &[]).await;
    assert_eq!(job["response"]["body_bytes"], 900_000);
    let replayed = gw.job_call("GET", &format!("{speech}/response")).await;
    assert_eq!(replayed.header("content-length"), Some("900000"));
    assert!(replayed.body == large);
    gw.stop().await;
}

#[tokio::test]
async fn an_error_about_the_call_fails_it_and_trouble_delays_it() {
    let mock = Mock::start().await.unwrap();
    let config = PoolConfig::new(&mock, "p", [1]).set("retry.retries", 0);
    let gw = Gateway::start(&config.to_string()).await;
    mock.script(
        &key(1),
        [Step::Refuse {
            status: 400,
            retry_after: None,
        }],
    );
    let refused = gw.job(CHAT, &[]).await;
    let job = gw.ended(&refused, &[]).await;
    assert_eq!(
        (&job["status"], &job["response"]["status"]),
        (&json!("failed"), &json!(400))
    );
    assert_eq!(
        gw.job_call("GET", &format!("{refused}/response"))
            .await
            .status,
        400
    );

    let trouble = [
        Step::Refuse {
            status: 503,
            retry_after: None,
        },
        Step::ResetMidBody,
    ];
    mock.script(&key(1), trouble);
    let delayed = gw.job(CHAT, &[]).await;
    let job = gw.ended(&delayed, &[]).await;
    assert_eq!(job["status"], "succeeded", "{job}");
    assert_eq!(job["attempts"], 3);
    assert_eq!(mock.seen(&key(1)).requests, 4);

    // A call that could not be made is refused at once.
    let reply = gw.submit("{\"messages\":[]}", &[]).await;
    assert_eq!(
        (reply.status, reply.code()),
        (400, "invalid_request".to_owned())
    );
    gw.stop().await;
}

#[tokio::test]
async fn a_cancelled_job_ends_the_call_of_the_provider() {
    let mock = Mock::start().await.unwrap();
    let config = PoolConfig::new(&mock, "p", [1]).set("max_concurrent_per_key", 1);
    let gw = Gateway::start(&config.to_string()).await;
    mock.script(&key(1), [Step::Hang]);
    let running = gw.job(CHAT, &[]).await;
    within(mock.wait_for(&key(1), |seen| seen.active == 1)).await;
    let queued = gw.job(CHAT, &[]).await;
    for id in [&queued, &running] {
        for _ in 0..2 {
            let reply = gw.job_call("DELETE", id).await;
            assert_eq!(
                (reply.status, &reply.json()["status"]),
                (200, &json!("cancelled"))
            );
        }
    }
    within(mock.wait_for(&key(1), |seen| seen.active == 0)).await;
    let replay = gw.job_call("GET", &format!("{running}/response")).await;
    assert_eq!(
        (replay.status, replay.code()),
        (409, "job_without_response".to_owned())
    );
    let next = gw.job(CHAT, &[]).await;
    assert_eq!(gw.ended(&next, &[]).await["status"], "succeeded");
    let late = gw.job_call("DELETE", &next).await;
    assert_eq!((late.status, late.code()), (409, "job_ended".to_owned()));
    assert_eq!(
        mock.seen(&key(1)).requests,
        2,
        "the queued one was never sent"
    );
    gw.stop().await;
}

#[tokio::test]
async fn callers_see_only_their_own_jobs() {
    let mock = Mock::start().await.unwrap();
    let config = pool(&mock, 1) + &virtual_key("a", "") + &virtual_key("b", "");
    let gw = Gateway::start(&config).await;
    let (a, b) = (bearer("a"), bearer("b"));
    let (a, b) = (("authorization", &*a), ("authorization", &*b));
    let of_a = gw.job(CHAT, &[a]).await;
    assert_eq!(gw.ended(&of_a, &[a]).await["status"], "succeeded");
    for (method, path) in [
        ("GET", ""),
        ("GET", "/response"),
        ("GET", "/events"),
        ("DELETE", ""),
    ] {
        let path = format!("/v1/jobs/{of_a}{path}");
        let reply = gw.send(method, &path, &[b], b"").await;
        assert_eq!((reply.status, reply.code()), (404, "not_found".to_owned()));
        let reply = gw.send(method, &path, &[], b"").await;
        assert_eq!(reply.status, 401);
    }
    let of_b = gw.job(CHAT, &[b]).await;
    let list = gw.send("GET", "/v1/jobs", &[b], b"").await.json();
    let listed: Vec<&str> = list["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|job| job["id"].as_str().unwrap())
        .collect();
    assert_eq!((listed, &list["has_more"]), (vec![&*of_b], &json!(false)));
    gw.ended(&of_b, &[b]).await;
    // The virtual key is neither stored nor sent.
    let stored = std::fs::read(gw.folder().path("keypool.db-wal")).unwrap_or_default();
    let secret = virtual_secret("a");
    assert!(
        !stored
            .windows(secret.len())
            .any(|window| window == secret.as_bytes())
    );
    gw.stop().await;
}

#[tokio::test]
async fn a_repeated_submission_returns_the_same_job() {
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start(&pool(&mock, 1)).await;
    let once = ("idempotency-key", "order-7");
    let first = gw.job(CHAT, &[once]).await;
    assert_eq!(gw.ended(&first, &[]).await["status"], "succeeded");
    let again = gw.submit(CHAT, &[once]).await;
    assert_eq!((again.status, id(&again)), (202, first));
    assert_eq!(again.json()["status"], "succeeded");
    let other = gw.submit(&CHAT.replace("hello", "bye"), &[once]).await;
    assert_eq!(
        (other.status, other.code()),
        (422, "idempotency_mismatch".to_owned())
    );
    assert_eq!(mock.seen(&key(1)).requests, 1);
    gw.stop().await;
}

#[tokio::test]
async fn mistakes_are_named() {
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start(&pool(&mock, 1)).await;
    for (header, says) in [
        (("x-keypool-priority", "urgent"), "high"),
        (
            ("x-keypool-webhook", "https://example.com"),
            "webhook_secret",
        ),
        (("idempotency-key", ""), "Idempotency-Key"),
    ] {
        let reply = gw.submit(CHAT, &[header]).await;
        assert_eq!(
            (reply.status, reply.code()),
            (400, "invalid_request".to_owned())
        );
        assert!(reply.message().contains(says), "{reply:?}");
    }
    let id = gw.job(CHAT, &[]).await;
    for (path, status, says) in [
        (format!("{id}?wait=31s"), 400, "30s"),
        (format!("{id}?wait=soon"), 400, "wait"),
        (format!("{id}?wait=1s&wait=2s"), 400, "twice"),
        (format!("{id}?timeout=1s"), 400, "wait"),
        ("job_0".to_owned(), 404, "no such job"),
        ("?limit=0".to_owned(), 400, "limit"),
        ("?status=done".to_owned(), 400, "succeeded"),
    ] {
        let reply = gw.job_call("GET", &path).await;
        assert_eq!(reply.status, status, "{path}: {reply:?}");
        assert!(reply.message().contains(says), "{path}: {reply:?}");
    }
    let reply = gw.job_call("PUT", &id).await;
    assert_eq!(
        (reply.status, reply.header("allow")),
        (405, Some("GET, DELETE"))
    );
    gw.stop().await;
}

#[tokio::test]
async fn jobs_outlive_a_kill_and_a_stop() {
    let mock = Mock::start().await.unwrap();
    let config = PoolConfig::new(&mock, "p", [1, 2]).set("max_concurrent_per_key", 2);
    let folder = Folder::new(&config.to_string());
    let mut gw = Gateway::start_in(&folder).await;
    mock.behave(
        &key(1),
        keypool_testkit::Behaviour {
            latency: Duration::from_millis(20),
            ..Default::default()
        },
    );
    let mut ids = Vec::new();
    for _ in 0..30 {
        ids.push(gw.job(CHAT, &[]).await);
    }
    for is_killed in [true, false, true] {
        gw = match is_killed {
            true => {
                let folder = gw.killed().await;
                Gateway::start_in(&folder).await
            }
            false => gw.restarted().await,
        };
    }
    for id in &ids {
        let job = gw.ended(id, &[]).await;
        assert_eq!(job["status"], "succeeded", "{job}");
    }
    gw.stop().await;
}

#[tokio::test]
async fn the_progress_of_a_job_comes_as_events() {
    let mock = Mock::start().await.unwrap();
    let config = PoolConfig::new(&mock, "p", [1]).set("max_concurrent_per_key", 1);
    let gw = Arc::new(Gateway::start(&config.to_string()).await);
    mock.script(
        &key(1),
        [
            Step::Slow(Duration::from_millis(400)),
            Step::Slow(Duration::from_millis(400)),
        ],
    );
    let first = gw.job(CHAT, &[]).await;
    let second = gw.job(CHAT, &[]).await;
    let reply = gw.job_call("GET", &format!("{second}/events")).await;
    assert_eq!(reply.header("content-type"), Some("text/event-stream"));
    let text = reply.text();
    let states: Vec<Value> = text
        .lines()
        .filter_map(|line| line.strip_prefix("data: "))
        .map(|data| serde_json::from_str::<Value>(data).unwrap()["status"].clone())
        .collect();
    assert!(states.len() >= 2, "{text}");
    assert_eq!(states.last(), Some(&json!("succeeded")));
    gw.ended(&first, &[]).await;
    Arc::into_inner(gw).unwrap().stop().await;
}

#[tokio::test]
async fn a_call_that_must_not_be_made_twice_ends_as_unknown_after_a_kill() {
    let mock = Mock::start().await.unwrap();
    let folder = Folder::new(&pool(&mock, 1));
    let gw = Gateway::start_in(&folder).await;
    mock.script(&key(1), [Step::Hang, Step::Hang]);
    let stored = CHAT.replace("\"model\"", "\"store\":true,\"model\"");
    let once = gw.job(&stored, &[]).await;
    within(mock.wait_for(&key(1), |seen| seen.active == 1)).await;
    let again = gw.job(CHAT, &[]).await;
    within(mock.wait_for(&key(1), |seen| seen.active == 2)).await;
    let folder = gw.killed().await;
    let gw = Gateway::start_in(&folder).await;
    let job = gw.ended(&once, &[]).await;
    assert_eq!(
        (&job["status"], &job["error"]["code"]),
        (&json!("failed"), &json!("outcome_unknown"))
    );
    assert_eq!(gw.ended(&again, &[]).await["status"], "succeeded");
    eventually("only one was sent again", || {
        mock.seen(&key(1)).requests == 3
    })
    .await;
    assert!(!gw.log().contains(MARK));
    gw.stop().await;
}
