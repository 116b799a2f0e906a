//! `keypool keys` against a running gateway.

use std::fs;

use keypool_testkit::{Mock, Quota, Step};
use serde_json::json;

use crate::cli::start;
use crate::harness::{Gateway, MARK, PoolConfig, key};

/// A gateway with the empty pools `p` and `q` at the mock provider.
async fn two_pools(mock: &Mock) -> Gateway {
    let pools = ["p", "q"].map(|name| PoolConfig::new(mock, name, []).to_string());
    start(&pools.concat()).await
}

/// The names of the keys of a pool.
async fn names(gw: &Gateway, pool: &str) -> Vec<String> {
    let list = gw
        .keypool(&["keys", "list", "--pool", pool, "--json"])
        .await;
    let list = list.without_secret().json();
    let items = list["items"].as_array().expect("a list").iter();
    items
        .map(|key| key["name"].as_str().expect("a name").to_owned())
        .collect()
}

/// The line of a table that begins with these words.
fn line<'t>(table: &'t str, words: &str) -> &'t str {
    let mut lines = table.lines();
    let is_it = |line: &&str| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        columns.join(" ").starts_with(words)
    };
    lines
        .find(is_it)
        .unwrap_or_else(|| panic!("no line {words}: {table}"))
}

#[tokio::test]
async fn a_key_from_standard_input_is_added_and_listed() {
    let mock = Mock::start().await.expect("a mock");
    let gw = two_pools(&mock).await;
    let empty = gw.keypool(&["keys", "list"]).await.ok();
    assert!(empty.contains("There are no keys"), "{empty}");

    let args = [
        "keys", "add", "--pool", "p", "--name", "main", "--weight", "7", "--group", "g",
    ];
    let added = gw.keypool_with(&args, &format!("  {}\n", key(1))).await;
    let added = added.without_secret().ok();
    assert_eq!(added, "Added main (…) to pool p.\n");
    let args = ["keys", "add", "--pool", "p", "--rpm", "100", "--json"];
    let added = gw.keypool_with(&args, &key(2)).await.without_secret();
    assert_eq!(
        (&added.json()["name"], &added.json()["rpm"]),
        (&json!("p-1"), &json!(100))
    );

    gw.chat().await;
    let table = gw.keypool(&["keys", "list"]).await.without_secret().ok();
    assert!(
        line(&table, "POOL NAME KEY STATE").contains("LAST USED"),
        "{table}"
    );
    line(&table, "p p-1 … active yes");
    let main = line(&table, "p main … active yes 1 100.0 %");
    assert!(main.contains("s ago") && main.ends_with("store"), "{table}");
    let listed = gw
        .keypool(&["keys", "list", "--json"])
        .await
        .without_secret()
        .json();
    let main = &listed["items"][0];
    assert_eq!((&main["weight"], &main["group"]), (&json!(7), &json!("g")));
    assert_eq!(names(&gw, "q").await, [""; 0]);
    gw.stop().await;
}

#[tokio::test]
async fn a_refused_key_says_everything_that_is_wrong() {
    let mock = Mock::start().await.expect("a mock");
    let gw = two_pools(&mock).await;
    let add = ["keys", "add", "--pool", "p"];
    gw.keypool_with(&add, &key(1)).await.ok();
    let secret = key(2);
    for (args, input, expected) in [
        (&["--name", "x"][..], key(1), "has the same secret"),
        (&["--name", "p-1"], secret.clone(), "choose another name"),
        (
            &["--weight", "0", "--rpm", "0"],
            secret.clone(),
            "2 mistakes:\n  - `weight`",
        ),
        (&[], format!("{secret}\n{}\n", key(3)), "more than one line"),
        (&[], String::new(), "no secret was given"),
        (&[], format!("{secret} x"), "a space"),
    ] {
        let refused = gw.keypool_with(&[&add, args].concat(), &input).await;
        let said = refused.without_secret().failed();
        assert!(said.contains(expected), "{said}");
    }
    let unknown = gw
        .keypool_with(&["keys", "add", "--pool", "none", "--json"], &secret)
        .await;
    assert_eq!(
        (unknown.code, &unknown.json()["code"]),
        (1, &json!("not_found"))
    );
    assert_eq!(gw.keypool(&["keys", "add"]).await.code, 2);
    assert_eq!(names(&gw, "p").await, ["p-1"]);
    gw.stop().await;
}

