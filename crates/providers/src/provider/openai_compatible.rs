//! What every provider with OpenAI's protocol and a bearer key has in common.
//!
//! Must never ask which provider it is: every difference is a field.

use http::{HeaderName, HeaderValue};
use keypool_core::fault::Fault;
use serde_json::Value;

use super::paths;
use crate::dialect::{Dialect, ListCall};
use crate::errors::{ErrorResponse, json};
use crate::protocol::{ListedModel, Protocol};

/// OpenAI's request headers that choose an organisation or project.
pub(crate) const ACCOUNT_HEADERS: &[&str] = &["openai-organization", "openai-project"];
/// The list call of every OpenAI-like provider.
pub(crate) const LIST_MODELS: ListCall = ListCall {
    path: "/v1/models",
    query: "",
    headers: &[],
};

/// One provider with OpenAI's protocol.
pub(crate) struct Compatible {
    pub(crate) name: &'static str,
    pub(crate) env_keys: &'static [&'static str],
    pub(crate) env_base_url: Option<&'static str>,
    pub(crate) base_url: Option<&'static str>,
    pub(crate) models: &'static [&'static str],
    /// Default of `max_concurrent_per_key`.
    pub(crate) max_concurrent: Option<u32>,
    /// The provider's own response headers that name the account.
    pub(crate) private_headers: &'static [&'static str],
    pub(crate) request_id_headers: &'static [&'static str],
    pub(crate) classify: fn(&ErrorResponse<'_>) -> Fault,
}

impl Dialect for Compatible {
    fn name(&self) -> &'static str {
        self.name
    }

    fn env_keys(&self) -> &'static [&'static str] {
        self.env_keys
    }

    fn env_base_url(&self) -> Option<&'static str> {
        self.env_base_url
    }

    fn default_base_url(&self) -> Option<&'static str> {
        self.base_url
    }

    fn default_models(&self) -> &'static [&'static str] {
        self.models
    }

    fn default_max_concurrent(&self) -> Option<u32> {
        self.max_concurrent
    }

    fn protocols(&self) -> &'static [Protocol] {
        &[Protocol::OpenAi]
    }

    fn upstream_path(&self, _protocol: Protocol, base_path: &str, path: &str) -> String {
        paths::versioned_path(base_path, path)
    }

    fn credential(&self, _protocol: Protocol, secret: &str) -> Option<(HeaderName, HeaderValue)> {
        paths::bearer(secret)
    }

    fn account_headers(&self) -> &'static [&'static str] {
        ACCOUNT_HEADERS
    }

    fn is_private_header(&self, name: &str) -> bool {
        self.private_headers.contains(&name) || paths::is_private_everywhere(name)
    }

    fn request_id_headers(&self) -> &'static [&'static str] {
        self.request_id_headers
    }

    fn classify(&self, response: &ErrorResponse<'_>) -> Fault {
        (self.classify)(response)
    }

    fn list_models(&self) -> Option<ListCall> {
        Some(LIST_MODELS)
    }

    fn parse_models(&self, body: &[u8]) -> Option<Vec<ListedModel>> {
        parse_models(body, self.name)
    }
}

/// Reads `{"data":[{"id",…}]}`; entries without an id are left out.
pub(crate) fn parse_models(body: &[u8], provider: &str) -> Option<Vec<ListedModel>> {
    let list = json(body)?;
    let entries = list["data"].as_array()?;
    Some(
        entries
            .iter()
            .filter_map(|entry| listed(entry, provider))
            .collect(),
    )
}

fn listed(entry: &Value, provider: &str) -> Option<ListedModel> {
    let id = entry["id"].as_str().filter(|id| !id.is_empty())?;
    let display_name = entry["display_name"].as_str().or(entry["name"].as_str());
    Some(ListedModel {
        id: id.to_owned(),
        owned_by: entry["owned_by"].as_str().unwrap_or(provider).to_owned(),
        created: entry["created"].as_i64().unwrap_or(0),
        display_name: display_name.filter(|name| *name != id).map(str::to_owned),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_list_is_read() {
        let body = br#"{"object":"list","data":[
            {"id":"gpt-x","object":"model","created":1700000000,"owned_by":"system"},
            {"id":"vendor/y","name":"Y"}, {"id":"z","name":"z","created":"soon"}, {"object":"model"}, 7]}"#;
        let model = |id: &str, owned_by: &str, created, display_name: Option<&str>| ListedModel {
            id: id.to_owned(),
            owned_by: owned_by.to_owned(),
            created,
            display_name: display_name.map(str::to_owned),
        };
        assert_eq!(
            parse_models(body, "openai").unwrap(),
            [
                model("gpt-x", "system", 1_700_000_000, None),
                model("vendor/y", "openai", 0, Some("Y")),
                model("z", "openai", 0, None)
            ]
        );
        assert_eq!(parse_models(br#"{"data":[]}"#, "openai"), Some(Vec::new()));
        for bad in [&b"{}"[..], b"", b"<html>", br#"{"data":{}}"#] {
            assert_eq!(parse_models(bad, "openai"), None);
        }
    }
}
