//! Reads multipart forms without copying a part (RFC 2046 §5.1, RFC 7578), in two modes.
//!
//! `peek` is strict: it reads `model` and `stream`, and refuses a form that two readers could read differently, since the
//! gateway and the provider must see the same model. `each_part` is lenient: it refuses nothing, and gives every possible
//! reading. Must never put a piece of the body into an error.

use std::ops::Range;

use memchr::memmem::{self, Finder};
use percent_encoding::percent_decode;

use crate::read::peek::ModelAt;

/// Maximum length of a boundary (RFC 2046), in bytes.
const MAX_BOUNDARY: usize = 70;
/// Maximum length of a part's head, in bytes.
const MAX_HEAD: usize = 16 * 1024;
/// Maximum number of parts.
const MAX_PARTS: usize = 10_000;

/// What a form says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FormPeek {
    /// The field `model`; its range is that of the value's bytes.
    pub model: Option<ModelAt>,
    /// The field `stream` is `true`.
    pub stream: bool,
}

/// Why a form cannot be read. `Display` is part of a sentence and never quotes the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormError {
    /// Not `multipart/form-data` with a boundary.
    #[error("the body is not a form: send multipart/form-data with its boundary in Content-Type")]
    NotAForm,
    /// The parts do not begin and end as the boundary says.
    #[error("the form is broken: {0}")]
    Broken(&'static str),
    /// There is more than one `model`.
    #[error("the form has more than one field `model`")]
    TwoModels,
    /// `model` was sent as a file.
    #[error("the form's `model` is a file, not a field")]
    ModelIsAFile,
    /// Not UTF-8.
    #[error("the form's `model` is not UTF-8")]
    NotUtf8,
}

/// Reads `model` and `stream` of a form whose `Content-Type` is `content_type`.
pub fn peek(content_type: &[u8], body: &[u8]) -> Result<FormPeek, FormError> {
    let boundary = boundary(content_type).ok_or(FormError::NotAForm)?;
    let mut form = FormPeek::default();
    for part in parts(&boundary, body)? {
        let (head, value) = split_head(body, part)?;
        let field = field(&body[head])?;
        match &*field.name {
            "model" if form.model.is_some() => return Err(FormError::TwoModels),
            "model" if field.is_file => return Err(FormError::ModelIsAFile),
            "model" if field.is_encoded => {
                return Err(FormError::Broken("`model` has a transfer encoding"));
            }
            "model" => {
                let name = std::str::from_utf8(&body[value.clone()]);
                form.model = Some(ModelAt {
                    name: name.map_err(|_| FormError::NotUtf8)?.to_owned(),
                    range: value,
                });
            }
            "stream" => form.stream = body[value].eq_ignore_ascii_case(b"true"),
            _ => {}
        }
    }
    Ok(form)
}

/// The boundary in a `Content-Type`.
fn boundary(content_type: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(content_type).ok()?;
    let (media_type, parameters) = text.split_once(';')?;
    if !media_type
        .trim()
        .eq_ignore_ascii_case("multipart/form-data")
    {
        return None;
    }
    let mut found = None;
    for (name, value) in self::parameters(parameters)? {
        if name.eq_ignore_ascii_case("boundary") && found.replace(value).is_some() {
            return None;
        }
    }
    let boundary = found?.into_bytes();
    let fits = (1..=MAX_BOUNDARY).contains(&boundary.len())
        && boundary.iter().all(|b| (0x20..0x7f).contains(b))
        && boundary.last() != Some(&b' ');
    fits.then_some(boundary)
}

