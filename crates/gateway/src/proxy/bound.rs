//! Objects that stick: a call that names one goes to the account whose key made it, and for its maker alone.
//!
//! What is an id, and which answers give new ones, the protocol's table says; who made it, `Objects` remembers.

use keypool_core::pool::{GroupId, Lease, Origin};
use keypool_providers::objects::{self, Mention, Tells};
use keypool_providers::protocol::{Protocol, Repeat};

use super::answer::Answer;
use super::auth::Caller;
use super::call::Call;
use super::route::{Route, no_such_object, not_together, not_where_it_goes};
use super::story::Story;
use super::target::Target;
use super::upload;
use crate::context::Gateway;
use crate::error::GatewayError;
use crate::objects::Found;
use crate::snapshot::Snapshot;

/// Why a target is passed over.
const ELSEWHERE: &str = "the request names an object that none of its keys made";

/// What the ids in a call come to.
#[derive(Default)]
struct Bound {
    /// The accounts of the objects that the caller made, each with the mention that says most.
    own: Vec<Own>,
    /// An object that the call is about is not known here.
    unknown: bool,
    /// Another caller's: no key can serve it.
    refused: bool,
}

/// An account that holds an object of the caller's.
struct Own {
    mention: Mention,
    id: String,
    origin: Origin,
}

/// What is asked for, and by whom: what a call's ids are looked up with.
pub(super) struct Binding<'a> {
    pub(super) gw: &'a Gateway,
    pub(super) snapshot: &'a Snapshot,
    pub(super) target: &'a Target<'a>,
    pub(super) call: &'a Call<'a>,
    pub(super) caller: &'a Caller,
}

impl Binding<'_> {
    /// Of the pools for a call, those with the group that holds what it names.
    pub(super) fn restrict(
        &self,
        routes: Vec<Route>,
        story: &mut Story,
    ) -> Result<Vec<Route>, GatewayError> {
        let mut bound = Bound::of(self.gw, self.target, self.call, self.caller);
        if bound.refused {
            return Err(no_such_object());
        }
        let sure = bound.own.iter().any(|own| own.mention > Mention::Perhaps);
        bound
            .own
            .retain(|own| !sure || own.mention > Mention::Perhaps);
        if self.target.is_by_object() && !sure {
            bound.unknown = true;
        }
        let found = if sure {
            Some(bound.one_group(&routes)?)
        } else {
            bound.likeliest(&routes)
        };
        let mut group = found.as_ref().map(|(_, group)| group.clone());
        if bound.unknown {
            let only = only_group(&routes).ok_or_else(no_such_object)?;
            if sure && only != group {
                return Err(no_such_object());
            }
            group = only;
        }
        let Some(group) = group else {
            return Ok(routes);
        };
        let held = self.held(&routes, &group, story);
        match found {
            _ if !held.is_empty() => Ok(held),
            Some((own, _)) if sure => Err(self.is_elsewhere(own, &routes)),
            _ => Err(no_such_object()),
        }
    }

    /// Of the pools, those with keys of the group, bound to it.
    fn held(&self, routes: &[Route], group: &GroupId, story: &mut Story) -> Vec<Route> {
        let is_by_object = self.target.is_by_object();
        let mut held = Vec::with_capacity(routes.len());
        for route in routes {
            match route.entry.pool.group(group) {
                Some(group) => held.push(Route {
                    only_group: Some(group),
                    entry: route.entry.clone(),
                    model: route.model.clone(),
                }),
                // Of all pools that might hold an object most do not: that tells nothing.
                None if is_by_object => {}
                None => story.passed_over(&route.entry, &route.model, ELSEWHERE),
            }
        }
        if is_by_object {
            // The same keys in another pool are no other chance.
            held.truncate(1);
        }
        held
    }

    /// The caller's object is with an account that has no key in the pools for this call.
    fn is_elsewhere(&self, own: &Own, routes: &[Route]) -> GatewayError {
        let pools = self.snapshot.pools.iter();
        let usable = pools.filter(|entry| self.caller.may_use_pool(entry));
        let there = usable.filter(|entry| entry.pool.group_of_origin(&own.origin).is_some());
        not_where_it_goes(&own.id, routes, there)
    }
}

