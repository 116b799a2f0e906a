//! Ids in requests: where they count, where they do not, and what is said where they do not go together.

use keypool_testkit::{Mock, Step};
use serde_json::{Value, json};

use crate::bad_input::refused;
use crate::harness::{CHAT_PATH, Gateway, key, pool};
use crate::http::Reply;
use crate::objects::{Callers, id_of};

const RESPONSES: &str = "/v1/responses";

/// A file at each of two accounts.
async fn two_files(gw: &Gateway) -> (Reply, Reply) {
    let one = gw.post("/p/v1/files", "a form").await;
    let mut other = gw.post("/p/v1/files", "a form").await;
    while other.key() == one.key() {
        other = gw.post("/p/v1/files", "a form").await;
    }
    (one, other)
}

#[tokio::test]
async fn what_may_be_no_id_hinders_no_call() {
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start(&pool(&mock, 3)).await;
    let (one, other) = two_files(&gw).await;
    let (a, b) = (id_of(&one), id_of(&other));
    // Two strings that only look like ids; the reference among them decides, whatever stands around it.
    for (body, expect) in [
        (json!({"model": "m", "messages": [], "a": a, "b": b}), None),
        (
            json!({"model": "m", "messages": [], "a": b, "file_id": a}),
            Some(&one),
        ),
        (
            json!({"model": "m", "messages": [], "a": b, "b": a, "file_id": a}),
            Some(&one),
        ),
        (
            json!({"model": "m", "messages": [], "file_id": b, "z": [a]}),
            Some(&other),
        ),
        (
            json!({"model": "m", "messages": [{"role": "user", "content": a}], "z": b}),
            Some(&other),
        ),
        (
            json!({"model": "m", "messages": [{"content": [{"type": "text", "text": a}]}], "z": b}),
            Some(&other),
        ),
        (
            json!({"model": "m", "messages": [], "metadata": {"x": a}, "z": b}),
            Some(&other),
        ),
    ] {
        for _ in 0..3 {
            let reply = gw.post(CHAT_PATH, &body.to_string()).await;
            assert_eq!(reply.status, 200, "{body}: {reply:?}");
            if let Some(expect) = expect {
                assert_eq!(reply.key(), expect.key(), "{body}");
            }
        }
    }
    gw.stop().await;
}

#[tokio::test]
async fn objects_of_two_accounts_are_refused_by_name() {
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start(&pool(&mock, 3)).await;
    let (one, other) = two_files(&gw).await;
    let (a, b) = (id_of(&one), id_of(&other));
    let before = mock.recorded().len();
    for (path, body) in [
        (
            RESPONSES,
            json!({"model": "m", "input": [{"file_id": a}, {"file_id": b}]}),
        ),
        (
            "/p/v1/vector_stores",
            json!({"file_ids": [a, "file-unknown", b]}),
        ),
        (
            "/p/v1/batches",
            json!({"input_file_id": a, "x": {"file_id": b}}),
        ),
    ] {
        let reply = gw.post(path, &body.to_string()).await;
        refused(&reply, 404, "not_found", path);
        let message = reply.message();
        assert!(message.contains(&a) && message.contains(&b), "{message}");
        assert!(
            message.contains("different accounts") && message.contains("make one of them again"),
            "{message}"
        );
    }
    assert_eq!(mock.recorded().len(), before, "no key was used");
    gw.stop().await;
}

#[tokio::test]
async fn an_object_of_another_pool_is_refused_with_its_place() {
    let mock = Mock::start().await.unwrap();
    let of = |name: &str, n: usize| pool(&mock, n).replace("pools.p", &format!("pools.{name}"));
    let two = of("b", 3).replace(&format!("\"{}\", ", key(1)), "");
    let gw = Gateway::start(&[of("a", 1), two.clone()].concat()).await;
    let made = gw.post("/a/v1/files", "a form").await;
    let id = id_of(&made);
    let body = json!({"model": "b/m", "input": [{"file_id": id}]}).to_string();
    let elsewhere = gw.post(RESPONSES, &body).await;
    refused(&elsewhere, 404, "not_found", "the model leads elsewhere");
    let message = elsewhere.message();
    assert!(message.contains(&id), "{message}");
    assert!(
        message.contains("not in pool \"b\"") && message.contains("it is in pool \"a\""),
        "{message}"
    );
    let perhaps = json!({"model": "b/m", "messages": [], "x": id}).to_string();
    assert_eq!(
        gw.post(CHAT_PATH, &perhaps).await.status,
        200,
        "it may be no id"
    );

    gw.folder().write("keypool.toml", &two);
    let reloaded = gw.admin("POST", "/api/v1/admin/config/reload").await;
    assert_eq!(reloaded.status, 200, "{reloaded:?}");
    let gone = gw.post(RESPONSES, &body.replace("b/m", "m")).await;
    refused(&gone, 404, "not_found", "its key is gone");
    assert!(
        gone.message().contains("make it again"),
        "{}",
        gone.message()
    );
    gw.stop().await;
}

