//! Finds objects at known places of a JSON document that comes piece by piece.
//!
//! Everything else is skipped, so no text of the document can be mistaken for a field, and only the object itself is kept.
//!
//! Must never judge whether a document is JSON: of one that is not, it finds something or nothing.

use crate::read::json_text;

/// Maximum length of an object that is kept, in bytes. A longer one is skipped.
const MAX_OBJECT: usize = 16 * 1024;
/// Maximum length of a field's name that is compared, in bytes. A longer one is none of those asked for.
const MAX_NAME: usize = 32;

/// What to do with the value of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Visit<P> {
    Skip,
    /// It is the object that is asked for.
    Take,
    /// Its fields are looked at. Of a list, those of its objects.
    Enter(P),
}

/// Follows one document. `P` names the places whose fields are looked at.
#[derive(Debug)]
pub(super) struct ObjectFinder<P> {
    /// What to do with a field, given its place and its name.
    visit: fn(P, &[u8]) -> Visit<P>,
    root: P,
    /// The objects and lists that were entered.
    entered: Vec<Entered<P>>,
    state: State<P>,
    /// The name of the current field, as written.
    name: Vec<u8>,
    /// What has come of the object to take.
    taken: Vec<u8>,
}

#[derive(Clone, Copy, Debug)]
struct Entered<P> {
    place: P,
    is_list: bool,
}

#[derive(Clone, Copy, Debug)]
enum State<P> {
    /// Nothing but blanks has come.
    Start,
    /// Inside of what was entered last, between values.
    Between,
    Name {
        is_escaped: bool,
    },
    /// After a name, before its colon.
    Colon,
    /// A value must follow.
    Value(Visit<P>),
    /// In a string that is skipped.
    Text {
        is_escaped: bool,
    },
    /// In an object or a list that is skipped or taken.
    Inside(Inside),
    /// The document has ended, or is none.
    End,
}

#[derive(Clone, Copy, Debug)]
struct Inside {
    open: u8,
    close: u8,
    depth: u32,
    in_string: bool,
    /// The next byte is escaped by a backslash.
    is_escaped: bool,
    is_taken: bool,
}

impl<P: Copy> ObjectFinder<P> {
    /// `root`: the place of the document itself.
    pub(super) fn new(root: P, visit: fn(P, &[u8]) -> Visit<P>) -> Self {
        Self {
            visit,
            root,
            entered: Vec::new(),
            state: State::Start,
            name: Vec::new(),
            taken: Vec::new(),
        }
    }

    /// Whether nothing of the document has come.
    pub(super) fn is_at_start(&self) -> bool {
        matches!(self.state, State::Start)
    }

    /// A new document begins.
    pub(super) fn restart(&mut self) {
        self.entered.clear();
        self.taken.clear();
        self.state = State::Start;
    }

    /// Takes a piece of the document. Each object is passed to `on_object` once it is whole, with its place.
    pub(super) fn feed(&mut self, piece: &[u8], mut on_object: impl FnMut(P, &[u8])) {
        let mut rest = piece;
        while !rest.is_empty() {
            let read = match self.state {
                State::End => return,
                State::Text { is_escaped } => self.read_text(rest, is_escaped),
                State::Name { is_escaped } => self.read_name(rest, is_escaped),
                State::Inside(inside) => self.read_inside(rest, inside, &mut on_object),
                State::Start | State::Between | State::Colon | State::Value(_) => {
                    self.read_sign(rest)
                }
            };
            rest = &rest[read..];
        }
    }

    /// Reads up to the next byte that has a meaning between values.
    fn read_sign(&mut self, text: &[u8]) -> usize {
        let is_blank = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\r' | b'\n');
        let found = match self.state {
            // Scalars are passed over like blanks.
            State::Between => text
                .iter()
                .position(|byte| matches!(byte, b'"' | b'{' | b'[' | b'}' | b']')),
            _ => text.iter().position(|byte| !is_blank(byte)),
        };
        let Some(at) = found else {
            return text.len();
        };
        let sign = text[at];
        match self.state {
            State::Start => self.begin_document(sign),
            State::Colon => {
                let place = self.entered.last().map_or(self.root, |last| last.place);
                self.state = match sign {
                    b':' => State::Value((self.visit)(place, &self.name)),
                    _ => State::End,
                };
            }
            State::Value(visit) if matches!(sign, b'"' | b'{' | b'[') => {
                self.begin_value(sign, visit);
            }
            // It belongs to a scalar, or ends what was entered.
            State::Value(_) => {
                self.state = State::Between;
                return at;
            }
            _ => self.read_between(sign),
        }
        at + 1
    }

