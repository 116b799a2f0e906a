//! `keypool batch run` against a running gateway.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use keypool_testkit::{Behaviour, Mock, Step};
use serde_json::{Value, json};

use crate::batches::{line, lines};
use crate::cli::{Done, run, start};
use crate::harness::{
    Gateway, PoolConfig, Process, bearer, eventually, key, pool, virtual_key, virtual_secret,
    within,
};
use crate::store_kit::poll;

const RUN: [&str; 5] = ["batch", "run", "in.jsonl", "-o", "out.jsonl"];
const STATE: &str = "out.jsonl.batch";

impl Gateway {
    /// Runs the batch of `in.jsonl` with further arguments.
    async fn batch_run(&self, more: &[&str]) -> Done {
        self.keypool(&[&RUN, more].concat()).await.without_secret()
    }

    /// Starts it, and waits until the provider has had `calls` of its calls.
    async fn batch_started(&self, mock: &Mock, calls: u64) -> Process {
        let process = Process::start(self.folder(), &RUN);
        within(mock.wait_for(&key(1), |seen| seen.requests >= calls)).await;
        poll("the state has the batch", async || {
            self.exists(STATE) && self.state()["batch_id"].is_string()
        })
        .await;
        process
    }

    fn state(&self) -> Value {
        let text = fs::read(self.folder().path(STATE)).expect("a state");
        serde_json::from_slice(&text).expect("JSON")
    }

    fn change_state(&self, name: &str, value: Value) {
        let mut state = self.state();
        state[name] = value;
        self.folder().write(STATE, &state.to_string());
    }

    fn exists(&self, name: &str) -> bool {
        self.folder().path(name).exists()
    }

    /// The names of the calls in a file of results.
    fn results(&self, name: &str) -> BTreeSet<String> {
        let text = fs::read_to_string(self.folder().path(name)).expect("results");
        let names: BTreeSet<String> = text
            .lines()
            .map(|line| {
                let line: Value = serde_json::from_str(line).expect("JSON");
                line["custom_id"].as_str().expect("a name").to_owned()
            })
            .collect();
        assert_eq!(names.len(), text.lines().count(), "a call is there twice");
        names
    }

    /// Checks that nothing is left of a batch but its results.
    fn assert_tidy(&self) {
        let entries = fs::read_dir(self.folder().path(".")).expect("a folder");
        for entry in entries {
            let name = entry.expect("an entry").file_name();
            let name = name.to_string_lossy();
            assert!(
                !name.ends_with(".part") && !name.ends_with(".batch"),
                "{name}"
            );
        }
    }
}

async fn killed(mut process: Process) {
    process.signal("KILL");
    eventually("the process is gone", || process.has_ended()).await;
}

/// A gateway whose one key takes two calls at a time, of 60 ms each.
async fn slow_gateway(calls: usize) -> (Mock, Gateway) {
    let mock = Mock::start().await.expect("a mock");
    let config = PoolConfig::new(&mock, "p", [1]).set("max_concurrent_per_key", 2);
    let gw = start(&config.to_string()).await;
    mock.behave(
        &key(1),
        Behaviour {
            latency: Duration::from_millis(60),
            ..Behaviour::default()
        },
    );
    gw.folder().write("in.jsonl", &lines(calls));
    (mock, gw)
}

#[tokio::test]
async fn successes_and_errors_are_saved_in_their_files() {
    let mock = Mock::start().await.unwrap();
    let gw = start(&pool(&mock, 1)).await;
    gw.folder().write("in.jsonl", &lines(5));
    let refusal = Step::Refuse {
        status: 400,
        retry_after: None,
    };
    mock.script(&key(1), [refusal]);
    let done = gw.batch_run(&[]).await;
    assert_eq!((done.code, &*done.stderr), (1, ""), "{done:?}");
    let said = "completed: 4 of 5 calls succeeded (out.jsonl), 1 failed (out.errors.jsonl)\n";
    assert_eq!(done.stdout, said);
    let (mut all, errors) = (gw.results("out.jsonl"), gw.results("out.errors.jsonl"));
    assert_eq!((all.len(), errors.len()), (4, 1));
    all.extend(errors);
    assert_eq!(all.len(), 5);
    gw.assert_tidy();

    // The next one has no errors, so those of the one before are no longer there.
    let done = gw.batch_run(&["--json"]).await;
    let batch = done.json();
    done.ok();
    let counts = json!({ "total": 5, "completed": 5, "failed": 0 });
    assert_eq!(batch["request_counts"], counts);
    assert_eq!(batch["output_path"], "out.jsonl");
    assert_eq!(batch["errors_path"], Value::Null);
    assert_eq!(gw.results("out.jsonl").len(), 5);
    assert!(!gw.exists("out.errors.jsonl"));
    gw.stop().await;
}

