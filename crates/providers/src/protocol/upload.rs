//! Google's resumable uploads: a file sent in several requests. The response to the first names the address for the
//! next ones.
//!
//! Google's clients send no credential to that address. Possession of it allows continuing that one upload and nothing
//! else, and the gateway keeps to the same rule. So the address must lead through the gateway, to the account that
//! began the upload.
//!
//! Must never know a caller, a key or where anything is remembered.

use http::header::HOST;
use http::{HeaderMap, HeaderValue, Method, Uri};

use keypool_core::base_url::{BaseUrl, is_loopback};

use super::{Protocol, upload_id, without_key};

/// Response headers that name the next address. The second address takes commands only.
const ADDRESSES: [&str; 2] = ["x-goog-upload-url", "x-goog-upload-control-url"];
/// The request header that says what a step does to the upload.
const COMMAND: &str = "x-goog-upload-command";
/// The response header that says how far the upload is.
const STATUS: &str = "x-goog-upload-status";
/// Commands that the address alone permits. Starting a new upload is not one of them.
const STEP_COMMANDS: [&str; 4] = ["upload", "finalize", "query", "cancel"];
/// Commands that never complete an upload.
const OPEN_COMMANDS: [&str; 2] = ["upload", "query"];
/// Longest path of an upload whose address counts as a credential, in bytes. Google's are much shorter.
const MAX_PATH: usize = 256;
/// Shortest id that counts as a credential, in bytes. A shorter one could be guessed; Google's are several times as long.
const MIN_SECRET: usize = 32;

/// A request that continues an upload. Its body is a piece of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UploadStep {
    /// The upload's id as object tracking spells it: `upload_id=…`.
    pub id: String,
    /// Whether this step may complete the upload: its commands say so, or it does not say what it does.
    pub may_complete: bool,
    /// The grant that lets this step pass without a credential, if the address can serve as one.
    pub grant: Option<String>,
}

impl UploadStep {
    /// The step that a request takes; `None` if it continues no upload.
    pub fn of(
        protocol: Protocol,
        method: &Method,
        path: &str,
        query: Option<&str>,
        headers: &HeaderMap,
    ) -> Option<Self> {
        if protocol != Protocol::Gemini || !path.starts_with("/upload/") {
            return None;
        }
        let id = upload_id(query?)?;
        let is_secret = id
            .strip_prefix("upload_id=")
            .is_some_and(|secret| secret.len() >= MIN_SECRET);
        let may_pass = is_secret
            && matches!(*method, Method::POST | Method::PUT)
            && has_only_commands(headers, &STEP_COMMANDS);
        Some(Self {
            may_complete: !has_only_commands(headers, &OPEN_COMMANDS),
            grant: grant(path, &id).filter(|_| may_pass),
            id,
        })
    }
}

/// The name under which it is remembered that the upload `id` may be continued at `path` without a credential. `None`
/// for a path that is too long to be Google's. It is forgotten when the upload ends; the upload's id is not.
pub fn grant(path: &str, id: &str) -> Option<String> {
    (path.len() <= MAX_PATH).then(|| format!("{path}?{id}"))
}

/// The name under which it is remembered that no step so far may have completed the upload `id`.
pub fn unfinished_id(id: &str) -> String {
    format!("unfinished {id}")
}

/// Whether a response says that its upload has ended.
pub fn has_ended(headers: &HeaderMap) -> bool {
    let is_end = |word: &[u8]| {
        word.eq_ignore_ascii_case(b"final") || word.eq_ignore_ascii_case(b"cancelled")
    };
    let mut all = headers.get_all(STATUS).iter();
    all.any(|status| is_end(status.as_bytes().trim_ascii()))
}

/// Rewrites the addresses for the next steps in `response` to `public_url`, or else to the host that the client called
/// (`client_uri`, `client`). Addresses that cannot be rewritten are removed: they would lead past the gateway, and may
/// contain a provider's key.
pub fn rewrite_addresses(
    client_uri: &Uri,
    client: &HeaderMap,
    public_url: Option<&BaseUrl>,
    response: &mut HeaderMap,
) {
    if !ADDRESSES.iter().any(|name| response.contains_key(*name)) {
        return;
    }
    let base = match public_url {
        Some(url) => Some(url.to_string()),
        None => called_base(client_uri, client),
    };
    let rewritten = |address: &HeaderValue| {
        let (_, query) = address.to_str().ok()?.split_once('?')?;
        upload_id(query)?;
        let (base, path) = (base.as_deref()?, client_uri.path());
        let here = format!("{base}{path}?{}", without_key(query));
        HeaderValue::try_from(here).ok()
    };
    for name in ADDRESSES {
        let addresses = response.get_all(name).iter();
        let addresses: Vec<HeaderValue> = addresses.filter_map(rewritten).collect();
        response.remove(name);
        for address in addresses {
            response.append(name, address);
        }
    }
}