#[tokio::test]
async fn an_import_reads_each_format_and_names_malformed_lines() {
    let mock = Mock::start().await.expect("a mock");
    let gw = two_pools(&mock).await;
    let (one, two, three) = (key(1), key(2), key(3));
    gw.folder()
        .write("keys.txt", &format!("{one}\n# a comment\nno key\n"));
    gw.folder().write(
        "keys.csv",
        &format!("key,name,weight\n{two},b,3\n{one},,\n"),
    );
    let import = ["keys", "import", "--pool", "p"];
    let done = gw
        .keypool(&[&import[..], &["keys.txt"]].concat())
        .await
        .without_secret();
    assert!(
        done.stderr.contains("importing keys.txt into pool p"),
        "{done:?}"
    );
    let said = done.ok();
    assert!(
        said.contains("1 key added, 0 known, 1 malformed") && said.contains("line 3: `key`"),
        "{said}"
    );
    let said = gw
        .keypool(&[&import[..], &["keys.csv"]].concat())
        .await
        .without_secret()
        .ok();
    assert!(said.contains("1 key added, 1 known, 0 malformed"), "{said}");
    let list = json!([{ "key": three, "name": "c" }, { "nmae": "x" }]).to_string();
    let args = [&import[..], &["--format", "json", "--json", "-"]].concat();
    let report = gw.keypool_with(&args, &list).await.without_secret().json();
    let expected = json!([
        { "line": 1, "name": "c", "status": "added", "error": null },
        { "line": 2, "name": null, "status": "malformed", "error": "`nmae` is not known" },
    ]);
    assert_eq!(report["keys"], expected, "{report}");
    assert_eq!(names(&gw, "p").await, ["b", "c", "p-1"]);
    gw.stop().await;
}

#[tokio::test]
async fn an_import_without_a_key_fails() {
    let mock = Mock::start().await.expect("a mock");
    let gw = two_pools(&mock).await;
    let import = ["keys", "import", "--pool", "p", "-"];
    let empty = gw.keypool_with(&import, "").await;
    assert!(
        empty.code == 1 && empty.stdout.contains("no key in it"),
        "{empty:?}"
    );
    let malformed = gw.keypool_with(&import, "no key\n").await;
    assert!(
        malformed.code == 1 && malformed.stdout.contains("1 malformed"),
        "{malformed:?}"
    );
    let known = [&import[..4], &["--format", "csv", "-"]].concat();
    let table = format!("key,colour\n{},red\n", key(1));
    let said = gw
        .keypool_with(&known, &table)
        .await
        .without_secret()
        .failed();
    assert!(said.contains("the column `colour` is not known"), "{said}");
    let said = gw
        .keypool(&["keys", "import", "--pool", "p", "missing.txt"])
        .await
        .failed();
    assert!(said.contains("cannot read missing.txt"), "{said}");
    let said = gw
        .keypool_with(&["keys", "import", "--pool", "none", "-"], "x")
        .await
        .failed();
    assert!(said.contains("there is no pool \"none\""), "{said}");
    // The second time, the key is known, and that is as good.
    gw.keypool_with(&import, &key(1)).await.ok();
    gw.keypool_with(&import, &key(1)).await.ok();
    gw.stop().await;
}

#[tokio::test]
async fn ten_thousand_keys_come_from_a_file_and_from_standard_input() {
    let mock = Mock::start().await.expect("a mock");
    let gw = two_pools(&mock).await;
    let keys: Vec<String> = (0..10_000).map(key).collect();
    gw.folder().write("keys.txt", &keys.join("\n"));
    for (pool, file, input) in [
        ("p", "keys.txt", String::new()),
        ("q", "-", keys.join("\n")),
    ] {
        let args = ["keys", "import", "--pool", pool, file];
        let said = gw.keypool_with(&args, &input).await.without_secret().ok();
        assert!(
            said.contains("10000 keys added, 0 known, 0 malformed"),
            "{said}"
        );
        assert_eq!(names(&gw, pool).await.len(), 10_000);
    }
    gw.stop().await;
}

#[tokio::test]
async fn an_export_with_secrets_is_imported_again() {
    let mock = Mock::start().await.expect("a mock");
    let pools = [
        PoolConfig::new(&mock, "p", [9]).to_string(),
        PoolConfig::new(&mock, "csv", []).to_string(),
        PoolConfig::new(&mock, "json", []).to_string(),
        PoolConfig::new(&mock, "text", []).to_string(),
    ];
    let gw = start(&pools.concat()).await;
    let table = format!(
        "key,name,weight,group,rpm\n{},\"a, b\",7,g,60\n{},c,,,\n",
        key(1),
        key(2)
    );
    gw.keypool_with(
        &["keys", "import", "--pool", "p", "--format", "csv", "-"],
        &table,
    )
    .await
    .ok();
    for format in ["csv", "json", "text"] {
        let args = [
            "keys",
            "export",
            "--pool",
            "p",
            "--secrets",
            "--format",
            format,
        ];
        let exported = gw.keypool(&args).await;
        let note = "1 key of pool p is declared in keypool.toml, not stored, and not exported";
        assert!(exported.stderr.contains(note), "{exported:?}");
        let exported = exported.ok();
        assert!(
            exported.contains(&key(1)) && !exported.contains(&key(9)),
            "{exported}"
        );
        let args = ["keys", "import", "--pool", format, "--format", format, "-"];
        gw.keypool_with(&args, &exported).await.ok();
        let args = [
            "keys",
            "export",
            "--pool",
            format,
            "--secrets",
            "--format",
            "text",
        ];
        let again = gw.keypool(&args).await.ok();
        assert_eq!(again, format!("{}\n{}\n", key(1), key(2)));
        let listed = ["keys", "list", "--pool", format, "--json"];
        let listed = gw.keypool(&listed).await.json();
        let field = |name| listed["items"][0][name].clone();
        if format != "text" {
            let fields = [field("name"), field("weight"), field("group"), field("rpm")];
            assert_eq!(fields, [json!("a, b"), json!(7), json!("g"), json!(60)]);
        }
    }
    gw.stop().await;
}

