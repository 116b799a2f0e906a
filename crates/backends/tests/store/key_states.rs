//! What is known of upstream keys.

use std::time::{Duration, SystemTime};

use keypool_core::store::{
    Flush, KeyCooldown, KeyMarks, KeyRecord, KeyStateChange, KeyUse, MarksChange, NewMarks,
    QuotaChange, Store,
};

use crate::backend::{Backend, on_every_store};
use crate::data::*;

async fn set(store: &dyn Store, change: KeyStateChange) -> u64 {
    store
        .change_key_states(&[change], None, at(0))
        .await
        .unwrap()
}

async fn record_of(store: &dyn Store, secret: &str) -> KeyRecord {
    let records = store.key_records(0).await.unwrap();
    records
        .into_iter()
        .find(|record| record.key == upstream(secret))
        .unwrap()
}

fn marks() -> KeyMarks {
    let cooldown = |model: &str, of_group| KeyCooldown {
        model: model.into(),
        until: at(700),
        class: "rate_limited".into(),
        of_group,
    };
    KeyMarks {
        invalid: true,
        has_served: true,
        exhausted_until: Some(at(900)),
        cooldowns: vec![cooldown("m \"1\"", false), cooldown("", true)],
    }
}

/// Records a use with these marks.
async fn note(store: &dyn Store, number: u64, key_use: KeyUse) {
    let mut flush = flush(1, number);
    flush.keys.push(key_use);
    store.record(&flush).await.unwrap();
}

async fn a_record_is_made_by_its_first_change_and_read_back(mut backend: Backend) {
    let store = backend.store();
    let change = KeyStateChange {
        disabled: Some(true),
        ..told("a", 12.5, at(50))
    };
    let revision = store
        .change_key_states(&[change], Some(&audit("key.disable", at(50))), at(50))
        .await
        .unwrap();
    assert_eq!(revision, 1);
    assert_eq!(
        store.audit_log(None, 1).await.unwrap()[0].action,
        "key.disable"
    );

    let store = backend.reopen().await;
    let expected = KeyRecord {
        key: upstream("a"),
        first_seen: at(50),
        total: 0,
        failed: 0,
        last_used: None,
        disabled: true,
        marks: KeyMarks::default(),
        reset_at: 0,
        revision: 1,
        quota: Some(quota(12.5, at(50))),
    };
    assert_eq!(store.key_records(0).await.unwrap(), [expected]);
}

async fn records_are_read_since_a_revision(backend: Backend) {
    let store = backend.store();
    assert_eq!(set(store, state_change("a")).await, 1);
    change(
        store,
        put_pool("p", "{}", keypool_core::store::Expected::Any),
    )
    .await
    .unwrap();
    assert_eq!(set(store, state_change("b")).await, 3);
    note(store, 1, key_use("c", 1, 0)).await;
    assert_eq!(
        store.revision().await.unwrap(),
        3,
        "a use is no change that others must follow"
    );

    let mut names = Vec::new();
    for since in [0, 1, 3] {
        let records = store.key_records(since).await.unwrap();
        names.push(
            records
                .iter()
                .filter(|record| record.key == upstream("b"))
                .count()
                * 10
                + records.len(),
        );
    }
    assert_eq!(names, [13, 11, 0]);
}

async fn each_change_of_the_marks(backend: Backend) {
    let store = backend.store();
    let kept = marks();
    for (number, (change, expected)) in [
        (MarksChange::Keep, kept.clone()),
        (
            MarksChange::Recovered,
            KeyMarks {
                invalid: false,
                exhausted_until: None,
                ..kept.clone()
            },
        ),
        (
            MarksChange::Valid,
            KeyMarks {
                invalid: false,
                ..kept.clone()
            },
        ),
        (MarksChange::Invalid, kept.clone()),
        (
            MarksChange::Cleared,
            KeyMarks {
                has_served: true,
                ..KeyMarks::default()
            },
        ),
    ]
    .into_iter()
    .enumerate()
    {
        note(
            store,
            1 + number as u64,
            KeyUse {
                marks: Some(kept.clone().into()),
                ..key_use("a", 0, 0)
            },
        )
        .await;
        let revision = set(
            store,
            KeyStateChange {
                marks: change,
                ..state_change("a")
            },
        )
        .await;
        let record = record_of(store, "a").await;
        assert_eq!(record.marks, expected, "{change:?}");
        let reset_at = if change == MarksChange::Cleared {
            revision
        } else {
            0
        };
        assert_eq!(record.reset_at, reset_at, "{change:?}");
    }
    set(
        store,
        KeyStateChange {
            marks: MarksChange::Invalid,
            ..state_change("new")
        },
    )
    .await;
    assert!(record_of(store, "new").await.marks.invalid);
}

