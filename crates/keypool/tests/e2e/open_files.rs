//! The limit of open files: raised at start, told, and survived where it is reached.

use std::time::Duration;

use keypool_testkit::Mock;
use serde_json::Value;

use crate::harness::{CHAT, CHAT_PATH, Folder, Gateway, Process, eventually, pool, within};
use crate::http::Connection;

async fn start(config: &str, limits: &str) -> Gateway {
    let folder = Folder::new(config);
    let args = ["serve", "--listen", "127.0.0.1:0"];
    Gateway::of(Process::start_after(&folder, limits, &args)).await
}

/// The soft limit in force.
fn soft_limit(gw: &Gateway) -> String {
    let limits =
        std::fs::read_to_string(format!("/proc/{}/limits", gw.process.pid())).expect("a process");
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"));
    line.and_then(|line| line.split_whitespace().next())
        .expect("a limit")
        .to_owned()
}

/// How many files the gateway has open.
fn open_files(gw: &Gateway) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", gw.process.pid()))
        .expect("a process")
        .count()
}

#[tokio::test]
async fn the_soft_limit_is_raised_to_the_hard_one_and_what_fits_is_told() {
    for (hard, enough) in [("900", false), ("4000", true)] {
        let limits = format!("ulimit -Sn 128 && ulimit -Hn {hard}");
        let gw = start("[log]\nformat = \"json\"\n", &limits).await;
        assert_eq!(soft_limit(&gw), hard);
        gw.logged("there is capacity for").await;
        let log = gw.log();
        let line = log
            .lines()
            .find(|line| line.contains("there is capacity for"));
        let line: Value = serde_json::from_str(line.unwrap()).unwrap();
        assert_eq!(
            line["level"],
            if enough { "INFO" } else { "WARN" },
            "{line}"
        );
        assert_eq!(line["message"].to_string().contains("LimitNOFILE"), !enough);
        let streams = line["streams"].as_u64().unwrap();
        assert_eq!(streams >= 1_000, enough, "{line}");
        let told = format!("{streams} streams at once ({hard} open files)");
        assert!(gw.process.stdout().contains(&told), "{told}");
        gw.stop().await;
    }
}

#[tokio::test]
async fn more_connections_than_fit_wait_and_leave_room_for_calls_to_the_provider() {
    let mock = Mock::start().await.unwrap();
    let gw = start(&pool(&mock, 1), "ulimit -n 128").await;
    let mut regular = Connection::open(gw.addr).await;
    regular.request("GET", "/healthz", &[], b"").await;
    let (reply, regular) = within(regular.reply()).await.unwrap();
    assert_eq!(reply.status, 200);
    let told = "more wait";
    let mut held = Vec::new();
    while !gw.log().contains(told) {
        assert!(held.len() < 128, "nobody waits:\n{}", gw.log());
        let mut connection = Connection::open(gw.addr).await;
        // A head that never ends.
        connection.write(b"POST / HTTP/1.1\r\n").await;
        held.push(connection);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // Who has a connection is served: there is room for the way to the provider.
    let mut busy = regular;
    for _ in 0..3 {
        busy.request("POST", CHAT_PATH, &[], CHAT.as_bytes()).await;
        let (reply, back) = within(busy.reply()).await.unwrap();
        assert_eq!(reply.status, 200, "{reply:?}");
        busy = back;
    }
    drop(held);
    assert_eq!(gw.chat().await.status, 200, "served once some are free");
    gw.stop().await;
}

#[tokio::test]
async fn without_files_left_it_stays_alive_blames_no_key_and_serves_when_some_are_free() {
    let mock = Mock::start().await.unwrap();
    let limit = open_files_of_an_idle_gateway(&mock).await + 8;
    let gw = start(&pool(&mock, 1), &format!("ulimit -n {limit}")).await;
    let mut regular = Connection::open(gw.addr).await;
    regular.request("GET", "/healthz", &[], b"").await;
    let (reply, mut regular) = within(regular.reply()).await.unwrap();
    assert_eq!(reply.status, 200);
    let mut held = Vec::new();
    while !gw.log().contains("could not be accepted") {
        assert!(held.len() < 64, "every one is accepted:\n{}", gw.log());
        held.push(Connection::open(gw.addr).await);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for _ in 0..8 {
        // More that wait.
        held.push(Connection::open(gw.addr).await);
    }
    // No file is left for a call to the provider: that is not the key's fault.
    regular
        .request("POST", CHAT_PATH, &[], CHAT.as_bytes())
        .await;
    let (reply, regular) = within(regular.reply()).await.unwrap();
    assert_eq!(
        (reply.status, reply.code().as_str()),
        (502, "upstream_unreachable"),
        "{reply:?}"
    );
    let lines = || gw.log().matches("could not be accepted").count();
    let began = tokio::time::Instant::now();
    let told = lines();
    eventually("it is told again", || lines() >= told + 2).await;
    // A second lies between two of them; the first may have been read late.
    let took = began.elapsed();
    assert!(took > Duration::from_millis(500), "{took:?}:\n{}", gw.log());
    drop((held, regular));
    let reply = gw.chat().await;
    assert_eq!(reply.status, 200, "served once some are free: {reply:?}");
    let stats = gw.key_stats("p", "p-1").await;
    assert_eq!(stats["failed_requests"], 0, "{stats}");
    gw.stop().await;
}

/// How many files the gateway has open when nobody calls.
async fn open_files_of_an_idle_gateway(mock: &Mock) -> usize {
    let gw = Gateway::start(&pool(mock, 1)).await;
    let files = open_files(&gw);
    gw.stop().await;
    files
}