#[tokio::test]
async fn a_batch_is_run_as_the_caller_of_the_virtual_key() {
    let mock = Mock::start().await.unwrap();
    let gw = start(&(pool(&mock, 1) + &virtual_key("a", ""))).await;
    gw.folder().write("in.jsonl", &lines(1));
    let said = gw.batch_run(&[]).await.failed();
    assert!(said.contains("set KEYPOOL_API_KEY"), "{said}");
    gw.assert_tidy();
    let secret = virtual_secret("a");
    let env = [("KEYPOOL_API_KEY", &*secret)];
    let errors = [&RUN[..], &["--errors", "wrong.jsonl", "--json"]].concat();
    let done = run(gw.folder(), &errors, &env, "").await.without_secret();
    let batch = done.json();
    let caller = ("authorization", &*bearer("a"));
    let path = format!("/v1/batches/{}", batch["id"].as_str().unwrap());
    let found = gw.send("GET", &path, &[caller], b"").await;
    assert_eq!(found.json()["status"], "completed");
    gw.stop().await;
}

#[tokio::test]
async fn mistakes_in_the_file_are_printed_with_their_lines() {
    let mock = Mock::start().await.unwrap();
    let gw = start(&pool(&mock, 1)).await;
    let good = line("call-1", "x");
    let text = format!("{{\"custom_id\":\n{good}\n{good}\n");
    gw.folder().write("in.jsonl", &text);
    let done = gw.batch_run(&[]).await;
    assert_eq!(done.stdout, "");
    let said = done.failed();
    let mut said = said.lines();
    assert_eq!(
        said.next(),
        Some("keypool: in.jsonl has 2 mistakes, so no call was made:")
    );
    assert!(said.next().unwrap().starts_with("line 1: "));
    assert!(said.next().unwrap().starts_with("line 3: "));
    assert!(!gw.exists("out.jsonl") && !gw.exists("out.errors.jsonl"));
    gw.assert_tidy();

    gw.folder().write("in.jsonl", &"{}\n".repeat(25));
    let done = gw.batch_run(&["--json"]).await;
    let batch = done.json();
    let n = batch["errors"]["data"].as_array().unwrap().len();
    let said = done.failed();
    assert_eq!(said.lines().count(), 22, "{said}");
    assert!(said.contains(&format!("\n{} more mistakes", n - 20)));

    let wrong = gw.batch_run(&["--endpoint", "/v1/images"]).await.failed();
    assert!(wrong.contains("`endpoint` must be one of"), "{wrong}");
    let same = gw.keypool(&["batch", "run", "in.jsonl", "-o", "./in.jsonl"]);
    let same = same.await.failed();
    assert!(same.contains("is the input"), "{same}");
    let missing = gw.keypool(&["batch", "run", "none.jsonl", "-o", "out.jsonl"]);
    let missing = missing.await.failed();
    assert!(missing.contains("cannot read none.jsonl"), "{missing}");
    gw.assert_tidy();
    assert_eq!(mock.seen(&key(1)).requests, 0);
    gw.stop().await;
}

#[tokio::test]
async fn a_file_that_is_too_large_is_refused_with_the_reason() {
    let mock = Mock::start().await.unwrap();
    let gw = start(&(pool(&mock, 1) + "[files]\nmax_size = \"1KiB\"\n")).await;
    // More than the buffers of a connection hold.
    gw.folder().write("in.jsonl", &"x".repeat(16 << 20));
    let said = gw.batch_run(&[]).await.failed();
    assert!(said.contains("files.max_size"), "{said}");
    gw.assert_tidy();
    gw.stop().await;
}

