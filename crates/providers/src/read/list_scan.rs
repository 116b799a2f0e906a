//! A JSON list that comes piece by piece: where its elements begin and end. Gemini streams in this form unless it is asked
//! for events.
//!
//! Must never change or keep the bytes, and must never judge whether an element is JSON.

use memchr::memchr2;

/// Follows a list piece by piece.
#[derive(Clone, Copy, Debug, Default)]
pub struct ListScanner {
    /// Number of open brackets: 1 between the elements.
    depth: u32,
    in_string: bool,
    /// The next byte is escaped by a backslash.
    is_escaped: bool,
    /// An element must follow, since a comma has come.
    after_comma: bool,
    /// An element has come.
    has_element: bool,
}

impl ListScanner {
    /// The offset just past the last element that ends within `piece`. The text of each element that is an object or a list
    /// is passed to `on_element`: in parts if it came in several pieces, the last part with `true`.
    pub fn feed(&mut self, piece: &[u8], mut on_element: impl FnMut(&[u8], bool)) -> Option<usize> {
        let mut boundary = None;
        // Where the part of the element within this piece begins.
        let mut start = 0;
        let mut at = 0;
        while let Some(found) = self.next_sign(&piece[at..]) {
            let sign = at + found;
            at = sign + 1;
            match piece[sign] {
                b'"' => self.in_string = !self.in_string,
                b'\\' => self.skip_escaped(piece, &mut at),
                b'{' | b'[' => {
                    if self.depth == 1 {
                        start = sign;
                        self.has_element = true;
                        self.after_comma = false;
                    }
                    self.depth += 1;
                }
                b'}' | b']' => {
                    self.depth = self.depth.saturating_sub(1);
                    if self.depth == 1 {
                        on_element(&piece[start..at], true);
                        boundary = Some(at);
                    }
                }
                b',' if self.depth == 1 => self.after_comma = true,
                _ => {}
            }
        }
        if self.is_inside() {
            on_element(&piece[start..], false);
        }
        boundary
    }

    /// Whether an element has begun and not ended.
    pub fn is_inside(&self) -> bool {
        self.depth > 1
    }

    /// What must stand before one more element and after it, so that the list is whole; `None` inside an element and after
    /// the list.
    pub fn around_last_element(&self) -> Option<(&'static str, &'static str)> {
        match (self.depth, self.has_element && !self.after_comma) {
            (1, true) => Some((",", "]")),
            (1, false) => Some(("", "]")),
            _ => None,
        }
    }

    /// The position of the next byte that has a meaning.
    fn next_sign(&mut self, text: &[u8]) -> Option<usize> {
        if self.is_escaped && !text.is_empty() {
            self.is_escaped = false;
            return self.next_sign(&text[1..]).map(|found| found + 1);
        }
        if self.in_string {
            return memchr2(b'"', b'\\', text);
        }
        // Outside of strings they are close to each other.
        let is_sign = |byte: &u8| matches!(byte, b'"' | b'{' | b'[' | b'}' | b']' | b',');
        text.iter().position(is_sign)
    }

    fn skip_escaped(&mut self, piece: &[u8], at: &mut usize) {
        if !self.in_string {
            return;
        }
        match *at < piece.len() {
            true => *at += 1,
            false => self.is_escaped = true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "[{\"a\":\"}]\\\"{\",\"b\":[1,{}]}\n,\r\n{\"c\":\"\\\\\"}\n]";

    fn elements(pieces: &mut dyn Iterator<Item = &[u8]>) -> Vec<String> {
        let (mut scanner, mut found, mut part) = (ListScanner::default(), vec![], vec![]);
        for piece in pieces {
            scanner.feed(piece, |text, is_last| {
                part.extend_from_slice(text);
                if is_last {
                    found.push(String::from_utf8(std::mem::take(&mut part)).unwrap());
                }
            });
        }
        assert!(!scanner.is_inside());
        found
    }

    #[test]
    fn elements_are_found_however_the_list_is_cut() {
        let expect = ["{\"a\":\"}]\\\"{\",\"b\":[1,{}]}", "{\"c\":\"\\\\\"}"];
        for size in 1..=LIST.len() {
            assert_eq!(
                elements(&mut LIST.as_bytes().chunks(size)),
                expect,
                "{size}"
            );
        }
    }

    #[test]
    fn a_boundary_is_where_an_element_ends() {
        let mut scanner = ListScanner::default();
        assert_eq!(scanner.feed(b"[", |_, _| ()), None);
        assert_eq!(scanner.feed(b"{\"a\":1", |_, _| ()), None);
        assert!(scanner.is_inside());
        assert_eq!(scanner.feed(b"},{}\n,{", |_, _| ()), Some(4));
        assert_eq!(scanner.feed(b"}]", |_, _| ()), Some(1));
    }

    #[test]
    fn one_more_element_fits_between_elements_only() {
        for (text, around) in [
            ("", None),
            ("[", Some(("", "]"))),
            ("[{", None),
            ("[{}", Some((",", "]"))),
            ("[{},", Some(("", "]"))),
            ("[{},\n{\"a\":\",\"}\n", Some((",", "]"))),
            ("[{}]", None),
        ] {
            let mut scanner = ListScanner::default();
            scanner.feed(text.as_bytes(), |_, _| ());
            assert_eq!(scanner.around_last_element(), around, "{text}");
        }
    }
}
