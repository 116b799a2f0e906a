//! A call: a request that was read, and the few fields of it that matter.
//!
//! It knows nothing of connections, so that a stored request can be made into one too.

mod edits;

use std::borrow::Cow;
use std::ops::Range;

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Uri};
use keypool_core::limit::{Estimates, LimitId};
use keypool_providers::dialect::Dialect;
use keypool_providers::form;
use keypool_providers::objects::{self, ObjectEffect};
use keypool_providers::peek::{self, PeekError};
use keypool_providers::protocol::{self, Endpoint, ModelIn, Protocol, Repeat};
use keypool_providers::response::{StreamEnd, StreamKind};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use super::{MatchedEndpoint, ReceivedBody, TokenGuess};
use crate::error::GatewayError;

/// Longest name of an endpoint, in bytes.
const MAX_ENDPOINT: usize = 64;
/// Longest model name, in bytes.
const MAX_MODEL: usize = 256;
/// What Google writes before a model's name.
const MODELS: &str = "models/";
/// What needs no encoding in a path segment (RFC 3986 §3.3, `pchar`).
const PATH_SEGMENT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b'@');

/// A client request whose body was read.
pub(crate) struct Call<'a> {
    pub(crate) endpoint: MatchedEndpoint<'a>,
    pub(crate) method: &'a Method,
    pub(crate) headers: &'a HeaderMap,
    /// As the client sent it, with the pool's name.
    pub(crate) uri: &'a Uri,
    /// Without a credential; `None` if empty.
    pub(crate) query: Option<String>,
    body: ReceivedBody,
    /// The field of the body that holds a credential. It never goes upstream.
    key_field: Option<Range<usize>>,
    /// The client wants a stream.
    pub(crate) wants_stream: bool,
    /// It may be sent again when it is unknown whether the provider has run it.
    pub(crate) repeatable: bool,
    /// It runs a model. Providers report some failures of such calls inside a response with status 200.
    pub(crate) generates: bool,
    /// What the call does to objects that the provider keeps; `None` if nothing.
    pub(crate) object_effect: Option<ObjectEffect>,
    /// What else the body says.
    pub(crate) fields: peek::Peek,
    /// The tokens that it may use, if a limit needs to know.
    pub(crate) tokens: Option<Box<TokenGuess>>,
    model: Option<NamedModel>,
}

/// The model as the client named it, and where.
struct NamedModel {
    /// Without `models/`.
    name: String,
    /// What comes before the name in the body, and before another one that replaces it.
    prefix: &'static str,
    at: ModelLocation,
}

/// Where the model's name is, as a byte range.
enum ModelLocation {
    Body(Range<usize>),
    Form(Range<usize>),
    Path(Range<usize>),
}

/// What path and body say of the call.
#[derive(Default)]
struct CallFields {
    model: Option<NamedModel>,
    /// What else the body says.
    rest: peek::Peek,
}

impl<'a> Call<'a> {
    /// Reads the fields that matter from path and body. Fails if the request cannot be understood.
    pub(crate) fn new(
        endpoint: MatchedEndpoint<'a>,
        parts: &'a Parts,
        body: ReceivedBody,
    ) -> Result<Self, GatewayError> {
        let fields = CallFields::of(&endpoint, &parts.headers, &body.bytes)?;
        let known = endpoint.known.as_ref();
        let query = parts.uri.query();
        Ok(Self {
            method: &parts.method,
            headers: &parts.headers,
            uri: &parts.uri,
            query: query
                .map(|query| protocol::without_key(query).into_owned())
                .filter(|query| !query.is_empty()),
            wants_stream: fields.rest.stream || known.is_some_and(|known| known.stream_by_path),
            repeatable: is_repeatable(known, &parts.method, fields.rest.store, &body.bytes),
            generates: known.is_some_and(|known| known.generates) && parts.method == Method::POST,
            object_effect: object_effect(&endpoint, &parts.method, fields.rest.store),
            key_field: key_field(endpoint.protocol, &body.bytes, &fields.rest)?,
            model: fields.model,
            fields: fields.rest,
            tokens: None,
            body,
            endpoint,
        })
    }

    pub(crate) fn protocol(&self) -> Protocol {
        self.endpoint.protocol
    }

