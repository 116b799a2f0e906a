//! Passes over the JSON body of a request, and hands what a model reads to the one that counts it.
//!
//! The body was parsed before, so this must never judge whether it is JSON: of other text it reads something or nothing.

use super::found::Found;
use crate::read::json_text::{LIST, OBJECT, nested_end, string_end};

/// What a top-level field is to a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    /// The model reads its texts.
    Read,
    /// The model reads its texts, and names too: it has schemas.
    Schemas,
    /// It refers to something that the model reads and the body does not hold.
    Reference,
    /// The model does not read it.
    Other,
}

impl Field {
    fn of(name: &[u8]) -> Self {
        match name {
            b"messages"
            | b"contents"
            | b"input"
            | b"prompt"
            | b"instructions"
            | b"system"
            | b"systemInstruction"
            | b"system_instruction"
            | b"text"
            | b"query"
            | b"documents"
            | b"content"
            | b"requests"
            | b"suffix"
            | b"image"
            | b"generateContentRequest" => Self::Read,
            b"tools" | b"functions" | b"response_format" => Self::Schemas,
            b"previous_response_id"
            | b"conversation"
            | b"cachedContent"
            | b"cached_content"
            | b"context_id"
            | b"previous_interaction_id" => Self::Reference,
            _ => Self::Other,
        }
    }
}

/// Adds what a JSON body holds to `found`.
pub(super) fn walk(body: &[u8], found: &mut Found) {
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
}

/// Passes over a JSON body, and collects what a model reads of it.
struct Walk<'b, 'f> {
    body: &'b [u8],
    at: usize,
    depth: u32,
    /// The name of the last field.
    name: &'b [u8],
    /// A value of that field must follow. Otherwise it is in a list.
    is_field: bool,
    reads_names: bool,
    found: &'f mut Found,
}

impl<'b> Walk<'b, '_> {
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
        let body = self.body;
        let start = self.at;
        let end = string_end(body, start).at.min(body.len());
        let content = &body[start..end];
        self.at = (end + 1).min(body.len());
        let rest = &body[self.at..];
        let blanks = blanks(rest);
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
            self.at += blanks(&self.body[self.at..]);
            let value = &self.body[self.at..];
            let field = Field::of(name);
            let is_stored_prompt = name == b"prompt" && value.starts_with(b"{");
            let is_reference = field == Field::Reference && !value.starts_with(b"null");
            if is_stored_prompt || is_reference {
                self.found.elsewhere();
            }
            self.reads_names = field == Field::Schemas;
            if matches!(field, Field::Reference | Field::Other) {
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

    /// Skips the value that follows, unless it is a number or the like.
    fn skip_value(&mut self) {
        let end = match self.body.get(self.at) {
            Some(b'{') => nested_end(self.body, self.at + 1, OBJECT),
            Some(b'[') => nested_end(self.body, self.at + 1, LIST),
            Some(b'"') => Some(string_end(self.body, self.at + 1).at + 1),
            _ => return,
        };
        let length = self.body.len();
        self.at = end.map_or(length, |end| end.min(length));
    }
}

/// The number of blanks that a text begins with.
fn blanks(text: &[u8]) -> usize {
    let mut bytes = text.iter();
    bytes
        .position(|byte| !byte.is_ascii_whitespace())
        .unwrap_or(text.len())
}
