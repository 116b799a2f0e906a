//! Gemini's uploads in several steps: each step goes through the gateway to the account where the upload began, and
//! only for the caller that began it.

use std::collections::BTreeSet;

use keypool_testkit::{Mock, Step};
use serde_json::json;

use crate::bad_input::refused;
use crate::harness::{Gateway, pool};
use crate::http::Reply;
use crate::objects::Callers;

const START: [(&str, &str); 3] = [
    ("x-goog-upload-protocol", "resumable"),
    ("x-goog-upload-command", "start"),
    ("content-type", "application/json"),
];
const ABOUT: &[u8] = br#"{"file":{"display_name":"a picture"}}"#;

pub(crate) async fn start(gw: &Gateway, path: &str, headers: &[(&str, &str)]) -> Reply {
    let begun = gw
        .send("POST", path, &[&START[..], headers].concat(), ABOUT)
        .await;
    assert_eq!(begun.status, 200, "{begun:?}");
    begun
}

/// The address of the next step: the host, and the path with the query.
pub(crate) fn next_of(begun: &Reply) -> (String, String) {
    let next = begun.header("x-goog-upload-url").expect("an address");
    let bare = next
        .strip_prefix("http://")
        .expect("plain HTTP is served here");
    let (host, rest) = bare.split_once('/').expect("a path");
    (host.to_owned(), format!("/{rest}"))
}

pub(crate) async fn step(
    gw: &Gateway,
    next: &str,
    commands: &str,
    offset: &str,
    headers: &[(&str, &str)],
) -> Reply {
    let step = [
        ("x-goog-upload-command", commands),
        ("x-goog-upload-offset", offset),
    ];
    let method = if commands == "upload" { "POST" } else { "PUT" };
    let body: &[u8] = if commands == "query" {
        b""
    } else {
        b"0123456789"
    };
    gw.send(method, next, &[&step[..], headers].concat(), body)
        .await
}

#[tokio::test]
async fn an_upload_in_steps_stays_with_its_account() {
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start(&pool(&mock, 3)).await;
    let mut owners = BTreeSet::new();
    for path in [
        "/upload/v1beta/files",
        "/p/upload/v1beta/files",
        "/upload/v1beta/files",
    ] {
        let begun = start(&gw, path, &[]).await;
        let (host, next) = next_of(&begun);
        assert_eq!(host, gw.addr.to_string());
        assert!(next.starts_with(&format!("{path}?upload_id=")), "{next}");
        assert_eq!(
            begun.header("x-goog-upload-control-url"),
            begun.header("x-goog-upload-url")
        );
        assert_eq!(begun.header("x-goog-upload-status"), Some("active"));

        let piece = step(&gw, &next, "upload", "0", &[]).await;
        let asked = step(&gw, &next, "query", "0", &[]).await;
        let last = step(&gw, &next, "upload, finalize", "10", &[]).await;
        for reply in [&piece, &asked, &last] {
            assert_eq!((reply.status, reply.key()), (200, begun.key()), "{reply:?}");
        }
        assert_eq!(asked.header("x-goog-upload-size-received"), Some("10"));
        assert_eq!(last.header("x-goog-upload-status"), Some("final"));

        let file = last.json()["file"].clone();
        assert_eq!(file["sizeBytes"], "20");
        let name = file["name"].as_str().expect("a name");
        for of_file in [format!("/v1beta/{name}"), format!("/p/v1beta/{name}")] {
            let found = gw.get(&of_file).await;
            assert_eq!((found.status, found.key()), (200, begun.key()), "{found:?}");
        }
        let body = json!({"contents": [{"parts": [{"fileData": {"fileUri": file["uri"]}}]}]});
        for _ in 0..2 {
            let reply = gw
                .post("/v1beta/models/g:generateContent", &body.to_string())
                .await;
            assert_eq!((reply.status, reply.key()), (200, begun.key()), "{reply:?}");
        }
        let deleted = gw
            .send("DELETE", &format!("/v1beta/{name}"), &[], b"")
            .await;
        assert_eq!(
            (deleted.status, deleted.key()),
            (200, begun.key()),
            "{deleted:?}"
        );
        owners.insert(begun.key().to_owned());
    }
    assert!(owners.len() > 1, "uploads take turns: {owners:?}");
    gw.all_idle().await;
    gw.stop().await;
}

