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
/// What a step of an upload is to do, and how far the upload is then.
const COMMAND: &str = "x-goog-upload-command";
const STATUS: &str = "x-goog-upload-status";
/// What the address alone is good for; a new upload is not among it.
const STEPS: [&str; 4] = ["upload", "finalize", "query", "cancel"];
/// The longest path of an upload whose address is a credential. Google's are much shorter.
const MAX_PATH: usize = 256;
/// A shorter id could be guessed, and does not finish who calls. Google's are several times as long.
const MIN_SECRET: usize = 32;

/// Makes the addresses for the next steps lead to where the client sent this one. Plain HTTP is all that is served here;
/// what a proxy in front speaks is not known. Others are taken away: they would lead past the gateway, and may have a
/// provider's key in them.
pub(super) fn point_here(uri: &Uri, client: &HeaderMap, headers: &mut HeaderMap) {
    let host = uri.authority().map(http::uri::Authority::as_str);
    let host = host.or_else(|| client.get(HOST)?.to_str().ok());
    let here = |address: &HeaderValue| {
        let (_, query) = address.to_str().ok()?.split_once('?')?;
        protocol::upload_id(query)?;
        let (host, path) = (host?, uri.path());
        let here = format!("http://{host}{path}?{}", protocol::without_key(query));
        HeaderValue::try_from(here).ok()
    };
    for name in ADDRESSES {
        let addresses = headers.get_all(name).iter();
        let addresses: Vec<HeaderValue> = addresses.filter_map(here).collect();
        headers.remove(name);
        for address in addresses {
            headers.append(name, address);
        }
    }
}

/// The upload that a request goes on with; its body is a piece of a file.
pub(super) fn goes_on_with(protocol: Protocol, path: &str, query: Option<&str>) -> Option<String> {
    let is_upload = protocol == Protocol::Gemini && path.starts_with("/upload/");
    protocol::upload_id(query.filter(|_| is_upload)?)
}

/// Whether an answer says that the upload has come to its end.
pub(super) fn is_over(headers: &HeaderMap) -> bool {
    let is_end = |word: &[u8]| {
        let mut ends = [&b"final"[..], b"cancelled"].into_iter();
        ends.any(|end| word.eq_ignore_ascii_case(end))
    };
    let mut all = headers.get_all(STATUS).iter();
    all.any(|status| is_end(status.as_bytes().trim_ascii()))
}

/// Under what name it is remembered that the upload `id` may be gone on with at `path` without a credential.
/// It is forgotten when the upload ends; the upload's id is not.
pub(super) fn door(path: &str, id: &str) -> Option<String> {
    (path.len() <= MAX_PATH).then(|| format!("{path}?{id}"))
}

/// Under what name it is remembered that nothing was done yet that may have ended the upload `id`.
pub(super) fn unfinished(id: &str) -> String {
    format!("unfinished {id}")
}

/// Whether the request says what it does to an upload, and surely does not end it.
pub(super) fn only_goes_on(headers: &HeaderMap) -> bool {
    asks_only_for(headers, &["upload", "query"])
}

/// Whether the request asks for at least one of these commands, and for no other.
fn asks_only_for(headers: &HeaderMap, commands: &[&str]) -> bool {
    let is_known = |command: &str| {
        let mut known = commands.iter();
        known.any(|known| command.trim().eq_ignore_ascii_case(known))
    };
    let mut commands = headers.get_all(COMMAND).iter();
    headers.contains_key(COMMAND)
        && commands.all(|all| all.to_str().is_ok_and(|all| all.split(',').all(is_known)))
}

/// The name of the virtual key that began the upload which a request without a credential goes on with.
pub(super) fn maker(
    gw: &Gateway,
    protocol: Protocol,
    path: &str,
    parts: &Parts,
) -> Option<Arc<str>> {
    let id = goes_on_with(protocol, path, parts.uri.query())?;
    if !matches!(parts.method, Method::POST | Method::PUT) || !asks_only_for(&parts.headers, &STEPS)
    {
        return None;
    }
    let secret = id.strip_prefix("upload_id=")?;
    if secret.len() < MIN_SECRET {
        return None;
    }
    gw.objects.maker(&door(path, &id)?)?
}
