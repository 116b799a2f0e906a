//! Where the body of a response ends (RFC 9112 §6 and §7.1).

use bytes::{Buf, Bytes};

use super::ConnectionError;

/// Maximum number of headers of a response, and of trailers after its last chunk.
pub(super) const MAX_HEADERS: usize = 256;
/// Maximum number of bytes of chunk extensions and trailers in one response. They are read and dropped.
const MAX_DROPPED: usize = 64 * 1024;
const MALFORMED: ConnectionError = ConnectionError::Malformed(
    "a chunk with a bad beginning or end, or more than 64 KiB between chunks",
);

/// How a body is delimited, and how much of it is left.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// This many bytes are left.
    Length(u64),
    /// In chunks, the last of which is empty.
    Chunked(Chunks),
    /// Everything until the connection is closed.
    UntilClose,
}

/// The position in a chunked body. Only CR LF ends a line: a parser that accepts a lone LF and one that does not would
/// see two different bodies.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Chunks {
    state: State,
    /// Number of bytes of chunk extensions and trailers read.
    dropped: usize,
    /// The headers after the last chunk. They are not passed on; they are checked because valid headers confirm that the
    /// chunks were read as intended.
    trailers: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// In a chunk size: the value so far; `None` before the first digit.
    Size(Option<u64>),
    /// In blanks after a size, before extensions or the end of the line.
    Blank(u64),
    /// In extensions, which are dropped.
    Extension(u64),
    /// At the LF after a size.
    SizeEnd(u64),
    /// In a chunk's data, of which this many bytes are left.
    Data(u64),
    /// At the CR after the data.
    DataCr,
    /// At the LF after the data.
    DataLf,
    /// At the beginning of a line after the last chunk.
    Trailer,
    /// Within such a line.
    InTrailer,
    /// At the LF of such a line.
    TrailerLf,
    /// At the LF of the final empty line.
    EndLf,
    End,
}

impl Framing {
    /// A chunked body, before its first byte.
    pub(super) fn chunked() -> Self {
        Self::Chunked(Chunks {
            state: State::Size(None),
            dropped: 0,
            trailers: Vec::new(),
        })
    }

    /// Whether the whole body has been taken.
    pub(super) fn is_done(&self) -> bool {
        match self {
            Self::Length(left) => *left == 0,
            Self::Chunked(chunks) => chunks.state == State::End,
            Self::UntilClose => false,
        }
    }

    /// Takes the next bytes of the body from `input`. `None`: more must be read, unless the body is done. Delimiters
    /// after the bytes are consumed too, so that the end is recognized together with the last bytes.
    pub(super) fn take(&mut self, input: &mut Bytes) -> Result<Option<Bytes>, ConnectionError> {
        match self {
            Self::Length(left) => Ok(split(input, left)),
            Self::UntilClose => Ok(Some(std::mem::take(input)).filter(|all| !all.is_empty())),
            Self::Chunked(chunks) => {
                chunks.skip(input)?;
                let State::Data(left) = &mut chunks.state else {
                    return Ok(None);
                };
                let taken = split(input, left);
                // An error after these bytes is found again at the next call.
                let _ = chunks.skip(input);
                Ok(taken)
            }
        }
    }
}

impl Chunks {
    /// Consumes everything up to the next data.
    fn skip(&mut self, input: &mut Bytes) -> Result<(), ConnectionError> {
        if self.state == State::Data(0) {
            self.state = State::DataCr;
            self.skip_plain(input);
        }
        while let Some(&byte) = input.first()
            && !matches!(self.state, State::Data(_) | State::End)
        {
            self.state = self.step(byte).ok_or(MALFORMED)?;
            input.advance(1);
        }
        Ok(())
    }

    /// The usual case in one step: the end of a chunk's data and the size of a chunk that is not empty are here, without
    /// blanks or extensions. Takes a fifth of the time.
    fn skip_plain(&mut self, input: &mut Bytes) {
        let Some(line) = input.strip_prefix(b"\r\n") else {
            return;
        };
        let digits = line
            .iter()
            .take(8)
            .take_while(|byte| byte.is_ascii_hexdigit());
        let size = digits.clone().fold(0, |size, digit| {
            size * 16 + u64::from(char::from(*digit).to_digit(16).unwrap_or_default())
        });
        let length = digits.count();
        if size > 0 && line[length..].starts_with(b"\r\n") {
            self.state = State::Data(size);
            input.advance(2 + length + 2);
        }
    }

    /// The state after `byte`; `None` if it is not allowed here.
    fn step(&mut self, byte: u8) -> Option<State> {
        Some(match (self.state, byte) {
            (State::Size(size), _) if byte.is_ascii_hexdigit() => {
                State::Size(Some(push_digit(size, byte)?))
            }
            (State::Size(Some(size)) | State::Blank(size) | State::Extension(size), b'\r') => {
                State::SizeEnd(size)
            }
            (State::SizeEnd(0), b'\n') => State::Trailer,
            (State::SizeEnd(size), b'\n') => State::Data(size),
            (State::DataCr, b'\r') => State::DataLf,
            (State::DataLf, b'\n') => State::Size(None),
            (State::Size(Some(size)) | State::Blank(size), b';') => State::Extension(size),
            (State::Size(Some(size)) | State::Blank(size), b' ' | b'\t') => {
                self.dropped(State::Blank(size))?
            }
            (State::Extension(size), _) if byte != b'\n' => self.dropped(State::Extension(size))?,
            (State::Trailer, b'\r') => State::EndLf,
            (State::InTrailer, b'\r') => self.trailer(byte, State::TrailerLf)?,
            (State::TrailerLf, b'\n') => self.trailer(byte, State::Trailer)?,
            (State::Trailer | State::InTrailer, _) if byte != b'\n' => {
                self.trailer(byte, State::InTrailer)?
            }
            (State::EndLf, b'\n') if self.has_valid_trailers() => State::End,
            _ => return None,
        })
    }

    fn trailer(&mut self, byte: u8, next: State) -> Option<State> {
        self.trailers.push(byte);
        self.dropped(next)
    }

    /// Counts a byte that is not passed on.
    fn dropped(&mut self, next: State) -> Option<State> {
        self.dropped += 1;
        (self.dropped <= MAX_DROPPED).then_some(next)
    }

    fn has_valid_trailers(&self) -> bool {
        if self.trailers.is_empty() {
            return true;
        }
        let whole = [&self.trailers, &b"\r\n"[..]].concat();
        let mut slots = [httparse::EMPTY_HEADER; MAX_HEADERS];
        httparse::parse_headers(&whole, &mut slots).is_ok_and(|found| found.is_complete())
    }
}

/// Appends one hexadecimal digit to a size; `None` beyond 2^64.
fn push_digit(size: Option<u64>, digit: u8) -> Option<u64> {
    let digit = char::from(digit).to_digit(16)?;
    Some(size.unwrap_or_default().checked_mul(16)? + u64::from(digit))
}

/// Splits off up to `left` bytes; `None` if `input` is empty.
fn split(input: &mut Bytes, left: &mut u64) -> Option<Bytes> {
    let length = usize::try_from(*left).map_or(input.len(), |left| left.min(input.len()));
    *left -= length as u64;
    (length > 0).then(|| input.split_to(length))
}
