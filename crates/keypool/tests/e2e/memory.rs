//! Large bodies are relayed unchanged and held in memory only once.

use std::sync::Arc;
use std::time::Duration;

use keypool_testkit::{Behaviour, Mock, Step, fnv1a};
use tokio::task::JoinSet;

use crate::bad_input::raw;
use crate::harness::{CHAT, CHAT_PATH, Gateway, PoolConfig, key, pool, within};
use crate::http::Connection;

const MIB: u64 = 1 << 20;
const AT_ONCE: usize = 4;

/// A chat request with an image of 20 MB that depends on `n`.
fn image(n: usize, model: &str) -> Vec<u8> {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let head = r#"{"messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"data:image/png;base64,"#;
    let tail = format!(r#""}}}}]}}],"model":"{model}"}}"#);
    let mut body = head.as_bytes().to_vec();
    body.extend((0..20_000_000usize).map(|at| DIGITS[(at / 7 * 31 + at + n) % 64]));
    body.extend(tail.into_bytes());
    body
}

/// The peak resident memory of a process, in bytes.
pub(crate) fn peak(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .expect("VmHWM");
    let kib: u64 = line
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .expect("a number");
    kib * 1024
}

#[tokio::test]
async fn large_bodies_are_relayed_intact_and_held_once() {
    let mock = Mock::start().await.unwrap();
    let other = PoolConfig::new(&mock, "q", [])
        .set("models", vec!["alias"])
        .key(9, "model = \"real-model\"");
    let gw = Arc::new(Gateway::start(&format!("{}{other}", pool(&mock, AT_ONCE))).await);
    // The latency makes all of them in flight at the same time.
    mock.behave(
        "*",
        Behaviour {
            latency: Duration::from_secs(2),
            ..Behaviour::default()
        },
    );
    let mut in_flight = 0;
    let mut calls = JoinSet::new();
    for n in 1..=AT_ONCE {
        let (gw, body) = (Arc::clone(&gw), image(n, "gpt-x"));
        in_flight += body.len() as u64;
        let hash = format!("{:016x}", fnv1a(&body));
        calls.spawn(async move {
            let reply = gw.send("POST", CHAT_PATH, &[], &body).await;
            (reply, hash)
        });
    }
    for (reply, hash) in tokio::time::timeout(Duration::from_secs(40), calls.join_all())
        .await
        .unwrap()
    {
        assert_eq!((reply.status, reply.attempts()), (200, "1"), "{reply:?}");
        let number: usize = reply.key().trim_start_matches("p-").parse().unwrap();
        let seen = mock.last_request(&key(number)).unwrap();
        assert_eq!(seen.body_hash(), hash);
    }
    let peak = peak(gw.process.pid());
    assert!(
        peak < in_flight + 64 * MIB,
        "{} MiB with bodies of {} MiB in flight",
        peak / MIB,
        in_flight / MIB
    );
    mock.behave("*", Behaviour::default());
    let reply = within(gw.send("POST", CHAT_PATH, &[], &image(7, "alias"))).await;
    assert_eq!((reply.status, reply.key()), (200, "q-1"));
    let seen = mock.last_request(&key(9)).unwrap();
    let expect = image(7, "real-model");
    assert_eq!(
        (seen.body_len, seen.body_hash()),
        (expect.len() as u64, format!("{:016x}", fnv1a(&expect)))
    );
    Arc::into_inner(gw).unwrap().stop().await;
}

/// A chat request without a length, in chunks of `size` bytes.
fn chunked(body: &[u8], size: usize) -> Vec<u8> {
    let mut request = format!(
        "POST {CHAT_PATH} HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n"
    )
    .into_bytes();
    for piece in body.chunks(size) {
        request.extend(format!("{:x}\r\n", piece.len()).bytes());
        request.extend(piece);
        request.extend(b"\r\n");
    }
    request.extend(b"0\r\n\r\n");
    request
}

#[tokio::test]
async fn bodies_of_unknown_length_are_relayed_intact() {
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start(&pool(&mock, 1)).await;
    let mut long = CHAT.as_bytes().to_vec();
    long.resize(3 * MIB as usize, b' ');
    for (body, size) in [
        (CHAT.as_bytes(), 1),
        (CHAT.as_bytes(), CHAT.len()),
        (&long, 65_521),
    ] {
        let (reply, _) = raw(&gw, &chunked(body, size)).await.unwrap();
        assert_eq!(reply.status, 200, "in chunks of {size}: {reply:?}");
        let seen = mock.last_request(&key(1)).unwrap();
        assert_eq!(
            (seen.body_len, seen.body_hash()),
            (body.len() as u64, format!("{:016x}", fnv1a(body))),
            "in chunks of {size}"
        );
    }
    gw.stop().await;
}

#[tokio::test]
async fn small_bodies_of_unknown_length_do_not_wait_for_memory() {
    const MANY: u64 = 20;
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start(&pool(&mock, 1)).await;
    mock.script(&key(1), (0..MANY).map(|_| Step::Hang));
    let mut waiting = Vec::new();
    for _ in 0..MANY {
        let mut connection = Connection::open(gw.addr).await;
        connection.write(&chunked(CHAT.as_bytes(), 16)).await;
        waiting.push(connection);
    }
    // None of them is answered, so this succeeds only if all are in flight together.
    within(mock.wait_for(&key(1), |seen| seen.active == MANY)).await;
    drop(waiting);
    within(mock.wait_for(&key(1), |seen| seen.cancelled == MANY)).await;
    gw.all_idle().await;
    assert_eq!(gw.chat().await.status, 200);
    gw.stop().await;
}
