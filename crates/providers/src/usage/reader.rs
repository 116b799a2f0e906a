//! Finds the usage in a provider's response, in whatever form and pieces it comes.
//!
//! Most lines of a stream have none, and are only searched for one word. Must never hold a byte back.

use std::sync::LazyLock;

use memchr::{memchr3, memmem};

use super::counts::{Counts, Names, Usage};
use super::find::{ObjectFinder, Visit, string_end};
use crate::protocol::Protocol;

/// How the line of an event begins that has its data.
const DATA: &[u8] = b"data:";
/// Documents up to this size, in bytes, are read at once.
const SMALL: usize = 16 * 1024;

/// In which form responses state their usage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UsageForm {
    /// OpenAI's, and that of all OpenAI-like providers.
    OpenAi,
    /// The same for embeddings and rankings, Gemini's too, where only the input counts.
    InputOnly,
    /// Anthropic's messages.
    Anthropic,
    /// Gemini's.
    Gemini,
}

/// Finds the usage in one response: in the lines of an event stream, the elements of a list, or the pieces of a body.
#[derive(Debug)]
pub struct UsageReader {
    form: UsageForm,
    finder: ObjectFinder<Place>,
    line: LineStart,
    counts: Counts,
}

/// A place in a response that may have a usage object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// The response or the event itself.
    Document(UsageForm),
    /// A part of it that stands for the whole: `response`, `x_groq`, `interaction`.
    Inner,
    /// One of `choices`: Moonshot's last chunk has the usage there.
    Choice,
    /// `message` in the first event of Anthropic's streams.
    Start,
    /// `meta` of a ranking.
    Meta,
}

/// How much of `data:` has come of a line that comes in parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LineStart {
    Matched(usize),
    /// It is another line.
    Other,
}

impl UsageForm {
    /// The form in which calls of an endpoint report their usage, by the client's path; `None` if they report no tokens.
    pub fn of(protocol: Protocol, path: &str) -> Option<Self> {
        let has = |part| path.contains(part);
        match protocol {
            Protocol::OpenAi if has("/embeddings") || path.ends_with("/rerank") => {
                Some(Self::InputOnly)
            }
            Protocol::OpenAi
                if path.ends_with("/completions")
                    || path.ends_with("/responses")
                    || path.ends_with("/responses/compact")
                    || has("/images/")
                    || has("/audio/") =>
            {
                Some(Self::OpenAi)
            }
            Protocol::Anthropic if path.ends_with("/messages") => Some(Self::Anthropic),
            Protocol::Gemini if has(":embed") || has("EmbedContent") => Some(Self::InputOnly),
            Protocol::Gemini if has(":") || path.ends_with("/interactions") => Some(Self::Gemini),
            _ => None,
        }
    }
}

impl UsageReader {
    /// A reader of one response.
    pub fn new(form: UsageForm) -> Self {
        Self {
            form,
            finder: ObjectFinder::new(Place::Document(form), visit),
            line: LineStart::Matched(0),
            counts: Counts::default(),
        }
    }

    /// Takes a part of a line of an event stream; with `is_last` the line ends with it.
    #[inline]
    pub fn read_line(&mut self, text: &[u8], is_last: bool) {
        if is_last && self.line == LineStart::Matched(0) {
            if let Some(data) = text.strip_prefix(DATA).filter(|data| may_have_usage(data)) {
                self.read_document(data);
            }
            return;
        }
        self.read_part_of_line(text, is_last);
    }

    /// Takes a part of an element of a list, which is the data of an event; with `is_last` the element ends with it.
    pub fn read_element(&mut self, text: &[u8], is_last: bool) {
        if is_last && self.line == LineStart::Matched(0) {
            if may_have_usage(text) {
                self.read_document(text);
            }
            return;
        }
        if self.line == LineStart::Matched(0) {
            self.finder.restart();
            self.line = LineStart::Matched(DATA.len());
        }
        self.read_body(text);
        if is_last {
            self.line = LineStart::Matched(0);
        }
    }

    /// Takes a piece of a JSON body.
    pub fn read_body(&mut self, piece: &[u8]) {
        if self.finder.is_at_start() && self.read_whole(piece) {
            return;
        }
        let (form, counts) = (self.form, &mut self.counts);
        self.finder.feed(piece, |place, object| {
            counts.read(names(form, place), object);
        });
    }

    /// What the provider has said so far. Of a stream that was cut off, running figures are those of the part that came.
    pub fn usage(&self) -> Usage {
        self.counts.usage()
    }

