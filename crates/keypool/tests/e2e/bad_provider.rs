//! Providers with invalid answers: each ends in bounded time and memory. Answers that a client can read are relayed;
//! the others fail over to another key.

use std::time::Duration;

use keypool_testkit::Mock;
use serde_json::json;
use tokio::time::timeout;

use crate::harness::{CHAT, CHAT_PATH, Gateway, PoolConfig, STREAM, eventually, within};
use crate::http::End;
use crate::memory::peak;
use crate::raw_provider::{RawProvider, Say};
use crate::tls::{Authority, TlsProxy};

const MIB: u64 = 1 << 20;

/// A pool whose first key leads to `bad` and whose second key leads to the mock.
fn pool(bad: &str, mock: &Mock) -> String {
    PoolConfig::new(mock, "p", [])
        .set("timeouts.idle", "1s")
        .set("timeouts.total", "8s")
        .key(1, &format!("base_url = \"{bad}\""))
        .key(2, "")
        .to_string()
}

const JSON: &str = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n";
const EVENTS: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n";

fn unreadable() -> Vec<(&'static str, Say)> {
    let json = |rest: &str| Say::close(&format!("{JSON}{rest}"));
    vec![
        ("no HTTP", Say::close("SSH-2.0-OpenSSH_9.2\r\n")),
        ("nothing", Say::close("")),
        ("half a head", Say::close("HTTP/1.1 200 OK\r\ncontent-ty")),
        (
            "headers without end",
            Say::endless("HTTP/1.1 200 OK\r\n", "x-more: and more\r\n"),
        ),
        (
            "a header without end",
            Say::endless("HTTP/1.1 200 OK\r\nx-long: ", "more"),
        ),
        (
            "a status line without end",
            Say::endless("HTTP/1.1 200 ", "OK"),
        ),
        (
            "an error's body without end",
            Say::endless("HTTP/1.1 500 Oops\r\n\r\n", "oops "),
        ),
        (
            "a body that stops",
            Say::stay(&format!("{JSON}content-length: 100\r\n\r\n{{\"id\":")),
        ),
        (
            "chunks that stop",
            Say::stay(&format!(
                "{JSON}transfer-encoding: chunked\r\n\r\n5\r\n{{\"id\""
            )),
        ),
        (
            "a length too long",
            json("content-length: 100\r\n\r\n{\"id\":1}"),
        ),
        (
            "two lengths",
            json("content-length: 8\r\ncontent-length: 9\r\n\r\n{\"id\":1}"),
        ),
        (
            "a length below zero",
            json("content-length: -8\r\n\r\n{\"id\":1}"),
        ),
        (
            "a chunk's size that is none",
            json("transfer-encoding: chunked\r\n\r\nxyz\r\n{}\r\n0\r\n\r\n"),
        ),
        (
            "a chunk's size too large",
            json("transfer-encoding: chunked\r\n\r\n1ffffffffffffffff\r\n{}\r\n"),
        ),
        (
            "chunks without their end",
            json("transfer-encoding: chunked\r\n\r\n8\r\n{\"id\":1}\r\n"),
        ),
        (
            "a chunk's extension without end",
            Say::endless(
                &format!("{JSON}transfer-encoding: chunked\r\n\r\n8;"),
                "more",
            ),
        ),
        (
            "trailers without end",
            Say::endless(
                &format!("{JSON}transfer-encoding: chunked\r\n\r\n8\r\n{{\"id\":1}}\r\n0\r\n"),
                "x-more: and more\r\n",
            ),
        ),
    ]
}

#[tokio::test]
async fn unreadable_answers_fail_over_to_another_key() {
    for (what, say) in unreadable() {
        let mock = Mock::start().await.unwrap();
        let bad = RawProvider::start([say]).await;
        let gw = Gateway::start(&pool(&bad.origin(), &mock)).await;
        let reply = within(gw.chat()).await;
        assert_eq!(
            (reply.status, reply.key(), reply.attempts(), reply.end),
            (200, "p-2", "2", End::Proper),
            "{what}: {reply:?}"
        );
        let stats = gw.key_stats("p", "p-1").await;
        assert_eq!(
            (&stats["failed_requests"], &stats["state"], bad.requests()),
            (&json!(1), &json!("active"), 1),
            "{what}: {stats}"
        );
        let peak = peak(gw.process.pid());
        assert!(peak < 64 * MIB, "{what}: {} MiB", peak / MIB);
        eventually(&format!("{what}: the connection is closed"), || {
            bad.gone() == 1
        })
        .await;
        gw.stop().await;
    }
}

#[tokio::test]
async fn endless_interim_answers_fail_over_to_another_key() {
    let mock = Mock::start().await.unwrap();
    let say = Say::endless("", "HTTP/1.1 102 Processing\r\n\r\n");
    let bad = RawProvider::start([say]).await;
    let gw = Gateway::start(&pool(&bad.origin(), &mock)).await;
    let reply = gw.chat().await;
    assert_eq!(reply.status, 200, "{reply:?}");
    assert_eq!(reply.header("x-keypool-attempts"), Some("2"), "{reply:?}");
    eventually("the connection is closed", || bad.gone() == 1).await;
    let peak = peak(gw.process.pid());
    assert!(peak < 64 * MIB, "{} MiB", peak / MIB);
    gw.stop().await;
}