    fn begin_document(&mut self, sign: u8) {
        match sign {
            b'{' | b'[' => self.begin_value(sign, Visit::Enter(self.root)),
            _ => self.state = State::End,
        }
    }

    fn read_between(&mut self, sign: u8) {
        let Some(last) = self.entered.last().copied() else {
            self.state = State::End;
            return;
        };
        match (sign, last.is_list) {
            (b'"', false) => {
                self.name.clear();
                self.state = State::Name { is_escaped: false };
            }
            (b'}', false) | (b']', true) => {
                self.entered.pop();
                self.state = match self.entered.is_empty() {
                    true => State::End,
                    false => State::Between,
                };
            }
            (b'"', true) => self.begin_value(sign, Visit::Skip),
            (b'{', true) => self.begin_value(sign, Visit::Enter(last.place)),
            (b'[', true) => self.begin_value(sign, Visit::Skip),
            _ => self.state = State::End,
        }
    }

    fn begin_value(&mut self, sign: u8, visit: Visit<P>) {
        self.state = match (sign, visit) {
            (b'"', _) => State::Text { is_escaped: false },
            (_, Visit::Enter(place)) => {
                let is_list = sign == b'[';
                self.entered.push(Entered { place, is_list });
                State::Between
            }
            (_, Visit::Skip | Visit::Take) => {
                let is_taken = visit_takes(sign, &visit);
                if is_taken {
                    self.taken.clear();
                    self.taken.push(sign);
                }
                State::Inside(Inside {
                    open: sign,
                    close: if sign == b'{' { b'}' } else { b']' },
                    depth: 1,
                    in_string: false,
                    is_escaped: false,
                    is_taken,
                })
            }
        };
    }

    /// Reads a string to its end.
    fn read_text(&mut self, text: &[u8], is_escaped: bool) -> usize {
        let (end, is_escaped) = string_end(text, is_escaped);
        self.state = match end {
            Some(_) => State::Between,
            None => State::Text { is_escaped },
        };
        end.map_or(text.len(), |end| end + 1)
    }

    fn read_name(&mut self, text: &[u8], is_escaped: bool) -> usize {
        let (end, is_escaped) = string_end(text, is_escaped);
        let part = &text[..end.unwrap_or(text.len())];
        // One byte more than a name may have, so that a longer one matches none.
        let room = (MAX_NAME + 1).saturating_sub(self.name.len());
        self.name.extend_from_slice(&part[..part.len().min(room)]);
        self.state = match end {
            Some(_) => State::Colon,
            None => State::Name { is_escaped },
        };
        end.map_or(text.len(), |end| end + 1)
    }

    fn read_inside(
        &mut self,
        text: &[u8],
        mut inside: Inside,
        on_object: &mut impl FnMut(P, &[u8]),
    ) -> usize {
        let end = inside.end(text);
        let read = end.unwrap_or(text.len());
        if inside.is_taken {
            // One byte more than an object may have, so that a longer one is known.
            let room = (MAX_OBJECT + 1).saturating_sub(self.taken.len());
            self.taken.extend_from_slice(&text[..read.min(room)]);
        }
        self.state = match end {
            Some(_) => State::Between,
            None => State::Inside(inside),
        };
        if end.is_some() && inside.is_taken && self.taken.len() <= MAX_OBJECT {
            let place = self.entered.last().map_or(self.root, |last| last.place);
            on_object(place, &self.taken);
        }
        read
    }
}

fn visit_takes<P>(sign: u8, visit: &Visit<P>) -> bool {
    sign == b'{' && matches!(visit, Visit::Take)
}

impl Inside {
    /// The offset just past the end of the object or list; `None` if `text` ends before.
    fn end(&mut self, text: &[u8]) -> Option<usize> {
        let mut at = 0;
        loop {
            if self.in_string {
                let (end, is_escaped) = string_end(&text[at..], self.is_escaped);
                self.is_escaped = is_escaped;
                at += end? + 1;
                self.in_string = false;
            }
            let sign = json_text::quote_or_bracket(text, at, [self.open, self.close])?;
            at = sign + 1;
            match text[sign] {
                b'"' => self.in_string = true,
                byte if byte == self.open => self.depth = self.depth.saturating_add(1),
                _ => self.depth -= 1,
            }
            if self.depth == 0 {
                return Some(at);
            }
        }
    }
}

/// The position of the quote that ends a string; and if there is none, whether the next byte is escaped by a backslash.
fn string_end(text: &[u8], is_escaped: bool) -> (Option<usize>, bool) {
    let end = json_text::string_end(text, usize::from(is_escaped)).at;
    ((end < text.len()).then_some(end), end > text.len())
}
