//! Which flushes are stored already.

use keypool_core::store::{Flush, StoreError};

use super::convert::count;
use super::sql::params;
use super::transaction::Write;

/// Notes a flush. Returns whether it is new: not stored yet, and not older than the node's newest.
pub(super) async fn is_new(write: &mut Write, flush: &Flush) -> Result<bool, StoreError> {
    let sql = "INSERT INTO flushes (node, number, stored_at) VALUES ($1, $2, $3) ON CONFLICT (node) DO UPDATE SET \
               number = excluded.number, stored_at = excluded.stored_at WHERE flushes.number < excluded.number";
    let params = params![flush.node.cast_signed(), count(flush.number), write.now];
    Ok(write.execute(sql, params).await? > 0)
}
