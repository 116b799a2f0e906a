//! What jobs do, as it is stored.

use keypool_core::store::{JobKind, StoreError};

use crate::store::sql::unexpected;

/// A call that a caller has submitted.
pub(super) const KIND_CALL: &str = "call";
/// Checks the file of a batch.
pub(in crate::store) const KIND_VALIDATION: &str = "batch_validation";
/// Makes the calls of a part of a batch.
pub(in crate::store) const KIND_PART: &str = "batch_part";
/// Ends a batch before all its calls were made.
pub(in crate::store) const KIND_END: &str = "batch_end";

/// The kind of that name, with its batch.
pub(super) fn kind(name: &str, batch: Option<String>) -> Result<JobKind, StoreError> {
    let batch = batch.map(Into::into);
    match (name, batch) {
        (KIND_CALL, None) => Ok(JobKind::Call),
        (KIND_VALIDATION, Some(batch)) => Ok(JobKind::BatchValidation(batch)),
        (KIND_PART, Some(batch)) => Ok(JobKind::BatchPart(batch)),
        (KIND_END, Some(batch)) => Ok(JobKind::BatchEnd(batch)),
        _ => Err(unexpected()),
    }
}
