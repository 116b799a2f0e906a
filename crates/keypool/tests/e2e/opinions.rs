//! Refusals that may be about the request or about the key: second opinions, permissions, keys that have served.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use keypool_testkit::{Mock, Step};

use crate::harness::{CHAT, CHAT_PATH, Gateway, PoolConfig, eventually, key, pool, within};
use crate::http::Reply;
use crate::raw_provider::{RawProvider, Say};

fn refusal(status: u16, message: &str) -> Step {
    Step::Status {
        status,
        headers: vec![("content-type".to_owned(), "application/json".to_owned())],
        body: format!(r#"{{"error":{{"message":"{message}","type":"odd_error","code":null}}}}"#),
    }
}

fn served(reply: &Reply) -> (u16, &str, &str) {
    (reply.status, reply.key(), reply.attempts())
}

#[tokio::test]
async fn another_group_tells_that_a_refusal_is_about_the_account() {
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start(&pool(&mock, 2)).await;
    // Each message names another thing, and all have one form.
    for (n, status) in [403, 403, 403].into_iter().enumerate() {
        let message = format!("The moon is in house {n} for request 'q{n}'");
        mock.script(&key(1), vec![refusal(status, &message)]);
        let reply = within(async {
            loop {
                let reply = gw.chat().await;
                if reply.attempts() != "1" {
                    return reply;
                }
            }
        })
        .await;
        assert_eq!(served(&reply), (200, "p-2", "2"), "{n}: {reply:?}");
        let cooldowns = gw.key_stats("p", "p-1").await["cooldowns"]
            .as_array()
            .map(Vec::len);
        assert_eq!(cooldowns, Some(usize::from(n == 2)), "{n}");
    }
    // After three refusals in a row the key is forbidden for the model.
    let state = gw.key_stats("p", "p-1").await;
    assert_eq!(state["cooldowns"][0]["class"], "forbidden", "{state}");
    let log = gw.log();
    assert!(log.contains("next=\"second_opinion\""), "{log}");
    gw.stop().await;
}

#[tokio::test]
async fn two_equal_refusals_are_about_the_request() {
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start(&pool(&mock, 3)).await;
    mock.script("*", vec![refusal(404, "Nobody knows that."); 2]);
    let reply = gw.chat().await;
    assert_eq!((reply.status, reply.attempts()), (404, "2"), "{reply:?}");
    assert!(reply.text().contains("Nobody knows that."));
    // The form is known now, so nobody is asked again.
    mock.script("*", [refusal(404, "Nobody knows that.")]);
    let reply = gw.chat().await;
    assert_eq!((reply.status, reply.attempts()), (404, "1"), "{reply:?}");
    assert_all_available(&gw, 3).await;
    gw.stop().await;
}

#[tokio::test]
async fn without_an_opinion_the_first_refusal_is_relayed() {
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start(&pool(&mock, 2)).await;
    // The other group has trouble, so it proves nothing.
    mock.script("*", [refusal(400, "First words."), Step::refuse(500)]);
    let reply = gw.chat().await;
    assert_eq!((reply.status, reply.attempts()), (400, "2"), "{reply:?}");
    assert!(reply.text().contains("First words."), "{reply:?}");
    // It refuses in another form.
    mock.script(
        "*",
        [refusal(400, "One thing."), refusal(403, "Another thing.")],
    );
    let reply = gw.chat().await;
    assert_eq!((reply.status, reply.attempts()), (400, "2"), "{reply:?}");
    assert!(reply.text().contains("One thing."), "{reply:?}");
    assert_all_available(&gw, 2).await;
    gw.stop().await;
}

#[tokio::test]
async fn opinions_are_bounded_and_can_be_turned_off() {
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start(&pool(&mock, 2)).await;
    let mut asked = 0;
    for n in 0..12 {
        let words = [
            "apple", "pear", "plum", "fig", "lime", "kiwi", "date", "nut", "oat", "rye", "corn",
            "rice",
        ];
        mock.script(
            "*",
            vec![refusal(400, &format!("No {} today.", words[n])); 2],
        );
        asked += usize::from(gw.chat().await.attempts() == "2");
        mock.script("*", []);
    }
    assert_eq!(asked, 5, "of one caller in a minute");
    gw.stop().await;
    let config = PoolConfig::new(&mock, "p", 1..=2).set("second_opinion", false);
    let gw = Gateway::start(&config.to_string()).await;
    mock.script("*", [refusal(403, "The sun is up.")]);
    assert_eq!(gw.chat().await.attempts(), "1");
    gw.stop().await;
}

#[tokio::test]
async fn a_refusal_that_names_a_field_is_relayed_at_once() {
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start(&pool(&mock, 2)).await;
    for body in [
        r#"{"error":{"message":"Bad.","type":"odd_error","param":"messages","code":null}}"#,
        r#"{"detail":[{"loc":["body","messages"],"msg":"Field required"}]}"#,
        r#"{"type":"error","error":{"type":"odd","message":"messages.0.content: Field required"}}"#,
    ] {
        mock.script(
            "*",
            [Step::Status {
                status: 400,
                headers: Vec::new(),
                body: body.to_owned(),
            }],
        );
        let reply = gw.chat().await;
        assert_eq!(
            (reply.status, reply.attempts(), reply.text().as_str()),
            (400, "1", body)
        );
    }
    gw.stop().await;
}

#[tokio::test]
async fn a_missing_scope_forbids_one_endpoint() {
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start(&pool(&mock, 2)).await;
    let message =
        "You have insufficient permissions for this operation. Missing scopes: api.x.request.";
    mock.script(&key(1), [refusal(401, message)]);
    let speech = r#"{"model":"gpt-x","input":"x","voice":"alloy"}"#;
    for _ in 0..2 {
        let _ = gw.post("/v1/audio/speech", speech).await;
    }
    let state = gw.key_stats("p", "p-1").await;
    assert_eq!(state["state"], "active", "{state}");
    let names = state["cooldowns"][0]["model"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    assert_eq!(names, "gpt-x at /v1/audio/speech", "{state}");
    // Chat goes on with both keys, speech with the other one.
    let chats = [gw.chat().await, gw.chat().await];
    let mut keys = chats.each_ref().map(|reply| reply.key().to_owned());
    keys.sort();
    assert_eq!(keys, ["p-1", "p-2"]);
    for _ in 0..3 {
        assert_eq!(gw.post("/v1/audio/speech", speech).await.key(), "p-2");
    }
    gw.stop().await;
}

#[tokio::test]
async fn a_key_that_has_served_is_checked_before_it_is_invalid() {
    for (list_status, state) in [(200, "active"), (401, "invalid")] {
        let mock = Mock::start().await.unwrap();
        let lists = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&lists);
        let provider = RawProvider::choosing(move |n, request| {
            let is_list = request.starts_with(b"GET ");
            count.fetch_add(usize::from(is_list), Ordering::SeqCst);
            let answer = |status: u16, body: &str| {
                Say::stay(&format!(
                    "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
                    body.len()
                ))
            };
            match n {
                0 => answer(200, r#"{"choices":[]}"#),
                _ if is_list && list_status == 200 => answer(200, r#"{"data":[]}"#),
                _ => answer(401, ""),
            }
        })
        .await;
        let config = PoolConfig::new(&mock, "p", [])
            .key(1, &format!("base_url = \"{}\"", provider.origin()))
            .key(2, "");
        let gw = Gateway::start(&config.to_string()).await;
        assert_eq!(served(&gw.chat().await), (200, "p-1", "1"));
        // A 401 without a reason goes to the next key, and a free call decides.
        within(async {
            while provider.requests() < 2 {
                assert_eq!(gw.chat().await.status, 200);
            }
        })
        .await;
        eventually("the check", || lists.load(Ordering::SeqCst) == 1).await;
        if state == "invalid" {
            gw.logged("rejects a call that costs nothing").await;
        }
        for _ in 0..4 {
            assert_eq!(gw.chat().await.status, 200);
        }
        gw.all_idle().await;
        assert_eq!(
            lists.load(Ordering::SeqCst),
            1,
            "at most one check in a minute"
        );
        assert_eq!(gw.key_stats("p", "p-1").await["state"], state);
        gw.stop().await;
    }
}

#[tokio::test]
async fn a_request_that_is_too_expensive_cools_nothing_down() {
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start(&pool(&mock, 3)).await;
    let poor = Step::Status {
        status: 402,
        headers: Vec::new(),
        body: r#"{"error":{"message":"This request requires more credits, or fewer max_tokens. You requested up to 64000 tokens, but can only afford 950.","code":402}}"#.to_owned(),
    };
    mock.script("*", vec![poor.clone(); 2]);
    let reply = gw.post(CHAT_PATH, CHAT).await;
    assert_eq!((reply.status, reply.attempts()), (402, "2"), "{reply:?}");
    assert!(reply.text().contains("can only afford 950"), "{reply:?}");
    assert_all_available(&gw, 3).await;
    // Another account may afford it.
    mock.script("*", [poor]);
    let reply = gw.post(CHAT_PATH, CHAT).await;
    assert_eq!((reply.status, reply.attempts()), (200, "2"), "{reply:?}");
    gw.stop().await;
}

async fn assert_all_available(gw: &Gateway, keys: usize) {
    for n in 1..=keys {
        let state = gw.key_stats("p", &format!("p-{n}")).await;
        assert_eq!(state["is_available"], true, "{state}");
        assert_eq!(
            state["cooldowns"].as_array().map(Vec::len),
            Some(0),
            "{state}"
        );
    }
}
