//! What the gateway says of a request: in its log, in its traces, in its errors, and to whom.

use keypool_testkit::{Mock, Step};
use serde_json::{Value, json};

use crate::bad_input::refused;
use crate::harness::{CHAT_PATH, Gateway, MARK, eventually, key, pool, within};
use crate::http::Reply;

const ASKS: (&str, &str) = ("x-keypool-trace", "1");
const BEST: &str = r#"{"model":"best","messages":[]}"#;

/// A pool of the mock provider with one key.
fn named(mock: &Mock, name: &str, n: usize, more: &str) -> String {
    format!(
        "[pools.{name}]\nprovider = \"mock\"\nbase_url = \"{}\"\nmodels = [\"{name}-*\"]\nkeys = [\"{}\"]\n\
         retry = {{ backoff = \"5ms\" }}\n{more}\n",
        mock.origin(),
        key(n)
    )
}

fn virtual_key(name: &str, more: &str) -> String {
    format!("[[virtual_keys]]\nname = \"{name}\"\nkey = \"{MARK}-virtual-{name}\"\n{more}\n")
}

/// A call as the holder of a virtual key, or as nobody.
async fn chat_as(gw: &Gateway, name: &str, body: &str) -> Reply {
    let bearer = format!("Bearer {MARK}-virtual-{name}");
    let headers = [ASKS, ("authorization", &*bearer)];
    gw.send("POST", CHAT_PATH, &headers, body.as_bytes()).await
}

fn trace(reply: &Reply) -> &str {
    reply.header("x-keypool-trace").unwrap_or_default()
}

/// What each log line of a failed attempt says is done next, once there are `lines` of them: the log is written in
/// batches.
async fn told_next(gw: &Gateway, lines: usize) -> Vec<String> {
    eventually("the log has the lines", || {
        gw.log().matches(" failed with key ").count() >= lines
    })
    .await;
    let log = gw.log();
    let failed = log
        .lines()
        .filter(|line| line.contains(" failed with key "));
    let next = failed.filter_map(|line| line.rsplit_once(" next=\"")?.1.split_once('"'));
    next.map(|(next, _)| next.to_owned()).collect()
}

#[tokio::test]
async fn the_log_says_what_is_really_done_after_a_failed_attempt() {
    let limited = || Step::rate_limited(600);
    for (keys, backoff, steps, expect) in [
        (
            2,
            "5ms",
            vec![vec![limited()], vec![limited()]],
            vec!["the next key is tried", "no other key is back in time"],
        ),
        (
            1,
            "0s",
            vec![vec![Step::refuse(503), Step::refuse(503)]],
            vec!["the same key is tried again", "no attempts are left"],
        ),
        (
            1,
            "50ms",
            vec![vec![Step::refuse(503), Step::refuse(503)]],
            vec!["a key is waited for", "no attempts are left"],
        ),
        (
            1,
            "5ms",
            vec![vec![limited()]],
            vec!["no other key is back in time"],
        ),
    ] {
        let mock = Mock::start().await.unwrap();
        for (n, steps) in steps.into_iter().enumerate() {
            mock.script(&key(n + 1), steps);
        }
        let gw = Gateway::start(&pool(&mock, keys).replace("5ms", backoff)).await;
        gw.chat().await;
        assert_eq!(told_next(&gw, expect.len()).await, expect, "{}", gw.log());
        gw.stop().await;
    }
}

#[tokio::test]
async fn the_log_names_the_next_target_and_a_call_that_is_not_repeated() {
    let mock = Mock::start().await.unwrap();
    let config = format!(
        "{}{}[[routes]]\nmodel = \"best\"\ntargets = [{{ pool = \"one\" }}, {{ pool = \"two\" }}]\n",
        named(&mock, "one", 1, ""),
        named(&mock, "two", 2, "")
    );
    let gw = Gateway::start(&config).await;
    mock.script(&key(1), [Step::rate_limited(600)]);
    assert_eq!(gw.post(CHAT_PATH, BEST).await.status, 200);
    let stored = r#"{"model":"best","input":"hello"}"#;
    mock.script(&key(2), [Step::Reset]);
    assert_eq!(gw.post("/v1/responses", stored).await.status, 502);
    assert_eq!(
        told_next(&gw, 2).await,
        [
            "the route's next target is tried",
            "the call may have been taken on, so it is not repeated"
        ]
    );
    gw.stop().await;
}

