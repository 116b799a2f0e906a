//! What the store knows of keys, so that a key that joins a pool takes it over before it serves.

use std::collections::HashMap;
use std::time::SystemTime;

use parking_lot::RwLock;

use crate::store::{KeyRecord, KeyUse, UpstreamKeyId};

/// Records of keys, whether or not a pool has them now.
#[derive(Debug, Default)]
pub struct KeyRecords(RwLock<HashMap<UpstreamKeyId, KeyRecord>>);

impl KeyRecords {
    /// The record of a key.
    pub fn get(&self, key: &UpstreamKeyId) -> Option<KeyRecord> {
        self.0.read().get(key).cloned()
    }

    /// Takes these records in place of those of the same keys.
    pub fn put(&self, records: impl IntoIterator<Item = KeyRecord>) {
        let records = records
            .into_iter()
            .map(|record| (record.key.clone(), record));
        self.0.write().extend(records);
    }

    /// Changes the record of a key, which is made if there is none.
    pub fn change(
        &self,
        key: &UpstreamKeyId,
        now: SystemTime,
        change: impl FnOnce(&mut KeyRecord),
    ) {
        let mut records = self.0.write();
        let record = records
            .entry(key.clone())
            .or_insert_with(|| KeyRecord::first_seen(key.clone(), now));
        change(record);
    }

    /// Adds what was stored of a key.
    pub fn add(&self, stored: &KeyUse, now: SystemTime) {
        self.change(&stored.key, now, |record| {
            record.total += stored.total;
            record.failed += stored.failed;
            record.last_used = record.last_used.max(stored.last_used);
            if let Some(marks) = &stored.marks {
                marks.apply(&mut record.marks);
            }
        });
    }
}
