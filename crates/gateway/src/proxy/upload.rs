//! Gemini's uploads in several steps: the first answer names the address for the later ones, which must lead through
//! this gateway, to the account that began the upload.
//!
//! Google's clients send no credential to that address: who has it may go on with the upload, and nothing else. It is
//! the same here.

use std::sync::Arc;

use http::header::HOST;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Uri};
use keypool_providers::protocol::{self, Protocol};

use crate::context::Gateway;

/// Where Google's answer names the next address; the second one takes commands alone.
const ADDRESSES: [&str; 2] = ["x-goog-upload-url", "x-goog-upload-control-url"];
/// A shorter id could be guessed, and does not tell who calls. Google's are several times as long.
const MIN_SECRET: usize = 32;

/// Makes the addresses for the next steps lead to where the client sent this one. Plain HTTP is all that is served here;
/// what a proxy in front speaks is not known.
pub(super) fn point_here(uri: &Uri, client: &HeaderMap, headers: &mut HeaderMap) {
    let host = uri.authority().map(http::uri::Authority::as_str);
    let host = host.or_else(|| client.get(HOST)?.to_str().ok());
    for name in ADDRESSES {
        let Some(address) = headers.get_mut(name) else {
            continue;
        };
        let query = address.to_str().ok().and_then(|text| text.split_once('?'));
        let query = query.map(|(_, query)| query);
        let (Some(host), Some(query)) = (host, query.filter(|query| names_upload(query))) else {
            continue;
        };
        let path = uri.path();
        let here = format!("http://{host}{path}?{}", protocol::without_key(query));
        if let Ok(here) = HeaderValue::try_from(here) {
            *address = here;
        }
    }
}

/// The upload that a request goes on with; its body is a piece of a file.
pub(super) fn goes_on_with(protocol: Protocol, path: &str, query: Option<&str>) -> Option<String> {
    let is_upload = protocol == Protocol::Gemini && path.starts_with("/upload/");
    protocol::upload_id(query.filter(|_| is_upload)?)
}

fn names_upload(query: &str) -> bool {
    protocol::upload_id(query).is_some()
}

/// The name of the virtual key that began the upload which a request without a credential goes on with.
pub(super) fn maker(
    gw: &Gateway,
    protocol: Protocol,
    path: &str,
    parts: &Parts,
) -> Option<Arc<str>> {
    let id = goes_on_with(protocol, path, parts.uri.query())?;
    if !matches!(parts.method, Method::POST | Method::PUT) {
        return None;
    }
    let secret = id.strip_prefix("upload_id=")?;
    if secret.len() < MIN_SECRET {
        return None;
    }
    gw.objects.maker(&id)?
}
