//! `keys/import`: many keys at once, as text, CSV or JSON.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::{Request, State};
use http::StatusCode;
use http_body_util::BodyExt;
use keypool_core::secret::{Digest256, Secret};
use keypool_core::store::{Change, NewKey};
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

use super::audit;
use super::extract::{Names, Source, media_type, unsupported};
use super::import_format::{Format, Line, MAX_LINES, too_large};
use super::keys::{PoolForKeys, free_name, name_mistake, same_as_secret, secret};
use super::openapi::ChangeProblems;
use super::problem::Problem;
use crate::context::Gateway;
use crate::stored::surroundings;

/// Maximum size of the body, in bytes.
const MAX_BYTES: usize = 64 << 20;
/// How long a body may take, the rest of one that is too large included: a client that is still writing would not see the
/// response.
const BODY_TIME: Duration = Duration::from_secs(30);

/// What became of the lines of an import.
#[derive(Serialize, ToSchema)]
pub(super) struct ImportReport {
    /// Number of keys that were added.
    added: usize,
    /// Number of keys that the pool has already.
    known: usize,
    /// Number of lines that are not keys.
    malformed: usize,
    /// Line by line, without secrets.
    keys: Vec<ImportedKey>,
}

/// What became of one line of an import.
#[derive(Serialize, ToSchema)]
struct ImportedKey {
    /// Its number, from 1; in JSON, that of the entry.
    line: usize,
    /// The key's name; null if it has none.
    #[schema(required)]
    name: Option<String>,
    status: ImportStatus,
    /// Why it was not added, as a sentence; null if it was, or is known.
    #[schema(required)]
    error: Option<String>,
}

/// What became of a line.
#[derive(Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum ImportStatus {
    Added,
    Known,
    Malformed,
}

/// Adds many keys to a stored or declared pool, all or none of those that can be added. The body is text with one key per
/// line; CSV with a header that names the columns (`key`, `name`, `weight`, …), or with the key in the first column and the name
/// in the second; or a JSON list of keys, or of objects with the fields of a key. Lines that are not keys are reported
/// and left out.
#[utoipa::path(post, path = "/api/v1/admin/pools/{pool}/keys/import", operation_id = "import_keys", tag = "keys",
    params(("pool" = String, Path, description = "The pool's name.")),
    request_body(content(
        (String = "text/plain", example = "sk-abcdefghijklmnop\nsk-qrstuvwxyz123456"),
        (String = "text/csv", example = "key,name,weight\nsk-abcdefghijklmnop,main,2"),
        (Vec<serde_json::Value> = "application/json", example = json!(["sk-abcdefghijklmnop"])),
    )),
    responses((status = 200, body = ImportReport), ChangeProblems))]
pub(super) async fn import(
    State(gw): State<Arc<Gateway>>,
    Names(pool_name): Names<String>,
    source: Source,
    request: Request,
) -> Result<Json<ImportReport>, Problem> {
    let format = match &*media_type(request.headers()) {
        "text/plain" => Format::Text,
        "text/csv" => Format::Csv,
        "application/json" => Format::Json,
        _ => return Err(unsupported("text/plain, text/csv or application/json")),
    };
    // One import at a time, so that bodies of many do not fill the memory.
    let waiting = tokio::time::timeout(BODY_TIME, gw.stored.importing.lock());
    let _one_at_a_time = waiting.await.map_err(|_| {
        let detail = "another import is being read: try again";
        Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "import_in_progress",
            detail,
        )
    })?;
    let body = read_body(request.into_body(), format).await?;
    let parsing = tokio::task::spawn_blocking(move || format.lines(&body, MAX_LINES));
    let lines = parsing.await.map_err(|_| Problem::internal())??;
    let _one_change_at_a_time = gw.stored.changing.lock().await;
    let pool = Arc::new(PoolForKeys::find(&gw, &pool_name)?);
    let (of_gw, of_pool) = (Arc::clone(&gw), Arc::clone(&pool));
    // Many lines take some time: off the tasks that serve requests.
    let planning = tokio::task::spawn_blocking(move || plan(&of_gw, &of_pool, lines));
    let (report, keys) = planning.await.map_err(|_| Problem::internal())?;
    if keys.is_empty() {
        return Ok(Json(report));
    }
    let details = json!({
        "added": report.added, "known": report.known, "malformed": report.malformed,
    });
    let target = format!("pools/{pool_name}/keys");
    let entry = audit::entry(&gw, source, "key.import", target, &details);
    let change = Change::AddKeys {
        pool: Arc::clone(&pool.settings.name),
        pool_is_stored: pool.is_stored,
        keys,
    };
    gw.change_catalog(&change, &entry).await?;
    Ok(Json(report))
}

