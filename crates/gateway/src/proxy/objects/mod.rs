//! Objects that a provider keeps, such as files, batches and stored responses: a call that names one goes to the account
//! that created it, and only for its owner.
//!
//! The protocol's table says what an id is and which responses contain new ones; [`crate::objects::Objects`] remembers
//! who owns them.

mod addresses;
mod refs;

use http::HeaderName;
use keypool_core::pool::{GroupId, Lease, ObjectOrigin};
use keypool_providers::objects::{self, ObjectEffect};
use keypool_providers::protocol::upload;
use keypool_providers::response::readable;

use super::attempt::UpstreamResponse;
use super::inbound::{Call, Caller};
use super::log::RequestLog;
use super::routing::{PoolTarget, no_such_object};
use crate::context::Gateway;
use crate::error::{GatewayError, Kind};
use crate::objects::{Found, Owner};
use crate::snapshot::{PoolEntry, Snapshot};
use crate::traces::SkipReason;
use crate::upstream::content_encoding;
use refs::{ObjectRefs, OwnObject};

/// With this header, a provider may answer a call with what an earlier call created.
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// Maximum number of bytes of a compressed response in which ids are looked for.
const MAX_DECODED: usize = 64 << 10;

/// The objects of one call: which it names, and which it creates.
pub(super) struct ObjectTracking<'a> {
    gw: &'a Gateway,
    snapshot: &'a Snapshot,
    call: &'a Call<'a>,
    caller: &'a Caller,
    /// Ids in the response can only name objects created by this call.
    creates_only_new: bool,
}

impl<'a> ObjectTracking<'a> {
    pub(super) fn new(
        gw: &'a Gateway,
        snapshot: &'a Snapshot,
        call: &'a Call<'a>,
        caller: &'a Caller,
    ) -> Self {
        Self {
            gw,
            snapshot,
            call,
            caller,
            creates_only_new: false,
        }
    }

    /// Keeps the targets whose pool has keys of the account that holds the named objects, bound to that account.
    pub(super) fn restrict(
        &self,
        targets: Vec<PoolTarget>,
        log: &mut RequestLog,
    ) -> Result<Vec<PoolTarget>, GatewayError> {
        let refs = ObjectRefs::find(self.gw, self.call, self.caller)?;
        let mut group = refs.common_group(&targets)?;
        let is_unknown = refs.has_unknown || (refs.own.is_empty() && self.is_by_object());
        if is_unknown {
            // An id that is not known here can only be at the only account there is.
            let only = sole_group(&targets).ok_or_else(no_such_object)?;
            if group.is_some() && only != group {
                return Err(no_such_object());
            }
            group = only;
        }
        let Some(group) = group else {
            let mut targets = targets;
            if self.is_by_any_object() {
                targets.truncate(1);
            }
            return Ok(targets);
        };
        let restricted = self.with_group(&targets, &group, log);
        match refs.own.first() {
            _ if !restricted.is_empty() => Ok(restricted),
            Some(own) => Err(self.is_elsewhere(own, &targets)),
            None => Err(no_such_object()),
        }
    }

    /// To be called once, before the call is sent: finds out whether the call creates something, and marks an upload as
    /// possibly complete.
    ///
    /// Clients choose the names of some objects, and may use a name again after they deleted the object. The provider
    /// rejects a name in use, so an object that such a call creates is new. An upload is different: its last request may
    /// be repeated and returns the same object again, so only the first one counts.
    pub(super) fn before_send(&mut self) {
        let is_first = match &self.call.endpoint.upload {
            None => true,
            Some(step) => {
                let mark = upload::unfinished_id(&step.id);
                step.may_complete && self.gw.objects.forget_any(&mark, &self.caller.owner())
            }
        };
        self.creates_only_new = is_first
            && self.call.protocol().clients_name_objects()
            && self.call.object_effect == Some(ObjectEffect::Creates)
            && !self.call.headers.contains_key(IDEMPOTENCY_KEY);
    }

    /// Records the objects that the response names, before the client can ask for them, and rewrites the addresses that a
    /// client calls next, so that they lead here.
    pub(super) async fn after_response(
        &self,
        lease: &Lease,
        response: &mut UpstreamResponse,
    ) -> Result<(), GatewayError> {
        self.record(lease, response);
        if self.call.protocol().clients_name_objects() {
            let headers = &mut response.parts.headers;
            let public_url = self.snapshot.settings.server.public_url.as_ref();
            upload::rewrite_addresses(self.call.uri, self.call.headers, public_url, headers);
        }
        if !addresses::may_have(self.call, response) {
            return Ok(());
        }
        let idle = lease.keys().settings().timeouts.idle;
        // Boxed, like everything rarely needed: it would make every request larger.
        Box::pin(addresses::rewrite(response, idle)).await
    }

