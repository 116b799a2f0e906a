//! The paths that keypool answers itself: jobs, and the files and batches that it keeps.

use std::sync::Arc;

use http::Method;

use super::JobsAddress;

/// What the ids of files begin with that are kept here.
pub(crate) const FILE_ID: &str = "file-kp";
/// What the ids of batches begin with that run here.
pub(crate) const BATCH_ID: &str = "batch_kp";

/// What a caller asks keypool itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum OwnAddress {
    /// About jobs.
    Jobs(JobsAddress),
    /// `POST /v1/files`: kept here if it is for a batch.
    Upload,
    /// `GET /v1/files`
    Files,
    /// `GET /v1/files/{id}`
    File(Arc<str>),
    /// `GET /v1/files/{id}/content`
    Content(Arc<str>),
    /// `DELETE /v1/files/{id}`
    DeleteFile(Arc<str>),
    /// `POST /v1/batches`: runs here if its file is kept here.
    CreateBatch,
    /// `GET /v1/batches`
    Batches,
    /// `GET /v1/batches/{id}`
    Batch(Arc<str>),
    /// `POST /v1/batches/{id}/cancel`
    CancelBatch(Arc<str>),
}

impl OwnAddress {
    /// What an endpoint of the OpenAI protocol asks about files and batches, if keypool may answer it.
    pub(crate) fn of_files(method: &Method, path: &str) -> Option<Self> {
        let segments: Vec<&str> = path.strip_prefix("/v1/")?.split('/').collect();
        let (get, post) = (*method == Method::GET, *method == Method::POST);
        match segments[..] {
            ["files"] if post => Some(Self::Upload),
            ["files"] if get => Some(Self::Files),
            ["files", id] if get && id.starts_with(FILE_ID) => Some(Self::File(id.into())),
            ["files", id] if *method == Method::DELETE && id.starts_with(FILE_ID) => {
                Some(Self::DeleteFile(id.into()))
            }
            ["files", id, "content"] if get && id.starts_with(FILE_ID) => {
                Some(Self::Content(id.into()))
            }
            ["batches"] if post => Some(Self::CreateBatch),
            ["batches"] if get => Some(Self::Batches),
            ["batches", id] if get && id.starts_with(BATCH_ID) => Some(Self::Batch(id.into())),
            ["batches", id, "cancel"] if post && id.starts_with(BATCH_ID) => {
                Some(Self::CancelBatch(id.into()))
            }
            _ => None,
        }
    }
}
