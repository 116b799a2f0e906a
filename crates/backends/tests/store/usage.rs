//! Usage, and what becomes of it as it grows old.

use std::time::{Duration, SystemTime};

use keypool_core::store::{
    Expected, ObjectChange, Store, UsageCounts, UsageGroup, UsageQuery, UsageRow, UsageTotal,
};

use crate::backend::{Backend, on_every_store};
use crate::data::*;

const MINUTE: u64 = 60;
const HOUR: u64 = 3_600;
const DAY: u64 = 24 * HOUR;

fn counts(n: u64) -> UsageCounts {
    UsageCounts {
        requests: n,
        attempts: 2 * n,
        failures: 3 * n,
        input_tokens: 4 * n,
        output_tokens: 5_000_000_000 * n,
    }
}

fn row(minute: SystemTime, key: &str, model: &str, n: u64) -> UsageRow {
    let group = UsageGroup {
        pool: "p".into(),
        key: key.into(),
        model: model.into(),
        virtual_key: "v".into(),
    };
    UsageRow {
        minute,
        group,
        counts: counts(n),
    }
}

fn query(from: SystemTime, to: SystemTime) -> UsageQuery {
    UsageQuery {
        from,
        to,
        step: None,
        by_key: false,
        by_model: false,
        by_virtual_key: false,
        limit: 100,
    }
}

async fn add(store: &dyn Store, number: u64, rows: Vec<UsageRow>) {
    let flush = keypool_core::store::Flush {
        rows,
        ..flush(1, number)
    };
    store.record(&flush).await.unwrap();
}

/// When each part begins, and its number of requests.
fn parts(totals: &[UsageTotal]) -> Vec<(SystemTime, u64)> {
    totals
        .iter()
        .map(|total| (total.at, total.counts.requests))
        .collect()
}

/// Adds usage of two keys and two models, some of it in two flushes, and some twice in one.
async fn add_some(store: &dyn Store) {
    let first = [
        row(at(0), "a", "x", 1),
        row(at(MINUTE), "a", "y", 2),
        row(at(MINUTE), "b", "y", 4),
    ];
    add(store, 1, first.to_vec()).await;
    add(
        store,
        2,
        vec![row(at(0), "a", "x", 8), row(at(0), "a", "x", 16)],
    )
    .await;
    add(store, 3, vec![row(at(10 * MINUTE), "a", "x", 1_000)]).await;
}

async fn all_usage_is_one_sum(mut backend: Backend) {
    add_some(backend.store()).await;
    let store = backend.reopen().await;
    let all = UsageTotal {
        at: at(0),
        group: UsageGroup::default(),
        counts: counts(31),
    };
    assert_eq!(
        store.usage(&query(at(0), at(10 * MINUTE))).await.unwrap(),
        [all]
    );
    assert!(
        store
            .usage(&query(at(20 * MINUTE), at(30 * MINUTE)))
            .await
            .unwrap()
            .is_empty()
    );
}

async fn usage_is_summed_by_what_is_asked(backend: Backend) {
    let store = backend.store();
    add_some(store).await;
    let asked = query(at(0), at(10 * MINUTE));
    let groups = async |asked: UsageQuery| {
        let totals = store.usage(&asked).await.unwrap();
        totals
            .into_iter()
            .map(|total| (total.group, total.counts))
            .collect::<Vec<_>>()
    };
    let of_key = |key: &str| UsageGroup {
        pool: "p".into(),
        key: key.into(),
        ..UsageGroup::default()
    };
    let by_key = groups(UsageQuery {
        by_key: true,
        ..asked.clone()
    })
    .await;
    assert_eq!(
        by_key,
        [(of_key("a"), counts(27)), (of_key("b"), counts(4))]
    );

    let of_model = |model: &str| UsageGroup {
        model: model.into(),
        virtual_key: "v".into(),
        ..UsageGroup::default()
    };
    let by_model = groups(UsageQuery {
        by_model: true,
        by_virtual_key: true,
        ..asked.clone()
    })
    .await;
    assert_eq!(
        by_model,
        [(of_model("x"), counts(25)), (of_model("y"), counts(6))]
    );
    assert_eq!(
        groups(UsageQuery {
            by_key: true,
            limit: 1,
            ..asked
        })
        .await,
        by_key[..1]
    );
}

async fn parts_of_the_time_begin_where_the_question_does(backend: Backend) {
    let store = backend.store();
    let rows = (0..6)
        .map(|minute| row(at(minute * MINUTE), "a", "x", 1 << minute))
        .collect();
    add(store, 1, rows).await;
    let asked = UsageQuery {
        step: Some(Duration::from_secs(2 * MINUTE)),
        ..query(at(MINUTE), at(6 * MINUTE))
    };
    let totals = store.usage(&asked).await.unwrap();
    assert_eq!(
        parts(&totals),
        [(at(60), 2 + 4), (at(180), 8 + 16), (at(300), 32)]
    );
}

