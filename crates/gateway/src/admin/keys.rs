//! `pools/{pool}/keys`: the keys of a pool.

use std::collections::HashSet;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header::{ETAG, LOCATION};
use http::{HeaderValue, StatusCode};
use keypool_core::secret::{Digest256, Secret};
use keypool_core::settings::PoolSettings;
use keypool_core::store::{Catalog, Change, Expected, NewKey, StoredKey};
use keypool_core::values;
use keypool_providers::secrets::is_key_as_name;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde_json::json;
use utoipa::ToSchema;

use super::audit;
use super::extract::{Condition, Fields, Names, Params, Patch, Source, etag};
use super::key_view::{KeyView, KnownKeys};
use super::openapi::{ChangeProblems, ReadProblems};
use super::page::{Page, PageParams};
use super::pools;
use super::problem::Problem;
use crate::context::Gateway;
use crate::resources::KeyFields;
use crate::stored::{Resource, surroundings};

/// A key to be added, or what changes of one.
#[derive(Deserialize, ToSchema)]
#[schema(as = NewKey)]
pub(super) struct KeyWithSecret {
    /// Its name, unique in its pool. Default: `<pool>-1`, `<pool>-2`, ….
    #[schema(min_length = 1, max_length = 128)]
    name: Option<String>,
    /// The secret. It can be written, never read.
    #[schema(
        required,
        example = "sk-abcdefghijklmnop",
        pattern = r"^[!#-&(-:<-Z\\^-z|~]{1,8192}$"
    )]
    key: Option<String>,
    #[serde(flatten)]
    fields: KeyFields,
}

/// What changes of a key. Null removes a setting.
#[derive(Deserialize, ToSchema)]
#[schema(as = KeyChange)]
pub(super) struct KeyPatch {
    /// A new secret.
    #[schema(
        example = "sk-abcdefghijklmnop",
        pattern = r"^[!#-&(-:<-Z\\^-z|~]{1,8192}$"
    )]
    #[expect(dead_code, reason = "taken out of the patch by its name")]
    key: Option<String>,
    #[serde(flatten)]
    #[expect(dead_code, reason = "applied to the stored settings as a patch")]
    fields: KeyFields,
}

/// What a change of a key needs to know.
pub(super) struct PoolForKeys {
    pub(super) catalog: Arc<Catalog>,
    /// The pool in effect, with the keys in effect.
    pub(super) settings: Arc<PoolSettings>,
    pub(super) is_stored: bool,
}

impl PoolForKeys {
    /// The pool of that name. To be called while `changing` is held.
    pub(super) fn find(gw: &Gateway, name: &str) -> Result<Self, Problem> {
        let catalog = gw.stored.for_change()?;
        let settings = pools::settings(&gw.snapshot(), name).ok_or_else(|| pools::no_pool(name))?;
        Ok(Self {
            is_stored: &*settings.source == keypool_core::settings::STORE,
            catalog,
            settings,
        })
    }

    fn stored(&self, name: &str) -> Option<&StoredKey> {
        let mut keys = self.catalog.keys.iter();
        keys.find(|key| key.pool == self.settings.name && *key.name == *name)
    }

    /// A stored key that may be changed.
    fn changeable(&self, name: &str) -> Result<&StoredKey, Problem> {
        let mut in_effect = self.settings.keys.iter();
        let declared = in_effect.find(|key| *key.name == *name && !key.is_stored);
        if declared.is_some() {
            let what = format!("the key \"{name}\" of pool \"{}\"", self.settings.name);
            return Err(Problem::declared(&what, &self.settings.source));
        }
        self.stored(name)
            .ok_or_else(|| no_key(&self.settings.name, name))
    }

    fn is_taken(&self, name: &str) -> bool {
        let mut in_effect = self.settings.keys.iter();
        in_effect.any(|key| *key.name == *name) || self.stored(name).is_some()
    }

    /// The name of another key of the pool with this secret.
    fn with_secret(&self, secret: &Secret, except: &str) -> Option<Arc<str>> {
        let mut in_effect = self.settings.keys.iter();
        let found = in_effect.find(|key| key.secret == *secret && *key.name != *except);
        let mut stored = self.catalog.keys.iter();
        let is_it = |key: &&StoredKey| {
            key.pool == self.settings.name && key.secret == *secret && *key.name != *except
        };
        let found = found.map(|key| &key.name);
        found
            .or_else(|| stored.find(is_it).map(|key| &key.name))
            .cloned()
    }

