//! `/v1/batches`: batches whose files are kept here.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Method, Response};
use keypool_core::store::{BatchQuery, BatchRecord, BatchStatus, NewBatch};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::files::{BATCH, own as own_file, page, seconds};
use crate::context::Gateway;
use crate::error::{GatewayError, Kind};
use crate::jobs::StoredCall;
use crate::proxy::inbound::{BATCH_ID, Caller, FILE_ID};
use crate::proxy::own_answer::{
    json, limit, new_id, note, note_write, parameters, store, store_unavailable,
};

/// Batches in a list, if the caller does not say.
const PAGE: usize = 20;
/// Maximum number of batches in a list.
const MAX_PAGE: usize = 100;
/// The endpoints that batches call.
const ENDPOINTS: [&str; 5] = [
    "/v1/chat/completions",
    "/v1/responses",
    "/v1/embeddings",
    "/v1/completions",
    "/v1/moderations",
];
/// Time until a batch expires.
const WINDOW: Duration = Duration::from_secs(86_400);
/// How long results are kept, if the caller does not say.
const KEEP_RESULTS: Duration = Duration::from_secs(30 * 86_400);
/// Bounds of what a caller may note, as OpenAI's.
const MAX_NOTES: usize = 16;
const MAX_NOTE_NAME: usize = 64;
const MAX_NOTE: usize = 512;

/// What a caller sends to create a batch.
#[derive(Deserialize)]
struct NewBatchFields {
    input_file_id: Option<String>,
    endpoint: Option<String>,
    completion_window: Option<String>,
    metadata: Option<BTreeMap<String, String>>,
    output_expires_after: Option<ExpiresAfter>,
}

#[derive(Deserialize)]
struct ExpiresAfter {
    anchor: String,
    seconds: u64,
}

/// A batch, as in OpenAI's API. Times are seconds since 1970.
#[derive(Serialize)]
struct BatchView<'a> {
    id: &'a str,
    object: &'static str,
    endpoint: &'a str,
    model: Option<&'a str>,
    errors: Option<Box<RawValue>>,
    input_file_id: &'a str,
    completion_window: &'static str,
    status: &'static str,
    output_file_id: Option<&'a str>,
    error_file_id: Option<&'a str>,
    created_at: u64,
    in_progress_at: Option<u64>,
    expires_at: u64,
    finalizing_at: Option<u64>,
    completed_at: Option<u64>,
    failed_at: Option<u64>,
    expired_at: Option<u64>,
    cancelling_at: Option<u64>,
    cancelled_at: Option<u64>,
    request_counts: Counts,
    usage: Usage,
    metadata: Option<Box<RawValue>>,
}

#[derive(Serialize)]
struct Counts {
    total: u64,
    completed: u64,
    failed: u64,
}

#[derive(Serialize)]
struct Usage {
    input_tokens: u64,
    input_tokens_details: CachedTokens,
    output_tokens: u64,
    output_tokens_details: ReasoningTokens,
    total_tokens: u64,
}

#[derive(Serialize)]
struct CachedTokens {
    cached_tokens: u64,
}

#[derive(Serialize)]
struct ReasoningTokens {
    reasoning_tokens: u64,
}

impl<'a> BatchView<'a> {
    fn of(batch: &'a BatchRecord) -> Self {
        let ended = |status: BatchStatus| {
            batch
                .ended_at
                .filter(|_| batch.status == status)
                .map(seconds)
        };
        let raw = |json: &Option<String>| {
            let json = json.clone()?;
            RawValue::from_string(json).ok()
        };
        let [output, error] = &batch.result_files;
        let usage = &batch.usage;
        Self {
            id: &batch.id,
            object: "batch",
            endpoint: &batch.endpoint,
            model: batch.model.as_deref(),
            errors: raw(&batch.errors),
            input_file_id: &batch.input_file,
            completion_window: "24h",
            status: batch.status.as_str(),
            output_file_id: output.as_deref(),
            error_file_id: error.as_deref(),
            created_at: seconds(batch.created_at),
            in_progress_at: batch.in_progress_at.map(seconds),
            expires_at: seconds(batch.expires_at),
            finalizing_at: batch.finalizing_at.map(seconds),
            completed_at: ended(BatchStatus::Completed),
            failed_at: ended(BatchStatus::Failed),
            expired_at: ended(BatchStatus::Expired),
            cancelling_at: batch.cancelling_at.map(seconds),
            cancelled_at: ended(BatchStatus::Cancelled),
            request_counts: Counts {
                total: batch.total,
                completed: batch.completed,
                failed: batch.failed,
            },
            usage: Usage {
                input_tokens: usage.input_tokens,
                input_tokens_details: CachedTokens {
                    cached_tokens: usage.cached_tokens,
                },
                output_tokens: usage.output_tokens,
                output_tokens_details: ReasoningTokens {
                    reasoning_tokens: usage.reasoning_tokens,
                },
                total_tokens: usage.input_tokens + usage.output_tokens,
            },
            metadata: raw(&batch.metadata),
        }
    }
}

/// Creates a batch; `None` if its file is not kept here.
pub(in crate::proxy) async fn create(
    gw: &Arc<Gateway>,
    body: &Bytes,
    caller: &Caller,
) -> Result<Option<Response<Bytes>>, GatewayError> {
    let read: Result<NewBatchFields, _> = serde_json::from_slice(body);
    let fields = match read {
        Ok(fields) => fields,
        Err(error) => {
            let message = format!("the body is no JSON object of a batch: {error}");
            return Err(GatewayError::invalid_request(message));
        }
    };
    let is_here = |id: &String| id.starts_with(FILE_ID);
    if !fields.input_file_id.as_ref().is_none_or(is_here) {
        return Ok(None);
    }
    let new = new_batch(fields, caller)?;
    let file = own_file(gw, &new.input_file, caller).await?;
    if file.purpose != BATCH {
        let message = "the input file of a batch is uploaded with the purpose `batch`";
        return Err(GatewayError::invalid_request(message));
    }
    note_write(gw, store(gw)?.add_batch(&new).await)?;
    gw.jobs.note_due(&"".into());
    one(gw, &new.id, caller).await.map(Some)
}

