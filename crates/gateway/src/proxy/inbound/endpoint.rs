//! What a request calls: the pool named by the path, the endpoint, and the protocol of the response.

use std::sync::Arc;

use http::request::Parts;
use keypool_providers::protocol::upload::UploadStep;
use keypool_providers::protocol::{self, Endpoint, Lookup, ModelsCall, Protocol};
use percent_encoding::percent_decode_str;

use super::{JobsAddress, OwnAddress};
use crate::error::{GatewayError, Kind, RenderableError};
use crate::snapshot::{PoolEntry, Snapshot};

/// The endpoint that a request's method, path and headers match.
pub(crate) struct MatchedEndpoint<'a> {
    pub(crate) protocol: Protocol,
    /// `None` for an unknown path, and for a path below `/{pool}` that only the provider knows.
    pub(crate) known: Option<Endpoint>,
    /// The pool that the path names.
    pub(crate) pool: Option<&'a Arc<PoolEntry>>,
    /// The path without the pool, as a client of the endpoint sends it.
    pub(crate) path: String,
    /// What keypool itself is asked, or may be. Boxed: hardly any request asks.
    pub(crate) own: Option<Box<OwnAddress>>,
    /// The step of an upload that the request takes. Boxed: hardly any request is one.
    pub(crate) upload: Option<Box<UploadStep>>,
}

impl<'a> MatchedEndpoint<'a> {
    pub(crate) fn find(snapshot: &'a Snapshot, parts: &Parts) -> Result<Self, RenderableError> {
        let (path, query) = (parts.uri.path(), parts.uri.query());
        if !path.starts_with('/') || !protocol::is_safe_path(path) {
            let guessed = protocol::protocol_of_headers(&parts.headers, query);
            let message = "the path is not valid: it must begin with / and may not contain . or .. segments, however encoded";
            return Err(GatewayError::invalid_request(message).in_protocol(guessed));
        }
        if let Some((entry, rest)) = named_pool(snapshot, path) {
            return Ok(Self::in_pool(entry, rest, parts));
        }
        let found = protocol::lookup(&parts.method, path, &parts.headers, query);
        if !matches!(found, Lookup::Endpoint(_)) {
            if let Some(jobs) = JobsAddress::find(&parts.method, path) {
                let jobs = jobs.map_err(|error| error.in_protocol(Protocol::OpenAi))?;
                let endpoint = Self::new(Protocol::OpenAi, None, None, path.to_owned(), parts);
                return Ok(Self {
                    own: Some(Box::new(OwnAddress::Jobs(jobs))),
                    ..endpoint
                });
            }
            if let Some(rewritten) = Self::rewritten(snapshot, parts) {
                return rewritten;
            }
        }
        Self::bare(path.to_owned(), found, parts)
    }

    /// The endpoint that the path means though it is not written like it. Below doubled slashes, a pool may be named too.
    fn rewritten(snapshot: &'a Snapshot, parts: &Parts) -> Option<Result<Self, RenderableError>> {
        let (path, query) = (parts.uri.path(), parts.uri.query());
        let named = path
            .starts_with("//")
            .then(|| {
                named_pool(
                    snapshot,
                    &path[path.len() - path.trim_start_matches('/').len() - 1..],
                )
            })
            .flatten();
        if let Some((entry, rest)) = named {
            let matched = Self::in_pool(entry, rest, parts);
            // A native path is never rewritten.
            return (matched.known.is_some()).then_some(Ok(matched));
        }
        let (path, found) = protocol::lookup_rewritten(&parts.method, path, &parts.headers, query)?;
        Some(Self::bare(path, found, parts))
    }

    /// A path that names no pool.
    fn bare(path: String, found: Lookup, parts: &Parts) -> Result<Self, RenderableError> {
        match found {
            Lookup::Endpoint(endpoint) => {
                let protocol = endpoint.protocol;
                let may_be_own = endpoint.objects && protocol == Protocol::OpenAi;
                let own = may_be_own
                    .then(|| OwnAddress::of_files(&parts.method, &path))
                    .flatten();
                let matched = Self::new(protocol, Some(endpoint), None, path, parts);
                Ok(Self {
                    own: own.map(Box::new),
                    ..matched
                })
            }
            Lookup::MethodNotAllowed(protocol, allow) => {
                let message = format!("{path} does not take {}; use {allow}", parts.method);
                let error = GatewayError::new(Kind::MethodNotAllowed(allow), message);
                Err(error.in_protocol(protocol))
            }
            // Rejected by `Caller::check_access`, so that only known callers learn of it.
            Lookup::Unknown(protocol) => Ok(Self::new(protocol, None, None, path, parts)),
        }
    }

