//! Collections of objects that a provider keeps, such as files and batches: which calls there are below one, in every
//! protocol.
//!
//! Must never know what an id looks like, or which responses contain one.

use http::header::CONTENT_TYPE;
use http::{HeaderMap, Method};

use super::{Endpoint, Lookup, ModelIn, Protocol, Repeat};

/// Words that follow a collection and are not ids: calls that create objects too.
const CREATING_WORDS: [&str; 4] = ["runs", "edits", "extensions", "characters"];

/// A collection: where its path begins, below the version, and what may be done there.
pub(super) struct Collection {
    pub(super) at: &'static str,
    /// `POST` creates an object.
    pub(super) creates: bool,
    /// `GET` lists the objects of all callers.
    pub(super) lists: bool,
    /// Requests may name a model.
    pub(super) names_model: bool,
    /// Its objects may run models that a request does not name.
    pub(super) hides_model: bool,
}

impl Collection {
    /// One whose objects are created and listed.
    pub(super) const fn new(at: &'static str) -> Self {
        Self {
            at,
            creates: true,
            lists: true,
            names_model: false,
            hides_model: false,
        }
    }

    pub(super) const fn naming_model(self) -> Self {
        Self {
            names_model: true,
            ..self
        }
    }

    pub(super) const fn hiding_model(self) -> Self {
        Self {
            names_model: true,
            hides_model: true,
            ..self
        }
    }

    pub(super) const fn without_list(self) -> Self {
        Self {
            lists: false,
            ..self
        }
    }

    /// One whose objects other calls create.
    pub(super) const fn without_creation(self) -> Self {
        Self {
            creates: false,
            ..self
        }
    }

    /// What follows this collection in `path`, with the slash; `None` if the path is elsewhere or has an empty segment.
    pub(super) fn below<'p>(&self, path: &'p str) -> Option<&'p str> {
        let below = path.strip_prefix('/')?.strip_prefix(self.at)?;
        let is_below = match below.strip_prefix('/') {
            Some(segments) => {
                let is_none = |segment: &str| segment.is_empty() || segment.starts_with(':');
                !segments.split('/').any(is_none)
            }
            None => below.is_empty(),
        };
        is_below.then_some(below)
    }

    /// What a call of the collection (`below` is empty) or of something in it calls.
    pub(super) fn lookup(
        &self,
        protocol: Protocol,
        method: &Method,
        below: &str,
        headers: &HeaderMap,
    ) -> Lookup {
        let model = match self.names_model && *method != Method::GET {
            true => optional_model(headers),
            false => ModelIn::Nowhere,
        };
        let word = below.trim_start_matches('/');
        if !below.is_empty() && !CREATING_WORDS.contains(&word) {
            return Lookup::Endpoint(Endpoint {
                model,
                hides_model: self.hides_model,
                ..of_object(protocol, method)
            });
        }
        let lists = self.lists && below.is_empty();
        match *method {
            Method::POST if self.creates => Lookup::Endpoint(Endpoint {
                model,
                hides_model: self.hides_model,
                ..creation(protocol)
            }),
            Method::GET if lists => Lookup::Endpoint(list(protocol)),
            _ => Lookup::MethodNotAllowed(
                protocol,
                match (self.creates, lists) {
                    (true, true) => "GET, POST",
                    (true, false) => "POST",
                    (false, _) => "GET",
                },
            ),
        }
    }
}

/// A list of objects. It shows those of all callers, so it is one of the provider's own paths.
fn list(protocol: Protocol) -> Endpoint {
    Endpoint {
        native: true,
        objects: true,
        ..Endpoint::get(protocol)
    }
}

/// Creates an object.
pub(super) fn creation(protocol: Protocol) -> Endpoint {
    Endpoint {
        repeat: Repeat::Never,
        objects: true,
        requires_objects: true,
        ..Endpoint::get(protocol)
    }
}

/// A call of an object, or of something below it.
pub(super) fn of_object(protocol: Protocol, method: &Method) -> Endpoint {
    let is_read = matches!(*method, Method::GET | Method::HEAD);
    Endpoint {
        by_object: true,
        repeat: if is_read { Repeat::Safe } else { Repeat::Never },
        ..creation(protocol)
    }
}

/// Where a call that need not name a model may name one.
pub(super) fn optional_model(headers: &HeaderMap) -> ModelIn {
    match is_json(headers) {
        true => ModelIn::OptionalBody,
        false => ModelIn::Nowhere,
    }
}

/// Whether the body is JSON, as `Content-Type` says.
pub(super) fn is_json(headers: &HeaderMap) -> bool {
    is_media_type(headers, "application/json")
}

/// Whether the body is a form with parts.
pub(super) fn is_form(headers: &HeaderMap) -> bool {
    is_media_type(headers, "multipart/form-data")
}

fn is_media_type(headers: &HeaderMap, expect: &str) -> bool {
    let value = headers.get(CONTENT_TYPE);
    let Some(value) = value.and_then(|value| value.to_str().ok()) else {
        return false;
    };
    let media_type = value.split(';').next().unwrap_or_default().trim();
    media_type.eq_ignore_ascii_case(expect)
}