fn new_batch(fields: NewBatchFields, caller: &Caller) -> Result<NewBatch, GatewayError> {
    let missing = |name: &str| GatewayError::invalid_request(format!("`{name}` is missing"));
    let input_file = fields
        .input_file_id
        .ok_or_else(|| missing("input_file_id"))?;
    let endpoint = fields.endpoint.ok_or_else(|| missing("endpoint"))?;
    if !ENDPOINTS.contains(&&*endpoint) {
        let message = format!("`endpoint` must be one of {}", ENDPOINTS.join(", "));
        return Err(GatewayError::invalid_request(message));
    }
    if fields.completion_window.as_deref() != Some("24h") {
        return Err(GatewayError::invalid_request(
            "`completion_window` must be \"24h\"",
        ));
    }
    let metadata = fields.metadata.map(checked_metadata).transpose()?;
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let call = StoredCall::new(
        (&Method::POST, endpoint.clone()),
        &headers,
        caller.address(),
        None,
    );
    Ok(NewBatch {
        id: new_id(BATCH_ID)?,
        caller: caller.owner(),
        endpoint,
        input_file: input_file.into(),
        result_files: [new_id(FILE_ID)?, new_id(FILE_ID)?],
        metadata,
        window: WINDOW,
        keep_results: keep(fields.output_expires_after)?,
        request: call.to_json(),
    })
}

fn checked_metadata(metadata: BTreeMap<String, String>) -> Result<String, GatewayError> {
    let fits = metadata.len() <= MAX_NOTES
        && metadata.iter().all(|(name, value)| {
            name.chars().count() <= MAX_NOTE_NAME && value.chars().count() <= MAX_NOTE
        });
    if !fits {
        let message = format!(
            "`metadata` may have {MAX_NOTES} entries, with names of {MAX_NOTE_NAME} and values of {MAX_NOTE} characters at most"
        );
        return Err(GatewayError::invalid_request(message));
    }
    Ok(serde_json::to_string(&metadata).unwrap_or_default())
}

/// How long results are kept.
fn keep(after: Option<ExpiresAfter>) -> Result<Duration, GatewayError> {
    let Some(after) = after else {
        return Ok(KEEP_RESULTS);
    };
    checked_expiry("output_expires_after", &after.anchor, after.seconds)
}

/// A time after which a file expires, within OpenAI's bounds.
pub(super) fn checked_expiry(
    name: &str,
    anchor: &str,
    seconds: u64,
) -> Result<Duration, GatewayError> {
    if anchor != "created_at" || !(3600..=2_592_000).contains(&seconds) {
        let message =
            format!("`{name}` must have the anchor `created_at`, and from 3600 to 2592000 seconds");
        return Err(GatewayError::invalid_request(message));
    }
    Ok(Duration::from_secs(seconds))
}

async fn own(gw: &Gateway, id: &str, caller: &Caller) -> Result<BatchRecord, GatewayError> {
    let found = note(gw, store(gw)?.batch(id).await)?;
    found
        .filter(|batch| batch.caller == caller.owner())
        .ok_or_else(|| {
            let message = "there is no such batch: its id is wrong, it is kept no longer, or another caller created it";
            GatewayError::new(Kind::NotFound, message)
        })
}

/// One batch.
pub(in crate::proxy) async fn one(
    gw: &Gateway,
    id: &str,
    caller: &Caller,
) -> Result<Response<Bytes>, GatewayError> {
    let batch = own(gw, id, caller).await?;
    Ok(json(&BatchView::of(&batch)))
}

/// The caller's batches, newest first.
pub(in crate::proxy) async fn list(
    gw: &Gateway,
    query: Option<&str>,
    caller: &Caller,
) -> Result<Response<Bytes>, GatewayError> {
    let [after, page_limit] = parameters(query, ["after", "limit"])?;
    let page_limit = limit(page_limit, PAGE, MAX_PAGE)?;
    let query = BatchQuery {
        caller: caller.owner(),
        after: after.map(|id| id.as_ref().into()),
        limit: page_limit + 1,
    };
    let batches = note(gw, store(gw)?.list_batches(&query).await)?;
    let view = |batch: &BatchRecord| {
        let json = serde_json::to_string(&BatchView::of(batch)).unwrap_or_default();
        RawValue::from_string(json).ok()
    };
    Ok(json(&page(batches, page_limit, |batch| &batch.id, view)))
}

/// Calls a batch off.
pub(in crate::proxy) async fn cancel(
    gw: &Gateway,
    id: &str,
    caller: &Caller,
) -> Result<Response<Bytes>, GatewayError> {
    own(gw, id, caller).await?;
    let begun = gw.cancel_batch(id).await;
    let begun = begun.map_err(|error| store_unavailable(&error))?;
    let batch = own(gw, id, caller).await?;
    let is_cancelled = matches!(
        batch.status,
        BatchStatus::Cancelling | BatchStatus::Cancelled
    );
    if !begun && !is_cancelled {
        let message = format!(
            "this batch has the status {}, so it cannot be cancelled",
            batch.status.as_str()
        );
        return Err(GatewayError {
            dont_retry: true,
            ..GatewayError::new(Kind::BatchEnded, message)
        });
    }
    Ok(json(&BatchView::of(&batch)))
}
