//! `virtual-keys`: what callers present.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header::{ETAG, LOCATION};
use http::{HeaderValue, StatusCode};
use keypool_core::secret::{Digest256, Secret};
use keypool_core::settings::STORE;
use keypool_core::store::{Catalog, Change, NewVirtualKey, StoredVirtualKey};
use keypool_core::values;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use super::audit;
use super::extract::{Condition, Fields, Names, Params, Patch, Source, etag};
use super::format::rfc3339;
use super::keys::{resource_name_mistake, same_as_secret};
use super::openapi::{ChangeProblems, ReadProblems};
use super::page::{Page, PageParams};
use super::problem::Problem;
use super::virtual_key_secrets::{NewSecret, new_webhook_secret, refuse_taken_secret};
use crate::context::Gateway;
use crate::resources::VirtualKeyFields;
use crate::stored::{Inactive, Resource};

/// How long the old secret is accepted after a rotation, if the operator does not say.
const GRACE: Duration = Duration::from_secs(86_400);

/// A virtual key to be created.
#[derive(Deserialize, ToSchema)]
#[schema(as = NewVirtualKey)]
pub(super) struct NewVirtualKeyFields {
    /// Its name, unique among virtual keys.
    #[schema(required, example = "team-a", min_length = 1, max_length = 128)]
    name: Option<String>,
    /// Its secret, with at least 16 characters. Default: a new one is generated and shown once.
    #[schema(pattern = "^[!-~]{16,8192}$")]
    key: Option<String>,
    /// SHA-256 of its secret in 64 hexadecimal digits, instead of `key`.
    #[schema(pattern = "^[0-9A-Fa-f]{64}$")]
    key_sha256: Option<String>,
    #[serde(flatten)]
    fields: VirtualKeyFields,
}

/// How the secret of a virtual key is replaced.
#[derive(Default, Deserialize, ToSchema)]
pub(super) struct Rotation {
    /// How long the old secret is still accepted. Default: `24h`.
    #[schema(example = "24h", pattern = r"^\d{1,3}(s|m|h)$")]
    grace: Option<String>,
    /// The new secret, with at least 16 characters. Default: a new one is generated and shown once.
    key: Option<String>,
    /// Whether the webhook secret is replaced too, and the new one shown once. Default: false.
    webhook_secret: Option<bool>,
}

/// A virtual key.
#[derive(Serialize, ToSchema)]
#[schema(as = VirtualKey)]
pub(super) struct VirtualKeyView {
    /// Its name.
    #[schema(example = "team-a")]
    name: String,
    /// What may be shown of its secret; the whole secret in the one response after it was generated.
    #[schema(required, example = "kp-…ab12")]
    key: Option<String>,
    /// The webhook secret, only in the one response after it was generated.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "whsec_…")]
    webhook_secret: Option<String>,
    /// Whether it has a webhook secret, so that its jobs' ends can be announced.
    has_webhook_secret: bool,
    /// Where it comes from, and so where it is changed: the configuration file's name, or `store`.
    source: String,
    /// Why a stored virtual key is not in effect, as a code; absent if it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    inactive: Option<&'static str>,
    /// When it was created; absent if it is declared.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    created_at: Option<String>,
    /// When it was last changed; absent if it is declared.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    updated_at: Option<String>,
    /// When its secret was set; absent if it is declared.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    secret_set_at: Option<String>,
    /// Until when the secret before the last rotation is accepted; absent if it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    old_key_accepted_until: Option<String>,
    #[serde(flatten)]
    fields: VirtualKeyFields,
}

impl VirtualKeyView {
    fn stored(gw: &Gateway, key: &StoredVirtualKey) -> Self {
        let now = gw.clock.wall();
        let inactive = gw.stored.inactive();
        let is_it = |one: &&Inactive| match &one.resource {
            Resource::VirtualKey(name) => *name == key.name,
            _ => false,
        };
        let inactive = inactive.iter().find(is_it);
        let fields: VirtualKeyFields = serde_json::from_str(&key.settings).unwrap_or_default();
        let settings = fields.settings(&key.name, key.hash);
        let fields = settings.map_or(fields, |settings| VirtualKeyFields::of(&settings));
        let previous = key
            .previous
            .map(|(_, until)| until)
            .filter(|until| *until > now);
        Self {
            name: key.name.to_string(),
            key: Some(key.hint.clone()).filter(|hint| !hint.is_empty()),
            webhook_secret: None,
            has_webhook_secret: key.webhook_secret.is_some(),
            source: STORE.to_owned(),
            inactive: inactive.map(|one| one.reason.code()),
            created_at: Some(rfc3339(key.created_at)),
            updated_at: Some(rfc3339(key.updated_at)),
            secret_set_at: Some(rfc3339(key.secret_set_at)),
            old_key_accepted_until: previous.map(rfc3339),
            fields,
        }
    }

