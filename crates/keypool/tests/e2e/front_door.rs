//! What comes in and what goes on to the provider: plain paths, headers, object endpoints, credentials in a body, web
//! pages, addresses in responses.

use keypool_testkit::{Mock, Recorded, Step};
use serde_json::json;

use crate::harness::{
    CHAT, Gateway, MARK, PoolConfig, bearer, key, pool, virtual_key, virtual_secret,
};
use crate::http::Reply;

const JSON: (&str, &str) = ("content-type", "application/json");

async fn start(config: &str) -> (Mock, Gateway) {
    let mock = Mock::start().await.expect("a mock");
    let gw = Gateway::start(&[&pool(&mock, 1), config].concat()).await;
    (mock, gw)
}

/// The request that the provider received last.
fn received(mock: &Mock) -> Recorded {
    mock.last_request(&key(1)).expect("a request")
}

#[tokio::test]
async fn a_plain_path_is_served_and_only_the_endpoints_own_goes_on() {
    let (mock, gw) = start("").await;
    let message =
        r#"{"model":"claude-x","max_tokens":9,"messages":[{"role":"user","content":"hello"}]}"#;
    let gemini = r#"{"contents":[{"parts":[{"text":"hello"}]}]}"#;
    for (path, body, expect) in [
        ("//v1/chat/completions", CHAT, "/v1/chat/completions"),
        ("/v1//chat/completions/", CHAT, "/v1/chat/completions"),
        ("/v1/v1/chat/completions", CHAT, "/v1/chat/completions"),
        ("/chat/completions", CHAT, "/v1/chat/completions"),
        (
            "/v1beta/openai/chat/completions",
            CHAT,
            "/v1/chat/completions",
        ),
        ("/p//v1/chat/completions", CHAT, "/v1/chat/completions"),
        ("//p/v1/chat/completions/", CHAT, "/v1/chat/completions"),
        ("/messages", message, "/v1/messages"),
        ("/v1/v1/messages", message, "/v1/messages"),
        (
            "/models/gemini-x:generateContent",
            gemini,
            "/v1beta/models/gemini-x:generateContent",
        ),
        (
            "/v1beta/models/gemini-x%3AgenerateContent",
            gemini,
            "/v1beta/models/gemini-x:generateContent",
        ),
        (
            "/v1beta/v1/models/gemini-x:generateContent?x=1",
            gemini,
            "/v1/models/gemini-x:generateContent?x=1",
        ),
        ("/search/", r#"{"query":"q"}"#, "/search"),
    ] {
        let reply = gw.post(path, body).await;
        assert_eq!(reply.status, 200, "{path}: {reply:?}");
        assert_eq!(received(&mock).path, expect, "{path}");
        assert_eq!(received(&mock).text(), body, "{path}");
    }
    for path in ["//v1/nowhere", "/v1/v1/nowhere", "/nowhere/", "/v1/search"] {
        let reply = gw.post(path, CHAT).await;
        assert_eq!((reply.status, &*reply.code()), (404, "not_found"), "{path}");
    }
    gw.stop().await;
}

#[tokio::test]
async fn admin_paths_and_native_paths_stay_as_they_are() {
    let (mock, gw) = start("").await;
    for path in [
        "//api/keys/stats",
        "/api//keys/stats",
        "/api/keys/stats/",
        "//metrics",
    ] {
        assert_eq!(gw.get(path).await.status, 401, "{path}");
    }
    assert!(mock.recorded().is_empty());
    let native = "/p/v1//own/place/";
    gw.post(native, "{}").await;
    assert_eq!(received(&mock).path, "/v1//own/place/");
    gw.stop().await;
}

#[tokio::test]
async fn a_pools_name_wins_over_a_path_without_a_version() {
    let mock = Mock::start().await.expect("a mock");
    let chat = PoolConfig::new(&mock, "chat", [1]).to_string();
    let gw = Gateway::start(&chat).await;
    let reply = gw.post("/chat/completions", CHAT).await;
    assert_eq!(reply.header("x-keypool-pool"), Some("chat"));
    // In a pool, a known endpoint may be written without its version too.
    assert_eq!(received(&mock).path, "/v1/completions");
    gw.stop().await;
}

#[tokio::test]
async fn a_websocket_gets_426_in_the_protocol_of_the_client() {
    let (mock, gw) = start("").await;
    for path in [
        "/v1/responses",
        "/v1/realtime",
        "/nowhere",
        "/p/v1/responses",
    ] {
        let headers = [("connection", "Upgrade"), ("upgrade", "websocket")];
        let reply = gw.send("GET", path, &headers, b"").await;
        assert_eq!(
            (reply.status, &*reply.code()),
            (426, "upgrade_required"),
            "{path}"
        );
        assert_eq!(reply.header("upgrade"), Some("HTTP/1.1"), "{path}");
    }
    assert!(mock.recorded().is_empty());
    gw.stop().await;
}

#[tokio::test]
async fn a_model_with_googles_prefix_counts_as_the_model_itself() {
    let mock = Mock::start().await.expect("a mock");
    let gemini = PoolConfig::new(&mock, "g", [1]).set("models", vec!["gemini-*"]);
    let other = PoolConfig::new(&mock, "o", [2]).set("models", vec!["gpt-*"]);
    let config = [
        gemini.to_string(),
        other.to_string(),
        virtual_key("team", "models = [\"gemini-*\"]"),
    ];
    let gw = Gateway::start(&config.concat()).await;
    let auth = bearer("team");
    let send = async |model: &str| {
        let body = json!({"model": model, "messages": [{"role": "user", "content": "hello"}]});
        let headers = [JSON, ("authorization", &*auth)];
        gw.send(
            "POST",
            "/v1beta/openai/chat/completions",
            &headers,
            body.to_string().as_bytes(),
        )
        .await
    };
    let reply = send("models/gemini-x").await;
    assert_eq!((reply.status, reply.key()), (200, "g-1"), "{reply:?}");
    assert!(received(&mock).text().contains(r#""models/gemini-x""#));
    let reply = send("g/models/gemini-x").await;
    assert_eq!((reply.status, reply.key()), (200, "g-1"), "{reply:?}");
    assert!(received(&mock).text().contains(r#""gemini-x""#));
    let reply = send("models/gpt-x").await;
    assert_eq!((reply.status, &*reply.code()), (403, "model_not_allowed"));
    gw.stop().await;
}

#[tokio::test]
async fn headers_of_proxies_in_front_stay_here() {
    let (mock, gw) = start("").await;
    let added = [
        ("cf-connecting-ip", "203.0.113.1"),
        ("cdn-loop", "cloudflare"),
        ("x-real-ip", "203.0.113.1"),
        ("via", "1.1 front"),
        ("fly-client-ip", "203.0.113.1"),
        ("x-amzn-trace-id", "Root=1"),
        ("akamai-origin-hop", "1"),
        ("x-forwarded-for", "203.0.113.1"),
        ("sec-fetch-mode", "cors"),
    ];
    let headers = [
        &added[..],
        &[JSON, ("x-custom", "stays"), ("traceparent", "00-1")],
    ]
    .concat();
    let reply = gw
        .send("POST", "/v1/chat/completions", &headers, CHAT.as_bytes())
        .await;
    assert_eq!(reply.status, 200, "{reply:?}");
    let request = received(&mock);
    for (name, _) in added {
        assert_eq!(request.header(name), None, "{name}");
    }
    assert_eq!(request.header("x-custom"), Some("stays"));
    assert_eq!(request.header("traceparent"), Some("00-1"));
    gw.stop().await;
}

/// A pool at the mock, and callers with and without native paths.
async fn with_callers() -> (Mock, Gateway) {
    let callers = [
        virtual_key("plain", ""),
        virtual_key("native", "native = true"),
        virtual_key("narrow", "models = [\"gpt-small\"]"),
    ];
    start(&callers.concat()).await
}

async fn send(gw: &Gateway, caller: &str, request: &str, body: &str) -> Reply {
    let (method, path) = request.split_once(' ').expect("method and path");
    let auth = bearer(caller);
    let headers = [JSON, ("authorization", &*auth)];
    gw.send(method, path, &headers, body.as_bytes()).await
}

#[tokio::test]
async fn objects_are_served_without_native_and_lists_are_not() {
    let (mock, gw) = with_callers().await;
    for (creating, collection) in [
        ("POST /v1/files", "/v1/files"),
        ("POST /v1/conversations", "/v1/conversations"),
        ("POST /v1/vector_stores/", "/v1/vector_stores"),
        ("POST /v1/videos", "/v1/videos"),
        ("POST /v1beta/cachedContents", "/v1beta"),
    ] {
        let made = send(&gw, "plain", creating, "{}").await;
        assert_eq!(made.status, 200, "{creating}: {made:?}");
        let made = made.json();
        let id = made["id"].as_str().or(made["name"].as_str());
        let object = format!("GET {collection}/{}", id.expect("an id"));
        assert_eq!(
            send(&gw, "plain", &object, "").await.status,
            200,
            "{object}"
        );
        let others = send(&gw, "native", &object, "").await;
        assert_eq!(others.status, 404, "{object}");
    }
    let asked = mock.recorded().len();
    for list in [
        "GET /v1/videos",
        "GET /v1/videos/",
        "GET /v1beta/cachedContents",
        "GET /v1/messages/batches",
        "GET /p/v1/files",
    ] {
        let reply = send(&gw, "plain", list, "").await;
        assert_eq!(
            (reply.status, &*reply.code()),
            (403, "native_not_allowed"),
            "{list}"
        );
    }
    // Those that are kept here are the caller's own.
    for list in ["GET /v1/files", "GET /v1/files/", "GET /v1/batches"] {
        let reply = send(&gw, "plain", list, "").await;
        assert_eq!((reply.status, &reply.json()["data"]), (200, &json!([])));
    }
    assert_eq!(mock.recorded().len(), asked);
    gw.stop().await;
}

#[tokio::test]
async fn the_calls_below_responses_take_a_model() {
    let (mock, gw) = with_callers().await;
    let scripted = || {
        Step::status(
            200,
            r#"{"id":"resp_9","object":"response.compaction","output":[]}"#,
        )
    };
    for path in ["/v1/responses/compact", "/v1/responses/input_tokens"] {
        mock.script(&key(1), [scripted()]);
        let body = r#"{"model":"gpt-x","input":"hello"}"#;
        let reply = send(&gw, "plain", &format!("POST {path}"), body).await;
        assert_eq!(reply.status, 200, "{path}: {reply:?}");
        assert_eq!(
            (received(&mock).path, received(&mock).text()),
            (path.to_owned(), body.to_owned())
        );
        let reply = send(&gw, "narrow", &format!("POST {path}"), body).await;
        assert_eq!(reply.code(), "model_not_allowed", "{path}");
    }
    let reply = send(&gw, "plain", "POST /v1/responses/compact", "{}").await;
    assert_eq!(reply.code(), "invalid_request");
    gw.stop().await;
}

#[tokio::test]
async fn a_caller_with_few_models_cannot_hide_another_one() {
    let (mock, gw) = with_callers().await;
    for (request, body) in [
        ("POST /v1/batches", r#"{"input_file_id":"f"}"#),
        ("POST /v1/videos", "{}"),
        ("POST /v1/images/generations", r#"{"prompt":"p"}"#),
        ("POST /v1/responses", r#"{"prompt":{"id":"pmpt_1"}}"#),
        ("POST /v1/messages/batches", r#"{"requests":[]}"#),
        ("POST /v1beta/interactions", r#"{"agent":"a"}"#),
        ("POST /v1beta/tunedModels/t:generateContent", "{}"),
        ("POST /v1/assistants", r#"{"model":"gpt-large"}"#),
    ] {
        let reply = send(&gw, "narrow", request, body).await;
        assert_eq!(
            (reply.status, &*reply.code()),
            (403, "model_not_allowed"),
            "{request}"
        );
    }
    assert!(mock.recorded().is_empty());
    let reply = send(&gw, "plain", "POST /v1/videos", "{}").await;
    assert_eq!(reply.status, 200, "{reply:?}");
    gw.stop().await;
}

#[tokio::test]
async fn a_batch_goes_to_the_account_of_its_file() {
    let mock = Mock::start().await.expect("a mock");
    let pools = [1, 2].map(|n| PoolConfig::new(&mock, &format!("p{n}"), [n]).to_string());
    let gw = Gateway::start(&pools.concat()).await;
    let file = gw.post("/p2/v1/files", "{}").await.json();
    let body = json!({"input_file_id": file["id"], "endpoint": "/v1/chat/completions"});
    let batch = gw.post("/v1/batches", &body.to_string()).await;
    assert_eq!((batch.status, batch.key()), (200, "p2-1"), "{batch:?}");
    // What names no object goes to the first pool.
    assert_eq!(gw.post("/v1/files", "{}").await.key(), "p1-1");
    gw.stop().await;
}

#[tokio::test]
async fn tavilys_key_in_the_body_is_a_credential_and_stays_here() {
    let (mock, gw) = start(&virtual_key("team", "")).await;
    let secret = virtual_secret("team");
    for (body, rest) in [
        (r#"{"api_key":"KEY","query":"q"}"#, r#"{"query":"q"}"#),
        (
            r#"{ "query" : "q" , "api_key" : "KEY" }"#,
            r#"{ "query" : "q"  }"#,
        ),
        (
            r#"{"query":"q","api\u005fkey":"KEY","max_results":2}"#,
            r#"{"query":"q","max_results":2}"#,
        ),
    ] {
        let body = body.replace("KEY", &secret);
        let reply = gw.post("/search", &body).await;
        assert_eq!(reply.status, 200, "{reply:?}");
        assert_eq!(received(&mock).text(), rest);
    }
    let asked = mock.recorded().len();
    for body in [
        r#"{"query":"q"}"#.to_owned(),
        r#"{"api_key":"wrong","query":"q"}"#.to_owned(),
        r#"{"api_key":7,"query":"q"}"#.to_owned(),
        format!(r#"{{"x":{{"api_key":"{secret}"}},"query":"q"}}"#),
        format!(
            r#"{{"api_key":"{secret}","query":"{}"}}"#,
            "q".repeat(300_000)
        ),
        "no JSON".to_owned(),
    ] {
        let reply = gw.post("/search", &body).await;
        assert_eq!((reply.status, &*reply.code()), (401, "invalid_virtual_key"));
    }
    let twice = format!(r#"{{"api_key":"{secret}","query":"q","api_key":"{secret}"}}"#);
    assert_eq!(gw.post("/search", &twice).await.status, 400);
    // Only Tavily's clients put it there.
    let chat = format!(r#"{{"api_key":"{secret}",{}"#, &CHAT[1..]);
    assert_eq!(gw.post("/v1/chat/completions", &chat).await.status, 401);
    assert_eq!(mock.recorded().len(), asked);
    gw.stop().await;
}

#[tokio::test]
async fn tavilys_key_beside_a_header_stays_here_too() {
    let (mock, gw) = start(&virtual_key("team", "native = true")).await;
    let large = "q".repeat(300_000);
    for (path, body, rest) in [
        (
            "/search",
            r#"{"api_key":"tvly-x","query":"q"}"#.to_owned(),
            r#"{"query":"q"}"#.to_owned(),
        ),
        (
            "/extract",
            r#"{"urls":"u","api_key":null}"#.to_owned(),
            r#"{"urls":"u"}"#.to_owned(),
        ),
        (
            "/p/search",
            r#"{"api_key":"tvly-x","query":"q"}"#.to_owned(),
            r#"{"query":"q"}"#.to_owned(),
        ),
        (
            "/research",
            r#"{"input":"i","api_key":"tvly-x"}"#.to_owned(),
            r#"{"input":"i"}"#.to_owned(),
        ),
        (
            "/search",
            format!(r#"{{"query":"{large}","api_key":"tvly-x"}}"#),
            format!(r#"{{"query":"{large}"}}"#),
        ),
    ] {
        let reply = send(&gw, "team", &format!("POST {path}"), &body).await;
        assert!(reply.status < 300, "{reply:?}");
        let sent = received(&mock);
        assert_eq!(sent.body_len, rest.len() as u64, "{path}");
        assert!(!sent.text().contains("api_key"), "{path}");
    }
    gw.stop().await;
}

#[tokio::test]
async fn a_tavily_key_in_the_body_is_ignored_while_none_is_needed() {
    let (mock, gw) = start("").await;
    let body = format!(r#"{{"api_key":"tvly-{MARK}","query":"q"}}"#);
    assert_eq!(gw.post("/search", &body).await.status, 200);
    assert_eq!(received(&mock).text(), r#"{"query":"q"}"#);
    gw.stop().await;
}

const APP: &str = "https://app.example.com";

/// A gateway with an allowed origin. The settings of the server come before every table.
async fn with_origin(more: &str) -> (Mock, Gateway) {
    let mock = Mock::start().await.expect("a mock");
    let server = format!("[server]\nallowed_origins = [\"{APP}\"]\n{more}\n");
    let gw = Gateway::start(&[server, pool(&mock, 1)].concat()).await;
    (mock, gw)
}

#[tokio::test]
async fn a_page_of_an_allowed_origin_may_call_and_read() {
    let (mock, gw) = with_origin("auth = \"required\"").await;
    let preflight = [
        ("origin", APP),
        ("access-control-request-method", "POST"),
        (
            "access-control-request-headers",
            "authorization,x-stainless-os",
        ),
    ];
    for path in [
        "/v1/chat/completions",
        "/p/own/path",
        "/search",
        "/v1beta/models",
    ] {
        let reply = gw.send("OPTIONS", path, &preflight, b"").await;
        assert_eq!(reply.status, 204, "{path}: {reply:?}");
        let header = |name| reply.header(name).unwrap_or_default();
        assert_eq!(header("access-control-allow-origin"), APP);
        assert_eq!(
            header("access-control-allow-headers"),
            "authorization,x-stainless-os"
        );
        assert!(header("access-control-allow-methods").contains("POST"));
        assert!(reply.header("access-control-allow-credentials").is_none());
    }
    // An error is readable too.
    let reply = gw
        .send(
            "POST",
            "/v1/chat/completions",
            &[JSON, ("origin", APP)],
            CHAT.as_bytes(),
        )
        .await;
    assert_eq!(reply.status, 401);
    assert_eq!(reply.header("access-control-allow-origin"), Some(APP));
    assert_eq!(reply.header("vary"), Some("Origin"));
    assert!(
        reply
            .header("access-control-expose-headers")
            .is_some_and(|all| all.contains("x-keypool-key"))
    );
    assert!(mock.recorded().is_empty());
    gw.stop().await;
}

#[tokio::test]
async fn responses_echo_an_allowed_origin_and_no_other() {
    let (mock, gw) = with_origin("").await;
    let theirs = Step::Status {
        status: 200,
        headers: vec![
            ("access-control-allow-origin".to_owned(), "*".to_owned()),
            (
                "access-control-allow-credentials".to_owned(),
                "true".to_owned(),
            ),
            ("vary".to_owned(), "Accept".to_owned()),
        ],
        body: r#"{"choices":[]}"#.to_owned(),
    };
    mock.script(&key(1), [theirs]);
    let chat = async |headers: &[(&str, &str)]| {
        gw.send("POST", "/v1/chat/completions", headers, CHAT.as_bytes())
            .await
    };
    let reply = chat(&[JSON, ("origin", APP)]).await;
    assert_eq!(reply.status, 200, "{reply:?}");
    let allowed = |reply: &Reply| {
        let named = reply
            .headers
            .iter()
            .filter(|(name, _)| name.starts_with("access-control-allow"));
        named.map(|(_, value)| value.clone()).collect::<Vec<_>>()
    };
    assert_eq!(allowed(&reply), [APP]);
    let vary = reply.headers.iter().filter(|(name, _)| name == "vary");
    assert!(vary.map(|(_, value)| &**value).eq(["Accept", "Origin"]));
    assert!(allowed(&chat(&[JSON]).await).is_empty());
    for origin in [
        "https://evil.example",
        "null",
        "https://app.example.com.evil.example",
    ] {
        let reply = chat(&[JSON, ("origin", origin)]).await;
        assert_eq!(reply.status, 400, "{origin}");
        assert!(allowed(&reply).is_empty(), "{origin}");
        let headers = [
            ("origin", origin),
            ("access-control-request-method", "POST"),
        ];
        let preflight = gw
            .send("OPTIONS", "/v1/chat/completions", &headers, b"")
            .await;
        assert_ne!(preflight.status, 204, "{origin}");
        assert!(allowed(&preflight).is_empty(), "{origin}");
    }
    gw.stop().await;
}

#[tokio::test]
async fn an_allowed_origin_never_opens_the_admin_api() {
    let (_mock, gw) = with_origin("").await;
    for path in [
        "/api/keys/stats",
        "/api/v1/admin/traces",
        "/metrics",
        "/healthz",
    ] {
        for method in ["OPTIONS", "GET"] {
            let headers = [("origin", APP), ("access-control-request-method", "GET")];
            let reply = gw.send(method, path, &headers, b"").await;
            assert_ne!(reply.status, 204, "{method} {path}");
            assert!(
                reply.header("access-control-allow-origin").is_none(),
                "{method} {path}"
            );
        }
    }
    gw.stop().await;
}

#[tokio::test]
async fn the_address_of_a_batchs_results_leads_here() {
    let (mock, gw) = with_callers().await;
    let auth = bearer("plain");
    let headers = [
        JSON,
        ("x-api-key", &auth["Bearer ".len()..]),
        ("anthropic-version", "x"),
    ];
    let send = async |method: &str, path: &str, body: &str| {
        gw.send(method, path, &headers, body.as_bytes()).await
    };
    let batch = send("POST", "/v1/messages/batches", r#"{"requests":[]}"#).await;
    assert_eq!(batch.status, 200, "{batch:?}");
    let id = batch.json()["id"].as_str().expect("an id").to_owned();
    let results = format!("/v1/messages/batches/{id}/results");
    assert_eq!(batch.json()["results_url"], results);
    assert_eq!(
        batch.header("content-length"),
        Some(&*batch.body.len().to_string())
    );
    for path in [
        "/v1/messages/batches",
        "/p/v1/messages/batches",
        "/messages/batches",
    ] {
        let batch = send("GET", &format!("{path}/{id}"), "").await;
        assert_eq!(batch.json()["results_url"], results, "{path}");
    }
    assert_eq!(send("GET", &results, "").await.status, 200);
    let page = json!({"data": [{"results_url": format!("https://api.anthropic.com{results}")}, {"results_url": null}], "has_more": false, "pad": "x".repeat(200_000)});
    mock.script(&key(1), [Step::status(200, page.to_string())]);
    let headers = [
        ("authorization", &*bearer("native")),
        ("anthropic-version", "x"),
    ];
    let list = gw
        .send("GET", "/v1/messages/batches?limit=2", &headers, b"")
        .await;
    assert_eq!(list.json()["data"][0]["results_url"], results);
    assert_eq!(list.json()["pad"], page["pad"]);
    gw.stop().await;
}

#[tokio::test]
async fn an_address_that_cannot_be_read_is_not_passed_on() {
    let (mock, gw) = start("").await;
    let compressed = Step::Status {
        status: 200,
        headers: vec![("content-encoding".to_owned(), "gzip".to_owned())],
        body: r#"{"results_url":"https://api.anthropic.com/x"}"#.to_owned(),
    };
    for step in [compressed, Step::ResetMidBody] {
        mock.script(&key(1), [step]);
        let headers = [JSON, ("anthropic-version", "x")];
        let batch = br#"{"requests":[]}"#;
        let reply = gw
            .send("POST", "/v1/messages/batches", &headers, batch)
            .await;
        assert_eq!(
            (reply.status, &*reply.code()),
            (502, "upstream_unreachable"),
            "{reply:?}"
        );
    }
    gw.stop().await;
}

#[tokio::test]
async fn the_address_of_an_upload_is_public_where_that_is_set() {
    let mock = Mock::start().await.expect("a mock");
    let server = "[server]\npublic_url = \"https://llm.example.com/gw/\"\n";
    let gw = Gateway::start(&[server, &pool(&mock, 1)].concat()).await;
    let began = Step::Status {
        status: 200,
        headers: vec![(
            "x-goog-upload-url".to_owned(),
            "https://google.example/upload/v1beta/files?upload_id=U".to_owned(),
        )],
        body: String::new(),
    };
    mock.script(&key(1), [began]);
    let headers = [
        ("x-goog-upload-protocol", "resumable"),
        ("x-goog-upload-command", "start"),
    ];
    let reply = gw.send("POST", "/upload/v1beta/files", &headers, b"").await;
    let next = "https://llm.example.com/gw/upload/v1beta/files?upload_id=U";
    assert_eq!(reply.header("x-goog-upload-url"), Some(next), "{reply:?}");
    gw.stop().await;
}
