//! Reads what a response says about its usage, and settles by it what was reserved for the call.

use std::sync::Arc;

use bytes::Bytes;
use keypool_core::limit::{Settlement, Usage};
use keypool_core::pool::Lease;
use keypool_providers::usage::{UsageForm, UsageReader};

use crate::context::Gateway;
use crate::limits::CallerLimits;
use crate::proxy::inbound::{Call, TokenGuess};
use crate::proxy::reservation::CallerReservation;

/// Follows one response. Dropped before the response has ended, it settles by what has come so far.
pub(super) struct Meter {
    reserved: CallerReservation,
    /// `None` if nobody needs to know the tokens.
    tokens: Option<Box<Tokens>>,
    /// The stream has reached its protocol's end, whatever its transfer does.
    is_whole: bool,
}

struct Tokens {
    reader: UsageReader,
    /// What was guessed before the call, and where to learn how good that was; `None` if no limit counts tokens.
    guess: Option<(TokenGuess, Arc<CallerLimits>)>,
}

impl Meter {
    /// `is_readable`: it is a success, so that it may state its usage.
    pub(super) fn new(
        gw: &Gateway,
        call: &Call<'_>,
        reserved: CallerReservation,
        is_readable: bool,
    ) -> Self {
        let tokens = is_readable.then(|| Tokens::of(gw, call)).flatten();
        Self {
            reserved,
            tokens: tokens.map(Box::new),
            is_whole: false,
        }
    }

    /// What reads the lines of a stream.
    pub(super) fn reader(&mut self) -> Option<&mut UsageReader> {
        self.tokens.as_mut().map(|tokens| &mut tokens.reader)
    }

    /// Takes a piece of a body that is no stream.
    pub(super) fn read_body(&mut self, piece: &Bytes) {
        if let Some(tokens) = &mut self.tokens {
            tokens.reader.read_body(piece);
        }
    }

    /// The stream has reached its protocol's end. Clients may leave before its transfer ends.
    pub(super) fn note_whole(&mut self) {
        self.is_whole = true;
    }

    /// The response was an error after all: its tokens are given back.
    pub(super) fn fail(&mut self, lease: Option<&mut Lease>) {
        self.tokens = None;
        self.reserved
            .end_attempt(Some(Settlement::Failed), Settlement::Failed);
        if let Some(lease) = lease {
            lease.settle_when_dropped(Settlement::Failed);
        }
    }

    /// The response came to its end: what was reserved for the caller, and of the key, is settled by what was used.
    ///
    /// Returns what was used.
    pub(super) fn complete(&mut self, lease: Option<&mut Lease>) -> Usage {
        let mut usage = Usage::default();
        if let Some(tokens) = &mut self.tokens {
            usage = tokens.used(true);
            if let Some((guess, limits)) = &tokens.guess {
                guess.learn(&limits.estimates, &usage);
            }
        }
        self.tokens = None;
        self.reserved.settle(usage);
        if let Some(lease) = lease {
            lease.settle_when_dropped(Settlement::Ended(usage));
        }
        usage
    }

    /// What has been used so far by a response that is not complete; `None` if that is not known.
    pub(super) fn so_far(&mut self) -> Option<Usage> {
        let is_whole = self.is_whole;
        self.tokens.as_mut().map(|tokens| tokens.used(is_whole))
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        if self.is_whole {
            self.complete(None);
            return;
        }
        if let Some(tokens) = &mut self.tokens {
            self.reserved.settle_cut(tokens.used(false));
        }
    }
}

impl Tokens {
    /// `None` if nobody needs to know the tokens, or the call reports none.
    fn of(gw: &Gateway, call: &Call<'_>) -> Option<Self> {
        if let Some(guess) = &call.tokens {
            return Some(Self {
                reader: UsageReader::new(guess.form),
                guess: Some((**guess, Arc::clone(&gw.limits))),
            });
        }
        if !call.generates || !gw.stored.has_store() {
            return None;
        }
        let form = UsageForm::of(call.protocol(), call.path())?;
        Some(Self {
            reader: UsageReader::new(form),
            guess: None,
        })
    }

    /// `is_whole`: the response was not cut off.
    fn used(&mut self, is_whole: bool) -> Usage {
        let said = self.reader.usage(is_whole);
        let whole = |tokens: Option<u64>| tokens.and_then(|tokens| u32::try_from(tokens).ok());
        Usage {
            input_tokens: whole(said.input_tokens),
            output_tokens: whole(said.output_tokens),
        }
    }
}