    fn declared(key: &crate::settings::VirtualKeySettings) -> Self {
        Self {
            name: key.name.to_string(),
            key: None,
            webhook_secret: None,
            has_webhook_secret: key.webhook_secret.is_some(),
            source: key.source.to_string(),
            inactive: None,
            created_at: None,
            updated_at: None,
            secret_set_at: None,
            old_key_accepted_until: None,
            fields: VirtualKeyFields::of(key),
        }
    }
}

fn find<'c>(catalog: &'c Catalog, name: &str) -> Option<&'c StoredVirtualKey> {
    catalog.virtual_keys.iter().find(|key| &*key.name == name)
}

fn no_virtual_key(name: &str) -> Problem {
    Problem::missing(format!("there is no virtual key \"{name}\""))
}

fn refuse_declared(gw: &Gateway, name: &str) -> Result<(), Problem> {
    let declared = gw.declared();
    let mut keys = declared.virtual_keys.iter();
    match keys.find(|key| &*key.name == name) {
        Some(key) => Err(Problem::declared(
            &format!("the virtual key \"{name}\""),
            &key.source,
        )),
        None => Ok(()),
    }
}

/// The virtual keys, by name.
#[utoipa::path(get, path = "/api/v1/admin/virtual-keys", operation_id = "list_virtual_keys", tag = "virtual keys",
    params(PageParams), responses((status = 200, body = Page<VirtualKeyView>), ReadProblems))]
pub(super) async fn list(
    State(gw): State<Arc<Gateway>>,
    Params(page): Params<PageParams>,
) -> Result<Json<Page<VirtualKeyView>>, Problem> {
    let (declared, catalog) = (gw.declared(), gw.stored.catalog());
    let is_declared = |name: &str| declared.virtual_keys.iter().any(|key| &*key.name == name);
    let stored = catalog
        .as_ref()
        .map_or(&[][..], |catalog| &catalog.virtual_keys);
    let stored = stored.iter().filter(|key| !is_declared(&key.name));
    let stored = stored.map(|key| (key.name.to_string(), Ok(key)));
    let all = declared
        .virtual_keys
        .iter()
        .map(|key| (key.name.to_string(), Err(key)));
    let page = page.of(all.chain(stored).collect(), |key| match key {
        Ok(stored) => VirtualKeyView::stored(&gw, stored),
        Err(declared) => VirtualKeyView::declared(declared),
    });
    page.map(Json)
}

/// One virtual key.
#[utoipa::path(get, path = "/api/v1/admin/virtual-keys/{name}", operation_id = "get_virtual_key", tag = "virtual keys",
    params(("name" = String, Path, description = "The virtual key's name.")),
    responses((status = 200, body = VirtualKeyView), ReadProblems))]
pub(super) async fn get(
    State(gw): State<Arc<Gateway>>,
    Names(name): Names<String>,
) -> Result<Response, Problem> {
    respond(&gw, &name, StatusCode::OK, &ShownOnce::default())
}

/// Secrets that were generated.
#[derive(Default)]
struct ShownOnce {
    key: Option<Secret>,
    webhook_secret: Option<Secret>,
}

/// A virtual key as it is now.
fn respond(
    gw: &Gateway,
    name: &str,
    status: StatusCode,
    secrets: &ShownOnce,
) -> Result<Response, Problem> {
    let declared = gw.declared();
    if let Some(key) = declared.virtual_keys.iter().find(|key| &*key.name == name) {
        return Ok((status, Json(VirtualKeyView::declared(key))).into_response());
    }
    let catalog = gw.stored.loaded()?;
    let stored = find(&catalog, name).ok_or_else(|| no_virtual_key(name))?;
    let mut view = VirtualKeyView::stored(gw, stored);
    if let Some(secret) = &secrets.key {
        view.key = Some(secret.expose().to_owned());
    }
    let webhook_secret = secrets.webhook_secret.as_ref();
    view.webhook_secret = webhook_secret.map(|secret| secret.expose().to_owned());
    let mut response = (status, Json(view)).into_response();
    let headers = response.headers_mut();
    headers.insert(ETAG, etag(stored.version));
    if status == StatusCode::CREATED {
        let name = utf8_percent_encode(name, NON_ALPHANUMERIC);
        if let Ok(path) = HeaderValue::try_from(format!("/api/v1/admin/virtual-keys/{name}")) {
            headers.insert(LOCATION, path);
        }
    }
    Ok(response)
}