    /// Reads a document that is small, came whole, and has its usage at the top, as most do.
    fn read_whole(&mut self, document: &[u8]) -> bool {
        static NAMES: LazyLock<[memmem::Finder<'static>; 2]> =
            LazyLock::new(|| ["\"usage\"", "\"usageMetadata\""].map(memmem::Finder::new));
        if document.len() > SMALL || !document.starts_with(b"{") {
            return false;
        }
        let name = &NAMES[usize::from(self.form == UsageForm::Gemini)];
        // Quotes within a text are escaped, so this is a string of its own: a name if a colon follows.
        let name = name
            .find_iter(document)
            .last()
            .map(|at| at + name.needle().len());
        let Some(usage) = name.and_then(|end| object_at_the_top(document, end)) else {
            return false;
        };
        let place = Place::Document(self.form);
        self.counts.read(names(self.form, place), usage);
        self.finder.end();
        true
    }

    fn read_document(&mut self, document: &[u8]) {
        self.finder.restart();
        self.read_body(document);
    }

    fn read_part_of_line(&mut self, mut text: &[u8], is_last: bool) {
        while let (LineStart::Matched(matched), Some((first, rest))) =
            (self.line, text.split_first())
        {
            if matched == DATA.len() {
                break;
            }
            self.line = match DATA[matched] == *first {
                true => LineStart::Matched(matched + 1),
                false => LineStart::Other,
            };
            text = rest;
            if self.line == LineStart::Matched(DATA.len()) {
                self.finder.restart();
            }
        }
        if self.line == LineStart::Matched(DATA.len()) {
            self.read_body(text);
        }
        if is_last {
            self.line = LineStart::Matched(0);
        }
    }
}

/// The object that follows the name that ends at `name`, if the document is whole and the name one of its own.
fn object_at_the_top(document: &[u8], name: usize) -> Option<&[u8]> {
    let value = document[name..].trim_ascii_start().strip_prefix(b":")?;
    let value = value.trim_ascii_start();
    if !value.starts_with(b"{") {
        return None;
    }
    let start = document.len() - value.len();
    let (mut depth, mut end) = (0, None);
    for (at, change) in braces(document) {
        if at == start + 1 && depth != 1 {
            return None;
        }
        depth += change;
        if at > start + 1 && depth == 1 && end.is_none() {
            end = Some(at);
        }
    }
    let is_whole = depth == 0 && document.trim_ascii_end().ends_with(b"}");
    document.get(start..end?).filter(|_| is_whole)
}

/// The braces of a JSON text outside of strings: the offset after each, and by how much it changes the depth.
fn braces(text: &[u8]) -> impl Iterator<Item = (usize, i32)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        loop {
            let found = memchr3(b'"', b'{', b'}', text.get(at..)?)?;
            let sign = text[at + found];
            at += found + 1;
            match sign {
                b'{' => return Some((at, 1)),
                b'}' => return Some((at, -1)),
                _ => at += string_end(&text[at..], false).0? + 1,
            }
        }
    })
}

/// Whether the data of an event has a field that may be the usage, and that is not null.
fn may_have_usage(data: &[u8]) -> bool {
    static USAGE: LazyLock<memmem::Finder<'static>> =
        LazyLock::new(|| memmem::Finder::new("\"usage"));
    let mut found = USAGE.find_iter(data);
    found.any(|at| !data[at + USAGE.needle().len()..].starts_with(b"\":null"))
}

/// Which fields may lead to the usage.
fn visit(place: Place, name: &[u8]) -> Visit<Place> {
    use UsageForm::{Anthropic, Gemini, InputOnly, OpenAi};
    match (place, name) {
        (Place::Document(Gemini), b"usageMetadata" | b"usage")
        | (Place::Document(OpenAi | InputOnly | Anthropic), b"usage")
        | (Place::Inner, b"usage" | b"usageMetadata")
        | (Place::Choice | Place::Start, b"usage")
        | (Place::Document(InputOnly) | Place::Meta, b"tokens")
        | (Place::Document(InputOnly), b"usageMetadata") => Visit::Take,
        (Place::Document(OpenAi), b"response" | b"x_groq")
        | (Place::Document(Gemini), b"response" | b"interaction") => Visit::Enter(Place::Inner),
        (Place::Document(OpenAi), b"choices") => Visit::Enter(Place::Choice),
        (Place::Document(Anthropic), b"message") => Visit::Enter(Place::Start),
        (Place::Document(InputOnly), b"meta") => Visit::Enter(Place::Meta),
        _ => Visit::Skip,
    }
}

fn names(form: UsageForm, place: Place) -> Names {
    match (form, place) {
        (UsageForm::OpenAi, _) => Names::OpenAi,
        (UsageForm::InputOnly, _) => Names::InputOnly,
        (UsageForm::Anthropic, Place::Start) => Names::AnthropicStart,
        (UsageForm::Anthropic, _) => Names::Anthropic,
        (UsageForm::Gemini, _) => Names::Gemini,
    }
}
