//! The command line: its output and its exit codes.

use std::net::TcpListener;
use std::process::Command;

use keypool_testkit::{Mock, Step};
use serde_json::Value;

use crate::harness::{
    CHAT, CHAT_PATH, Folder, Gateway, MARK, PoolConfig, Process, pool, virtual_key,
};

async fn run(folder: &std::sync::Arc<Folder>, args: &[&str]) -> (i32, String, String) {
    let mut process = Process::start(folder, args);
    let code = process.ended().await;
    process.assert_no_secret();
    (code, process.stdout(), process.stderr())
}

/// Runs the printed `curl` line in a shell.
async fn paste_curl(gw: &Gateway) -> String {
    let stdout = gw.process.stdout();
    let line = stdout
        .lines()
        .find(|line| line.trim_start().starts_with("curl "))
        .unwrap_or_else(|| panic!("no curl line: {stdout}"));
    let command = format!("{} --silent --show-error --fail --max-time 10", line.trim());
    let output = tokio::task::spawn_blocking(|| Command::new("sh").arg("-c").arg(command).output());
    let output = output.await.expect("no panic").expect("sh");
    assert!(output.status.success(), "{line}: {output:?}");
    String::from_utf8(output.stdout).expect("text")
}

#[tokio::test]
async fn the_demo_prints_a_curl_line_that_works_when_pasted() {
    let folder = Folder::new("");
    let gw = Gateway::run(&folder, &["demo", "--listen", "127.0.0.1:0"]).await;
    let answer: Value = serde_json::from_str(&paste_curl(&gw).await).unwrap();
    assert!(
        answer["choices"][0]["message"]["content"]
            .as_str()
            .is_some_and(|text| text.contains("made up")),
        "{answer}"
    );
    let stdout = gw.process.stdout();
    assert!(
        stdout.contains("made up") && stdout.contains("3 keys") && stdout.contains("/ui/"),
        "{stdout}"
    );
    gw.stop().await;
}

#[tokio::test]
async fn the_demos_curl_line_works_with_required_virtual_keys() {
    let team = virtual_key("team-a", "");
    let config = format!("[server]\nauth = \"required\"\n{team}");
    for (config, listen) in [(config.as_str(), "127.0.0.1:0"), ("", "0.0.0.0:0")] {
        let folder = Folder::new(config);
        let gw = Gateway::run(&folder, &["demo", "--listen", listen]).await;
        let answer: Value = serde_json::from_str(&paste_curl(&gw).await).unwrap();
        assert!(answer["choices"].is_array(), "{config}{listen}: {answer}");
        gw.stop().await;
    }
}

#[tokio::test]
async fn serve_prints_its_pools_and_a_curl_line_that_works() {
    let mock = Mock::start().await.unwrap();
    let named = PoolConfig::new(&mock, "p", 1..=2).set("models", vec!["gpt-x"]);
    for config in [pool(&mock, 2), named.to_string()] {
        let gw = Gateway::start(&config).await;
        let answer: Value = serde_json::from_str(&paste_curl(&gw).await).unwrap();
        assert!(
            answer["choices"].is_array() || answer["data"].is_array(),
            "{answer}"
        );
        let stdout = gw.process.stdout();
        assert!(
            stdout.contains("p: 2 keys") && stdout.contains(&format!("http://{}", gw.addr)),
            "{stdout}"
        );
        assert!(
            gw.log().contains("pool loaded") && gw.log().contains("listening on"),
            "{}",
            gw.log()
        );
        gw.stop().await;
    }
}

#[tokio::test]
async fn without_keys_it_serves_and_says_how_to_add_one() {
    let gw = Gateway::start("").await;
    assert!(
        gw.process
            .stdout()
            .contains("No provider key is configured"),
        "{}",
        gw.process.stdout()
    );
    let reply = gw.chat().await;
    assert_eq!(
        (reply.status, reply.code().as_str()),
        (404, "model_not_found")
    );
    assert!(
        reply.message().contains("no provider key is configured"),
        "{}",
        reply.message()
    );
    assert_eq!(gw.get("/readyz").await.status, 200);
    paste_curl(&gw).await;
    gw.stop().await;
}

