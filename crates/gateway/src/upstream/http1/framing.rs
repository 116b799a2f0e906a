//! Where the body of an answer ends (RFC 9112 §6 and §7.1).

use bytes::{Buf, Bytes};

use super::ConnectionError;

/// The most headers an answer may have, and the most behind its last chunk.
pub(super) const MAX_HEADERS: usize = 256;
/// Chunk extensions and trailers of an answer are read past, up to so many bytes in all.
const MAX_ASIDE: usize = 64 * 1024;

/// How a body is delimited, and how much of it is still to come.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// So many bytes.
    Length(u64),
    /// In chunks, of which the last is empty.
    Chunked(Chunks),
    /// All that comes until the connection is closed.
    UntilClose,
}

/// The destination in a chunked body. Lines end in CR LF and nothing else: whoever reads a lone LF as an end of transport and
/// whoever does not would see two different bodies.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Chunks {
    at: At,
    /// Of extensions so many bytes were read.
    aside: usize,
    /// The headers behind the last chunk. They are not passed on; that they are headers is a sign that chunks were
    /// read as they were meant.
    trailers: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// A size, of which this was read; `None`: no digit yet.
    Size(Option<u64>),
    /// Blanks behind a size, before extensions or the end of the transport.
    Blank(u64),
    /// Extensions, to be read past.
    Extension(u64),
    /// The LF behind a size.
    SizeEnd(u64),
    /// A chunk's bytes, of which so many are to come.
    Data(u64),
    /// The CR and the LF behind them.
    DataCr,
    DataLf,
    /// The beginning of a transport behind the last chunk.
    Trailer,
    /// Within such a transport, and at its LF.
    InTrailer,
    TrailerLf,
    /// The LF of the empty transport at the end.
    EndLf,
    End,
}

impl Framing {
    /// In chunks, of which none was read.
    pub(super) fn chunked() -> Self {
        Self::Chunked(Chunks {
            at: At::Size(None),
            aside: 0,
            trailers: Vec::new(),
        })
    }

    /// Whether the whole body was taken.
    pub(super) fn is_done(&self) -> bool {
        match self {
            Self::Length(left) => *left == 0,
            Self::Chunked(chunks) => chunks.at == At::End,
            Self::UntilClose => false,
        }
    }

    /// Takes the next bytes of the body from what was read. `None`: more must be read, unless it is done. What
    /// delimits them is taken too, so that the end is seen with the last bytes.
    pub(super) fn take(&mut self, input: &mut Bytes) -> Result<Option<Bytes>, ConnectionError> {
        match self {
            Self::Length(left) => Ok(split(input, left)),
            Self::UntilClose => Ok(Some(std::mem::take(input)).filter(|all| !all.is_empty())),
            Self::Chunked(chunks) => {
                chunks.skip(input)?;
                let At::Data(left) = &mut chunks.at else {
                    return Ok(None);
                };
                let taken = split(input, left);
                // What is wrong behind these bytes is found again by whoever takes the next.
                let _ = chunks.skip(input);
                Ok(taken)
            }
        }
    }
}

impl Chunks {
    /// Reads past what is no data.
    fn skip(&mut self, input: &mut Bytes) -> Result<(), ConnectionError> {
        if self.at == At::Data(0) {
            self.at = At::DataCr;
        }
        let mut read = 0;
        let mut outcome = Ok(());
        for byte in input.iter() {
            if matches!(self.at, At::Data(_) | At::End) {
                break;
            }
            match self.step(*byte) {
                Ok(next) => self.at = next,
                Err(error) => {
                    outcome = Err(error);
                    break;
                }
            }
            read += 1;
        }
        input.advance(read);
        outcome
    }

    fn step(&mut self, byte: u8) -> Result<At, ConnectionError> {
        let at = match (self.at, byte) {
            (At::Size(size), _) if byte.is_ascii_hexdigit() => At::Size(Some(longer(size, byte)?)),
            (At::Size(Some(size)) | At::Blank(size) | At::Extension(size), b'\r') => {
                At::SizeEnd(size)
            }
            (At::Size(Some(size)) | At::Blank(size), b';') => At::Extension(size),
            (At::Size(Some(size)) | At::Blank(size), b' ' | b'\t') => {
                self.aside += 1;
                At::Blank(size)
            }
            (At::Extension(size), byte) if byte != b'\n' => {
                self.aside += 1;
                At::Extension(size)
            }
            (At::SizeEnd(0), b'\n') => At::Trailer,
            (At::SizeEnd(size), b'\n') => At::Data(size),
            (At::DataCr, b'\r') => At::DataLf,
            (At::DataLf, b'\n') => At::Size(None),
            (At::Trailer, b'\r') => At::EndLf,
            (At::InTrailer, b'\r') => self.trailer(byte, At::TrailerLf),
            (At::TrailerLf, b'\n') => self.trailer(byte, At::Trailer),
            (At::Trailer | At::InTrailer, byte) if byte != b'\n' => {
                self.trailer(byte, At::InTrailer)
            }
            (At::EndLf, b'\n') if self.are_trailers_headers() => At::End,
            _ => {
                return Err(ConnectionError::Malformed(
                    "a chunk that does not begin or end well",
                ));
            }
        };
        if self.aside + self.trailers.len() > MAX_ASIDE {
            return Err(ConnectionError::Malformed(
                "more than 64 KiB between chunks",
            ));
        }
        Ok(at)
    }

    fn trailer(&mut self, byte: u8, next: At) -> At {
        self.trailers.push(byte);
        next
    }

    fn are_trailers_headers(&self) -> bool {
        if self.trailers.is_empty() {
            return true;
        }
        let whole = [&self.trailers, &b"\r\n"[..]].concat();
        let mut room = [httparse::EMPTY_HEADER; MAX_HEADERS];
        httparse::parse_headers(&whole, &mut room).is_ok_and(|found| found.is_complete())
    }
}

/// The size with one hexadecimal digit more.
fn longer(size: Option<u64>, digit: u8) -> Result<u64, ConnectionError> {
    let digit = char::from(digit).to_digit(16).unwrap_or_default();
    let shifted = size.unwrap_or_default().checked_mul(16);
    shifted
        .map(|shifted| shifted + u64::from(digit))
        .ok_or(ConnectionError::Malformed(
            "a chunk of more than 2^64 bytes",
        ))
}

/// Up to `left` bytes of what was read.
fn split(input: &mut Bytes, left: &mut u64) -> Option<Bytes> {
    let length = usize::try_from(*left).map_or(input.len(), |left| left.min(input.len()));
    *left -= length as u64;
    (length > 0).then(|| input.split_to(length))
}