/// Whether the request names at least one of these commands, and no other.
fn has_only_commands(headers: &HeaderMap, commands: &[&str]) -> bool {
    let is_known = |command: &str| {
        let mut known = commands.iter();
        known.any(|known| command.trim().eq_ignore_ascii_case(known))
    };
    let mut commands = headers.get_all(COMMAND).iter();
    headers.contains_key(COMMAND)
        && commands.all(|all| all.to_str().is_ok_and(|all| all.split(',').all(is_known)))
}

/// The address of the gateway as the client wrote it. Only a loopback host is called by plain HTTP: elsewhere, a proxy in
/// front speaks HTTPS, and the address is a credential that nobody on the way may read.
fn called_base(uri: &Uri, headers: &HeaderMap) -> Option<String> {
    let host = uri.authority().map(http::uri::Authority::as_str);
    let host = host.or_else(|| headers.get(HOST)?.to_str().ok())?;
    let scheme = match is_loopback(host) {
        true => "http",
        false => "https",
    };
    Some(format!("{scheme}://{host}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: &str = "upload_id=0123456789abcdef0123456789abcdef";

    fn step(method: Method, query: &str, command: Option<&'static str>) -> Option<UploadStep> {
        let mut headers = HeaderMap::new();
        if let Some(command) = command {
            headers.insert(COMMAND, HeaderValue::from_static(command));
        }
        let path = "/upload/v1beta/files";
        UploadStep::of(Protocol::Gemini, &method, path, Some(query), &headers)
    }

    #[test]
    fn a_step_passes_by_its_address_only_for_its_own_commands() {
        for (method, query, command, passes, may_complete) in [
            (Method::POST, LONG, Some("upload"), true, false),
            (Method::PUT, LONG, Some("upload, finalize"), true, true),
            (Method::POST, LONG, Some("query"), true, false),
            (Method::POST, LONG, Some("start"), false, true),
            (Method::POST, LONG, None, false, true),
            (Method::GET, LONG, Some("query"), false, false),
            (
                Method::POST,
                "upload_id=short",
                Some("upload"),
                false,
                false,
            ),
        ] {
            let step = step(method.clone(), query, command).unwrap();
            assert_eq!(step.grant.is_some(), passes, "{method} {query} {command:?}");
            assert_eq!(step.may_complete, may_complete, "{method} {command:?}");
        }
        assert_eq!(step(Method::POST, "x=1", Some("upload")), None);
    }

    #[test]
    fn the_next_address_is_public_and_plain_http_only_for_loopback() {
        let next = |host: &str, public_url: Option<&str>| {
            let (mut client, mut response) = (HeaderMap::new(), HeaderMap::new());
            client.insert(HOST, host.parse().unwrap());
            let theirs = "https://google.example/upload/v1beta/files?upload_id=U&key=secret";
            response.insert(ADDRESSES[0], HeaderValue::from_static(theirs));
            let uri = Uri::from_static("/p/upload/v1beta/files?key=virtual");
            let public_url = public_url.map(|url| url.parse().unwrap());
            rewrite_addresses(&uri, &client, public_url.as_ref(), &mut response);
            response[ADDRESSES[0]].to_str().unwrap().to_owned()
        };
        for (host, public_url, base) in [
            ("localhost:8080", None, "http://localhost:8080"),
            ("127.0.0.1:1", None, "http://127.0.0.1:1"),
            ("127.9.9.9", None, "http://127.9.9.9"),
            ("[::1]:8080", None, "http://[::1]:8080"),
            ("llm.example.com", None, "https://llm.example.com"),
            ("10.0.0.5:8080", None, "https://10.0.0.5:8080"),
            (
                "localhost.example.com",
                None,
                "https://localhost.example.com",
            ),
            (
                "127.0.0.1.example.com",
                None,
                "https://127.0.0.1.example.com",
            ),
            (
                "10.0.0.5",
                Some("https://llm.example.com/x/"),
                "https://llm.example.com/x",
            ),
            (
                "localhost",
                Some("https://llm.example.com"),
                "https://llm.example.com",
            ),
        ] {
            let expect = format!("{base}/p/upload/v1beta/files?upload_id=U");
            assert_eq!(next(host, public_url), expect, "{host} {public_url:?}");
        }
    }

    #[test]
    fn an_ended_upload_is_recognized() {
        for (status, ended) in [("final", true), (" Cancelled", true), ("active", false)] {
            let mut headers = HeaderMap::new();
            headers.insert(STATUS, HeaderValue::from_str(status).unwrap());
            assert_eq!(has_ended(&headers), ended, "{status}");
        }
    }
}