async fn sums_stay_the_same_while_usage_grows_old(backend: Backend) {
    let store = backend.store();
    let rows = (0..200).map(|n| {
        row(
            at(n * 17 * MINUTE),
            if n % 3 == 0 { "a" } else { "b" },
            "x",
            n + 1,
        )
    });
    add(store, 1, rows.collect()).await;
    let daily = UsageQuery {
        step: Some(Duration::from_secs(DAY)),
        by_key: true,
        ..query(at(0), at(3 * DAY))
    };
    let before = store.usage(&daily).await.unwrap();
    for days in [1, 3, 4, 5, 60, 95, 200] {
        let (one, other) = tokio::join!(
            store.compact(at(days * DAY + 7)),
            store.compact(at(days * DAY + 7))
        );
        one.unwrap();
        other.unwrap();
        assert_eq!(
            store.usage(&daily).await.unwrap(),
            before,
            "after {days} days"
        );
    }
    store.compact(at(800 * DAY)).await.unwrap();
    assert!(store.usage(&daily).await.unwrap().is_empty());
}

async fn minutes_become_hours_and_hours_become_days(backend: Backend) {
    let store = backend.store();
    let rows = || {
        vec![
            row(at(0), "a", "x", 1),
            row(at(30 * MINUTE), "a", "x", 2),
            row(at(2 * HOUR), "a", "x", 4),
        ]
    };
    add(store, 1, rows()).await;
    let minutes = UsageQuery {
        step: Some(Duration::from_secs(MINUTE)),
        ..query(at(0), at(DAY))
    };
    let in_minutes = [(at(0), 1), (at(30 * MINUTE), 2), (at(2 * HOUR), 4)];
    store.compact(at(48 * HOUR)).await.unwrap();
    assert_eq!(parts(&store.usage(&minutes).await.unwrap()), in_minutes);

    // Late rows join those that were added up before.
    store.compact(at(51 * HOUR)).await.unwrap();
    assert_eq!(
        parts(&store.usage(&minutes).await.unwrap()),
        [(at(0), 3), (at(2 * HOUR), 4)]
    );
    add(store, 2, rows()).await;
    store.compact(at(51 * HOUR)).await.unwrap();
    assert_eq!(
        parts(&store.usage(&minutes).await.unwrap()),
        [(at(0), 6), (at(2 * HOUR), 8)]
    );

    store.compact(at(91 * DAY)).await.unwrap();
    assert_eq!(parts(&store.usage(&minutes).await.unwrap()), [(at(0), 14)]);
    store.compact(at(2 * 365 * DAY)).await.unwrap();
    assert_eq!(parts(&store.usage(&minutes).await.unwrap()), [(at(0), 14)]);
    store.compact(at(2 * 365 * DAY + 1)).await.unwrap();
    assert!(store.usage(&minutes).await.unwrap().is_empty());
}

async fn what_is_older_than_it_is_kept_is_deleted(backend: Backend) {
    let (store, now) = (backend.store(), now());
    let day = |days: u64| now + Duration::from_secs(days * DAY);
    let minute = Duration::from_secs(60);
    let put = put_pool("p", "{}", Expected::Any);
    store.change(&put, &audit("pool.put", now)).await.unwrap();
    let mut noted = flush(1, 5);
    noted.keys.push(key_use("a", 1, 0));
    noted.objects = vec![object("kept", false), object("gone", true)];
    store.record(&noted).await.unwrap();
    let ids = async || {
        let objects = store
            .objects(Some(SystemTime::UNIX_EPOCH), 9)
            .await
            .unwrap();
        objects
            .into_iter()
            .map(|object| object.object.id.to_string())
            .collect::<Vec<_>>()
    };
    let total = async || store.key_records(0).await.unwrap()[0].total;

    store.compact(day(1) - minute).await.unwrap();
    assert_eq!(ids().await, ["gone", "kept"]);
    store.compact(day(7) - minute).await.unwrap();
    assert_eq!(ids().await, ["kept"]);
    store.record(&noted).await.unwrap();
    assert_eq!(total().await, 1, "the flush is still known");
    store.compact(day(7) + minute).await.unwrap();
    store.record(&noted).await.unwrap();
    assert_eq!(
        total().await,
        2,
        "a node is forgotten after a week of silence"
    );

    store.compact(day(365) - minute).await.unwrap();
    assert_eq!(store.audit_log(None, 9).await.unwrap().len(), 1);
    store.compact(day(365) + minute).await.unwrap();
    assert!(store.audit_log(None, 9).await.unwrap().is_empty());
    assert_eq!(ids().await, ["kept"]);
}

fn object(id: &str, deleted: bool) -> ObjectChange {
    ObjectChange {
        id: id.into(),
        key: upstream("a"),
        group: None,
        owner: None,
        deleted,
    }
}

async fn names_that_callers_chose_are_stored_whatever_they_hold(backend: Backend) {
    let store = backend.store();
    let name = "nul \0, quote \" ', backslash \\, new line \n, 🔑, {rows}";
    add(store, 1, vec![row(at(0), "a", name, 1)]).await;
    let asked = UsageQuery {
        by_model: true,
        ..query(at(0), at(60))
    };
    let totals = store.usage(&asked).await.unwrap();
    assert_eq!(*totals[0].group.model, name.replace('\0', "\u{fffd}"));
}

on_every_store! {
    all_usage_is_one_sum,
    usage_is_summed_by_what_is_asked,
    parts_of_the_time_begin_where_the_question_does,
    sums_stay_the_same_while_usage_grows_old,
    minutes_become_hours_and_hours_become_days,
    what_is_older_than_it_is_kept_is_deleted,
    names_that_callers_chose_are_stored_whatever_they_hold,
}
