//! Affinity with a provider that has a prompt cache: the cache hit rate, and how evenly the load is spread.

use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::BodyExt;
use keypool_core::settings::{PoolSettings, Strategy};
use keypool_testkit::{Behaviour, Mock, Seen};

use crate::harness::{Client, Running, pool};

const KEYS: usize = 6;
const GROUPS: usize = 3;
const CONVERSATIONS: usize = 200;
const TURNS: usize = 8;
const AT_ONCE: usize = 20;

/// The result of all conversations.
struct Outcome {
    /// Share of the follow-up calls that found their conversation cached.
    hit_rate: f64,
    /// Share of the input tokens that were cached.
    cached_share: f64,
    /// Calls of the busiest key, divided by the mean.
    imbalance: f64,
}

fn account(key: usize) -> String {
    format!("account-{}", key % GROUPS)
}

async fn provider() -> Mock {
    let mock = Mock::start().await.unwrap();
    for key in 0..KEYS {
        let behaviour = Behaviour {
            prompt_cache: Some(Duration::from_secs(300)),
            account: Some(account(key)),
            latency: Duration::from_millis(2),
            record: false,
            ..Behaviour::default()
        };
        mock.behave(&format!("secret-key-{}", key + 1), behaviour);
    }
    mock
}

fn pool_with(strategy: Strategy, mock: &Mock) -> PoolSettings {
    let mut pool = pool(mock, KEYS);
    pool.strategy = strategy;
    for (key, settings) in pool.keys.iter_mut().enumerate() {
        settings.group = Some(account(key).into());
    }
    pool
}

/// Holds one conversation, whose calls each repeat all earlier messages. Returns the number of input tokens.
async fn converse(client: &mut Client, n: usize) -> u64 {
    let system = r#"{"role":"system","content":"You are a helpful assistant."}"#;
    let mut messages = format!(r#"{system},{{"role":"user","content":"question {n}"}}"#);
    let mut tokens = 0;
    for turn in 0..TURNS {
        let body = format!(r#"{{"model":"m","messages":[{messages}]}}"#);
        let request = Request::post("/v1/chat/completions").body(body).unwrap();
        let response = client.request(request).await.unwrap();
        assert_eq!(response.status(), 200);
        let body: Bytes = response.into_body().collect().await.unwrap().to_bytes();
        let answer: serde_json::Value = serde_json::from_slice(&body).unwrap();
        tokens += answer["usage"]["prompt_tokens"].as_u64().unwrap();
        messages += &format!(
            r#",{},{{"role":"user","content":"and question {n}.{turn}"}}"#,
            answer["choices"][0]["message"]
        );
    }
    tokens
}

async fn outcome_of(strategy: Strategy) -> Outcome {
    let mock = provider().await;
    let running = Running::start(pool_with(strategy, &mock)).await;
    let mut workers = tokio::task::JoinSet::new();
    for worker in 0..AT_ONCE {
        let mut client = Client::new(running.addr);
        workers.spawn(async move {
            let mut tokens = 0;
            for n in (worker..CONVERSATIONS).step_by(AT_ONCE) {
                tokens += converse(&mut client, n).await;
            }
            tokens
        });
    }
    let tokens: u64 = workers.join_all().await.into_iter().sum();
    let seen: Vec<Seen> = mock.seen_all().into_values().collect();
    let sum = |of: fn(&Seen) -> u64| seen.iter().map(of).sum::<u64>() as f64;
    let busiest = seen.iter().map(|seen| seen.requests).max().unwrap() as f64;
    let outcome = Outcome {
        hit_rate: sum(|seen| seen.cache_hits) / (CONVERSATIONS * (TURNS - 1)) as f64,
        cached_share: sum(|seen| seen.cached_tokens) / tokens as f64,
        imbalance: busiest * KEYS as f64 / sum(|seen| seen.requests),
    };
    assert_eq!(sum(|seen| seen.requests) as usize, CONVERSATIONS * TURNS);
    eprintln!(
        "{:<12} cache hits {:>5.1} %, cached input {:>5.1} %, busiest key {:.2} x mean",
        strategy.as_str(),
        outcome.hit_rate * 100.0,
        outcome.cached_share * 100.0,
        outcome.imbalance
    );
    assert!(running.stop().await);
    outcome
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conversations_hit_the_prompt_cache_and_the_load_stays_even() {
    let affinity = outcome_of(Strategy::Affinity).await;
    let round_robin = outcome_of(Strategy::RoundRobin).await;
    assert!(affinity.hit_rate > 0.9, "{}", affinity.hit_rate);
    assert!(round_robin.hit_rate < 0.45, "{}", round_robin.hit_rate);
    assert!(affinity.cached_share > round_robin.cached_share);
    assert!(affinity.imbalance < 1.4, "{}", affinity.imbalance);
}

/// Sends six identical calls and returns the number that the busiest key got.
async fn busiest_of_six(path: &str, body: &str) -> u64 {
    let mock = Mock::start().await.unwrap();
    let mut settings = pool(&mock, 3);
    settings.strategy = Strategy::Affinity;
    let running = Running::start(settings).await;
    let mut client = Client::new(running.addr);
    for _ in 0..6 {
        let request = Request::post(path).body(body.to_owned()).unwrap();
        let response = client.request(request).await.unwrap();
        assert_eq!(response.status(), 200, "{path}");
        response.into_body().collect().await.unwrap();
    }
    let seen = mock.seen_all();
    assert_eq!(seen.values().map(|seen| seen.requests).sum::<u64>(), 6);
    client.hang_up();
    assert!(running.stop().await);
    seen.values().map(|seen| seen.requests).max().unwrap()
}

#[tokio::test]
async fn calls_without_a_conversation_are_spread_even_for_one_user() {
    for (path, body) in [
        (
            "/v1/embeddings",
            r#"{"model":"m","input":"hello","user":"ann"}"#,
        ),
        (
            "/v1/moderations",
            r#"{"model":"m","input":"hello","user":"ann"}"#,
        ),
        (
            "/v1/audio/speech",
            r#"{"model":"m","input":"hello","voice":"alloy","user":"ann"}"#,
        ),
        (
            "/v1/images/generations",
            r#"{"model":"m","prompt":"hello","user":"ann"}"#,
        ),
        (
            "/v1/rerank",
            r#"{"model":"m","query":"hello","documents":["a"],"user":"ann"}"#,
        ),
    ] {
        assert_eq!(busiest_of_six(path, body).await, 2, "{path}");
    }
    for (path, body) in [
        (
            "/v1/chat/completions",
            r#"{"model":"m","user":"ann","messages":[{"role":"user","content":"hello"}]}"#,
        ),
        (
            "/v1/responses",
            r#"{"model":"m","user":"ann","input":"hello","store":false}"#,
        ),
    ] {
        assert_eq!(busiest_of_six(path, body).await, 6, "{path}");
    }
}