async fn a_key_stays_switched_off_until_it_is_switched_on(backend: Backend) {
    let store = backend.store();
    for (disabled, expected) in [
        (Some(true), true),
        (None, true),
        (Some(false), false),
        (None, false),
    ] {
        set(
            store,
            KeyStateChange {
                disabled,
                ..state_change("a")
            },
        )
        .await;
        assert_eq!(record_of(store, "a").await.disabled, expected);
    }
    set(
        store,
        KeyStateChange {
            disabled: Some(true),
            ..state_change("a")
        },
    )
    .await;
    note(
        store,
        1,
        KeyUse {
            marks: Some(marks().into()),
            ..key_use("a", 1, 1)
        },
    )
    .await;
    assert!(record_of(store, "a").await.disabled);
}

async fn figures_stay_when_a_refresh_fails(backend: Backend) {
    let store = backend.store();
    let failed = |asked_at| KeyStateChange {
        quota: Some(QuotaChange {
            outcome: Err("timeout".into()),
            asked_at,
        }),
        ..state_change("a")
    };
    set(store, failed(Some(at(1)))).await;
    assert_eq!(
        record_of(store, "a").await.quota,
        None,
        "nothing was ever told"
    );
    set(store, told("a", 10.0, at(2))).await;
    set(store, failed(None)).await;
    let mut expected = quota(10.0, at(2));
    expected.error = Some("timeout".into());
    assert_eq!(record_of(store, "a").await.quota, Some(expected.clone()));
    set(store, state_change("a")).await;
    assert_eq!(record_of(store, "a").await.quota, Some(expected));

    let mut unlimited = quota(0.0, at(3));
    (unlimited.remaining, unlimited.limit) = (None, None);
    let outcome = Ok(unlimited.clone());
    let change = QuotaChange {
        outcome,
        asked_at: None,
    };
    set(
        store,
        KeyStateChange {
            quota: Some(change),
            ..state_change("a")
        },
    )
    .await;
    assert_eq!(record_of(store, "a").await.quota, Some(unlimited));
}

async fn the_newest_twenty_quota_calls_are_kept(mut backend: Backend) {
    let store = backend.store();
    for second in 0..23 {
        set(store, told("a", 1.0, at(second))).await;
    }
    // Another node may have asked earlier and stored later. And a clock may be far off.
    set(store, told("b", 1.0, at(5))).await;
    set(store, told("b", 1.0, at(3))).await;
    set(store, told("c", 1.0, SystemTime::UNIX_EPOCH)).await;
    set(store, state_change("c")).await;

    let keys = [
        upstream("b"),
        upstream("unknown"),
        upstream("a"),
        upstream("c"),
    ];
    let calls = backend.reopen().await.quota_calls(&keys).await.unwrap();
    let expected = vec![
        (upstream("b"), vec![at(3), at(5)]),
        (upstream("unknown"), vec![]),
        (upstream("a"), (3..23).map(at).collect()),
        (upstream("c"), vec![SystemTime::UNIX_EPOCH]),
    ];
    assert_eq!(calls, expected);
}

async fn uses_of_all_nodes_are_added_up(mut backend: Backend) {
    let store = backend.store();
    let first = KeyUse {
        last_used: Some(at(20)),
        marks: Some(marks().into()),
        ..key_use("a", 5, 2)
    };
    note(store, 1, first).await;
    // The second node's clock is behind, and it noted no marks.
    let mut flush = flush(2, 1);
    flush.keys.push(KeyUse {
        last_used: Some(at(10)),
        ..key_use("a", 3, 1)
    });
    flush.keys.push(key_use("a", 1, 0));
    flush.keys.push(key_use("b", 1, 1));
    store.record(&flush).await.unwrap();

    let record = record_of(backend.reopen().await, "a").await;
    assert_eq!(
        (record.total, record.failed, record.last_used),
        (9, 3, Some(at(20)))
    );
    assert_eq!((record.marks, record.revision), (marks(), 0));
    let age = now().duration_since(record.first_seen).unwrap_or_default();
    assert!(age < Duration::from_secs(60));

    let store = backend.store();
    let cleared = KeyUse {
        marks: Some(KeyMarks::default().into()),
        ..key_use("a", 0, 0)
    };
    note(store, 2, cleared).await;
    assert_eq!(record_of(store, "a").await.marks, KeyMarks::default());
}