    /// The first free name of the form `<pool>-<number>`.
    fn free_name(&self) -> String {
        let pool = &self.settings.name;
        let stored = self.catalog.keys.iter().filter(|key| key.pool == *pool);
        let names = self.settings.keys.iter().map(|key| &key.name);
        let taken: HashSet<Arc<str>> = names.chain(stored.map(|key| &key.name)).cloned().collect();
        free_name(pool, &taken, &mut 1)
    }
}

/// The first name of the form `<pool>-<number>` that is not taken, from the number `next` on.
pub(super) fn free_name(pool: &str, taken: &HashSet<Arc<str>>, next: &mut usize) -> String {
    loop {
        let name = format!("{pool}-{next}");
        *next += 1;
        if !taken.contains(&*name) {
            return name;
        }
    }
}

/// A provider's key as it was sent. The message does not show it.
pub(super) fn secret(text: &str) -> Result<Secret, String> {
    let text = text.trim();
    match values::secret_mistake(text) {
        Some(mistake) => Err(format!("`key` {}", mistake.text())),
        None => Ok(Secret::new(text)),
    }
}

/// What is wrong with the name of a key.
pub(super) fn name_mistake(name: &str) -> Option<String> {
    if name == "import" {
        return Some("`name` must not be \"import\", which is a path of this API".to_owned());
    }
    resource_name_mistake(name)
}

/// What is wrong with a name that becomes part of a path.
pub(super) fn resource_name_mistake(name: &str) -> Option<String> {
    if matches!(name, "." | "..") {
        return Some(
            "`name` must not be \".\" or \"..\", which clients remove from a path".to_owned(),
        );
    }
    if is_key_as_name(name) {
        return Some("`name` looks like a key, and names are shown and logged".to_owned());
    }
    values::name_mistake(name).map(|mistake| format!("`name` {mistake}"))
}

/// What is wrong with a key whose name is its secret, of which this is the digest.
pub(super) fn same_as_secret(name: &str, secret: &Digest256) -> Option<String> {
    let is_same = Digest256::of(name.as_bytes()) == *secret;
    is_same.then(|| "`name` is the same as `key`, and names are shown and logged".to_owned())
}

pub(super) fn no_key(pool: &str, name: &str) -> Problem {
    Problem::missing(format!("there is no key \"{name}\" in pool \"{pool}\""))
}

pub(super) fn target(pool: &str, name: &str) -> String {
    format!("pools/{pool}/keys/{name}")
}

/// The keys of a pool, by name.
#[utoipa::path(get, path = "/api/v1/admin/pools/{pool}/keys", operation_id = "list_keys", tag = "keys",
    params(("pool" = String, Path, description = "The pool's name."), PageParams),
    responses((status = 200, body = Page<KeyView>), ReadProblems))]
pub(super) async fn list(
    State(gw): State<Arc<Gateway>>,
    Names(pool): Names<String>,
    Params(page): Params<PageParams>,
) -> Result<Json<Page<KeyView>>, Problem> {
    let snapshot = gw.snapshot();
    let entry = snapshot.pool(&pool).ok_or_else(|| pools::no_pool(&pool))?;
    let (catalog, inactive) = (gw.stored.catalog(), gw.stored.inactive());
    let known = KnownKeys::of(&gw, catalog.as_deref());
    let in_effect = entry.pool.keys();
    let listed: HashSet<Arc<str>> = in_effect.all().map(|key| Arc::clone(&key.name)).collect();
    let others = inactive.iter().filter_map(|one| {
        let Resource::Key { pool: of, name } = &one.resource else {
            return None;
        };
        // A declared key of the same name is listed instead.
        let is_other = **of == *pool && !listed.contains(name);
        let key = known.stored(of, name).filter(|_| is_other)?;
        Some((name.to_string(), Err((key, one.reason.code()))))
    });
    let all = in_effect
        .all()
        .map(|member| (member.name.to_string(), Ok(member)));
    let all = all.chain(others).collect();
    let page = page.of(all, |key| match key {
        Ok(member) => known.show(&pool, &member),
        Err((key, reason)) => known.show_inactive(key, reason),
    });
    page.map(Json)
}

/// One key.
#[utoipa::path(get, path = "/api/v1/admin/pools/{pool}/keys/{name}", operation_id = "get_key", tag = "keys",
    params(("pool" = String, Path, description = "The pool's name."), ("name" = String, Path, description = "The key's name.")),
    responses((status = 200, body = KeyView), ReadProblems))]
pub(super) async fn get(
    State(gw): State<Arc<Gateway>>,
    Names((pool, name)): Names<(String, String)>,
) -> Result<Response, Problem> {
    respond(&gw, &pool, &name, StatusCode::OK)
}

