//! `keypool virtual-keys` against a running gateway.

use std::fs::File;
use std::process::{Child, Command, Stdio};

use keypool_testkit::Mock;
use serde_json::json;

use crate::cli::start;
use crate::harness::{CHAT, CHAT_PATH, Gateway, pool, virtual_key, virtual_secret};

async fn gateway() -> (Mock, Gateway) {
    let mock = Mock::start().await.expect("a mock");
    let gw = start(&pool(&mock, 1)).await;
    (mock, gw)
}

/// The status of a call with a virtual key.
async fn call(gw: &Gateway, secret: &str) -> u16 {
    let bearer = format!("Bearer {}", secret.trim());
    gw.send(
        "POST",
        CHAT_PATH,
        &[("authorization", &bearer)],
        CHAT.as_bytes(),
    )
    .await
    .status
}

#[tokio::test]
async fn a_virtual_key_is_created_used_and_rotated() {
    let (_mock, gw) = gateway().await;
    let created = gw.keypool(&["virtual-keys", "create", "team-a"]).await;
    let note = "the only time that its secret is shown";
    assert!(created.stderr.contains(note), "{created:?}");
    let first = created.ok();
    assert!(
        first.starts_with("kp-") && first.lines().count() == 1,
        "{first}"
    );
    assert_eq!(call(&gw, &first).await, 200);

    let rotate = ["virtual-keys", "rotate", "team-a", "--grace"];
    let rotated = gw.keypool(&[&rotate[..], &["1h"]].concat()).await;
    let note = "the old secret is accepted until 20";
    assert!(rotated.stderr.contains(note), "{rotated:?}");
    let second = rotated.ok();
    assert_ne!(first, second);
    let statuses = (call(&gw, &first).await, call(&gw, &second).await);
    assert_eq!(statuses, (200, 200));

    let rotated = gw.keypool(&[&rotate[..], &["0s"]].concat()).await;
    let note = "the old secret is no longer accepted";
    assert!(rotated.stderr.contains(note), "{rotated:?}");
    let third = rotated.ok();
    let statuses = (call(&gw, &second).await, call(&gw, &third).await);
    assert_eq!(statuses, (401, 200));
    gw.stop().await;
}

/// The exit code of a command whose standard output is `stdout`, and what it said.
fn run_into(gw: &Gateway, args: &[&str], stdout: impl Into<Stdio>) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_keypool"))
        .args(args)
        .current_dir(gw.folder().path("."))
        .env_clear()
        .stdin(Stdio::null())
        .stdout(stdout)
        .stderr(Stdio::piped())
        .spawn()
        .and_then(Child::wait_with_output)
        .expect("the binary runs");
    let stderr = String::from_utf8(output.stderr).expect("text");
    (output.status.code(), stderr)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn output_that_cannot_be_written_is_a_failure() {
    let (_mock, gw) = gateway().await;
    let full = || File::options().write(true).open("/dev/full").unwrap();
    let closed = || std::io::pipe().expect("a pipe").1;
    let create = ["virtual-keys", "create", "team-a"];
    let rotate = ["virtual-keys", "rotate", "team-a"];
    let advice = "rotate it with `keypool virtual-keys rotate team-a`";
    for (code, said) in [
        run_into(&gw, &create, full()),
        run_into(&gw, &rotate, closed()),
        run_into(&gw, &[&rotate[..], &["--json"]].concat(), full()),
    ] {
        let is_reported = said.contains("standard output could not be written");
        assert!(
            code == Some(1) && is_reported && said.contains(advice),
            "{said}"
        );
    }
    let list = ["virtual-keys", "list"];
    let (code, said) = run_into(&gw, &list, full());
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains("standard output could not be written") && !said.contains(advice),
        "{said}"
    );
    // A reader that has enough closes the pipe.
    assert_eq!(run_into(&gw, &list, closed()), (Some(0), String::new()));
    gw.stop().await;
}

#[tokio::test]
async fn a_virtual_key_is_revoked_only_with_consent() {
    let (_mock, gw) = gateway().await;
    let empty = gw.keypool(&["virtual-keys", "list"]).await.ok();
    assert!(empty.contains("There are no virtual keys"), "{empty}");
    let created = gw.keypool(&["virtual-keys", "create", "team-a"]).await;
    let secret = created.ok();
    let revoke = ["virtual-keys", "revoke", "team-a"];
    let said = gw.keypool(&revoke).await.failed();
    assert!(
        said.contains("Delete the virtual key team-a") && said.contains("--yes"),
        "{said}"
    );
    assert_eq!(call(&gw, &secret).await, 200);
    let yes = [&revoke[..], &["--yes"]].concat();
    assert_eq!(gw.keypool(&yes).await.ok(), "Revoked team-a.\n");
    assert_eq!(call(&gw, &secret).await, 401);
    let said = gw.keypool(&yes).await.failed();
    assert!(
        said.contains("there is no virtual key \"team-a\""),
        "{said}"
    );
    gw.stop().await;
}