#[tokio::test]
async fn every_field_of_the_json_log_has_one_type() {
    let mock = Mock::start().await.unwrap();
    let config = format!("log.format = \"json\"\n{}", pool(&mock, 2));
    let gw = Gateway::start(&config).await;
    mock.script(&key(1), [Step::rate_limited(600)]);
    assert_eq!(gw.chat().await.status, 200);
    gw.logged("\"message\":\"request\"").await;
    let log = gw.log();
    let lines: Vec<Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let line = |word: &str| {
        let mut found = lines.iter();
        found
            .find(|line| line["message"].as_str().unwrap().contains(word))
            .unwrap()
    };
    let failed = line("attempt 1 of");
    assert_eq!(
        (&failed["key"], &failed["key_name"], &failed["cooldown_s"]),
        (&json!(1), &json!("p-1"), &json!(600))
    );
    assert_eq!(line("keys of pool")["failing"], json!(["p-1"]));
    let request = line("request");
    assert_eq!(
        (&request["key"], &request["key_name"]),
        (&json!(2), &json!("p-2"))
    );
    let mut types = std::collections::BTreeMap::new();
    for (name, value) in lines.iter().flat_map(|line| line.as_object().unwrap()) {
        let kind = std::mem::discriminant(value);
        assert_eq!(*types.entry(name).or_insert(kind), kind, "{name}\n{log}");
    }
    gw.stop().await;
}

/// A route over four pools: of another protocol, closed to `team`, resting, and one that serves.
fn four_targets(mock: &Mock) -> String {
    let search = "[pools.web]\nprovider = \"tavily\"\nbase_url = \"http://127.0.0.1:9\"\nkeys = [\"unused\"]\n";
    let names = ["web", "closed", "resting", "serving"];
    let targets = names
        .map(|name| format!("{{ pool = \"{name}\" }}"))
        .join(", ");
    format!(
        "{search}{}{}{}[[routes]]\nmodel = \"best\"\ntargets = [{targets}]\n{}{}{}",
        named(mock, "closed", 1, ""),
        named(mock, "resting", 2, ""),
        named(mock, "serving", 3, ""),
        virtual_key(
            "team",
            "native = true\npools = [\"web\", \"resting\", \"serving\"]"
        ),
        virtual_key("plain", ""),
        virtual_key("other", "native = true\nmodels = [\"serving-*\"]"),
    )
}

/// `text` with every number of milliseconds replaced.
fn timeless(text: &str) -> String {
    let mut words: Vec<&str> = text.split(' ').collect();
    for at in 1..words.len() {
        if words[at].trim_end_matches(';') == "ms" {
            words[at - 1] = "N";
        }
    }
    words.join(" ")
}

#[tokio::test]
async fn targets_that_are_passed_over_stand_in_the_trace_with_their_reason() {
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start(&four_targets(&mock)).await;
    mock.script(&key(2), [Step::rate_limited(600)]);
    assert_eq!(chat_as(&gw, "team", BEST).await.status, 200);
    let reply = chat_as(&gw, "team", BEST).await;
    assert_eq!(reply.status, 200);
    assert_eq!(
        timeless(trace(&reply)),
        "web: passed over: it is not called by this protocol \
         | resting: 0/1 free; 1 rate-limited; no key: none is back in time \
         | serving: 1/1 free; \"serving-1\" by round_robin; 200 in N ms"
    );
    let id = reply.header("x-request-id").unwrap();
    let listed = async {
        loop {
            let path = format!("/api/v1/admin/traces?request_id={id}");
            let listing = gw.admin("GET", &path).await.json();
            if let Some(trace) = listing["traces"].get(0) {
                break trace["steps"].clone();
            }
        }
    };
    let steps = within(listed).await;
    let told: Vec<Value> = steps.as_array().unwrap()[..3]
        .iter()
        .map(|step| {
            json!([
                step["pool"],
                step["model"],
                step["key"],
                step["keys"],
                step["no_key"]
            ])
        })
        .collect();
    assert_eq!(
        told,
        [
            json!([
                "web",
                "best",
                null,
                null,
                "it is not called by this protocol"
            ]),
            json!(["closed", "best", null, null, "this caller may not use it"]),
            json!(["resting", "best", null, 1, "none is back in time"]),
        ]
    );
    gw.stop().await;
}