    /// `/{pool}/…`: a known endpoint in the given pool, or a native path.
    fn in_pool(entry: &'a Arc<PoolEntry>, rest: &str, parts: &Parts) -> Self {
        let query = parts.uri.query();
        let (method, headers) = (&parts.method, &parts.headers);
        let as_written = spellings(entry, rest).into_iter().map(|path| {
            let found = protocol::lookup(method, &path, headers, query);
            (path, found)
        });
        let rewritten =
            std::iter::once_with(|| protocol::lookup_rewritten(method, rest, headers, query));
        for (path, found) in as_written.chain(rewritten.flatten()) {
            if let Lookup::Endpoint(endpoint) = found
                && entry.serves(&endpoint)
            {
                let protocol = endpoint.protocol;
                return Self::new(protocol, Some(endpoint), Some(entry), path, parts);
            }
        }
        let protocol = native_protocol(entry, rest, parts);
        Self::new(protocol, None, Some(entry), rest.to_owned(), parts)
    }

    fn new(
        protocol: Protocol,
        known: Option<Endpoint>,
        pool: Option<&'a Arc<PoolEntry>>,
        path: String,
        parts: &Parts,
    ) -> Self {
        let (query, headers) = (parts.uri.query(), &parts.headers);
        Self {
            upload: UploadStep::of(protocol, &parts.method, &path, query, headers).map(Box::new),
            protocol,
            known,
            pool,
            path,
            own: None,
        }
    }

    /// Whether this is one of the provider's own paths.
    pub(crate) fn is_native(&self) -> bool {
        self.known.as_ref().is_none_or(|endpoint| endpoint.native)
    }

    /// Whether this is about objects, and its body may name some like that of a native path.
    pub(crate) fn is_about_objects(&self) -> bool {
        self.known.as_ref().is_none_or(|endpoint| endpoint.objects)
    }

    /// Whether the call may run models that it does not name.
    pub(crate) fn hides_model(&self) -> bool {
        self.known
            .as_ref()
            .is_some_and(|endpoint| endpoint.hides_model)
    }

    /// Whether the path names an object, which decides where the call goes.
    pub(crate) fn is_by_object(&self) -> bool {
        self.known
            .as_ref()
            .is_some_and(|endpoint| endpoint.by_object)
    }

    pub(crate) fn models_call(&self) -> Option<&ModelsCall> {
        self.known.as_ref()?.models.as_ref()
    }
}

/// The paths under which a known endpoint may stand below `/{pool}`.
fn spellings(entry: &PoolEntry, rest: &str) -> Vec<String> {
    let mut spellings = vec![rest.to_owned()];
    let under = |root: &str| {
        let below = rest
            .strip_prefix(root)
            .filter(|below| below.starts_with('/'));
        below.map(|below| format!("/v1{below}"))
    };
    // `/{pool}{OpenAI root}/chat/completions` is `/v1/chat/completions`.
    spellings.extend(entry.dialect.openai_root.and_then(under));
    if entry.dialect.protocols[0] == Protocol::OpenAi {
        // So are `/{pool}{path of the base URL}/chat/completions` and `/{pool}/chat/completions`.
        let keys = entry.pool.current();
        let base = keys
            .members()
            .first()
            .map(|member| &**member.base_url.path());
        spellings.extend(base.filter(|base| !base.is_empty()).and_then(under));
        spellings.push(format!("/v1{rest}"));
    }
    spellings
}

/// The protocol of a native path: the one that the request shows, if the provider speaks it, else the provider's own.
fn native_protocol(entry: &PoolEntry, path: &str, parts: &Parts) -> Protocol {
    let shown = protocol::protocol_of_native_path(path, &parts.headers, parts.uri.query());
    if shown != Protocol::OpenAi && entry.speaks(shown) {
        shown
    } else {
        entry.dialect.protocols[0]
    }
}

/// The pool that the first segment names, and the rest of the path.
fn named_pool<'a, 'p>(
    snapshot: &'a Snapshot,
    path: &'p str,
) -> Option<(&'a Arc<PoolEntry>, &'p str)> {
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