/// Creates a virtual key. If its secret is generated, this response is the only one that shows it.
#[utoipa::path(post, path = "/api/v1/admin/virtual-keys", operation_id = "create_virtual_key", tag = "virtual keys",
    request_body = NewVirtualKeyFields, responses((status = 201, body = VirtualKeyView), ChangeProblems))]
pub(super) async fn create(
    State(gw): State<Arc<Gateway>>,
    source: Source,
    Fields(new): Fields<NewVirtualKeyFields>,
) -> Result<Response, Problem> {
    let _one_at_a_time = gw.stored.changing.lock().await;
    let catalog = gw.stored.for_change()?;
    let mut mistakes = Vec::new();
    let name: Arc<str> = match &new.name {
        Some(name) => {
            mistakes.extend(resource_name_mistake(name));
            name.as_str().into()
        }
        None => {
            mistakes.push("`name` is missing".to_owned());
            Arc::default()
        }
    };
    let secret = NewSecret::of(new.key.as_deref(), new.key_sha256.as_deref());
    let secret = secret.map_err(|mistake| mistakes.push(mistake)).ok();
    mistakes.extend(
        secret
            .as_ref()
            .and_then(|secret| same_as_secret(&name, &secret.digest)),
    );
    let checked = new.fields.settings(&name, Digest256([0; 32]));
    checked
        .err()
        .into_iter()
        .for_each(|more| mistakes.extend(more));
    let Some(secret) = secret.filter(|_| mistakes.is_empty()) else {
        return Err(Problem::invalid(mistakes));
    };
    let declared = gw.declared();
    let is_taken = declared.virtual_keys.iter().any(|key| key.name == name);
    if is_taken || find(&catalog, &name).is_some() {
        let detail = format!(
            "there is a virtual key named \"{name}\": choose another name, or change that one"
        );
        return Err(Problem::conflict("name_taken", detail));
    }
    refuse_taken_secret(&gw, &catalog, &secret.digest)?;
    let details = json!({ "settings": new.fields });
    let target = format!("virtual-keys/{name}");
    let entry = audit::entry(&gw, source, "virtual_key.create", target, &details);
    let webhook_secret = Some(new_webhook_secret()?);
    let change = Change::AddVirtualKey {
        key: NewVirtualKey {
            name: Arc::clone(&name),
            hash: catalog.hash_key.hash(&secret.digest),
            hint: secret.hint,
            webhook_secret: webhook_secret.clone(),
            settings: serde_json::to_string(&new.fields).map_err(|_| Problem::internal())?,
        },
    };
    gw.change_catalog(&change, &entry).await?;
    let secrets = ShownOnce {
        key: secret.generated,
        webhook_secret,
    };
    respond(&gw, &name, StatusCode::CREATED, &secrets)
}

/// Changes the settings of a stored virtual key. Null removes one.
#[utoipa::path(patch, path = "/api/v1/admin/virtual-keys/{name}", operation_id = "update_virtual_key", tag = "virtual keys",
    params(("name" = String, Path, description = "The virtual key's name.")), request_body = VirtualKeyFields,
    responses((status = 200, body = VirtualKeyView), ChangeProblems))]
pub(super) async fn update(
    State(gw): State<Arc<Gateway>>,
    Names(name): Names<String>,
    source: Source,
    condition: Condition,
    patch: Patch<VirtualKeyFields>,
) -> Result<Response, Problem> {
    let _one_at_a_time = gw.stored.changing.lock().await;
    refuse_declared(&gw, &name)?;
    let catalog = gw.stored.for_change()?;
    let stored = find(&catalog, &name).ok_or_else(|| no_virtual_key(&name))?;
    let expected = condition.expect(Some(stored.version))?;
    let fields: VirtualKeyFields = patch.apply(&stored.settings)?;
    fields
        .settings(&stored.name, stored.hash)
        .map_err(Problem::invalid)?;
    let details = json!({ "changed": patch.names(), "settings": fields });
    let target = format!("virtual-keys/{name}");
    let entry = audit::entry(&gw, source, "virtual_key.update", target, &details);
    let change = Change::UpdateVirtualKey {
        name: Arc::clone(&stored.name),
        settings: serde_json::to_string(&fields).map_err(|_| Problem::internal())?,
        expected,
    };
    gw.change_catalog(&change, &entry).await?;
    respond(&gw, &name, StatusCode::OK, &ShownOnce::default())
}

