//! Passes over the JSON body of a request, and hands what a model reads to the one that counts it.
//!
//! The body was parsed before, so this must never judge whether it is JSON: of other text it reads something or nothing.

use memchr::{memchr2, memchr3};

use super::found::Found;

/// The top-level fields that hold what a model reads.
const READ_BY_MODEL: [&[u8]; 19] = [
    b"messages",
    b"contents",
    b"input",
    b"prompt",
    b"instructions",
    b"system",
    b"systemInstruction",
    b"system_instruction",
    b"tools",
    b"functions",
    b"response_format",
    b"text",
    b"query",
    b"documents",
    b"content",
    b"requests",
    b"suffix",
    b"image",
    b"generateContentRequest",
];
/// Those of them with schemas: there names are read too.
const SCHEMAS: [&[u8]; 3] = [b"tools", b"functions", b"response_format"];
/// The top-level fields that refer to something that a model reads and the body does not hold.
const REFERRING: [&[u8]; 6] = [
    b"previous_response_id",
    b"conversation",
    b"cachedContent",
    b"cached_content",
    b"context_id",
    b"previous_interaction_id",
];

/// What a JSON body holds, added to `found`.
pub(super) fn walk(body: &[u8], found: Found) -> Found {
    let mut walk = Walk {
        body,
        at: 0,
        depth: 0,
        name: b"",
        is_field: false,
        reads_names: false,
        found,
    };
    walk.walk();
    walk.found
}

/// Passes over a JSON body, and collects what a model reads of it.
struct Walk<'b> {
    body: &'b [u8],
    at: usize,
    depth: u32,
    /// The name of the last field.
    name: &'b [u8],
    /// A value of that field must follow. Otherwise it is in a list.
    is_field: bool,
    reads_names: bool,
    found: Found,
}

impl<'b> Walk<'b> {
    fn walk(&mut self) {
        while let Some(byte) = self.body.get(self.at).copied() {
            self.at += 1;
            match byte {
                b'"' => self.string(),
                b'{' | b'[' => {
                    self.depth += 1;
                    self.is_field = false;
                }
                b'}' | b']' => {
                    self.depth = self.depth.saturating_sub(1);
                    self.found.end_of_object();
                }
                b'-' | b'0'..=b'9' => self.number(),
                b',' => self.is_field = false,
                _ => {}
            }
        }
    }

    fn string(&mut self) {
        let start = self.at;
        let end = string_end(self.body, start);
        let body = self.body;
        let content = &body[start..end];
        self.at = (end + 1).min(body.len());
        let rest = &body[self.at..];
        let blanks = rest.len() - rest.trim_ascii_start().len();
        if rest.get(blanks) == Some(&b':') {
            self.at += blanks + 1;
            self.field(content);
        } else {
            match self.reads_names {
                true => self.found.text(content),
                false => self.found.value(self.name, content),
            }
        }
    }

    fn field(&mut self, name: &'b [u8]) {
        self.name = name;
        self.is_field = true;
        if self.depth == 1 {
            let value = self.body[self.at..].trim_ascii_start();
            let is_stored_prompt = name == b"prompt" && value.starts_with(b"{");
            if is_stored_prompt || (REFERRING.contains(&name) && !value.starts_with(b"null")) {
                self.found.elsewhere();
            }
            self.reads_names = SCHEMAS.contains(&name);
            if !READ_BY_MODEL.contains(&name) {
                self.skip_value();
            }
        } else if self.reads_names {
            self.found.text(name);
        } else if name == b"role" {
            self.found.message();
        }
    }

    fn number(&mut self) {
        let rest = &self.body[self.at..];
        let length = rest
            .iter()
            .position(|byte| matches!(byte, b',' | b']' | b'}' | b' ' | b'\n' | b'\r' | b'\t'));
        self.at += length.unwrap_or(rest.len());
        if !self.is_field {
            self.found.number();
        }
    }

    /// Skips the value that follows.
    fn skip_value(&mut self) {
        let rest = &self.body[self.at..];
        self.at += rest.len() - rest.trim_ascii_start().len();
        let close = match self.body.get(self.at) {
            Some(b'{') => b'}',
            Some(b'[') => b']',
            Some(b'"') => {
                self.at = (string_end(self.body, self.at + 1) + 1).min(self.body.len());
                return;
            }
            _ => return,
        };
        let open = self.body[self.at];
        let mut depth = 0_u32;
        while let Some(found) = memchr3(b'"', open, close, &self.body[self.at..]) {
            let sign = self.body[self.at + found];
            self.at += found + 1;
            if sign == b'"' {
                self.at = (string_end(self.body, self.at) + 1).min(self.body.len());
            } else if sign == open {
                depth += 1;
            } else {
                depth -= 1;
            }
            if depth == 0 {
                return;
            }
        }
        self.at = self.body.len();
    }
}

/// The end of the string whose content begins at `start`, or of the text.
fn string_end(text: &[u8], start: usize) -> usize {
    let mut at = start;
    while let Some(found) = text.get(at..).and_then(|rest| memchr2(b'"', b'\\', rest)) {
        if text[at + found] == b'"' {
            return at + found;
        }
        at += found + 2;
    }
    text.len()
}
