//! The `Dialect` trait: one provider's wire form, pure and sync. Must never know a dialect; the list is in `catalogue`.

use http::{HeaderName, HeaderValue};
use keypool_core::fault::Fault;

use crate::errors::ErrorResponse;
use crate::protocol::{ListedModel, Protocol};

/// How to ask a provider for its model list: `GET`, relative to the key's base URL (see `upstream_path`).
#[derive(Clone, Copy, Debug)]
pub struct ListCall {
    /// Client-side path, such as `/v1/models`.
    pub path: &'static str,
    /// Query string without `?`, or empty.
    pub query: &'static str,
    /// Further headers.
    pub headers: &'static [(&'static str, &'static str)],
}

/// One provider's wire form.
pub trait Dialect: Sync {
    /// The name in `provider = "…"`.
    fn name(&self) -> &'static str;

    /// Environment variables that hold its keys, such as `GEMINI_API_KEY` and `GOOGLE_API_KEY`; may be empty.
    fn env_keys(&self) -> &'static [&'static str];

    /// Environment variable of its base URL, such as `OPENAI_BASE_URL`.
    fn env_base_url(&self) -> Option<&'static str>;

    /// The provider's own base URL; `None` if the operator must give one.
    fn default_base_url(&self) -> Option<&'static str>;

    /// Model patterns of the provider's own families; `["*"]` for providers without any, `[]` if calls name no model.
    fn default_models(&self) -> &'static [&'static str];

    /// Default of `max_concurrent_per_key`.
    fn default_max_concurrent(&self) -> Option<u32> {
        None
    }

    /// The client protocols its pools speak; the first is its own.
    fn protocols(&self) -> &'static [Protocol];

    /// The path sent upstream for a client's `path` (percent-encoding kept, starts with `/`, no query),
    /// if the key's base URL has the path `base_path` (no slash at its end, may be empty).
    fn upstream_path(&self, protocol: Protocol, base_path: &str, path: &str) -> String;

    /// The root of the provider's OpenAI-compatible endpoints, if OpenAI's is not its own protocol: `{root}/x` is what
    /// an OpenAI client calls `/v1/x`.
    fn openai_root(&self) -> Option<&'static str> {
        None
    }

    /// The header that carries the key. `None` if the secret does not fit into a header.
    fn credential(&self, protocol: Protocol, secret: &str) -> Option<(HeaderName, HeaderValue)>;

    /// Request headers (lower case) that choose an account, organisation, project or workspace: never forwarded.
    fn account_headers(&self) -> &'static [&'static str];

    /// Whether a response header (lower case) reveals our account or its limits: never relayed.
    fn is_private_header(&self, name: &str) -> bool;

    /// Response headers that may carry the provider's own request id, in order.
    fn request_id_headers(&self) -> &'static [&'static str];

    /// Classifies a response that is not 2xx. Never panics, whatever the bytes.
    fn classify(&self, response: &ErrorResponse<'_>) -> Fault;

    /// How to list the provider's models; `None` if it has no such list.
    fn list_models(&self) -> Option<ListCall>;

    /// Reads such a list; `None` if it is not one.
    fn parse_models(&self, body: &[u8]) -> Option<Vec<ListedModel>>;

    /// Why the dialect is not complete yet, for one warning at start; `None` when it is.
    fn incomplete(&self) -> Option<&'static str> {
        None
    }
}
