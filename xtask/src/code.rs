//! Rust source as code: without comments, literals and tests, so that what is left can be searched for words.

use std::ops::Range;

const TEST_MARK: &str = "#[cfg(test)]";

/// `source` with every comment and literal blanked out: same length, same lines.
pub fn blanked(source: &str) -> String {
    let bytes = source.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = match bytes[at] {
            b'/' if bytes[at..].starts_with(b"//") => line_end(bytes, at),
            b'/' if bytes[at..].starts_with(b"/*") => comment_end(bytes, at),
            b'"' => string_end(bytes, at),
            b'r' | b'b' if starts_word(bytes, at) => raw_end(bytes, at).unwrap_or(at),
            b'\'' => char_end(bytes, at),
            _ => at,
        };
        for byte in &mut out[at..end] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        at = end.max(at + 1);
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// The items under `#[cfg(test)]`, as places in `source`.
pub fn tests(source: &str) -> Vec<Range<usize>> {
    let code = blanked(source);
    let mut found = Vec::new();
    let mut from = 0;
    while let Some(start) = code[from..].find(TEST_MARK).map(|at| from + at) {
        let end = item_end(code.as_bytes(), start + TEST_MARK.len());
        found.push(start..end);
        from = end;
    }
    found
}

/// `text` (the source, or the same blanked) without the places in `cut`.
pub fn without(text: &str, cut: &[Range<usize>]) -> String {
    let mut out = String::new();
    let mut from = 0;
    for range in cut {
        out.push_str(&text[from..range.start]);
        from = range.end;
    }
    out.push_str(&text[from..]);
    out
}

/// What is left to search: no comment, no literal, no test.
pub fn searchable(source: &str) -> String {
    without(&blanked(source), &tests(source))
}

/// Every string literal outside comments and tests, in order, escapes as written.
pub fn literals(source: &str) -> Vec<String> {
    let source = without(source, &tests(source));
    let bytes = source.as_bytes();
    let mut found = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let end = match bytes[at] {
            b'/' if bytes[at..].starts_with(b"//") => line_end(bytes, at),
            b'/' if bytes[at..].starts_with(b"/*") => comment_end(bytes, at),
            b'"' => {
                let end = string_end(bytes, at);
                found.push(source[at + 1..end.saturating_sub(1).max(at + 1)].to_owned());
                end
            }
            b'r' | b'b' if starts_word(bytes, at) => raw_end(bytes, at).unwrap_or(at),
            b'\'' => char_end(bytes, at),
            _ => at,
        };
        at = end.max(at + 1);
    }
    found
}

fn line_end(bytes: &[u8], at: usize) -> usize {
    bytes[at..]
        .iter()
        .position(|byte| *byte == b'\n')
        .map_or(bytes.len(), |length| at + length)
}

fn comment_end(bytes: &[u8], at: usize) -> usize {
    let (mut depth, mut end) = (0, at);
    while end < bytes.len() {
        if bytes[end..].starts_with(b"/*") {
            depth += 1;
            end += 2;
        } else if bytes[end..].starts_with(b"*/") {
            depth -= 1;
            end += 2;
            if depth == 0 {
                return end;
            }
        } else {
            end += 1;
        }
    }
    end
}

fn string_end(bytes: &[u8], at: usize) -> usize {
    let mut end = at + 1;
    while end < bytes.len() && bytes[end] != b'"' {
        end += if bytes[end] == b'\\' { 2 } else { 1 };
    }
    (end + 1).min(bytes.len())
}

/// The end of `r"…"`, `r#"…"#` and their byte forms; `None` where none begins. A plain `b"…"` is left to its quote.
fn raw_end(bytes: &[u8], at: usize) -> Option<usize> {
    let r = at + usize::from(bytes[at] == b'b');
    if bytes.get(r) != Some(&b'r') {
        return None;
    }
    let hashes = bytes[r + 1..]
        .iter()
        .take_while(|byte| **byte == b'#')
        .count();
    if bytes.get(r + 1 + hashes) != Some(&b'"') {
        return None;
    }
    let close = [b"\"".as_slice(), &vec![b'#'; hashes]].concat();
    let begin = r + 2 + hashes;
    let length = bytes[begin..]
        .windows(close.len())
        .position(|window| window == close);
    Some(length.map_or(bytes.len(), |length| begin + length + close.len()))
}

/// The end of a character literal; a lifetime ends where it begins.
fn char_end(bytes: &[u8], at: usize) -> usize {
    let rest = &bytes[at + 1..];
    if rest.first() == Some(&b'\\') {
        let close = rest.iter().skip(2).position(|byte| *byte == b'\'');
        return close.map_or(bytes.len(), |length| at + 1 + 2 + length + 1);
    }
    let width = match rest.first() {
        Some(0xF0..) => 4,
        Some(0xE0..) => 3,
        Some(0xC0..) => 2,
        _ => 1,
    };
    if rest.get(width) == Some(&b'\'') {
        at + 1 + width + 1
    } else {
        at
    }
}

fn starts_word(bytes: &[u8], at: usize) -> bool {
    at == 0 || !(bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_')
}

/// The end of the item that begins at `at`: its closing brace, or the semicolon before any.
fn item_end(code: &[u8], at: usize) -> usize {
    let mut depth = 0usize;
    for (offset, byte) in code[at..].iter().enumerate() {
        match byte {
            b'{' | b'[' | b'(' => depth += 1,
            b'}' | b']' | b')' => {
                depth = depth.saturating_sub(1);
                if depth == 0 && *byte == b'}' {
                    return at + offset + 1;
                }
            }
            b';' if depth == 0 => return at + offset + 1,
            _ => {}
        }
    }
    code.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_blanked_and_nothing_moves() {
        for (source, left) in [
            ("a // crate::x\nb", "a b"),
            ("a /* /* */ crate::x */ b", "a b"),
            (r#"f("crate::\"x") + 1"#, "f( ) + 1"),
            ("r#\"a\"b\"# c", "c"),
            ("br\"x\" c", "c"),
            ("a == '\"' && b == '\\'' || c", "a == && b == || c"),
            ("fn f<'a>(v: &'a str)", "fn f<'a>(v: &'a str)"),
            ("'é' z", "z"),
        ] {
            let blanked = blanked(source);
            let words: Vec<&str> = blanked.split_whitespace().collect();
            assert_eq!(words.join(" "), left, "{source}");
            let lines = |text: &str| {
                text.match_indices('\n')
                    .map(|(at, _)| at)
                    .collect::<Vec<_>>()
            };
            assert_eq!(
                (blanked.len(), lines(&blanked)),
                (source.len(), lines(source)),
                "{source}"
            );
        }
    }

    #[test]
    fn items_under_cfg_test_are_cut() {
        let source = "fn a() {}\n#[cfg(test)]\n#[expect(x, reason = \"}\")]\nmod tests {\n fn b() { c(\"{\") }\n}\nfn d() {}\n#[cfg(test)]\nmod e;\nfn f() {}";
        let left = searchable(source);
        assert!(
            left.contains("fn a") && left.contains("fn d") && left.contains("fn f"),
            "{left}"
        );
        assert!(
            !left.contains("mod tests") && !left.contains("fn b") && !left.contains("mod e"),
            "{left}"
        );
    }

    #[test]
    fn literals_are_those_of_the_code() {
        let source = "f(\"one\", 't', r\"raw\") // \"no\"\n;g(\"two\\n\")\n#[cfg(test)] mod t { const X: &str = \"three\"; }";
        assert_eq!(literals(source), ["one", "two\\n"]);
    }
}
