//! Takes Rust source apart into code, comments, literals and tests, so that each can be searched alone.

use std::ops::Range;

const TEST_MARK: &str = "#[cfg(test)]";

/// Part of a source that is not code.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Comment,
    /// `"…"`
    Text,
    /// A raw string or a character.
    OtherLiteral,
}

/// `source` with every comment and literal replaced by blanks: same length, same lines.
pub fn blanked(source: &str) -> String {
    let mut out = source.as_bytes().to_vec();
    for (_, span) in spans(source) {
        for byte in &mut out[span] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// The byte ranges of all comments in `source`.
pub fn comments(source: &str) -> impl Iterator<Item = Range<usize>> {
    let comments = spans(source).into_iter();
    comments.filter_map(|(kind, span)| (kind == Kind::Comment).then_some(span))
}

/// Every comment and literal of `source`, in order.
fn spans(source: &str) -> Vec<(Kind, Range<usize>)> {
    let bytes = source.as_bytes();
    let mut spans = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let (kind, end) = match bytes[at] {
            b'/' if bytes[at..].starts_with(b"//") => (Kind::Comment, line_end(bytes, at)),
            b'/' if bytes[at..].starts_with(b"/*") => (Kind::Comment, comment_end(bytes, at)),
            b'"' => (Kind::Text, string_end(bytes, at)),
            b'r' | b'b' if starts_word(bytes, at) => {
                (Kind::OtherLiteral, raw_end(bytes, at).unwrap_or(at))
            }
            b'\'' => (Kind::OtherLiteral, char_end(bytes, at)),
            _ => (Kind::OtherLiteral, at),
        };
        if end > at {
            spans.push((kind, at..end));
        }
        at = end.max(at + 1);
    }
    spans
}

/// The byte ranges of the items under `#[cfg(test)]`.
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

/// `text` (the source, or the source blanked) without the ranges in `cut`.
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

/// The code of `source`: no comments, literals or tests.
pub fn searchable(source: &str) -> String {
    without(&blanked(source), &tests(source))
}

/// Every string literal outside comments and tests, in order, with its escapes as written. Raw strings are left out.
pub fn literals(source: &str) -> Vec<String> {
    let source = without(source, &tests(source));
    let texts = spans(&source).into_iter();
    texts
        .filter(|(kind, _)| *kind == Kind::Text)
        .map(|(_, span)| source[span.start + 1..(span.end - 1).max(span.start + 1)].to_owned())
        .collect()
}

/// The names of all test functions in `source`, each with its line.
pub fn test_names(source: &str) -> Vec<(usize, String)> {
    let code = blanked(source);
    let marks = code.match_indices("#[");
    let marks = marks.filter(|(at, _)| {
        let attribute = code[at + 2..].split([']', '(']).next().unwrap_or_default();
        attribute == "test" || attribute.ends_with("::test")
    });
    let names = marks.filter_map(|(at, _)| {
        let name_at = at + code[at..].find("fn ")? + 3;
        let name = code[name_at..].split(['(', '<']).next()?;
        Some((line(source, name_at), name.to_owned()))
    });
    names.collect()
}

/// The line of a byte offset, counted from 1.
pub fn line(source: &str, at: usize) -> usize {
    1 + source[..at].matches('\n').count()
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

/// The end of a raw string such as `r"…"` or `br#"…"#`; `None` if none starts here. The quote of `b"…"` starts a string
/// of its own.
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

/// The end of a character literal. For a lifetime, the position where it starts.
fn char_end(bytes: &[u8], at: usize) -> usize {
    let inner = &bytes[at + 1..];
    if inner.first() == Some(&b'\\') {
        let close = inner.iter().skip(2).position(|byte| *byte == b'\'');
        return close.map_or(bytes.len(), |length| at + 1 + 2 + length + 1);
    }
    let width = match inner.first() {
        Some(0xF0..) => 4,
        Some(0xE0..) => 3,
        Some(0xC0..) => 2,
        _ => 1,
    };
    if inner.get(width) == Some(&b'\'') {
        at + 1 + width + 1
    } else {
        at
    }
}

fn starts_word(bytes: &[u8], at: usize) -> bool {
    at == 0 || !(bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_')
}

/// The end of the item that starts at `at`: its closing brace, or a semicolon before any brace.
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
    fn comments_and_literals_are_blanked_in_place() {
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
    fn literals_in_comments_and_tests_are_left_out() {
        let source = "f(\"one\", 't', r\"raw\") // \"no\"\n;g(\"two\\n\")\n#[cfg(test)] mod t { const X: &str = \"three\"; }";
        assert_eq!(literals(source), ["one", "two\\n"]);
    }

    #[test]
    fn test_functions_are_found_with_their_lines() {
        let source = "#[test]\nfn one() {}\n#[tokio::test(start_paused = true)]\nasync fn two() {}\n\
                      fn other() {}\n// #[test]\n#[cfg(test)]\nfn helper() {}\n";
        let expect = [(2, "one".to_owned()), (4, "two".to_owned())];
        assert_eq!(test_names(source), expect);
    }
}