#[tokio::test]
async fn the_next_address_has_the_host_that_the_client_called() {
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start(&pool(&mock, 1)).await;
    let forwarded = [
        ("host", "localhost:1234"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "evil.example"),
    ];
    let begun = start(&gw, "/upload/v1beta/files?key=mine&alt=json", &forwarded).await;
    assert_eq!(next_of(&begun).0, "localhost:1234");

    let scripted = |addresses: &[&str]| {
        let header = |address: &&str| ("x-goog-upload-url".to_owned(), (*address).to_owned());
        Step::Status {
            status: 200,
            headers: addresses.iter().map(header).collect(),
            body: String::new(),
        }
    };
    // Google repeats a key that came in the query.
    let theirs = "https://g.example/upload/v1beta/files?key=theirs&upload_id=U%2D1&upload_protocol=resumable";
    let here = format!(
        "http://{}/p/upload/v1beta/files?upload_id=U%2D1&upload_protocol=resumable",
        gw.addr
    );
    for (addresses, expect) in [
        (&[theirs][..], &[&*here][..]),
        (&[theirs, theirs], &[&here, &here]),
        // An address that names no upload would lead past the gateway.
        (&["https://g.example/elsewhere?key=theirs"], &[]),
        (&["no address"], &[]),
        (&["no address", theirs], &[&here]),
    ] {
        mock.script("*", [scripted(addresses)]);
        let begun = start(&gw, "/p/upload/v1beta/files", &[]).await;
        let named = begun.headers.iter();
        let named: Vec<&str> = named
            .filter(|(name, _)| name == "x-goog-upload-url")
            .map(|(_, address)| &**address)
            .collect();
        assert_eq!(named, expect, "{addresses:?}");
    }
    gw.stop().await;
}

#[tokio::test]
async fn an_unknown_upload_goes_to_the_only_account_or_nowhere() {
    let mock = Mock::start().await.unwrap();
    let next = "/upload/v1beta/files?upload_id=unknown&upload_protocol=resumable";
    for (keys, used) in [(1, "p-1"), (2, "")] {
        let gw = Gateway::start(&pool(&mock, keys)).await;
        for path in [next.to_owned(), format!("/p{next}")] {
            let reply = step(&gw, &path, "upload", "0", &[]).await;
            assert_eq!(
                (reply.status, reply.key()),
                (404, used),
                "{path}: {reply:?}"
            );
        }
        gw.stop().await;
    }
}

#[tokio::test]
async fn an_upload_to_a_file_search_store_goes_where_the_store_is() {
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start(&pool(&mock, 3)).await;
    let store = Step::Status {
        status: 200,
        headers: vec![],
        body: r#"{"name":"fileSearchStores/s"}"#.to_owned(),
    };
    mock.script("*", [store]);
    let made = gw.post("/p/v1beta/fileSearchStores", "{}").await;
    assert_eq!(made.status, 200, "{made:?}");
    let path = "/p/upload/v1beta/fileSearchStores/s:uploadToFileSearchStore";
    let begun = start(&gw, path, &[]).await;
    assert_eq!(begun.key(), made.key());
    let (_, next) = next_of(&begun);
    assert!(next.starts_with(&format!("{path}?upload_id=")), "{next}");
    // The session alone leads there too.
    let bare = next.replace(path, "/p/upload/v1beta/elsewhere");
    for (next, offset) in [(&next, "0"), (&bare, "10"), (&next, "20")] {
        let reply = step(&gw, next, "upload", offset, &[]).await;
        assert_eq!((reply.status, reply.key()), (200, made.key()), "{reply:?}");
    }
    gw.stop().await;
}

