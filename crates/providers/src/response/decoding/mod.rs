//! Decodes compressed responses, for inspection only: some providers compress although they were asked not to, and some do
//! not say so.

use std::borrow::Cow;
use std::io::Read;

use brotli_decompressor::Decompressor;
use flate2::read::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};
use ruzstd::decoding::StreamingDecoder;

/// Maximum window, in bytes, as RFC 9659 has it for zstd.
const MAX_WINDOW: u64 = 8 << 20;
const BROTLI_BUFFER: usize = 4096;

/// How a body is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    /// `gzip`.
    Gzip,
    /// `deflate`: with or without the zlib wrapper.
    Deflate,
    /// `br`.
    Brotli,
    /// `zstd`.
    Zstd,
}

impl Coding {
    /// The coding that the first bytes show, or else that `Content-Encoding` names: labels are wrong more often. `None`: the
    /// body can be read as it is, or it has more than one layer.
    pub fn of(content_encoding: &[u8], body: &[u8]) -> Option<Self> {
        match body {
            [0x1f, 0x8b, ..] => return Some(Self::Gzip),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => return Some(Self::Zstd),
            [0x78, 0x01 | 0x9c | 0xda, ..] => return Some(Self::Deflate),
            _ => {}
        }
        match &*content_encoding.trim_ascii().to_ascii_lowercase() {
            b"gzip" | b"x-gzip" => Some(Self::Gzip),
            b"deflate" => Some(Self::Deflate),
            b"br" => Some(Self::Brotli),
            b"zstd" => Some(Self::Zstd),
            _ => None,
        }
    }

    /// What can be decoded of the beginning of a body, at most `limit` bytes. Empty if nothing can.
    pub fn decode(self, body: &[u8], limit: usize) -> Vec<u8> {
        let read = |decoder: &mut dyn Read| read(decoder, limit);
        match self {
            Self::Gzip => read(&mut MultiGzDecoder::new(body)),
            Self::Deflate => match read(&mut ZlibDecoder::new(body)) {
                nothing if nothing.is_empty() => read(&mut DeflateDecoder::new(body)),
                decoded => decoded,
            },
            Self::Brotli if is_wide_brotli(body) => Vec::new(),
            Self::Brotli => read(&mut Decompressor::new(body, BROTLI_BUFFER)),
            Self::Zstd if window(body).is_some_and(|window| window <= MAX_WINDOW) => {
                StreamingDecoder::new(body)
                    .map(|mut decoder| read(&mut decoder))
                    .unwrap_or_default()
            }
            Self::Zstd => Vec::new(),
        }
    }
}

/// A body as it can be read: decoded, up to `limit` bytes, if it is compressed in a way that `Content-Encoding` or its first bytes tell.
pub fn readable<'b>(content_encoding: &[u8], body: &'b [u8], limit: usize) -> Cow<'b, [u8]> {
    match Coding::of(content_encoding, body) {
        Some(coding) => match coding.decode(body, limit) {
            // The label is wrong.
            nothing if nothing.is_empty() => Cow::Borrowed(body),
            decoded => Cow::Owned(decoded),
        },
        None => Cow::Borrowed(body),
    }
}

/// Everything up to the limit, or to where the body ends or is damaged.
fn read(decoder: &mut dyn Read, limit: usize) -> Vec<u8> {
    let mut decoded = Vec::new();
    // What was decoded before an error counts.
    let _ = decoder.take(limit as u64).read_to_end(&mut decoded);
    decoded
}

/// Whether the window of a brotli stream is larger than 8 MiB (RFC 7932 §9.1): 16 MiB, or the extension for large ones.
fn is_wide_brotli(body: &[u8]) -> bool {
    body.first()
        .is_some_and(|bits| bits & 0x0f == 0x0f || bits & 0x7f == 0x11)
}

/// The window of a zstd frame (RFC 8878 §3.1.1.1); `None` if its header is not complete. A frame of one segment has none
/// of its own: its content is the window, and of that no more is decoded than the limit.
fn window(frame: &[u8]) -> Option<u64> {
    let (descriptor, size) = (*frame.get(4)?, u64::from(*frame.get(5)?));
    if descriptor & 0x20 != 0 {
        return Some(0);
    }
    let base = 1_u64 << (10 + (size >> 3));
    Some(base + base / 8 * (size & 7))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};

    use super::*;

    const TEXT: &[u8] = br#"{"error":{"code":"insufficient_quota"}}"#;
    const LIMIT: usize = 64 << 10;
    /// `TEXT` by the brotli and zstd command lines.
    const BROTLI: &[u8] = include_bytes!("error.br");
    const ZSTD: &[u8] = include_bytes!("error.zst");

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn every_coding_is_decoded() {
        let mut zlib = ZlibEncoder::new(Vec::new(), Compression::fast());
        zlib.write_all(TEXT).unwrap();
        let mut raw = DeflateEncoder::new(Vec::new(), Compression::fast());
        raw.write_all(TEXT).unwrap();
        for (name, body) in [
            ("gzip", gzip(TEXT)),
            ("X-Gzip", gzip(TEXT)),
            ("deflate", zlib.finish().unwrap()),
            ("deflate", raw.finish().unwrap()),
            ("br", BROTLI.to_vec()),
            ("zstd", ZSTD.to_vec()),
            ("", gzip(TEXT)),
            ("", ZSTD.to_vec()),
            ("identity", gzip(TEXT)),
            ("br", gzip(TEXT)),
            ("gzip", TEXT.to_vec()),
        ] {
            assert_eq!(readable(name.as_bytes(), &body, LIMIT), TEXT, "{name}");
        }
        for name in ["", "identity", "gzip, br"] {
            assert_eq!(readable(name.as_bytes(), TEXT, LIMIT), TEXT, "{name}");
        }
    }

    #[test]
    fn a_part_of_a_body_is_decoded_up_to_its_end() {
        let body = gzip(&TEXT.repeat(1000));
        let half = Coding::Gzip.decode(&body[..body.len() / 2], LIMIT);
        assert!(half.starts_with(TEXT) && half.len() < 1000 * TEXT.len());
        for coding in [Coding::Gzip, Coding::Deflate, Coding::Brotli, Coding::Zstd] {
            for garbage in [
                &b""[..],
                b"\x1f",
                b"no code at all",
                b"\xff\xff\xff\xff\xff\xff",
            ] {
                assert!(coding.decode(garbage, LIMIT).len() < 64, "{coding:?}");
            }
        }
    }

    #[test]
    fn a_bomb_stays_small() {
        let bomb = gzip(&vec![b' '; 10 << 20]);
        assert_eq!(Coding::Gzip.decode(&bomb, LIMIT).len(), LIMIT);
        let wide = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xff, 0x01, 0x00, 0x00];
        assert_eq!(window(&wide).map(|window| window > MAX_WINDOW), Some(true));
        assert!(Coding::Zstd.decode(&wide, LIMIT).is_empty());
    }
}
