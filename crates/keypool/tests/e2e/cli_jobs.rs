//! `keypool jobs` against a running gateway, as a caller and as its operator.

use std::time::Duration;

use keypool_testkit::{Mock, Step};
use serde_json::{Value, json};

use crate::cli::{Done, run, start};
use crate::harness::{
    CHAT, Folder, Gateway, PoolConfig, bearer, key, virtual_key, virtual_secret, within,
};
use crate::store_kit::poll;

/// A gateway with the virtual keys `a` and `b`, whose one key takes one call at a time.
async fn gateway() -> (Mock, Gateway) {
    let mock = Mock::start().await.expect("a mock");
    let pool = PoolConfig::new(&mock, "p", [1]).set("max_concurrent_per_key", 1);
    let config = pool.to_string() + &virtual_key("a", "") + &virtual_key("b", "");
    let gw = start(&config).await;
    (mock, gw)
}

impl Gateway {
    /// The id of a job of this caller.
    async fn job_of(&self, caller: &str) -> String {
        self.job(CHAT, &[("authorization", &*bearer(caller))]).await
    }

    /// The same once it has ended.
    async fn ended_job_of(&self, caller: &str) -> String {
        let id = self.job_of(caller).await;
        self.ended(&id, &[("authorization", &*bearer(caller))])
            .await;
        id
    }

    /// Runs `keypool jobs` as this caller.
    async fn jobs_as(&self, caller: &str, args: &[&str]) -> Done {
        let secret = virtual_secret(caller);
        let env = [("KEYPOOL_API_KEY", &*secret)];
        let done = run(self.folder(), &[&["jobs"], args].concat(), &env, "").await;
        done.without_secret()
    }

    /// Runs `keypool jobs` as the operator.
    async fn jobs(&self, args: &[&str]) -> Done {
        self.keypool(&[&["jobs"], args].concat()).await
    }
}

fn ids(list: &Value) -> Vec<&str> {
    let items = list["items"].as_array().expect("a list").iter();
    items
        .map(|job| job["id"].as_str().expect("an id"))
        .collect()
}

/// The words of each line below the header.
fn rows(table: &str) -> Vec<Vec<&str>> {
    let lines = table.lines().skip(1);
    lines
        .map(|line| line.split_whitespace().collect())
        .collect()
}

#[tokio::test]
async fn a_caller_lists_its_own_jobs_and_an_operator_all() {
    let (mock, gw) = gateway().await;
    let said = gw.jobs(&["list"]).await.ok();
    assert_eq!(said, "There are no such jobs.\n");
    let first = gw.ended_job_of("a").await;
    let second = gw.ended_job_of("b").await;
    mock.script(
        &key(1),
        [Step::Refuse {
            status: 400,
            retry_after: None,
        }],
    );
    let failed = gw.ended_job_of("a").await;

    let table = gw.jobs_as("a", &["list"]).await.ok();
    let shown = rows(&table);
    assert_eq!(shown.len(), 2, "{table}");
    assert_eq!(
        shown[0][..5],
        [&*failed, "failed", "gpt-x", "p", "1"],
        "{table}"
    );
    assert_eq!(shown[0].last(), Some(&"upstream_error"));
    assert_eq!(
        shown[1][..5],
        [&*first, "succeeded", "gpt-x", "p", "1"],
        "{table}"
    );
    assert_eq!(shown[1].last(), Some(&"-"));
    let all = [&*failed, &*second, &*first];
    let table = gw.jobs(&["list"]).await.ok();
    let shown: Vec<&str> = rows(&table).iter().map(|row| row[0]).collect();
    assert_eq!(shown, all);

    let listed = gw.jobs(&["list", "--json", "--status", "succeeded"]).await;
    assert_eq!(ids(&listed.json()), [&*second, &*first]);
    let listed = gw
        .jobs_as("a", &["list", "--json", "--status", "failed"])
        .await;
    assert_eq!(ids(&listed.json()), [&*failed]);
    let newest = gw.jobs(&["list", "--limit", "2"]).await;
    assert!(newest.stderr.contains("--all"), "{newest:?}");
    assert_eq!(rows(&newest.ok()).len(), 2);
    let newest = gw
        .jobs_as("a", &["list", "--limit", "1", "--json"])
        .await
        .json();
    assert_eq!(
        (ids(&newest), &newest["next"]),
        (vec![&*failed], &json!(failed))
    );
    gw.stop().await;
}

#[tokio::test]
async fn a_list_goes_on_beyond_one_page() {
    let (_mock, gw) = gateway().await;
    let mut all = Vec::new();
    for _ in 0..103 {
        all.insert(0, gw.job_of("a").await);
    }
    for done in [
        gw.jobs(&["list", "--all", "--json"]).await,
        gw.jobs_as("a", &["list", "--all", "--json"]).await,
    ] {
        let list = done.json();
        assert_eq!((ids(&list).len(), &list["next"]), (103, &Value::Null));
        assert_eq!(ids(&list), all);
    }
    for done in [
        gw.jobs(&["list", "--limit", "102", "--json"]).await,
        gw.jobs_as("a", &["list", "--limit", "102", "--json"]).await,
    ] {
        let list = done.json();
        assert_eq!(
            (ids(&list), &list["next"]),
            (
                all[..102].iter().map(String::as_str).collect(),
                &json!(all[101])
            )
        );
    }
    gw.stop().await;
}

