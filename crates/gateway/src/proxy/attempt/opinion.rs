//! Refusals that no rule knows: another group of the pool tells whether the request or the account is the reason.

use keypool_core::fault::{Class, Fault};
use keypool_core::pool::{Lease, Leased, Opinion, SelectedBy};

use super::attempts::Attempts;
use super::response::Refusal;
use crate::proxy::log::RequestLog;

/// What becomes of a refusal that no rule knows.
pub(crate) enum Unclear {
    /// The client gets it.
    Relay(Box<Refusal>, Lease),
    /// Another group is tried.
    Continue,
}

impl Attempts<'_> {
    /// Decides what becomes of a refusal that no rule knows.
    pub(crate) fn unclear(
        &mut self,
        lease: Lease,
        refusal: Box<Refusal>,
        log: &mut RequestLog,
    ) -> Unclear {
        if let Some(seeking) = self.seeking.take() {
            if seeking.form() == refusal.form {
                seeking.refused_alike();
                return Unclear::Relay(refusal, lease);
            }
            // Two refusals that differ prove nothing: the client gets the first.
            self.set_aside(lease, refusal, &Fault::of(Class::CallerFault), log);
            self.stop();
            return Unclear::Continue;
        }
        let forbidden = Fault::of(Class::Forbidden);
        match self
            .pool()
            .opinion(&lease, &refusal.form, &self.caller.name)
        {
            Opinion::Relay => return Unclear::Relay(refusal, lease),
            Opinion::Seek(_) if self.state.attempts >= self.state.max_attempts => {
                return Unclear::Relay(refusal, lease);
            }
            Opinion::Seek(seeking) => {
                self.state.demand.exclude_group_of(lease.member());
                self.set_aside(lease, refusal, &Fault::of(Class::CallerFault), log);
                self.last.is_final = true;
                self.state.max_attempts = self.state.attempts + 1;
                self.seeking = Some(seeking);
            }
            Opinion::NextGroup => {
                self.state.demand.exclude_group_of(lease.member());
                self.set_aside(lease, refusal, &Fault::of(Class::CallerFault), log);
            }
            Opinion::Forbidden => self.set_aside(lease, refusal, &forbidden, log),
        }
        Unclear::Continue
    }

    /// Keeps the refusal for the client in case no other group serves.
    fn set_aside(
        &mut self,
        lease: Lease,
        refusal: Box<Refusal>,
        fault: &Fault,
        log: &mut RequestLog,
    ) {
        let key = lease.member().clone();
        self.note_failure(&key);
        let response = refusal.response.detached();
        let status = response.parts.status.as_u16();
        self.keep(response, &key);
        let ended = self.finish(lease, fault.clone(), true);
        self.record(ended, Some(status), refusal.reason, log);
        if !self.last.is_final {
            self.last.class = Some(Class::CallerFault);
        }
    }

    /// No further attempt is made.
    fn stop(&mut self) {
        self.state.max_attempts = self.state.attempts;
    }

    /// The attempt that gives the opinion begins.
    pub(super) fn begin_opinion(&mut self, leased: &mut Leased) {
        if let Some(seeking) = &self.seeking {
            seeking.begin(&self.caller.name);
            leased.selection.by = Some(SelectedBy::SecondOpinion);
        }
    }
}
