//! The heads of requests and responses (RFC 9112 §2 to §6).

use std::cell::RefCell;
use std::mem::MaybeUninit;

use bytes::{BufMut, Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, Version};

use super::framing::{Framing, MAX_HEADERS};
use super::{ConnectionError, UpstreamRequest};

/// Initial capacity for a request head, in bytes: enough unless a value is long.
const HEAD_CAPACITY: usize = 1024;
/// Room for the headers that the gateway adds to a response, so that the map need not grow. Most are those of a caller's
/// limits.
const ADDED_HEADERS: usize = 9;
/// Number of header names that each thread caches.
const CACHED_NAMES: usize = 64;
/// Maximum length of a cached name, in bytes.
const MAX_CACHED_NAME: usize = 64;

thread_local! {
    /// Names of response headers, each in the bucket of its length, first and last byte. The same ones come with every
    /// response, and making a name that is not in the `http` crate's table allocates.
    static NAMES: RefCell<[Option<HeaderName>; CACHED_NAMES]> =
        const { RefCell::new([const { None }; CACHED_NAMES]) };
}

/// How every response begins.
const PREFIX: &[u8] = b"HTTP/1.";

/// The head of a final response, and what follows from it.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) response: Response<()>,
    pub(super) framing: Framing,
    /// Another request may follow once the body has ended.
    pub(super) keeps_alive: bool,
}

/// Encodes the head of a request, with capacity for `extra` more bytes after it.
pub(super) fn encode(request: &UpstreamRequest<'_>, extra: usize) -> BytesMut {
    let mut out = BytesMut::with_capacity(HEAD_CAPACITY + extra);
    put(&mut out, [request.method().as_str(), " "]);
    put(&mut out, request.path_and_query());
    put(&mut out, [" HTTP/1.1\r\n"]);
    for (name, value) in request.headers() {
        put(&mut out, [name, ": "]);
        out.put_slice(value.as_bytes());
        put(&mut out, ["\r\n"]);
    }
    if let Some(length) = request.length() {
        let mut digits = itoa::Buffer::new();
        put(
            &mut out,
            ["content-length: ", digits.format(length), "\r\n"],
        );
    }
    put(&mut out, ["\r\n"]);
    out
}

fn put<const N: usize>(out: &mut BytesMut, words: [&str; N]) {
    words.iter().for_each(|word| out.put_slice(word.as_bytes()));
}

/// Finds where the head in `read` ends. The first `searched` bytes are known not to contain the end.
pub(super) fn find_end(read: &[u8], searched: usize) -> Option<usize> {
    // The line break before the empty line may have arrived earlier.
    let from = searched.saturating_sub(2);
    let lines = memchr::memchr_iter(b'\n', &read[from..]).map(|at| from + at + 1);
    for next in lines {
        match read[next..] {
            [b'\n', ..] => return Some(next + 1),
            [b'\r', b'\n', ..] => return Some(next + 2),
            _ => {}
        }
    }
    None
}

/// Whether `read` contains any bytes of a response. Fails as soon as they cannot be the beginning of one.
pub(super) fn check_beginning(read: &[u8]) -> Result<bool, ConnectionError> {
    let length = read.len().min(PREFIX.len());
    if read[..length] != PREFIX[..length] {
        return Err(ConnectionError::Malformed("it does not begin with HTTP/1"));
    }
    Ok(length > 0)
}

/// Parses a complete head. `None`: it is an interim response, and the final one follows. `is_to_head`: the request was
/// a HEAD.
pub(super) fn parse(head: &Bytes, is_to_head: bool) -> Result<Option<Head>, ConnectionError> {
    let mut slots = [const { MaybeUninit::uninit() }; MAX_HEADERS];
    let mut parsed = httparse::Response::new(&mut []);
    let status = httparse::ParserConfig::default()
        .parse_response_with_uninit_headers(&mut parsed, head, &mut slots)
        .map_err(malformed)?;
    let (true, Some(code), Some(minor)) = (status.is_complete(), parsed.code, parsed.version)
    else {
        return Err(ConnectionError::Malformed("an incomplete head"));
    };
    let code = StatusCode::from_u16(code)
        .map_err(|_| ConnectionError::Malformed("a status out of range"))?;
    if code.is_informational() {
        return match code {
            StatusCode::SWITCHING_PROTOCOLS => Err(ConnectionError::Malformed(
                "it switches to another protocol",
            )),
            _ => Ok(None),
        };
    }
    let headers =
        headers(head, parsed.headers).ok_or(ConnectionError::Malformed("an invalid header"))?;
    let mut response = Response::new(());
    *response.status_mut() = code;
    *response.version_mut() = if minor == 0 {
        Version::HTTP_10
    } else {
        Version::HTTP_11
    };
    *response.headers_mut() = headers;
    Ok(Some(Head {
        framing: framing(&response, is_to_head)?,
        keeps_alive: keeps_alive(&response),
        response,
    }))
}