/// The byte ranges of all parts, heads included.
fn parts(boundary: &[u8], body: &[u8]) -> Result<Vec<Range<usize>>, FormError> {
    let dashed = [b"--", boundary].concat();
    let finder = Finder::new(&dashed);
    let mut parts = Vec::new();
    let mut begun: Option<usize> = None;
    let mut closed = false;
    for at in finder.find_iter(body) {
        let line = match (body[..at].last(), at.checked_sub(2).map(|two| body[two])) {
            (None, _) => at,
            (Some(b'\n'), Some(b'\r')) => at - 2,
            (Some(b'\n' | b'\r'), _) => {
                return Err(FormError::Broken(
                    "a boundary's line does not begin with CRLF",
                ));
            }
            // In the middle of a line it is data.
            _ => continue,
        };
        if closed {
            return Err(FormError::Broken("a part follows the last boundary"));
        }
        if let Some(start) = begun.take() {
            if line < start || parts.len() == MAX_PARTS {
                return Err(FormError::Broken("it has too many parts, or an empty one"));
            }
            parts.push(start..line);
        }
        match after_boundary(&body[at + dashed.len()..])? {
            Some(skip) => begun = Some(at + dashed.len() + skip),
            None => closed = true,
        }
    }
    if closed {
        Ok(parts)
    } else {
        Err(FormError::Broken("its last boundary is missing"))
    }
}

/// The number of bytes left in a boundary's line; `None` after the last boundary.
fn after_boundary(rest: &[u8]) -> Result<Option<usize>, FormError> {
    let (rest, dashes) = match rest.strip_prefix(b"--") {
        Some(rest) => (rest, true),
        None => (rest, false),
    };
    let blanks = rest
        .iter()
        .take_while(|byte| matches!(byte, b' ' | b'\t'))
        .count();
    match (dashes, &rest[blanks..]) {
        (true, after) if after.is_empty() || after.starts_with(b"\r\n") => Ok(None),
        (false, after) if after.starts_with(b"\r\n") => Ok(Some(blanks + 2)),
        _ => Err(FormError::Broken(
            "a boundary's line has more than the boundary",
        )),
    }
}

/// The head and the value of a part.
fn split_head(body: &[u8], part: Range<usize>) -> Result<(Range<usize>, Range<usize>), FormError> {
    let bytes = &body[part.clone()];
    if bytes.starts_with(b"\r\n") {
        return Ok((part.start..part.start, part.start + 2..part.end));
    }
    let looked_at = &bytes[..bytes.len().min(MAX_HEAD)];
    let end = memmem::find(looked_at, b"\r\n\r\n")
        .ok_or(FormError::Broken("a part's headers do not end"))?;
    let head = part.start..part.start + end;
    let value = part.start + end + 4..part.end;
    Ok((head, value))
}

/// What a part's head says.
#[derive(Default)]
struct Field {
    name: String,
    is_file: bool,
    is_encoded: bool,
}

fn field(head: &[u8]) -> Result<Field, FormError> {
    const HEADERS: FormError = FormError::Broken("a part's headers cannot be read");
    const NAME: FormError = FormError::Broken("a part has no name, or it can be read in two ways");
    let head = std::str::from_utf8(head).map_err(|_| HEADERS)?;
    let (mut found, mut field) = (false, Field::default());
    for line in head.split("\r\n").filter(|line| !line.is_empty()) {
        // Readers disagree on folded lines and lone line ends.
        let (name, value) = line.split_once(':').ok_or(HEADERS)?;
        if name.starts_with([' ', '\t']) || line.contains(['\r', '\n', '\0']) {
            return Err(HEADERS);
        }
        let (name, value) = (name.trim_end(), value.trim());
        if name.eq_ignore_ascii_case("content-transfer-encoding") {
            let plain = ["7bit", "8bit", "binary"];
            field.is_encoded = !plain
                .iter()
                .any(|coding| value.eq_ignore_ascii_case(coding));
        }
        if !name.eq_ignore_ascii_case("content-disposition") {
            continue;
        }
        if std::mem::replace(&mut found, true) {
            return Err(NAME);
        }
        let (kind, parameters) = value.split_once(';').ok_or(NAME)?;
        if !kind.trim().eq_ignore_ascii_case("form-data") {
            return Err(NAME);
        }
        let mut named = None;
        for (name, value) in self::parameters(parameters).ok_or(HEADERS)? {
            match name.to_ascii_lowercase().as_str() {
                "name" if named.replace(value).is_some() => return Err(NAME),
                "name*" => return Err(NAME),
                "filename" | "filename*" => field.is_file = true,
                _ => {}
            }
        }
        field.name = named.ok_or(NAME)?;
    }
    if !found || is_ambiguous(&field.name) {
        return Err(NAME);
    }
    Ok(field)
}

/// Whether some readers would take the name for `model`, and others would not.
fn is_ambiguous(name: &str) -> bool {
    name != "model" && plain_name(name).trim() == "model"
}