#[tokio::test]
async fn the_limits_of_a_virtual_key_are_set_and_listed() {
    let (_mock, gw) = gateway().await;
    let args = "create team-a --models gpt-*,o3 --pools p --rpm 3 --input-tpm 1000 --output-tpm 500 --max-concurrent 2 \
                --expires 2035-01-31T00:00:00Z --native --json";
    let args: Vec<&str> = ["virtual-keys"]
        .into_iter()
        .chain(args.split(' ').filter(|arg| !arg.is_empty()))
        .collect();
    let created = gw.keypool(&args).await;
    assert!(created.stderr.is_empty(), "{created:?}");
    let view = created.json();
    for (field, value) in [
        ("models", json!(["gpt-*", "o3"])),
        ("pools", json!(["p"])),
        ("rpm", json!(3)),
        ("input_tpm", json!(1000)),
        ("output_tpm", json!(500)),
        ("max_concurrent", json!(2)),
        ("native", json!(true)),
        ("expires", json!("2035-01-31T00:00:00Z")),
    ] {
        assert_eq!(view[field], value, "{field}");
    }
    let secret = view["key"].as_str().unwrap();
    let listed = gw.keypool(&["virtual-keys", "list"]).await.ok();
    let row = listed
        .lines()
        .nth(1)
        .unwrap()
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ");
    let hint = format!("kp-…{}", &secret[secret.len() - 4..]);
    let expected = format!("team-a {hint} gpt-*, o3 p 3 1000 500 2 2035-01-31T00:00:00Z store");
    assert_eq!(row, expected);
    let listed = gw.keypool(&["virtual-keys", "list", "--json"]).await;
    assert_eq!(listed.json()["items"][0]["name"], "team-a");
    assert!(!listed.stdout.contains(secret), "{listed:?}");
    gw.stop().await;
}

#[tokio::test]
async fn a_chosen_secret_comes_from_standard_input_and_is_not_shown() {
    let (_mock, gw) = gateway().await;
    let secret = virtual_secret("chosen");
    let args = ["virtual-keys", "create", "team-a", "--key-stdin"];
    let created = gw.keypool_with(&args, &secret).await.without_secret();
    assert_eq!(
        (created.code, created.stdout.as_str()),
        (0, ""),
        "{created:?}"
    );
    assert_eq!(call(&gw, &secret).await, 200);
    let other = virtual_secret("another");
    let args = [
        "virtual-keys",
        "rotate",
        "team-a",
        "--grace",
        "0s",
        "--key-stdin",
    ];
    gw.keypool_with(&args, &other).await.without_secret().ok();
    assert_eq!(
        (call(&gw, &secret).await, call(&gw, &other).await),
        (401, 200)
    );
    let args = ["virtual-keys", "create", "team-b", "--key-stdin"];
    let said = gw.keypool_with(&args, "short").await.failed();
    assert!(said.contains("at least 16 characters"), "{said}");
    gw.stop().await;
}

#[tokio::test]
async fn what_is_wrong_with_a_virtual_key_is_explained() {
    let mock = Mock::start().await.expect("a mock");
    let gw = start(&[pool(&mock, 1), virtual_key("declared", "")].concat()).await;
    for (args, expected) in [
        (&["create", "declared"][..], "choose another name"),
        (&["create", "a", "--rpm", "0"], "`rpm`"),
        (
            &["rotate", "declared"],
            "declared in keypool.toml: change it there",
        ),
        (&["rotate", "none"], "there is no virtual key \"none\""),
        (
            &["revoke", "declared", "--yes"],
            "declared in keypool.toml: change it there",
        ),
    ] {
        let refused = gw.keypool(&[&["virtual-keys"], args].concat()).await;
        let said = refused.without_secret().failed();
        assert!(said.contains(expected), "{said}");
    }
    for args in [
        &["create"][..],
        &["create", "a", "--expires", "soon"],
        &["create", "a", "--key", "x"],
    ] {
        assert_eq!(
            gw.keypool(&[&["virtual-keys"], args].concat()).await.code,
            2,
            "{args:?}"
        );
    }
    gw.stop().await;
}