    fn record(&self, lease: &Lease, response: &UpstreamResponse) {
        let Some(effect) = &self.call.object_effect else {
            return;
        };
        let (origin, owner) = (lease.origin(), self.caller.owner());
        self.record_upload(&origin, &owner, response);
        if !response.parts.status.is_success() {
            return;
        }
        let known = &self.gw.objects;
        match effect {
            ObjectEffect::Deletes(id) => return known.forget(id, &origin, &owner),
            // An object without a known owner does not become the caller's by being read.
            ObjectEffect::Lists(id) if !matches!(known.find(id, &owner), Found::Own(_)) => return,
            ObjectEffect::Lists(_) | ObjectEffect::Creates | ObjectEffect::BeginsUpload => {}
        }
        let (protocol, path) = (self.call.protocol(), self.call.path());
        let coding = content_encoding(&response.parts.headers);
        let read = response.read_bytes();
        let body = readable(coding, &read, MAX_DECODED);
        for id in objects::created_ids(protocol, effect, path, &body) {
            if self.creates_only_new {
                known.record_new(&id, &origin, &owner);
            } else {
                known.record(&id, &origin, &owner);
            }
        }
    }

    /// Records the upload that a response begins. Once it has ended, its address is no credential any more.
    fn record_upload(&self, origin: &ObjectOrigin, owner: &Owner, response: &UpstreamResponse) {
        let (known, path) = (&self.gw.objects, self.call.path());
        let headers = &response.parts.headers;
        if upload::has_ended(headers) {
            let step = self.call.endpoint.upload.as_ref();
            if let Some(grant) = step.and_then(|step| upload::grant(path, &step.id)) {
                known.forget(&grant, origin, owner);
            }
            return;
        }
        let has_begun = response.parts.status.is_success();
        let Some(id) = objects::upload_session(headers).filter(|_| has_begun) else {
            return;
        };
        let unfinished_id = upload::unfinished_id(&id);
        let grant = upload::grant(path, &id);
        for id in [Some(id), Some(unfinished_id), grant].iter().flatten() {
            known.record(id, origin, owner);
        }
    }

    fn is_by_object(&self) -> bool {
        self.call.endpoint.is_by_object()
    }

    /// Whether the targets are all pools that could hold an object of the call.
    fn is_by_any_object(&self) -> bool {
        let known = self.call.endpoint.known.as_ref();
        self.is_by_object()
            || known.is_some_and(|known| known.objects) && self.call.model_name().is_none()
    }

    /// The targets whose pool has keys of the group, bound to it.
    fn with_group(
        &self,
        targets: &[PoolTarget],
        group: &GroupId,
        log: &mut RequestLog,
    ) -> Vec<PoolTarget> {
        let mut found = Vec::with_capacity(targets.len());
        for target in targets {
            match target.entry.pool.group(group) {
                Some(group) => found.push(PoolTarget {
                    bound_group: Some(group),
                    entry: target.entry.clone(),
                    model: target.model.clone(),
                }),
                // Of all pools that could hold an object most do not, which is not worth recording.
                None if self.is_by_any_object() => {}
                None => {
                    log.record_skipped(&target.entry, &target.model, SkipReason::ObjectElsewhere);
                }
            }
        }
        if self.is_by_any_object() {
            // The same keys in another pool are no further chance.
            found.truncate(1);
        }
        found
    }

    /// The caller's object is at an account that has no key in the pools for this call.
    fn is_elsewhere(&self, own: &OwnObject, targets: &[PoolTarget]) -> GatewayError {
        let pools = self.snapshot.pools.iter();
        let usable = pools.filter(|entry| self.caller.may_use_pool(entry));
        let holds = |entry: &PoolEntry| {
            let mut origins = own.origins.iter();
            origins.any(|origin| entry.pool.group_of_origin(origin).is_some())
        };
        let quoted = |entry: &PoolEntry| format!("\"{}\"", entry.pool.name());
        let there: Vec<String> = usable
            .filter(|entry| holds(entry))
            .map(|entry| quoted(entry))
            .collect();
        let here: Vec<String> = targets.iter().map(|target| quoted(&target.entry)).collect();
        let advice = if there.is_empty() {
            "the key that made it is in no pool that this caller may use: make it again".to_owned()
        } else {
            let there = there.join(", ");
            format!("it is in pool {there}: name a model of that pool, or make it again here")
        };
        let (id, here) = (&own.id, here.join(", "));
        let message = format!("\"{id}\" is not in pool {here}, where this call goes; {advice}");
        GatewayError::new(Kind::NotFound, message)
    }
}

/// The one group that all keys of these pools belong to. `Some(None)`: the pools have no keys. `None`: there are several
/// groups.
fn sole_group(targets: &[PoolTarget]) -> Option<Option<GroupId>> {
    let mut only = None;
    let pools = targets.iter().map(|target| &target.entry.pool);
    for pool in pools.filter(|pool| !pool.current().members().is_empty()) {
        let group = pool.sole_group()?;
        if only
            .replace(group.clone())
            .is_some_and(|other| other != group)
        {
            return None;
        }
    }
    Some(only)
}
