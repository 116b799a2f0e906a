//! The result of one attempt: a response, read just far enough to classify it, or a failure.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use http::header::CONTENT_LENGTH;
use http::response::Parts;
use http_body::Body;
use keypool_core::fault::{Class, Fault};
use keypool_core::limit::Settlement;
use keypool_providers::response::StreamForm;

use crate::upstream::{UpstreamBody, UpstreamError};

/// What became of one attempt.
pub(crate) enum AttemptResult {
    /// A response to be relayed: a success, or the caller's own fault.
    Response(UpstreamResponse),
    /// A refusal that no rule knows: it may be about the request, or about the account.
    Unclear(Box<Refusal>),
    /// The next key may do better.
    Failed(Failure),
}

impl AttemptResult {
    /// How the attempt counts for what was reserved for it; `None`: that is known at the end of the response.
    pub(crate) fn settlement(&self) -> Option<Settlement> {
        match self {
            Self::Response(response) if response.class == Class::Success => None,
            Self::Response(_) | Self::Unclear(_) | Self::Failed(Failure::Response { .. }) => {
                Some(Settlement::Failed)
            }
            Self::Failed(Failure::NoResponse { error, .. }) if !error.may_have_run => {
                Some(Settlement::NotSent)
            }
            // The provider may have run it.
            Self::Failed(Failure::NoResponse { .. }) => None,
        }
    }
}

/// A refusal that may be about the request or about the account.
pub(crate) struct Refusal {
    pub(crate) response: UpstreamResponse,
    /// What stays the same when the same refusal meets another request.
    pub(crate) form: String,
    /// The provider's words, without secrets, for the log.
    pub(crate) reason: String,
}

/// A failed attempt.
pub(crate) enum Failure {
    /// The provider responded with an error that speaks of the key, its account or the provider.
    Response {
        fault: Fault,
        response: Box<UpstreamResponse>,
        /// The provider's words, without secrets, for the log.
        reason: String,
    },
    /// No response came, or none that could be read.
    NoResponse {
        error: UpstreamError,
        /// Whether the failure counts for the key. Not if earlier attempts had used up most of the request's time, or if
        /// the cause is local: the request could not be built, or no file descriptor was left.
        blames_key: bool,
    },
}

/// No response came, for which the key may be to blame.
pub(super) fn no_response(error: UpstreamError) -> AttemptResult {
    AttemptResult::Failed(Failure::NoResponse {
        error,
        blames_key: true,
    })
}

/// A response: its head, what was read of its body, and what is still to come.
pub(crate) struct UpstreamResponse {
    /// What it means for the key: a success, unless it was found to be the caller's fault.
    pub(crate) class: Class,
    pub(crate) parts: Parts,
    pub(crate) read: VecDeque<Bytes>,
    /// Length of what was read, in bytes.
    pub(super) length: usize,
    /// `None` once all was read.
    pub(crate) rest: Option<UpstreamBody>,
    /// The form of the stream; `None` if it is none, or one that only its transfer ends.
    pub(crate) stream_form: Option<StreamForm>,
    /// It is relayed before it is known whether it is an error.
    pub(crate) is_watched: bool,
}

/// Pieces below this size, in bytes, are joined to the one before.
const SMALL_PIECE: usize = 1024;
/// Nothing is joined to a piece of this size or more, in bytes.
const LARGE_PIECE: usize = 64 * 1024;

impl UpstreamResponse {
    /// A response of which only the head was read.
    pub(super) fn new(parts: Parts, body: UpstreamBody) -> Self {
        Self {
            class: Class::Success,
            parts,
            read: VecDeque::new(),
            length: 0,
            rest: Some(body).filter(|body| !body.is_end_stream()),
            stream_form: None,
            is_watched: false,
        }
    }

    /// All that was read so far, in one piece.
    pub(crate) fn read_bytes(&self) -> Bytes {
        match self.read.len() {
            0 => Bytes::new(),
            1 => self.read[0].clone(),
            _ => self
                .read
                .iter()
                .map(Bytes::as_ref)
                .collect::<Vec<_>>()
                .concat()
                .into(),
        }
    }

    /// Adds what was read. Small pieces are joined: a provider may send a body byte by byte.
    pub(super) fn add(&mut self, piece: Bytes) {
        if piece.is_empty() {
            return;
        }
        self.length += piece.len();
        let joins = |last: &&mut Bytes| piece.len() < SMALL_PIECE && last.len() < LARGE_PIECE;
        let Some(last) = self.read.back_mut().filter(joins) else {
            self.read.push_back(piece);
            return;
        };
        *last = joined(std::mem::take(last), piece);
    }

    /// Replaces the whole body, which was read.
    pub(crate) fn replace_body(&mut self, body: Bytes) {
        self.length = body.len();
        self.read = VecDeque::from([body]);
        self.rest = None;
    }

    /// The response as it is kept while other keys are tried: without its connection.
    pub(super) fn detached(mut self) -> Self {
        if self.rest.take().is_some() {
            self.parts.headers.remove(CONTENT_LENGTH);
        }
        self
    }
}

/// Both in one piece. Copies `read` only if its memory is shared, so that many small pieces cost little.
pub(super) fn joined(read: Bytes, piece: Bytes) -> Bytes {
    if read.is_empty() {
        return piece;
    }
    let mut joined = read.try_into_mut().unwrap_or_else(|shared| {
        let mut own = BytesMut::with_capacity(shared.len() + piece.len() + 4 * SMALL_PIECE);
        own.extend_from_slice(&shared);
        own
    });
    joined.extend_from_slice(&piece);
    joined.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_in_tiny_pieces_is_kept_in_a_few_pieces() {
        let (parts, ()) = http::Response::new(()).into_parts();
        let mut response = UpstreamResponse {
            class: Class::Success,
            parts,
            read: VecDeque::new(),
            length: 0,
            rest: None,
            stream_form: None,
            is_watched: false,
        };
        let body: Vec<u8> = (0..200_000u32).map(|n| n as u8).collect();
        let shared = Bytes::from(body.clone());
        for at in 0..100_000 {
            response.add(shared.slice(at..=at));
        }
        response.add(shared.slice(100_000..));
        assert_eq!(response.length, body.len());
        assert!(response.read.len() <= 4, "{} pieces", response.read.len());
        assert_eq!(response.read_bytes(), body);
    }
}