async fn begun_by_maker(gw: &Gateway) -> Reply {
    let owner = bearer("owner");
    start(gw, "/upload/v1beta/files", &[("authorization", &owner)]).await
}

fn bearer(name: &str) -> String {
    format!("Bearer {}", Callers::secret(name))
}

#[tokio::test]
async fn an_upload_belongs_to_the_caller_that_began_it() {
    let callers = Callers::start().await;
    let gw = &callers.gw;
    let (owner, guesser) = (bearer("owner"), bearer("guesser"));
    let (owner, guesser) = (("authorization", &*owner), ("authorization", &*guesser));
    let begun = start(gw, "/upload/v1beta/files", &[owner]).await;
    let (_, next) = next_of(&begun);
    let before = callers.requests();

    for hidden in [
        next.clone(),
        format!("/p{next}"),
        next.replace("upload_id", "%75pload_id"),
    ] {
        let reply = step(gw, &hidden, "upload", "0", &[guesser]).await;
        refused(&reply, 404, "not_found", &hidden);
    }
    let wrong = step(gw, &next, "upload", "0", &[("x-goog-api-key", "wrong")]).await;
    refused(
        &wrong,
        401,
        "invalid_virtual_key",
        "a wrong key is not passed over",
    );
    assert_eq!(callers.requests(), before, "no key was used");

    // Google's clients send no key with the pieces.
    let piece = step(gw, &next, "upload", "0", &[]).await;
    let last = step(gw, &next, "finalize, upload", "10", &[owner]).await;
    for reply in [&piece, &last] {
        assert_eq!((reply.status, reply.key()), (200, begun.key()), "{reply:?}");
    }
    let name = last.json()["file"]["name"]
        .as_str()
        .expect("a name")
        .to_owned();
    let path = format!("/v1beta/{name}");
    let own = callers.send("owner", "GET", &path, "").await;
    assert_eq!((own.status, own.key()), (200, begun.key()), "{own:?}");
    refused(
        &callers.send("guesser", "GET", &path, "").await,
        404,
        "not_found",
        &path,
    );
    gw.all_idle().await;
    callers.gw.stop().await;
}

#[tokio::test]
async fn the_address_of_an_upload_permits_that_upload_only() {
    let callers = Callers::start().await;
    let gw = &callers.gw;
    let owner = bearer("owner");
    let owner = ("authorization", &*owner);
    let begun = start(gw, "/upload/v1beta/files", &[owner]).await;
    let (_, next) = next_of(&begun);
    let before = callers.requests();
    let at = |path: &str| next.replace("/upload/v1beta/files", path);
    let query = ("x-goog-upload-command", "query");
    for (method, path) in [
        ("GET", next.clone()),
        ("DELETE", next.clone()),
        ("POST", at("/v1beta/files")),
        ("POST", at("/v1beta/models/g:generateContent")),
        ("POST", at("/upload/v1/files")),
        ("POST", at("/p/upload/v1beta/elsewhere")),
        ("POST", next.replace("upload_id=up-", "upload_id=xx-")),
        ("POST", "/upload/v1beta/files".to_owned()),
    ] {
        let reply = gw.send(method, &path, &[query], ABOUT).await;
        refused(&reply, 401, "invalid_virtual_key", &path);
    }
    let command = |command| ("x-goog-upload-command", command);
    for headers in [
        &START[..],
        &[],
        &[command("start, upload, finalize")],
        &[command("upload"), command("start")],
        &[command("")],
    ] {
        let reply = gw.send("POST", &next, headers, ABOUT).await;
        refused(&reply, 401, "invalid_virtual_key", &format!("{headers:?}"));
    }
    assert_eq!(callers.requests(), before, "no key was used");

    let asks = ("x-keypool-trace", "1");
    let piece = step(gw, &next, "upload", "0", &[asks]).await;
    let asked = step(gw, &next, "Query", "0", &[asks, owner]).await;
    let last = step(gw, &next, "upload, finalize", "10", &[]).await;
    for reply in [&piece, &asked, &last] {
        assert_eq!((reply.status, reply.key()), (200, begun.key()), "{reply:?}");
    }
    let traced = |reply: &Reply| reply.header("x-keypool-trace").is_some();
    assert!(
        traced(&asked) && !traced(&piece),
        "an address shows nothing of the keys"
    );
    let late = step(gw, &next, "query", "20", &[]).await;
    refused(&late, 401, "invalid_virtual_key", "the upload is over");
    let late = step(gw, &next, "query", "20", &[owner]).await;
    assert_eq!((late.status, late.key()), (200, begun.key()), "{late:?}");
    callers.gw.stop().await;
}

