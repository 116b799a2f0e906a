//! Objects that stick: a call that names one goes to the group whose key made it, and for its maker alone.
//!
//! What is an id, and which answers give new ones, the protocol's table says; who made it, `Objects` remembers.

use keypool_core::pool::{GroupId, Lease};
use keypool_providers::objects::{self, Mention, Tells};
use keypool_providers::protocol::{Protocol, Repeat};

use super::answer::Answer;
use super::auth::Caller;
use super::call::Call;
use super::route::{Route, no_such_object};
use super::story::Story;
use super::target::Target;
use crate::context::Gateway;
use crate::error::GatewayError;
use crate::objects::Found;

/// Why a target is passed over.
const ELSEWHERE: &str = "the request names an object that none of its keys made";

/// What the ids in a call come to.
#[derive(Default)]
struct Bound {
    /// The one group of the objects that the caller made.
    group: Option<GroupId>,
    /// An object that the call is about is not known here.
    unknown: bool,
    /// Another caller's, or of two groups at once: no key can serve it.
    refused: bool,
}

/// Of the pools for a call, those with the group that holds what it names.
pub(super) fn restrict(
    gw: &Gateway,
    target: &Target<'_>,
    call: &Call<'_>,
    caller: &Caller,
    routes: Vec<Route>,
    story: &mut Story,
) -> Result<Vec<Route>, GatewayError> {
    let mut bound = Bound::of(gw, target, call, caller);
    if target.is_by_object() && bound.group.is_none() {
        bound.unknown = true;
    }
    if bound.refused {
        return Err(no_such_object());
    }
    if bound.unknown {
        let only = only_group(&routes).ok_or_else(no_such_object)?;
        if bound.group.is_some() && only != bound.group {
            return Err(no_such_object());
        }
        bound.group = only;
    }
    let Some(group) = bound.group else {
        return Ok(routes);
    };
    let mut held = Vec::with_capacity(routes.len());
    for route in routes {
        match route.entry.pool.group(&group) {
            Some(group) => held.push(Route {
                only_group: Some(group),
                ..route
            }),
            // Of all pools that might hold an object most do not: that tells nothing.
            None if target.is_by_object() => {}
            None => story.passed_over(&route.entry, &route.model, ELSEWHERE),
        }
    }
    if target.is_by_object() {
        // The same keys in another pool are no other chance.
        held.truncate(1);
    }
    if held.is_empty() {
        return Err(no_such_object());
    }
    Ok(held)
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
            Found::Own(group) => {
                let other = bound.group.replace(group.clone());
                bound.refused |= other.is_some_and(|other| other != group);
            }
            Found::Foreign => bound.refused = true,
            Found::Unknown => bound.unknown |= mention == Mention::Needed,
        };
        let is_native = target.endpoint.is_none();
        if is_native || target.is_by_object() {
            objects::in_path(call.protocol, call.path, call.query.as_deref(), &mut meet);
        }
        // A body that can only name what was never made here is not looked through.
        let endpoint = target.endpoint.as_ref();
        let may_need = endpoint.is_none_or(|endpoint| endpoint.repeat != Repeat::Safe)
            || call.protocol == Protocol::Gemini;
        let takes_json = endpoint.is_none_or(|endpoint| endpoint.json);
        if takes_json && !call.body.is_empty() && (may_need || gw.objects.has_any()) {
            objects::in_body(call.protocol, &call.body, &mut meet);
        }
        bound
    }
}

/// Remembers what an answer tells of objects, before the client can ask for them.
pub(super) fn note(gw: &Gateway, call: &Call<'_>, caller: &Caller, lease: &Lease, answer: &Answer) {
    let Some(tells) = &call.tells else { return };
    if !answer.parts.status.is_success() {
        return;
    }
    let (group, maker) = (lease.group(), caller.maker());
    if let Tells::Gone(id) = tells {
        gw.objects.forget(id, &group, &maker);
        return;
    }
    let mut ids = objects::told(call.protocol, tells, call.path, &answer.read_bytes());
    ids.extend(objects::upload_session(&answer.parts.headers));
    for id in ids {
        gw.objects.note(&id, &group, &maker);
    }
}
