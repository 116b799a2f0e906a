//! OpenAI's Files and Batch API, for a pool of any provider.

use std::collections::BTreeSet;
use std::time::Duration;

use keypool_testkit::{Behaviour, Mock, Step};
use serde_json::{Value, json};

use crate::harness::{Folder, Gateway, PoolConfig, bearer, key, pool, virtual_key, within};
use crate::http::Reply;
use crate::store_kit::{JSON, poll};

/// Names and values of a form.
type Fields<'a> = &'a [(&'a str, &'a [u8])];

const ENDPOINT: &str = "/v1/chat/completions";

/// A line that calls a model.
pub(crate) fn line(name: &str, text: &str) -> String {
    json!({
        "custom_id": name,
        "method": "POST",
        "url": ENDPOINT,
        "body": { "model": "gpt-x", "messages": [{ "role": "user", "content": text }] },
    })
    .to_string()
}

pub(crate) fn lines(n: usize) -> String {
    let lines = (1..=n).map(|n| line(&format!("call-{n}"), &format!("hello {n}")) + "\n");
    lines.collect()
}

/// A form with these fields in this order. `file` has a file's name.
fn form(fields: &[(&str, &[u8])]) -> (String, Vec<u8>) {
    let boundary = "form-boundary-7";
    let mut body = Vec::new();
    for (name, value) in fields {
        let file = if *name == "file" {
            "; filename=\"calls.jsonl\""
        } else {
            ""
        };
        let head = format!(
            "--{boundary}\r\ncontent-disposition: form-data; name=\"{name}\"{file}\r\n\r\n"
        );
        body.extend_from_slice(head.as_bytes());
        body.extend_from_slice(value);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(format!("--{boundary}--\r\n").as_bytes());
    (format!("multipart/form-data; boundary={boundary}"), body)
}

impl Gateway {
    async fn upload_form(&self, fields: &[(&str, &[u8])], headers: &[(&str, &str)]) -> Reply {
        let (content_type, body) = form(fields);
        let headers = [&[("content-type", &*content_type)], headers].concat();
        self.send("POST", "/v1/files", &headers, &body).await
    }

    /// Uploads a file for a batch, and returns its id.
    pub(crate) async fn upload(&self, text: &str, headers: &[(&str, &str)]) -> String {
        let fields: [(&str, &[u8]); 2] = [("purpose", b"batch"), ("file", text.as_bytes())];
        let reply = self.upload_form(&fields, headers).await;
        assert_eq!(reply.status, 200, "{reply:?}");
        let file = reply.json();
        assert_eq!(
            (&file["object"], &file["purpose"]),
            (&json!("file"), &json!("batch"))
        );
        assert_eq!(file["bytes"], text.len());
        file["id"].as_str().expect("an id").to_owned()
    }

    async fn create(&self, file: &str, headers: &[(&str, &str)]) -> Reply {
        let body = json!({ "input_file_id": file, "endpoint": ENDPOINT, "completion_window": "24h", "metadata": { "of": "me" } });
        let headers = [&[JSON], headers].concat();
        self.send("POST", "/v1/batches", &headers, body.to_string().as_bytes())
            .await
    }

    /// Creates a batch of these lines, and returns its id.
    pub(crate) async fn batch(&self, text: &str) -> String {
        let file = self.upload(text, &[]).await;
        let reply = self.create(&file, &[]).await;
        assert_eq!(reply.status, 200, "{reply:?}");
        let batch = reply.json();
        assert_eq!(
            (&batch["object"], &batch["metadata"]["of"]),
            (&json!("batch"), &json!("me"))
        );
        batch["id"].as_str().expect("an id").to_owned()
    }

    /// The batch at its end.
    pub(crate) async fn batch_ended(&self, id: &str) -> Value {
        let mut batch = Value::Null;
        poll("the batch ends", async || {
            batch = self.get(&format!("/v1/batches/{id}")).await.json();
            let ended = ["completed_at", "failed_at", "cancelled_at", "expired_at"];
            ended.iter().any(|at| batch[at].is_u64())
        })
        .await;
        batch
    }

    /// The lines of a file.
    pub(crate) async fn content(&self, id: &Value) -> Vec<Value> {
        let Some(id) = id.as_str() else {
            return Vec::new();
        };
        let reply = self.get(&format!("/v1/files/{id}/content")).await;
        assert_eq!(reply.status, 200, "{reply:?}");
        let text = reply.text();
        text.lines()
            .map(|line| serde_json::from_str(line).expect("JSON"))
            .collect()
    }
}

fn names(lines: &[Value]) -> BTreeSet<String> {
    let names: BTreeSet<String> = lines
        .iter()
        .map(|line| line["custom_id"].as_str().expect("a name").to_owned())
        .collect();
    assert_eq!(names.len(), lines.len(), "a call is there twice");
    names
}

#[tokio::test]
async fn a_batch_is_uploaded_run_and_downloaded() {
    let mock = Mock::start().await.unwrap();
    let config = PoolConfig::new(&mock, "p", [1, 2]).set("max_concurrent_per_key", 10);
    let gw = Gateway::start(&config.to_string()).await;
    let mut text = "\u{feff}".to_owned() + &lines(450).replace('\n', "\r\n");
    text.push_str(&line("wrong", "x").replace("gpt-x", "gpt-wrong"));
    let id = gw.batch(&text).await;
    let batch = gw.batch_ended(&id).await;
    assert_eq!(batch["status"], "completed", "{batch}");
    assert_eq!(batch["request_counts"]["total"], 451);
    assert_eq!(batch["errors"], Value::Null);
    let output = gw.content(&batch["output_file_id"]).await;
    assert_eq!(
        output.len() + gw.content(&batch["error_file_id"]).await.len(),
        451
    );
    let all = names(&output);
    assert!(all.contains("call-1") && all.contains("call-450"));
    let first = &output[0];
    assert_eq!(
        (&first["response"]["status_code"], &first["error"]),
        (&json!(200), &Value::Null)
    );
    assert!(first["response"]["body"]["choices"][0]["message"]["content"].is_string());
    let used = batch["usage"]["total_tokens"].as_u64().unwrap();
    assert!(used > 451, "{batch}");
    let file = gw
        .get(&format!(
            "/v1/files/{}",
            batch["output_file_id"].as_str().unwrap()
        ))
        .await
        .json();
    assert_eq!(file["purpose"], "batch_output");
    let content = gw
        .get(&format!(
            "/v1/files/{}/content",
            file["id"].as_str().unwrap()
        ))
        .await;
    assert_eq!(file["bytes"], content.body.len());
    let seen: u64 = [1, 2].map(|n| mock.seen(&key(n)).requests).iter().sum();
    assert_eq!(seen, 451);
    gw.stop().await;
}

#[tokio::test]
async fn a_call_that_a_provider_refuses_is_in_the_error_file() {
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start(&pool(&mock, 1)).await;
    mock.script(
        &key(1),
        [
            Step::Refuse {
                status: 400,
                retry_after: None,
            },
            Step::Refuse {
                status: 503,
                retry_after: None,
            },
        ],
    );
    let id = gw.batch(&lines(3)).await;
    let batch = gw.batch_ended(&id).await;
    let counts = json!({ "total": 3, "completed": 2, "failed": 1 });
    assert_eq!(
        (&batch["status"], &batch["request_counts"]),
        (&json!("completed"), &counts)
    );
    let errors = gw.content(&batch["error_file_id"]).await;
    assert_eq!(errors[0]["response"]["status_code"], 400);
    assert!(
        errors[0]["response"]["body"]["error"].is_object(),
        "{errors:?}"
    );
    let mut all = names(&errors);
    all.extend(names(&gw.content(&batch["output_file_id"]).await));
    assert_eq!(all.len(), 3);
    assert_eq!(mock.seen(&key(1)).requests, 4, "trouble is tried again");
    gw.stop().await;
}

#[tokio::test]
async fn mistakes_in_a_file_are_named_with_their_lines() {
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start(&pool(&mock, 1)).await;
    let ok = line("ok", "x");
    let cases = [
        (String::new(), Value::Null, "empty_file"),
        ("\n\r\n".to_owned(), Value::Null, "empty_file"),
        (
            format!("{ok}\n{{\"custom_id\":"),
            json!(2),
            "invalid_json_line",
        ),
        (format!("{ok}\n\n{ok}"), json!(3), "duplicate_custom_id"),
        (ok.replace("/chat", "/other"), json!(1), "invalid_url"),
        (ok.replace("POST", "GET"), json!(1), "invalid_method"),
        (
            ok.replace("\"model\"", "\"stream\":true,\"model\""),
            json!(1),
            "invalid_request",
        ),
        (
            ok.replace("\"model\"", "\"mode\""),
            json!(1),
            "missing_required_parameter",
        ),
        (
            ok.replace("custom_id", "id"),
            json!(1),
            "missing_required_parameter",
        ),
    ];
    for (text, at, code) in cases {
        let id = gw.batch(&text).await;
        let batch = gw.batch_ended(&id).await;
        assert_eq!(batch["status"], "failed", "{code}: {batch}");
        let error = &batch["errors"]["data"][0];
        assert_eq!(
            (&error["code"], &error["line"]),
            (&json!(code), &at),
            "{batch}"
        );
        assert!(error["message"].as_str().unwrap().len() > 20);
        assert_eq!(batch["output_file_id"], Value::Null);
    }
    let many: String = (0..50_001).map(|n| format!("{{\"custom_id\":\"{n}\",\"method\":\"POST\",\"url\":\"{ENDPOINT}\",\"body\":{{\"model\":\"gpt-x\"}}}}\n")).collect();
    let id = gw.batch(&many).await;
    let batch = gw.batch_ended(&id).await;
    let error = &batch["errors"]["data"][0];
    assert_eq!(
        (&error["code"], &error["line"]),
        (&json!("too_many_calls"), &json!(50_001))
    );
    assert_eq!(mock.seen(&key(1)).requests, 0);
    gw.stop().await;
}

#[tokio::test]
async fn mistakes_in_an_upload_are_named() {
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start(&(pool(&mock, 1) + "[files]\nmax_size = \"1KiB\"\n")).await;
    let ok = gw.upload(&line("a", "x"), &[]).await;
    let large = [b'x'; 1500];
    let forms: [(Fields<'_>, u16, &str); 5] = [
        (&[("file", b"x")], 400, "purpose"),
        (&[("purpose", b"batch")], 400, "file"),
        (
            &[("purpose", b"batch"), ("file", &large)],
            413,
            "files.max_size",
        ),
        (
            &[("purpose", b"batch"), ("file", b"x"), ("file", b"y")],
            400,
            "more than one",
        ),
        (
            &[
                ("purpose", b"batch"),
                ("expires_after[anchor]", b"created_at"),
                ("expires_after[seconds]", b"5"),
                ("file", b"x"),
            ],
            400,
            "3600",
        ),
    ];
    for (fields, status, says) in forms {
        let reply = gw.upload_form(fields, &[]).await;
        assert_eq!(reply.status, status, "{says}: {reply:?}");
        assert!(reply.message().contains(says), "{says}: {reply:?}");
    }
    let files = gw.get("/v1/files?purpose=batch").await.json();
    assert_eq!(
        files["data"].as_array().unwrap().len(),
        1,
        "nothing half uploaded: {files}"
    );
    let kept = gw
        .send("DELETE", &format!("/v1/files/{ok}"), &[], b"")
        .await;
    assert_eq!(kept.json()["deleted"], true);
    gw.stop().await;
}

#[tokio::test]
async fn mistakes_in_a_new_batch_are_named() {
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start(&pool(&mock, 1)).await;
    let ok = gw.upload(&line("a", "x"), &[]).await;
    let whole = json!({ "input_file_id": ok, "endpoint": ENDPOINT, "completion_window": "24h" });
    for (name, value, status) in [
        ("endpoint", json!("/v1/images/generations"), 400),
        ("endpoint", Value::Null, 400),
        ("completion_window", json!("1h"), 400),
        ("input_file_id", Value::Null, 400),
        ("input_file_id", json!("file-kp0"), 404),
        ("metadata", json!({ "a": "x".repeat(600) }), 400),
        (
            "output_expires_after",
            json!({ "anchor": "created_at", "seconds": 1 }),
            400,
        ),
    ] {
        let mut body = whole.clone();
        body[name] = value;
        let reply = gw
            .send("POST", "/v1/batches", &[JSON], body.to_string().as_bytes())
            .await;
        assert_eq!(reply.status, status, "{name}: {reply:?}");
    }
    for (method, path) in [
        ("GET", "/v1/batches/batch_kp0"),
        ("POST", "/v1/batches/batch_kp0/cancel"),
        ("GET", "/v1/files/file-kp0"),
        ("GET", "/v1/files/file-kp0/content"),
        ("DELETE", "/v1/files/file-kp0"),
    ] {
        let reply = gw.send(method, path, &[], b"").await;
        assert_eq!(
            (reply.status, reply.code()),
            (404, "not_found".to_owned()),
            "{path}"
        );
    }
    gw.stop().await;
}

#[tokio::test]
async fn files_and_batches_are_seen_only_by_their_owner() {
    let mock = Mock::start().await.unwrap();
    let config = pool(&mock, 1) + &virtual_key("a", "") + &virtual_key("b", "");
    let gw = Gateway::start(&config).await;
    let (a, b) = (bearer("a"), bearer("b"));
    let (a, b) = (("authorization", &*a), ("authorization", &*b));
    let file = gw.upload(&lines(1), &[a]).await;
    let batch = gw.create(&file, &[a]).await.json()["id"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_eq!(gw.create(&file, &[b]).await.status, 404);
    for (method, path) in [
        ("GET", format!("/v1/files/{file}")),
        ("GET", format!("/v1/files/{file}/content")),
        ("DELETE", format!("/v1/files/{file}")),
        ("GET", format!("/v1/batches/{batch}")),
        ("POST", format!("/v1/batches/{batch}/cancel")),
    ] {
        assert_eq!(
            gw.send(method, &path, &[b], b"").await.status,
            404,
            "{path}"
        );
        assert_eq!(gw.send(method, &path, &[], b"").await.status, 401, "{path}");
    }
    for path in ["/v1/files", "/v1/batches"] {
        let of = async |caller| {
            gw.send("GET", path, &[caller], b"").await.json()["data"]
                .as_array()
                .unwrap()
                .len()
        };
        assert!(of(a).await >= 1);
        assert_eq!(of(b).await, 0);
    }
    // Its jobs are no jobs of the caller.
    let jobs = gw.send("GET", "/v1/jobs", &[a], b"").await.json();
    assert_eq!(jobs["data"], json!([]));
    gw.stop().await;
}

#[tokio::test]
async fn a_cancelled_batch_keeps_its_results() {
    let mock = Mock::start().await.unwrap();
    let config = PoolConfig::new(&mock, "p", [1]).set("max_concurrent_per_key", 2);
    let gw = Gateway::start(&config.to_string()).await;
    mock.behave(
        &key(1),
        Behaviour {
            latency: Duration::from_millis(60),
            ..Behaviour::default()
        },
    );
    let id = gw.batch(&lines(300)).await;
    within(mock.wait_for(&key(1), |seen| seen.requests > 10)).await;
    let path = format!("/v1/batches/{id}/cancel");
    for _ in 0..2 {
        let reply = gw.send("POST", &path, &[], b"").await;
        assert_eq!(reply.status, 200, "{reply:?}");
        let status = reply.json()["status"].clone();
        assert!(status == "cancelling" || status == "cancelled", "{status}");
    }
    let batch = gw.batch_ended(&id).await;
    assert_eq!(batch["status"], "cancelled");
    let (output, errors) = (
        gw.content(&batch["output_file_id"]).await,
        gw.content(&batch["error_file_id"]).await,
    );
    let counts = json!({ "total": 300, "completed": output.len(), "failed": errors.len() });
    assert_eq!(batch["request_counts"], counts);
    assert!(output.len() >= 10 && output.len() < 100, "{}", output.len());
    assert_eq!(errors[0]["error"]["code"], "batch_cancelled");
    let mut all = names(&output);
    all.extend(names(&errors));
    assert_eq!(all.len(), 300);
    assert_eq!(
        mock.seen(&key(1)).requests,
        output.len() as u64,
        "calls in flight have ended"
    );
    gw.stop().await;
}

#[tokio::test]
async fn a_batch_goes_on_after_a_kill() {
    let mock = Mock::start().await.unwrap();
    let config = PoolConfig::new(&mock, "p", [1, 2]).set("max_concurrent_per_key", 5);
    let folder = Folder::new(&config.to_string());
    let mut gw = Gateway::start_in(&folder).await;
    for n in [1, 2] {
        mock.behave(
            &key(n),
            Behaviour {
                latency: Duration::from_millis(20),
                ..Behaviour::default()
            },
        );
    }
    let id = gw.batch(&lines(600)).await;
    for round in 1..=3 {
        within(mock.wait_for(&key(1), |seen| seen.requests > round * 60)).await;
        let folder = gw.killed().await;
        gw = Gateway::start_in(&folder).await;
    }
    let batch = gw.batch_ended(&id).await;
    assert_eq!(
        (&batch["status"], &batch["request_counts"]["completed"]),
        (&json!("completed"), &json!(600))
    );
    assert_eq!(
        names(&gw.content(&batch["output_file_id"]).await).len(),
        600
    );
    gw.stop().await;
}

#[tokio::test]
async fn a_shutdown_does_not_wait_for_lines_that_wait() {
    let mock = Mock::start().await.unwrap();
    let config = PoolConfig::new(&mock, "p", [1]).set("max_concurrent_per_key", 1);
    let folder = Folder::new(&config.to_string());
    let gw = Gateway::start_in(&folder).await;
    mock.script(&key(1), [Step::Slow(Duration::from_secs(1))]);
    let job = gw.batch(&lines(50)).await;
    within(mock.wait_for(&key(1), |seen| seen.active == 1)).await;
    let waiting = gw.job(crate::harness::CHAT, &[]).await;
    // It stops within a few seconds, although the queue is long.
    let gw = gw.restarted().await;
    let batch = gw.batch_ended(&job).await;
    assert_eq!(batch["request_counts"]["completed"], 50, "{batch}");
    assert_eq!(gw.ended(&waiting, &[]).await["status"], "succeeded");
    assert_eq!(mock.seen(&key(1)).requests, 51, "no call was made twice");
    gw.stop().await;
}

#[tokio::test]
async fn a_file_for_another_purpose_goes_to_the_provider() {
    let mock = Mock::start().await.unwrap();
    let config = PoolConfig::new(&mock, "openai", [1])
        .set("provider", "openai")
        .set("base_url", format!("{}/v1", mock.origin()));
    let gw = Gateway::start(&config.to_string()).await;
    let large = vec![b'z'; 3 << 20];
    for fields in [
        [("purpose", &b"user_data"[..]), ("file", &large)],
        [("file", &large[..]), ("purpose", &b"user_data"[..])],
    ] {
        let reply = gw.upload_form(&fields, &[]).await;
        assert_eq!(reply.status, 200, "{reply:?}");
        assert_eq!(reply.key(), "openai-1");
        let id = reply.json()["id"].as_str().unwrap().to_owned();
        assert!(!id.starts_with("file-kp"), "{id}");
        let found = gw.get(&format!("/v1/files/{id}")).await;
        assert_eq!((found.status, found.key()), (200, "openai-1"));
    }
    let ours: [(&str, &[u8]); 2] = [
        ("file", lines(1).as_bytes().to_owned().leak()),
        ("purpose", b"batch"),
    ];
    let reply = gw.upload_form(&ours, &[]).await;
    assert!(
        reply.json()["id"].as_str().unwrap().starts_with("file-kp"),
        "{reply:?}"
    );
    let listed = gw.get("/v1/files").await.json();
    assert_eq!(listed["data"].as_array().unwrap().len(), 1, "{listed}");
    gw.stop().await;
}