async fn a_node_leaves_the_marks_that_it_has_not_changed(backend: Backend) {
    let store = backend.store();
    let exhausted = NewMarks {
        exhausted_until: Some(Some(at(900))),
        ..NewMarks::default()
    };
    let served = NewMarks {
        has_served: Some(true),
        ..NewMarks::default()
    };
    for (node, new) in [(1, exhausted), (2, served)] {
        let mut flush = flush(node, 1);
        flush.keys.push(KeyUse {
            marks: Some(new),
            ..key_use("a", 1, 0)
        });
        store.record(&flush).await.unwrap();
    }
    let expected = KeyMarks {
        has_served: true,
        exhausted_until: Some(at(900)),
        ..KeyMarks::default()
    };
    assert_eq!(record_of(store, "a").await.marks, expected);
}

async fn a_repeated_batch_is_not_added_again(mut backend: Backend) {
    let mut flush = flush(u64::MAX, 7);
    flush.keys.push(key_use("a", 1, 0));
    backend.store().record(&flush).await.unwrap();
    let store = backend.reopen().await;
    store.record(&flush).await.unwrap();
    flush.number = 6;
    store.record(&flush).await.unwrap();
    assert_eq!(record_of(store, "a").await.total, 1);
    flush.number = 8;
    store.record(&flush).await.unwrap();
    flush.node = 1;
    store.record(&flush).await.unwrap();
    assert_eq!(record_of(store, "a").await.total, 3);
}

/// A node that has not followed a change yet notes what was true before it.
async fn a_change_that_a_node_has_not_followed_stays(backend: Backend) {
    let store = backend.store();
    let change = |marks| KeyStateChange {
        marks,
        ..state_change("a")
    };
    let noted = |number, followed| Flush {
        followed,
        keys: vec![KeyUse {
            marks: Some(marks().into()),
            ..key_use("a", 1, 0)
        }],
        ..flush(1, number)
    };
    let before = set(store, change(MarksChange::Invalid)).await;
    let after = set(store, change(MarksChange::Cleared)).await;
    store.record(&noted(1, before)).await.unwrap();
    let record = record_of(store, "a").await;
    let expected = KeyMarks {
        has_served: true,
        ..KeyMarks::default()
    };
    assert_eq!((record.marks, record.total), (expected, 1));
    store.record(&noted(2, after)).await.unwrap();
    assert_eq!(record_of(store, "a").await.marks, marks());
    let after = set(store, change(MarksChange::Valid)).await;
    store.record(&noted(3, after - 1)).await.unwrap();
    let kept = KeyMarks {
        invalid: false,
        ..marks()
    };
    assert_eq!(record_of(store, "a").await.marks, kept);
}

async fn the_same_secret_at_another_provider_or_host_is_another_key(backend: Backend) {
    let store = backend.store();
    let mut other_provider = state_change("a");
    other_provider.key.provider = "openai".into();
    let mut other_host = state_change("a");
    other_host.key.origin = "https://proxy.example.com:443".into();
    let changes = [state_change("a"), other_provider, other_host];
    store
        .change_key_states(&changes, None, at(0))
        .await
        .unwrap();
    assert_eq!(store.key_records(0).await.unwrap().len(), 3);
}

async fn several_changes_of_a_key_at_once_all_take_effect(backend: Backend) {
    let store = backend.store();
    let disable = KeyStateChange {
        disabled: Some(true),
        ..state_change("a")
    };
    let invalid = KeyStateChange {
        marks: MarksChange::Invalid,
        ..state_change("a")
    };
    let changes = [disable, told("a", 3.0, at(1)), invalid, state_change("a")];
    store
        .change_key_states(&changes, None, at(0))
        .await
        .unwrap();
    let record = record_of(store, "a").await;
    assert!(record.disabled && record.marks.invalid);
    assert_eq!(record.quota, Some(quota(3.0, at(1))));
}

on_every_store! {
    a_record_is_made_by_its_first_change_and_read_back,
    records_are_read_since_a_revision,
    a_change_that_a_node_has_not_followed_stays,
    each_change_of_the_marks,
    a_key_stays_switched_off_until_it_is_switched_on,
    figures_stay_when_a_refresh_fails,
    the_newest_twenty_quota_calls_are_kept,
    uses_of_all_nodes_are_added_up,
    a_node_leaves_the_marks_that_it_has_not_changed,
    a_repeated_batch_is_not_added_again,
    the_same_secret_at_another_provider_or_host_is_another_key,
    several_changes_of_a_key_at_once_all_take_effect,
}
