//! Reads what a response says about its usage, and settles the caller's reservation by it.

use keypool_providers::usage::{Usage, UsageForm, UsageReader};

use crate::proxy::inbound::Call;
use crate::proxy::reservation::CallerReservation;

/// Follows one response. Dropped before the response has ended, it settles by what has come so far.
pub(super) struct Meter {
    reservation: CallerReservation,
    /// `None` if nobody needs to know.
    reader: Option<UsageReader>,
}

impl Meter {
    /// `is_readable`: the response is not compressed.
    pub(super) fn new(call: &Call<'_>, reservation: CallerReservation, is_readable: bool) -> Self {
        let form = (is_readable && reservation.counts_tokens())
            .then(|| UsageForm::of(call.protocol(), call.path()))
            .flatten();
        Self {
            reservation,
            reader: form.map(UsageReader::new),
        }
    }

    /// What reads the lines of a stream.
    pub(super) fn reader(&mut self) -> Option<&mut UsageReader> {
        self.reader.as_mut()
    }

    /// Takes a piece of a body that is no stream.
    pub(super) fn read_body(&mut self, piece: &[u8]) {
        if let Some(reader) = &mut self.reader {
            reader.read_body(piece);
        }
    }

    /// The response came to its end.
    pub(super) fn complete(&mut self) {
        self.settle(true);
    }

    fn settle(&mut self, is_whole: bool) {
        let said = self
            .reader
            .as_ref()
            .map_or(Usage::default(), UsageReader::usage);
        self.reservation.settle(said, is_whole);
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.settle(false);
    }
}
