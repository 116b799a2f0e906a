//! Kept connections to a provider that break when they are reused.

use serde_json::json;

use crate::harness::{CHAT, CHAT_PATH, Gateway, PoolConfig};
use crate::raw_provider::{RawProvider, Say};

/// A call that is not repeated if the provider may have run it.
const ONCE: &str = r#"{"model":"gpt-x","input":"hello","store":true}"#;

#[tokio::test]
async fn a_broken_kept_connection_is_replaced_unless_the_call_may_have_run() {
    let answer = Say::stay(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 8\r\n\r\n{\"id\":1}",
    );
    for (what, breaks, path, body, expect, failed, requests) in [
        ("at once", Say::close(""), CHAT_PATH, CHAT, (200, "1"), 0, 3),
        (
            "at once, and the call may have created something",
            Say::close(""),
            "/v1/responses",
            ONCE,
            (502, "1"),
            1,
            2,
        ),
    ] {
        let provider = RawProvider::start([answer.clone(), breaks, answer.clone()]).await;
        let gw = Gateway::start(&PoolConfig::at(&provider.origin(), "p", [1]).to_string()).await;
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
