//! Secrets at rest, the master key, and schemas of other versions.

use keypool_backends::store::MasterKey;
use keypool_core::secret::Secret;
use keypool_core::store::{
    Catalog, Change, Expected, KeyStateChange, NewVirtualKey, ObjectChange, StoreErrorKind,
};

use crate::backend::{Backend, master_key, on_every_store};
use crate::data::*;

const SECRET: &str = "tvly-a-secret-that-nobody-else-has";
const WEBHOOK_SECRET: &str = "whsec_that-nobody-else-has-either";

/// Stores the secret wherever one can be.
async fn fill(backend: &Backend) {
    let store = backend.store();
    change(store, add_keys("p", &[("k", SECRET)]))
        .await
        .unwrap();
    let update = Change::UpdateKey {
        pool: "p".into(),
        key: new_key("k", SECRET),
        has_new_secret: true,
        expected: Expected::Any,
    };
    change(store, update).await.unwrap();
    let state = KeyStateChange {
        disabled: Some(true),
        ..told(SECRET, 5.0, at(1))
    };
    store
        .change_key_states(&[state], Some(&audit("x", at(1))), at(1))
        .await
        .unwrap();
    let mut flush = flush(1, 1);
    flush.keys.push(key_use(SECRET, 1, 0));
    flush.objects.push(ObjectChange {
        id: "file-1".into(),
        key: upstream(SECRET),
        group: None,
        owner: None,
        deleted: false,
    });
    store.record(&flush).await.unwrap();
}

fn with_webhook_secret(name: &str, secret: &str) -> NewVirtualKey {
    NewVirtualKey {
        webhook_secret: Some(Secret::new(secret)),
        ..virtual_key(name, name)
    }
}

/// The webhook secret of each virtual key.
fn webhook_secrets(catalog: &Catalog) -> Vec<Option<&str>> {
    let keys = catalog.virtual_keys.iter();
    keys.map(|key| key.webhook_secret.as_ref().map(Secret::expose))
        .collect()
}

async fn a_webhook_secret_is_encrypted_and_outlives_rotations(mut backend: Backend) {
    let store = backend.store();
    for key in [
        with_webhook_secret("one", WEBHOOK_SECRET),
        virtual_key("two", "two"),
    ] {
        change(store, Change::AddVirtualKey { key }).await.unwrap();
    }
    let expected = [Some(WEBHOOK_SECRET), None];
    assert_eq!(webhook_secrets(&store.catalog().await.unwrap()), expected);
    let contents = backend.contents().await;
    assert!(
        contains(&contents, b"two"),
        "the search finds what is stored"
    );
    assert!(!contains(&contents, &WEBHOOK_SECRET.as_bytes()[8..]));
    backend.close();
    let new = MasterKey::new("the new master key");
    backend.rotate(&master_key(), &new).await.unwrap();
    let store = backend.open(&new).await.unwrap();
    assert_eq!(webhook_secrets(&store.catalog().await.unwrap()), expected);

    // Only a new one replaces it when the virtual key is rotated.
    let rotate = |key| Change::RotateVirtualKey {
        key,
        previous_until: None,
        expected: Expected::Present,
    };
    change(&*store, rotate(virtual_key("one", "new")))
        .await
        .unwrap();
    assert_eq!(webhook_secrets(&store.catalog().await.unwrap()), expected);
    let key = NewVirtualKey {
        hash: virtual_key("one", "newer").hash,
        ..with_webhook_secret("one", "whsec_new")
    };
    change(&*store, rotate(key)).await.unwrap();
    let expected = [Some("whsec_new"), None];
    assert_eq!(webhook_secrets(&store.catalog().await.unwrap()), expected);
    drop(store);
    backend
        .sql("UPDATE virtual_keys SET webhook_secret = (SELECT o.webhook_secret FROM virtual_keys AS o WHERE o.name = 'one')")
        .await;
    let store = backend.open(&new).await.unwrap();
    assert_eq!(
        kind(store.catalog().await),
        StoreErrorKind::Internal,
        "it is bound to its virtual key"
    );
}

fn contains(contents: &[u8], needle: &[u8]) -> bool {
    contents
        .windows(needle.len())
        .any(|window| window == needle)
}

async fn no_secret_and_no_digest_of_it_is_readable(backend: Backend) {
    fill(&backend).await;
    let contents = backend.contents().await;
    assert!(
        contains(&contents, b"https://api.example.com"),
        "the search finds what is stored"
    );
    let digest = upstream(SECRET).digest.0;
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    assert!(!contains(&contents, SECRET.as_bytes()));
    assert!(!contains(&contents, &SECRET.as_bytes()[10..]));
    assert!(!contains(&contents, &digest));
    assert!(!contains(&contents, hex.as_bytes()));
    assert!(!contains(&contents, b"the master key of these tests"));
    assert!(
        !contains(&contents, b"api.tavily.com"),
        "which key it is, is encrypted as a whole"
    );
}

async fn a_wrong_master_key_opens_nothing_and_changes_nothing(mut backend: Backend) {
    fill(&backend).await;
    let before = backend.reopen().await.catalog().await.unwrap();
    backend.close();
    let error = backend
        .open(&MasterKey::new("another one"))
        .await
        .err()
        .unwrap();
    assert_eq!(error.kind, StoreErrorKind::WrongMasterKey);
    assert!(error.message.contains("master_key"), "{error}");

    let after = backend.reopen().await.catalog().await.unwrap();
    assert_eq!((after.revision, after.keys), (before.revision, before.keys));
}

