//! A process is killed while it changes the store.

use std::io::{BufRead, BufReader};
use std::time::Duration;

use keypool_core::store::{Change, Expected, KeyStateChange, MarksChange, Store};

use crate::backend::{Backend, on_every_store};
use crate::child;
use crate::data::*;

const CHANGES: u64 = 200;

/// The change `number` of many of all kinds, each with several rows.
async fn make(store: &dyn Store, number: u64) {
    let round = number / 8;
    let (pool, virtual_name) = (format!("p{round}"), format!("v{round}"));
    let (first, second, third) = (
        format!("sk-{round}-1"),
        format!("sk-{round}-2"),
        format!("sk-{round}-3"),
    );
    let name = virtual_name.clone().into();
    let change = match number % 8 {
        0 => put_pool(&pool, "{}", Expected::Absent),
        1 => add_keys(&pool, &[("a", &first), ("b", &second), ("c", &third)]),
        2 => Change::UpdateKey {
            pool: pool.into(),
            key: new_key("b", &format!("sk-{round}-new")),
            has_new_secret: true,
            expected: Expected::Version(1),
        },
        3 => Change::AddVirtualKey {
            key: virtual_key(&virtual_name, &first),
        },
        4 => Change::RotateVirtualKey {
            key: virtual_key(&virtual_name, &second),
            previous_until: Some(at(9_000)),
            expected: Expected::Version(1),
        },
        5 => {
            let changes = [
                told(&first, 5.0, at(number)),
                told(&second, 6.0, at(number)),
                disabled(&third),
            ];
            let audit = audit("key.refresh", at(number));
            store
                .change_key_states(&changes, Some(&audit), at(number))
                .await
                .unwrap();
            return;
        }
        6 => Change::DeleteKey {
            pool: pool.into(),
            name: "a".into(),
            expected: Expected::Version(1),
        },
        _ if round.is_multiple_of(2) => Change::DeletePool {
            name: pool.into(),
            expected: Expected::Version(1),
        },
        _ => Change::DeleteVirtualKey {
            name,
            expected: Expected::Version(2),
        },
    };
    store
        .change(&change, &audit("test", at(number)))
        .await
        .unwrap();
}

fn disabled(secret: &str) -> KeyStateChange {
    KeyStateChange {
        disabled: Some(true),
        marks: MarksChange::Invalid,
        ..state_change(secret)
    }
}

/// Does its work only in the process that is killed.
#[tokio::test]
async fn changes_of_the_process_that_is_killed() {
    let Some(store) = child::store().await else {
        return;
    };
    for number in 0..CHANGES {
        make(&*store, number).await;
        child::say(&format!("made {number}"));
    }
}

/// Starts the changes and kills the process `delay` after `acknowledged` of them. Returns how many it acknowledged.
fn kill_after(url: &str, acknowledged: u64, delay: Duration) -> u64 {
    let mut process = child::command("kill::changes_of_the_process_that_is_killed", url)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(process.stdout.take().unwrap())
        .lines()
        .map(Result::unwrap);
    let is_made = |line: &String| line.contains("made ");
    let before = lines
        .by_ref()
        .filter(is_made)
        .take(acknowledged as usize)
        .count() as u64;
    assert_eq!(before, acknowledged);
    std::thread::sleep(delay);
    process.kill().unwrap();
    process.wait().unwrap();
    // What it had written before it was killed is still in the pipe.
    before + lines.filter(is_made).count() as u64
}

async fn a_killed_process_leaves_whole_changes_only(mut backend: Backend) {
    // The same changes, one after the other, say what must be there after each number of them.
    let mut model = Backend::sqlite().await;
    let mut in_model = 0;
    let mut points: Vec<u64> = (0..6).map(|_| fastrand::u64(1..CHANGES - 20)).collect();
    points.sort_unstable();
    for point in points {
        let delay = Duration::from_micros(fastrand::u64(0..4_000));
        backend.close();
        backend.empty().await;
        let acknowledged = kill_after(&backend.url(), point, delay);

        let store = backend.reopen().await;
        let made = store.revision().await.unwrap();
        assert!(
            made == acknowledged || made == acknowledged + 1,
            "{made} made, {acknowledged} acknowledged"
        );
        let log = store.audit_log(None, 1_000).await.unwrap();
        let times: Vec<_> = log.iter().rev().map(|entry| entry.at).collect();
        assert_eq!(
            times,
            (0..made).map(at).collect::<Vec<_>>(),
            "killed {delay:?} after {point}"
        );

        // The points are in order, but a later one may have been overtaken by the one before.
        if in_model > made {
            (model, in_model) = (Backend::sqlite().await, 0);
        }
        for number in in_model..made {
            make(model.store(), number).await;
        }
        in_model = made;
        assert_same(store, model.store()).await;
    }
}

async fn assert_same(store: &dyn Store, model: &dyn Store) {
    let (stored, expected) = (
        store.catalog().await.unwrap(),
        model.catalog().await.unwrap(),
    );
    assert_eq!(stored.pools, expected.pools);
    assert_eq!(stored.keys, expected.keys);
    let names = |catalog: &keypool_core::store::Catalog| -> Vec<_> {
        catalog
            .virtual_keys
            .iter()
            .map(|key| (key.name.clone(), key.version, key.previous))
            .collect()
    };
    assert_eq!(names(&stored), names(&expected));
    let sorted = async |store: &dyn Store| {
        let mut records = store.key_records(0).await.unwrap();
        records.sort_by(|a, b| a.key.cmp(&b.key));
        records
    };
    assert_eq!(sorted(store).await, sorted(model).await);
}

on_every_store! {
    a_killed_process_leaves_whole_changes_only,
}
