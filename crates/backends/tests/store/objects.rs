//! Who created an object at a provider.

use std::time::{Duration, SystemTime};

use keypool_core::store::{ObjectChange, ObjectRecord, Store};

use crate::backend::{Backend, on_every_store};
use crate::data::*;

fn object(id: &str) -> ObjectChange {
    ObjectChange {
        id: id.into(),
        key: upstream("a"),
        group: Some("account".into()),
        owner: Some("team".into()),
        deleted: false,
    }
}

async fn note(store: &dyn Store, number: u64, objects: Vec<ObjectChange>) {
    let flush = keypool_core::store::Flush {
        objects,
        ..flush(1, number)
    };
    store.record(&flush).await.unwrap();
    // The next ones get a later time.
    tokio::time::sleep(Duration::from_millis(3)).await;
}

fn ids(records: &[ObjectRecord]) -> Vec<&str> {
    records.iter().map(|record| &*record.object.id).collect()
}

async fn an_object_is_read_back_with_its_owner_and_group(mut backend: Backend) {
    let nobodys = ObjectChange {
        owner: None,
        group: None,
        key: upstream("b"),
        ..object("file-1")
    };
    note(backend.store(), 1, vec![object("file-1")]).await;
    note(backend.store(), 2, vec![nobodys.clone()]).await;

    let records = backend.reopen().await.objects(None, 9).await.unwrap();
    let objects: Vec<_> = records.iter().map(|record| record.object.clone()).collect();
    assert_eq!(objects, [object("file-1"), nobodys]);
    let age = now().duration_since(records[0].at).unwrap_or_default();
    assert!(age < Duration::from_secs(60));
}

async fn a_deleted_object_is_read_since_then_and_not_among_the_newest(backend: Backend) {
    let store = backend.store();
    note(store, 1, vec![object("a"), object("b")]).await;
    let created = store.objects(None, 9).await.unwrap()[0].at;
    note(
        store,
        2,
        vec![ObjectChange {
            deleted: true,
            ..object("a")
        }],
    )
    .await;

    assert_eq!(ids(&store.objects(None, 9).await.unwrap()), ["b"]);
    let since = store.objects(Some(created), 9).await.unwrap();
    let deleted: Vec<_> = since
        .iter()
        .map(|record| (&*record.object.id, record.object.deleted))
        .collect();
    assert_eq!(deleted, [("b", false), ("a", true)]);
    // Deleted and created again, in one flush: the last one counts.
    note(
        store,
        3,
        vec![
            ObjectChange {
                deleted: true,
                ..object("b")
            },
            object("a"),
            object("b"),
        ],
    )
    .await;
    assert_eq!(ids(&store.objects(None, 9).await.unwrap()), ["a", "b"]);
}

async fn objects_are_read_since_a_time_and_up_to_a_limit(backend: Backend) {
    let store = backend.store();
    note(store, 1, vec![object("a")]).await;
    note(store, 2, vec![object("b"), object("c")]).await;
    note(store, 3, vec![object("d")]).await;

    let all = store
        .objects(Some(SystemTime::UNIX_EPOCH), 9)
        .await
        .unwrap();
    assert_eq!(ids(&all), ["a", "b", "c", "d"]);
    assert_eq!(
        ids(&store.objects(Some(all[1].at), 9).await.unwrap()),
        ["b", "c", "d"]
    );
    assert_eq!(ids(&store.objects(None, 2).await.unwrap()), ["c", "d"]);
    // Those of the same time are not torn apart, so that one who goes on from there misses none.
    assert_eq!(
        ids(&store.objects(Some(all[0].at), 2).await.unwrap()),
        ["a", "b", "c"]
    );
    assert_eq!(
        ids(&store.objects(Some(all[0].at), 1).await.unwrap()),
        ["a"]
    );
}

on_every_store! {
    an_object_is_read_back_with_its_owner_and_group,
    a_deleted_object_is_read_since_then_and_not_among_the_newest,
    objects_are_read_since_a_time_and_up_to_a_limit,
}
