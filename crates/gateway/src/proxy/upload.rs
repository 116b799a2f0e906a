//! Gemini's uploads in several steps: the first answer names the address for the later ones, which must lead through
//! this gateway, to the account that began the upload.
//!
//! Google's clients send no credential to that address: who has it may go on with the upload, and nothing else. It is
//! the same here.

use std::sync::Arc;

use http::header::HOST;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method};
use keypool_providers::protocol::{self, Protocol};

use super::call::Call;
use super::target::Target;
use crate::context::Gateway;

/// Where Google's answer names the next address; the second one takes commands alone.
const ADDRESSES: [&str; 2] = ["x-goog-upload-url", "x-goog-upload-control-url"];
/// A shorter id could be guessed, and does not tell who calls. Google's are several times as long.
const MIN_SECRET: usize = 32;

/// Makes the addresses for the next steps lead to where the client sent this one. Plain HTTP is all that is served here;
/// what a proxy in front speaks is not known.
pub(super) fn point_here(call: &Call<'_>, headers: &mut HeaderMap) {
    if call.protocol != Protocol::Gemini {
        return;
    }
    let host = call.uri.authority().map(http::uri::Authority::as_str);
    let host = host.or_else(|| call.headers.get(HOST)?.to_str().ok());
    for name in ADDRESSES {
        let Some(address) = headers.get_mut(name) else {
            continue;
        };
        let query = address.to_str().ok().and_then(|text| text.split_once('?'));
        let query = query.map(|(_, query)| query);
        let (Some(host), Some(query)) = (host, query.filter(|query| names_upload(query))) else {
            continue;
        };
        let path = call.uri.path();
        let here = format!("http://{host}{path}?{}", protocol::without_key(query));
        if let Ok(here) = HeaderValue::try_from(here) {
            *address = here;
        }
    }
}

fn names_upload(query: &str) -> bool {
    protocol::upload_id(query).is_some()
}

/// The name of the virtual key that began the upload which a request without a credential goes on with.
pub(super) fn maker(gw: &Gateway, target: &Target<'_>, parts: &Parts) -> Option<Arc<str>> {
    let goes_on = target.protocol == Protocol::Gemini
        && target.path.starts_with("/upload/")
        && matches!(parts.method, Method::POST | Method::PUT);
    let id = protocol::upload_id(parts.uri.query().filter(|_| goes_on)?)?;
    let secret = id.strip_prefix("upload_id=")?;
    if secret.len() < MIN_SECRET {
        return None;
    }
    gw.objects.maker(&id)?
}
