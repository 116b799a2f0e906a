//! Forms: the field `model` chooses the pool, and only its value ever changes.

use keypool_testkit::Mock;

use crate::bad_input::refused;
use crate::harness::{Gateway, MARK, key};
use crate::http::Reply;

const TRANSCRIPTIONS: &str = "/v1/audio/transcriptions";
const TYPE: &str = "multipart/form-data; boundary=----keypool9";

/// A part: a head and a value between boundaries.
fn part(head: &str, value: &[u8]) -> Vec<u8> {
    let head = format!("------keypool9\r\nContent-Disposition: form-data; {head}\r\n\r\n");
    [head.as_bytes(), value, b"\r\n"].concat()
}

fn form(parts: &[Vec<u8>]) -> Vec<u8> {
    [parts.concat(), b"------keypool9--\r\n".to_vec()].concat()
}

fn model(name: &str) -> Vec<u8> {
    part("name=\"model\"", name.as_bytes())
}

/// Bytes that look like a form as much as possible.
fn file(length: usize) -> Vec<u8> {
    let bytes = b"\r\n\r\n--\0name=\"model\"\r\n----keypool\xff".repeat(length / 32 + 1);
    part(
        "name=\"file\"; filename=\"a.wav\"\r\nContent-Type: audio/wav",
        &bytes[..length],
    )
}

/// Pools `speech` (keys 1 and 2, the second with a model of its own) and `pictures` (key 3).
fn config(mock: &Mock) -> String {
    let origin = mock.origin();
    format!(
        "[pools.speech]\nprovider = \"mock\"\nbase_url = \"{origin}\"\nmodels = [\"whisper-*\"]\n\
         [[pools.speech.keys]]\nkey = \"{}\"\n[[pools.speech.keys]]\nkey = \"{}\"\nmodel = \"ep-20250101\"\n\
         [pools.pictures]\nprovider = \"mock\"\nbase_url = \"{origin}\"\nmodels = [\"gpt-image-*\"]\nkeys = [\"{}\"]\n",
        key(1),
        key(2),
        key(3)
    )
}

async fn send(gw: &Gateway, path: &str, content_type: &str, body: &[u8]) -> Reply {
    gw.send("POST", path, &[("content-type", content_type)], body)
        .await
}

fn pool_of(reply: &Reply) -> &str {
    reply.header("x-keypool-pool").unwrap_or_default()
}

#[tokio::test]
async fn the_field_chooses_the_pool_and_only_its_value_is_replaced() {
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start(&config(&mock)).await;
    let sent = |model: Vec<u8>| form(&[file(5000), model, part("name=\"prompt\"", b"")]);
    let mut keys = Vec::new();
    for _ in 0..2 {
        let reply = send(&gw, TRANSCRIPTIONS, TYPE, &sent(model("whisper-1"))).await;
        assert_eq!(
            (reply.status, pool_of(&reply)),
            (200, "speech"),
            "{reply:?}"
        );
        keys.push(reply.key().to_owned());
    }
    keys.sort();
    assert_eq!(keys, ["speech-1", "speech-2"]);
    let seen = |n| mock.last_request(&key(n)).unwrap();
    assert_eq!(seen(1).body, sent(model("whisper-1")));
    assert_eq!(seen(2).body, sent(model("ep-20250101")));
    let quoted = TYPE.replace("----keypool9", "\"----keypool9\"");
    let reply = send(
        &gw,
        "/v1/images/edits",
        &quoted,
        &sent(model("pictures/gpt-image-1")),
    )
    .await;
    assert_eq!(
        (reply.status, pool_of(&reply)),
        (200, "pictures"),
        "{reply:?}"
    );
    assert_eq!(
        seen(3).body,
        sent(model("gpt-image-1")),
        "the pool's name is taken off"
    );
    let reply = send(
        &gw,
        "/pictures/v1/audio/translations",
        TYPE,
        &sent(model("whisper-1")),
    )
    .await;
    assert_eq!(
        (reply.status, pool_of(&reply)),
        (200, "pictures"),
        "the path names the pool"
    );
    assert_eq!(seen(3).body, sent(model("whisper-1")));
    gw.stop().await;
}

#[tokio::test]
async fn a_model_after_a_large_file_is_found() {
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start(&config(&mock)).await;
    let body = form(&[file(20 << 20), model("gpt-image-1")]);
    let reply = send(&gw, "/v1/images/edits", TYPE, &body).await;
    assert_eq!(
        (reply.status, pool_of(&reply)),
        (200, "pictures"),
        "{reply:?}"
    );
    let seen = mock.last_request(&key(3)).unwrap();
    assert_eq!(seen.body_len, body.len() as u64);
    assert_eq!(
        seen.body_hash(),
        format!("{:016x}", keypool_testkit::fnv1a(&body))
    );
    gw.stop().await;
}

