//! OpenAI's Files and Batch API, for every provider's pools.

mod batch;
mod files;
mod upload;

pub(super) use batch::{cancel, create, list, one};
pub(super) use files::{content, delete_file, file, list_files};
pub(super) use upload::{Uploaded, upload};