#[tokio::test]
async fn objects_outlive_another_name_of_their_group() {
    let mock = Mock::start().await.unwrap();
    let config = |one: &str, two: &str| {
        let key = |n: usize, group: &str| {
            format!(
                "[[pools.p.keys]]\nkey = \"{}\"\ngroup = \"{group}\"\n",
                key(n)
            )
        };
        let head = format!(
            "[pools.p]\nprovider = \"mock\"\nbase_url = \"{}\"\n",
            mock.origin()
        );
        [head, key(1, one), key(2, two)].concat()
    };
    let gw = Gateway::start(&config("a", "b")).await;
    let before = two_files(&gw).await;
    // The names are swapped, which is the worst that a reload can do to them.
    gw.folder().write("keypool.toml", &config("b", "a"));
    let reloaded = gw.admin("POST", "/api/v1/admin/config/reload").await;
    assert_eq!(reloaded.status, 200, "{reloaded:?}");
    for made in [&before.0, &before.1] {
        for _ in 0..2 {
            let found = gw.get(&format!("/p/v1/files/{}", id_of(made))).await;
            assert_eq!((found.status, found.key()), (200, made.key()), "{found:?}");
        }
    }
    gw.stop().await;
}

#[tokio::test]
async fn a_form_is_looked_through_as_json_is() {
    let callers = Callers::start().await;
    let file = callers.send("maker", "POST", "/p/v1/files", "a form").await;
    let uploaded = callers
        .send("maker", "POST", "/upload/v1beta/files", "x")
        .await;
    let id = id_of(&file);
    let uri = uploaded.json()["file"]["uri"]
        .as_str()
        .expect("an address")
        .to_owned();
    let uri = uri.replace(':', "%3A").replace('/', "%2F");
    let before = callers.requests();
    let guesser = format!("Bearer {}", Callers::secret("guesser"));
    let maker = format!("Bearer {}", Callers::secret("maker"));
    let part =
        format!("--b\r\nContent-Disposition: form-data; name=\"file_id\"\r\n\r\n{id}\r\n--b--\r\n");
    let urlencoded = "application/x-www-form-urlencoded";
    let forms = [
        (
            urlencoded,
            "/p/v1/containers/c/files",
            format!("x=1&file_id={}", id.replace('-', "%2D")),
        ),
        (urlencoded, "/p/v1/batches", format!("input_file_id={id}")),
        (urlencoded, "/p/v1beta/other", format!("uri={uri}")),
        (
            "multipart/form-data; boundary=b",
            "/p/v1/containers/c/files",
            part,
        ),
    ];
    for (media_type, path, body) in &forms {
        let headers = [("content-type", *media_type), ("authorization", &guesser)];
        let reply = callers
            .gw
            .send("POST", path, &headers, body.as_bytes())
            .await;
        refused(&reply, 404, "not_found", body);
    }
    assert_eq!(callers.requests(), before, "no key was used");
    let (media_type, path, body) = &forms[1];
    for _ in 0..3 {
        let headers = [("content-type", *media_type), ("authorization", &maker)];
        let reply = callers
            .gw
            .send("POST", path, &headers, body.as_bytes())
            .await;
        assert_eq!(
            reply.key(),
            file.key(),
            "its maker's goes where it is: {reply:?}"
        );
    }
    callers.gw.stop().await;
}

const FORM: &str = "multipart/form-data; boundary=b";

/// A form of one part.
fn form(head: &str, content: &str) -> String {
    format!("--b\r\nContent-Disposition: form-data{head}\r\n\r\n{content}\r\n--b--\r\n")
}