#[tokio::test]
async fn a_piece_of_a_file_may_contain_any_id() {
    let callers = Callers::start().await;
    let theirs = callers
        .send("guesser", "POST", "/p/v1beta/cachedContents", "{}")
        .await;
    let begun = begun_by_maker(&callers.gw).await;
    let (_, next) = next_of(&begun);
    let body = json!({"line": theirs.json()["name"]}).to_string();
    let headers = [
        ("x-goog-upload-command", "upload, finalize"),
        ("x-goog-upload-offset", "0"),
    ];
    let last = callers
        .gw
        .send("POST", &next, &headers, body.as_bytes())
        .await;
    assert_eq!((last.status, last.key()), (200, begun.key()), "{last:?}");
    callers.gw.stop().await;
}

#[tokio::test]
async fn an_address_permits_nothing_its_caller_may_not_do() {
    let callers = Callers::start().await;
    let begun = begun_by_maker(&callers.gw).await;
    let (_, next) = next_of(&begun);
    // A short id could be guessed.
    callers.mock.script(
        "*",
        [Step::Status {
            status: 200,
            headers: vec![(
                "x-goog-upload-url".to_owned(),
                "https://g.example/upload/v1beta/files?upload_id=U1".to_owned(),
            )],
            body: String::new(),
        }],
    );
    let short = begun_by_maker(&callers.gw).await;
    let reply = step(&callers.gw, &next_of(&short).1, "upload", "0", &[]).await;
    refused(&reply, 401, "invalid_virtual_key", "a short id");

    let folder = callers.gw.folder();
    let config = std::fs::read_to_string(folder.path("keypool.toml")).unwrap();
    for (change, status, code) in [
        (
            "expires = \"2001-01-01T00:00:00Z\"",
            401,
            "invalid_virtual_key",
        ),
        ("native = true\ndisabled = true", 401, "invalid_virtual_key"),
    ] {
        folder.write("keypool.toml", &config.replace("native = true", change));
        let reloaded = callers
            .gw
            .admin("POST", "/api/v1/admin/config/reload")
            .await;
        assert_eq!(reloaded.status, 200, "{reloaded:?}");
        let reply = step(&callers.gw, &next, "upload", "0", &[]).await;
        refused(&reply, status, code, change);
        let reply = callers
            .send("owner", "POST", "/upload/v1beta/files", "bytes")
            .await;
        refused(&reply, status, code, change);
    }
    callers.gw.stop().await;
}

#[tokio::test]
async fn a_list_of_files_needs_no_pool_and_no_object() {
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start(&pool(&mock, 2)).await;
    let reply = gw.get("/v1beta/files?pageSize=5").await;
    // The mock has no such list; what counts is that it was asked.
    assert_eq!((reply.status, reply.attempts()), (404, "1"), "{reply:?}");
    let asked = mock.recorded().pop().expect("a request");
    assert_eq!(asked.path, "/v1beta/files?pageSize=5");
    gw.stop().await;
}
