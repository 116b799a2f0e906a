//! A call and its response as they are stored with their job, without their bodies.

use std::net::IpAddr;

use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri};
use serde::{Deserialize, Serialize};

/// The head of a request, without credentials.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct StoredCall {
    method: String,
    /// Path and query.
    target: String,
    /// Names and values, in order. Each character of a value is one byte.
    headers: Vec<(String, String)>,
    /// Where it came from.
    pub(crate) address: IpAddr,
    /// The model that it named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) model: Option<String>,
}

impl StoredCall {
    /// A call of this method, target and headers, which hold no credential.
    pub(crate) fn new(
        (method, target): (&Method, String),
        headers: &HeaderMap,
        address: IpAddr,
        model: Option<&str>,
    ) -> Self {
        Self {
            method: method.as_str().to_owned(),
            target,
            headers: to_text(headers),
            address,
            model: model.map(str::to_owned),
        }
    }

    /// Its JSON.
    pub(crate) fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// The call of this JSON; `None` if keypool did not write it.
    pub(crate) fn from_json(json: &str) -> Option<Self> {
        serde_json::from_str(json).ok()
    }

    /// The method, and the path without its query.
    pub(crate) fn method_and_path(&self) -> (&str, &str) {
        let path = self.target.split('?').next().unwrap_or_default();
        (&self.method, path)
    }

    /// The head of the request.
    pub(crate) fn parts(&self) -> Option<Parts> {
        let mut request = Request::new(());
        *request.method_mut() = Method::from_bytes(self.method.as_bytes()).ok()?;
        *request.uri_mut() = self.target.parse::<Uri>().ok()?;
        *request.headers_mut() = from_text(&self.headers);
        Some(request.into_parts().0)
    }
}

/// Status and headers of a response.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct ResponseHead {
    pub(crate) status: u16,
    /// Names and values, in order. Each character of a value is one byte.
    pub(crate) headers: Vec<(String, String)>,
}

impl ResponseHead {
    pub(crate) fn of(status: u16, headers: &HeaderMap) -> Self {
        Self {
            status,
            headers: to_text(headers),
        }
    }

    /// Its JSON.
    pub(crate) fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// The head of this JSON; `None` if keypool did not write it.
    pub(crate) fn from_json(json: &str) -> Option<Self> {
        serde_json::from_str(json).ok()
    }

    /// A response with this head.
    pub(crate) fn response(&self) -> Response<()> {
        let mut response = Response::new(());
        *response.status_mut() = StatusCode::from_u16(self.status).unwrap_or(StatusCode::OK);
        *response.headers_mut() = from_text(&self.headers);
        response
    }
}

fn to_text(headers: &HeaderMap) -> Vec<(String, String)> {
    let text = headers.iter().map(|(name, value)| {
        let value = value.as_bytes().iter().map(|byte| char::from(*byte));
        (name.as_str().to_owned(), value.collect())
    });
    text.collect()
}

fn from_text(text: &[(String, String)]) -> HeaderMap {
    let headers = text.iter().filter_map(|(name, value)| {
        let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
        let bytes: Option<Vec<u8>> = value.chars().map(|c| u8::try_from(c).ok()).collect();
        Some((name, HeaderValue::from_bytes(&bytes?).ok()?))
    });
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.append(name, value);
    }
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_the_same_after_it_was_stored() {
        let mut headers = HeaderMap::new();
        headers.append("x-a", HeaderValue::from_bytes(b"caf\xe9").unwrap());
        headers.append("x-a", HeaderValue::from_static("2"));
        let target = "/v1/chat/completions?x=%20y".to_owned();
        let address = IpAddr::from([192, 0, 2, 1]);
        let stored = StoredCall::new((&Method::POST, target), &headers, address, Some("m"));
        let json = stored.to_json();
        let read = StoredCall::from_json(&json).unwrap();
        assert_eq!(read.method_and_path(), ("POST", "/v1/chat/completions"));
        let parts = read.parts().unwrap();
        assert_eq!(parts.uri, "/v1/chat/completions?x=%20y");
        let values: Vec<_> = parts.headers.get_all("x-a").iter().collect();
        assert_eq!(values, [&b"caf\xe9"[..], b"2"]);
        assert_eq!(parts.headers.len(), 2);
    }
}