#[tokio::test]
async fn a_field_dressed_up_as_a_file_hides_no_id() {
    let callers = Callers::start().await;
    let file = callers.send("maker", "POST", "/p/v1/files", "a form").await;
    let id = id_of(&file);
    let before = callers.requests();
    let guesser = format!("Bearer {}", Callers::secret("guesser"));
    let headers = [("content-type", FORM), ("authorization", &*guesser)];
    let line = format!(r#"{{"custom_id":"a","body":{{"input":[{{"file_id":"{id}"}}]}}}}"#);
    for (head, content) in [
        (r#"; x-filename=1; name="file_id""#, &id),
        (r#"; name="file_id"; filename="""#, &id),
        (r#"; name="file_id"; filename="a""#, &id),
        (r#"; name="filename_id""#, &id),
        (
            "; name=\"file_id\"\r\nContent-Disposition: x; filename=\"a\"",
            &id,
        ),
        (r#"; name="file"; filename="batch.jsonl""#, &line),
    ] {
        let body = form(head, content);
        let path = "/p/v1/containers/c/files";
        let reply = callers
            .gw
            .send("POST", path, &headers, body.as_bytes())
            .await;
        refused(&reply, 404, "not_found", head);
    }
    assert_eq!(callers.requests(), before, "no key was used");
    callers.gw.stop().await;
}

#[tokio::test]
async fn a_file_may_speak_of_its_makers_objects_at_two_accounts() {
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start(&pool(&mock, 3)).await;
    let (one, other) = two_files(&gw).await;
    let lines = format!(
        "{{\"file_id\":\"{}\",\"previous_response_id\":\"resp_unknown\"}}\n{{\"file_id\":\"{}\"}}",
        id_of(&one),
        id_of(&other)
    );
    let body = form(r#"; name="file"; filename="a.jsonl""#, &lines);
    let headers = [("content-type", FORM)];
    let reply = gw
        .send("POST", "/p/v1/files", &headers, body.as_bytes())
        .await;
    assert_eq!(reply.status, 200, "{reply:?}");
    gw.stop().await;
}

#[tokio::test]
async fn a_name_that_one_caller_chose_hinders_no_other_callers_paths() {
    let callers = Callers::start().await;
    let uploaded = callers
        .send("guesser", "POST", "/upload/v1beta/files", "x")
        .await;
    let name = uploaded.json()["file"]["name"]
        .as_str()
        .expect("a name")
        .to_owned();
    let call = |part: Value| json!({"contents": [{"parts": [part]}]}).to_string();
    let path = "/v1beta/models/g:generateContent";
    for part in [
        json!({"functionCall": {"name": "read", "args": {"path": format!("src/{name}")}}}),
        json!({"functionCall": {"name": "read", "args": {"path": name}}}),
        json!({"functionResponse": {"name": "read", "response": {"uri": name}}}),
    ] {
        let reply = callers
            .send("maker", "POST", path, &call(part.clone()))
            .await;
        assert_eq!(reply.status, 200, "{part}: {reply:?}");
    }
    for part in [
        json!({"fileData": {"fileUri": name}}),
        json!({"functionResponse": {"name": "read", "parts": [{"fileData": {"fileUri": name}}]}}),
    ] {
        let reply = callers.send("maker", "POST", path, &call(part)).await;
        refused(&reply, 404, "not_found", "another caller's");
    }
    callers.gw.stop().await;
}

#[tokio::test]
async fn an_answer_that_repeats_what_was_sent_gives_nothing_away() {
    let callers = Callers::start().await;
    // The account has a file of which this gateway knows nothing; the guesser writes its name into a batch.
    let claimed = "files/not-mine";
    let batch: Value = json!({
        "name": "batches/mine",
        "metadata": {"inputConfig": {"requests": {"requests": [{"request": {"contents": [{"parts": [
            {"fileData": {"fileUri": claimed}}, {"text": claimed}]}]}}]}}, "output": {"responsesFile": "files/results"}},
        "response": {"inlinedResponses": {"inlinedResponses": [{"response": {"text": claimed}}]}},
    });
    let step = || Step::Status {
        status: 200,
        headers: vec![],
        body: batch.to_string(),
    };
    callers.mock.script("*", [step(), step()]);
    let made = callers
        .send(
            "guesser",
            "POST",
            "/v1beta/models/g:batchGenerateContent",
            "{}",
        )
        .await;
    assert_eq!(made.status, 200, "{made:?}");
    let seen = callers
        .send("guesser", "GET", "/p/v1beta/batches/mine", "")
        .await;
    assert_eq!((seen.status, seen.key()), (200, made.key()), "{seen:?}");
    let own = callers
        .send("guesser", "GET", "/v1beta/files/results", "")
        .await;
    // The mock does not know it; what counts is that it was asked.
    assert_eq!((own.status, own.key()), (404, made.key()), "{own:?}");
    let other = callers
        .send("guesser", "GET", &format!("/v1beta/{claimed}"), "")
        .await;
    refused(&other, 404, "not_found", "it was never made here");
    callers.gw.stop().await;
}

#[tokio::test]
async fn an_unknown_object_becomes_nobodys_by_being_looked_at() {
    let mock = Mock::start().await.unwrap();
    let virtual_key = |name: &str| {
        format!(
            "[[virtual_keys]]\nname = \"{name}\"\nkey = \"{}\"\nnative = true\n",
            Callers::secret(name)
        )
    };
    let config = [pool(&mock, 1), virtual_key("maker"), virtual_key("guesser")];
    let callers = Callers {
        gw: Gateway::start(&config.concat()).await,
        mock,
    };
    // Made before the gateway started, at the only account: anybody may look, and nobody owns it for that.
    let batch = Step::Status {
        status: 200,
        headers: vec![],
        body: r#"{"id":"batch_1","output_file_id":"file-out1"}"#.to_owned(),
    };
    callers.mock.script("*", [batch]);
    let seen = callers
        .send("guesser", "GET", "/p/v1/batches/batch_1", "")
        .await;
    assert_eq!(seen.status, 200, "{seen:?}");
    for name in ["guesser", "maker"] {
        let found = callers.send(name, "GET", "/p/v1/files/file-out1", "").await;
        assert_eq!(
            (found.status, found.attempts()),
            (404, "1"),
            "the provider was asked: {found:?}"
        );
    }
    callers.gw.stop().await;
}
