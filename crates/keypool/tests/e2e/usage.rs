//! Usage that is counted by key, model, virtual key and time.

use keypool_testkit::{Mock, Step};
use serde_json::{Value, json};

use crate::harness::{CHAT, Gateway, STREAM, bearer, key, pool, virtual_key};
use crate::limits::reporting;
use crate::store_kit::{JSON, problem};

/// Requests, attempts, failures, input and output tokens.
pub(crate) fn counts(sum: &Value) -> [u64; 5] {
    let fields = [
        "requests",
        "attempts",
        "failures",
        "input_tokens",
        "output_tokens",
    ];
    fields.map(|field| sum[field].as_u64().expect("a number"))
}

/// The sum of the last day.
pub(crate) async fn total(gw: &Gateway) -> [u64; 5] {
    let usage = gw.read("usage").await;
    let items = usage["items"].as_array().expect("a list");
    assert!(items.len() <= 1, "{usage}");
    items.first().map(counts).unwrap_or_default()
}

/// The sums by those, and what each is of.
async fn sums(gw: &Gateway, by: &str) -> Vec<(Vec<String>, [u64; 5])> {
    let usage = gw.read(&format!("usage?by={by}")).await;
    let items = usage["items"].as_array().expect("a list").iter();
    let of = |item: &Value| {
        let fields = ["pool", "key", "model", "virtual_key"].map(|name| item[name].as_str());
        fields.into_iter().flatten().map(str::to_owned).collect()
    };
    let mut sums: Vec<(Vec<String>, [u64; 5])> =
        items.map(|item| (of(item), counts(item))).collect();
    sums.sort();
    sums
}

fn sum<const N: usize>(of: [&str; N], counts: [u64; 5]) -> (Vec<String>, [u64; 5]) {
    (of.map(str::to_owned).to_vec(), counts)
}

#[tokio::test]
async fn usage_is_summed_by_key_model_and_virtual_key() {
    let mock = Mock::start().await.unwrap();
    mock.behave("*", reporting(11, 5));
    let config = pool(&mock, 2) + &virtual_key("a", "") + &virtual_key("b", "");
    let gw = Gateway::start(&config).await;
    let chat = async |name: &str, body: String| {
        let headers = [JSON, ("authorization", &*bearer(name))];
        gw.send("POST", "/v1/chat/completions", &headers, body.as_bytes())
            .await
    };
    let served = Step::Answer;
    let other_model = CHAT.replace("gpt-x", "gpt-y");
    for (name, body, steps, status) in [
        ("a", CHAT, vec![], 200),
        ("a", &other_model, vec![], 200),
        ("b", CHAT, vec![], 200),
        // The first key fails, the second one serves.
        ("b", CHAT, vec![(1, Step::refuse(503)), (2, served)], 200),
        // The caller is at fault.
        (
            "b",
            CHAT,
            vec![(1, Step::refuse(400)), (2, Step::refuse(400))],
            400,
        ),
    ] {
        for (n, step) in steps {
            mock.script(&key(n), [step]);
        }
        let reply = chat(name, body.to_owned()).await;
        assert_eq!(reply.status, status, "{reply:?}");
    }
    let refused = gw.chat_as("unknown-caller-0123456789").await;
    assert_eq!(refused.status, 401);
    let expected = [sum(["a"], [2, 2, 0, 22, 10]), sum(["b"], [3, 4, 1, 22, 10])];
    assert_eq!(sums(&gw, "virtual_key").await, expected);
    assert_eq!(
        sums(&gw, "model,virtual_key").await[..2],
        [
            sum(["gpt-x", "a"], [1, 1, 0, 11, 5]),
            sum(["gpt-x", "b"], [3, 4, 1, 22, 10])
        ]
    );
    let by_key = sums(&gw, "key").await;
    let requests: u64 = by_key.iter().map(|(_, counts)| counts[0]).sum();
    let failures: Vec<u64> = by_key.iter().map(|(_, counts)| counts[2]).collect();
    assert_eq!((requests, by_key.len()), (5, 2), "{by_key:?}");
    assert_eq!(failures.iter().sum::<u64>(), 1, "{by_key:?}");
    assert_eq!(by_key[0].0, ["p", "p-1"]);
    assert_eq!(total(&gw).await, [5, 6, 1, 44, 20]);
    gw.stop().await;
}

#[tokio::test]
async fn tokens_of_all_kinds_of_responses_are_counted() {
    let mock = Mock::start().await.unwrap();
    mock.behave("*", reporting(11, 5));
    let gw = Gateway::start(&pool(&mock, 1)).await;
    let with_usage = STREAM.replace(
        "\"stream\":true",
        "\"stream\":true,\"stream_options\":{\"include_usage\":true}",
    );
    let messages =
        r#"{"model":"gpt-x","max_tokens":50,"messages":[{"role":"user","content":"hello"}]}"#;
    let messages_stream = messages.replace("\"max_tokens\"", "\"stream\":true,\"max_tokens\"");
    let gemini = r#"{"contents":[{"parts":[{"text":"hello"}]}]}"#;
    for (number, (path, body)) in [
        ("/v1/chat/completions", CHAT),
        ("/v1/chat/completions", &with_usage),
        ("/v1/messages", messages),
        ("/v1/messages", &messages_stream),
        ("/v1/responses", r#"{"model":"gpt-x","input":"hello"}"#),
        (
            "/v1/responses",
            r#"{"model":"gpt-x","input":"hello","stream":true}"#,
        ),
        ("/v1beta/models/gpt-x:generateContent", gemini),
        ("/v1beta/models/gpt-x:streamGenerateContent?alt=sse", gemini),
    ]
    .into_iter()
    .enumerate()
    {
        let reply = gw.post(path, body).await;
        assert_eq!(reply.status, 200, "{reply:?}");
        let calls = number as u64 + 1;
        assert_eq!(
            total(&gw).await,
            [calls, calls, 0, 11 * calls, 5 * calls],
            "{path} {body}"
        );
    }
    assert_eq!(sums(&gw, "model,virtual_key").await[0].0, ["gpt-x", ""]);
    gw.stop().await;
}

#[tokio::test]
async fn usage_is_summed_over_the_time_that_is_asked_for() {
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start(&pool(&mock, 1)).await;
    assert_eq!(gw.read("usage").await, json!({ "items": [], "next": null }));
    assert_eq!(gw.chat().await.status, 200);
    for (query, sums) in [
        ("", 1),
        ("?step=60s", 1),
        ("?step=1h&by=key,model", 1),
        ("?step=1d&by=virtual_key", 1),
        ("?by=", 1),
        ("?to=2020-01-01T00:00:00Z", 0),
        ("?from=2999-01-01T00:00:00Z&to=2999-01-02T00:00:00Z", 0),
        ("?from=2020-01-01T00:00:00%2B02:00", 1),
    ] {
        let usage = gw.read(&format!("usage{query}")).await;
        assert_eq!(
            usage["items"].as_array().unwrap().len(),
            sums,
            "{query}: {usage}"
        );
    }
    for query in [
        "from=yesterday",
        "from=2026-01-01",
        "to=2020-01-01T00:00:00Z&from=2021-01-01T00:00:00Z",
        "from=2999-01-01T00:00:00Z",
        "from=-000001-01-01T00:00:00Z",
        "step=1s",
        "step=0",
        "step=often",
        "by=keys",
        "by=key;model",
        "until=now",
    ] {
        let reply = gw.api("GET", &format!("usage?{query}"), Value::Null).await;
        problem(&reply, 400, "invalid_query");
    }
    gw.stop().await;
}
