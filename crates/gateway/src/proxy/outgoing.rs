//! Putting a request to a provider together: where it goes, with which credential.

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HOST};
use http::{HeaderMap, HeaderValue, Method, Request, Uri};
use keypool_providers::protocol::Protocol;

use crate::snapshot::PoolEntry;
use crate::upstream::Pieces;

/// What is asked of a provider, but for the key.
pub(super) struct Outgoing<'a> {
    pub(super) protocol: Protocol,
    pub(super) method: &'a Method,
    /// As a client of the protocol would send it.
    pub(super) path: &'a str,
    pub(super) query: Option<&'a str>,
    pub(super) headers: HeaderMap,
    pub(super) body: Pieces,
}

impl Outgoing<'_> {
    /// The request for the key at `place`. `None` where the configuration let something pass that cannot be sent.
    pub(super) fn request_for(self, entry: &PoolEntry, place: usize) -> Option<Request<Pieces>> {
        let key = entry.wire.key(place);
        let base_path = entry.pool.members()[place].base_url.path();
        let mut target = entry
            .dialect
            .upstream_path(self.protocol, base_path, self.path);
        if let Some(query) = self.query {
            target.push('?');
            target.push_str(query);
        }
        let mut headers = self.headers;
        let (name, value) = key.credential(self.protocol)?;
        headers.insert(name, value);
        headers.insert(HOST, key.host.clone()?);
        if *self.method == Method::POST && http_body::Body::size_hint(&self.body).exact() == Some(0)
        {
            headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
        }
        let mut request = Request::new(self.body);
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = Uri::from_maybe_shared(Bytes::from(target)).ok()?;
        *request.headers_mut() = headers;
        Some(request)
    }
}
