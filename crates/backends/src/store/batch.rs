//! Which batches are stored already.

use keypool_core::store::{Batch, StoreError};

use super::convert::count;
use super::sql::params;
use super::transaction::Write;

/// Notes a batch. Returns whether it is new: not stored yet, and not older than the node's newest.
pub(super) async fn is_new(write: &mut Write, batch: &Batch) -> Result<bool, StoreError> {
    let sql = "INSERT INTO batches (node, number, stored_at) VALUES ($1, $2, $3) ON CONFLICT (node) DO UPDATE SET \
               number = excluded.number, stored_at = excluded.stored_at WHERE batches.number < excluded.number";
    let params = params![batch.node.cast_signed(), count(batch.number), write.now];
    Ok(write.execute(sql, params).await? > 0)
}
