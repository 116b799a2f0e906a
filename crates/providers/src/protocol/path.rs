//! Whether a path may be joined to a base URL: it must not lead out of it, however it is encoded.
//!
//! Must never know endpoints or pools.

use percent_encoding::percent_decode_str;

/// Whether no segment of `path`, decoded once, is `.` or `..`. Encoded slashes and backslashes end a segment too.
/// Broken percent-encoding and control characters are never safe.
pub fn is_safe_path(path: &str) -> bool {
    if !is_well_encoded(path.as_bytes())
        || percent_decode_str(path).any(|byte| byte.is_ascii_control())
    {
        return false;
    }
    let mut decoded = percent_decode_str(path).peekable();
    while decoded.peek().is_some() {
        let mut segment = decoded
            .by_ref()
            .take_while(|byte| !matches!(byte, b'/' | b'\\'));
        let start = [segment.next(), segment.next(), segment.next()];
        segment.for_each(drop);
        if matches!(
            start,
            [Some(b'.'), None, _] | [Some(b'.'), Some(b'.'), None]
        ) {
            return false;
        }
    }
    true
}

/// Whether every percent sign begins two hexadecimal digits.
fn is_well_encoded(path: &[u8]) -> bool {
    path.iter().enumerate().filter(|(_, byte)| **byte == b'%').all(|(at, _)| {
        matches!(path.get(at + 1..at + 3), Some([high, low]) if high.is_ascii_hexdigit() && low.is_ascii_hexdigit())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dot_segments_are_found_in_every_spelling() {
        for path in [
            "/..",
            "/.",
            "..",
            ".",
            "/a/../b",
            "/a/./b",
            "/a/..",
            "/a/.",
            "../a",
            "/%2e%2E/a",
            "/.%2e",
            "/%2e",
            "/a%2f..%2Fb",
            "/a%5c..%5Cb",
            "/a\\..\\b",
            "\\..",
            "/a%2f.",
            "/a/%2e%2e%2fb",
            "/a/..%5c",
            "//..//",
            "/a%2F%2E%2E",
        ] {
            assert!(!is_safe_path(path), "{path}");
        }
    }

    #[test]
    fn other_paths_are_safe() {
        for path in [
            "",
            "/",
            "//",
            "/a",
            "/v1/models/gpt-4.1",
            "/...",
            "/..a",
            "/a..",
            "/.a",
            "/a./b",
            "/.../..a/a../.b",
            "/%252e%252e/a",
            "/a%2fb",
            "/a%5cb",
            "/v1beta/models/x:generateContent",
            "/f/%e4%bd%a0",
            "/f/%ff",
            "/你",
            "/a%20b",
        ] {
            assert!(is_safe_path(path), "{path}");
        }
    }

    #[test]
    fn broken_encoding_and_control_characters_are_not_safe() {
        for path in [
            "/%", "/%2", "/%g0", "/a%2", "/%%2e", "/%+1", "/a%00", "/%0d%0aX", "/%7f", "/a\0",
            "/a\tb", "/%1F",
        ] {
            assert!(!is_safe_path(path), "{path:?}");
        }
    }
}
