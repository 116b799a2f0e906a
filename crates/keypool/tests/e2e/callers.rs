//! Who may call, from where, and what the provider learns about the caller.

use keypool_testkit::Mock;

use crate::bad_input::{raw, refused};
use crate::harness::{
    CHAT, CHAT_PATH, Gateway, MARK, PoolConfig, bearer, key, pool, virtual_key, virtual_secret,
};

#[tokio::test]
async fn without_virtual_keys_foreign_hosts_and_origins_are_refused() {
    let mock = Mock::start().await.unwrap();
    let config = format!(
        "[server]\nallowed_hosts = [\"llm.example.com\"]\nallowed_origins = [\"https://app.example.com\"]\n{}",
        pool(&mock, 1)
    );
    let gw = Gateway::start(&config).await;
    let own = gw.addr.to_string();
    let bad: Vec<Vec<(&str, &str)>> = vec![
        vec![("host", "evil.example")],
        vec![("host", "evil.example:80")],
        vec![("host", "127.0.0.1.evil.example")],
        vec![("host", "localhost.evil.example")],
        vec![("host", "")],
        vec![("host", "localhost"), ("host", "evil.example")],
        vec![("host", "evil.example"), ("host", "localhost")],
        vec![("origin", "https://evil.example")],
        vec![("origin", "null")],
        vec![("origin", "http://localhost:3000")],
        vec![("origin", "https://app.example.com.evil.example")],
        vec![
            ("origin", "https://app.example.com"),
            ("origin", "https://evil.example"),
        ],
        vec![("host", "evil.example"), ("x-forwarded-host", "localhost")],
        vec![
            ("host", "evil.example"),
            ("authorization", "Bearer whatever"),
        ],
    ];
    for headers in &bad {
        for (method, path) in [("POST", CHAT_PATH), ("GET", "/v1/models"), ("POST", "/p/x")] {
            let reply = gw.send(method, path, headers, CHAT.as_bytes()).await;
            refused(&reply, 400, "invalid_request", &format!("{headers:?}"));
            assert!(
                reply.header("access-control-allow-origin").is_none(),
                "{headers:?}"
            );
        }
    }
    for (target, host) in [
        ("http://evil.example/v1/chat/completions", own.as_str()),
        ("http://evil.example/v1/chat/completions", "evil.example"),
        ("http://localhost/v1/chat/completions", "evil.example"),
    ] {
        let reply = gw
            .send("POST", target, &[("host", host)], CHAT.as_bytes())
            .await;
        refused(&reply, 400, "invalid_request", target);
    }
    let no_host = format!(
        "POST {CHAT_PATH} HTTP/1.0\r\ncontent-length: {}\r\n\r\n{CHAT}",
        CHAT.len()
    );
    let (reply, _) = raw(&gw, no_host.as_bytes()).await.unwrap();
    assert_eq!(reply.status, 400, "{reply:?}");
    assert!(mock.seen_all().is_empty(), "{:?}", mock.recorded());
    for headers in [
        vec![("host", "localhost")],
        vec![("host", "LOCALHOST:1234")],
        vec![("host", "[::1]:8080")],
        vec![("host", "llm.example.com")],
        vec![("origin", "https://app.example.com")],
    ] {
        let reply = gw.send("POST", CHAT_PATH, &headers, CHAT.as_bytes()).await;
        assert_eq!(reply.status, 200, "{headers:?}: {reply:?}");
    }
    gw.stop().await;
}

/// A gateway with the virtual keys `team-a` and `disabled`.
async fn with_virtual_keys(mock: &Mock) -> Gateway {
    let config = [
        pool(mock, 1),
        virtual_key("team-a", "models = [\"gpt-*\"]"),
        virtual_key("disabled", "disabled = true"),
    ];
    Gateway::start(&config.concat()).await
}

