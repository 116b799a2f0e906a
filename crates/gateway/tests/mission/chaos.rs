//! Faults of every class, clients that disconnect, and reloads, all at once. No request may be lost and no count may stay
//! wrong.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use keypool_core::settings::Strategy;
use keypool_testkit::{Behaviour, Mock, Step};
use tokio::time::timeout;

use crate::harness::{Client, Running, pool};

const REQUESTS: usize = 10_000;
const CONCURRENCY: usize = 256;
const KEYS: usize = 6;
const CAP: u32 = 8;
const SEED: u64 = 20_261_122;

/// What the provider does to one call: in most cases it answers.
fn step(random: &mut fastrand::Rng) -> Step {
    let openai = |status, code: &str| {
        Step::status(
            status,
            format!(r#"{{"error":{{"message":"made up","type":"t","code":"{code}"}}}}"#),
        )
    };
    match random.u8(..100) {
        0..54 => Step::Answer,
        54..60 => odd_answer(random),
        60..65 => Step::Slow(Duration::from_millis(random.u64(1..30))),
        65..70 => openai(503, "server_is_overloaded"),
        70..73 => openai(500, "server_error"),
        73..78 => openai(429, "rate_limit_exceeded"),
        78..80 => openai(429, "insufficient_quota"),
        80..82 => openai(401, "invalid_api_key"),
        82..84 => openai(403, "unsupported_country_region_territory"),
        84..88 => openai(400, "invalid_value"),
        88..90 => Step::Reset,
        90..92 => Step::ResetMidBody,
        92..94 => Step::CutAfter(random.usize(0..4)),
        94..96 => Step::CutMidEvent(random.usize(0..4)),
        96..98 => Step::InBandError {
            status: None,
            body: r#"{"error":{"message":"made up","type":"server_error"}}"#.into(),
        },
        _ => Step::Prelude {
            text: ": wait\n\n".into(),
            pause: Duration::from_millis(1),
        },
    }
}

/// A 200 that is no answer, or one that ends in an unusual way.
fn odd_answer(random: &mut fastrand::Rng) -> Step {
    const EVENTS: &str = "text/event-stream";
    const JSON: &str = "application/json";
    // `{"error":{"code":503}}` by gzip.
    const ZIPPED: &[u8] = b"\x1f\x8b\x08\0\0\0\0\0\x02\x03\xabVJ-*\xca/R\xb2\xaaVJ\xceOIU\xb2250\xae\xad\x05\0\xe6\xbb;\xef\x16\0\0\0";
    let role = "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\"}}]}\n\n";
    let output = "data: {\"choices\":[{\"delta\":{\"content\":\"a\"},\"finish_reason\":null}]}\n\n";
    let error = "{\"error\":{\"code\":503}}";
    let (content_type, body) = match random.u8(..10) {
        0 => (EVENTS, format!("{role}data: {error}\n\n").into()),
        1 => (EVENTS, format!("{output}data: {error}\n\n").into()),
        2 => (EVENTS, ": busy\n\n".into()),
        3 => (JSON, String::new().into()),
        4 => (JSON, "<!doctype html>".into()),
        5 => (JSON, "{\"choices\":[{\"mess".into()),
        6 => (EVENTS, error.into()),
        7 => (JSON, ZIPPED.into()),
        8 => (EVENTS, output.into()),
        // Complete, without the last chunk of the transfer.
        _ => return Step::CutAfter(usize::MAX),
    };
    Step::Bytes { content_type, body }
}

/// What the provider does to one call with the last key: it answers, or reports the caller's fault.
fn mild_step(random: &mut fastrand::Rng) -> Step {
    match random.u8(..100) {
        0..80 => Step::Answer,
        _ => Step::status(
            400,
            r#"{"error":{"message":"made up","type":"invalid_request_error","param":"messages"}}"#,
        ),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_faults_and_reloads_leave_no_call_in_flight() {
    let mock = Mock::start_on(
        "127.0.0.1:0".parse().unwrap(),
        Behaviour {
            record: false,
            ..Behaviour::default()
        },
    )
    .await
    .unwrap();
    let mut random = fastrand::Rng::with_seed(SEED);
    for key in 1..=KEYS {
        let step = if key == KEYS { mild_step } else { step };
        let steps: Vec<Step> = (0..2 * REQUESTS).map(|_| step(&mut random)).collect();
        mock.script(&format!("secret-key-{key}"), steps);
    }
    let mut settings = pool(&mock, KEYS);
    // Slightly fewer than can be waiting, so that some are refused.
    settings.queue.max_waiting = 192;
    settings
        .keys
        .iter_mut()
        .for_each(|key| key.max_concurrent = Some(CAP));
    let running = Arc::new(Running::start(settings).await);
    let (left, done) = (
        Arc::new(AtomicUsize::new(REQUESTS)),
        Arc::new(AtomicBool::new(false)),
    );
    let mut workers = tokio::task::JoinSet::new();
    for worker in 0..CONCURRENCY {
        workers.spawn(send_requests(
            running.addr,
            Arc::clone(&left),
            SEED + worker as u64,
        ));
    }
    let mut disturbance = tokio::task::JoinSet::new();
    disturbance.spawn(reset_and_reload(Arc::clone(&running), Arc::clone(&done)));
    let answered: usize = timeout(Duration::from_secs(50), workers.join_all())
        .await
        .expect("all requests end in time")
        .into_iter()
        .sum();
    done.store(true, Ordering::SeqCst);
    disturbance.join_all().await;
    assert!(
        answered > REQUESTS / 2,
        "only {answered} of {REQUESTS} were answered"
    );
    settle(&running, &mock).await;
    check_the_mild_key(&running, &mock);
    for (key, seen) in mock.seen_all() {
        assert!(
            seen.max_active <= u64::from(CAP),
            "{key}: the provider saw {} at once",
            seen.max_active
        );
    }
    let running = Arc::into_inner(running).expect("no other task holds it");
    assert!(running.stop().await, "every task ended by itself");
}

/// The key whose only errors were the callers' fault has no failures.
fn check_the_mild_key(running: &Running, mock: &Mock) {
    let refused = mock
        .seen(&format!("secret-key-{KEYS}"))
        .by_status
        .get(&400)
        .copied();
    assert!(
        refused.unwrap_or(0) > 50,
        "only {refused:?} calls were the caller's fault"
    );
    assert_eq!(
        running.failed(&format!("key-{KEYS}")),
        0,
        "a caller's fault counted against a key"
    );
}

/// Sends requests until none are left and disconnects during some. Returns the number of answers.
async fn send_requests(addr: std::net::SocketAddr, left: Arc<AtomicUsize>, seed: u64) -> usize {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut client = Client::new(addr);
    let mut answered = 0;
    while left
        .try_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
            left.checked_sub(1)
        })
        .is_ok()
    {
        let model = ["m", "n"][random.usize(..2)];
        let call = client.chat(model, random.bool());
        if random.u8(..100) < 10 {
            let _ = timeout(Duration::from_millis(random.u64(0..10)), call).await;
            client.hang_up();
            continue;
        }
        let Some(answer) = timeout(Duration::from_secs(20), call)
            .await
            .expect("an answer in time")
        else {
            continue;
        };
        assert!(answer.attempts <= 6, "{} attempts", answer.attempts);
        answered += 1;
    }
    answered
}

/// Keeps resetting all keys, and reloads with a different strategy and order of the keys.
async fn reset_and_reload(running: Arc<Running>, done: Arc<AtomicBool>) {
    let strategies = [
        Strategy::RoundRobin,
        Strategy::LeastLoaded,
        Strategy::Random,
    ];
    let mut round = 0;
    while !done.load(Ordering::SeqCst) {
        let snapshot = running.gw.snapshot();
        let pool = &snapshot.pools[0].pool;
        for report in pool.report() {
            pool.member(&report.name).unwrap().reset();
        }
        if round % 10 == 0 {
            let mut next = running.next.lock();
            let pool = Arc::make_mut(&mut next.pools[0]);
            pool.strategy = strategies[round / 10 % strategies.len()];
            pool.keys.rotate_left(1);
            drop(next);
            running.gw.reload().expect("a good configuration");
        }
        round += 1;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Waits until both sides count no call in flight.
async fn settle(running: &Running, mock: &Mock) {
    let settled = async {
        while running.active().iter().any(|active| *active > 0)
            || mock.seen_all().values().any(|seen| seen.active > 0)
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(10), settled)
        .await
        .expect("every count of active calls returns to 0");
}
