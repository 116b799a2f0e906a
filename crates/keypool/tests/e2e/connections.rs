//! Kept connections to a provider that break before it can have seen the call.

use serde_json::json;

use crate::harness::{CHAT, CHAT_PATH, Gateway, key};
use crate::raw_provider::{RawProvider, Say};

/// A call that is not repeated where the provider may have begun with it.
const ONCE: &str = r#"{"model":"gpt-x","input":"hello","store":true}"#;

fn pool(origin: &str) -> String {
    format!(
        "[pools.p]\nprovider = \"mock\"\nbase_url = \"{origin}\"\nkeys = [\"{}\"]\nretry = {{ backoff = \"5ms\" }}\n",
        key(1)
    )
}

#[tokio::test]
async fn a_kept_connection_that_breaks_at_once_is_replaced_unless_the_call_may_have_made_something()
{
    let answer = Say::stay(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 8\r\n\r\n{\"id\":1}",
    );
    for (what, breaks, path, body, expect, failed, requests) in [
        ("at once", Say::close(""), CHAT_PATH, CHAT, (200, "1"), 0, 3),
        (
            "at once, and the call may have made something",
            Say::close(""),
            "/v1/responses",
            ONCE,
            (502, "1"),
            1,
            2,
        ),
    ] {
        let provider = RawProvider::start([answer.clone(), breaks, answer.clone()]).await;
        let gw = Gateway::start(&pool(&provider.origin())).await;
        let first = gw.chat().await;
        assert_eq!((first.status, first.attempts()), (200, "1"), "{what}");
        let second = gw.post(path, body).await;
        assert_eq!(
            (second.status, second.attempts()),
            expect,
            "{what}: {second:?}"
        );
        assert_eq!(provider.requests(), requests, "{what}");
        let stats = gw.key_stats("p", "p-1").await;
        assert_eq!(stats["failed_requests"], json!(failed), "{what}: {stats}");
        gw.stop().await;
    }
}
