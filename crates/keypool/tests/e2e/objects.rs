//! Objects at the provider: a call that names one reaches the account that made it, and only for the caller that made it.

use std::collections::BTreeSet;

use keypool_testkit::{Mock, Step};
use serde_json::{Value, json};

use crate::bad_input::refused;
use crate::harness::{Gateway, MARK, key, pool};
use crate::http::Reply;

const RESPONSES: &str = "/v1/responses";
const STORED: &str = r#"{"model":"gpt-x","input":"hello"}"#;

/// How an object of one kind is made and found again.
struct Kind {
    make: &'static str,
    body: &'static str,
    /// Where the response has the id.
    id: &'static str,
    /// `{}` is the id.
    find: &'static str,
    header: (&'static str, &'static str),
}

const NO_HEADER: (&str, &str) = ("x-none", "x");

const fn kind(
    make: &'static str,
    body: &'static str,
    id: &'static str,
    find: &'static str,
) -> Kind {
    Kind {
        make,
        body,
        id,
        find,
        header: NO_HEADER,
    }
}

const KINDS: [Kind; 13] = [
    kind(RESPONSES, STORED, "/id", "/v1/responses/{}"),
    kind(RESPONSES, STORED, "/id", "/v1/responses/{}/input_items"),
    kind(RESPONSES, STORED, "/id", "/p/responses/{}"),
    kind(
        "/research",
        r#"{"input":"x"}"#,
        "/request_id",
        "/research/{}",
    ),
    kind("/p/v1/files", "a form", "/id", "/p/v1/files/{}"),
    kind("/p/v1/files", "a form", "/id", "/p/files/{}/content"),
    kind(
        "/p/v1/conversations",
        "{}",
        "/id",
        "/p/v1/conversations/{}/items",
    ),
    kind("/p/v1/vector_stores", "{}", "/id", "/p/v1/vector_stores/{}"),
    kind("/p/v1/videos", "{}", "/id", "/p/v1/videos/{}/content"),
    kind(
        "/p/api/v3/contents/generations/tasks",
        "{}",
        "/id",
        "/p/api/v3/contents/generations/tasks/{}",
    ),
    kind("/p/v1beta/cachedContents", "{}", "/name", "/p/v1beta/{}"),
    kind(
        "/p/upload/v1beta/files",
        "bytes",
        "/file/name",
        "/p/v1beta/{}",
    ),
    Kind {
        header: ("anthropic-version", "2023-06-01"),
        ..kind(
            "/p/v1/messages/batches",
            "{}",
            "/id",
            "/p/v1/messages/batches/{}/results",
        )
    },
];

impl Kind {
    async fn make(&self, gw: &Gateway) -> (String, String) {
        let reply = gw
            .send("POST", self.make, &[self.header], self.body.as_bytes())
            .await;
        assert_eq!(reply.status, 200, "{}: {reply:?}", self.make);
        let id = reply
            .json()
            .pointer(self.id)
            .and_then(Value::as_str)
            .expect("an id")
            .to_owned();
        (reply.key().to_owned(), id)
    }

    async fn find(&self, gw: &Gateway, id: &str) -> Reply {
        let path = self.find.replace("{}", id);
        gw.send("GET", &path, &[self.header], b"").await
    }
}

pub(crate) fn id_of(reply: &Reply) -> String {
    assert_eq!(reply.status, 200, "{reply:?}");
    reply.json()["id"].as_str().expect("an id").to_owned()
}

#[tokio::test]
async fn every_kind_of_object_is_found_by_the_key_that_made_it() {
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start(&pool(&mock, 3)).await;
    for kind in &KINDS {
        let mut owners = BTreeSet::new();
        for _ in 0..3 {
            let (owner, id) = kind.make(&gw).await;
            for _ in 0..3 {
                let found = kind.find(&gw, &id).await;
                assert_eq!(
                    (found.status, found.key()),
                    (200, &*owner),
                    "{}: {found:?}",
                    kind.find
                );
            }
            owners.insert(owner);
        }
        assert!(
            owners.len() > 1,
            "{}: the keys take turns in making: {owners:?}",
            kind.make
        );
    }
    gw.all_idle().await;
    gw.stop().await;
}

