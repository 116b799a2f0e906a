//! Pools, keys, virtual keys and the audit log.

use std::time::SystemTime;

use keypool_core::secret::{Digest256, Secret};
use keypool_core::store::{Change, Expected, NewKey, NewVirtualKey, StoreErrorKind};

use crate::backend::{Backend, on_every_store};
use crate::data::*;

async fn a_new_store_is_empty(backend: Backend) {
    let store = backend.store();
    assert_eq!(store.revision().await.unwrap(), 0);
    let catalog = store.catalog().await.unwrap();
    assert_eq!((catalog.revision, catalog.has_held_virtual_key), (0, false));
    assert!(catalog.pools.is_empty() && catalog.keys.is_empty() && catalog.virtual_keys.is_empty());
    assert!(store.key_records(0).await.unwrap().is_empty());
    assert!(store.audit_log(None, 10).await.unwrap().is_empty());
    assert!(store.objects(None, 10).await.unwrap().is_empty());
}

async fn a_pool_is_created_replaced_and_deleted_with_its_keys(mut backend: Backend) {
    let store = backend.store();
    store
        .change(&put_pool("q", "{}", Expected::Any), &audit("a", at(0)))
        .await
        .unwrap();
    store
        .change(
            &put_pool("p", "{\"a\":1}", Expected::Absent),
            &audit("a", at(1)),
        )
        .await
        .unwrap();
    let revision = store
        .change(
            &put_pool("p", "{\"a\":2}", Expected::Version(1)),
            &audit("a", at(2)),
        )
        .await;
    assert_eq!(revision.unwrap(), 3);
    change(store, add_keys("p", &[("k", "sk-1")]))
        .await
        .unwrap();
    change(store, add_keys("q", &[("k", "sk-1")]))
        .await
        .unwrap();

    let catalog = backend.reopen().await.catalog().await.unwrap();
    assert_eq!(catalog.revision, 5);
    let names: Vec<&str> = catalog.pools.iter().map(|pool| &*pool.name).collect();
    assert_eq!(names, ["p", "q"]);
    let pool = &catalog.pools[0];
    assert_eq!((&*pool.settings, pool.version), ("{\"a\":2}", 2));
    assert_eq!((pool.created_at, pool.updated_at), (at(1), at(2)));

    let delete = |expected| Change::DeletePool {
        name: "p".into(),
        expected,
    };
    let store = backend.store();
    assert_eq!(
        kind(change(store, delete(Expected::Version(1))).await),
        StoreErrorKind::VersionMismatch
    );
    change(store, delete(Expected::Version(2))).await.unwrap();
    let catalog = store.catalog().await.unwrap();
    assert_eq!(catalog.pools.len(), 1);
    assert_eq!(catalog.keys.len(), 1);
    assert_eq!(&*catalog.keys[0].pool, "q");
    assert_eq!(
        kind(change(store, delete(Expected::Any)).await),
        StoreErrorKind::Missing
    );
}

async fn keys_are_read_back_in_the_order_of_their_creation(mut backend: Backend) {
    let store = backend.store();
    change(store, add_keys("p", &[("z", "sk-1"), ("a", "sk-2")]))
        .await
        .unwrap();
    change(store, add_keys("p", &[("m", "sk-3")]))
        .await
        .unwrap();
    change(
        store,
        add_keys("another", &[("é \"quoted\" ' \\ 🔑", "sk-4 é \" \\ 🔑")]),
    )
    .await
    .unwrap();

    let catalog = backend.reopen().await.catalog().await.unwrap();
    let keys: Vec<(&str, &str, &str)> = catalog
        .keys
        .iter()
        .map(|key| (&*key.pool, &*key.name, key.secret.expose()))
        .collect();
    let odd = ("another", "é \"quoted\" ' \\ 🔑", "sk-4 é \" \\ 🔑");
    assert_eq!(
        keys,
        [
            odd,
            ("p", "z", "sk-1"),
            ("p", "a", "sk-2"),
            ("p", "m", "sk-3")
        ]
    );
    let key = &catalog.keys[1];
    assert_eq!(
        (&*key.bound_to, &*key.settings),
        ("https://api.example.com", "{\"tier\":\"free\"}")
    );
    assert_eq!(key.version, 1);
    assert_eq!(
        (key.created_at, key.updated_at, key.secret_set_at),
        (at(1_000), at(1_000), at(1_000))
    );
}