#[tokio::test]
async fn a_job_is_shown_and_waited_for() {
    let (mock, gw) = gateway().await;
    for is_caller in [true, false] {
        mock.script(&key(1), [Step::Slow(Duration::from_secs(2))]);
        let id = gw.job_of("a").await;
        let show = |more: &'static [&str]| {
            let args = [&["show", &id], more].concat();
            let gw = &gw;
            async move {
                match is_caller {
                    true => gw.jobs_as("a", &args).await,
                    false => gw.jobs(&args).await,
                }
            }
        };
        let early = show(&["--json"]).await.json();
        assert_eq!(early["ended_at"], Value::Null, "{early}");
        let text = show(&["--wait", "9s"]).await.ok();
        for line in [
            &*format!("id         {id}"),
            "status     succeeded",
            "call       POST /v1/chat/completions",
            "model      gpt-x",
            "pool       p",
            "attempts   1",
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line}: {text}");
        }
        assert!(text.contains("response   200, "), "{text}");
        let whole = show(&["--json"]).await.json();
        assert_eq!(whole["response"]["body"].is_object(), is_caller, "{whole}");
    }
    let foreign = gw.ended_job_of("b").await;
    for done in [
        gw.jobs_as("a", &["show", &foreign]).await,
        gw.jobs_as("a", &["show", "a/b?c"]).await,
        gw.jobs(&["show", "job_0"]).await,
    ] {
        let said = done.failed();
        assert!(said.contains("there is no"), "{said}");
    }
    gw.stop().await;
}

#[tokio::test]
async fn jobs_are_cancelled_one_by_one() {
    let (mock, gw) = gateway().await;
    let done = gw.ended_job_of("a").await;
    mock.script(&key(1), [Step::Hang]);
    let running = gw.job_of("a").await;
    within(mock.wait_for(&key(1), |seen| seen.active == 1)).await;
    // A node claims twice as many jobs as its keys serve at once.
    let claimed = gw.job_of("a").await;
    let queued = gw.job_of("a").await;
    let mut table = String::new();
    poll("the job before it is claimed", async || {
        table = gw.jobs(&["list", "--status", "queued"]).await.ok();
        rows(&table).len() == 1
    })
    .await;
    assert_eq!(rows(&table)[0][..3], [&*queued, "queued", "(1)"], "{table}");

    // An operator cancels jobs of any caller. What was cancelled before stays so.
    let twice = gw.jobs(&["cancel", &queued, &queued, "--json"]).await;
    assert_eq!(ids(&twice.json()), [&*queued, &*queued]);
    twice.ok();
    let args = ["cancel", &done, &claimed, &running, "job_0"];
    let mixed = gw.jobs_as("a", &args).await;
    let expected = format!("{claimed}: cancelled\n{running}: cancelled\n");
    assert_eq!(mixed.stdout, expected);
    let said = mixed.failed();
    assert!(
        said.contains(&format!("{done}: this job has ended")),
        "{said}"
    );
    assert!(said.contains("job_0: there is no such job"), "{said}");
    within(mock.wait_for(&key(1), |seen| seen.active == 0)).await;
    let foreign = gw.jobs_as("b", &["cancel", &queued]).await.failed();
    assert!(foreign.contains("there is no such job"), "{foreign}");
    gw.stop().await;
}

#[tokio::test]
async fn what_is_wrong_with_a_call_about_jobs_is_explained() {
    let (_mock, gw) = gateway().await;
    let secret = virtual_secret("unknown");
    let env = [("KEYPOOL_API_KEY", &*secret)];
    let list = ["jobs", "list"];
    let said = run(gw.folder(), &list, &env, "").await;
    let said = said.without_secret().failed();
    assert!(
        said.contains("rejects the virtual key: set KEYPOOL_API_KEY"),
        "{said}"
    );
    let env = [("KEYPOOL_API_KEY", &*virtual_secret("a"))];
    let remote = ["jobs", "list", "--server", "http://192.0.2.1"];
    let said = run(gw.folder(), &remote, &env, "").await;
    let said = said.without_secret().failed();
    assert!(
        said.contains("so the virtual key could be read on the way"),
        "{said}"
    );
    let folder = Folder::new("");
    folder.write(".env", "KEYPOOL_SERVER=http://127.0.0.1:9\n");
    let said = run(&folder, &list, &env, "").await.failed();
    assert!(
        said.contains("KEYPOOL_API_KEY is not, so the token is not sent"),
        "{said}"
    );
    for args in [
        &["list", "--limit", "0"][..],
        &["list", "--status", "done"],
        &["list", "--limit", "1", "--all"],
        &["show"],
        &["show", "x", "--wait", "soon"],
        &["cancel"],
    ] {
        assert_eq!(gw.jobs(args).await.code, 2, "{args:?}");
    }
    gw.stop().await;
}

#[tokio::test]
async fn a_caller_elsewhere_names_the_server() {
    let (_mock, gw) = gateway().await;
    let id = gw.ended_job_of("a").await;
    let url = format!("http://{}", gw.addr);
    let env = [
        ("KEYPOOL_API_KEY", &*virtual_secret("a")),
        ("KEYPOOL_SERVER", &*url),
    ];
    let elsewhere = Folder::new("");
    let listed = run(&elsewhere, &["jobs", "list", "--json"], &env, "").await;
    assert_eq!(ids(&listed.without_secret().json()), [&*id]);
    gw.stop().await;
}