#[tokio::test]
async fn an_export_shows_secrets_only_if_asked() {
    let mock = Mock::start().await.expect("a mock");
    let gw = start(
        &[
            PoolConfig::new(&mock, "p", [1, 2]),
            PoolConfig::new(&mock, "q", [3]),
        ]
        .map(|pool| pool.to_string())
        .concat(),
    )
    .await;
    let csv = gw.keypool(&["keys", "export"]).await.without_secret().ok();
    assert!(
        csv.starts_with("pool,name,hint,source,state,base_url,"),
        "{csv}"
    );
    assert!(
        csv.contains("\np,p-1,…,keypool.toml,active,") && csv.contains("\nq,q-1,"),
        "{csv}"
    );
    let text = gw
        .keypool(&["keys", "export", "--pool", "q", "--format", "text"])
        .await;
    assert_eq!(text.without_secret().ok(), "q q-1 …\n");
    let json = gw
        .keypool(&["keys", "export", "--json"])
        .await
        .without_secret();
    assert_eq!(json.json()[2]["name"], "q-1");
    assert_eq!(gw.keypool(&["keys", "export", "--secrets"]).await.code, 2);
    let none = gw
        .keypool(&["keys", "export", "--secrets", "--pool", "none"])
        .await
        .failed();
    assert!(none.contains("no key of a pool \"none\""), "{none}");
    // Without the master key, nothing of the store can be read.
    fs::remove_file(gw.folder().path("keypool.master-key")).unwrap();
    let lost = gw
        .keypool(&["keys", "export", "--secrets", "--pool", "p"])
        .await
        .failed();
    assert!(
        lost.contains("keypool.master-key: put the file back"),
        "{lost}"
    );
    gw.stop().await;
}

#[tokio::test]
async fn a_check_tells_which_keys_work() {
    let mock = Mock::start().await.expect("a mock");
    let gw = start(&PoolConfig::new(&mock, "p", 1..=12).to_string()).await;
    let done = gw.keypool(&["keys", "check"]).await.without_secret();
    assert!(done.stderr.contains("checking 12 keys"), "{done:?}");
    let table = done.ok();
    line(&table, "p p-1 yes - active");
    assert!(table.ends_with("12 of 12 keys work.\n"), "{table}");
    assert_eq!(mock.seen(&key(12)).requests, 1);

    mock.script(&key(2), [Step::refuse(401)]);
    let some = gw
        .keypool(&["keys", "check", "--pool", "p", "p-1", "p-2", "--json"])
        .await;
    let checked = some.without_secret();
    assert_eq!(checked.code, 1, "{checked:?}");
    let report = checked.json();
    let counts = [&report["total"], &report["working"], &report["failed"]];
    assert_eq!(counts, [2, 1, 1]);
    let second = &report["keys"][1];
    assert_eq!([&second["name"], &second["state"]], ["p-2", "invalid"]);
    assert_eq!(second["works"], false);

    let some = gw
        .keypool(&["keys", "check", "--pool", "p", "p-1", "none", "--json"])
        .await;
    let report = some.json();
    let results = [&report["keys"][0]["works"], &report["keys"][1]["works"]];
    assert_eq!((some.code, results), (1, [&json!(true), &json!(null)]));
    let error = report["keys"][1]["error"].as_str().unwrap_or_default();
    assert!(error.contains("there is no key \"none\""), "{report}");
    let said = gw
        .keypool(&["keys", "check", "--pool", "p", "none"])
        .await
        .failed();
    assert!(said.contains("there is no key \"none\""), "{said}");
    assert_eq!(gw.keypool(&["keys", "check", "p-1"]).await.code, 2);
    gw.stop().await;
}

