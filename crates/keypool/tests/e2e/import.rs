//! Imports of many keys: the formats, the report, the limits.

use std::time::Duration;

use keypool_testkit::Mock;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::harness::{Gateway, MARK, key, within};
use crate::http::{Connection, Reply};
use crate::store_kit::{names, ok, peak_memory, pool, problem, show};

const IMPORT: &str = "pools/p/keys/import";
const TEXT: &str = "text/plain; charset=utf-8";

async fn import(gw: &Gateway, kind: &str, body: &[u8]) -> Reply {
    let limit = Duration::from_secs(60);
    let headers = [("content-type", kind)];
    gw.api_within(limit, ("POST", IMPORT), &headers, body).await
}

/// Line, name and status of each key, and whether there is an error.
fn lines(report: &Value) -> Vec<(u64, Option<&str>, &str, bool)> {
    let keys = report["keys"].as_array().expect("a list").iter();
    let line = |key: &'static str, of: &Value| of[key].as_u64().expect("a number");
    keys.map(|key| {
        let status = key["status"].as_str().expect("a status");
        (
            line("line", key),
            key["name"].as_str(),
            status,
            key["error"].is_string(),
        )
    })
    .collect()
}

fn counts(report: &Value) -> [u64; 3] {
    ["added", "known", "malformed"].map(|count| report[count].as_u64().expect("a number"))
}

#[tokio::test]
async fn keys_are_imported_from_text() {
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start(&pool(&mock, 1)).await;
    let text = format!(
        "\u{feff}{}\r\n\n# a comment\n  {}  \n{}\nnot a key\nschlüssel\n{}\n",
        key(2),
        key(3),
        key(1),
        key(2)
    );
    let report = ok(&import(&gw, TEXT, text.as_bytes()).await, 200);
    assert_eq!(counts(&report), [2, 2, 2]);
    let expected = [
        (1, Some("p-2"), "added", false),
        (4, Some("p-3"), "added", false),
        (5, Some("p-1"), "known", false),
        (6, None, "malformed", true),
        (7, None, "malformed", true),
        (8, Some("p-2"), "known", false),
    ];
    assert_eq!(lines(&report), expected);
    gw.stop().await;
}

#[tokio::test]
async fn keys_are_imported_from_csv_and_json() {
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start(&pool(&mock, 1)).await;
    let csv = format!(
        "\u{feff}Name,key,WEIGHT\r\n\"main, \"\"one\"\"\",{},5\r\n,{},\r\np-1,{},1\r\nx,{},0\r\ny,,1\r\nz,{},many\r\n\"two\nlines\",{},1\r\n",
        key(4),
        key(5),
        key(6),
        key(7),
        key(8),
        key(9)
    );
    let report = ok(&import(&gw, "text/csv", csv.as_bytes()).await, 200);
    assert_eq!(counts(&report), [2, 0, 5]);
    let expected = [
        (2, Some("main, \"one\""), "added", false),
        (3, Some("p-2"), "added", false),
        (4, Some("p-1"), "malformed", true),
        (5, Some("x"), "malformed", true),
        (6, Some("y"), "malformed", true),
        (7, Some("z"), "malformed", true),
        (8, None, "malformed", true),
    ];
    assert_eq!(lines(&report), expected);
    let main = gw.read("pools/p/keys/main%2C%20%22one%22").await;
    assert_eq!(main["weight"], 5);

    let body = json!([key(10), { "key": key(11), "name": "json", "rpm": 9 }, 7, { "kye": "x" }]);
    let report = ok(
        &import(&gw, "application/json", body.to_string().as_bytes()).await,
        200,
    );
    assert_eq!(counts(&report), [2, 0, 2]);
    assert_eq!(gw.read("pools/p/keys/json").await["rpm"], 9);

    let all = gw.read("pools/p/keys").await;
    assert_eq!(names(&all), ["json", "main, \"one\"", "p-1", "p-2", "p-3"]);
    for _ in 0..10 {
        assert_eq!(gw.chat().await.status, 200);
    }
    for n in [1, 4, 5, 10, 11] {
        assert!(mock.seen(&key(n)).requests > 0, "{n}");
    }
    let audit = gw.read("audit").await;
    assert_eq!(
        audit["items"].as_array().unwrap().len(),
        2,
        "one entry for each import"
    );
    let gw = gw.restarted().await;
    assert_eq!(
        gw.read("pools/p/keys").await["items"]
            .as_array()
            .unwrap()
            .len(),
        5
    );
    gw.stop().await;
}

#[tokio::test]
async fn a_secret_in_the_column_of_names_is_neither_stored_nor_repeated() {
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start(&pool(&mock, 1)).await;
    let secrets = ["sk-proj-abcdefghijklmnopqrst", "a-key-without-known-prefix"];
    let csv = format!(
        "name,key\n{},main\n{},{}\n",
        secrets[0], secrets[1], secrets[1]
    );
    let reply = import(&gw, "text/csv", csv.as_bytes()).await;
    assert_eq!(counts(&ok(&reply, 200)), [0, 0, 2]);
    let add = json!({ "key": secrets[1], "name": secrets[1] });
    let refused = gw.api("POST", "pools/p/keys", add).await;
    problem(&refused, 422, "invalid_settings");
    let listed = gw.read("pools/p/keys").await;
    for shown in [
        reply.json().to_string(),
        refused.json().to_string(),
        listed.to_string(),
    ] {
        assert!(
            !secrets.iter().any(|secret| shown.contains(secret)),
            "{shown}"
        );
    }
    gw.stop().await;
}