/// A key as it is now.
pub(super) fn respond(
    gw: &Gateway,
    pool: &str,
    name: &str,
    status: StatusCode,
) -> Result<Response, Problem> {
    let snapshot = gw.snapshot();
    let catalog = gw.stored.catalog();
    let known = KnownKeys::of(gw, catalog.as_deref());
    let keys = catalog.as_ref().map_or(&[][..], |catalog| &catalog.keys);
    let stored = keys
        .iter()
        .find(|key| *key.pool == *pool && *key.name == *name);
    let member = snapshot
        .pool(pool)
        .and_then(|entry| entry.pool.member(name));
    let (view, version) = match (member, stored) {
        (Some(member), stored) => {
            let is_stored = member.keys().settings().keys[member.index()].is_stored;
            let stored = stored.filter(|_| is_stored);
            (known.show(pool, &member), stored.map(|key| key.version))
        }
        (None, Some(key)) => {
            let inactive = gw.stored.inactive();
            let resource = Resource::Key {
                pool: Arc::clone(&key.pool),
                name: Arc::clone(&key.name),
            };
            let reason = inactive.iter().find(|one| one.resource == resource);
            let reason = reason.map_or("not_applied", |one| one.reason.code());
            (known.show_inactive(key, reason), Some(key.version))
        }
        (None, None) if snapshot.pool(pool).is_none() => return Err(pools::no_pool(pool)),
        (None, None) => return Err(no_key(pool, name)),
    };
    let mut response = (status, Json(view)).into_response();
    if let Some(version) = version {
        response.headers_mut().insert(ETAG, etag(version));
    }
    if status == StatusCode::CREATED {
        let encode = |text| utf8_percent_encode(text, NON_ALPHANUMERIC);
        let path = format!("/api/v1/admin/pools/{}/keys/{}", encode(pool), encode(name));
        if let Ok(path) = HeaderValue::try_from(path) {
            response.headers_mut().insert(LOCATION, path);
        }
    }
    Ok(response)
}

/// Adds a key to a stored or declared pool.
#[utoipa::path(post, path = "/api/v1/admin/pools/{pool}/keys", operation_id = "add_key", tag = "keys",
    params(("pool" = String, Path, description = "The pool's name.")), request_body = KeyWithSecret,
    responses((status = 201, body = KeyView), ChangeProblems))]
pub(super) async fn add(
    State(gw): State<Arc<Gateway>>,
    Names(pool_name): Names<String>,
    source: Source,
    Fields(new): Fields<KeyWithSecret>,
) -> Result<Response, Problem> {
    let _one_at_a_time = gw.stored.changing.lock().await;
    let pool = PoolForKeys::find(&gw, &pool_name)?;
    let mut mistakes: Vec<String> = new
        .name
        .as_deref()
        .and_then(name_mistake)
        .into_iter()
        .collect();
    let secret = match new.key.as_deref().map(secret) {
        Some(Ok(secret)) => Some(secret),
        Some(Err(mistake)) => {
            mistakes.push(mistake);
            None
        }
        None => {
            mistakes.push("`key` is missing: it is the secret".to_owned());
            None
        }
    };
    if let (Some(name), Some(secret)) = (&new.name, &secret) {
        mistakes.extend(same_as_secret(name, &secret.digest()));
    }
    let Some(secret) = secret.filter(|_| mistakes.is_empty()) else {
        return Err(Problem::invalid(mistakes));
    };
    let name: Arc<str> = new.name.unwrap_or_else(|| pool.free_name()).into();
    if pool.is_taken(&name) {
        let detail =
            format!("the pool has a key named \"{name}\": choose another name, or change that key");
        return Err(Problem::conflict("name_taken", detail));
    }
    refuse_taken_secret(&pool, &secret, &name)?;
    let declared = gw.declared();
    let (_, place) = new
        .fields
        .settings((&name, &secret), &pool.settings, surroundings(&declared))
        .map_err(Problem::invalid)?;
    let key = NewKey {
        name: Arc::clone(&name),
        secret,
        bound_to: place.binding,
        settings: serde_json::to_string(&new.fields).map_err(|_| Problem::internal())?,
    };
    let details = json!({ "settings": new.fields });
    let entry = audit::entry(
        &gw,
        source,
        "key.create",
        target(&pool_name, &name),
        &details,
    );
    let change = Change::AddKeys {
        pool: Arc::clone(&pool.settings.name),
        pool_is_stored: pool.is_stored,
        keys: vec![key],
    };
    gw.change_catalog(&change, &entry).await?;
    respond(&gw, &pool_name, &name, StatusCode::CREATED)
}

