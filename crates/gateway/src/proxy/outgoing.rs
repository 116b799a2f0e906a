//! Putting a request to a provider together: where it goes, with which credential.

use http::{HeaderName, HeaderValue, Method};
use keypool_core::pool::Member;
use keypool_providers::protocol::Protocol;

use crate::prebuilt_headers::KeyHeaders;
use crate::snapshot::PoolEntry;
use crate::upstream::{RequestBody, UpstreamRequest};

/// What is asked of a provider, but for the key.
pub(super) struct Outgoing<'a> {
    pub(super) protocol: Protocol,
    pub(super) method: &'a Method,
    pub(super) query: Option<&'a str>,
    pub(super) headers: Vec<(&'a HeaderName, &'a HeaderValue)>,
    pub(super) body: RequestBody,
}

impl<'a> Outgoing<'a> {
    /// The request for the key `member`, with `path` as a client of the protocol would send it. `None` where the
    /// configuration let something pass that cannot be sent.
    pub(super) fn request_for(
        self,
        path: &str,
        entry: &'a PoolEntry,
        member: &'a Member,
    ) -> Option<UpstreamRequest<'a>> {
        let key = KeyHeaders::of(member)?;
        let base_path = member.base_url.path();
        let mut target = entry.dialect.upstream_path(self.protocol, base_path, path);
        if let Some(query) = self.query {
            target.push('?');
            target.push_str(query);
        }
        let mut headers = self.headers;
        headers.push(key.credential(self.protocol)?);
        UpstreamRequest::new(self.method, target, key.host.as_ref()?, headers, self.body)
    }
}
