//! `/v1/files`: files that are kept here.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderValue, Response};
use keypool_core::store::{FileDeletion, FileQuery, FileRecord, ResultsOf, StoreError};
use serde::Serialize;
use serde_json::json;

use crate::context::Gateway;
use crate::error::{GatewayError, Kind};
use crate::proxy::OutBody;
use crate::proxy::inbound::{Caller, MatchedEndpoint};
use crate::proxy::own_answer::{json as answer, limit, note, note_write, parameters, store};

/// Files in a list, if the caller does not say, and at most.
const PAGE: usize = 10_000;
/// The purposes of files that are kept here.
pub(super) const BATCH: &str = "batch";
const BATCH_OUTPUT: &str = "batch_output";

/// A file, as in OpenAI's API. Times are seconds since 1970.
#[derive(Serialize)]
pub(super) struct FileView {
    id: String,
    object: &'static str,
    bytes: u64,
    created_at: u64,
    expires_at: Option<u64>,
    filename: String,
    purpose: String,
    status: &'static str,
    status_details: Option<()>,
}

impl FileView {
    pub(super) fn of(file: &FileRecord) -> Self {
        Self {
            id: file.id.to_string(),
            object: "file",
            bytes: file.bytes,
            created_at: seconds(file.created_at),
            expires_at: file.expires_at.map(seconds),
            filename: file.filename.clone(),
            purpose: file.purpose.clone(),
            status: "processed",
            status_details: None,
        }
    }
}

/// Seconds since 1970.
pub(super) fn seconds(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap_or_default().as_secs()
}

/// A list, as in OpenAI's API.
#[derive(Serialize)]
pub(super) struct ListView<T> {
    object: &'static str,
    pub(super) data: Vec<T>,
    first_id: Option<String>,
    last_id: Option<String>,
    has_more: bool,
}

/// One page. `records`: one more than the page has, if there are more.
pub(super) fn page<R, T>(
    mut records: Vec<R>,
    limit: usize,
    id: impl Fn(&R) -> &Arc<str>,
    view: impl Fn(&R) -> T,
) -> ListView<T> {
    let has_more = records.len() > limit;
    records.truncate(limit);
    ListView {
        object: "list",
        first_id: records.first().map(|record| id(record).to_string()),
        last_id: records.last().map(|record| id(record).to_string()),
        data: records.iter().map(view).collect(),
        has_more,
    }
}

/// The caller's own file.
pub(super) async fn own(
    gw: &Gateway,
    id: &str,
    caller: &Caller,
) -> Result<FileRecord, GatewayError> {
    let found = note(gw, store(gw)?.file(id).await)?;
    found
        .filter(|file| file.caller == caller.owner())
        .ok_or_else(no_file)
}

fn no_file() -> GatewayError {
    GatewayError::new(
        Kind::NotFound,
        "there is no such file: its id is wrong, it was deleted, or another caller uploaded it",
    )
}

/// The caller's files that are kept here; `None` if the caller asks for those that a provider keeps.
pub(in crate::proxy) async fn list_files(
    gw: &Gateway,
    query: Option<&str>,
    caller: &Caller,
    endpoint: &MatchedEndpoint<'_>,
) -> Result<Option<Response<Bytes>>, GatewayError> {
    let names = ["after", "limit", "order", "purpose"];
    let [after, page_limit, order, purpose] = parameters(query, names)?;
    let is_kept = |purpose: &str| matches!(purpose, BATCH | BATCH_OUTPUT);
    let asks_provider = purpose.as_deref().is_some_and(|purpose| !is_kept(purpose));
    if asks_provider && caller.check_access(endpoint).is_ok() {
        return Ok(None);
    }
    let page_limit = limit(page_limit, PAGE, PAGE)?;
    let query = FileQuery {
        caller: caller.owner(),
        purpose: purpose.map(|purpose| purpose.into_owned()),
        after: after.map(|id| id.as_ref().into()),
        oldest_first: match order.as_deref() {
            None | Some("desc") => false,
            Some("asc") => true,
            Some(_) => {
                return Err(GatewayError::invalid_request("`order` must be asc or desc"));
            }
        },
        limit: page_limit + 1,
    };
    let files = note(gw, store(gw)?.list_files(&query).await)?;
    let page = page(files, page_limit, |file| &file.id, FileView::of);
    Ok(Some(answer(&page)))
}

/// One file.
pub(in crate::proxy) async fn file(
    gw: &Gateway,
    id: &str,
    caller: &Caller,
) -> Result<Response<Bytes>, GatewayError> {
    let file = own(gw, id, caller).await?;
    Ok(answer(&FileView::of(&file)))
}

/// Deletes a file.
pub(in crate::proxy) async fn delete_file(
    gw: &Gateway,
    id: &str,
    caller: &Caller,
) -> Result<Response<Bytes>, GatewayError> {
    own(gw, id, caller).await?;
    match note_write(gw, store(gw)?.delete_file(id).await)? {
        FileDeletion::Missing => Err(no_file()),
        FileDeletion::InUse => {
            let message = "a batch that has not ended reads this file: cancel the batch first, or wait for its end";
            Err(GatewayError::new(Kind::FileInUse, message))
        }
        FileDeletion::Deleted => Ok(answer(
            &json!({ "id": id, "object": "file", "deleted": true }),
        )),
    }
}

/// What is in a file.
pub(in crate::proxy) async fn content(
    gw: &Arc<Gateway>,
    id: &Arc<str>,
    caller: &Caller,
) -> Result<Response<OutBody>, GatewayError> {
    let file = own(gw, id, caller).await?;
    let pieces = match file.results_of {
        None => uploaded(gw, id),
        Some(of) => results(gw, of),
    };
    let body = OutBody::Pieces(axum::body::Body::from_stream(pieces));
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("application/octet-stream"),
    );
    headers.insert(CONTENT_LENGTH, file.bytes.into());
    Ok(response)
}

fn uploaded(gw: &Arc<Gateway>, id: &Arc<str>) -> BoxStream<'static, Result<Bytes, StoreError>> {
    let state = (Arc::clone(gw), Arc::clone(id), 0);
    let pieces = stream::try_unfold(state, async |(gw, id, number)| {
        let piece = gw.stored.store()?.file_piece(&id, number).await?;
        let next = (!piece.is_empty()).then_some(piece);
        Ok::<_, StoreError>(next.map(|piece| (piece, (gw, id, number + 1))))
    });
    pieces.boxed()
}

fn results(gw: &Arc<Gateway>, of: ResultsOf) -> BoxStream<'static, Result<Bytes, StoreError>> {
    let state = (Arc::clone(gw), of, 0);
    let lines = stream::try_unfold(state, async |(gw, of, after)| {
        let lines = gw.stored.store()?.results(&of, after).await?;
        let Some((last, _)) = lines.last() else {
            return Ok::<_, StoreError>(None);
        };
        let last = *last;
        let mut text = String::new();
        for (_, line) in &lines {
            text.push_str(line);
            text.push('\n');
        }
        Ok(Some((Bytes::from(text), (gw, of, last))))
    });
    lines.boxed()
}