async fn keys_are_added_only_to_a_stored_pool_that_is_still_there(backend: Backend) {
    let add = |pool: &str| Change::AddKeys {
        pool: pool.into(),
        pool_is_stored: true,
        keys: vec![new_key("k", "sk-1")],
    };
    let store = backend.store();
    assert_eq!(kind(change(store, add("p")).await), StoreErrorKind::Missing);
    change(store, put_pool("p", "{}", Expected::Any))
        .await
        .unwrap();
    change(store, add("p")).await.unwrap();
}

async fn a_name_and_a_secret_are_in_a_pool_once(backend: Backend) {
    let store = backend.store();
    change(store, add_keys("p", &[("k", "sk-1"), ("l", "sk-2")]))
        .await
        .unwrap();
    for (keys, expected) in [
        (
            vec![("new", "sk-9"), ("k", "sk-3")],
            StoreErrorKind::NameTaken,
        ),
        (
            vec![("new", "sk-9"), ("m", "sk-1")],
            StoreErrorKind::SecretTaken,
        ),
        (
            vec![("m", "sk-3"), ("m", "sk-4")],
            StoreErrorKind::NameTaken,
        ),
        (
            vec![("m", "sk-3"), ("n", "sk-3")],
            StoreErrorKind::SecretTaken,
        ),
    ] {
        let error = change(store, add_keys("p", &keys)).await.unwrap_err();
        assert_eq!(error.kind, expected, "{keys:?}");
        assert!(!error.message.contains("sk-"), "{error}");
    }
    let update = Change::UpdateKey {
        pool: "p".into(),
        key: new_key("l", "sk-1"),
        has_new_secret: true,
        expected: Expected::Present,
    };
    assert_eq!(
        kind(change(store, update).await),
        StoreErrorKind::SecretTaken
    );
    assert_eq!(store.revision().await.unwrap(), 1);
    assert_eq!(store.catalog().await.unwrap().keys.len(), 2);
    assert_eq!(store.audit_log(None, 10).await.unwrap().len(), 1);
    change(store, add_keys("another", &[("k", "sk-1")]))
        .await
        .unwrap();
}

async fn a_key_gets_new_settings_and_a_new_secret(backend: Backend) {
    let store = backend.store();
    change(store, add_keys("p", &[("k", "sk-1")]))
        .await
        .unwrap();
    let update = |secret: &str, settings: &str, has_new_secret, version| Change::UpdateKey {
        pool: "p".into(),
        key: NewKey {
            settings: settings.to_owned(),
            bound_to: "https://new.example.com".to_owned(),
            ..new_key("k", secret)
        },
        has_new_secret,
        expected: Expected::Version(version),
    };
    store
        .change(
            &update("ignored", "{\"a\":1}", false, 1),
            &audit("a", at(2_000)),
        )
        .await
        .unwrap();
    let key = store.catalog().await.unwrap().keys.remove(0);
    assert_eq!(
        (key.secret.expose(), &*key.settings, key.version),
        ("sk-1", "{\"a\":1}", 2)
    );
    assert_eq!(&*key.bound_to, "https://api.example.com");
    assert_eq!((key.updated_at, key.secret_set_at), (at(2_000), at(1_000)));

    store
        .change(
            &update("sk-2", "{\"a\":2}", true, 2),
            &audit("a", at(3_000)),
        )
        .await
        .unwrap();
    let key = store.catalog().await.unwrap().keys.remove(0);
    assert_eq!(
        (key.secret.expose(), &*key.settings, key.version),
        ("sk-2", "{\"a\":2}", 3)
    );
    assert_eq!(&*key.bound_to, "https://new.example.com");
    assert_eq!(
        (key.created_at, key.updated_at, key.secret_set_at),
        (at(1_000), at(3_000), at(3_000))
    );

    // Its own secret is not another key's.
    change(store, update("sk-2", "{}", true, 3)).await.unwrap();
    assert_eq!(
        kind(change(store, update("sk-5", "{}", true, 3)).await),
        StoreErrorKind::VersionMismatch
    );
    // The secret before is free again.
    change(store, add_keys("p", &[("l", "sk-1")]))
        .await
        .unwrap();
}