#[tokio::test]
async fn a_refresh_tells_what_is_left_of_quotas() {
    let mock = Mock::start().await.expect("a mock");
    let quota = Quota {
        remaining: Some(12.0),
        limit: Some(500.0),
    };
    mock.set_quota(&key(1), quota);
    let pools = [
        PoolConfig::new(&mock, "p", [1, 2]),
        PoolConfig::new(&mock, "q", [3]),
    ];
    let gw = start(&pools.map(|pool| pool.to_string()).concat()).await;
    let table = gw.keypool(&["keys", "refresh"]).await.without_secret().ok();
    line(&table, "p p-1 12 of 500 credits -");
    line(&table, "q q-1 1000 of 1000 credits -");
    assert!(table.contains("3 of 3 keys refreshed in "), "{table}");
    let listed = gw.keypool(&["keys", "list", "--pool", "p"]).await.ok();
    assert!(
        line(&listed, "p p-1").contains("12 of 500 credits"),
        "{listed}"
    );

    mock.script(&key(2), [Step::refuse(401)]);
    let failed = gw
        .keypool(&["keys", "refresh", "--pool", "p", "--json"])
        .await
        .without_secret();
    assert_eq!(failed.code, 1, "{failed:?}");
    let report = failed.json();
    let counts = [&report["total"], &report["succeeded"], &report["failed"]];
    assert_eq!(counts, [2, 1, 1], "{report}");
    assert!(report["keys"][1]["error"].is_string(), "{report}");
    let said = gw
        .keypool(&["keys", "refresh", "--pool", "none"])
        .await
        .failed();
    assert!(said.contains("there is no pool"), "{said}");
    gw.stop().await;
}

#[tokio::test]
async fn without_a_provider_that_tells_quotas_a_refresh_fails() {
    let pool = "[pools.p]\nprovider = \"anthropic\"\nkeys = [\"sk-ant-not-a-key\"]\n";
    let gw = start(pool).await;
    let said = gw.keypool(&["keys", "refresh"]).await.failed();
    assert!(said.contains("no pool whose provider tells"), "{said}");
    let said = gw
        .keypool(&["keys", "refresh", "--pool", "p"])
        .await
        .failed();
    assert!(said.contains("does not report the quota"), "{said}");
    gw.stop().await;
}

#[tokio::test]
async fn keys_are_switched_reset_and_removed_by_name() {
    let mock = Mock::start().await.expect("a mock");
    let gw = two_pools(&mock).await;
    let import = ["keys", "import", "--pool", "p", "-"];
    gw.keypool_with(&import, &[key(1), key(2), key(3)].join("\n"))
        .await
        .ok();
    let of = |verb| ["keys", verb, "--pool", "p"];

    let done = gw
        .keypool(&[&of("disable")[..], &["p-1", "none", "p-2"]].concat())
        .await;
    assert_eq!(done.stdout, "p-1: disabled\np-2: disabled\n");
    assert!(done.failed().contains("none: there is no key \"none\""));
    let done = gw
        .keypool(&[&of("enable")[..], &["p-1", "none", "--json"]].concat())
        .await;
    assert_eq!(
        (done.code, &done.json()["items"][0]["state"]),
        (1, &json!("active"))
    );
    assert_eq!(done.json()["errors"][0]["name"], "none");

    mock.script(&key(3), [Step::rate_limited(600)]);
    mock.script(&key(1), [Step::rate_limited(600)]);
    gw.chat().await;
    let said = gw
        .keypool(&[&of("reset")[..], &["p-1", "p-3"]].concat())
        .await
        .ok();
    assert_eq!(said, "p-1: active\np-3: active\n");

    let remove = [&of("remove")[..], &["p-1", "p-3"]].concat();
    let said = gw.keypool(&remove).await.failed();
    assert!(
        said.contains("Remove 2 keys of pool p (p-1, p-3)? Add --yes"),
        "{said}"
    );
    assert_eq!(names(&gw, "p").await.len(), 3);
    let said = gw.keypool(&[&remove[..], &["--yes"]].concat()).await.ok();
    assert_eq!(said, "p-1: removed\np-3: removed\n");
    assert_eq!(names(&gw, "p").await, ["p-2"]);
    assert_eq!(gw.keypool(&of("remove")).await.code, 2);
    gw.stop().await;
}

#[tokio::test]
async fn a_declared_key_is_removed_only_where_it_is_declared() {
    let mock = Mock::start().await.expect("a mock");
    let gw = start(&PoolConfig::new(&mock, "p", [1]).to_string()).await;
    let said = gw
        .keypool(&["keys", "remove", "--pool", "p", "p-1", "--yes"])
        .await;
    let said = said.without_secret().failed();
    assert!(
        said.contains("declared in keypool.toml: change it there"),
        "{said}"
    );
    assert!(!said.contains(MARK) && names(&gw, "p").await == ["p-1"]);
    gw.stop().await;
}
