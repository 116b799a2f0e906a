//! Objects that stick: a call that names one goes to the account whose key made it, and for its maker alone.
//!
//! What is an id, and which answers give new ones, the protocol's table says; who made it, `Objects` remembers.

use http::HeaderName;
use keypool_core::pool::{GroupId, Lease, ObjectOrigin};
use keypool_providers::objects::{self, ObjectEffect, RefKind};
use keypool_providers::protocol::{Protocol, Repeat};

use super::auth::Caller;
use super::call::Call;
use super::endpoint::MatchedEndpoint;
use super::request_log::RequestLog;
use super::response::Answer;
use super::route::{PoolTarget, no_such_object, not_together, not_where_it_goes};
use super::upload;
use crate::context::Gateway;
use crate::error::GatewayError;
use crate::objects::{Found, Owner};
use crate::snapshot::{PoolEntry, Snapshot};

/// A provider may answer a call with this header by what it made at an earlier one.
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// Why a target is passed over.
const ELSEWHERE: &str = "the request names an object that none of its keys made";

/// What the ids in a call come to.
#[derive(Default)]
struct Bound {
    /// The objects that the caller made: of those at the same accounts the one whose mention says most.
    own: Vec<Own>,
    /// An object that the call is about is not known here.
    unknown: bool,
    /// Another caller's: no key can serve it.
    refused: bool,
}

/// An object of the caller's, and the accounts that hold one of that name.
struct Own {
    mention: RefKind,
    id: String,
    /// The newest first.
    origins: Vec<ObjectOrigin>,
}

/// What is asked for, and by whom: what a call's ids are looked up with.
pub(super) struct Binding<'a> {
    pub(super) gw: &'a Gateway,
    pub(super) snapshot: &'a Snapshot,
    pub(super) target: &'a MatchedEndpoint<'a>,
    pub(super) call: &'a Call<'a>,
    pub(super) caller: &'a Caller,
}

impl Binding<'_> {
    /// Of the pools for a call, those with the group that holds what it names.
    pub(super) fn restrict(
        &self,
        routes: Vec<PoolTarget>,
        log: &mut RequestLog,
    ) -> Result<Vec<PoolTarget>, GatewayError> {
        let mut bound = Bound::of(self.gw, self.target, self.call, self.caller);
        if bound.refused {
            return Err(no_such_object());
        }
        if self.target.is_by_object() && bound.own.is_empty() {
            bound.unknown = true;
        }
        let found = if bound.own.is_empty() {
            None
        } else {
            Some(bound.one_group(&routes)?)
        };
        let mut group = found.as_ref().map(|(_, group)| group.clone());
        if bound.unknown {
            let only = only_group(&routes).ok_or_else(no_such_object)?;
            if found.is_some() && only != group {
                return Err(no_such_object());
            }
            group = only;
        }
        let Some(group) = group else {
            return Ok(routes);
        };
        let held = self.held(&routes, &group, log);
        match found {
            _ if !held.is_empty() => Ok(held),
            Some((own, _)) => Err(self.is_elsewhere(own, &routes)),
            None => Err(no_such_object()),
        }
    }

    /// Of the pools, those with keys of the group, bound to it.
    fn held(
        &self,
        routes: &[PoolTarget],
        group: &GroupId,
        log: &mut RequestLog,
    ) -> Vec<PoolTarget> {
        let is_by_object = self.target.is_by_object();
        let mut held = Vec::with_capacity(routes.len());
        for route in routes {
            match route.entry.pool.group(group) {
                Some(group) => held.push(PoolTarget {
                    only_group: Some(group),
                    entry: route.entry.clone(),
                    model: route.model.clone(),
                }),
                // Of all pools that might hold an object most do not: that tells nothing.
                None if is_by_object => {}
                None => log.passed_over(&route.entry, &route.model, ELSEWHERE),
            }
        }
        if is_by_object {
            // The same keys in another pool are no other chance.
            held.truncate(1);
        }
        held
    }

    /// The caller's object is with an account that has no key in the pools for this call.
    fn is_elsewhere(&self, own: &Own, routes: &[PoolTarget]) -> GatewayError {
        let pools = self.snapshot.pools.iter();
        let usable = pools.filter(|entry| self.caller.may_use_pool(entry));
        let holds = |entry: &PoolEntry| {
            let mut origins = own.origins.iter();
            origins.any(|origin| entry.pool.group_of_origin(origin).is_some())
        };
        let there = usable.filter(|entry| holds(entry));
        not_where_it_goes(&own.id, routes, there)
    }
}