    /// The path as a client of the endpoint sends it.
    pub(crate) fn path(&self) -> &str {
        &self.endpoint.path
    }

    pub(crate) fn body(&self) -> &Bytes {
        &self.body.bytes
    }

    /// The path for a key's provider. If the model is in it, the key's or the target's model takes its place.
    pub(crate) fn path_for(&self, model: &str) -> Cow<'_, str> {
        let path = self.path();
        match &self.model {
            Some(NamedModel {
                name,
                at: ModelLocation::Path(range),
                ..
            }) if name != model => {
                let encoded = utf8_percent_encode(model, PATH_SEGMENT);
                let (before, after) = (&path[..range.start], &path[range.end..]);
                Cow::Owned(format!("{before}{encoded}{after}"))
            }
            _ => Cow::Borrowed(path),
        }
    }

    /// Guesses how many tokens the call uses, since a limit needs to know.
    pub(crate) fn guess_tokens(
        &mut self,
        estimates: &Estimates,
        caller: LimitId,
        dialect: &Dialect,
    ) {
        if self.generates {
            let model = estimates.model(self.model_name().unwrap_or_default());
            let (endpoint, body) = (&self.endpoint, self.body());
            let guess = TokenGuess::of(endpoint, model, body, &self.fields, dialect, caller);
            self.tokens = guess.map(Box::new);
        }
    }

    /// What a permission of a key may be for: the endpoint's path, without the ids and names that a caller chooses.
    pub(crate) fn endpoint_name(&self) -> &str {
        let path = self.path();
        let known = self.endpoint.known.as_ref();
        let is_fixed = known.is_some_and(|known| {
            known.generates
                && !known.by_object
                && matches!(known.model, ModelIn::Body | ModelIn::Form)
        });
        if is_fixed {
            return path;
        }
        let second = path.match_indices('/').nth(2);
        let name = second.map_or(path, |(at, _)| &path[..at]);
        &name[..name.floor_char_boundary(MAX_ENDPOINT)]
    }

    /// What tells whether a stream that answers the call is complete; `None` if its transfer does.
    pub(crate) fn stream_end(&self) -> Option<StreamEnd> {
        self.endpoint.known.as_ref().filter(|known| !known.native)?;
        let kind = StreamKind::of(self.protocol(), self.path())?;
        // A list of prompts has as many choices.
        let has_prompts = self.path() == "/v1/completions";
        Some(StreamEnd::new(kind, self.fields.has_choices || has_prompts))
    }

    /// Whether the call may run a model that it does not name.
    pub(crate) fn may_run_unnamed_model(&self) -> bool {
        self.endpoint.hides_model() && self.model.is_none() && self.method == Method::POST
    }

    /// Whether this is a known endpoint of objects.
    pub(crate) fn is_about_known_objects(&self) -> bool {
        self.endpoint
            .known
            .as_ref()
            .is_some_and(|known| known.objects)
    }

    /// The model as the client named it, without `models/`; `None` if the call names none.
    pub(crate) fn model_name(&self) -> Option<&str> {
        self.model.as_ref().map(|model| model.name.as_str())
    }
}

/// Whether the call may be sent again when it is unknown whether the provider has run it.
fn is_repeatable(
    known: Option<&Endpoint>,
    method: &Method,
    store: Option<bool>,
    body: &Bytes,
) -> bool {
    match known.map(|known| known.repeat) {
        // A stored response is an object. Here the body must ask for storing.
        Some(Repeat::Safe) => store != Some(true),
        Some(Repeat::Never) => false,
        Some(Repeat::NeverIfStored) => {
            store == Some(false) && !objects::makes_though_not_stored(body)
        }
        None => matches!(*method, Method::GET | Method::HEAD),
    }
}

/// The field with the credential in the body of a protocol whose clients may put it there.
fn key_field(
    protocol: Protocol,
    body: &Bytes,
    fields: &peek::Peek,
) -> Result<Option<Range<usize>>, GatewayError> {
    if protocol != Protocol::Tavily {
        return Ok(None);
    }
    let value = only_key(fields)?;
    Ok(value.map(|value| peek::field_around(body, value)))
}