fn refuse_taken_secret(pool: &PoolForKeys, secret: &Secret, name: &str) -> Result<(), Problem> {
    match pool.with_secret(secret, name) {
        Some(other) => Err(Problem::conflict(
            "duplicate_key",
            format!("the key \"{other}\" of this pool has the same secret"),
        )),
        None => Ok(()),
    }
}

/// Changes a stored key. A new secret takes the place of the old one at once, and calls in flight end with the old one.
#[utoipa::path(patch, path = "/api/v1/admin/pools/{pool}/keys/{name}", operation_id = "update_key", tag = "keys",
    params(("pool" = String, Path, description = "The pool's name."), ("name" = String, Path, description = "The key's name.")),
    request_body = KeyPatch, responses((status = 200, body = KeyView), ChangeProblems))]
pub(super) async fn update(
    State(gw): State<Arc<Gateway>>,
    Names((pool_name, name)): Names<(String, String)>,
    source: Source,
    condition: Condition,
    mut patch: Patch<KeyPatch>,
) -> Result<Response, Problem> {
    let _one_at_a_time = gw.stored.changing.lock().await;
    let pool = PoolForKeys::find(&gw, &pool_name)?;
    let stored = pool.changeable(&name)?;
    let expected = condition.expect(Some(stored.version))?;
    let changed = patch.names();
    let new_secret = patch.take_text("key")?;
    let new_secret = new_secret.map(|text| secret(&text)).transpose();
    let new_secret = new_secret.map_err(|mistake| Problem::invalid(vec![mistake]))?;
    if let Some(secret) = &new_secret {
        refuse_taken_secret(&pool, secret, &name)?;
    }
    let fields: KeyFields = patch.apply(&stored.settings)?;
    let declared = gw.declared();
    let secret = new_secret.clone().unwrap_or_else(|| stored.secret.clone());
    let (settings, place) = fields
        .settings(
            (&stored.name, &secret),
            &pool.settings,
            surroundings(&declared),
        )
        .map_err(Problem::invalid)?;
    if new_secret.is_none() && place.binding != stored.bound_to {
        let detail = "the secret was set for another base URL or proxy, and is not sent elsewhere: send `key` again with this change";
        return Err(Problem::conflict("secret_required", detail));
    }
    let details = json!({ "changed": changed, "settings": fields });
    let entry = audit::entry(
        &gw,
        source,
        "key.update",
        target(&pool_name, &name),
        &details,
    );
    let change = Change::UpdateKey {
        pool: Arc::clone(&pool.settings.name),
        has_new_secret: new_secret.is_some(),
        key: NewKey {
            name: Arc::clone(&stored.name),
            secret,
            bound_to: place.binding,
            settings: serde_json::to_string(&fields).map_err(|_| Problem::internal())?,
        },
        expected,
    };
    gw.keep_disabled(&pool.settings, &settings).await?;
    gw.change_catalog(&change, &entry).await?;
    respond(&gw, &pool_name, &name, StatusCode::OK)
}

/// Deletes a stored key. Calls in flight go on.
#[utoipa::path(delete, path = "/api/v1/admin/pools/{pool}/keys/{name}", operation_id = "delete_key", tag = "keys",
    params(("pool" = String, Path, description = "The pool's name."), ("name" = String, Path, description = "The key's name.")),
    responses((status = 204), ChangeProblems))]
pub(super) async fn delete(
    State(gw): State<Arc<Gateway>>,
    Names((pool_name, name)): Names<(String, String)>,
    source: Source,
    condition: Condition,
) -> Result<StatusCode, Problem> {
    let _one_at_a_time = gw.stored.changing.lock().await;
    let (pool, expected): (Arc<str>, Expected) = match PoolForKeys::find(&gw, &pool_name) {
        Ok(pool) => {
            let stored = pool.changeable(&name)?;
            (
                Arc::clone(&stored.pool),
                condition.expect(Some(stored.version))?,
            )
        }
        // A key whose pool is gone can still be deleted.
        Err(no_pool) => {
            let catalog = gw.stored.for_change()?;
            let mut keys = catalog.keys.iter();
            let stored = keys
                .find(|key| *key.pool == *pool_name && *key.name == *name)
                .ok_or(no_pool)?;
            (
                Arc::clone(&stored.pool),
                condition.expect(Some(stored.version))?,
            )
        }
    };
    let entry = audit::entry(
        &gw,
        source,
        "key.delete",
        target(&pool_name, &name),
        &json!({}),
    );
    let change = Change::DeleteKey {
        pool,
        name: name.into(),
        expected,
    };
    gw.change_catalog(&change, &entry).await?;
    Ok(StatusCode::NO_CONTENT)
}