fn headers(head: &Bytes, parsed: &[httparse::Header<'_>]) -> Option<HeaderMap> {
    let mut headers = HeaderMap::with_capacity(parsed.len() + ADDED_HEADERS);
    for header in parsed {
        let name = header_name(header.name)?;
        let value = HeaderValue::from_maybe_shared(head.slice_ref(header.value));
        headers.append(name, value.ok()?);
    }
    Some(headers)
}

/// The name, from the thread's cache if it holds it.
fn header_name(name: &str) -> Option<HeaderName> {
    let bytes = name.as_bytes();
    if bytes.len() > MAX_CACHED_NAME {
        return HeaderName::from_bytes(bytes).ok();
    }
    let bucket = 7 * bytes.len() + 3 * usize::from(*bytes.first()?) + usize::from(*bytes.last()?);
    NAMES.with_borrow_mut(|names| {
        let cached = &mut names[bucket % CACHED_NAMES];
        if !cached.as_ref().is_some_and(|known| known == name) {
            *cached = Some(HeaderName::from_bytes(bytes).ok()?);
        }
        cached.clone()
    })
}

fn malformed(error: httparse::Error) -> ConnectionError {
    ConnectionError::Malformed(match error {
        httparse::Error::TooManyHeaders => "more than 256 headers",
        httparse::Error::Version => "a different version of HTTP",
        httparse::Error::Status => "an invalid status",
        _ => "an invalid header",
    })
}

/// How the body is delimited (RFC 9112 §6.3).
fn framing(response: &Response<()>, is_to_head: bool) -> Result<Framing, ConnectionError> {
    let headers = response.headers();
    let is_empty = matches!(
        response.status(),
        StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED
    );
    if is_to_head || is_empty {
        return Ok(Framing::Length(0));
    }
    if let Some(last) = headers.get_all(TRANSFER_ENCODING).iter().next_back() {
        if response.version() == Version::HTTP_10 {
            // RFC 9112 §6.1: the end of such a body is ambiguous.
            return Err(ConnectionError::Malformed("chunks in an HTTP/1.0 response"));
        }
        let last = last.as_bytes().rsplit(|byte| *byte == b',').next();
        let is_chunked =
            last.is_some_and(|last| last.trim_ascii().eq_ignore_ascii_case(b"chunked"));
        return Ok(if is_chunked {
            Framing::chunked()
        } else {
            Framing::UntilClose
        });
    }
    let mut length = None;
    for value in headers.get_all(CONTENT_LENGTH) {
        for part in value.as_bytes().split(|byte| *byte == b',') {
            let part = number(part.trim_ascii());
            if part.is_none() || length.is_some_and(|known| Some(known) != part) {
                return Err(ConnectionError::Malformed("an invalid Content-Length"));
            }
            length = part;
        }
    }
    Ok(length.map_or(Framing::UntilClose, Framing::Length))
}

/// Parses decimal digits and nothing else: no sign, no spaces.
fn number(text: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(text).ok()?;
    text.bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| text.parse().ok())?
}

/// Whether the connection persists (RFC 9112 §9.3). It does not after a response with both chunks and a length, because
/// intermediaries may disagree on which counts (§6.1).
fn keeps_alive(response: &Response<()>) -> bool {
    let headers = response.headers();
    if headers.contains_key(TRANSFER_ENCODING) && headers.contains_key(CONTENT_LENGTH) {
        return false;
    }
    let has_option = |option: &[u8]| {
        let values = headers.get_all(CONNECTION).iter();
        let mut words = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
        words.any(|found| found.trim_ascii().eq_ignore_ascii_case(option))
    };
    if response.version() == Version::HTTP_11 {
        !has_option(b"close")
    } else {
        has_option(b"keep-alive") && !has_option(b"close")
    }
}
