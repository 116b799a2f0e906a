//! A provider's answer, as far as it was read before it was decided what to do with it.

use std::collections::VecDeque;
use std::error::Error;
use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::CONTENT_LENGTH;
use http::response::Parts;
use http_body::Body;
use keypool_core::fault::{Class, Fault};

use crate::error::{GatewayError, Kind};
use crate::upstream::{SendError, UpstreamBody};

/// What became of one attempt.
pub(super) enum Reply {
    /// To be relayed: a success, or the caller's own fault.
    Relay(Answer, Class),
    /// The next key may do better.
    Failed(Failure),
}

/// An answer: its head, what of its body was read, and what is still to come.
pub(super) struct Answer {
    pub(super) parts: Parts,
    pub(super) read: VecDeque<Bytes>,
    /// Of what was read, in bytes.
    length: usize,
    pub(super) rest: Option<UpstreamBody>,
}

/// RequestBody below this size are joined to the one before, …
const SMALL_PIECE: usize = 1024;
/// … as long as that is below this size.
const LARGE_PIECE: usize = 64 * 1024;

/// A failed attempt.
pub(super) struct Failure {
    pub(super) fault: Fault,
    /// The provider's answer, where there is one.
    pub(super) answer: Option<Answer>,
    /// What went wrong on the way, where there is none.
    pub(super) trouble: Option<Trouble>,
    /// The error or the provider's words, without secrets, for the log.
    pub(super) reason: String,
    /// The provider may have taken the call on.
    pub(super) may_have_run: bool,
    /// The key is not to blame: the attempt had only what others left of the request's time, or was not made at all.
    pub(super) cut_short: bool,
}

/// Why no answer came, or none that could be read.
#[derive(Clone, Debug)]
pub(super) enum Trouble {
    Unreachable(String),
    Timeout(Duration),
}

impl Answer {
    /// An answer of which nothing was read but its head.
    pub(super) fn new(parts: Parts, body: UpstreamBody) -> Self {
        Self {
            parts,
            read: VecDeque::new(),
            length: 0,
            rest: Some(body).filter(|body| !body.is_end_stream()),
        }
    }

    /// All that was read so far, in one piece.
    pub(super) fn read_bytes(&self) -> Bytes {
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

    /// How many bytes were read so far.
    pub(super) fn read_length(&self) -> usize {
        self.length
    }

    /// What was read behind the first `known` bytes.
    pub(super) fn read_since(&self, known: usize) -> impl Iterator<Item = u8> {
        let mut new = self.length - known;
        let pieces = self.read.iter().rev().map_while(move |piece| {
            let part = piece.len().min(new);
            new -= part;
            (part > 0).then(|| &piece[piece.len() - part..])
        });
        let mut pieces: Vec<&[u8]> = pieces.collect();
        pieces.reverse();
        pieces.into_iter().flatten().copied()
    }

    /// Adds what was read. Small pieces are put together: a provider may send a body byte by byte.
    pub(super) fn add(&mut self, piece: Bytes) {
        self.length += piece.len();
        let joins = |last: &&mut Bytes| piece.len() < SMALL_PIECE && last.len() < LARGE_PIECE;
        let Some(last) = self.read.back_mut().filter(joins) else {
            self.read.push_back(piece);
            return;
        };
        let mut joined = std::mem::take(last)
            .try_into_mut()
            .unwrap_or_else(|shared| {
                let mut own = BytesMut::with_capacity(shared.len() + 4 * SMALL_PIECE);
                own.extend_from_slice(&shared);
                own
            });
        joined.extend_from_slice(&piece);
        *last = joined.freeze();
    }

    /// The answer as it is kept while other keys are tried: without the connection it came on.
    pub(super) fn kept(mut self) -> Self {
        if self.rest.take().is_some() {
            self.parts.headers.remove(CONTENT_LENGTH);
        }
        self
    }

    /// The status, for the log.
    pub(super) fn status(&self) -> u16 {
        self.parts.status.as_u16()
    }
}

impl Failure {
    /// No answer: the way to the provider is in trouble.
    pub(super) fn no_response(trouble: Trouble, was_sent: bool) -> Self {
        let reason = match &trouble {
            Trouble::Unreachable(what) => what.clone(),
            Trouble::Timeout(limit) => format!("no answer within {limit:?}"),
        };
        Self {
            fault: Fault::of(Class::UpstreamTrouble),
            answer: None,
            trouble: Some(trouble),
            reason,
            may_have_run: was_sent,
            cut_short: false,
        }
    }

    /// No answer came to a request. `connect`: how long it may take to open a connection.
    pub(super) fn not_answered(error: &SendError, connect: Duration) -> Self {
        let trouble = match error {
            SendError::ConnectTimeout(limit) => Trouble::Timeout(*limit),
            // A proxy on the way took too long; the error names it.
            SendError::Connect(error) if error.kind() == io::ErrorKind::TimedOut => {
                Trouble::Timeout(connect)
            }
            _ => Trouble::Unreachable(error.to_string()),
        };
        Self {
            reason: error.to_string(),
            cut_short: matches!(error, SendError::Malformed) || is_out_of_files(error),
            ..Self::no_response(trouble, error.was_sent())
        }
    }
}

/// Whether this process or this machine may open no more files: that says nothing of the key.
fn is_out_of_files(error: &SendError) -> bool {
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    let causes = std::iter::successors(error.source(), |&cause| cause.source());
    causes
        .filter_map(|cause| cause.downcast_ref::<io::Error>()?.raw_os_error())
        .any(|code| matches!(code, ENFILE | EMFILE))
}

impl Trouble {
    /// What the client is told.
    pub(super) fn error(&self, pool: &str) -> GatewayError {
        let error = match self {
            Self::Unreachable(_) => GatewayError::new(
                Kind::UpstreamUnreachable,
                format!(
                    "the provider of pool \"{pool}\" could not be reached or broke the connection; the log has the details"
                ),
            ),
            Self::Timeout(limit) => {
                let message =
                    format!("the provider of pool \"{pool}\" did not answer within {limit:?}");
                GatewayError::new(Kind::UpstreamTimeout, message)
            }
        };
        GatewayError {
            dont_retry: true,
            ..error
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_in_tiny_pieces_is_kept_in_few() {
        let (parts, ()) = http::Response::new(()).into_parts();
        let mut answer = Answer {
            parts,
            read: VecDeque::new(),
            length: 0,
            rest: None,
        };
        let body: Vec<u8> = (0..200_000u32).map(|n| n as u8).collect();
        let shared = Bytes::from(body.clone());
        for at in 0..100_000 {
            answer.add(shared.slice(at..=at));
        }
        answer.add(shared.slice(100_000..));
        assert_eq!(answer.read_length(), body.len());
        assert!(answer.read.len() <= 4, "{} pieces", answer.read.len());
        assert_eq!(answer.read_bytes(), body);
        for known in [0, 1, 70_000, 100_000, 199_999, 200_000] {
            assert!(
                answer.read_since(known).eq(body[known..].iter().copied()),
                "{known}"
            );
        }
    }
}
