//! The heads of requests and answers (RFC 9112 §2 to §6).

use std::cell::RefCell;
use std::mem::MaybeUninit;

use bytes::{BufMut, Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, Version};

use super::framing::{Framing, MAX_HEADERS};
use super::{ConnectionError, UpstreamRequest};

/// A head without long values is no longer.
const USUAL_HEAD: usize = 1024;
/// What every answer begins with.
const BEGINNING: &[u8] = b"HTTP/1.";

thread_local! {
    static NAMES: RefCell<Names> = const { RefCell::new(Names([const { None }; Names::MOST])) };
}

/// Names that headers had lately: the same ones come with every answer, and to make one anew costs more than all
/// else of its header.
struct Names([Option<HeaderName>; Names::MOST]);

/// The head of a final answer, and what follows from it.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) response: Response<()>,
    pub(super) framing: Framing,
    /// Another request may follow when the body has ended.
    pub(super) keeps_alive: bool,
}

/// The head of a request. Room for `room` bytes more is left behind it.
pub(super) fn written(request: &UpstreamRequest<'_>, room: usize) -> BytesMut {
    let mut out = BytesMut::with_capacity(USUAL_HEAD + room);
    put(&mut out, [request.method().as_str(), " "]);
    put(&mut out, request.address());
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

/// Where the head in `read` ends, if it does, of which the first `searched` bytes have no end in them.
pub(super) fn end(read: &[u8], searched: usize) -> Option<usize> {
    // The end of a transport may have come already.
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

/// Whether there is anything of an answer in `read`; fails where it is none, as far as one can see.
pub(super) fn may_begin(read: &[u8]) -> Result<bool, ConnectionError> {
    let length = read.len().min(BEGINNING.len());
    if read[..length] != BEGINNING[..length] {
        return Err(ConnectionError::Malformed("no HTTP/1 at all"));
    }
    Ok(length > 0)
}

/// Reads a whole head. `None`: the final one is still to come. `is_to_head`: the request was a HEAD.
pub(super) fn parse(head: &Bytes, is_to_head: bool) -> Result<Option<Head>, ConnectionError> {
    let mut room = [const { MaybeUninit::uninit() }; MAX_HEADERS];
    let mut parsed = httparse::Response::new(&mut []);
    let status = httparse::ParserConfig::default()
        .parse_response_with_uninit_headers(&mut parsed, head, &mut room)
        .map_err(malformed)?;
    let (true, Some(code), Some(minor)) = (status.is_complete(), parsed.code, parsed.version)
    else {
        return Err(ConnectionError::Malformed("a head that ends too early"));
    };
    let code = StatusCode::from_u16(code)
        .map_err(|_| ConnectionError::Malformed("a status out of range"))?;
    if code.is_informational() {
        return match code {
            StatusCode::SWITCHING_PROTOCOLS => {
                Err(ConnectionError::Malformed("it changes to another protocol"))
            }
            _ => Ok(None),
        };
    }
    let headers = NAMES.with_borrow_mut(|names| headers(head, parsed.headers, names));
    let headers = headers.ok_or(ConnectionError::Malformed("a header that is none"))?;
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

fn headers(head: &Bytes, parsed: &[httparse::Header<'_>], names: &mut Names) -> Option<HeaderMap> {
    let mut headers = HeaderMap::with_capacity(parsed.len());
    for header in parsed {
        let name = names.get(header.name.as_bytes())?;
        let value = HeaderValue::from_maybe_shared(head.slice_ref(header.value));
        headers.append(name, value.ok()?);
    }
    Some(headers)
}

impl Names {
    const MOST: usize = 128;
    /// Longer names are not kept.
    const LONGEST: usize = 64;

    /// `None`: it is no name.
    fn get(&mut self, name: &[u8]) -> Option<HeaderName> {
        let (middle, last) = (*name.get(name.len() / 2)?, *name.last()?);
        let destination =
            usize::from(middle | 0x20) * 31 + usize::from(last | 0x20) * 7 + name.len();
        let known = &mut self.0[destination % Self::MOST];
        if let Some(known) = known
            && known.as_str().as_bytes().eq_ignore_ascii_case(name)
        {
            return Some(known.clone());
        }
        let new = HeaderName::from_bytes(name).ok()?;
        if name.len() <= Self::LONGEST {
            *known = Some(new.clone());
        }
        Some(new)
    }
}

fn malformed(error: httparse::Error) -> ConnectionError {
    ConnectionError::Malformed(match error {
        httparse::Error::TooManyHeaders => "more than 256 headers",
        httparse::Error::Version => "another version of HTTP",
        httparse::Error::Status => "a bad status",
        _ => "a bad header",
    })
}

/// RFC 9112 §6.3.
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
            // RFC 9112 §6.1: nobody knows where such a body ends.
            return Err(ConnectionError::Malformed("chunks in HTTP/1.0"));
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
                return Err(ConnectionError::Malformed("a bad Content-Length"));
            }
            length = part;
        }
    }
    Ok(length.map_or(Framing::UntilClose, Framing::Length))
}

/// A number in decimal digits, and nothing else.
fn number(text: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(text).ok()?;
    text.bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| text.parse().ok())?
}

/// RFC 9112 §9.3; and after an answer with chunks and a length nobody knows who believes which (§6.1).
fn keeps_alive(response: &Response<()>) -> bool {
    let headers = response.headers();
    if headers.contains_key(TRANSFER_ENCODING) && headers.contains_key(CONTENT_LENGTH) {
        return false;
    }
    let says = |word: &[u8]| {
        let values = headers.get_all(CONNECTION).iter();
        let mut words = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
        words.any(|found| found.trim_ascii().eq_ignore_ascii_case(word))
    };
    if response.version() == Version::HTTP_11 {
        !says(b"close")
    } else {
        says(b"keep-alive") && !says(b"close")
    }
}
