//! A request as the mock received it.

use bytes::Bytes;

/// Maximum size of a body that is recorded. Of a larger one, only the length and hash are recorded.
pub const MAX_RECORDED_BODY: usize = 64 * 1024;

/// A request as it was received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// The credential; empty if there was none.
    pub key: String,
    /// HTTP method.
    pub method: String,
    /// Path with query.
    pub path: String,
    /// Header names in lower case with their values, in order.
    pub headers: Vec<(String, String)>,
    /// The body; empty if it was larger than [`MAX_RECORDED_BODY`].
    pub body: Bytes,
    /// The body's length.
    pub body_len: u64,
    pub(crate) large_hash: Option<u64>,
}

impl Recorded {
    /// The first value of a header, named in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, value)| value.as_str())
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The [`fnv1a`] hash of the body in 16 hexadecimal digits, for a body of any size.
    pub fn body_hash(&self) -> String {
        format!(
            "{:016x}",
            self.large_hash.unwrap_or_else(|| fnv1a(&self.body))
        )
    }
}

/// 64-bit FNV-1a, a hash that a test in any language can compute in three lines.
pub fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fnv_is_the_published_one() {
        for (text, hash) in [
            ("", 0xcbf2_9ce4_8422_2325),
            ("a", 0xaf63_dc4c_8601_ec8c),
            ("foobar", 0x8594_4171_f739_67e8),
        ] {
            assert_eq!(fnv1a(text.as_bytes()), hash, "{text}");
        }
    }
}