#[tokio::test]
async fn a_conversation_goes_on_with_the_key_that_holds_it() {
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start(&pool(&mock, 3)).await;
    let streamed = STORED.replace("{", "{\"stream\":true,");
    let first = gw.post(RESPONSES, &streamed).await;
    assert_eq!(first.status, 200, "{first:?}");
    let text = first.text();
    let at = text.find("resp_").expect("an id");
    let mut previous: String = text[at..].chars().take_while(|c| *c != '"').collect();
    for turn in 0..4 {
        let body = json!({"model": "gpt-x", "input": "more", "previous_response_id": previous, "stream": turn == 1});
        let reply = gw.post(RESPONSES, &body.to_string()).await;
        assert_eq!(
            (reply.status, reply.key()),
            (200, first.key()),
            "{turn}: {reply:?}"
        );
        let text = reply.text();
        let at = text.find("\"id\":\"resp_").expect("an id") + 6;
        previous = text[at..].chars().take_while(|c| *c != '"').collect();
    }
    for (field, path) in [
        ("conversation", "/p/v1/conversations"),
        ("file_id", "/p/v1/files"),
    ] {
        let made = gw.post(path, "{}").await;
        let mut body = json!({"model": "gpt-x", "input": "x", "store": false});
        if field == "file_id" {
            body["input"] = json!([{"content": [{"type": "input_file", "file_id": id_of(&made)}]}]);
        } else {
            body["conversation"] = json!({"id": id_of(&made)});
        }
        for _ in 0..3 {
            let reply = gw.post(RESPONSES, &body.to_string()).await;
            assert_eq!(
                (reply.status, reply.key()),
                (200, made.key()),
                "{field}: {reply:?}"
            );
        }
    }
    let cached = gw.post("/p/v1beta/cachedContents", "{}").await;
    let body =
        json!({"contents": [{"parts": [{"text": "x"}]}], "cachedContent": cached.json()["name"]});
    for _ in 0..3 {
        let reply = gw
            .post("/v1beta/models/g:generateContent", &body.to_string())
            .await;
        assert_eq!(
            (reply.status, reply.key()),
            (200, cached.key()),
            "{reply:?}"
        );
    }
    gw.stop().await;
}