/// An unusual answer that a client can still read.
struct Readable {
    what: &'static str,
    say: Say,
    status: u16,
    body: &'static [u8],
    /// Headers that the client must find, or must not (`None`).
    headers: Vec<(&'static str, Option<&'static str>)>,
}

const WHOLE: &str = r#"{"id":1}"#;
const GZIP: &[u8] = b"\x1f\x8b\x08\0\0\0\0\0\x02\x03\xabV\xcaLQ\xb22\xac\x05\0\xc5\xf8]D\x08\0\0\0";

/// A JSON answer of `{"id":1}` with these headers, framed as they say.
fn small(
    what: &'static str,
    say: fn(&str) -> Say,
    version: &str,
    headers: &str,
    expect: (&'static str, Option<&'static str>),
) -> Readable {
    let body = if headers.contains("chunked") {
        format!("8\r\n{WHOLE}\r\n0\r\n\r\n")
    } else {
        WHOLE.to_owned()
    };
    let head = JSON.replace("1.1", version);
    Readable {
        what,
        say: say(&format!("{head}{headers}\r\n{body}")),
        status: 200,
        body: WHOLE.as_bytes(),
        headers: vec![expect],
    }
}

fn readable() -> Vec<Readable> {
    let (length, chunked) = ("content-length: 8\r\n", "transfer-encoding: chunked\r\n");
    let same_length = ("content-length", Some("8"));
    let no_length = ("content-length", None);
    let kept = format!("connection: keep-alive\r\n{length}");
    let (short, long) = (
        format!("content-length: 3\r\n{chunked}"),
        format!("{chunked}content-length: 300\r\n"),
    );
    let zipped = format!(
        "{JSON}content-encoding: gzip\r\ncontent-length: {}\r\n\r\n",
        GZIP.len()
    );
    let elsewhere = "http://127.0.0.1:1/elsewhere";
    let redirect =
        format!("HTTP/1.1 307 There\r\nlocation: {elsewhere}\r\ncontent-length: 0\r\n\r\n");
    vec![
        small("1.0 with a length", Say::close, "1.0", length, same_length),
        small("1.0 without", Say::close, "1.0", "", no_length),
        small("1.0 that is kept", Say::stay, "1.0", &kept, same_length),
        small("chunks, too short", Say::stay, "1.1", &short, no_length),
        small("chunks, too long", Say::stay, "1.1", &long, no_length),
        small(
            "length twice",
            Say::stay,
            "1.1",
            &length.repeat(2),
            same_length,
        ),
        Readable {
            what: "gzip that was not asked for",
            say: Say::Stay([zipped.as_bytes(), GZIP].concat()),
            status: 200,
            body: GZIP,
            headers: vec![("content-encoding", Some("gzip"))],
        },
        Readable {
            what: "a redirect",
            say: Say::stay(&redirect),
            status: 307,
            body: b"",
            headers: vec![("location", Some(elsewhere))],
        },
    ]
}

#[tokio::test]
async fn unusual_but_readable_answers_are_relayed() {
    for case in readable() {
        let what = case.what;
        let mock = Mock::start().await.unwrap();
        let bad = RawProvider::start([case.say]).await;
        let gw = Gateway::start(&pool(&bad.origin(), &mock)).await;
        // Key 1 serves twice, so that a kept connection is reused.
        for n in ["p-1", "p-2", "p-1"] {
            let reply = gw.chat().await;
            let served = (reply.key(), reply.attempts(), reply.end);
            assert_eq!(served, (n, "1", End::Proper), "{what}: {reply:?}");
            if n == "p-2" {
                continue;
            }
            assert_eq!(reply.status, case.status, "{what}: {reply:?}");
            assert_eq!(reply.body, case.body, "{what}: {reply:?}");
            for (name, value) in &case.headers {
                assert_eq!(reply.header(name), *value, "{what}: {name}: {reply:?}");
            }
        }
        assert_eq!(bad.requests(), 2, "{what}");
        let failed = &gw.key_stats("p", "p-1").await["failed_requests"];
        assert_eq!(failed, 0, "{what}");
        gw.stop().await;
    }
}

#[tokio::test]
async fn bytes_after_an_answer_are_not_taken_for_the_next_answer() {
    let forged = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 10\r\n\r\n\"forged!!\"";
    for rest in ["and more", forged] {
        let mock = Mock::start().await.unwrap();
        let first = format!("{JSON}content-length: 8\r\n\r\n{{\"id\":1}}{rest}");
        let second = format!("{JSON}content-length: 8\r\n\r\n{{\"id\":2}}");
        let bad = RawProvider::start([Say::stay(&first), Say::stay(&second)]).await;
        let gw = Gateway::start(&pool(&bad.origin(), &mock)).await;
        for expect in ["{\"id\":1}", "", "{\"id\":2}"] {
            let reply = gw.chat().await;
            assert_eq!(reply.status, 200, "{reply:?}");
            if !expect.is_empty() {
                assert_eq!(
                    (reply.key(), reply.text().as_str()),
                    ("p-1", expect),
                    "{rest}"
                );
            }
        }
        gw.stop().await;
    }
}