#[tokio::test]
async fn requests_without_a_valid_virtual_key_get_401() {
    let mock = Mock::start().await.unwrap();
    let gw = with_virtual_keys(&mock).await;
    let wrong = format!("{}x", bearer("team-a"));
    let disabled = bearer("disabled");
    for headers in [
        vec![],
        vec![("authorization", wrong.as_str())],
        vec![("authorization", disabled.as_str())],
        vec![("x-api-key", "nonsense")],
        vec![("authorization", "Basic dGVhbQ==")],
    ] {
        for (path, says) in [
            (CHAT_PATH, "authentication_error"),
            ("/v1/messages", "authentication_error"),
            ("/v1beta/models/m:generateContent", "UNAUTHENTICATED"),
            ("/search", "detail"),
            ("/p/x", ""),
            ("/v1/nothing", ""),
        ] {
            let reply = gw.send("POST", path, &headers, CHAT.as_bytes()).await;
            refused(
                &reply,
                401,
                "invalid_virtual_key",
                &format!("{path} {headers:?}"),
            );
            assert!(reply.text().contains(says), "{path}: {reply:?}");
        }
    }
    assert!(mock.seen_all().is_empty());
    gw.stop().await;
}

#[tokio::test]
async fn a_virtual_key_grants_only_what_it_allows() {
    let mock = Mock::start().await.unwrap();
    let gw = with_virtual_keys(&mock).await;
    let (team, bearer) = (virtual_secret("team-a"), bearer("team-a"));
    let good = [("authorization", bearer.as_str())];
    for (path, body, status, code) in [
        (
            CHAT_PATH,
            CHAT.replace("gpt-x", "claude"),
            403,
            "model_not_allowed",
        ),
        ("/p/agents", String::new(), 403, "native_not_allowed"),
        ("/v1/nothing", String::new(), 404, "not_found"),
    ] {
        let reply = gw.send("POST", path, &good, body.as_bytes()).await;
        refused(&reply, status, code, path);
    }
    assert!(mock.seen_all().is_empty());
    for headers in [
        good.to_vec(),
        vec![("x-api-key", team.as_str())],
        vec![("x-goog-api-key", team.as_str())],
        vec![
            ("authorization", bearer.as_str()),
            ("host", "evil.example"),
            ("origin", "https://evil.example"),
        ],
    ] {
        let reply = gw.send("POST", CHAT_PATH, &headers, CHAT.as_bytes()).await;
        assert_eq!(reply.status, 200, "{reply:?}");
    }
    let path = format!("{CHAT_PATH}?key={team}");
    assert_eq!(gw.post(&path, CHAT).await.status, 200);
    for recorded in mock.recorded() {
        assert!(
            !format!("{recorded:?}").contains(&team),
            "a virtual key went to the provider: {recorded:?}"
        );
    }
    gw.stop().await;
}

/// Headers about the caller, its network path or its account. The first five hold its credential.
const PRIVATE: [(&str, &str); 23] = [
    ("authorization", ""),
    ("x-api-key", ""),
    ("x-goog-api-key", ""),
    ("api-key", ""),
    ("proxy-authorization", ""),
    ("openai-organization", "org-evil"),
    ("openai-project", "proj-evil"),
    ("anthropic-workspace-id", "ws-evil"),
    ("x-goog-user-project", "proj-evil"),
    ("cookie", "session=1"),
    ("referer", "http://localhost/page"),
    ("forwarded", "for=10.0.0.1"),
    ("x-forwarded-for", "10.0.0.1"),
    ("x-forwarded-host", "inside"),
    ("x-forwarded-anything", "1"),
    ("x-keypool-trace", "1"),
    ("prefer", "wait=5"),
    ("expect", "nothing"),
    ("te", "trailers"),
    ("connection", "keep-alive, x-hop"),
    ("keep-alive", "timeout=5"),
    ("x-hop", "1"),
    ("upgrade", "h2c"),
];
const PASSING: [(&str, &str); 5] = [
    ("x-custom", "kept"),
    ("user-agent", "my-program/1"),
    ("content-type", "application/json"),
    ("accept-encoding", "gzip"),
    ("x-stainless-lang", "rust"),
];