#[tokio::test]
async fn a_form_without_an_optional_model_goes_to_the_first_pool() {
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start(&config(&mock)).await;
    let reply = send(&gw, "/v1/images/variations", TYPE, &form(&[file(10)])).await;
    assert_eq!(
        (reply.status, pool_of(&reply)),
        (200, "speech"),
        "{reply:?}"
    );
    let reply = send(
        &gw,
        "/v1/images/variations",
        TYPE,
        &form(&[model("gpt-image-1")]),
    )
    .await;
    assert_eq!(
        (reply.status, pool_of(&reply)),
        (200, "pictures"),
        "{reply:?}"
    );
    gw.stop().await;
}

#[tokio::test]
async fn forms_without_exactly_one_model_are_refused_without_a_key() {
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start(&config(&mock)).await;
    let good = form(&[model("whisper-1")]);
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let cut = &good[..good.len() - 8];
    let lines = text(&good).replace("whisper-1\r\n", "whisper-1\n");
    let cases: Vec<(&str, &str, Vec<u8>)> = vec![
        (
            "two models",
            TYPE,
            form(&[model("whisper-1"), file(10), model("gpt-image-1")]),
        ),
        (
            "twice the same",
            TYPE,
            form(&[model("whisper-1"), model("whisper-1")]),
        ),
        ("none", TYPE, form(&[file(10)])),
        ("empty", TYPE, form(&[model("")])),
        (
            "a file",
            TYPE,
            form(&[part("name=\"model\"; filename=\"m\"", b"whisper-1")]),
        ),
        (
            "another case",
            TYPE,
            form(&[part("name=\"Model\"", b"whisper-1")]),
        ),
        (
            "two names",
            TYPE,
            form(&[part("name=\"x\"; name=\"model\"", b"whisper-1")]),
        ),
        ("not UTF-8", TYPE, form(&[part("name=\"model\"", b"\xff")])),
        ("no end", TYPE, cut.to_vec()),
        ("a lone line end", TYPE, lines.into_bytes()),
        (
            "a second form behind",
            TYPE,
            [good.clone(), good.clone()].concat(),
        ),
        ("nothing", TYPE, Vec::new()),
        (
            "another boundary",
            "multipart/form-data; boundary=other",
            good.clone(),
        ),
        ("no boundary", "multipart/form-data", good.clone()),
        (
            "JSON",
            "application/json",
            b"{\"model\":\"whisper-1\"}".to_vec(),
        ),
        ("no content type", "", good.clone()),
    ];
    for (what, content_type, body) in &cases {
        let reply = send(&gw, TRANSCRIPTIONS, content_type, body).await;
        refused(&reply, 400, "invalid_request", what);
    }
    let compressed = [("content-type", TYPE), ("content-encoding", "gzip")];
    let reply = gw.send("POST", TRANSCRIPTIONS, &compressed, &good).await;
    refused(&reply, 400, "invalid_request", "compressed");
    let reply = send(&gw, TRANSCRIPTIONS, TYPE, &form(&[model("nobody's")])).await;
    refused(&reply, 404, "model_not_found", "an unknown model");
    assert!(mock.seen_all().is_empty(), "{:?}", mock.recorded());
    gw.stop().await;
}

#[tokio::test]
async fn a_virtual_key_reaches_only_its_models_by_forms() {
    let mock = Mock::start().await.unwrap();
    let team = format!("vk-{MARK}-team-a-0001");
    let config = format!(
        "{}[[virtual_keys]]\nname = \"team-a\"\nkey = \"{team}\"\nmodels = [\"whisper-*\"]\n",
        config(&mock)
    );
    let gw = Gateway::start(&config).await;
    let bearer = format!("Bearer {team}");
    let headers = [("content-type", TYPE), ("authorization", bearer.as_str())];
    for (name, status) in [("whisper-1", 200), ("gpt-image-1", 403)] {
        let reply = gw
            .send("POST", TRANSCRIPTIONS, &headers, &form(&[model(name)]))
            .await;
        assert_eq!(reply.status, status, "{name}: {reply:?}");
    }
    assert_eq!(mock.seen(&key(3)).requests, 0);
    gw.stop().await;
}