#[tokio::test]
async fn after_a_kill_the_same_command_continues_with_the_batch() {
    let (mock, gw) = slow_gateway(100).await;
    let process = gw.batch_started(&mock, 5).await;
    killed(process).await;
    assert!(!gw.exists("out.jsonl"), "it is not complete");
    // As if it had been killed before the creation was acknowledged.
    let id = gw.state()["batch_id"].clone();
    gw.change_state("batch_id", Value::Null);
    let done = gw.batch_run(&["--json"]).await;
    assert_eq!(done.json()["id"], id);
    done.ok();
    assert_eq!(gw.results("out.jsonl").len(), 100);
    assert_eq!(mock.seen(&key(1)).requests, 100);
    gw.assert_tidy();
    gw.stop().await;
}

#[tokio::test]
async fn a_changed_input_does_not_continue_a_batch() {
    let (mock, gw) = slow_gateway(40).await;
    let process = gw.batch_started(&mock, 3).await;
    killed(process).await;
    gw.folder().write("in.jsonl", &lines(41));
    let said = gw.batch_run(&[]).await.failed();
    assert!(said.contains("in.jsonl has changed"), "{said}");
    gw.change_state("server", json!("http://127.0.0.1:9"));
    let said = gw.batch_run(&[]).await.failed();
    assert!(said.contains("--server http://127.0.0.1:9"), "{said}");
    gw.change_state("server", json!(format!("http://{}", gw.addr)));
    gw.folder().write("in.jsonl", &lines(40));
    gw.batch_run(&[]).await.ok();
    assert_eq!(gw.results("out.jsonl").len(), 40);
    assert_eq!(mock.seen(&key(1)).requests, 40);
    gw.stop().await;
}

#[tokio::test]
async fn an_interrupted_batch_goes_on_and_can_be_cancelled() {
    let (mock, gw) = slow_gateway(300).await;
    let mut process = gw.batch_started(&mock, 5).await;
    process.signal("INT");
    assert_eq!(process.ended().await, 1);
    let id = gw.state()["batch_id"].as_str().unwrap().to_owned();
    let said = process.stderr();
    assert!(
        said.contains("same command") && said.contains("--cancel") && said.contains(&id),
        "{said}"
    );
    let before = mock.seen(&key(1)).requests;
    within(mock.wait_for(&key(1), |seen| seen.requests > before + 5)).await;
    let done = gw.batch_run(&["--cancel"]).await;
    assert!(done.stdout.starts_with("cancelled: "), "{done:?}");
    assert_eq!(done.code, 1);
    let (mut all, errors) = (gw.results("out.jsonl"), gw.results("out.errors.jsonl"));
    assert!(all.len() > 10 && errors.len() > 100);
    all.extend(errors);
    assert_eq!(all.len(), 300);
    gw.assert_tidy();
    let said = gw.batch_run(&["--cancel"]).await.failed();
    assert!(said.contains("there is no batch to cancel"), "{said}");
    gw.stop().await;
}

#[tokio::test]
async fn the_results_of_a_batch_that_ended_before_its_cancel_are_saved() {
    let (mock, gw) = slow_gateway(10).await;
    let process = gw.batch_started(&mock, 1).await;
    killed(process).await;
    let id = gw.state()["batch_id"].as_str().unwrap().to_owned();
    gw.batch_ended(&id).await;
    let said = gw.batch_run(&["--cancel"]).await.ok();
    assert_eq!(said, "completed: 10 of 10 calls succeeded (out.jsonl)\n");
    assert_eq!(gw.results("out.jsonl").len(), 10);
    gw.assert_tidy();
    gw.stop().await;
}

#[tokio::test]
async fn a_batch_that_the_server_does_not_know_is_started_again() {
    let (mock, gw) = slow_gateway(10).await;
    let process = gw.batch_started(&mock, 1).await;
    killed(process).await;
    gw.change_state("batch_id", json!("batch_kp0"));
    let done = gw.batch_run(&[]).await;
    assert!(
        done.stderr
            .contains("no longer knows the batch of out.jsonl.batch"),
        "{done:?}"
    );
    done.ok();
    assert_eq!(gw.results("out.jsonl").len(), 10);
    gw.stop().await;
}

#[tokio::test]
async fn a_restart_of_the_server_is_waited_for() {
    let (mock, gw) = slow_gateway(100).await;
    let mut process = gw.batch_started(&mock, 5).await;
    let folder = gw.killed().await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert!(!process.has_ended(), "{}", process.stderr());
    let gw = Gateway::run(&folder, &["serve"]).await;
    assert_eq!(process.ended().await, 0, "{}", process.stderr());
    assert_eq!(gw.results("out.jsonl").len(), 100);
    gw.stop().await;
}
