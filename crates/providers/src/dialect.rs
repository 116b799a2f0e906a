//! One provider's wire form, as plain data and pure functions. Must never know a provider; the list is in `catalogue`.

use std::time::Duration;

use http::{HeaderName, HeaderValue};
use keypool_core::fault::{Class, Fault};
use serde_json::Value;

use crate::errors::{ErrorResponse, intermediary_trouble, json, retry_after};
use crate::protocol::{ListedModel, Protocol};
use crate::quota::{QuotaCall, QuotaError, QuotaFigures};
use crate::usage::ImageRule;

/// How to ask a provider for its model list (`GET`, relative to the key's base URL), and how to read it.
#[derive(Clone, Copy, Debug)]
pub struct ListCall {
    /// Client-side path, such as `/v1/models`.
    pub path: &'static str,
    /// Query string without `?`, or empty.
    pub query: &'static str,
    /// Further headers.
    pub headers: &'static [(&'static str, &'static str)],
    /// The field of the response that holds the models.
    pub field: &'static str,
    /// Reads one model, given the provider's name; `None` if it has no id.
    pub read_model: fn(&Value, &str) -> Option<ListedModel>,
}

/// Where a provider serves OpenAI's protocol.
#[derive(Clone, Copy, Debug)]
pub struct OpenAiBase {
    /// Its own hosts, as patterns.
    pub hosts: &'static [&'static str],
    /// The path that a base URL needs there.
    pub path: &'static str,
}

/// One provider's wire form.
pub struct Dialect {
    /// The name in `provider = "…"`.
    pub name: &'static str,
    /// Environment variables that hold its keys, such as `GEMINI_API_KEY` and `GOOGLE_API_KEY`; may be empty.
    pub env_keys: &'static [&'static str],
    /// Environment variable of its base URL, such as `OPENAI_BASE_URL`.
    pub env_base_url: Option<&'static str>,
    /// The provider's own base URL; `None` if the operator must give one.
    pub default_base_url: Option<&'static str>,
    /// Where it serves OpenAI's protocol; `None` if it does not, or if a base URL needs no path.
    pub openai_base: Option<OpenAiBase>,
    /// Model patterns of the provider's own families; `["*"]` for providers without any, `[]` if calls name no model.
    pub default_models: &'static [&'static str],
    /// Default of `max_concurrent_per_key`.
    pub default_max_concurrent: Option<u32>,
    /// The client protocols its pools speak; the first is its own.
    pub protocols: &'static [Protocol],
    /// The root of the provider's OpenAI-compatible endpoints, if OpenAI's is not its own protocol: `{root}/x` is what
    /// an OpenAI client calls `/v1/x`.
    pub openai_root: Option<&'static str>,
    /// Request headers (lower case) that choose an account, organisation, project or workspace: never forwarded.
    pub account_headers: &'static [&'static str],
    /// Whether a stream of its chat endpoint reports usage only if `stream_options.include_usage` asks for it. Otherwise it
    /// reports it unasked, and may refuse the field.
    pub needs_include_usage: bool,
    /// How it counts the tokens of an image.
    pub image_rule: ImageRule,
    /// Response headers that may carry the provider's own request id, in order.
    pub request_id_headers: &'static [&'static str],
    /// How to list the provider's models; `None` if it has no such list.
    pub list_models: Option<ListCall>,
    /// How to ask for the quota of a key; `None` if the provider does not report it.
    pub quota: Option<QuotaCall>,
    /// The path sent upstream, given the protocol, the path of the key's base URL (no slash at its end, may be empty) and
    /// the client's path (percent-encoding kept, starts with `/`, no query).
    pub upstream_path: fn(Protocol, &str, &str) -> String,
    /// The header that carries the key, given the protocol and the secret. `None` if the secret does not fit into a
    /// header.
    pub credential: fn(Protocol, &str) -> Option<(HeaderName, HeaderValue)>,
    /// Whether a response header (lower case) reveals our account or its limits: never relayed.
    pub is_private_header: fn(&str) -> bool,
    /// Classifies the provider's own refusals: see [`Dialect::judge`], which every response goes through.
    pub(crate) classify: fn(&ErrorResponse<'_>) -> Fault,
}

/// Minimum wait: a provider that says 0 s would otherwise be called again at once.
const SHORTEST_WAIT: Duration = Duration::from_secs(1);

impl Dialect {
    /// Whether this is the provider that defined `protocol`.
    pub fn defines(&self, protocol: Protocol) -> bool {
        self.name == protocol.provider()
    }

    /// What a response that is not 2xx means. Never panics, whatever the bytes.
    ///
    /// The code of [`Class::IntermediaryTrouble`] is the intermediary's name. Dates count from the response's own `Date`:
    /// the provider's clock may differ from ours.
    pub fn judge(&self, response: &ErrorResponse<'_>) -> Fault {
        if let Some(name) = intermediary_trouble(response) {
            return Fault::of(Class::IntermediaryTrouble).with_code(Some(name));
        }
        let now = retry_after::date(response.headers).unwrap_or(response.now);
        let fault = (self.classify)(&ErrorResponse { now, ..*response });
        let wait = fault.wait.map(|wait| wait.max(SHORTEST_WAIT));
        fault.with_wait(wait)
    }

    /// Reads a model list; `None` if it is not one. Entries without an id are left out.
    pub fn parse_models(&self, body: &[u8]) -> Option<Vec<ListedModel>> {
        let call = self.list_models?;
        let list = json(body)?;
        let entries = list[call.field].as_array()?.iter();
        let models = entries.filter_map(|entry| (call.read_model)(entry, self.name));
        Some(models.collect())
    }

    /// Reads the 2xx response to [`QuotaCall`]. Never panics, whatever the bytes.
    ///
    /// `authority`: that of the key's base URL. Where a balance names no currency, the host decides.
    pub fn parse_quota(&self, authority: &str, body: &[u8]) -> Result<QuotaFigures, QuotaError> {
        let call = self.quota.ok_or(QuotaError::NotOffered)?;
        let response = json(body).ok_or(QuotaError::NotJson)?;
        if response.get("error").is_some_and(|error| !error.is_null()) {
            return Err(QuotaError::ErrorInBody);
        }
        (call.read)(&response, authority)
    }
}
