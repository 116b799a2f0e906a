//! Usage that was counted and not stored yet. Threads count apart, so that a request waits for nobody.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use keypool_core::hash;
use keypool_core::limit::IdHasher;
use keypool_core::store::{UsageCounts, UsageGroup, UsageRow};
use parking_lot::Mutex;
use thread_local::ThreadLocal;

/// Maximum number of rows that wait to be stored. More are counted by the hour and without their model,
/// which callers can choose.
const MAX_ROWS: usize = 50_000;
/// Maximum number of groups that a thread counts by itself.
const MAX_GROUPS: usize = 10_000;
/// Stands for the models of those.
const OTHER_MODELS: &str = "(other)";

/// Counts usage.
#[derive(Default)]
pub(crate) struct UsageCounter {
    by_thread: ThreadLocal<Mutex<Minute>>,
    /// Rows of minutes that are over.
    rows: Mutex<HashMap<(u64, UsageGroup), UsageCounts>>,
}

/// What one thread has counted in one minute.
#[derive(Default)]
struct Minute {
    /// Minutes since the Unix epoch.
    number: u64,
    /// By a hash of the group, so that a request need not make a group to find it.
    groups: HashMap<u64, Vec<(UsageGroup, UsageCounts)>, IdHasher>,
    number_of_groups: usize,
}

/// A [`UsageGroup`] of names that are elsewhere.
#[derive(Clone, Copy)]
pub(crate) struct GroupOf<'a> {
    pub(crate) pool: &'a Arc<str>,
    pub(crate) key: &'a Arc<str>,
    pub(crate) model: &'a Arc<str>,
    /// `None`: the caller needs none.
    pub(crate) virtual_key: Option<&'a Arc<str>>,
}

impl GroupOf<'_> {
    fn hash(&self) -> u64 {
        let names = [self.pool, self.key, self.model];
        let names = names.into_iter().chain(self.virtual_key);
        names.fold(0, |hash, name| hash::bytes(hash, name.as_bytes()))
    }

    fn is(&self, group: &UsageGroup) -> bool {
        let virtual_key = self.virtual_key.map_or("", |name| name);
        *self.pool == group.pool
            && *self.key == group.key
            && *self.model == group.model
            && *virtual_key == *group.virtual_key
    }

    fn to_group(self) -> UsageGroup {
        UsageGroup {
            pool: Arc::clone(self.pool),
            key: Arc::clone(self.key),
            model: Arc::clone(self.model),
            virtual_key: self.virtual_key.cloned().unwrap_or_default(),
        }
    }
}

impl UsageCounter {
    /// Adds usage of a group at that time.
    pub(crate) fn add(&self, group: GroupOf<'_>, counts: &UsageCounts, now: SystemTime) {
        let number = minute(now);
        let mut current = self.by_thread.get_or_default().lock();
        if current.number != number {
            self.take(&mut current);
            current.number = number;
        }
        if current.number_of_groups >= MAX_GROUPS {
            self.take(&mut current);
        }
        let of_hash = current.groups.entry(group.hash()).or_default();
        match of_hash.iter_mut().find(|(known, _)| group.is(known)) {
            Some((_, known)) => add(known, counts),
            None => {
                of_hash.push((group.to_group(), *counts));
                current.number_of_groups += 1;
            }
        }
    }

    /// Everything that was counted and not taken yet.
    pub(crate) fn take_rows(&self) -> Vec<UsageRow> {
        for current in &self.by_thread {
            self.take(&mut current.lock());
        }
        let rows = std::mem::take(&mut *self.rows.lock());
        let row = |((number, group), counts): ((u64, UsageGroup), UsageCounts)| UsageRow {
            minute: UNIX_EPOCH + Duration::from_secs(number * 60),
            group,
            counts,
        };
        rows.into_iter().map(row).collect()
    }

    fn take(&self, current: &mut Minute) {
        if current.groups.is_empty() {
            return;
        }
        current.number_of_groups = 0;
        let mut rows = self.rows.lock();
        for (mut group, counts) in current.groups.drain().flat_map(|(_, groups)| groups) {
            let mut minute = current.number;
            if rows.len() >= MAX_ROWS && !rows.contains_key(&(minute, group.clone())) {
                group.model = OTHER_MODELS.into();
                // The store has been away for long: usage counts in the hour, so that the rows of a group do not go on growing.
                minute -= minute % 60;
            }
            add(rows.entry((minute, group)).or_default(), &counts);
        }
    }
}

fn add(to: &mut UsageCounts, counts: &UsageCounts) {
    to.requests += counts.requests;
    to.attempts += counts.attempts;
    to.failures += counts.failures;
    to.input_tokens += counts.input_tokens;
    to.output_tokens += counts.output_tokens;
}

fn minute(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() / 60
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(counter: &UsageCounter, model: &str, now: SystemTime) {
        let names: [Arc<str>; 4] = ["p", "k", model, "v"].map(Into::into);
        let [pool, key, model, virtual_key] = &names;
        let group = GroupOf {
            pool,
            key,
            model,
            virtual_key: Some(virtual_key),
        };
        counter.add(group, &ONE, now);
    }

    const ONE: UsageCounts = UsageCounts {
        requests: 1,
        attempts: 2,
        failures: 1,
        input_tokens: 10,
        output_tokens: 20,
    };

    #[test]
    fn usage_is_summed_by_minute_and_group_over_threads() {
        let counter = UsageCounter::default();
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for n in 0..100 {
                        count(&counter, "a", at(n));
                    }
                });
            }
        });
        count(&counter, "b", at(0));
        let mut rows = counter.take_rows();
        rows.sort_by_key(|row| (row.minute, row.group.clone()));
        let requests = rows
            .iter()
            .map(|row| (row.minute, &*row.group.model, row.counts.requests));
        let expected = [(at(0), "a", 240), (at(0), "b", 1), (at(60), "a", 160)];
        assert_eq!(requests.collect::<Vec<_>>(), expected);
        assert_eq!(rows[0].counts.output_tokens, 4800);
        assert!(counter.take_rows().is_empty());
    }

    #[test]
    fn the_number_of_rows_is_bounded_and_nothing_is_lost() {
        let counter = UsageCounter::default();
        for n in 0..MAX_ROWS + 1000 {
            count(&counter, &n.to_string(), UNIX_EPOCH);
        }
        let rows = counter.take_rows();
        assert_eq!(rows.len(), MAX_ROWS + 1);
        let requests: u64 = rows.iter().map(|row| row.counts.requests).sum();
        assert_eq!(requests, MAX_ROWS as u64 + 1000);
    }
}
