//! What the lines of a batch must look like.

use std::collections::HashSet;

use bytes::Bytes;
use keypool_core::secret::Digest256;
use keypool_providers::peek;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::input::{Line, MAX_LINE};

/// Maximum number of calls in a batch.
pub(super) const MAX_CALLS: u64 = 50_000;
/// Maximum number of mistakes that are named.
const MAX_MISTAKES: usize = 100;
/// Maximum length of the caller's name for a call, in bytes.
const MAX_CUSTOM_ID: usize = 512;

/// A line of a batch's file.
#[derive(Deserialize)]
pub(super) struct InputLine<'a> {
    pub(super) custom_id: Option<String>,
    method: Option<String>,
    url: Option<String>,
    #[serde(borrow)]
    pub(super) body: Option<&'a RawValue>,
}

/// A mistake in a batch's file, as in OpenAI's Batch API.
#[derive(Debug, Serialize)]
pub(super) struct Mistake {
    code: &'static str,
    message: String,
    param: Option<&'static str>,
    /// The line's number, from 1; `None`: it is about the whole file.
    line: Option<u64>,
}

/// All mistakes in a batch's file.
#[derive(Serialize)]
pub(super) struct Mistakes {
    object: &'static str,
    data: Vec<Mistake>,
}

/// What a line calls.
pub(super) struct CheckedCall {
    pub(super) body: Bytes,
    pub(super) model: String,
}

/// Checks line after line.
pub(super) struct Checker<'a> {
    endpoint: &'a str,
    /// Hashes of the names of the calls so far.
    names: HashSet<Digest256>,
    pub(super) calls: u64,
    pub(super) mistakes: Mistakes,
}

impl Mistakes {
    pub(super) fn is_empty(&self) -> bool {
        self.data.is_empty()
    }

    /// Whether no further one is named.
    pub(super) fn are_enough(&self) -> bool {
        self.data.len() >= MAX_MISTAKES
    }

    pub(super) fn add(
        &mut self,
        line: Option<u64>,
        code: &'static str,
        param: Option<&'static str>,
        message: impl Into<String>,
    ) {
        self.data.push(Mistake {
            code,
            message: message.into(),
            param,
            line,
        });
    }

    /// Its JSON.
    pub(super) fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

impl<'a> Checker<'a> {
    /// For calls of this path.
    pub(super) fn new(endpoint: &'a str) -> Self {
        Self {
            endpoint,
            names: HashSet::new(),
            calls: 0,
            mistakes: Mistakes {
                object: "list",
                data: Vec::new(),
            },
        }
    }

    /// The call of a line that is not blank; `None` if it has a mistake, which is noted.
    pub(super) fn check(&mut self, line: &Line) -> Option<CheckedCall> {
        self.calls += 1;
        let number = Some(line.number);
        if line.text.len() > MAX_LINE {
            let message = format!("the line is longer than {MAX_LINE} bytes");
            self.mistakes.add(number, "line_too_long", None, message);
            return None;
        }
        let read: InputLine<'_> = match serde_json::from_slice(&line.text) {
            Ok(read) => read,
            Err(error) => {
                let message = format!("the line is no JSON object of a call: {error}");
                self.mistakes
                    .add(number, "invalid_json_line", None, message);
                return None;
            }
        };
        let before = self.mistakes.data.len();
        self.check_name(number, read.custom_id.as_deref());
        self.check_address(number, &read);
        let call = self.check_body(line, read.body);
        call.filter(|_| self.mistakes.data.len() == before)
    }

    fn check_name(&mut self, line: Option<u64>, name: Option<&str>) {
        let mistakes = &mut self.mistakes;
        let param = Some("custom_id");
        match name {
            None | Some("") => mistakes.add(
                line,
                "missing_required_parameter",
                param,
                "`custom_id` is missing: give each call a name of its own",
            ),
            Some(name) if name.len() > MAX_CUSTOM_ID => {
                let message = format!("`custom_id` has more than {MAX_CUSTOM_ID} bytes");
                mistakes.add(line, "invalid_custom_id", param, message);
            }
            Some(name) if !self.names.insert(Digest256::of(name.as_bytes())) => {
                let message =
                    "an earlier line has the same `custom_id`: give each call a name of its own";
                mistakes.add(line, "duplicate_custom_id", param, message);
            }
            Some(_) => {}
        }
    }

    fn check_address(&mut self, line: Option<u64>, read: &InputLine<'_>) {
        let mistakes = &mut self.mistakes;
        match read.method.as_deref() {
            Some("POST") => {}
            None => mistakes.add(
                line,
                "missing_required_parameter",
                Some("method"),
                "`method` is missing: it is \"POST\"",
            ),
            Some(_) => mistakes.add(
                line,
                "invalid_method",
                Some("method"),
                "`method` must be \"POST\"",
            ),
        }
        match read.url.as_deref() {
            Some(url) if url == self.endpoint => {}
            None => {
                let message = format!("`url` is missing: it is \"{}\"", self.endpoint);
                mistakes.add(line, "missing_required_parameter", Some("url"), message);
            }
            Some(_) => {
                let message = format!("`url` must be the batch's endpoint, \"{}\"", self.endpoint);
                mistakes.add(line, "invalid_url", Some("url"), message);
            }
        }
    }

    fn check_body(&mut self, line: &Line, body: Option<&RawValue>) -> Option<CheckedCall> {
        let (mistakes, number) = (&mut self.mistakes, Some(line.number));
        let Some(body) = body.filter(|body| body.get().starts_with('{')) else {
            let message = "`body` is missing, or is no JSON object: it is the body of the call";
            mistakes.add(number, "missing_required_parameter", Some("body"), message);
            return None;
        };
        let body = line.text.slice_ref(body.get().as_bytes());
        let fields = match peek::peek(&body) {
            Ok(fields) => fields,
            Err(error) => {
                mistakes.add(number, "invalid_request", Some("body"), error.to_string());
                return None;
            }
        };
        if fields.stream {
            let message = "a batch has no streams: leave out \"stream\"";
            mistakes.add(number, "invalid_request", Some("body.stream"), message);
            return None;
        }
        let Some(model) = fields
            .model
            .map(|model| model.name)
            .filter(|name| !name.is_empty())
        else {
            let message = "the body has no \"model\": name the model to call";
            mistakes.add(
                number,
                "missing_required_parameter",
                Some("body.model"),
                message,
            );
            return None;
        };
        Some(CheckedCall { body, model })
    }
}
