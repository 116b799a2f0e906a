//! The objects that a call names: whose they are, and which account holds all of them.

use keypool_core::pool::{GroupId, ObjectOrigin};
use keypool_providers::objects::{self, RefKind};

use crate::context::Gateway;
use crate::error::{GatewayError, Kind};
use crate::objects::Found;
use crate::proxy::inbound::{Call, Caller};
use crate::proxy::routing::{PoolTarget, no_such_object};

/// What the ids in a call stand for.
#[derive(Default)]
pub(super) struct ObjectRefs {
    /// The caller's own objects. Of several at the same accounts, the one whose reference says most.
    pub(super) own: Vec<OwnObject>,
    /// The call requires an object that is not known here.
    pub(super) has_unknown: bool,
}

/// An object of the caller's, and the accounts that hold one of that name.
pub(super) struct OwnObject {
    kind: RefKind,
    pub(super) id: String,
    /// The newest first.
    pub(super) origins: Vec<ObjectOrigin>,
}

impl ObjectRefs {
    /// Looks up every id in the call. Fails if one belongs to another caller: no key may serve it.
    pub(super) fn find(
        gw: &Gateway,
        call: &Call<'_>,
        caller: &Caller,
    ) -> Result<Self, GatewayError> {
        let mut refs = Self::default();
        let mut is_foreign = false;
        let owner = caller.owner();
        let mut add = |kind, id: &str| match gw.objects.find(id, &owner) {
            Found::Own(origins) => refs.add_own(kind, id, origins),
            Found::Foreign => is_foreign = true,
            Found::Unknown => refs.has_unknown |= kind == RefKind::Required,
        };
        let endpoint = &call.endpoint;
        if endpoint.is_about_objects() || endpoint.is_by_object() {
            objects::in_path(
                call.protocol(),
                call.path(),
                call.query.as_deref(),
                &mut add,
            );
        }
        if may_name_objects(call) && (may_require_object(call) || gw.objects.has_any()) {
            objects::in_body(call.protocol(), call.headers, call.body(), &mut add);
        }
        if is_foreign {
            return Err(no_such_object());
        }
        Ok(refs)
    }

    fn add_own(&mut self, kind: RefKind, id: &str, origins: Vec<ObjectOrigin>) {
        let known = self.own.iter_mut().find(|own| own.is_at(&origins));
        match known {
            Some(own) if own.kind >= kind => {}
            Some(own) => (own.kind, own.id) = (kind, id.to_owned()),
            None => self.own.push(OwnObject {
                kind,
                id: id.to_owned(),
                origins,
            }),
        }
    }

    /// A group that holds all of the caller's objects, preferably one that a target can reach. `None` if the call names
    /// none.
    pub(super) fn common_group(
        &self,
        targets: &[PoolTarget],
    ) -> Result<Option<GroupId>, GatewayError> {
        let mut common: Option<Vec<GroupId>> = None;
        for own in &self.own {
            let groups = own.groups(targets);
            let Some(common) = &mut common else {
                common = Some(groups);
                continue;
            };
            common.retain(|group| groups.contains(group));
            if common.is_empty() {
                let apart = |other: &&OwnObject| {
                    let mut others = other.groups(targets).into_iter();
                    !others.any(|group| groups.contains(&group))
                };
                let other = self.own.iter().find(apart).unwrap_or(&self.own[0]);
                return Err(not_together(&other.id, &own.id));
            }
        }
        let Some(common) = common else {
            return Ok(None);
        };
        let reachable = common.iter().position(|group| is_reachable(group, targets));
        let group = common.into_iter().nth(reachable.unwrap_or(0));
        group.map(Some).ok_or_else(no_such_object)
    }
}

impl OwnObject {
    /// The groups that hold the object now.
    fn groups(&self, targets: &[PoolTarget]) -> Vec<GroupId> {
        let group = |origin: &ObjectOrigin| {
            let mut pools = targets.iter().map(|target| &target.entry.pool);
            let now = pools.find_map(|pool| pool.group_of_origin(origin));
            now.unwrap_or_else(|| origin.group_id())
        };
        self.origins.iter().map(group).collect()
    }

    /// Whether the object is at these accounts, and no others.
    fn is_at(&self, origins: &[ObjectOrigin]) -> bool {
        let mut both = self.origins.iter().zip(origins);
        self.origins.len() == origins.len() && both.all(|(own, other)| own.is_account_of(other))
    }
}

/// Whether one of the pools has keys of the group.
fn is_reachable(group: &GroupId, targets: &[PoolTarget]) -> bool {
    let mut pools = targets.iter().map(|target| &target.entry.pool);
    pools.any(|pool| pool.group(group).is_some())
}

/// Whether the body may name objects. JSON and forms may; a piece of a file may not.
fn may_name_objects(call: &Call<'_>) -> bool {
    let endpoint = &call.endpoint;
    let has_names = if endpoint.is_about_objects() {
        endpoint.upload.is_none()
    } else {
        endpoint.known.as_ref().is_some_and(|known| known.json)
    };
    has_names && !call.body().is_empty()
}

/// Whether the body may require an object, known here or not. Other bodies matter only once an object was recorded.
fn may_require_object(call: &Call<'_>) -> bool {
    let known = call.endpoint.known.as_ref();
    known.is_none_or(|known| known.requires_objects)
}

/// The call names two objects of the caller's that no key can use together.
fn not_together(one: &str, other: &str) -> GatewayError {
    let message = format!(
        "\"{one}\" and \"{other}\" were made by keys of different accounts, and no key can use both: \
         make one of them again by a key of the other's account, or send each in a call of its own"
    );
    GatewayError::new(Kind::NotFound, message)
}
