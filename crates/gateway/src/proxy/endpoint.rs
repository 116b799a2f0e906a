//! What a request calls: the pool named by the path, the endpoint, the protocol of the answer.

use http::request::Parts;
use keypool_providers::protocol::{self, Endpoint, Lookup, ModelsCall, Protocol};
use percent_encoding::percent_decode_str;

use super::Failed;
use super::auth::Caller;
use crate::error::{GatewayError, Kind};
use crate::snapshot::{PoolEntry, Snapshot};

pub(super) struct MatchedEndpoint<'a> {
    pub(super) protocol: Protocol,
    /// The known endpoint; `None`: a native path of the pool's provider.
    pub(super) endpoint: Option<Endpoint>,
    /// The pool named by the path.
    pub(super) pool: Option<&'a PoolEntry>,
    /// The path without the pool, as the endpoint's client would have sent it.
    pub(super) path: String,
}

impl<'a> MatchedEndpoint<'a> {
    pub(super) fn find(snapshot: &'a Snapshot, parts: &Parts) -> Result<Self, Failed> {
        let (path, query) = (parts.uri.path(), parts.uri.query());
        let guessed = protocol::protocol_of_headers(&parts.headers, query);
        if !path.starts_with('/') || !protocol::is_safe_path(path) {
            let message = "the path is not valid: it must begin with / and may not contain . or .. segments, however encoded";
            return Err((GatewayError::new(Kind::InvalidRequest, message), guessed));
        }
        if let Some((entry, rest)) = named_pool(snapshot, path) {
            return Ok(Self::in_pool(entry, rest, parts));
        }
        match protocol::lookup(&parts.method, path, &parts.headers, query) {
            Lookup::Endpoint(endpoint) => Ok(Self {
                protocol: endpoint.protocol,
                endpoint: Some(endpoint),
                pool: None,
                path: path.to_owned(),
            }),
            Lookup::MethodNotAllowed(protocol, allow) => {
                let message = format!("{path} does not take {}; use {allow}", parts.method);
                Err((
                    GatewayError::new(Kind::MethodNotAllowed(allow), message),
                    protocol,
                ))
            }
            // Told only to callers that may know: see `check_known`.
            Lookup::Unknown(protocol) => Ok(Self {
                protocol,
                endpoint: None,
                pool: None,
                path: path.to_owned(),
            }),
        }
    }

    /// `/{pool}/…`: one of the known endpoints with the pool given, or a native path.
    fn in_pool(entry: &'a PoolEntry, rest: &str, parts: &Parts) -> Self {
        let lookup = |path: &str| match protocol::lookup(
            &parts.method,
            path,
            &parts.headers,
            parts.uri.query(),
        ) {
            Lookup::Endpoint(endpoint) if entry.speaks(endpoint.protocol) => Some(endpoint),
            _ => None,
        };
        let own = entry.dialect.protocols()[0];
        let mut spellings = vec![rest.to_owned()];
        let under = |root: &str| {
            let below = rest
                .strip_prefix(root)
                .filter(|below| below.starts_with('/'));
            below.map(|below| format!("/v1{below}"))
        };
        // `/gemini/v1beta/openai/chat/completions` is `/v1/chat/completions`.
        spellings.extend(entry.dialect.openai_root().and_then(under));
        if own == Protocol::OpenAi {
            // So are `/ark/api/v3/chat/completions` and `/ark/chat/completions`.
            let members = entry.pool.members();
            let base = members.first().map(|member| &**member.base_url.path());
            spellings.extend(base.filter(|base| !base.is_empty()).and_then(under));
            spellings.push(format!("/v1{rest}"));
        }
        for path in spellings {
            if let Some(endpoint) = lookup(&path) {
                return Self {
                    protocol: endpoint.protocol,
                    endpoint: Some(endpoint),
                    pool: Some(entry),
                    path,
                };
            }
        }
        Self {
            protocol: native_protocol(entry, rest, parts).unwrap_or(own),
            endpoint: None,
            pool: Some(entry),
            path: rest.to_owned(),
        }
    }

    /// Refuses paths that are unknown, and native ones that are not open to the caller.
    pub(super) fn check_known(&self, caller: &Caller) -> Result<(), GatewayError> {
        if !self.is_native() {
            return Ok(());
        }
        if self.endpoint.is_none() && self.pool.is_none() {
            let message = format!(
                "there is no {}: call an endpoint such as /v1/chat/completions, or /{{pool}}/… for a provider's own paths",
                printable(&self.path)
            );
            return Err(GatewayError::new(Kind::NotFound, message));
        }
        if caller.may_use_native_paths() {
            return Ok(());
        }
        let of_pool = self
            .pool
            .map(|entry| format!(" of pool {}", entry.pool.name()));
        let message = format!(
            "{}{} is a native path: ask for a virtual key with `native = true`",
            printable(&self.path),
            of_pool.unwrap_or_default()
        );
        Err(GatewayError::new(Kind::NativeNotAllowed, message))
    }

    /// Whether this is a path of the provider's own.
    pub(super) fn is_native(&self) -> bool {
        self.endpoint
            .as_ref()
            .is_none_or(|endpoint| endpoint.native)
    }

    /// Whether the path, by naming an object, says where the call goes.
    pub(super) fn is_by_object(&self) -> bool {
        self.endpoint
            .as_ref()
            .is_some_and(|endpoint| endpoint.by_object)
    }

    pub(super) fn models_call(&self) -> Option<&ModelsCall> {
        self.endpoint.as_ref()?.models.as_ref()
    }
}

/// The protocol of a native path, where it shows and the provider speaks it beside its own.
fn native_protocol(entry: &PoolEntry, path: &str, parts: &Parts) -> Option<Protocol> {
    let bare = path.strip_prefix("/upload").unwrap_or(path);
    let shown = if bare.starts_with("/v1beta/") {
        Protocol::Gemini
    } else {
        protocol::protocol_of_headers(&parts.headers, parts.uri.query())
    };
    (shown != Protocol::OpenAi && entry.speaks(shown)).then_some(shown)
}

/// The pool that the first segment names, and the rest of the path.
fn named_pool<'a, 'p>(snapshot: &'a Snapshot, path: &'p str) -> Option<(&'a PoolEntry, &'p str)> {
    let after = &path[1..];
    let end = after.find('/').unwrap_or(after.len());
    let name = percent_decode_str(&after[..end]).decode_utf8().ok()?;
    let rest = if end == after.len() {
        "/"
    } else {
        &after[end..]
    };
    Some((snapshot.pool(&name)?, rest))
}

/// A path for a message: cut to a readable length.
fn printable(path: &str) -> String {
    path.chars().filter(|c| !c.is_control()).take(100).collect()
}
