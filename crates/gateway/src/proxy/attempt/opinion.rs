//! Refusals that no rule knows: another group of the pool tells whether the request or the account is the reason.

use keypool_core::fault::{Class, Fault};
use keypool_core::pool::{Lease, Leased, Opinion, SelectedBy};

use super::attempts::Attempts;
use super::response::{Refusal, UpstreamResponse};
use crate::proxy::log::RequestLog;

/// What becomes of a refusal that no rule knows.
pub(crate) enum AfterRefusal {
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
    ) -> AfterRefusal {
        if let Some(seeking) = self.seeking.take() {
            if seeking.form() == refusal.form {
                seeking.refused_alike();
                return AfterRefusal::Relay(refusal, lease);
            }
            self.differs(lease, refusal.response, log);
            return AfterRefusal::Continue;
        }
        let forbidden = Fault::of(Class::Forbidden);
        match self
            .pool()
            .opinion(&lease, &refusal.form, &self.caller.name)
        {
            Opinion::Relay => return AfterRefusal::Relay(refusal, lease),
            Opinion::Seek(_) if self.state.attempts >= self.state.max_attempts => {
                return AfterRefusal::Relay(refusal, lease);
            }
            Opinion::Seek(seeking) => {
                self.state.demand.exclude_group_of(lease.member());
                self.keep_refusal(lease, refusal, &Fault::of(Class::CallerFault), log);
                self.last.is_final = true;
                self.state.max_attempts = self.state.attempts + 1;
                self.seeking = Some(seeking);
            }
            Opinion::NextGroup => {
                self.state.demand.exclude_group_of(lease.member());
                self.keep_refusal(lease, refusal, &Fault::of(Class::CallerFault), log);
            }
            Opinion::Forbidden => {
                self.state.demand.exclude_group_of(lease.member());
                self.keep_refusal(lease, refusal, &forbidden, log);
            }
        }
        AfterRefusal::Continue
    }

    /// Keeps the refusal for the client in case no other group serves.
    fn keep_refusal(
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

    /// Whether a response of the group that is asked is another refusal, or a redirect.
    pub(crate) fn is_other_refusal(&self, response: &UpstreamResponse) -> bool {
        self.seeking.is_some() && response.class != Class::Success
    }

    /// The group that is asked says something else, which proves nothing: the client gets the first refusal.
    pub(crate) fn differs(
        &mut self,
        lease: Lease,
        response: UpstreamResponse,
        log: &mut RequestLog,
    ) {
        self.seeking = None;
        let response = response.detached();
        let status = response.parts.status.as_u16();
        drop(response);
        let ended = self.finish(lease, Fault::of(Class::CallerFault), true);
        self.record(ended, Some(status), "another refusal".to_owned(), log);
        self.state.max_attempts = self.state.attempts;
    }

    /// The attempt that gives the opinion begins.
    pub(super) fn begin_opinion(&mut self, leased: &mut Leased) {
        if let Some(seeking) = &mut self.seeking {
            seeking.begin();
            leased.selection.by = Some(SelectedBy::SecondOpinion);
        }
    }
}
