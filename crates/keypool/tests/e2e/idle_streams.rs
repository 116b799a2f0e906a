//! Thousands of open, silent streams: the memory that each costs, and that other requests are still served.

use std::time::Duration;

use keypool_testkit::{Behaviour, Mock, Step};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::harness::{CHAT_PATH, Gateway, STREAM, key, pool, within};
use crate::http::{Answer, Connection};
use crate::memory::peak;

const STREAMS: usize = 4_000;
const AT_ONCE: usize = 100;
const KIB: u64 = 1 << 10;
/// A generous bound: a release build needs less than 100 MiB.
const MOST: u64 = 256 * KIB * KIB;

/// Opens this many streams and reads the first event of each.
async fn open(gw: &Gateway, streams: usize) -> Vec<Answer> {
    let addr = gw.addr;
    let mut opening = JoinSet::new();
    for _ in 0..AT_ONCE {
        opening.spawn(async move {
            let mut open = Vec::new();
            for _ in 0..streams / AT_ONCE {
                let mut connection = Connection::open(addr).await;
                connection
                    .request("POST", CHAT_PATH, &[], STREAM.as_bytes())
                    .await;
                let mut answer = connection.answer().await.expect("an answer");
                assert_eq!(answer.status, 200);
                let first = answer.next().await.expect("a stream");
                assert!(first.is_some_and(|event| event.starts_with(b"data: ")));
                open.push(answer);
            }
            open
        });
    }
    opening.join_all().await.into_iter().flatten().collect()
}

#[tokio::test]
async fn thousands_of_silent_streams_use_little_memory_and_block_nobody() {
    // This process is both client and provider.
    let needed = 2 * STREAMS as u64 + 1_000;
    let limit = rlimit::increase_nofile_limit(rlimit::INFINITY).unwrap();
    assert!(
        limit >= needed,
        "this test opens {needed} files, and the hard limit is {limit}: raise it (ulimit -Hn)"
    );
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start(&pool(&mock, 20)).await;
    assert_eq!(gw.chat().await.status, 200);
    let before = peak(gw.process.pid());
    mock.behave(
        "*",
        Behaviour {
            // The first event has no output, so it is held until the second comes.
            fault: Some(Step::StallAfter(2)),
            record: false,
            ..Behaviour::default()
        },
    );
    let streams = timeout(Duration::from_secs(60), open(&gw, STREAMS));
    let streams = streams.await.expect("all streams open within a minute");
    let peak = peak(gw.process.pid());
    let each = (peak - before) / STREAMS as u64;
    assert!(
        peak < MOST,
        "{} KiB, {} of them before the first stream: {} bytes for each",
        peak / KIB,
        before / KIB,
        each
    );
    // Other requests are still served.
    mock.behave("*", Behaviour::default());
    let stats = gw.stats().await;
    let active: u64 = (1..=20)
        .filter_map(|n| stats["p"][format!("p-{n}")]["active_requests"].as_u64())
        .sum();
    assert_eq!(active, STREAMS as u64);
    let reply = gw.chat().await;
    assert_eq!(reply.status, 200, "{reply:?}");
    drop(streams);
    gw.all_idle().await;
    let hung_up = (1..=20).map(|n| mock.seen(&key(n)).cancelled).sum::<u64>();
    within(async {
        // The provider notices at once too.
        for n in 1..=20 {
            mock.wait_for(&key(n), |seen| seen.active == 0).await;
        }
    })
    .await;
    assert!(hung_up <= STREAMS as u64);
    eprintln!("{each} bytes a stream, {before} before, {peak} at most");
    gw.stop().await;
}