async fn a_key_is_deleted_in_the_version_that_is_expected(backend: Backend) {
    let store = backend.store();
    let delete = |expected| Change::DeleteKey {
        pool: "p".into(),
        name: "k".into(),
        expected,
    };
    assert_eq!(
        kind(change(store, delete(Expected::Any)).await),
        StoreErrorKind::Missing
    );
    change(store, add_keys("p", &[("k", "sk-1")]))
        .await
        .unwrap();
    assert_eq!(
        kind(change(store, delete(Expected::Version(7))).await),
        StoreErrorKind::VersionMismatch
    );
    assert_eq!(
        kind(change(store, delete(Expected::Absent)).await),
        StoreErrorKind::NameTaken
    );
    change(store, delete(Expected::Version(1))).await.unwrap();
    assert!(store.catalog().await.unwrap().keys.is_empty());
}

fn add_virtual_key(name: &str, hashed: &str) -> Change {
    Change::AddVirtualKey {
        key: virtual_key(name, hashed),
    }
}

fn rotate(hashed: &str, previous_until: Option<SystemTime>, expected: Expected) -> Change {
    let settings = "not to be stored".to_owned();
    Change::RotateVirtualKey {
        key: NewVirtualKey {
            settings,
            ..virtual_key("team", hashed)
        },
        previous_until,
        expected,
    }
}

fn update_virtual_key(expected: Expected) -> Change {
    Change::UpdateVirtualKey {
        name: "team".into(),
        settings: "{\"rpm\":9}".to_owned(),
        expected,
    }
}

async fn a_virtual_key_gets_new_settings_and_a_new_secret(mut backend: Backend) {
    let store = backend.store();
    change(store, add_virtual_key("team", "one")).await.unwrap();
    change(store, update_virtual_key(Expected::Version(1)))
        .await
        .unwrap();
    let rotated = rotate("three", Some(at(9_000)), Expected::Present);
    store
        .change(&rotated, &audit("a", at(4_000)))
        .await
        .unwrap();

    let catalog = backend.reopen().await.catalog().await.unwrap();
    let key = &catalog.virtual_keys[0];
    assert_eq!(key.hash, Digest256::of(b"three"));
    assert_eq!(key.previous, Some((Digest256::of(b"one"), at(9_000))));
    assert_eq!(
        (&*key.settings, key.version, &*key.hint),
        ("{\"rpm\":9}", 3, "kp-…team")
    );
    assert_eq!(
        (key.created_at, key.updated_at, key.secret_set_at),
        (at(1_000), at(4_000), at(4_000))
    );

    let store = backend.store();
    change(store, rotate("four", None, Expected::Any))
        .await
        .unwrap();
    assert_eq!(
        store.catalog().await.unwrap().virtual_keys[0].previous,
        None
    );
}

async fn a_virtual_key_with_a_name_or_secret_that_is_taken_is_refused(backend: Backend) {
    let store = backend.store();
    change(store, add_virtual_key("team", "one")).await.unwrap();
    assert_eq!(
        kind(change(store, add_virtual_key("team", "two")).await),
        StoreErrorKind::NameTaken
    );
    assert_eq!(
        kind(change(store, add_virtual_key("other", "one")).await),
        StoreErrorKind::SecretTaken
    );
    let wrong_version = change(store, update_virtual_key(Expected::Version(5))).await;
    assert_eq!(kind(wrong_version), StoreErrorKind::VersionMismatch);

    // While the secret before is accepted, it is taken too.
    change(
        store,
        rotate("three", Some(at(9_000)), Expected::Version(1)),
    )
    .await
    .unwrap();
    assert_eq!(
        kind(change(store, rotate("one", None, Expected::Any)).await),
        StoreErrorKind::SecretTaken
    );
    assert_eq!(
        kind(change(store, add_virtual_key("other", "one")).await),
        StoreErrorKind::SecretTaken
    );
    assert_eq!(store.revision().await.unwrap(), 2);
}

