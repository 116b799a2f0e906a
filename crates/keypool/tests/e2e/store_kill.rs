//! The program is killed in the middle of changes: it starts again, no change is half made, and the audit log has each one that
//! was acknowledged.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use keypool_testkit::Mock;
use serde_json::{Value, json};

use crate::harness::{Folder, Gateway, key, pool, within};
use crate::http::Connection;
use crate::store_kit::{Database, TOKEN, stored_pool};

/// Number of changes.
const CHANGES: usize = 200;
/// Number of keys of each import.
const IMPORTED: usize = 20;

/// One change, by its number, and what it leaves.
struct Planned {
    method: &'static str,
    path: String,
    body: String,
    kind: &'static str,
    /// What the audit log says.
    action: &'static str,
    target: String,
}

fn plan(n: usize, mock: &Mock) -> Planned {
    let json = |method, path: String, body: Value, action, target: &str| Planned {
        method,
        path,
        body: if body.is_null() {
            String::new()
        } else {
            body.to_string()
        },
        kind: "application/json",
        action,
        target: target.to_owned(),
    };
    // Each round of eight has a pool of its own, with what is done to it.
    let round = n / 8;
    let (pool, caller) = (format!("r{round}"), format!("caller-{round}"));
    let keys = format!("pools/{pool}/keys");
    let (one, two) = (format!("{keys}/one"), format!("{keys}/two"));
    match n % 8 {
        0 => json(
            "PUT",
            format!("pools/{pool}"),
            stored_pool(mock, "r*"),
            "pool.create",
            &format!("pools/{pool}"),
        ),
        1 => json(
            "POST",
            keys.clone(),
            json!({ "key": key(10 * n), "name": "one" }),
            "key.create",
            &one,
        ),
        2 => json(
            "POST",
            keys.clone(),
            json!({ "key": key(10 * n), "name": "two" }),
            "key.create",
            &two,
        ),
        3 => json(
            "PATCH",
            one.clone(),
            json!({ "key": key(10 * n), "weight": 7 }),
            "key.update",
            &one,
        ),
        4 => json(
            "POST",
            "virtual-keys".into(),
            json!({ "name": caller, "rpm": 9 }),
            "virtual_key.create",
            &format!("virtual-keys/{caller}"),
        ),
        5 => {
            let lines = (0..IMPORTED).map(|line| format!("{}\n", key(100_000 + 100 * n + line)));
            Planned {
                body: lines.collect(),
                kind: "text/plain",
                ..json(
                    "POST",
                    format!("{keys}/import"),
                    Value::Null,
                    "key.import",
                    &keys,
                )
            }
        }
        6 => json("DELETE", two.clone(), Value::Null, "key.delete", &two),
        _ => json(
            "POST",
            format!("{one}/disable"),
            Value::Null,
            "key.disable",
            &one,
        ),
    }
}

/// What became of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Made,
    Refused,
    /// The program was killed before it responded.
    Unknown,
}

/// Makes a change. With `kill_after`, kills the program this long after the request was sent.
async fn make(gw: &Gateway, change: &Planned, kill_after: Option<Duration>) -> Fate {
    let bearer = format!("Bearer {}", gw.token);
    let headers = [("authorization", &*bearer), ("content-type", change.kind)];
    let headers = if change.body.is_empty() {
        &headers[..1]
    } else {
        &headers[..]
    };
    let mut connection = Connection::open(gw.addr).await;
    let path = format!("/api/v1/admin/{}", change.path);
    connection
        .request(change.method, &path, headers, change.body.as_bytes())
        .await;
    if let Some(after) = kill_after {
        tokio::time::sleep(after).await;
        gw.process.signal("KILL");
    }
    match within(connection.reply()).await {
        Some((reply, _)) if (200..300).contains(&reply.status) => Fate::Made,
        // What it depends on was lost with the kill.
        Some((reply, _)) if reply.status == 404 => Fate::Refused,
        Some((reply, _)) => panic!("{} {}: {reply:?}", change.method, change.path),
        None => Fate::Unknown,
    }
}

fn random(below: u64) -> u64 {
    RandomState::new().build_hasher().finish() % below
}

/// All items of a list.
async fn all(gw: &Gateway, path: &str) -> Vec<Value> {
    let (mut items, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = gw.read(&format!("{path}?limit=1000{cursor}")).await;
        items.extend(page["items"].as_array().expect("a list").iter().cloned());
        match page["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return items,
        }
    }
}

