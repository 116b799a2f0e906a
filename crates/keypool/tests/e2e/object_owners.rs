//! Names that clients choose: which caller owns the object of that name now, and at which account.

use keypool_testkit::{Mock, Step};
use serde_json::json;

use crate::bad_input::refused;
use crate::harness::{Gateway, MARK, key, pool};
use crate::http::Reply;
use crate::objects::Callers;
use crate::uploads::{next_of, start, step};

const UPLOAD: &str = "/upload/v1beta/files";

/// The response of a provider that has made the file.
fn made(name: &str, status: &str) -> Step {
    Step::Status {
        status: 200,
        headers: vec![("x-goog-upload-status".to_owned(), status.to_owned())],
        body: json!({"file": {"name": name}}).to_string(),
    }
}

/// Two callers on one account.
async fn one_account() -> Callers {
    let mock = Mock::start().await.expect("a mock");
    let virtual_key = |name: &str| {
        let secret = Callers::secret(name);
        format!("[[virtual_keys]]\nname = \"{name}\"\nkey = \"{secret}\"\nnative = true\n")
    };
    let config = [pool(&mock, 1), virtual_key("owner"), virtual_key("guesser")];
    let gw = Gateway::start(&config.concat()).await;
    Callers { mock, gw }
}

/// The callers that may use the file. The mock does not know it, so what counts is whether it was asked.
async fn who_has(callers: &Callers, name: &str) -> Vec<&'static str> {
    let mut who = Vec::new();
    for caller in ["owner", "guesser"] {
        let reply = callers
            .send(caller, "GET", &format!("/v1beta/{name}"), "")
            .await;
        assert_eq!(reply.status, 404, "{reply:?}");
        if reply.attempts() == "1" {
            who.push(caller);
        }
    }
    who
}

#[tokio::test]
async fn a_chosen_name_belongs_to_the_caller_that_used_it_last() {
    let callers = one_account().await;
    // Files expire, and the gateway is not notified.
    for caller in ["owner", "guesser", "owner"] {
        callers.mock.script("*", [made("files/report", "final")]);
        let reply = callers.send(caller, "POST", UPLOAD, "bytes").await;
        assert_eq!(reply.status, 200, "{reply:?}");
        assert_eq!(who_has(&callers, "files/report").await, [caller]);
    }
    callers.gw.stop().await;
}

#[tokio::test]
async fn a_response_that_may_be_a_replay_changes_no_owner() {
    let callers = one_account().await;
    callers.mock.script("*", [made("files/report", "final")]);
    callers.send("owner", "POST", UPLOAD, "bytes").await;
    callers.mock.script("*", [made("files/report", "final")]);
    let bearer = format!("Bearer vk-{MARK}-0000-guesser");
    let headers = [("authorization", &*bearer), ("idempotency-key", "one")];
    let reply = callers.gw.send("POST", UPLOAD, &headers, b"bytes").await;
    assert_eq!(reply.status, 200, "{reply:?}");
    assert_eq!(who_has(&callers, "files/report").await, ["owner"]);
    callers.gw.stop().await;
}