#[tokio::test]
async fn an_import_that_cannot_be_read_stores_nothing() {
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start(&pool(&mock, 1)).await;
    for kind in ["application/xml", "text/html", "", "multipart/form-data"] {
        let reply = import(&gw, kind, key(2).as_bytes()).await;
        let detail = problem(&reply, 415, "unsupported_media_type");
        assert!(detail.contains("text/csv"), "{detail}");
    }
    let path = "pools/nope/keys/import";
    let reply = gw
        .api_raw("POST", path, &[("content-type", TEXT)], b"sk-1")
        .await;
    problem(&reply, 404, "not_found");
    for body in ["", "{", "7", "{}", r#"{"keys":7}"#, r#"{"keys":[],"x":1}"#] {
        let reply = import(&gw, "application/json", body.as_bytes()).await;
        problem(&reply, 400, "invalid_body");
    }
    let csv = format!("key,nmae\n{},x\n", key(2));
    let detail = problem(
        &import(&gw, "text/csv", csv.as_bytes()).await,
        422,
        "invalid_settings",
    );
    assert!(detail.contains("nmae"), "{detail}");
    for kind in [TEXT, "text/csv"] {
        let report = ok(&import(&gw, kind, b"").await, 200);
        assert_eq!(counts(&report), [0, 0, 0]);
        let report = ok(&import(&gw, kind, &[0xff, 0xfe, b'x', 0]).await, 200);
        assert_eq!(counts(&report), [0, 0, 1]);
    }
    let wrong = format!("{}\n{}", "x".repeat(1_000_000), "a b");
    let report = ok(&import(&gw, TEXT, wrong.as_bytes()).await, 200);
    assert_eq!(counts(&report), [0, 0, 2]);
    // The client leaves in the middle.
    let mut connection = Connection::open(gw.addr).await;
    let bearer = format!("Bearer {}", gw.token);
    let head = format!(
        "POST /api/v1/admin/{IMPORT} HTTP/1.1\r\nhost: {}\r\nauthorization: {bearer}\r\ncontent-type: text/plain\r\ncontent-length: 1000\r\n\r\n{}\n",
        gw.addr,
        key(5)
    );
    connection.write(head.as_bytes()).await;
    drop(connection);
    assert_eq!(names(&gw.read("pools/p/keys").await), ["p-1"]);
    assert_eq!(gw.read("audit").await["items"], json!([]));
    gw.stop().await;
}

#[tokio::test]
async fn ten_thousand_keys_are_imported_in_a_few_seconds() {
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start(&pool(&mock, 1)).await;
    let body: String = (1..=10_000).map(|n| format!("{}\n", key(n))).collect();
    let began = Instant::now();
    let report = ok(&import(&gw, TEXT, body.as_bytes()).await, 200);
    let took = began.elapsed();
    show(&format!("10,000 keys were imported in {took:?}"));
    assert!(took < Duration::from_secs(15), "{took:?}");
    assert_eq!(counts(&report), [9_999, 1, 0]);
    let again = ok(&import(&gw, TEXT, body.as_bytes()).await, 200);
    assert_eq!(counts(&again), [0, 10_000, 0]);
    let page = gw.read("pools/p/keys?limit=1000").await;
    assert_eq!(page["items"].as_array().unwrap().len(), 1000);
    assert_eq!(gw.read("pools/p").await["keys"]["total"], 10_000);
    assert_eq!(gw.chat().await.status, 200);
    gw.stop().await;
}

/// What is too large is refused, and takes no more memory than the largest import that is not.
#[tokio::test]
async fn an_import_of_a_million_lines_is_refused_in_bounded_memory() {
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start(&pool(&mock, 1)).await;
    let before = peak_memory(gw.process.pid());
    let text: String = (0..1_000_000).map(|n| format!("sk-{MARK}-{n}\n")).collect();
    let rows = text.replace('\n', "\r");
    // The smallest entries, so that there are most of them.
    let list = format!("[{}7]", "7,".repeat(4_000_000));
    let object = format!("{{\"keys\":{list}}}");
    for (kind, body) in [
        (TEXT, &text),
        ("text/csv", &text),
        ("text/csv", &rows),
        ("application/json", &list),
        ("application/json", &object),
    ] {
        let reply = import(&gw, kind, body.as_bytes()).await;
        let detail = problem(&reply, 413, "import_too_large");
        assert!(detail.contains("nothing was imported"), "{detail}");
        let grown = peak_memory(gw.process.pid()) - before;
        assert!(grown < 150 << 20, "{kind}: {} MiB", grown >> 20);
    }
    assert_eq!(names(&gw.read("pools/p/keys").await), ["p-1"]);
    assert_eq!(gw.read("audit").await["items"], json!([]));
    assert_eq!(gw.chat().await.status, 200);
    gw.stop().await;
}

#[tokio::test]
async fn an_import_waits_for_the_one_before_and_both_count() {
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start(&pool(&mock, 1)).await;
    let body = |from: usize| -> String {
        (from..from + 500)
            .map(|n| format!("{}\n", key(n)))
            .collect()
    };
    let (one, two) = (body(100), body(400));
    let (one, two) = within(async {
        tokio::join!(
            import(&gw, TEXT, one.as_bytes()),
            import(&gw, TEXT, two.as_bytes())
        )
    })
    .await;
    let (one, two) = (counts(&ok(&one, 200)), counts(&ok(&two, 200)));
    let known = one[1] + two[1];
    assert_eq!((one[0] + two[0], known), (800, 200));
    assert_eq!(gw.read("pools/p").await["keys"]["total"], 801);
    gw.stop().await;
}