#[tokio::test]
async fn a_stream_shorter_than_its_length_ends_with_an_error() {
    let event = "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n";
    let mock = Mock::start().await.unwrap();
    let say = Say::close(&format!("{EVENTS}content-length: 1000\r\n\r\n{event}"));
    let bad = RawProvider::start([say]).await;
    let gw = Gateway::start(&pool(&bad.origin(), &mock)).await;
    let reply = gw.post(CHAT_PATH, STREAM).await;
    let error = reply.text().split_off(event.len());
    assert!(reply.text().starts_with(event), "{reply:?}");
    assert!(error.contains("upstream_unreachable"), "{reply:?}");
    assert_eq!(reply.end, End::Proper, "{reply:?}");
    gw.all_idle().await;
    assert_eq!(
        gw.key_stats("p", "p-1").await["failed_requests"],
        1,
        "{reply:?}"
    );
    gw.stop().await;
}

#[tokio::test]
async fn an_endless_body_is_read_no_faster_than_the_client_reads() {
    for (what, head) in [
        ("JSON", JSON),
        ("events", EVENTS),
        ("text", "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n"),
    ] {
        let mock = Mock::start().await.unwrap();
        let bad =
            RawProvider::start([Say::endless(&format!("{head}\r\n"), "[more and more")]).await;
        let gw = Gateway::start(&pool(&bad.origin(), &mock)).await;
        let mut answer = gw.open("POST", CHAT_PATH, &[], CHAT.as_bytes()).await;
        let mut read = 0;
        while read < 8 * MIB as usize {
            read += within(answer.next()).await.unwrap().expect("more").len();
        }
        let peak = peak(gw.process.pid());
        assert!(peak < 64 * MIB, "{what}: {} MiB", peak / MIB);
        drop(answer);
        eventually(&format!("{what}: the connection is closed"), || {
            bad.gone() == 1
        })
        .await;
        gw.all_idle().await;
        gw.stop().await;
    }
}

#[tokio::test]
async fn an_event_of_a_gigabyte_is_relayed_in_little_memory() {
    const PIECE: usize = 1 << 20;
    let mock = Mock::start().await.unwrap();
    let head = format!("{EVENTS}\r\ndata: ");
    let bad =
        RawProvider::start([Say::Repeat(head.into_bytes(), vec![b'x'; PIECE], 1 << 10)]).await;
    let gw = Gateway::start(&pool(&bad.origin(), &mock)).await;
    let mut answer = gw.open("POST", CHAT_PATH, &[], STREAM.as_bytes()).await;
    let reading = async {
        let mut read = 0;
        while read < PIECE << 10 {
            read += answer.next().await.unwrap().expect("more").len();
        }
    };
    timeout(Duration::from_secs(120), reading).await.unwrap();
    let peak = peak(gw.process.pid());
    assert!(peak < 64 * MIB, "{} MiB", peak / MIB);
    drop(answer);
    gw.stop().await;
}

#[tokio::test]
async fn a_model_list_in_one_byte_chunks_uses_little_memory() {
    let head = format!("{JSON}transfer-encoding: chunked\r\n\r\n");
    let bad = RawProvider::start([Say::endless(&head, "1\r\n \r\n")]).await;
    let config = PoolConfig::at(&bad.origin(), "p", [1]);
    let gw = Gateway::start(&config.to_string()).await;
    assert_eq!(gw.get("/v1/nothing").await.status, 404);
    let before = peak(gw.process.pid());
    let reply = within(gw.get("/v1/models")).await;
    assert_eq!(
        (reply.status, reply.json()["data"].clone()),
        (200, json!([]))
    );
    let grown = peak(gw.process.pid()) - before;
    assert!(grown < 24 * MIB, "{} MiB", grown / MIB);
    eventually("the connection is closed", || bad.gone() == 1).await;
    gw.stop().await;
}

#[tokio::test]
async fn invalid_certificates_fail_over_to_another_key() {
    let (known, unknown) = (Authority::new(), Authority::new());
    for (what, authority, name, served_by) in [
        ("right", &known, "127.0.0.1", "p-1"),
        ("another name", &known, "other.example.com", "p-2"),
        ("another authority", &unknown, "127.0.0.1", "p-2"),
    ] {
        let mock = Mock::start().await.unwrap();
        let front = TlsProxy::start(authority.acceptor(&[name], &[]), mock.addr()).await;
        let config = pool(&format!("https://{}", front.addr), &mock);
        let gw = Gateway::start_with(&config, &[known.env()]).await;
        let reply = gw.chat().await;
        assert_eq!(
            (reply.status, reply.key()),
            (200, served_by),
            "{what}: {reply:?}"
        );
        if served_by == "p-2" {
            gw.logged("certificate").await;
        }
        gw.stop().await;
    }
}