#[tokio::test]
async fn a_target_whose_queue_was_waited_in_stands_in_the_trace_with_its_wait() {
    let mock = Mock::start().await.unwrap();
    let slow = "max_concurrent_per_key = 1\nqueue.timeout = \"100ms\"";
    let config = format!(
        "{}{}[[routes]]\nmodel = \"best\"\ntargets = [{{ pool = \"slow\" }}, {{ pool = \"quick\" }}]\n",
        named(&mock, "slow", 1, slow),
        named(&mock, "quick", 2, "")
    );
    let gw = Gateway::start(&config).await;
    mock.script(&key(1), [Step::Hang]);
    let held = gw.post(CHAT_PATH, BEST);
    tokio::pin!(held);
    let first = key(1);
    let in_use = async {
        tokio::select! {
            reply = &mut held => panic!("{reply:?}"),
            () = mock.wait_for(&first, |seen| seen.active == 1) => {}
        }
    };
    within(in_use).await;
    let reply = gw.send("POST", CHAT_PATH, &[ASKS], BEST.as_bytes()).await;
    let (slow, quick) = trace(&reply).split_once(" | ").unwrap();
    assert_eq!(
        timeless(slow),
        "slow: 0/1 free; 1 full; waited N ms; no key: none came free in time"
    );
    assert!(
        quick.starts_with("quick: 1/1 free; \"quick-1\" by") && !quick.contains("waited"),
        "{quick}"
    );
}

#[tokio::test]
async fn errors_before_a_pool_is_chosen_are_traced_for_those_who_may_see_it() {
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start(&four_targets(&mock)).await;
    let unknown = r#"{"model":"nobody-x","messages":[]}"#;
    let search = "web: passed over: it is not called by this protocol";
    let reply = chat_as(&gw, "team", unknown).await;
    refused(&reply, 404, "model_not_found", "no pool has it");
    assert_eq!(
        trace(&reply),
        format!(
            "{search} | resting: passed over: it does not serve this model \
             | serving: passed over: it does not serve this model"
        )
    );
    let reply = chat_as(&gw, "other", BEST).await;
    refused(&reply, 403, "model_not_allowed", "neither route nor target");
    let model = "passed over: this caller may not use this model";
    assert_eq!(
        trace(&reply),
        format!("{search} | closed: {model} | resting: {model} | serving: {model}")
    );
    let reply = chat_as(&gw, "other", r#"{"model":"closed-x","messages":[]}"#).await;
    assert_eq!(
        (reply.status, trace(&reply)),
        (403, &*format!("closed: {model}"))
    );
    for (name, status) in [("plain", 404), ("nobody", 401)] {
        let reply = chat_as(&gw, name, unknown).await;
        assert_eq!(
            (reply.status, reply.header("x-keypool-trace")),
            (status, None),
            "{name}"
        );
    }
    gw.stop().await;
}

#[tokio::test]
async fn only_models_that_the_caller_may_use_are_named_to_it() {
    let mock = Mock::start().await.unwrap();
    let config = format!(
        "{}{}[[routes]]\nmodel = \"fast\"\ntargets = [{{ pool = \"blue\", model = \"blue-a\" }}]\n{}{}{}{}",
        named(&mock, "blue", 1, ""),
        named(&mock, "red", 2, ""),
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
        let reply = chat_as(&gw, name, r#"{"model":"x","messages":[]}"#).await;
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