#[tokio::test]
async fn the_id_of_a_long_response_is_read_from_its_beginning() {
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start(&pool(&mock, 3)).await;
    let long = "x".repeat(300_000);
    for stream in [false, true] {
        let answer =
            format!(r#"{{"id":"resp_long{stream}","object":"response","instructions":"{long}"}}"#);
        let (content_type, body) = if stream {
            let event = format!(r#"{{"type":"response.created","response":{answer}}}"#);
            (
                "text/event-stream",
                format!(
                    "event: response.created\ndata: {event}\n\n\
                     data: {{\"type\":\"response.completed\"}}\n\n"
                ),
            )
        } else {
            ("application/json", answer)
        };
        let step = Step::Status {
            status: 200,
            headers: vec![("content-type".to_owned(), content_type.to_owned())],
            body: body.clone(),
        };
        mock.script("*", [step]);
        let made = gw
            .post(
                RESPONSES,
                &json!({"model": "m", "input": "x", "stream": stream}).to_string(),
            )
            .await;
        assert_eq!(made.text(), body, "relayed as it came");
        for _ in 0..3 {
            let found = gw.get(&format!("/v1/responses/resp_long{stream}")).await;
            // The mock does not know it; what counts is which key was used.
            assert_eq!(
                (found.status, found.key()),
                (404, made.key()),
                "{stream}: {found:?}"
            );
        }
    }
    gw.stop().await;
}

#[tokio::test]
async fn a_batch_and_its_results_stay_with_its_file() {
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start(&pool(&mock, 4)).await;
    for _ in 0..4 {
        let file = gw.post("/p/v1/files", "a form").await;
        let body = json!({"input_file_id": id_of(&file), "endpoint": "/v1/chat/completions"});
        let batch = gw.post("/p/v1/batches", &body.to_string()).await;
        assert_eq!((batch.status, batch.key()), (200, file.key()), "{batch:?}");
        let seen = gw.get(&format!("/p/v1/batches/{}", id_of(&batch))).await;
        let output = seen.json()["output_file_id"].as_str().unwrap().to_owned();
        let results = gw.get(&format!("/p/v1/files/{output}/content")).await;
        assert_eq!(
            (results.status, results.key()),
            (200, file.key()),
            "{results:?}"
        );
    }
    gw.stop().await;
}

/// Keys 1 and 2 of one account, key 3 alone.
fn with_an_account(mock: &Mock) -> String {
    format!(
        "[pools.p]\nprovider = \"mock\"\nbase_url = \"{}\"\nretry = {{ backoff = \"5ms\" }}\nqueue = {{ timeout = \"50ms\" }}\n\
         [[pools.p.keys]]\nkey = \"{}\"\ngroup = \"org\"\n[[pools.p.keys]]\nkey = \"{}\"\ngroup = \"org\"\n\
         [[pools.p.keys]]\nkey = \"{}\"\n",
        mock.origin(),
        account_key(1),
        account_key(2),
        key(3)
    )
}

fn account_key(n: usize) -> String {
    format!("{}@org", key(n))
}

#[tokio::test]
async fn only_keys_of_the_same_account_serve_its_objects() {
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start(&with_an_account(&mock)).await;
    let mut made = gw.post(RESPONSES, STORED).await;
    if made.key() == "p-3" {
        made = gw.post(RESPONSES, STORED).await;
    }
    let path = format!("/v1/responses/{}", id_of(&made));
    let mut served = BTreeSet::new();
    for _ in 0..6 {
        let found = gw.get(&path).await;
        assert_eq!(found.status, 200, "{found:?}");
        served.insert(found.key().to_owned());
    }
    assert_eq!(Vec::from_iter(served), ["p-1", "p-2"]);
    let before = mock.seen(&key(3)).requests;
    mock.script("*", [Step::refuse(500)]);
    let found = gw.get(&path).await;
    assert_eq!((found.status, found.attempts()), (200, "2"), "{found:?}");
    mock.script("*", [Step::refuse(401), Step::refuse(401)]);
    let gone = gw.get(&path).await;
    refused(
        &gone,
        503,
        "no_key_available",
        "no key of the account is left",
    );
    assert!(gone.message().contains("2 rejected"), "{}", gone.message());
    assert_eq!(
        mock.seen(&key(3)).requests,
        before,
        "the third key is no help"
    );
    assert_eq!(gw.chat().await.key(), "p-3", "which is well");
    gw.stop().await;
}

#[tokio::test]
async fn an_unknown_id_goes_to_the_only_account_or_nowhere() {
    let mock = Mock::start().await.unwrap();
    let paths = [
        "/v1/responses/resp_unknown",
        "/v1/responses/resp_unknown/input_items",
        "/research/unknown-1",
        "/p/v1/files/file-unknown",
        "/p/v1beta/files/unknown",
        "/p/api/v3/contents/generations/tasks/cgt-unknown",
    ];
    let previous = r#"{"model":"gpt-x","input":"x","previous_response_id":"resp_unknown"}"#;
    let cached = r#"{"contents":[],"cachedContent":"cachedContents/unknown"}"#;
    let posts = [
        (RESPONSES, previous),
        ("/v1beta/models/g:generateContent", cached),
        ("/p/v1/batches", r#"{"input_file_id":"file-unknown"}"#),
    ];
    let gw = Gateway::start(&pool(&mock, 2)).await;
    for path in paths {
        refused(&gw.get(path).await, 404, "not_found", path);
    }
    for (path, body) in posts {
        refused(&gw.post(path, body).await, 404, "not_found", body);
    }
    assert!(
        mock.seen_all().is_empty(),
        "no key was used: {:?}",
        mock.recorded()
    );
    gw.stop().await;

    let gw = Gateway::start(&pool(&mock, 1)).await;
    for path in paths {
        let reply = gw.get(path).await;
        assert_eq!(
            (reply.status, reply.key()),
            (404, "p-1"),
            "the provider says so: {path}: {reply:?}"
        );
    }
    for (path, body) in posts {
        let reply = gw.post(path, body).await;
        assert_eq!(reply.key(), "p-1", "{path}: {reply:?}");
    }
    gw.stop().await;
}

#[tokio::test]
async fn a_bare_path_finds_the_pool_by_the_object() {
    let mock = Mock::start().await.unwrap();
    let origin = mock.origin();
    let config = format!(
        "[pools.a]\nprovider = \"mock\"\nbase_url = \"{origin}\"\nkeys = [\"{}\"]\n\
         [pools.b]\nprovider = \"openai-compatible\"\nbase_url = \"{origin}/v1\"\nkeys = [\"{}\", \"{}\"]\n\
         [pools.g]\nprovider = \"gemini\"\nbase_url = \"{origin}\"\nkeys = [\"{}\"]\n",
        key(1),
        key(2),
        key(3),
        key(4)
    );
    let gw = Gateway::start(&config).await;
    for model in ["a/m", "b/m", "b/m"] {
        let made = gw.post(RESPONSES, &STORED.replace("gpt-x", model)).await;
        let path = format!("/v1/responses/{}", id_of(&made));
        let found = gw.get(&path).await;
        assert_eq!((found.status, found.key()), (200, made.key()), "{found:?}");
        let elsewhere = STORED.replace("gpt-x", if model == "a/m" { "b/m" } else { "a/m" });
        let elsewhere = elsewhere.replace(
            "{",
            &format!("{{\"previous_response_id\":\"{}\",", id_of(&made)),
        );
        refused(
            &gw.post(RESPONSES, &elsewhere).await,
            404,
            "not_found",
            "the model leads elsewhere",
        );
        let reply = gw.send("POST", &format!("{path}/cancel"), &[], b"").await;
        assert_eq!((reply.status, reply.key()), (200, made.key()), "{reply:?}");
        let deleted = gw.send("DELETE", &path, &[], b"").await;
        assert_eq!(
            (deleted.status, deleted.key()),
            (200, made.key()),
            "{deleted:?}"
        );
        refused(&gw.get(&path).await, 404, "not_found", "it is gone");
    }
    gw.stop().await;
}

#[tokio::test]
async fn objects_are_found_again_after_a_reload() {
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start(&pool(&mock, 3)).await;
    let made = gw.post(RESPONSES, STORED).await;
    let path = format!("/v1/responses/{}", id_of(&made));
    let secret = |name: &str| key(name.trim_start_matches("p-").parse().unwrap());
    let owner = secret(made.key());
    // The pool gets another name; its keys get another order and other names.
    let more = pool(&mock, 4)
        .replace("pools.p", "pools.q")
        .replace(&owner, "x")
        .replace(&key(4), &owner);
    gw.folder().write("keypool.toml", &more);
    assert_eq!(
        gw.admin("POST", "/api/v1/admin/config/reload").await.status,
        200
    );
    for _ in 0..3 {
        let found = gw.get(&path).await;
        assert_eq!((found.status, found.key()), (200, "q-4"), "{found:?}");
    }
    gw.stop().await;
}

#[tokio::test]
async fn a_call_that_makes_something_is_not_made_twice() {
    for (method, path, body) in [
        ("POST", RESPONSES, STORED),
        (
            "POST",
            RESPONSES,
            r#"{"model":"m","input":"x","store":false,"background":true}"#,
        ),
        (
            "POST",
            RESPONSES,
            r#"{"model":"m","input":"x","store":false,"conversation":null,"background":true}"#,
        ),
        (
            "POST",
            "/v1/chat/completions",
            r#"{"model":"m","messages":[],"store":true}"#,
        ),
        ("POST", "/research", r#"{"input":"x"}"#),
        ("POST", "/p/v1/files", "a form"),
        ("POST", "/p/v1/batches", "{}"),
        ("POST", "/p/v1/videos", "{}"),
        ("POST", "/p/api/v3/contents/generations/tasks", "{}"),
        ("POST", "/p/v1/messages/batches", "{}"),
        ("POST", "/v1beta/models/veo:predictLongRunning", "{}"),
        ("POST", "/v1beta/models/g:batchGenerateContent", "{}"),
        ("POST", "/p/v1beta/cachedContents", "{}"),
        ("PUT", "/p/anything", "{}"),
        ("DELETE", "/p/anything", ""),
    ] {
        let mock = Mock::start().await.unwrap();
        let gw = Gateway::start(&pool(&mock, 3)).await;
        mock.script("*", [Step::Reset]);
        let reply = gw.send(method, path, &[], body.as_bytes()).await;
        refused(&reply, 502, "upstream_unreachable", path);
        let seen: u64 = mock.seen_all().values().map(|seen| seen.requests).sum();
        assert_eq!((seen, reply.attempts()), (1, "1"), "{method} {path} {body}");
        // If a status came back, the provider did not accept the call.
        mock.script("*", [Step::refuse(503)]);
        let reply = gw.send(method, path, &[], body.as_bytes()).await;
        assert_eq!(reply.attempts(), "2", "{method} {path} {body}: {reply:?}");
        gw.stop().await;
    }
}

/// Two callers on three keys.
pub(crate) struct Callers {
    pub(crate) mock: Mock,
    pub(crate) gw: Gateway,
}

impl Callers {
    pub(crate) async fn start() -> Callers {
        let mock = Mock::start().await.expect("a mock");
        let virtual_key = |name: &str| {
            format!(
                "[[virtual_keys]]\nname = \"{name}\"\nkey = \"{}\"\nnative = true\n",
                Self::secret(name)
            )
        };
        let config = [pool(&mock, 3), virtual_key("owner"), virtual_key("guesser")];
        let gw = Gateway::start(&config.concat()).await;
        Callers { mock, gw }
    }

    pub(crate) fn secret(name: &str) -> String {
        format!("vk-{MARK}-0000-{name}")
    }

    pub(crate) async fn send(&self, name: &str, method: &str, path: &str, body: &str) -> Reply {
        let bearer = format!("Bearer {}", Self::secret(name));
        self.gw
            .send(method, path, &[("authorization", &bearer)], body.as_bytes())
            .await
    }

    /// How many requests the provider has seen.
    pub(crate) fn requests(&self) -> u64 {
        let seen = self.mock.seen_all();
        seen.values().map(|seen| seen.requests).sum()
    }
}

/// What a caller who knows another's ids would try: method, path, body. `RESPONSE`, `FILE` and so on are replaced by the
/// ids, `OWN` by that of a response of the guesser's own.
const GUESSES: &[(&str, &str, &str)] = &[
    ("GET", "/v1/responses/RESPONSE", ""),
    ("DELETE", "/v1/responses/RESPONSE", ""),
    ("POST", "/v1/responses/RESPONSE/cancel", ""),
    ("GET", "/v1/responses/RESPONSE/input_items", ""),
    ("GET", "/v1/responses/ESCAPED", ""),
    ("GET", "/p/v1/responses/RESPONSE", ""),
    ("GET", "/p/v1//responses//RESPONSE", ""),
    ("GET", "/p/v1/responses%2fRESPONSE", ""),
    ("GET", "/p/other/place/RESPONSE", ""),
    ("GET", "/p/v1/files?after=FILE", ""),
    ("GET", "/p/v1/files/FILE/content", ""),
    ("DELETE", "/p/files/FILE", ""),
    ("GET", "/research/RESEARCH", ""),
    ("GET", "/p/v1beta/CACHED", ""),
    (
        "POST",
        RESPONSES,
        r#"{"model":"m","previous_response_id":"RESPONSE"}"#,
    ),
    (
        "POST",
        RESPONSES,
        r#"{"model":"m","previous_response_id":"UNICODE"}"#,
    ),
    (
        "POST",
        RESPONSES,
        r#"{"model":"m","previous_response_\u0069d":"RESPONSE"}"#,
    ),
    (
        "POST",
        RESPONSES,
        r#"{"model":"m","previous_response_id":"OWN","previous_response_id":"RESPONSE"}"#,
    ),
    (
        "POST",
        RESPONSES,
        r#"{"model":"m","previous_response_id":"RESPONSE","previous_response_id":"OWN"}"#,
    ),
    (
        "POST",
        RESPONSES,
        r#"{"model":"m","store":false,"input":[{"content":[{"file_id":"FILE"}]}]}"#,
    ),
    (
        "POST",
        "/v1/chat/completions",
        r#"{"model":"m","messages":[{"content":[{"type":"file","file":{"file_id":"FILE"}}]}]}"#,
    ),
    ("POST", "/p/v1/batches", r#"{"input_file_id":"FILE"}"#),
    ("POST", "/p/v1/vector_stores", r#"{"file_ids":["FILE"]}"#),
    (
        "POST",
        "/v1beta/models/g:generateContent",
        r#"{"contents":[],"cachedContent":"CACHED"}"#,
    ),
    (
        "POST",
        "/v1beta/models/g:generateContent",
        r#"{"contents":[{"parts":[{"fileData":{"fileUri":"UPLOADED"}}]}]}"#,
    ),
    (
        "POST",
        "/v1beta/models/g:generateContent",
        r#"{"contents":[{"parts":[{"fileData":{"fileUri":"ENCODED"}}]}]}"#,
    ),
    (
        "POST",
        "/v1beta/models/g:batchGenerateContent",
        r#"{"batch":{"inputConfig":{"requests":{"requests":[{"request":{"contents":[{"parts":[{"file_data":{"file_uri":"ENCODED"}}]}]}}]}}}}"#,
    ),
    ("GET", "/p/v1beta/other?uri=ENCODED", ""),
];

/// The ids behind the words of `GUESSES`.
async fn ids_to_guess(callers: &Callers) -> Vec<(&'static str, String)> {
    let response = callers.send("owner", "POST", RESPONSES, STORED).await;
    let response = id_of(&response);
    let file = callers.send("owner", "POST", "/p/v1/files", "a form").await;
    let research = callers
        .send("owner", "POST", "/research", r#"{"input":"x"}"#)
        .await;
    let cached = callers
        .send("owner", "POST", "/p/v1beta/cachedContents", "{}")
        .await;
    let uploaded = callers
        .send("owner", "POST", "/upload/v1beta/files", "bytes")
        .await;
    let own = callers.send("guesser", "POST", RESPONSES, STORED).await;
    let text = |reply: &Reply, field: &str| {
        let json = reply.json();
        let id = json[field].as_str().or(json["file"][field].as_str());
        id.expect("an id").to_owned()
    };
    vec![
        ("ESCAPED", response.replace('_', "%5F")),
        ("UNICODE", response.replace('_', "\\u005f")),
        ("RESPONSE", response),
        ("FILE", id_of(&file)),
        ("RESEARCH", text(&research, "request_id")),
        ("CACHED", text(&cached, "name")),
        ("OWN", id_of(&own)),
        ("UPLOADED", text(&uploaded, "uri")),
        (
            "ENCODED",
            text(&uploaded, "uri").replace("/files/", "/files%2F"),
        ),
    ]
}

#[tokio::test]
async fn a_callers_ids_are_useless_to_another() {
    let callers = Callers::start().await;
    let ids = ids_to_guess(&callers).await;
    let filled = |text: &str| {
        let fill = |text: String, (word, id): &(&str, String)| text.replace(word, id);
        ids.iter().fold(text.to_owned(), fill)
    };
    callers.mock.clear();
    let nobodys = "/v1/responses/resp_nobodys";
    let unknown = callers.send("guesser", "GET", nobodys, "").await;
    refused(&unknown, 404, "not_found", "unknown");
    let names = |reply: &Reply| -> Vec<String> {
        let names = reply.headers.iter().map(|(name, _)| name.clone());
        names.collect()
    };
    for (method, path, body) in GUESSES {
        let (path, body) = (filled(path), filled(body));
        let reply = callers.send("guesser", method, &path, &body).await;
        refused(&reply, 404, "not_found", &format!("{method} {path} {body}"));
        // Nothing reveals that the object exists.
        assert_eq!(reply.message(), unknown.message(), "{path}");
        assert_eq!(names(&reply), names(&unknown), "{path}");
    }
    assert!(
        callers.mock.seen_all().is_empty(),
        "no key was used: {:?}",
        callers.mock.recorded()
    );
    let own = callers
        .send("guesser", "GET", &filled("/v1/responses/OWN"), "")
        .await;
    let made = callers
        .send("owner", "GET", &filled("/v1/responses/RESPONSE"), "")
        .await;
    for reply in [own, made] {
        // The mock has forgotten it; what counts is that it was asked.
        assert_eq!((reply.status, reply.attempts()), (404, "1"), "{reply:?}");
    }
    callers.gw.all_idle().await;
    callers.gw.stop().await;
}

#[tokio::test]
async fn an_id_in_a_prompt_refuses_nobody() {
    let callers = Callers::start().await;
    let made = callers.send("owner", "POST", RESPONSES, STORED).await;
    let body = json!({"model": "m", "messages": [{"role": "user", "content": format!("what is {}?", id_of(&made))}]});
    let reply = callers
        .send("guesser", "POST", "/v1/chat/completions", &body.to_string())
        .await;
    assert_eq!(reply.status, 200, "{reply:?}");
    callers.gw.stop().await;
}

#[tokio::test]
async fn a_native_body_that_could_hide_ids_is_refused() {
    let callers = Callers::start().await;
    let file = callers.send("owner", "POST", "/p/v1/files", "a form").await;
    let body = format!(r#"{{"input_file_id":"{}"}}"#, id_of(&file));
    let wide: Vec<u8> = body.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let requests = || -> u64 {
        let seen = callers.mock.seen_all();
        seen.values().map(|seen| seen.requests).sum()
    };
    let before = requests();
    let bearer = format!("Bearer {}", Callers::secret("guesser"));
    let json = ("content-type", "application/json");
    for (headers, body) in [
        (vec![json, ("content-encoding", "gzip")], body.as_bytes()),
        (vec![("content-encoding", "deflate")], body.as_bytes()),
        // All lines are passed on, and the provider may use any of them.
        (
            vec![
                json,
                ("content-encoding", "identity"),
                ("content-encoding", "gzip"),
            ],
            body.as_bytes(),
        ),
        (vec![("content-type", "text/plain"), json], &wide),
        (vec![json, ("content-type", "text/plain")], body.as_bytes()),
        (vec![json], &wide),
        (vec![], &wide),
        (vec![json], b"{\"input_file_id\":\"\xff\"}"),
    ] {
        let mut all = vec![("authorization", bearer.as_str())];
        all.extend(&headers);
        let reply = callers.gw.send("POST", "/p/batches", &all, body).await;
        refused(&reply, 400, "invalid_request", &format!("{headers:?}"));
    }
    assert_eq!(requests(), before, "no key was used");
    callers.gw.stop().await;
}