/// The credential in a body whose clients may put it there; `None` if there is none.
pub(crate) fn key_in_body(body: &Bytes) -> Result<Option<String>, GatewayError> {
    // A body that is not JSON is reported once the caller is known.
    let Ok(fields) = peek::peek(body) else {
        return Ok(None);
    };
    let value = only_key(&fields)?;
    let secret = value.and_then(|value| peek::text_at(body, value));
    Ok(secret.filter(|secret| !secret.is_empty()))
}

fn only_key(fields: &peek::Peek) -> Result<Option<&Range<usize>>, GatewayError> {
    match &fields.api_keys[..] {
        [] => Ok(None),
        [value] => Ok(Some(value)),
        _ => Err(GatewayError::invalid_request(
            "the body has more than one `api_key`: send one, or put the key into the header Authorization",
        )),
    }
}

/// What the call does to objects. Not looked up for calls that cannot do anything to them.
fn object_effect(
    endpoint: &MatchedEndpoint<'_>,
    method: &Method,
    store: Option<bool>,
) -> Option<ObjectEffect> {
    let known = endpoint.known.as_ref();
    let is_about_objects = |known: &Endpoint| known.objects || known.repeat != Repeat::Safe;
    let may_affect = known.is_none_or(is_about_objects) || store == Some(true);
    may_affect
        .then(|| objects::object_effect(endpoint.protocol, method, &endpoint.path, store))
        .flatten()
}

impl CallFields {
    fn of(
        endpoint: &MatchedEndpoint<'_>,
        headers: &HeaderMap,
        body: &Bytes,
    ) -> Result<Self, GatewayError> {
        if endpoint.is_about_objects() && endpoint.upload.is_none() {
            check_native(headers, body)?;
        }
        match &endpoint.known {
            None => Self::of_native(endpoint.protocol, body),
            // Nothing need be in the body.
            Some(known)
                if known.objects && (body.is_empty() || known.model == ModelIn::Nowhere) =>
            {
                Ok(Self::default())
            }
            Some(known) => Self::of_known(known, &endpoint.path, headers, body),
        }
    }

    /// Only a credential counts in the body of a path that only the provider knows. It never goes on, so a body that may
    /// hold one must be readable.
    fn of_native(protocol: Protocol, body: &Bytes) -> Result<Self, GatewayError> {
        let may_hold_key = protocol == Protocol::Tavily
            && ["api_key", "\\u"]
                .iter()
                .any(|sign| memchr::memmem::find(body, sign.as_bytes()).is_some());
        let api_keys = match may_hold_key.then(|| peek::peek(body)) {
            None => Vec::new(),
            Some(Ok(read)) => read.api_keys,
            Some(Err(error)) => return Err(GatewayError::invalid_request(error.to_string())),
        };
        Ok(Self {
            model: None,
            rest: peek::Peek {
                api_keys,
                ..peek::Peek::default()
            },
        })
    }

    fn of_known(
        endpoint: &Endpoint,
        path: &str,
        headers: &HeaderMap,
        body: &Bytes,
    ) -> Result<Self, GatewayError> {
        let mut fields = match endpoint.model {
            ModelIn::Form | ModelIn::OptionalForm => Self::of_form(headers, body)?,
            ModelIn::OptionalBody => Self::of_json(headers, body)?,
            _ if endpoint.json => Self::of_json(headers, body)?,
            _ => Self::default(),
        };
        if let Some(model) = &mut fields.model {
            model.shorten(endpoint.protocol);
        }
        let is_needed = match &endpoint.model {
            ModelIn::Path(range) => {
                fields.model = Some(model_in_path(path, range)?);
                false
            }
            ModelIn::Nowhere => {
                fields.model = None;
                false
            }
            ModelIn::OptionalBody | ModelIn::OptionalForm => false,
            ModelIn::BodyOrPrompt => fields.model.is_none() && !has_prompt(body),
            ModelIn::Body | ModelIn::Form => true,
        };
        match &fields.model {
            None if is_needed && endpoint.json => Err(GatewayError::invalid_request(
                "the body has no \"model\": name the model to call",
            )),
            None if is_needed => Err(GatewayError::invalid_request(
                "the form has no field \"model\": name the model to call",
            )),
            Some(model) if model.name.is_empty() || model.name.len() > MAX_MODEL => Err(
                GatewayError::invalid_request("the model's name is empty or too long"),
            ),
            _ => Ok(fields),
        }
    }

