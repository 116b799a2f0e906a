//! The number of statements does not depend on the number of rows.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use keypool_core::store::{
    Change, Flush, KeyStateChange, ObjectChange, Store, UsageCounts, UsageGroup, UsageRow,
};
use tracing::field::{Field, Visit};

use crate::backend::{Backend, on_every_store};
use crate::child;
use crate::data::*;

/// Counts what sqlx notes of each statement, except those that end a transaction: it notes none that begins one, and the
/// end of one with PostgreSQL only.
#[derive(Clone, Default)]
struct Counter(Arc<AtomicU64>);

impl tracing::Subscriber for Counter {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target() == "sqlx::query"
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::Id {
        tracing::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::Id, _: &tracing::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let mut summary = Summary(String::new());
        event.record(&mut summary);
        if !summary.0.contains("COMMIT") {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn enter(&self, _: &tracing::Id) {}

    fn exit(&self, _: &tracing::Id) {}
}

/// The first words of a statement.
struct Summary(String);

impl Visit for Summary {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        if field.name() == "summary" {
            self.0 = format!("{value:?}");
        }
    }
}

impl Counter {
    /// The number of statements since the last time.
    async fn take(&self) -> u64 {
        // SQLite's statements are noted by another thread, shortly after their result.
        tokio::time::sleep(Duration::from_millis(30)).await;
        self.0.swap(0, Ordering::SeqCst)
    }
}

fn secrets(rows: usize) -> impl Iterator<Item = String> {
    (0..rows).map(move |row| format!("sk-{rows}-{row}"))
}

fn large_batch(rows: usize) -> Flush {
    let group = |key: String| UsageGroup {
        key: key.into(),
        ..UsageGroup::default()
    };
    let usage = |key| UsageRow {
        minute: at(0),
        group: group(key),
        counts: UsageCounts::default(),
    };
    let object = |id: String| ObjectChange {
        key: upstream(&id),
        id: id.into(),
        group: None,
        owner: None,
        deleted: false,
    };
    Flush {
        rows: secrets(rows).map(usage).collect(),
        keys: secrets(rows).map(|secret| key_use(&secret, 1, 0)).collect(),
        objects: secrets(rows).map(object).collect(),
        ..flush(1, rows as u64)
    }
}

/// The number of statements of each operation that takes this number of rows.
async fn count(store: &dyn Store, counter: &Counter, rows: usize) -> Vec<u64> {
    let mut counts = Vec::new();
    counter.take().await;

    let keys = secrets(rows)
        .map(|secret| new_key(&secret, &secret))
        .collect();
    change(
        store,
        Change::AddKeys {
            pool: "p".into(),
            pool_is_stored: false,
            keys,
        },
    )
    .await
    .unwrap();
    counts.push(counter.take().await);

    let changes: Vec<KeyStateChange> = secrets(rows)
        .map(|secret| told(&secret, 1.0, at(0)))
        .collect();
    store
        .change_key_states(&changes, Some(&audit("refresh", at(0))), at(0))
        .await
        .unwrap();
    counts.push(counter.take().await);

    let keys: Vec<_> = secrets(rows).map(|secret| upstream(&secret)).collect();
    let calls = store.quota_calls(&keys).await.unwrap();
    assert!(calls.iter().all(|(_, calls)| *calls == [at(0)]));
    counts.push(counter.take().await);

    store.record(&large_batch(rows)).await.unwrap();
    counts.push(counter.take().await);

    store.compact(at(400 * 24 * 3_600)).await.unwrap();
    counts.push(counter.take().await);

    let catalog = store.catalog().await.unwrap();
    assert!(catalog.keys.len() >= rows);
    counts.push(counter.take().await);
    counts
}

/// Does its work only in a process of its own, since the statements of all stores in a process are counted together.
#[tokio::test]
async fn statements_of_the_process_that_counts() {
    let Some(store) = child::store().await else {
        return;
    };
    // Connections have statements of their own when they are made.
    store.revision().await.unwrap();
    store.record(&flush(2, 1)).await.unwrap();
    let counter = Counter::default();
    tracing::subscriber::set_global_default(counter.clone()).unwrap();
    // The last ones join a pool that has as many already.
    for rows in [10, 10_000, 10_001] {
        let counts = count(&*store, &counter, rows).await;
        child::say(&format!("counted {counts:?}"));
    }
}

async fn ten_rows_take_as_many_statements_as_ten_thousand(mut backend: Backend) {
    backend.close();
    let output = child::command(
        "statements::statements_of_the_process_that_counts",
        &backend.url(),
    )
    .output()
    .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let output = String::from_utf8(output.stdout).unwrap();
    let counted: Vec<&str> = output
        .lines()
        .filter_map(|line| line.split_once("counted "))
        .map(|(_, counts)| counts)
        .collect();
    // With BEGIN and COMMIT, two more each: the quota of all keys takes 3 + 5.
    assert_eq!(counted, ["[4, 3, 1, 5, 9, 4]"; 3]);
}

on_every_store! {
    ten_rows_take_as_many_statements_as_ten_thousand,
}