/// The one group that all keys of these pools belong to. `Some(None)`: they have no keys. `None`: there are several.
fn only_group(routes: &[PoolTarget]) -> Option<Option<GroupId>> {
    let mut only = None;
    let pools = routes.iter().map(|route| &route.entry.pool);
    for pool in pools.filter(|pool| !pool.members().is_empty()) {
        let group = pool.only_group()?;
        if only
            .replace(group.clone())
            .is_some_and(|other| other != group)
        {
            return None;
        }
    }
    Some(only)
}

impl Bound {
    fn of(gw: &Gateway, target: &MatchedEndpoint<'_>, call: &Call<'_>, caller: &Caller) -> Self {
        let mut bound = Self::default();
        let maker = caller.maker();
        let mut meet = |mention, id: &str| match gw.objects.find(id, &maker) {
            Found::Own(origins) => bound.meet_own(mention, id, origins),
            Found::Foreign => bound.refused = true,
            Found::Unknown => bound.unknown |= mention == RefKind::Required,
        };
        if target.is_native() || target.is_by_object() {
            objects::in_path(call.protocol, call.path, call.query.as_deref(), &mut meet);
        }
        // A body that can only name what was never made here is not looked through.
        let endpoint = target.endpoint.as_ref();
        let may_need = endpoint.is_none_or(|endpoint| endpoint.repeat != Repeat::Safe)
            || call.protocol == Protocol::Gemini;
        let is_looked_at = (may_need || gw.objects.has_any()) && !call.body.is_empty();
        if is_looked_at && has_names(target, call) {
            objects::in_body(call.protocol, call.headers, &call.body, &mut meet);
        }
        bound
    }

    fn meet_own(&mut self, mention: RefKind, id: &str, origins: Vec<ObjectOrigin>) {
        let known = self.own.iter_mut().find(|own| own.is_where(&origins));
        match known {
            Some(own) if own.mention >= mention => {}
            Some(own) => (own.mention, own.id) = (mention, id.to_owned()),
            None => self.own.push(Own {
                mention,
                id: id.to_owned(),
                origins,
            }),
        }
    }

    /// A group that holds all objects, where there is one; of several one that can be asked.
    fn one_group(&self, routes: &[PoolTarget]) -> Result<(&Own, GroupId), GatewayError> {
        let mut common: Option<Vec<GroupId>> = None;
        for own in &self.own {
            let groups = own.groups(routes);
            let Some(common) = &mut common else {
                common = Some(groups);
                continue;
            };
            common.retain(|group| groups.contains(group));
            if common.is_empty() {
                let apart = |other: &&Own| !other.groups(routes).iter().any(|g| groups.contains(g));
                let other = self.own.iter().find(apart).unwrap_or(&self.own[0]);
                return Err(not_together(&other.id, &own.id));
            }
        }
        let mut common = common.unwrap_or_default();
        let here = common.iter().position(|group| is_here(group, routes));
        let first = self.own.first().filter(|_| !common.is_empty());
        let first = first.ok_or_else(no_such_object)?;
        Ok((first, common.swap_remove(here.unwrap_or(0))))
    }
}

/// Whether one of the pools has keys of the group.
fn is_here(group: &GroupId, routes: &[PoolTarget]) -> bool {
    let mut pools = routes.iter().map(|route| &route.entry.pool);
    pools.any(|pool| pool.group(group).is_some())
}

