//! Putting a request to a provider together: where it goes, with which credential.

use http::header::{CONTENT_LENGTH, HOST};
use http::{HeaderMap, HeaderValue, Method, Request};
use keypool_core::pool::Member;
use keypool_providers::dialect::Dialect;
use keypool_providers::protocol::Protocol;

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
    /// The request for `member`. `None` where the configuration let something pass that cannot be sent.
    pub(super) fn request_for(
        self,
        member: &Member,
        dialect: &dyn Dialect,
    ) -> Option<Request<Pieces>> {
        let base_url = &member.base_url;
        let mut target = dialect.upstream_path(self.protocol, base_url.path(), self.path);
        if let Some(query) = self.query {
            target.push('?');
            target.push_str(query);
        }
        let mut headers = self.headers;
        let (name, value) = dialect.credential(self.protocol, member.key.secret().expose())?;
        headers.insert(name, value);
        headers.insert(HOST, HeaderValue::from_str(base_url.authority()).ok()?);
        if *self.method == Method::POST && http_body::Body::size_hint(&self.body).exact() == Some(0)
        {
            headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
        }
        let mut request = Request::new(self.body);
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = target.parse().ok()?;
        *request.headers_mut() = headers;
        Some(request)
    }
}
