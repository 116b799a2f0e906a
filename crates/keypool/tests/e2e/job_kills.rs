//! Jobs while the process that accepts and runs them is killed again and again.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use keypool_testkit::{Behaviour, Mock};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::harness::{CHAT, CHAT_PATH, DEADLINE, Folder, Gateway, PoolConfig, key, within};
use crate::store_kit::{Database, TOKEN, poll_for};

/// Jobs submitted, and kills among them.
const JOBS: usize = 200;
const KILLS: usize = 5;
/// Each of these is a call that must not be made twice.
const ONCE: usize = 10;

fn once(n: usize) -> bool {
    n.is_multiple_of(JOBS / ONCE)
}

/// Submits a job. `None` if there was no acknowledgement.
async fn try_submit(addr: SocketAddr, n: usize) -> Option<String> {
    let body = match once(n) {
        true => CHAT.replace("\"model\"", "\"store\":true,\"model\""),
        false => CHAT.to_owned(),
    };
    let mut stream = TcpStream::connect(addr).await.ok()?;
    let head = format!(
        "POST {CHAT_PATH} HTTP/1.1\r\nhost: {addr}\r\nconnection: close\r\nprefer: respond-async\r\nidempotency-key: job-{n}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.ok()?;
    let mut response = String::new();
    stream.read_to_string(&mut response).await.ok()?;
    let (head, body) = response.split_once("\r\n\r\n")?;
    assert!(head.starts_with("HTTP/1.1 202"), "{response}");
    let job: Value = serde_json::from_str(body).ok()?;
    Some(job["id"].as_str()?.to_owned())
}

/// Submits what has no acknowledgement yet, for this time.
async fn submit_for(time: Duration, addr: SocketAddr, acknowledged: &mut BTreeMap<usize, String>) {
    let mut submitting = JoinSet::new();
    let open = (0..JOBS).filter(|n| !acknowledged.contains_key(n));
    let open: Vec<usize> = open.take(2 * JOBS / KILLS).collect();
    // A few clients, each of which submits one job after the other.
    let (report, mut submitted) = tokio::sync::mpsc::channel(JOBS);
    for mine in open.chunks(10) {
        let (mine, report) = (mine.to_vec(), report.clone());
        submitting.spawn(async move {
            for n in mine {
                if let Some(id) = try_submit(addr, n).await {
                    let _ = report.send((n, id)).await;
                }
            }
        });
    }
    drop(report);
    let collect = async {
        while let Some((n, id)) = submitted.recv().await {
            acknowledged.insert(n, id);
        }
    };
    let _ = tokio::time::timeout(time, collect).await;
    submitting.shutdown().await;
    // What was acknowledged at the very end counts too.
    while let Ok((n, id)) = submitted.try_recv() {
        acknowledged.insert(n, id);
    }
}

/// Checks that every job ended, and returns how many calls have an unknown outcome.
async fn all_ended(gw: &Gateway, acknowledged: &BTreeMap<usize, String>) -> usize {
    let mut unknown = 0;
    for (n, id) in acknowledged {
        let job = gw.ended(id, &[]).await;
        if job["error"]["code"] == "outcome_unknown" {
            assert!(once(*n), "{job}");
            unknown += 1;
            continue;
        }
        assert_eq!(job["status"], "succeeded", "{job}");
        let response = gw.job_call("GET", &format!("{id}/response")).await;
        assert_eq!(
            (response.status, &response.json()["object"]),
            (200, &json!("chat.completion"))
        );
    }
    unknown
}

async fn slow_mock() -> Mock {
    let mock = Mock::start().await.expect("a mock");
    for n in 1..=3 {
        let behaviour = Behaviour {
            latency: Duration::from_millis(30),
            ..Behaviour::default()
        };
        mock.behave(&key(n), behaviour);
    }
    mock
}

fn pool(mock: &Mock) -> String {
    let pool = PoolConfig::new(mock, "p", 1..=3).set("max_concurrent_per_key", 4);
    pool.to_string()
}

#[tokio::test]
async fn no_acknowledged_job_is_lost_in_kills() {
    let mock = slow_mock().await;
    let folder = Folder::new(&pool(&mock));
    let mut gw = Gateway::start_in(&folder).await;
    let mut acknowledged = BTreeMap::new();
    for _ in 0..KILLS {
        let time = Duration::from_millis(fastrand::u64(60..250));
        submit_for(time, gw.addr, &mut acknowledged).await;
        let folder = gw.killed().await;
        gw = Gateway::start_in(&folder).await;
    }
    while acknowledged.len() < JOBS {
        submit_for(Duration::from_secs(5), gw.addr, &mut acknowledged).await;
    }
    let unknown = all_ended(&gw, &acknowledged).await;
    assert!(unknown <= ONCE);
    let listed = gw.get("/v1/jobs?limit=100&status=queued").await.json();
    assert_eq!(listed["data"], json!([]));
    gw.stop().await;
}

#[tokio::test]
async fn jobs_of_a_killed_node_run_on_the_other() {
    let mock = slow_mock().await;
    let database = Database::new().await;
    let config = pool(&mock) + &database.config();
    let start = async || Gateway::start_again(&Folder::new(&config), TOKEN.to_owned()).await;
    let (first, second) = (start().await, start().await);
    let mut acknowledged = BTreeMap::new();
    let time = Duration::from_millis(300);
    submit_for(time, first.addr, &mut acknowledged).await;
    submit_for(time, second.addr, &mut acknowledged).await;
    assert!(!acknowledged.is_empty());
    first.killed().await;
    while acknowledged.len() < JOBS {
        submit_for(Duration::from_secs(5), second.addr, &mut acknowledged).await;
    }
    let began = tokio::time::Instant::now();
    let unknown = all_ended(&second, &acknowledged).await;
    assert!(unknown <= ONCE);
    assert!(
        began.elapsed() < Duration::from_secs(25),
        "{:?}",
        began.elapsed()
    );
    second.stop().await;
}

#[tokio::test]
async fn a_batch_of_a_killed_node_ends_on_the_other() {
    let mock = slow_mock().await;
    let database = Database::new().await;
    let config = pool(&mock) + &database.config();
    let start = async || Gateway::start_again(&Folder::new(&config), TOKEN.to_owned()).await;
    let (first, second) = (start().await, start().await);
    let id = first.batch(&crate::batches::lines(500)).await;
    mock.wait_for(&key(1), |seen| seen.requests > 40).await;
    first.killed().await;
    // The other node goes on once the claims of the dead one have run out.
    let path = format!("/v1/batches/{id}");
    let mut batch = Value::Null;
    poll_for(4 * DEADLINE, "the batch ends", async || {
        batch = second.get(&path).await.json();
        batch["status"] == "completed"
    })
    .await;
    let counts = json!({ "total": 500, "completed": 500, "failed": 0 });
    assert_eq!(batch["request_counts"], counts);
    let output = second.content(&batch["output_file_id"]).await;
    assert_eq!(output.len(), 500);
    second.stop().await;
}

/// Who waits at one node hears at once of what another node does, however shortly before they began to wait.
#[tokio::test]
async fn who_waits_hears_of_other_nodes() {
    let mock = Mock::start().await.expect("a mock");
    let database = Database::new().await;
    let config = pool(&mock) + &database.config();
    let start = async || Gateway::start_again(&Folder::new(&config), TOKEN.to_owned()).await;
    let (first, second) = (start().await, start().await);
    mock.script("*", std::iter::repeat_n(keypool_testkit::Step::Hang, 10));
    for _ in 0..5 {
        let id = first.job(CHAT, &[]).await;
        let path = format!("/v1/jobs/{id}?wait=25s");
        let cancel = format!("/v1/jobs/{id}");
        let waiting = second.get(&path);
        let cancelling = async {
            tokio::task::yield_now().await;
            first.send("DELETE", &cancel, &[], b"").await
        };
        let both = async { tokio::join!(waiting, cancelling) };
        let (heard, cancelled) = within(both).await;
        assert_eq!(cancelled.status, 200, "{cancelled:?}");
        assert_eq!(heard.json()["status"], "cancelled", "{heard:?}");
    }
    first.stop().await;
    second.stop().await;
}