async fn a_store_remembers_that_it_had_a_virtual_key(backend: Backend) {
    let store = backend.store();
    change(store, add_virtual_key("team", "one")).await.unwrap();
    let delete = || Change::DeleteVirtualKey {
        name: "team".into(),
        expected: Expected::Present,
    };
    change(store, delete()).await.unwrap();
    let errors = [
        kind(change(store, delete()).await),
        kind(change(store, update_virtual_key(Expected::Any)).await),
        kind(change(store, rotate("x", None, Expected::Any)).await),
    ];
    assert_eq!(errors, [StoreErrorKind::Missing; 3]);
    let catalog = store.catalog().await.unwrap();
    assert!(catalog.virtual_keys.is_empty());
    assert!(catalog.has_held_virtual_key);
}

async fn each_outcome_of_what_a_change_expects_of_a_pool(backend: Backend) {
    use StoreErrorKind::{Missing, NameTaken, VersionMismatch};
    let store = backend.store();
    for (stored, expected, outcome) in [
        (false, Expected::Present, Some(Missing)),
        (false, Expected::Version(1), Some(Missing)),
        (false, Expected::Any, None),
        (true, Expected::Absent, Some(NameTaken)),
        (true, Expected::Version(2), Some(VersionMismatch)),
        (true, Expected::Present, None),
        (true, Expected::Version(2), None),
        (true, Expected::Any, None),
    ] {
        let before = store.catalog().await.unwrap();
        assert_eq!(!before.pools.is_empty(), stored);
        let outcome_now = change(store, put_pool("p", "{}", expected)).await;
        assert_eq!(
            outcome_now.err().map(|error| error.kind),
            outcome,
            "{expected:?}"
        );
        if outcome.is_some() {
            assert_eq!(store.catalog().await.unwrap().pools, before.pools);
            assert_eq!(store.revision().await.unwrap(), before.revision);
        }
    }
}

async fn the_audit_log_is_read_newest_first_and_in_pages(mut backend: Backend) {
    let store = backend.store();
    for second in 0..5 {
        store
            .change(
                &put_pool("p", "{}", Expected::Any),
                &audit("pool.put", at(second)),
            )
            .await
            .unwrap();
    }
    // What failed has no entry.
    change(store, put_pool("p", "{}", Expected::Absent))
        .await
        .unwrap_err();

    let store = backend.reopen().await;
    let newest = store.audit_log(None, 2).await.unwrap();
    let rest = store.audit_log(Some(newest[1].id), 10).await.unwrap();
    let times: Vec<_> = newest.iter().chain(&rest).map(|entry| entry.at).collect();
    assert_eq!(times, [at(4), at(3), at(2), at(1), at(0)]);
    let entry = &newest[0];
    assert_eq!(
        (&*entry.actor, &*entry.source, &*entry.action),
        ("admin", "192.0.2.1", "pool.put")
    );
    assert_eq!((&*entry.target, &*entry.details), ("pools/p", "{\"n\":1}"));
}

async fn the_hash_key_stays_and_differs_between_stores(mut backend: Backend) {
    let digest = Secret::new("sk-1").digest();
    let hash = backend
        .store()
        .catalog()
        .await
        .unwrap()
        .hash_key
        .hash(&digest);
    let store = backend.reopen().await;
    assert_eq!(store.catalog().await.unwrap().hash_key.hash(&digest), hash);
    let other = Backend::sqlite().await;
    assert_ne!(
        other
            .store()
            .catalog()
            .await
            .unwrap()
            .hash_key
            .hash(&digest),
        hash
    );
}

on_every_store! {
    a_new_store_is_empty,
    a_pool_is_created_replaced_and_deleted_with_its_keys,
    keys_are_read_back_in_the_order_of_their_creation,
    keys_are_added_only_to_a_stored_pool_that_is_still_there,
    a_name_and_a_secret_are_in_a_pool_once,
    a_key_gets_new_settings_and_a_new_secret,
    a_key_is_deleted_in_the_version_that_is_expected,
    a_virtual_key_gets_new_settings_and_a_new_secret,
    a_virtual_key_with_a_name_or_secret_that_is_taken_is_refused,
    a_store_remembers_that_it_had_a_virtual_key,
    each_outcome_of_what_a_change_expects_of_a_pool,
    the_audit_log_is_read_newest_first_and_in_pages,
    the_hash_key_stays_and_differs_between_stores,
}