async fn state_matches_the_log(gw: &Gateway, fates: &[(Planned, Fate)]) {
    let log = all(gw, "audit").await;
    let text = |entry: &Value, field: &str| entry[field].as_str().expect("text").to_owned();
    let made: BTreeSet<(String, String)> = log
        .iter()
        .map(|entry| (text(entry, "action"), text(entry, "target")))
        .collect();
    assert_eq!(made.len(), log.len(), "each change is in it once");
    for (change, fate) in fates {
        let is_logged = made.contains(&(change.action.to_owned(), change.target.clone()));
        match fate {
            Fate::Made => assert!(is_logged, "{} {} is lost", change.action, change.target),
            Fate::Refused => assert!(!is_logged, "{} {}", change.action, change.target),
            Fate::Unknown => {}
        }
    }
    let was = |action: &str, target: String| made.contains(&(action.to_owned(), target));
    let callers: Vec<Value> = all(gw, "virtual-keys").await;
    let callers: Vec<String> = callers.iter().map(|caller| text(caller, "name")).collect();
    for round in 0..fates.len().div_ceil(8) {
        let pool = format!("pools/r{round}");
        let caller = format!("caller-{round}");
        assert_eq!(
            was("virtual_key.create", format!("virtual-keys/{caller}")),
            callers.contains(&caller)
        );
        let exists = gw.api("GET", &pool, Value::Null).await.status == 200;
        assert_eq!(was("pool.create", pool.clone()), exists, "{pool}");
        if !exists {
            continue;
        }
        let keys = all(gw, &format!("{pool}/keys")).await;
        let keys: BTreeMap<String, &Value> =
            keys.iter().map(|key| (text(key, "name"), key)).collect();
        let one = keys.get("one");
        assert_eq!(was("key.create", format!("{pool}/keys/one")), one.is_some());
        if let Some(one) = one {
            let weight = if was("key.update", format!("{pool}/keys/one")) {
                7
            } else {
                1
            };
            assert_eq!(one["weight"], weight, "{one}");
            let state = if was("key.disable", format!("{pool}/keys/one")) {
                "disabled"
            } else {
                "active"
            };
            assert_eq!(one["state"], state, "{one}");
        }
        let two = was("key.create", format!("{pool}/keys/two"))
            && !was("key.delete", format!("{pool}/keys/two"));
        assert_eq!(two, keys.contains_key("two"));
        let imported = keys.len() - usize::from(one.is_some()) - usize::from(two);
        let expected = if was("key.import", format!("{pool}/keys")) {
            IMPORTED
        } else {
            0
        };
        assert_eq!(imported, expected, "all of an import or nothing");
    }
}

/// Makes all changes one after the other, and kills the program at every tenth or so.
async fn killed_during_changes(folder: &Arc<Folder>, token: Option<&str>) {
    let mock = Mock::start().await.expect("a mock");
    let config = std::fs::read_to_string(folder.path("keypool.toml")).expect("a file");
    folder.write("keypool.toml", &(config + &pool(&mock, 1)));
    let start = async || {
        let gw = Gateway::start_in(folder).await;
        let token = token.map_or(gw.token.clone(), str::to_owned);
        Gateway { token, ..gw }
    };
    let mut gw = start().await;
    let (mut fates, mut kills, mut unknown) = (Vec::new(), 0, 0);
    for n in 0..CHANGES {
        let change = plan(n, &mock);
        let kill_after = (random(10) == 0).then(|| Duration::from_micros(random(30_000)));
        let fate = make(&gw, &change, kill_after).await;
        unknown += usize::from(fate == Fate::Unknown);
        fates.push((change, fate));
        if kill_after.is_some() {
            kills += 1;
            gw.killed().await;
            gw = start().await;
        }
    }
    state_matches_the_log(&gw, &fates).await;
    println!("{kills} kills, {unknown} of them before the response");
    assert!(kills > 0);
    gw.stop().await;
}

#[tokio::test]
async fn a_killed_program_on_sqlite_has_made_each_change_wholly_or_not() {
    killed_during_changes(&Folder::new(""), None).await;
}

#[tokio::test]
async fn a_killed_program_on_postgresql_has_made_each_change_wholly_or_not() {
    let database = Database::new().await;
    killed_during_changes(&Folder::new(&database.config()), Some(TOKEN)).await;
}
