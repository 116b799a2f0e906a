//! Addresses in responses that an SDK calls with its key. They must not lead to the provider: the key that the caller has
//! is a virtual one, and no business of the provider's.

use std::ops::Range;

use super::json::{self, NearestField};
use crate::protocol::Protocol;

/// Where Anthropic's batches are.
const BATCHES: &str = "/v1/messages/batches";
/// The field with the address of a batch's results.
const RESULTS_URL: &str = "results_url";

/// Whether the body of a response to a call of `path` may have such an address. `path`: as a client of the protocol
/// sends it.
pub fn may_have_addresses(protocol: Protocol, path: &str) -> bool {
    let below = path.strip_prefix(BATCHES);
    let is_batch = below.is_some_and(|below| below.is_empty() || below.starts_with('/'));
    protocol == Protocol::Anthropic && is_batch && !path.ends_with("/results")
}

/// The addresses in a body, by the byte range of their JSON string, each with the string that replaces it: relative, as
/// Anthropic's SDKs resolve it against the base URL that they call.
pub fn local_addresses(body: &[u8]) -> Vec<(Range<usize>, String)> {
    let mut found = Vec::new();
    json::strings(body, |path, text| {
        if path.field() == NearestField::Named(RESULTS_URL.into()) {
            let local = serde_json::Value::from(local_address(&text.read()));
            found.push((text.range(), local.to_string()));
        }
    });
    found
}

/// The address without scheme and host, from the protocol's own path on.
fn local_address(address: &str) -> String {
    if let Some(at) = address.find(BATCHES) {
        return address[at..].to_owned();
    }
    let after_scheme = address.split_once("://").map_or(address, |(_, rest)| rest);
    let path = after_scheme.find('/').map_or("", |at| &after_scheme[at..]);
    format!("/{}", path.trim_start_matches('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(body: &str) -> String {
        let mut out = String::new();
        let mut copied = 0;
        for (range, local) in local_addresses(body.as_bytes()) {
            out += &body[copied..range.start];
            out += &local;
            copied = range.end;
        }
        out + &body[copied..]
    }

    #[test]
    fn addresses_of_results_become_relative_and_nothing_else_changes() {
        let local = "/v1/messages/batches/b/results";
        for (body, expect) in [
            (
                format!(r#"{{"id":"b", "results_url" : "https://api.anthropic.com{local}","x":1.50}}"#),
                format!(r#"{{"id":"b", "results_url" : "{local}","x":1.50}}"#),
            ),
            (
                format!(r#"{{"data":[{{"results_url":"https://a{local}"}},{{"results_url":null}},{{"results_url":"http://b:1/p{local}"}}]}}"#),
                format!(r#"{{"data":[{{"results_url":"{local}"}},{{"results_url":null}},{{"results_url":"{local}"}}]}}"#),
            ),
            (
                r#"{"results\u005furl":"https:\/\/api.anthropic.com\/v1\/messages\/batches\/b\/results"}"#.to_owned(),
                format!(r#"{{"results\u005furl":"{local}"}}"#),
            ),
            (
                r#"{"results_url":"https://elsewhere.example//other/b"}"#.to_owned(),
                r#"{"results_url":"/other/b"}"#.to_owned(),
            ),
            (
                r#"{"results_url":"//elsewhere.example/other/b"}"#.to_owned(),
                r#"{"results_url":"/elsewhere.example/other/b"}"#.to_owned(),
            ),
            (
                r#"{"custom_id":"https://api.anthropic.com/v1/messages/batches/b/results"}"#.to_owned(),
                r#"{"custom_id":"https://api.anthropic.com/v1/messages/batches/b/results"}"#.to_owned(),
            ),
        ] {
            assert_eq!(rewritten(&body), expect);
        }
    }

    #[test]
    fn only_batches_of_anthropics_protocol_have_addresses() {
        for (protocol, path, expect) in [
            (Protocol::Anthropic, "/v1/messages/batches", true),
            (Protocol::Anthropic, "/v1/messages/batches/b", true),
            (Protocol::Anthropic, "/v1/messages/batches/b/cancel", true),
            (Protocol::Anthropic, "/v1/messages/batches/b/results", false),
            (Protocol::Anthropic, "/v1/messages", false),
            (Protocol::Anthropic, "/v1/messages/batchesx", false),
            (Protocol::OpenAi, "/v1/messages/batches", false),
        ] {
            assert_eq!(may_have_addresses(protocol, path), expect, "{path}");
        }
    }
}
