//! What base64 in a request holds: the size of an image, the length of a recording, told from its first bytes.
//!
//! Must never decode more than these: pictures are most of what a vision model gets.

use super::image::ImageSize;

/// Maximum number of segments of a JPEG that are passed over before the one with its size.
const MAX_SEGMENTS: usize = 64;

/// Bytes that are written in base64, in either alphabet. A byte is decoded when it is asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Base64<'t>(pub(super) &'t [u8]);

/// What some bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Media {
    /// An image; its size if it can be told.
    Image(Option<ImageSize>),
    /// A recording of this number of bytes per second, if it tells.
    Audio(Option<u32>),
    Video,
    Pdf,
    /// Anything else.
    Other,
}

impl Base64<'_> {
    /// The number of bytes.
    pub(super) fn length(self) -> usize {
        self.0.len() / 4 * 3
    }

    /// What the bytes are, by their signature.
    pub(super) fn media(self) -> Media {
        let begins = |signature: &[u8]| self.has(0, signature);
        if begins(b"\x89PNG\r\n\x1a\n") {
            Media::Image(self.size(self.number(16, 4), self.number(20, 4)))
        } else if begins(b"\xff\xd8\xff") {
            Media::Image(self.jpeg_size())
        } else if begins(b"GIF8") {
            Media::Image(self.size(self.reversed(6, 2), self.reversed(8, 2)))
        } else if begins(b"RIFF") && self.has(8, b"WEBP") {
            Media::Image(self.webp_size())
        } else if begins(b"RIFF") && self.has(8, b"WAVE") {
            Media::Audio(self.reversed(28, 4).filter(|rate| *rate > 0))
        } else if begins(b"ID3") || begins(b"OggS") || begins(b"fLaC") || begins(b"\xff\xfb") {
            Media::Audio(None)
        } else if self.has(4, b"ftyp") || begins(b"\x1a\x45\xdf\xa3") {
            Media::Video
        } else if begins(b"%PDF") {
            Media::Pdf
        } else {
            Media::Other
        }
    }

    fn jpeg_size(self) -> Option<ImageSize> {
        let mut at = 2;
        for _ in 0..MAX_SEGMENTS {
            let marker = self.byte(at + 1).filter(|_| self.byte(at) == Some(0xff))?;
            // Frames have the size, except for the tables among them.
            if matches!(marker, 0xc0..=0xcf) && !matches!(marker, 0xc4 | 0xc8 | 0xcc) {
                return self.size(self.number(at + 7, 2), self.number(at + 5, 2));
            }
            at += 2 + self.number(at + 2, 2)? as usize;
        }
        None
    }

    fn webp_size(self) -> Option<ImageSize> {
        if self.has(12, b"VP8X") {
            let [width, height] = [24, 27].map(|at| Some(self.reversed(at, 3)? + 1));
            self.size(width, height)
        } else if self.has(12, b"VP8L") {
            let bits = self.reversed(21, 4)?;
            self.size(Some((bits & 0x3fff) + 1), Some((bits >> 14 & 0x3fff) + 1))
        } else {
            let [width, height] = [26, 28].map(|at| Some(self.reversed(at, 2)? & 0x3fff));
            self.size(width, height)
        }
    }

    fn size(self, width: Option<u32>, height: Option<u32>) -> Option<ImageSize> {
        let size = ImageSize {
            width: width?,
            height: height?,
        };
        (size.width > 0 && size.height > 0).then_some(size)
    }

    fn has(self, at: usize, bytes: &[u8]) -> bool {
        let mut expected = bytes.iter().enumerate();
        expected.all(|(index, byte)| self.byte(at + index) == Some(*byte))
    }

    /// The number at `at`, its most significant byte first.
    fn number(self, at: usize, bytes: usize) -> Option<u32> {
        (at..at + bytes).try_fold(0, |number, at| {
            Some(number << 8 | u32::from(self.byte(at)?))
        })
    }

    /// The number at `at`, its least significant byte first.
    fn reversed(self, at: usize, bytes: usize) -> Option<u32> {
        (at..at + bytes).rev().try_fold(0, |number, at| {
            Some(number << 8 | u32::from(self.byte(at)?))
        })
    }

    fn byte(self, at: usize) -> Option<u8> {
        let digit = at / 3 * 4 + at % 3;
        let bits = u16::from(self.digit(digit)?) << 6 | u16::from(self.digit(digit + 1)?);
        Some((bits >> (4 - 2 * (at % 3))) as u8)
    }

    fn digit(self, at: usize) -> Option<u8> {
        Some(match *self.0.get(at)? {
            byte @ b'A'..=b'Z' => byte - b'A',
            byte @ b'a'..=b'z' => byte - b'a' + 26,
            byte @ b'0'..=b'9' => byte - b'0' + 52,
            b'+' | b'-' => 62,
            b'/' | b'_' => 63,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The beginnings of files that Pillow 12 and Python's `wave` wrote.
    #[test]
    fn files_are_known_by_their_first_bytes() {
        let image = |width, height| Some(ImageSize { width, height });
        for (base64, media) in [
            (
                "iVBORw0KGgoAAAANSUhEUgAAAoAAAAHhCAIAAABx75gWAAAHaElEQVR4nO3VoQHA",
                Media::Image(image(640, 481)),
            ),
            (
                "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAgGBgcGBQgHBwcJCQgKDBQNDAsLDBkSEw8UHRofHh0aHBwgJC4nICIsIxwcKDcpLDAxNDQ0Hyc5PTgyPC4zNDL/2wBDAQkJCQwLDBgNDRgyIRwhMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjL/wAARCAMhBLADASIAAhEBAxEB/8QAHwAAAQUBAQEBAQEAAAAAAAAAAAECAwQFBgcICQoL",
                Media::Image(image(1200, 801)),
            ),
            (
                "/9j/4AAQSkZJRgABAQAAAQABAAD/4QBMRXhpZgAATU0AKgAAAAgAAQEOAAIAAAApAAAAGgAAAAB4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4AAD/2wBDAAgGBgcGBQgHBwcJCQgKDBQNDAsLDBkSEw8UHRofHh0aHBwgJC4nICIsIxwcKDcpLDAxNDQ0Hyc5PTgyPC4zNDL/2wBDAQkJCQwLDBgNDRgyIRwhMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjL/wgARCAMgBLEDASIAAhEBAxEB/8QAFQABAQAAAAAAAAAAAAAAAAAAAAb/xAAVAQEBAAAAAAAAAAAAAAAAAAAAAv/aAAwDAQACEAMQAAABiBcAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
                Media::Image(image(1201, 800)),
            ),
            (
                "UklGRsYAAABXRUJQVlA4ILoAAAAQEwCdASpNAd4APm02mUmkIyKhICgAgA2JaW7h",
                Media::Image(image(333, 222)),
            ),
            (
                "UklGRigAAABXRUJQVlA4TBwAAAAvTEE3AAdQiirUo/8BAkmb9c+//RH9T+7//ZcN",
                Media::Image(image(333, 222)),
            ),
            (
                "UklGRkIBAABXRUJQVlA4WAoAAAAYAAAATAEA3QAAQUxQSBYAAAABB1DAiAgQSNqs",
                Media::Image(image(333, 222)),
            ),
            (
                "R0lGODdhEQAJAIAAAAAAAAAAACwAAAAAEQAJAAAI",
                Media::Image(image(17, 9)),
            ),
            (
                "UklGRlQAAABXQVZFZm10IBAAAAABAAEAwF0AAIC7AAACABAAZGF0YTAAAAAAAAAA",
                Media::Audio(Some(48_000)),
            ),
            ("JVBERi0xLjcK", Media::Pdf),
            ("AAAAGGZ0eXBtcDQy", Media::Video),
            ("SUQzBAAA", Media::Audio(None)),
            ("UEsDBBQABgAI", Media::Other),
            ("/9j/4AAQSkZJRg", Media::Image(None)),
            ("iVBORw0KGgo", Media::Image(None)),
            ("not base64!", Media::Other),
            ("", Media::Other),
        ] {
            assert_eq!(Base64(base64.as_bytes()).media(), media, "{base64}");
            for end in 0..base64.len() {
                let _ = Base64(&base64.as_bytes()[..end]).media();
            }
        }
        let urls = "_-8".repeat(4);
        let other = "/+8".repeat(4);
        let bytes =
            |text: &str| -> Vec<_> { (0..9).map(|at| Base64(text.as_bytes()).byte(at)).collect() };
        assert_eq!(bytes(&urls), bytes(&other), "both alphabets");
    }
}