/// The one group that all keys of these pools belong to. `Some(None)`: they have no keys. `None`: there are several.
fn only_group(routes: &[Route]) -> Option<Option<GroupId>> {
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
    fn of(gw: &Gateway, target: &Target<'_>, call: &Call<'_>, caller: &Caller) -> Self {
        let mut bound = Self::default();
        let maker = caller.maker();
        let mut meet = |mention, id: &str| match gw.objects.find(id, &maker) {
            Found::Own(origin) => bound.meet_own(mention, id, origin),
            Found::Foreign => bound.refused = true,
            Found::Unknown => bound.unknown |= mention == Mention::Needed,
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

    fn meet_own(&mut self, mention: Mention, id: &str, origin: Origin) {
        let known = self
            .own
            .iter_mut()
            .find(|own| own.origin.is_account_of(&origin));
        match known {
            Some(own) if own.mention >= mention => {}
            Some(own) => (own.mention, own.id) = (mention, id.to_owned()),
            None => self.own.push(Own {
                mention,
                id: id.to_owned(),
                origin,
            }),
        }
    }

    /// The group of all objects, where there is one.
    fn one_group(&self, routes: &[Route]) -> Result<(&Own, GroupId), GatewayError> {
        let mut groups = self.own.iter().map(|own| (own, own.group(routes)));
        let Some((first, group)) = groups.next() else {
            return Err(no_such_object());
        };
        match groups.find(|(_, other)| *other != group) {
            Some((other, _)) => Err(not_together(&first.id, &other.id)),
            None => Ok((first, group)),
        }
    }

    /// Of what may be no objects at all, the first that can be served.
    fn likeliest(&self, routes: &[Route]) -> Option<(&Own, GroupId)> {
        let groups = self.own.iter().map(|own| (own, own.group(routes)));
        let is_here = |group: &GroupId| {
            let mut pools = routes.iter().map(|route| &route.entry.pool);
            pools.any(|pool| pool.group(group).is_some())
        };
        groups.into_iter().find(|(_, group)| is_here(group))
    }
}

impl Own {
    /// The group that holds the object now.
    fn group(&self, routes: &[Route]) -> GroupId {
        let mut pools = routes.iter().map(|route| &route.entry.pool);
        let now = pools.find_map(|pool| pool.group_of_origin(&self.origin));
        now.unwrap_or_else(|| self.origin.group_id())
    }
}

/// Whether the body may name objects: JSON and forms may, a piece of an upload may not.
fn has_names(target: &Target<'_>, call: &Call<'_>) -> bool {
    if !target.is_native() {
        return target
            .endpoint
            .as_ref()
            .is_some_and(|endpoint| endpoint.json);
    }
    upload::goes_on_with(call.protocol, call.path, call.query.as_deref()).is_none()
}

/// Remembers what an answer tells of objects, before the client can ask for them.
pub(super) fn note(gw: &Gateway, call: &Call<'_>, caller: &Caller, lease: &Lease, answer: &Answer) {
    let Some(tells) = &call.tells else { return };
    if !answer.parts.status.is_success() {
        return;
    }
    let (origin, maker) = (lease.origin(), caller.maker());
    match tells {
        Tells::Gone(id) => return gw.objects.forget(id, &origin, &maker),
        // What belongs to nobody known does not become this caller's by being looked at.
        Tells::Yields(id) if !matches!(gw.objects.find(id, &maker), Found::Own(_)) => return,
        Tells::Yields(_) | Tells::Made | Tells::Upload => {}
    }
    let mut ids = objects::told(call.protocol, tells, call.path, &answer.read_bytes());
    if call.protocol == Protocol::Gemini {
        ids.extend(objects::upload_session(&answer.parts.headers));
    }
    for id in ids {
        gw.objects.note(&id, &origin, &maker);
    }
}