/// The name without escapes: RFC 7578 percent-encodes, older clients write a backslash.
fn plain_name(name: &str) -> String {
    let bytes = percent_decode(name.as_bytes()).filter(|byte| *byte != b'\\');
    String::from_utf8_lossy(&bytes.collect::<Vec<u8>>()).into_owned()
}

/// A part of a form that may be malformed, with every name that a reader could give it.
pub(crate) struct LoosePart<'a> {
    /// Every name that a reader could give the part; empty if it has none.
    pub(crate) names: Vec<String>,
    /// Every reader takes the part for a file.
    pub(crate) is_file: bool,
    pub(crate) value: &'a [u8],
}

/// Calls `take` with each part of a form. Every line that begins with two dashes counts as a boundary.
pub(crate) fn each_part(body: &[u8], mut take: impl FnMut(&LoosePart<'_>)) {
    let first = body.starts_with(b"--").then_some(0);
    let others = memmem::find_iter(body, b"\n--").map(|at| at + 1);
    let mut boundaries = first.into_iter().chain(others).peekable();
    while let Some(start) = boundaries.next() {
        let end = boundaries.peek().copied().unwrap_or(body.len());
        let (head, value) = split_loose_head(&body[start..end]);
        let (names, is_file) = match field(head.trim_ascii_end()) {
            Ok(field) => (vec![plain_name(&field.name)], field.is_file),
            Err(_) => (possible_names(head), false),
        };
        take(&LoosePart {
            names,
            is_file,
            value,
        });
    }
}

/// The head of a part without its boundary's line, and what follows the first blank line.
fn split_loose_head(part: &[u8]) -> (&[u8], &[u8]) {
    let mut ends = memchr::memchr_iter(b'\n', part).map(|end| end + 1);
    let start = ends.next().unwrap_or(part.len());
    let mut line = start;
    for end in ends {
        if part[line..end].trim_ascii().is_empty() {
            return (&part[start..line], &part[end..]);
        }
        line = end;
    }
    (&part[start..], &[])
}

/// The values of all parameters `name` and `name*` in a head that can be read in several ways.
fn possible_names(head: &[u8]) -> Vec<String> {
    let head = String::from_utf8_lossy(head);
    let mut names = Vec::new();
    for (key, value) in head
        .split([';', '\n'])
        .filter_map(|pair| pair.split_once('='))
    {
        let key = key
            .trim()
            .rsplit([':', ' ', '\t'])
            .next()
            .unwrap_or_default();
        if key.trim_end_matches('*').eq_ignore_ascii_case("name") {
            let value = value.trim().trim_matches('"');
            // `name*=UTF-8''…`
            let value = value.rsplit('\'').next().unwrap_or_default();
            names.push(plain_name(value));
        }
    }
    names
}

/// Reads `; a=b; c="d"` into pairs. A quoted value keeps its escapes, except `\"`. `None` if it is malformed.
fn parameters(text: &str) -> Option<Vec<(&str, String)>> {
    let mut pairs = Vec::new();
    let mut rest = text.trim_start_matches([' ', '\t', ';']);
    while !rest.is_empty() {
        let (name, after) = rest.split_once('=')?;
        let (name, after) = (name.trim(), after.trim_start());
        if name.contains(['"', ';']) {
            return None;
        }
        let (value, after) = match after.strip_prefix('"') {
            Some(quoted) => {
                let end = closing_quote(quoted)?;
                (quoted[..end].replace("\\\"", "\""), &quoted[end + 1..])
            }
            None => {
                let end = after.find(';').unwrap_or(after.len());
                (after[..end].trim_end().to_owned(), &after[end..])
            }
        };
        pairs.push((name, value));
        let after = after.trim_start();
        if !after.is_empty() && !after.starts_with(';') {
            return None;
        }
        rest = after.trim_start_matches([' ', '\t', ';']);
    }
    Some(pairs)
}

/// The end of a quoted string. A quote after an odd number of backslashes does not end it.
fn closing_quote(text: &str) -> Option<usize> {
    let mut escaped = false;
    text.bytes().position(|byte| {
        let ends = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        ends
    })
}

#[cfg(test)]
mod tests;