#[tokio::test]
async fn private_headers_of_the_caller_do_not_reach_the_provider() {
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start(&pool(&mock, 1)).await;
    let credential = format!("client-{MARK}-1");
    let bearer = format!("Bearer {credential}");
    let mut headers: Vec<(&str, &str)> = PRIVATE.iter().chain(&PASSING).copied().collect();
    for (name, value) in &mut headers[..5] {
        *value = if *name == "authorization" {
            &bearer
        } else {
            &credential
        };
    }
    let path = format!("{CHAT_PATH}?key={credential}&alt=sse&%6bey=x&monkey=1");
    let reply = gw.send("POST", &path, &headers, CHAT.as_bytes()).await;
    assert_eq!(reply.status, 200, "{reply:?}");
    let seen = mock.last_request(&key(1)).unwrap();
    assert_eq!(seen.path, format!("{CHAT_PATH}?alt=sse&monkey=1"));
    let own = format!("Bearer {}", key(1));
    for (name, _) in PRIVATE {
        let value = seen.header(name);
        match name {
            "authorization" => assert_eq!(value, Some(own.as_str())),
            _ => assert_eq!(value, None, "{name}"),
        }
    }
    assert_eq!(seen.header("host"), Some(mock.addr().to_string().as_str()));
    for (name, value) in PASSING {
        let expect = if name == "accept-encoding" {
            "identity"
        } else {
            value
        };
        assert_eq!(seen.header(name), Some(expect), "{name}");
    }
    let names: Vec<&str> = reply
        .headers
        .iter()
        .map(|(name, _)| name.as_str())
        .collect();
    for name in [
        "set-cookie",
        "openai-organization",
        "x-ratelimit-limit-requests",
    ] {
        assert!(!names.contains(&name), "{names:?}");
    }
    assert!(reply.header("x-keypool-upstream-request-id").is_some());
    gw.stop().await;
}

#[tokio::test]
async fn providers_are_asked_for_uncompressed_answers() {
    let mock = Mock::start().await.unwrap();
    let config = format!(
        "{}{}",
        PoolConfig::new(&mock, "p", [1]).set("models", vec!["gpt-*"]),
        PoolConfig::new(&mock, "tavily", [2]).set("provider", "tavily")
    );
    let gw = Gateway::start(&config).await;
    let query = "{\"query\":\"hello\"}";
    let calls = [
        ("POST", "/p/native/path", query),
        ("GET", "/p/native/path", ""),
        ("POST", "/search", query),
        ("POST", "/tavily/search", query),
        ("GET", "/tavily/usage", ""),
        ("GET", "/usage", ""),
        ("POST", CHAT_PATH, CHAT),
    ];
    for (method, path, body) in calls {
        let headers = [("accept-encoding", "gzip, br")];
        gw.send(method, path, &headers, body.as_bytes()).await;
        let seen = mock.recorded().pop().unwrap();
        assert_eq!(
            (seen.method.as_str(), seen.header("accept-encoding")),
            (method, Some("identity")),
            "{path}: {seen:?}"
        );
    }
    assert_eq!(mock.recorded().len(), calls.len());
    gw.stop().await;
}

#[tokio::test]
async fn a_providers_openai_path_is_an_openai_endpoint() {
    let mock = Mock::start().await.unwrap();
    let gemini = PoolConfig::new(&mock, "gemini", [1]).set("provider", "gemini");
    let team = virtual_key("team-a", "models = [\"gemini-*\"]");
    let gw = Gateway::start(&format!("{gemini}{team}")).await;
    let bearer = bearer("team-a");
    let good = [("authorization", bearer.as_str())];
    let path = "/gemini/v1beta/openai/chat/completions";
    let chat = |model: &str| CHAT.replace("gpt-x", model);
    for (body, status, code) in [
        ("{\"model\":".to_owned(), 400, "invalid_request"),
        (chat("gpt-x"), 403, "model_not_allowed"),
    ] {
        let reply = gw.send("POST", path, &good, body.as_bytes()).await;
        refused(&reply, status, code, &body);
        let error = &reply.json()["error"];
        assert!(
            error["type"].is_string() && error["status"].is_null(),
            "not in OpenAI's format: {error}"
        );
    }
    let reply = gw.send("POST", "/gemini/v1beta/agents", &good, b"{}").await;
    refused(&reply, 403, "native_not_allowed", "a native path");
    assert!(mock.seen_all().is_empty(), "{:?}", mock.recorded());
    let reply = gw
        .send("POST", path, &good, chat("gemini-x").as_bytes())
        .await;
    assert_eq!(reply.status, 200, "{reply:?}");
    assert!(reply.json()["choices"].is_array(), "{reply:?}");
    let seen = mock.last_request(&key(1)).unwrap();
    let own = format!("Bearer {}", key(1));
    assert_eq!(
        (
            seen.path.as_str(),
            seen.header("authorization"),
            seen.header("x-goog-api-key")
        ),
        ("/v1beta/openai/chat/completions", Some(own.as_str()), None),
        "{seen:?}"
    );
    gw.stop().await;
}