/// Deletes a stored virtual key. Calls in flight go on.
#[utoipa::path(delete, path = "/api/v1/admin/virtual-keys/{name}", operation_id = "delete_virtual_key", tag = "virtual keys",
    params(("name" = String, Path, description = "The virtual key's name.")),
    responses((status = 204), ChangeProblems))]
pub(super) async fn delete(
    State(gw): State<Arc<Gateway>>,
    Names(name): Names<String>,
    source: Source,
    condition: Condition,
) -> Result<StatusCode, Problem> {
    let _one_at_a_time = gw.stored.changing.lock().await;
    refuse_declared(&gw, &name)?;
    let catalog = gw.stored.for_change()?;
    let stored = find(&catalog, &name).ok_or_else(|| no_virtual_key(&name))?;
    let expected = condition.expect(Some(stored.version))?;
    let target = format!("virtual-keys/{name}");
    let entry = audit::entry(&gw, source, "virtual_key.delete", target, &json!({}));
    let change = Change::DeleteVirtualKey {
        name: Arc::clone(&stored.name),
        expected,
    };
    gw.change_catalog(&change, &entry).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Gives a stored virtual key a new secret. The old one is accepted for a grace period. A new webhook secret is in use at once.
#[utoipa::path(post, path = "/api/v1/admin/virtual-keys/{name}/rotate", operation_id = "rotate_virtual_key", tag = "virtual keys",
    params(("name" = String, Path, description = "The virtual key's name.")), request_body = Option<Rotation>,
    responses((status = 200, body = VirtualKeyView), ChangeProblems))]
pub(super) async fn rotate(
    State(gw): State<Arc<Gateway>>,
    Names(name): Names<String>,
    source: Source,
    condition: Condition,
    rotation: Option<Fields<Rotation>>,
) -> Result<Response, Problem> {
    let _one_at_a_time = gw.stored.changing.lock().await;
    refuse_declared(&gw, &name)?;
    let catalog = gw.stored.for_change()?;
    let stored = find(&catalog, &name).ok_or_else(|| no_virtual_key(&name))?;
    let expected = condition.expect(Some(stored.version))?;
    let rotation = rotation
        .map(|Fields(rotation)| rotation)
        .unwrap_or_default();
    let grace = match rotation.grace.as_deref().map(values::duration) {
        None => GRACE,
        Some(Some(grace)) => grace,
        Some(None) => {
            let mistake = "`grace` must be a duration such as \"24h\", at most 365 days";
            return Err(Problem::invalid(vec![mistake.to_owned()]));
        }
    };
    let secret = NewSecret::of(rotation.key.as_deref(), None);
    let secret = secret.map_err(|mistake| Problem::invalid(vec![mistake]))?;
    refuse_taken_secret(&gw, &catalog, &secret.digest)?;
    let until = Some(gw.clock.wall() + grace).filter(|_| !grace.is_zero());
    let replaces_webhook_secret = rotation.webhook_secret.unwrap_or_default();
    let webhook_secret = match replaces_webhook_secret {
        true => Some(new_webhook_secret()?),
        false => None,
    };
    let details = json!({
        "grace": values::duration_text(grace),
        "webhook_secret": replaces_webhook_secret,
    });
    let target = format!("virtual-keys/{name}");
    let entry = audit::entry(&gw, source, "virtual_key.rotate", target, &details);
    let change = Change::RotateVirtualKey {
        key: NewVirtualKey {
            name: Arc::clone(&stored.name),
            hash: catalog.hash_key.hash(&secret.digest),
            hint: secret.hint,
            webhook_secret: webhook_secret.clone(),
            settings: stored.settings.clone(),
        },
        previous_until: until,
        expected,
    };
    gw.change_catalog(&change, &entry).await?;
    let secrets = ShownOnce {
        key: secret.generated,
        webhook_secret,
    };
    respond(&gw, &name, StatusCode::OK, &secrets)
}
