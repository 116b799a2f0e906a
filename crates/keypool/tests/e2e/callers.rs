//! Who may call, from where, and how much of a caller the provider gets to see.

use keypool_testkit::Mock;

use crate::bad_input::{raw, refused};
use crate::harness::{CHAT, CHAT_PATH, Gateway, MARK, key, pool};

#[tokio::test]
async fn without_a_key_no_web_page_can_spend_the_keys() {
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

/// A gateway with one virtual key that is good and one that is switched off.
async fn with_virtual_keys(mock: &Mock) -> (Gateway, String, String) {
    let (team, shut) = (
        format!("vk-{MARK}-team-a-0001"),
        format!("vk-{MARK}-disabled-1"),
    );
    let config = format!(
        "{}[[virtual_keys]]\nname = \"team-a\"\nkey = \"{team}\"\nmodels = [\"gpt-*\"]\n\
         [[virtual_keys]]\nname = \"shut\"\nkey = \"{shut}\"\ndisabled = true\n",
        pool(mock, 1)
    );
    (Gateway::start(&config).await, team, shut)
}

#[tokio::test]
async fn without_a_good_virtual_key_nothing_is_served() {
    let mock = Mock::start().await.unwrap();
    let (gw, team, shut) = with_virtual_keys(&mock).await;
    let wrong = format!("Bearer {team}x");
    let shut = format!("Bearer {shut}");
    for headers in [
        vec![],
        vec![("authorization", wrong.as_str())],
        vec![("authorization", shut.as_str())],
        vec![("x-api-key", "nonsense")],
        vec![("authorization", "Basic dGVhbQ==")],
    ] {
        for (path, typed) in [
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
            assert!(reply.text().contains(typed), "{path}: {reply:?}");
        }
    }
    assert!(mock.seen_all().is_empty());
    gw.stop().await;
}

#[tokio::test]
async fn a_virtual_key_opens_what_it_may_and_nothing_else() {
    let mock = Mock::start().await.unwrap();
    let (gw, team, _) = with_virtual_keys(&mock).await;
    let bearer = format!("Bearer {team}");
    let good = [("authorization", bearer.as_str())];
    for (path, body, status, code) in [
        (
            CHAT_PATH,
            CHAT.replace("gpt-x", "claude"),
            403,
            "model_not_allowed",
        ),
        ("/p/files", String::new(), 403, "native_not_allowed"),
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

/// What tells of the caller, its way here, or its account; the first five hold its credential.
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
async fn nothing_of_the_caller_but_the_call_reaches_the_provider() {
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
    let told: Vec<&str> = reply
        .headers
        .iter()
        .map(|(name, _)| name.as_str())
        .collect();
    for name in [
        "set-cookie",
        "openai-organization",
        "x-ratelimit-limit-requests",
    ] {
        assert!(!told.contains(&name), "{told:?}");
    }
    assert!(reply.header("x-keypool-upstream-request-id").is_some());
    gw.stop().await;
}

#[tokio::test]
async fn no_answer_is_asked_for_compressed_as_any_may_be_an_error_to_be_read() {
    let mock = Mock::start().await.unwrap();
    let config = format!(
        "{}[pools.tavily]\nprovider = \"tavily\"\nbase_url = \"{}\"\nkeys = [\"{}\"]\n",
        pool(&mock, 1).replace("retry", "models = [\"gpt-*\"]\nretry"),
        mock.origin(),
        key(2)
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
async fn a_providers_own_openai_path_is_an_openai_endpoint_and_no_native_one() {
    let mock = Mock::start().await.unwrap();
    let team = format!("vk-{MARK}-team-a-0001");
    let config = format!(
        "[pools.gemini]\nprovider = \"gemini\"\nbase_url = \"{}\"\nkeys = [\"{}\"]\n\
         [[virtual_keys]]\nname = \"team-a\"\nkey = \"{team}\"\nmodels = [\"gemini-*\"]\n",
        mock.origin(),
        key(1)
    );
    let gw = Gateway::start(&config).await;
    let bearer = format!("Bearer {team}");
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
            "not in OpenAI's form: {error}"
        );
    }
    let reply = gw.send("POST", "/gemini/v1beta/files", &good, b"{}").await;
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
async fn a_caller_is_not_told_the_name_of_a_pool_that_it_may_not_use() {
    let mock = Mock::start().await.unwrap();
    let a_pool = |name: &str, provider: &str, n: usize| {
        format!(
            "[pools.{name}]\nprovider = \"{provider}\"\nbase_url = \"{}\"\nkeys = [\"{}\"]\n",
            mock.origin(),
            key(n)
        )
    };
    let secret = |name: &str| format!("vk-{MARK}-{name}-only-0001");
    let caller = |name: &str| {
        let secret = secret(name);
        format!(
            "[[virtual_keys]]\nname = \"{name}\"\nkey = \"{secret}\"\npools = [\"the-{name}\"]\n"
        )
    };
    let config = [
        a_pool("the-search", "tavily", 1),
        a_pool("the-chat", "openai", 2),
        caller("search"),
        caller("chat"),
    ];
    let gw = Gateway::start(&config.concat()).await;
    for (name, method, path, body, hidden) in [
        ("chat", "POST", "/search", r#"{"query":"q"}"#, "the-search"),
        ("search", "GET", "/v1/responses/resp_1", "", "the-chat"),
    ] {
        let bearer = format!("Bearer {}", secret(name));
        let headers = [("authorization", bearer.as_str())];
        let reply = gw.send(method, path, &headers, body.as_bytes()).await;
        refused(&reply, 403, "model_not_allowed", path);
        assert!(!reply.text().contains(hidden), "{path}: {}", reply.text());
    }
    gw.stop().await;
}

#[tokio::test]
async fn the_only_pool_that_a_caller_may_use_is_not_the_only_pool() {
    let mock = Mock::start().await.unwrap();
    let one = |name: &str| {
        format!(
            "[pools.{name}]\nprovider = \"mock\"\nbase_url = \"{}\"\nkeys = [\"{}\"]\nmodels = [\"{name}-*\"]\n",
            mock.origin(),
            key(1)
        )
    };
    let secret = format!("vk-{MARK}-only-pb-00");
    let caller = format!("[[virtual_keys]]\nname = \"b\"\nkey = \"{secret}\"\npools = [\"pb\"]\n");
    let gw = Gateway::start(&[one("pa"), one("pb"), caller].concat()).await;
    let bearer = format!("Bearer {secret}");
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
