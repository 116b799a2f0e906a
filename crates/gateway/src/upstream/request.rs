//! A request to a provider, independent of the HTTP version that carries it.

use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version};
use http_body::Body;

use super::RequestBody;

/// One request. It borrows its headers: most were read from the client's request or built with the configuration.
pub(crate) struct UpstreamRequest<'a> {
    method: &'a Method,
    /// Path and query.
    path_and_query: String,
    host: &'a HeaderValue,
    /// Without `Host` and the headers that delimit the body. A name may occur more than once.
    headers: Vec<(&'a HeaderName, &'a HeaderValue)>,
    body: RequestBody,
    /// Set if a proxy receives the request itself instead of tunnelling it.
    for_proxy: Option<ForProxy<'a>>,
}

/// What a forwarding proxy needs in addition.
struct ForProxy<'a> {
    /// The provider's host and port.
    authority: &'a str,
    /// `Proxy-Authorization`.
    credentials: Option<HeaderValue>,
}

impl<'a> UpstreamRequest<'a> {
    /// `None`: the path and query are not valid in a request.
    pub(crate) fn new(
        method: &'a Method,
        path_and_query: String,
        host: &'a HeaderValue,
        headers: Vec<(&'a HeaderName, &'a HeaderValue)>,
        body: RequestBody,
    ) -> Option<Self> {
        // Spaces and control characters would end the path or the request line.
        let is_one_word = path_and_query
            .bytes()
            .all(|byte| byte > b' ' && byte != 0x7f);
        (is_one_word && path_and_query.starts_with('/')).then_some(Self {
            method,
            path_and_query,
            host,
            headers,
            body,
            for_proxy: None,
        })
    }

    /// The request in the form for a proxy that forwards it to an http provider at `authority`.
    pub(super) fn for_proxy(self, authority: &'a str, credentials: Option<HeaderValue>) -> Self {
        Self {
            for_proxy: Some(ForProxy {
                authority,
                credentials,
            }),
            ..self
        }
    }

    pub(super) fn method(&self) -> &Method {
        self.method
    }

    /// The body's length in bytes; `None` if the request does not state one.
    pub(super) fn length(&self) -> Option<u64> {
        let length = self.body.size_hint().exact().unwrap_or_default();
        // RFC 9110 §8.6: methods that usually have content state a length of 0 too.
        let is_usual = [Method::POST, Method::PUT, Method::PATCH].contains(self.method);
        (length > 0 || is_usual).then_some(length)
    }

    /// The request target of HTTP/1.1, in pieces: a forwarding proxy gets the absolute URL.
    pub(super) fn path_and_query(&self) -> [&str; 3] {
        match &self.for_proxy {
            Some(proxy) => ["http://", proxy.authority, &self.path_and_query],
            None => ["", "", &self.path_and_query],
        }
    }

    /// All headers except `Content-Length`; `Host` comes first, as RFC 9110 §7.2 recommends.
    pub(super) fn headers(&self) -> impl Iterator<Item = (&str, &HeaderValue)> {
        let for_proxy = self.for_proxy.as_ref();
        let credentials = for_proxy.and_then(|proxy| proxy.credentials.as_ref());
        let headers = self.headers.iter();
        std::iter::once(("host", self.host))
            .chain(headers.map(|(name, value)| (name.as_str(), *value)))
            .chain(credentials.map(|value| ("proxy-authorization", value)))
    }

    /// The body's pieces in order.
    pub(super) fn into_pieces(self) -> impl Iterator<Item = Bytes> {
        self.body.in_order()
    }

    /// The request for HTTP/2, where `:scheme` and `:authority` replace `Host`. `None`: path and query are not valid in
    /// HTTP/2.
    pub(super) fn into_http2(self, authority: &Authority) -> Option<Request<RequestBody>> {
        let length = self.length();
        let mut uri = http::uri::Parts::default();
        uri.scheme = Some(Scheme::HTTPS);
        uri.authority = Some(authority.clone());
        uri.path_and_query = Some(PathAndQuery::try_from(self.path_and_query).ok()?);
        let mut headers = HeaderMap::with_capacity(self.headers.len() + 1);
        for (name, value) in self.headers {
            headers.append(name, value.clone());
        }
        if let Some(length) = length {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
        }
        let mut request = Request::new(self.body);
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = Uri::from_parts(uri).ok()?;
        *request.version_mut() = Version::HTTP_2;
        *request.headers_mut() = headers;
        Some(request)
    }
}