#[tokio::test]
async fn errors_do_not_name_pools_that_the_caller_may_not_use() {
    let mock = Mock::start().await.unwrap();
    let config = [
        PoolConfig::new(&mock, "the-search", [1])
            .set("provider", "tavily")
            .to_string(),
        PoolConfig::new(&mock, "the-chat", [2])
            .set("provider", "openai")
            .to_string(),
        virtual_key("search", "pools = [\"the-search\"]"),
        virtual_key("chat", "pools = [\"the-chat\"]"),
    ];
    let gw = Gateway::start(&config.concat()).await;
    for (name, method, path, body, hidden) in [
        ("chat", "POST", "/search", r#"{"query":"q"}"#, "the-search"),
        ("search", "GET", "/v1/responses/resp_1", "", "the-chat"),
    ] {
        let bearer = bearer(name);
        let headers = [("authorization", bearer.as_str())];
        let reply = gw.send(method, path, &headers, body.as_bytes()).await;
        refused(&reply, 403, "model_not_allowed", path);
        assert!(!reply.text().contains(hidden), "{path}: {}", reply.text());
    }
    gw.stop().await;
}

#[tokio::test]
async fn a_callers_only_pool_does_not_count_as_the_only_pool() {
    let mock = Mock::start().await.unwrap();
    let one =
        |name: &str| PoolConfig::new(&mock, name, [1]).set("models", vec![format!("{name}-*")]);
    let caller = virtual_key("only-b", "pools = [\"pb\"]");
    let gw = Gateway::start(&format!("{}{}{caller}", one("pa"), one("pb"))).await;
    let bearer = bearer("only-b");
    for (model, status, code) in [
        ("pb-x", 200, ""),
        ("pa-x", 403, "model_not_allowed"),
        ("pa/pa-x", 403, "model_not_allowed"),
        ("nope", 404, "model_not_found"),
    ] {
        let body = CHAT.replace("gpt-x", model);
        let headers = [("authorization", bearer.as_str())];
        let reply = gw.send("POST", CHAT_PATH, &headers, body.as_bytes()).await;
        assert_eq!(
            (reply.status, reply.code().as_str()),
            (status, code),
            "{model}"
        );
    }
    gw.stop().await;
}

#[tokio::test]
async fn errors_name_only_models_that_the_caller_may_use() {
    let mock = Mock::start().await.unwrap();
    let config = format!(
        "{}{}[[routes]]\nmodel = \"fast\"\ntargets = [{{ pool = \"blue\", model = \"blue-a\" }}]\n{}{}{}{}",
        PoolConfig::new(&mock, "blue", [1]).set("models", vec!["blue-*"]),
        PoolConfig::new(&mock, "red", [2]).set("models", vec!["red-*"]),
        virtual_key("all", ""),
        virtual_key("red", "pools = [\"red\"]"),
        virtual_key("few", "models = [\"blue-a\", \"red-b*\", \"none\"]"),
        virtual_key("fast", "models = [\"fast\"]"),
    );
    let gw = Gateway::start(&config).await;
    for (name, known) in [
        ("all", "; known here: fast, blue-*, red-*"),
        ("red", "; known here: red-*"),
        ("few", "; known here: fast, blue-a, red-b*"),
        ("fast", "; known here: fast"),
    ] {
        let bearer = bearer(name);
        let headers = [("authorization", bearer.as_str())];
        let body = br#"{"model":"x","messages":[]}"#;
        let reply = gw.send("POST", CHAT_PATH, &headers, body).await;
        refused(&reply, 404, "model_not_found", name);
        let message = reply.message();
        assert_eq!(
            message,
            format!("no pool serves model \"x\"{known}"),
            "{name}"
        );
    }
    gw.stop().await;
}