    fn of_json(headers: &HeaderMap, body: &Bytes) -> Result<Self, GatewayError> {
        check_readable(headers)?;
        let mut rest = peek::peek(body).map_err(|error| match error {
            PeekError::NotJson(_) if body.is_empty() => {
                GatewayError::invalid_request("the body is empty: send a JSON object")
            }
            error => GatewayError::invalid_request(error.to_string()),
        })?;
        Ok(Self {
            model: rest.model.take().map(|model| NamedModel {
                name: model.name,
                prefix: "",
                at: ModelLocation::Body(model.range),
            }),
            rest,
        })
    }

    fn of_form(headers: &HeaderMap, body: &Bytes) -> Result<Self, GatewayError> {
        check_readable(headers)?;
        let content_type = headers
            .get(CONTENT_TYPE)
            .map_or(&b""[..], HeaderValue::as_bytes);
        let form = form::peek(content_type, body)
            .map_err(|error| GatewayError::invalid_request(error.to_string()))?;
        Ok(Self {
            model: form.model.map(|model| NamedModel {
                name: model.name,
                prefix: "",
                at: ModelLocation::Form(model.range),
            }),
            rest: peek::Peek {
                stream: form.stream,
                ..peek::Peek::default()
            },
        })
    }
}

impl NamedModel {
    /// Google writes `models/x` for the model `x`. Where Google defines the protocol, the prefix belongs to every name.
    fn shorten(&mut self, protocol: Protocol) {
        let is_in_path = matches!(self.at, ModelLocation::Path(_));
        let applies = !is_in_path && matches!(protocol, Protocol::OpenAi | Protocol::Gemini);
        if applies && let Some(short) = self.name.strip_prefix(MODELS) {
            self.name = short.to_owned();
            if protocol == Protocol::Gemini {
                self.prefix = MODELS;
            }
        }
    }
}

/// Whether the body refers to a stored prompt, which has a model of its own.
fn has_prompt(body: &[u8]) -> bool {
    let text = std::str::from_utf8(body).unwrap_or_default();
    matches!(peek::value_of(text, "prompt"), Some(value) if value.starts_with('{'))
}

fn model_in_path(path: &str, range: &Range<usize>) -> Result<NamedModel, GatewayError> {
    let name = percent_decode_str(&path[range.clone()])
        .decode_utf8()
        .map_err(|_| GatewayError::invalid_request("the model's name in the path is not UTF-8"))?;
    Ok(NamedModel {
        name: name.into_owned(),
        prefix: "",
        at: ModelLocation::Path(range.clone()),
    })
}

/// Rejects a body that cannot be read: one that is compressed, or one with several `Content-Type` headers, since the
/// provider may follow another one than we would.
fn check_readable(headers: &HeaderMap) -> Result<(), GatewayError> {
    let mut codings = headers.get_all(CONTENT_ENCODING).iter();
    if !codings.all(|coding| coding.as_bytes().eq_ignore_ascii_case(b"identity")) {
        return Err(GatewayError::invalid_request(
            "the body is compressed, and what it names cannot be read: send it without Content-Encoding",
        ));
    }
    if headers.get_all(CONTENT_TYPE).iter().nth(1).is_some() {
        return Err(GatewayError::invalid_request(
            "there is more than one Content-Type, and what the body names cannot be read: send one",
        ));
    }
    Ok(())
}

/// The objects that a native call names must be readable.
fn check_native(headers: &HeaderMap, body: &[u8]) -> Result<(), GatewayError> {
    if body.is_empty() {
        return Ok(());
    }
    check_readable(headers)?;
    let media_type = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
    let is_json = media_type.is_none_or(|media| {
        media
            .to_ascii_lowercase()
            .windows(4)
            .any(|part| part == b"json")
    });
    // Zero bytes are a sign of UTF-16 or UTF-32. JSON text never contains them.
    if is_json && (body.contains(&0) || std::str::from_utf8(body).is_err()) {
        return Err(GatewayError::invalid_request(
            "the body is not UTF-8: send JSON as UTF-8",
        ));
    }
    Ok(())
}
