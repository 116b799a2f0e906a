//! What the log says about failed attempts, and the types of its JSON fields.

use keypool_testkit::{Mock, Step};
use serde_json::{Value, json};

use crate::harness::{CHAT_PATH, Gateway, PoolConfig, eventually, key, pool};

/// The field `next` of each line about a failed attempt, once there are `lines` of them: the log is written in batches.
async fn next_codes(gw: &Gateway, lines: usize) -> Vec<String> {
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

/// The number of keys, `retry.backoff`, the first steps of each key, and the codes expected in `next`.
type Case = (usize, &'static str, Vec<Vec<Step>>, Vec<&'static str>);

fn cases() -> [Case; 4] {
    let limited = || Step::rate_limited(600);
    let refused_twice = || vec![vec![Step::refuse(503), Step::refuse(503)]];
    [
        (
            2,
            "5ms",
            vec![vec![limited()], vec![limited()]],
            vec!["next_key", "no_key_in_time"],
        ),
        (
            1,
            "0s",
            refused_twice(),
            vec!["same_key", "no_attempts_left"],
        ),
        (
            1,
            "50ms",
            refused_twice(),
            vec!["wait_for_key", "no_attempts_left"],
        ),
        (1, "5ms", vec![vec![limited()]], vec!["no_key_in_time"]),
    ]
}

#[tokio::test]
async fn the_log_says_what_happens_after_a_failed_attempt() {
    for (keys, backoff, steps, expect) in cases() {
        let mock = Mock::start().await.unwrap();
        for (n, steps) in steps.into_iter().enumerate() {
            mock.script(&key(n + 1), steps);
        }
        let config = PoolConfig::new(&mock, "p", 1..=keys).set("retry.backoff", backoff);
        let gw = Gateway::start(&config.to_string()).await;
        gw.chat().await;
        assert_eq!(next_codes(&gw, expect.len()).await, expect, "{}", gw.log());
        gw.stop().await;
    }
}

#[tokio::test]
async fn the_log_says_when_a_target_follows_or_a_call_is_not_repeated() {
    let mock = Mock::start().await.unwrap();
    let config = format!(
        "{}{}[[routes]]\nmodel = \"best\"\ntargets = [{{ pool = \"one\" }}, {{ pool = \"two\" }}]\n",
        PoolConfig::new(&mock, "one", [1]),
        PoolConfig::new(&mock, "two", [2])
    );
    let gw = Gateway::start(&config).await;
    mock.script(&key(1), [Step::rate_limited(600)]);
    let chat = r#"{"model":"best","messages":[]}"#;
    assert_eq!(gw.post(CHAT_PATH, chat).await.status, 200);
    let stored = r#"{"model":"best","input":"hello"}"#;
    mock.script(&key(2), [Step::Reset]);
    assert_eq!(gw.post("/v1/responses", stored).await.status, 502);
    assert_eq!(next_codes(&gw, 2).await, ["next_target", "not_repeatable"]);
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
    assert_eq!(
        (&failed["ejected"], &failed["next"]),
        (&json!(false), &json!("next_key"))
    );
    let message = failed["message"].as_str().unwrap();
    assert!(
        message.ends_with("rate_limited; the next key is tried"),
        "{message}"
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