impl Own {
    /// The groups that hold the object now.
    fn groups(&self, routes: &[PoolTarget]) -> Vec<GroupId> {
        let group = |origin: &ObjectOrigin| {
            let mut pools = routes.iter().map(|route| &route.entry.pool);
            let now = pools.find_map(|pool| pool.group_of_origin(origin));
            now.unwrap_or_else(|| origin.group_id())
        };
        self.origins.iter().map(group).collect()
    }

    /// Whether it is at these accounts, and no other.
    fn is_where(&self, origins: &[ObjectOrigin]) -> bool {
        let both = || self.origins.iter().zip(origins);
        self.origins.len() == origins.len() && both().all(|(own, other)| own.is_account_of(other))
    }
}

/// Whether the body may name objects: JSON and forms may, a piece of an upload may not.
fn has_names(target: &MatchedEndpoint<'_>, call: &Call<'_>) -> bool {
    if !target.is_native() {
        return target
            .endpoint
            .as_ref()
            .is_some_and(|endpoint| endpoint.json);
    }
    upload::goes_on_with(call.protocol, call.path, call.query.as_deref()).is_none()
}

/// Whether an answer that tells of an object means one made by this very call. To be asked once, before it is sent.
///
/// Gemini's names are the client's choice, and can be had again once an object is gone: nobody tells when it goes. It
/// refuses a name that is taken, so what it makes is new; but it may answer by what an earlier call made.
pub(super) fn makes_anew(gw: &Gateway, call: &Call<'_>, caller: &Caller) -> bool {
    let session = upload::goes_on_with(call.protocol, call.path, call.query.as_deref());
    // The end of an upload is told of as often as it is asked for: what counts is the first call that may be it.
    let is_first = session.is_none_or(|id| {
        !upload::only_goes_on(call.headers)
            && gw.objects.take(&upload::unfinished(&id), &caller.maker())
    });
    is_first
        && call.protocol == Protocol::Gemini
        && call.tells == Some(ObjectEffect::Creates)
        && !call.headers.contains_key(IDEMPOTENCY_KEY)
}

/// Remembers what an answer tells of objects, before the client can ask for them.
pub(super) fn note(
    gw: &Gateway,
    (call, makes_anew): (&Call<'_>, bool),
    caller: &Caller,
    lease: &Lease,
    answer: &Answer,
) {
    let Some(tells) = &call.tells else { return };
    let (origin, maker) = (lease.origin(), caller.maker());
    if call.protocol == Protocol::Gemini {
        note_upload(gw, call, (&origin, &maker), answer);
    }
    if !answer.parts.status.is_success() {
        return;
    }
    match tells {
        ObjectEffect::Deletes(id) => return gw.objects.forget(id, &origin, &maker),
        // What belongs to nobody known does not become this caller's by being looked at.
        ObjectEffect::Lists(id) if !matches!(gw.objects.find(id, &maker), Found::Own(_)) => return,
        ObjectEffect::Lists(_) | ObjectEffect::Creates | ObjectEffect::BeginsUpload => {}
    }
    for id in objects::created_ids(call.protocol, tells, call.path, &answer.read_bytes()) {
        if makes_anew {
            gw.objects.note_new(&id, &origin, &maker);
        } else {
            gw.objects.note(&id, &origin, &maker);
        }
    }
}

/// Remembers the upload that an answer begins; of one that is over, that its address is no credential any more.
fn note_upload(
    gw: &Gateway,
    call: &Call<'_>,
    (origin, maker): (&ObjectOrigin, &Owner),
    answer: &Answer,
) {
    let headers = &answer.parts.headers;
    if upload::is_over(headers) {
        let id = upload::goes_on_with(call.protocol, call.path, call.query.as_deref());
        if let Some(door) = id.and_then(|id| upload::door(call.path, &id)) {
            gw.objects.forget(&door, origin, maker);
        }
        return;
    }
    let begun = answer.parts.status.is_success();
    let Some(id) = objects::upload_session(headers).filter(|_| begun) else {
        return;
    };
    let unfinished = upload::unfinished(&id);
    let door = upload::door(call.path, &id);
    for id in [Some(id), Some(unfinished), door].iter().flatten() {
        gw.objects.note(id, origin, maker);
    }
}
