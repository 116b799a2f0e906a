//! Finds the usage in a provider's response, in whatever form and pieces it comes.
//!
//! Most lines of a stream have none, and are only searched for one word. Must never hold a byte back.

use std::sync::LazyLock;

use bytes::Bytes;
use memchr::memmem;

use super::counts::{Counts, Names, Usage};
use super::find::{ObjectFinder, Visit};
use crate::protocol::Protocol;
use crate::read::json_text::JsonText;

/// How the line of an event begins that has its data.
const DATA: &[u8] = b"data:";
/// Maximum size of a document that is read at once, in bytes.
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
    /// The first piece of a body, if it may be all of it.
    first: Option<Bytes>,
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
            Protocol::OpenAi
                if path.ends_with("/completions")
                    || path.ends_with("/responses")
                    || path.ends_with("/responses/compact")
                    || has("/images/")
                    || has("/audio/") =>
            {
                Some(Self::OpenAi)
            }
            Protocol::OpenAi if has("/embeddings") || path.ends_with("/rerank") => {
                Some(Self::InputOnly)
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
            first: None,
            counts: Counts::default(),
        }
    }

    /// Whether nothing in a piece of an event stream can be the usage, so that its lines need not be passed to this.
    pub fn may_skip(&self, piece: &[u8]) -> bool {
        // Whole lines only: of a line that goes on in another piece, both must be read.
        self.line == LineStart::Matched(0)
            && matches!(piece.last(), Some(b'\n' | b'\r'))
            && !may_have_usage(piece)
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
        self.feed(text);
        if is_last {
            self.line = LineStart::Matched(0);
        }
    }

    /// Takes a piece of a JSON body. The first one is kept until it is known whether it is all.
    pub fn read_body(&mut self, piece: &Bytes) {
        match self.first.take() {
            None if self.finder.is_at_start() && piece.len() <= SMALL => {
                self.first = Some(piece.clone());
            }
            first => {
                self.feed(first.as_deref().unwrap_or_default());
                self.feed(piece);
            }
        }
    }

    /// What the provider has said so far. Of a response that was cut off, running figures are those of the part that came.
    /// `is_whole`: it was not cut off.
    pub fn usage(&mut self, is_whole: bool) -> Usage {
        match self.first.take() {
            Some(body) if is_whole => self.read_document(&body),
            first => self.feed(first.as_deref().unwrap_or_default()),
        }
        self.counts.usage()
    }

    /// Reads a whole document.
    fn read_document(&mut self, document: &[u8]) {
        if self.read_top(document).is_none() {
            self.finder.restart();
            self.feed(document);
        }
    }

    /// Reads the usage at the top of a whole document, where most have it. What comes before it need not be read: it is at
    /// the top if the object around it ends with the document.
    fn read_top(&mut self, document: &[u8]) -> Option<()> {
        static NAMES: LazyLock<[memmem::Finder<'static>; 2]> =
            LazyLock::new(|| ["\"usage\"", "\"usageMetadata\""].map(memmem::Finder::new));
        let document = document.trim_ascii_start();
        if document.len() > SMALL || !document.starts_with(b"{") {
            return None;
        }
        let name = &NAMES[usize::from(self.form == UsageForm::Gemini)];
        let start = name.find_iter(document).last()?;
        // In a text, its last quote would be escaped too. At the end of a text or a name, only its first one is.
        if document[start - 1] == b'\\' {
            return None;
        }
        let mut text = JsonText::new(&document[start + name.needle().len()..]);
        text.take(b':')?;
        let mut counts = self.counts;
        counts.read(names(self.form, Place::Document(self.form)), &mut text)?;
        text.skip_rest()?;
        text.is_at_end().then(|| self.counts = counts)
    }

    fn feed(&mut self, piece: &[u8]) {
        let (form, counts) = (self.form, &mut self.counts);
        self.finder.feed(piece, |place, object| {
            counts.read(names(form, place), &mut JsonText::new(object));
        });
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
            self.feed(text);
        }
        if is_last {
            self.line = LineStart::Matched(0);
        }
    }
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
