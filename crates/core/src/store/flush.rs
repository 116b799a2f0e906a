//! What a node has counted and noted while serving, to be stored in one transaction.

use super::{KeyUse, ObjectChange, Revision, UsageRow};

/// What one node has counted and noted since its last flush.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Flush {
    /// The node: a random number that each process draws at its start.
    pub node: u64,
    /// The number of the flush, from 1. Each flush of a node has the next one.
    pub number: u64,
    /// The newest change that the node has followed. What it notes of a key that was changed later may be out of date.
    pub followed: Revision,
    /// Usage, by minute and group.
    pub rows: Vec<UsageRow>,
    /// What was counted and noted of keys.
    pub keys: Vec<KeyUse>,
    /// Objects that were created or deleted, in order.
    pub objects: Vec<ObjectChange>,
}