/// The body, within its limits. What is beyond them is read and dropped for a while.
async fn read_body(mut body: Body, format: Format) -> Result<Vec<u8>, Problem> {
    let (mut read, mut lines, mut is_too_large) = (Vec::new(), 0, false);
    let reading = async {
        while let Some(frame) = body.frame().await {
            let Ok(piece) = frame.map_err(|_| broke_off())?.into_data() else {
                continue;
            };
            if format != Format::Json {
                lines += piece.iter().filter(|byte| **byte == b'\n').count();
            }
            is_too_large |= lines > MAX_LINES + 1 || read.len() + piece.len() > MAX_BYTES;
            match is_too_large {
                true => read = Vec::new(),
                false => read.extend_from_slice(&piece),
            }
        }
        Ok::<(), Problem>(())
    };
    let read_all = tokio::time::timeout(BODY_TIME, reading).await;
    if is_too_large {
        return Err(too_large());
    }
    read_all.map_err(|_| broke_off())??;
    Ok(read)
}

fn broke_off() -> Problem {
    let detail = "the body broke off, or came too slowly; nothing was imported";
    Problem::new(StatusCode::BAD_REQUEST, "invalid_body", detail)
}

/// What each line becomes, and the keys to be added.
fn plan(gw: &Gateway, pool: &PoolForKeys, lines: Vec<Line>) -> (ImportReport, Vec<NewKey>) {
    let mut planning = Planning::new(gw, pool);
    let mut report = ImportReport {
        added: 0,
        known: 0,
        malformed: 0,
        keys: Vec::with_capacity(lines.len()),
    };
    let mut keys = Vec::new();
    for line in lines {
        let number = line.number;
        let (name, status, error) = match planning.decide(line) {
            Decision::Add(key) => {
                let name = key.name.to_string();
                keys.push(key);
                report.added += 1;
                (Some(name), ImportStatus::Added, None)
            }
            Decision::Known(name) => {
                report.known += 1;
                (Some(name.to_string()), ImportStatus::Known, None)
            }
            Decision::Malformed(name, error) => {
                report.malformed += 1;
                (name, ImportStatus::Malformed, Some(error))
            }
        };
        report.keys.push(ImportedKey {
            line: number,
            name,
            status,
            error,
        });
    }
    (report, keys)
}

enum Decision {
    Add(NewKey),
    Known(Arc<str>),
    Malformed(Option<String>, String),
}

/// The names and secrets that the pool has, with those of the lines before.
struct Planning<'a> {
    pool: &'a PoolForKeys,
    declared: Arc<crate::settings::Settings>,
    names: HashSet<Arc<str>>,
    secrets: HashMap<Digest256, Arc<str>>,
    /// The number that the next name may have.
    next: usize,
}

impl<'a> Planning<'a> {
    fn new(gw: &Gateway, pool: &'a PoolForKeys) -> Self {
        let in_effect = pool
            .settings
            .keys
            .iter()
            .map(|key| (&key.name, &key.secret));
        let stored = pool
            .catalog
            .keys
            .iter()
            .filter(|key| key.pool == pool.settings.name);
        let all = || {
            in_effect
                .clone()
                .chain(stored.clone().map(|key| (&key.name, &key.secret)))
        };
        Self {
            declared: gw.declared(),
            names: all().map(|(name, _)| Arc::clone(name)).collect(),
            secrets: all()
                .map(|(name, secret)| (secret.digest(), Arc::clone(name)))
                .collect(),
            pool,
            next: 1,
        }
    }

    fn decide(&mut self, line: Line) -> Decision {
        let mistake = line.name.as_deref().and_then(name_mistake);
        // A name that is none may be a secret in the wrong column: the report does not repeat it.
        let name = line.name.clone().filter(|_| mistake.is_none());
        let malformed = |error| Decision::Malformed(name, error);
        let entry = match line.entry {
            Ok(entry) => entry,
            Err(error) => return malformed(error),
        };
        let secret = match secret(&entry.key) {
            Ok(secret) => secret,
            Err(mistake) => return malformed(mistake),
        };
        if let Some(known) = self.secrets.get(&secret.digest()) {
            return Decision::Known(Arc::clone(known));
        }
        if let Some(name) = &line.name {
            if let Some(mistake) = mistake.or_else(|| same_as_secret(name, &secret.digest())) {
                return Decision::Malformed(None, mistake);
            }
            if self.names.contains(&**name) {
                return malformed("the pool has another key of that name".to_owned());
            }
        }
        let name: Arc<str> = line
            .name
            .unwrap_or_else(|| free_name(&self.pool.settings.name, &self.names, &mut self.next))
            .into();
        match self.key(&name, secret, &entry.fields) {
            Ok(key) => {
                self.secrets.insert(key.secret.digest(), Arc::clone(&name));
                self.names.insert(name);
                Decision::Add(key)
            }
            Err(mistakes) => Decision::Malformed(Some(name.to_string()), mistakes.join("; ")),
        }
    }

    fn key(
        &self,
        name: &Arc<str>,
        secret: Secret,
        fields: &crate::resources::KeyFields,
    ) -> Result<NewKey, Vec<String>> {
        let around = surroundings(&self.declared);
        let (_, place) = fields.settings((name, &secret), &self.pool.settings, around)?;
        Ok(NewKey {
            name: Arc::clone(name),
            secret,
            bound_to: place.binding,
            settings: serde_json::to_string(fields).map_err(|error| vec![error.to_string()])?,
        })
    }
}
