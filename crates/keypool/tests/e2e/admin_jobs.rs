//! `/api/v1/admin/jobs`: what an operator sees of all callers' jobs, and cancels.

use keypool_testkit::{Mock, Step};
use serde_json::{Value, json};

use crate::harness::{
    CHAT, CHAT_PATH, Gateway, MARK, PoolConfig, bearer, key, pool, virtual_key, within,
};
use crate::store_kit::{ok, problem};

/// A gateway with the virtual keys `a` and `b`, whose one key takes one call at a time.
async fn gateway(mock: &Mock) -> Gateway {
    let pool = PoolConfig::new(mock, "p", [1]).set("max_concurrent_per_key", 1);
    let config = pool.to_string() + &virtual_key("a", "") + &virtual_key("b", "");
    Gateway::start(&config).await
}

/// The id of a job of this caller.
async fn job_of(gw: &Gateway, caller: &str) -> String {
    gw.job(CHAT, &[("authorization", &*bearer(caller))]).await
}

async fn ended(gw: &Gateway, caller: &str, id: &str) -> Value {
    gw.ended(id, &[("authorization", &*bearer(caller))]).await
}

fn ids(list: &Value) -> Vec<&str> {
    let items = list["items"].as_array().expect("a list").iter();
    items
        .map(|job| job["id"].as_str().expect("an id"))
        .collect()
}

#[tokio::test]
async fn jobs_of_all_callers_are_listed_in_pages_newest_first() {
    let mock = Mock::start().await.unwrap();
    let gw = gateway(&mock).await;
    let mut all = Vec::new();
    for caller in ["a", "b", "a", "b", "a"] {
        let id = job_of(&gw, caller).await;
        ended(&gw, caller, &id).await;
        all.insert(0, id);
    }
    let whole = gw.read("jobs").await;
    assert_eq!(
        (ids(&whole), &whole["next"]),
        (all.iter().map(String::as_str).collect(), &Value::Null)
    );
    let first = gw.read("jobs?limit=2").await;
    assert_eq!(ids(&first), all[..2]);
    let next = first["next"].as_str().expect("a next page");
    let second = gw.read(&format!("jobs?limit=3&after={next}")).await;
    assert_eq!(
        (ids(&second), &second["next"]),
        (all[2..].iter().map(String::as_str).collect(), &Value::Null)
    );
    let of_b = gw.read("jobs?caller=b&status=succeeded").await;
    assert_eq!(ids(&of_b), [&*all[1], &*all[3]]);
    assert_eq!(ids(&gw.read("jobs?caller=").await), [""; 0]);
    assert_eq!(ids(&gw.read("jobs?status=queued").await), [""; 0]);
    assert_eq!(ids(&gw.read("jobs?after=job_0").await), [""; 0]);
    for query in ["limit=0", "limit=1001", "status=done", "cursor=x"] {
        let reply = gw.api("GET", &format!("jobs?{query}"), Value::Null).await;
        problem(&reply, 400, "invalid_query");
    }
    let reply = gw.send("GET", "/api/v1/admin/jobs", &[], b"").await;
    problem(&reply, 401, "invalid_admin_token");
    gw.stop().await;
}

#[tokio::test]
async fn a_job_is_shown_without_its_bodies() {
    let mock = Mock::start().await.unwrap();
    let gw = gateway(&mock).await;
    let id = job_of(&gw, "a").await;
    let body = ended(&gw, "a", &id).await["response"]["body_bytes"].clone();
    let job = gw.read(&format!("jobs/{id}")).await;
    for (field, value) in [
        ("id", json!(id)),
        ("status", json!("succeeded")),
        ("caller", json!("a")),
        ("method", json!("POST")),
        ("path", json!(CHAT_PATH)),
        ("model", json!("gpt-x")),
        ("pool", json!("p")),
        ("priority", json!("high")),
        ("attempts", json!(1)),
        ("position", Value::Null),
        ("error", Value::Null),
        ("response", json!({ "status": 200, "body_bytes": body })),
    ] {
        assert_eq!(job[field], value, "{field}: {job}");
    }
    for time in [
        "created_at",
        "started_at",
        "ended_at",
        "deadline_at",
        "expires_at",
    ] {
        let text = job[time].as_str().expect(time);
        assert!(
            text.starts_with("20") && text.ends_with('Z'),
            "{time}: {job}"
        );
    }
    assert!(!job.to_string().contains("hello"), "{job}");
    assert_eq!(gw.read("jobs").await["items"], json!([job]));

    mock.script(
        &key(1),
        [Step::Refuse {
            status: 400,
            retry_after: None,
        }],
    );
    let failed = job_of(&gw, "b").await;
    ended(&gw, "b", &failed).await;
    let job = gw.read(&format!("jobs/{failed}")).await;
    assert_eq!(
        (
            &job["status"],
            &job["error"]["code"],
            &job["response"]["status"]
        ),
        (&json!("failed"), &json!("upstream_error"), &json!(400))
    );
    let missing = gw.api("GET", "jobs/job_0", Value::Null).await;
    problem(&missing, 404, "not_found");
    gw.stop().await;
}

#[tokio::test]
async fn an_operator_cancels_jobs_of_all_callers() {
    let mock = Mock::start().await.unwrap();
    let gw = gateway(&mock).await;
    let done = job_of(&gw, "a").await;
    ended(&gw, "a", &done).await;
    mock.script(&key(1), [Step::Hang]);
    let running = job_of(&gw, "a").await;
    within(mock.wait_for(&key(1), |seen| seen.active == 1)).await;
    let queued = job_of(&gw, "b").await;
    // The queued one first: it would run when the other one has ended.
    for id in [&queued, &running] {
        for _ in 0..2 {
            let path = format!("jobs/{id}");
            ok(&gw.api("DELETE", &path, Value::Null).await, 204);
        }
    }
    within(mock.wait_for(&key(1), |seen| seen.active == 0)).await;
    assert_eq!(ended(&gw, "a", &running).await["status"], "cancelled");
    assert_eq!(ended(&gw, "b", &queued).await["status"], "cancelled");
    let late = gw.api("DELETE", &format!("jobs/{done}"), Value::Null).await;
    let detail = problem(&late, 409, "job_ended");
    assert!(detail.contains("succeeded"), "{detail}");
    let missing = gw.api("DELETE", "jobs/job_0", Value::Null).await;
    problem(&missing, 404, "not_found");
    assert_eq!(mock.seen(&key(1)).requests, 2);

    let audit = gw.read("audit").await;
    let entries: Vec<(&Value, &Value, &Value)> = audit["items"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|entry| {
            (
                &entry["action"],
                &entry["target"],
                &entry["details"]["caller"],
            )
        })
        .collect();
    let expected = [(&running, "a"), (&queued, "b")].map(|(id, caller)| {
        (
            json!("job.cancel"),
            json!(format!("jobs/{id}")),
            json!(caller),
        )
    });
    let expected: Vec<_> = expected.iter().map(|(a, b, c)| (a, b, c)).collect();
    assert_eq!(entries, expected);
    assert!(!audit.to_string().contains(MARK));
    gw.stop().await;
}

#[tokio::test]
async fn jobs_without_a_virtual_key_have_no_caller() {
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start(&pool(&mock, 1)).await;
    let id = gw.job(CHAT, &[]).await;
    gw.ended(&id, &[]).await;
    let list = gw.read("jobs?caller=").await;
    assert_eq!(ids(&list), [&*id]);
    assert_eq!(list["items"][0]["caller"], Value::Null);
    gw.stop().await;
}