#[tokio::test]
async fn json_logs_are_json_lines() {
    let mock = Mock::start().await.unwrap();
    let config = format!("[log]\nformat = \"json\"\n{}", pool(&mock, 1));
    let gw = Gateway::start(&config).await;
    let reply = gw
        .send(
            "POST",
            CHAT_PATH,
            &[("x-request-id", "my-id-1")],
            CHAT.as_bytes(),
        )
        .await;
    assert_eq!(reply.header("x-request-id"), Some("my-id-1"));
    gw.logged("my-id-1").await;
    let lines: Vec<Value> = gw
        .log()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}")))
        .collect();
    let request = lines
        .iter()
        .find(|line| line["request_id"] == "my-id-1")
        .unwrap();
    assert_eq!(
        (
            &request["status"],
            &request["method"],
            &request["path"],
            &request["pool"],
            &request["key_name"],
            &request["attempts"]
        ),
        (
            &200.into(),
            &"POST".into(),
            &"/v1/chat/completions".into(),
            &"p".into(),
            &"p-1".into(),
            &1.into()
        ),
        "{request}"
    );
    gw.stop().await;
}

#[tokio::test]
async fn a_port_in_use_is_one_clear_error_and_exit_1() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    let (code, _, stderr) = run(&Folder::new(""), &["serve", "--listen", &addr]).await;
    assert_eq!(code, 1, "{stderr}");
    let line = stderr.lines().last().unwrap_or_default();
    assert!(
        line.contains("cannot listen on")
            && line.contains(&addr)
            && line.contains("another program"),
        "{stderr}"
    );
}

#[tokio::test]
async fn check_reports_every_mistake_at_once() {
    let mistakes = format!(
        "[server]\nlisten = \"nowhere\"\nlisen = 1\n[pools.p]\nprovider = \"opnai\"\nkeys = [\"k-{MARK}\", \"k-{MARK}\"]\n\
         [pools.p.retry]\nretries = \"many\"\n[[virtual_keys]]\nname = \"short\"\nkey = \"{MARK}\"\npools = [\"q\"]\n"
    );
    let folder = Folder::new(&mistakes);
    let (code, _, stderr) = run(&folder, &["check"]).await;
    assert_eq!(code, 1);
    for says in [
        "keypool.toml:2:",
        "keypool.toml:3:",
        "did you mean",
        "opnai",
        "keypool.toml:8:",
        "16 characters",
    ] {
        assert!(stderr.contains(says), "{says}: {stderr}");
    }
    let (code, stdout, _) = run(&folder, &["check", "--json"]).await;
    let answer: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((code, &answer["ok"]), (1, &Value::Bool(false)));
    assert!(
        answer["errors"]
            .as_array()
            .is_some_and(|errors| errors.len() >= 5),
        "{answer}"
    );
    let (code, _, stderr) = run(&folder, &["serve", "--listen", "127.0.0.1:0"]).await;
    assert!(code == 1 && stderr.contains("opnai"), "{stderr}");
}

#[tokio::test]
async fn exit_codes_tell_success_failure_and_usage_errors() {
    let mock = Mock::start().await.unwrap();
    let folder = Folder::new(&pool(&mock, 1));
    for (args, expect) in [
        (&["check"][..], 0),
        (&["--version"], 0),
        (&["--help"], 0),
        (&["check", "--config", "absent.toml"], 1),
        (&[], 2),
        (&["serv"], 2),
        (&["serve", "--no-such-flag"], 2),
        (&["check", "extra"], 2),
        (&["serve", "--listen"], 2),
    ] {
        let (code, stdout, stderr) = run(&folder, args).await;
        assert_eq!(code, expect, "{args:?}: {stdout}{stderr}");
    }
    let (_, stdout, _) = run(&folder, &["--version"]).await;
    assert_eq!(
        stdout.trim(),
        format!("keypool {}", env!("CARGO_PKG_VERSION"))
    );
    let (_, stdout, _) = run(&folder, &["check"]).await;
    assert!(
        stdout.contains("1 pools, 1 keys") || stdout.contains("1 pool, 1 key"),
        "{stdout}"
    );
}

#[tokio::test]
async fn an_answer_without_a_body_ends_normally() {
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start(&pool(&mock, 1)).await;
    for status in [200, 204, 404] {
        mock.script(
            "*",
            [Step::Status {
                status,
                headers: Vec::new(),
                body: String::new(),
            }],
        );
        let id = format!("empty-{status}");
        let headers = [("x-request-id", id.as_str())];
        // A native call: one that runs a model must have an answer.
        let chat = CHAT.as_bytes();
        let reply = gw.send("POST", "/p/v1/anything", &headers, chat).await;
        assert_eq!((reply.status, reply.body.len()), (status, 0));
        gw.logged(&id).await;
        let log = gw.log();
        let line = log.lines().find(|line| line.contains(&id)).unwrap();
        assert!(!line.contains("ended="), "{line}");
    }
    gw.stop().await;
}
