//! One request as the protocols see it: its query, key and body.
//!
//! This module must never know of sockets or steps.

use http::HeaderMap;
use percent_encoding::percent_decode_str;
use serde::Deserialize;

use crate::answer::{ApiError, Protocol, Reply, input_tokens};
use crate::script::Behaviour;
use crate::state::State;

/// A request whose body has been read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call<'a> {
    pub(crate) state: &'a State,
    pub(crate) key: &'a str,
    pub(crate) query: &'a str,
    pub(crate) body: &'a [u8],
    pub(crate) behaviour: &'a Behaviour,
    pub(crate) protocol: Protocol,
}

impl<'a> Call<'a> {
    /// The fields of the JSON body that `T` names.
    pub(crate) fn parse<T: Deserialize<'a>>(&self) -> Result<T, ApiError> {
        serde_json::from_slice(self.body).map_err(|error| {
            ApiError::invalid(format!(
                "We could not parse the JSON body of your request: {error}"
            ))
        })
    }

    /// A generated answer to `said`.
    pub(crate) fn reply(&self, said: &str, max_tokens: Option<u64>) -> Reply {
        Reply::to(said, max_tokens, self.body.len(), self.behaviour)
    }

    /// Input tokens of this body.
    pub(crate) fn input_tokens(&self) -> u64 {
        input_tokens(self.body.len(), self.behaviour)
    }

    /// The usage object to report: the one set, else `usual`.
    pub(crate) fn usage(&self, usual: String) -> String {
        self.behaviour.usage.clone().unwrap_or(usual)
    }

    /// The models to list: those set, else `usual`.
    pub(crate) fn models(&self, usual: &[&str]) -> Vec<String> {
        match self.behaviour.models.as_slice() {
            [] => usual.iter().map(|name| (*name).to_owned()).collect(),
            set => set.to_vec(),
        }
    }

    /// A query parameter, decoded.
    pub(crate) fn param(&self, name: &str) -> Option<String> {
        query_param(self.query, name)
    }
}

/// The credential of a request: bearer token, `x-api-key`, `x-goog-api-key` or `key` in the query; empty if none.
pub(crate) fn credential(headers: &HeaderMap, query: &str) -> String {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let bearer = text("authorization").and_then(|value| {
        let (scheme, token) = value.split_once(' ')?;
        scheme
            .eq_ignore_ascii_case("bearer")
            .then_some(token.trim())
    });
    let in_header = bearer
        .or_else(|| text("x-api-key"))
        .or_else(|| text("x-goog-api-key"));
    in_header
        .map(str::to_owned)
        .or_else(|| query_param(query, "key"))
        .unwrap_or_default()
}

/// A query parameter, decoded.
pub(crate) fn query_param(query: &str, name: &str) -> Option<String> {
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let value = pairs.into_iter().find(|(n, _)| *n == name)?.1;
    Some(percent_decode_str(value).decode_utf8_lossy().into_owned())
}

/// A path segment, decoded.
pub(crate) fn decoded(segment: &str) -> String {
    percent_decode_str(segment).decode_utf8_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn credentials_are_found_in_every_usual_position() {
        for (header, value, query, expect) in [
            ("authorization", "Bearer sk-1", "", "sk-1"),
            ("authorization", "bearer sk-1", "key=other", "sk-1"),
            ("authorization", "Basic abc", "", ""),
            ("x-api-key", "sk-ant", "", "sk-ant"),
            ("x-goog-api-key", "AIza", "", "AIza"),
            ("accept", "*/*", "alt=sse&key=a%2Bb", "a+b"),
            ("accept", "*/*", "monkey=1", ""),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header, HeaderValue::from_static(value));
            assert_eq!(
                credential(&headers, query),
                expect,
                "{header} {value} {query}"
            );
        }
    }
}