async fn a_value_in_the_place_of_another_is_not_decrypted(backend: Backend) {
    change(
        backend.store(),
        add_keys("p", &[("k", SECRET), ("l", "sk-other")]),
    )
    .await
    .unwrap();
    backend
        .sql("UPDATE keys SET secret = (SELECT o.secret FROM keys AS o WHERE o.name = 'l') WHERE name = 'k'")
        .await;
    assert_eq!(
        kind(backend.store().catalog().await),
        StoreErrorKind::Internal
    );
}

async fn a_secret_whose_host_was_altered_is_not_decrypted(backend: Backend) {
    change(backend.store(), add_keys("p", &[("k", SECRET)]))
        .await
        .unwrap();
    backend
        .sql("UPDATE keys SET bound_to = 'https://elsewhere.example.com'")
        .await;
    assert_eq!(
        kind(backend.store().catalog().await),
        StoreErrorKind::Internal
    );
}

async fn a_database_of_a_newer_schema_is_refused_and_left_as_it_is(mut backend: Backend) {
    fill(&backend).await;
    backend.close();
    backend
        .sql("UPDATE keypool_schema SET version = version + 9000")
        .await;
    let error = backend.open(&master_key()).await.err().unwrap();
    assert_eq!(error.kind, StoreErrorKind::NewerSchema);
    assert!(error.message.contains("900"), "{error}");
    backend
        .sql("UPDATE keypool_schema SET version = version - 9000")
        .await;
    assert_eq!(backend.reopen().await.revision().await.unwrap(), 3);
}

async fn only_the_new_master_key_opens_a_store_after_a_rotation(mut backend: Backend) {
    fill(&backend).await;
    let before = backend.store().catalog().await.unwrap();
    let records = backend.store().key_records(0).await.unwrap();
    backend.close();
    let new = MasterKey::new("the new master key");
    let error = backend.rotate(&new, &master_key()).await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::WrongMasterKey);
    backend.rotate(&master_key(), &new).await.unwrap();

    let error = backend.open(&master_key()).await.err().unwrap();
    assert_eq!(error.kind, StoreErrorKind::WrongMasterKey);
    let store = backend.open(&new).await.unwrap();
    let after = store.catalog().await.unwrap();
    assert_eq!((after.revision, after.keys), (before.revision, before.keys));
    assert_eq!(store.key_records(0).await.unwrap(), records);
    assert_eq!(
        store.objects(None, 9).await.unwrap()[0].object.key,
        upstream(SECRET)
    );
    let digest = upstream(SECRET).digest;
    assert_eq!(after.hash_key.hash(&digest), before.hash_key.hash(&digest));
    // The hash is the same, so the secret is still found.
    assert_eq!(
        kind(change(&*store, add_keys("p", &[("l", SECRET)])).await),
        StoreErrorKind::SecretTaken
    );
}

async fn a_running_server_writes_nothing_after_a_rotation(mut backend: Backend) {
    fill(&backend).await;
    let new = MasterKey::new("the new master key");
    backend.rotate(&master_key(), &new).await.unwrap();

    let store = backend.store();
    let errors = [
        kind(change(store, add_keys("p", &[("l", "sk-2")])).await),
        kind(
            store
                .change_key_states(&[told("a", 1.0, at(9))], None, at(9))
                .await,
        ),
        kind(store.record(&flush(1, 2)).await),
        kind(store.catalog().await),
        kind(store.key_records(0).await),
        kind(store.quota_calls(&[upstream(SECRET)]).await),
        kind(store.objects(None, 9).await),
    ];
    assert_eq!(errors, [StoreErrorKind::WrongMasterKey; 7]);
    backend.close();
    let store = backend.open(&new).await.unwrap();
    assert_eq!(store.revision().await.unwrap(), 3);
    assert_eq!(store.catalog().await.unwrap().keys.len(), 1);
    store.record(&flush(1, 2)).await.unwrap();
}

async fn rotations_and_changes_at_once_leave_everything_readable(mut backend: Backend) {
    let (one, two) = (MasterKey::new("one"), MasterKey::new("two"));
    fill(&backend).await;
    let rotations = async {
        backend.rotate(&master_key(), &one).await.unwrap();
        backend.rotate(&one, &two).await.unwrap();
    };
    let changes = async {
        let mut added = 0;
        for number in 0..200 {
            let (name, secret) = (format!("n{number}"), format!("sk-{number}"));
            match change(backend.store(), add_keys("p", &[(&name, &secret)])).await {
                Ok(_) => added += 1,
                Err(error) => {
                    assert_eq!(error.kind, StoreErrorKind::WrongMasterKey);
                    break;
                }
            }
        }
        added
    };
    let ((), added) = tokio::join!(rotations, changes);
    backend.close();
    let catalog = backend.open(&two).await.unwrap().catalog().await.unwrap();
    assert_eq!(catalog.keys.len(), 1 + added);
}

on_every_store! {
    no_secret_and_no_digest_of_it_is_readable,
    a_webhook_secret_is_encrypted_and_outlives_rotations,
    a_wrong_master_key_opens_nothing_and_changes_nothing,
    a_value_in_the_place_of_another_is_not_decrypted,
    a_secret_whose_host_was_altered_is_not_decrypted,
    a_database_of_a_newer_schema_is_refused_and_left_as_it_is,
    only_the_new_master_key_opens_a_store_after_a_rotation,
    a_running_server_writes_nothing_after_a_rotation,
    rotations_and_changes_at_once_leave_everything_readable,
}