#[tokio::test]
async fn the_end_of_an_upload_makes_its_file_once() {
    let callers = one_account().await;
    let bearer = format!("Bearer vk-{MARK}-0000-guesser");
    let guesser = ("authorization", &*bearer);
    callers.mock.script("*", [made("files/report", "final")]);
    callers.send("owner", "POST", UPLOAD, "bytes").await;
    let begun = start(&callers.gw, UPLOAD, &[guesser]).await;
    let (_, whole) = next_of(&begun);
    let begun = start(&callers.gw, UPLOAD, &[guesser]).await;
    let (_, cut) = next_of(&begun);
    let send = async |next: &str, commands: &str, answer: Step, status: u16| {
        callers.mock.script("*", [answer]);
        let reply = step(&callers.gw, next, commands, "0", &[guesser]).await;
        assert_eq!(reply.status, status, "{commands}: {reply:?}");
    };
    let report = || made("files/report", "final");
    let finish = "upload, finalize";
    send(&whole, "upload", made("", "active"), 200).await;
    send(&whole, "query", report(), 200).await;
    assert_eq!(who_has(&callers, "files/report").await, ["owner"]);
    send(&whole, finish, report(), 200).await;
    assert_eq!(who_has(&callers, "files/report").await, ["guesser"]);
    send(&cut, finish, Step::Reset, 502).await;

    callers.mock.script("*", [report()]);
    callers.send("owner", "POST", UPLOAD, "bytes").await;
    // A finished upload may be reported again. That makes nothing, even if its end was never seen.
    for (next, commands) in [(&whole, finish), (&whole, "query"), (&cut, finish)] {
        send(next, commands, report(), 200).await;
        assert_eq!(
            who_has(&callers, "files/report").await,
            ["owner"],
            "{commands}"
        );
    }
    send(&cut, finish, made("files/other", "final"), 200).await;
    assert_eq!(who_has(&callers, "files/other").await, ["guesser"]);
    callers.gw.stop().await;
}

/// The same name at two accounts, and one more file at each.
async fn two_accounts() -> (Mock, Gateway) {
    let mock = Mock::start().await.expect("a mock");
    let of = |name: &str, n: usize| {
        let origin = mock.origin();
        let key = key(n);
        format!(
            "[pools.{name}]\nprovider = \"gemini\"\nbase_url = \"{origin}\"\nkeys = [\"{key}\"]\n"
        )
    };
    let gw = Gateway::start(&[of("a", 1), of("b", 2)].concat()).await;
    for (pool, file) in [
        ("a", "files/report"),
        ("b", "files/report"),
        ("a", "files/a"),
        ("b", "files/b"),
    ] {
        mock.script("*", [made(file, "final")]);
        let reply = gw.post(&format!("/{pool}{UPLOAD}"), "bytes").await;
        assert_eq!(reply.status, 200, "{reply:?}");
    }
    (mock, gw)
}

#[tokio::test]
async fn a_name_at_two_accounts_is_found_at_each() {
    let (_mock, gw) = two_accounts().await;
    let asked = |reply: &Reply, key: &str, what: &str| {
        assert_eq!(
            (reply.key(), reply.attempts()),
            (key, "1"),
            "{what}: {reply:?}"
        );
    };
    for (path, key) in [
        ("/a/v1beta/files/report", "a-1"),
        ("/b/v1beta/files/report", "b-1"),
        // If both accounts can serve it, the newest does.
        ("/v1beta/files/report", "b-1"),
        ("/v1beta/files/a", "a-1"),
    ] {
        asked(&gw.get(path).await, key, path);
    }
    let naming = |files: &[&str]| {
        let part = |name: &&str| json!({"fileData": {"fileUri": format!("https://g.example/v1beta/{name}")}});
        let parts: Vec<_> = files.iter().map(part).collect();
        json!({"contents": [{"parts": parts}]}).to_string()
    };
    for (pool, files) in [
        ("a", &["files/report"][..]),
        ("b", &["files/report"]),
        ("a", &["files/report", "files/a"]),
        ("a", &["files/a", "files/report"]),
        ("b", &["files/report", "files/b"]),
    ] {
        let path = format!("/{pool}/v1beta/models/g:generateContent");
        let reply = gw.post(&path, &naming(files)).await;
        asked(&reply, &format!("{pool}-1"), &format!("{pool} {files:?}"));
    }
    let path = "/a/v1beta/models/g:generateContent";
    let apart = gw
        .post(path, &naming(&["files/report", "files/a", "files/b"]))
        .await;
    refused(&apart, 404, "not_found", "no account has all");
    let message = apart.message();
    assert!(
        message.contains("\"files/a\" and \"files/b\" were made by keys of different"),
        "{message}"
    );
    let elsewhere = gw.get("/b/v1beta/files/a").await;
    refused(&elsewhere, 404, "not_found", "it is in one pool alone");
    let message = elsewhere.message();
    assert!(message.contains("it is in pool \"a\""), "{message}");
    gw.stop().await;
}
