//! Ids in requests: where they count, where they do not, and the errors for ids that do not go together.

use std::collections::{BTreeMap, BTreeSet};

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
async fn an_id_outside_a_field_for_ids_neither_routes_nor_refuses() {
    let mock = Mock::start().await.unwrap();
    let gw = Gateway::start(&pool(&mock, 3)).await;
    let (one, other) = two_files(&gw).await;
    let (a, b) = (id_of(&one), id_of(&other));
    let mut keys = BTreeSet::new();
    for (body, expect) in [
        (json!({"a": a, "b": b}), None),
        (json!({"a": a}), None),
        (json!({"metadata": {"file_id": a}}), None),
        (
            json!({"messages": [{"role": "user", "content": a}], "x": b}),
            None,
        ),
        (json!({"a": b, "file_id": a}), Some(&one)),
        (json!({"a": b, "b": a, "file_id": a}), Some(&one)),
        (json!({"file_id": b, "z": [a]}), Some(&other)),
        (
            json!({"messages": [{"content": [{"type": "text", "text": a}]}], "file_id": b}),
            Some(&other),
        ),
    ] {
        let mut body = body;
        body["model"] = json!("m");
        body["messages"]
            .as_array()
            .is_none()
            .then(|| body["messages"] = json!([]));
        for _ in 0..3 {
            let reply = gw.post(CHAT_PATH, &body.to_string()).await;
            assert_eq!(reply.status, 200, "{body}: {reply:?}");
            match expect {
                Some(expect) => assert_eq!(reply.key(), expect.key(), "{body}"),
                None => drop(keys.insert(reply.key().to_owned())),
            }
        }
    }
    assert_eq!(keys.len(), 3, "every key serves calls that name no object");
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
async fn an_object_of_another_pool_is_refused_with_that_pool() {
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
    let other_field = json!({"model": "b/m", "messages": [], "x": id}).to_string();
    assert_eq!(
        gw.post(CHAT_PATH, &other_field).await.status,
        200,
        "the field is not one for ids"
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
async fn objects_outlive_a_renaming_of_their_group() {
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
    // The names are swapped, which is the worst that a reload can do.
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
async fn ids_in_the_fields_of_a_form_are_guarded() {
    let callers = Callers::start().await;
    let file = callers.send("owner", "POST", "/p/v1/files", "a form").await;
    let uploaded = callers
        .send("owner", "POST", "/upload/v1beta/files", "x")
        .await;
    let id = id_of(&file);
    let uri = uploaded.json()["file"]["uri"]
        .as_str()
        .expect("an address")
        .to_owned();
    let uri = uri.replace(':', "%3A").replace('/', "%2F");
    let before = callers.requests();
    let guesser = format!("Bearer {}", Callers::secret("guesser"));
    let owner = format!("Bearer {}", Callers::secret("owner"));
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
        let headers = [("content-type", *media_type), ("authorization", &owner)];
        let reply = callers
            .gw
            .send("POST", path, &headers, body.as_bytes())
            .await;
        assert_eq!(
            reply.key(),
            file.key(),
            "its owner's goes where it is: {reply:?}"
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
async fn a_field_disguised_as_a_file_hides_no_id() {
    let callers = Callers::start().await;
    let file = callers.send("owner", "POST", "/p/v1/files", "a form").await;
    let id = id_of(&file);
    let before = callers.requests();
    let guesser = format!("Bearer {}", Callers::secret("guesser"));
    let headers = [("content-type", FORM), ("authorization", &*guesser)];
    for head in [
        r#"; x-filename=1; name="file_id""#,
        r#"; name="file_id"; filename="""#,
        r#"; name="file_id"; filename="a""#,
        r#"; name="filename_id""#,
        "; name=\"file_id\"\r\nContent-Disposition: x; filename=\"a\"",
        r#"; name="x"; name="file_id""#,
        ";\r\n name=\"file_id\"",
    ] {
        let body = form(head, &id);
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
async fn the_content_of_an_uploaded_file_refuses_nobody() {
    let callers = Callers::start().await;
    let mut made = BTreeMap::new();
    while made.len() < 2 {
        let file = callers.send("owner", "POST", "/p/v1/files", "a form").await;
        made.insert(file.key().to_owned(), id_of(&file));
    }
    let lines = made.values().map(|id| {
        let line = json!({"file_id": id, "previous_response_id": "resp_unknown"});
        format!("{line}\n")
    });
    let body = form(
        r#"; name="file"; filename="a.jsonl""#,
        &lines.collect::<String>(),
    );
    for caller in ["owner", "guesser"] {
        let bearer = format!("Bearer {}", Callers::secret(caller));
        let headers = [("content-type", FORM), ("authorization", &*bearer)];
        let reply = callers
            .gw
            .send("POST", "/p/v1/files", &headers, body.as_bytes())
            .await;
        assert_eq!(reply.status, 200, "{caller}: {reply:?}");
    }
    callers.gw.stop().await;
}

#[tokio::test]
async fn a_name_that_one_caller_chose_may_be_in_anothers_text() {
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
        json!({"text": name}),
        json!({"functionCall": {"name": "read", "args": {"path": format!("src/{name}")}}}),
        json!({"functionCall": {"name": "read", "args": {"path": name}}}),
        json!({"functionResponse": {"name": "read", "response": {"all": [name]}}}),
    ] {
        let reply = callers
            .send("owner", "POST", path, &call(part.clone()))
            .await;
        assert_eq!(reply.status, 200, "{part}: {reply:?}");
    }
    for part in [
        json!({"fileData": {"fileUri": name}}),
        json!({"functionResponse": {"name": "read", "parts": [{"fileData": {"fileUri": name}}]}}),
        json!({"functionCall": {"name": "read", "args": {"uri": name}}}),
    ] {
        let reply = callers.send("owner", "POST", path, &call(part)).await;
        refused(&reply, 404, "not_found", "another caller's");
    }
    callers.gw.stop().await;
}

#[tokio::test]
async fn an_answer_that_repeats_a_request_gives_nothing_away() {
    let callers = Callers::start().await;
    // The account has a file that this gateway does not know; the guesser writes its name into a batch.
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
async fn nobody_comes_to_own_an_unknown_object_by_reading_it() {
    let mock = Mock::start().await.unwrap();
    let virtual_key = |name: &str| {
        format!(
            "[[virtual_keys]]\nname = \"{name}\"\nkey = \"{}\"\nnative = true\n",
            Callers::secret(name)
        )
    };
    let config = [pool(&mock, 1), virtual_key("owner"), virtual_key("guesser")];
    let callers = Callers {
        gw: Gateway::start(&config.concat()).await,
        mock,
    };
    // Made before the gateway started, at the only account: anybody may read it, and reading makes nobody the owner.
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
    for name in ["guesser", "owner"] {
        let found = callers.send(name, "GET", "/p/v1/files/file-out1", "").await;
        assert_eq!(
            (found.status, found.attempts()),
            (404, "1"),
            "the provider was asked: {found:?}"
        );
    }
    callers.gw.stop().await;
}

/// A kind of object, and every way in which the provider's API takes its id.
struct Guarded {
    /// Method, path, body, and the answer. `$` is the id here and below.
    made: (&'static str, &'static str, &'static str, &'static str),
    uses: &'static [Use],
}

enum Use {
    /// A method and a path, with the query.
    Path(&'static str, &'static str),
    /// A JSON body for a path.
    Json(&'static str, &'static str),
    /// A form `a=b&c=d` for a path.
    Pairs(&'static str, &'static str),
    /// A part of a multipart form: the path, the name and the value.
    Part(&'static str, &'static str, &'static str),
}
use Use::{Json, Pairs, Part, Path};

const GEMINI: &str = "/v1beta/models/g:generateContent";

const OPENAI_KINDS: &[Guarded] = &[
    Guarded {
        made: (
            "POST",
            RESPONSES,
            r#"{"model":"m","input":"x"}"#,
            r#"{"id":"$"}"#,
        ),
        uses: &[
            Path("GET", "/v1/responses/$"),
            Path("DELETE", "/v1/responses/$"),
            Path("POST", "/v1/responses/$/cancel"),
            Path("GET", "/p/v1/responses/$/input_items"),
            Path("GET", "/p/v1/responses?before=$"),
            Json(RESPONSES, r#"{"model":"m","previous_response_id":"$"}"#),
            Json(
                "/p/v1/responses/input_tokens",
                r#"{"previous_response_id":"$"}"#,
            ),
            Json("/p/v1/x", r#"{"requests":[{"previous_response_id":"$"}]}"#),
            Pairs("/p/v1/x", "previous_response_id=$"),
            Part("/p/v1/x", "previous_response_id", "$"),
        ],
    },
    Guarded {
        made: ("POST", "/p/v1/files", "a form", r#"{"id":"$"}"#),
        uses: &[
            Path("GET", "/p/v1/files/$"),
            Path("GET", "/p/files/$/content"),
            Path("DELETE", "/p/v1/x/files/$"),
            Path("GET", "/p/v1/files?purpose=batch&after=$"),
            Path("GET", "/p/v1/ocr?file_id=$"),
            Json("/p/v1/batches", r#"{"input_file_id":"$"}"#),
            Json("/p/v1/fine_tuning/jobs", r#"{"training_file":"$"}"#),
            Json(
                "/p/v1/fine_tuning/jobs",
                r#"{"training_file":"$","validation_file":"$"}"#,
            ),
            Json(
                "/p/v1/fine_tuning/jobs",
                r#"{"training_files":[{"file_id":"$","weight":1}]}"#,
            ),
            Json(
                "/p/v1/fine_tuning/jobs",
                r#"{"validation_files":["x","$"]}"#,
            ),
            Json("/p/v1/batch/jobs", r#"{"input_files":["x","$"]}"#),
            Json("/p/v1/vector_stores", r#"{"file_ids":["x","$"]}"#),
            Json("/p/v1/x/file_batches", r#"{"files":[{"file_id":"$"}]}"#),
            Json(
                "/p/v1/evals",
                r#"{"data_source":{"source":{"type":"file_id","id":"$"}}}"#,
            ),
            Json("/p/v1/videos", r#"{"input_reference":{"file_id":"$"}}"#),
            Json(
                RESPONSES,
                r#"{"model":"m","input":[{"content":[{"type":"input_file","file_id":"$"}]}]}"#,
            ),
            Json(
                RESPONSES,
                r#"{"model":"m","input":"x","tools":[{"container":{"type":"auto","file_ids":["$"]}}]}"#,
            ),
            Json(
                CHAT_PATH,
                r#"{"model":"m","messages":[{"content":[{"type":"file","file":{"file_id":"$"}}]}]}"#,
            ),
            Json(
                CHAT_PATH,
                r#"{"model":"m","messages":[{"content":[{"type":"video_url","video_url":{"url":"ms://$"}}]}]}"#,
            ),
            Pairs("/p/v1/batches", "input_file_id=$"),
            Pairs("/p/v1/vector_stores", "file_ids[]=x&file_ids[]=$"),
            Part("/p/v1/x/files", "file_id", "$"),
            Part("/p/v1/videos", "input_reference[file_id]", "$"),
            Part("/p/v1/vector_stores", "file_ids", "x,$"),
            Part("/p/v1/videos", "input_reference", r#"{"file_id":"$"}"#),
        ],
    },
    Guarded {
        made: ("POST", "/p/v1/batches", "{}", r#"{"id":"$"}"#),
        uses: &[
            Path("GET", "/p/v1/batches/$"),
            Path("POST", "/p/v1/batches/$/cancel"),
            Path("GET", "/p/v1/batches?after=$"),
            Path("GET", "/p/v1/files?batch_id=$"),
            Json("/p/v1/x", r#"{"batch_id":"$"}"#),
            Pairs("/p/v1/x", "batch_id=$"),
            Part("/p/v1/x", "batch_id", "$"),
        ],
    },
    Guarded {
        made: ("POST", "/p/v1/conversations", "{}", r#"{"id":"$"}"#),
        uses: &[
            Path("GET", "/p/v1/conversations/$/items"),
            Path("POST", "/p/v1/conversations/$"),
            Path("GET", "/p/v1/conversations/$/items/msg_x"),
            Path("GET", "/p/v1/conversations?after=$"),
            Json(RESPONSES, r#"{"model":"m","input":"x","conversation":"$"}"#),
            Json(
                RESPONSES,
                r#"{"model":"m","input":"x","conversation":{"id":"$"}}"#,
            ),
            Json("/p/v1/x", r#"{"conversation_id":"$"}"#),
            Pairs("/p/v1/x", "conversation[id]=$"),
            Part("/p/v1/x", "conversation", "$"),
        ],
    },
    Guarded {
        made: (
            "POST",
            "/p/v1/conversations",
            "{}",
            r#"{"conversation_id":"$"}"#,
        ),
        uses: &[
            Path("GET", "/p/v1/conversations/$/history"),
            Path("POST", "/p/v1/conversations/$/restart"),
        ],
    },
    Guarded {
        made: ("POST", "/p/v1/uploads", "{}", r#"{"id":"$"}"#),
        uses: &[
            Path("POST", "/p/v1/uploads/$/parts"),
            Path("POST", "/p/v1/uploads/$/complete"),
            Path("POST", "/p/v1/uploads/$/cancel"),
            Path("GET", "/p/v1/x?upload_id=$"),
            Json("/p/v1/x", r#"{"upload_id":"$"}"#),
            Part("/p/v1/x", "upload_id", "$"),
        ],
    },
    Guarded {
        made: ("POST", "/p/v1/vector_stores", "{}", r#"{"id":"$"}"#),
        uses: &[
            Path("GET", "/p/v1/vector_stores/$"),
            Path("POST", "/p/v1/vector_stores/$/search"),
            Path("GET", "/p/v1/vector_stores?after=$"),
            Json(
                RESPONSES,
                r#"{"model":"m","input":"x","tools":[{"type":"file_search","vector_store_ids":["$"]}]}"#,
            ),
            Json(
                "/p/v1/assistants",
                r#"{"tool_resources":{"file_search":{"vector_store_ids":["x","$"]}}}"#,
            ),
            Pairs("/p/v1/x", "vector_store_ids[]=$"),
            Part("/p/v1/x", "vector_store_id", "$"),
        ],
    },
    Guarded {
        made: ("POST", "/p/v1/containers", "{}", r#"{"id":"$"}"#),
        uses: &[
            Path("GET", "/p/v1/containers/$/files"),
            Path("DELETE", "/p/v1/containers/$"),
            Path("GET", "/p/v1/containers?after=$"),
            Json(
                RESPONSES,
                r#"{"model":"m","input":"x","tools":[{"container":"$"}]}"#,
            ),
            Json(
                RESPONSES,
                r#"{"model":"m","input":"x","tools":[{"environment":{"container_id":"$"}}]}"#,
            ),
            Pairs("/p/v1/x", "container=$"),
            Part("/p/v1/x", "container", "$"),
        ],
    },
    Guarded {
        made: ("POST", "/p/v1/videos", "{}", r#"{"id":"$"}"#),
        uses: &[
            Path("GET", "/p/v1/videos/$/content"),
            Path("POST", "/p/v1/videos/$/remix"),
            Path("GET", "/p/v1/videos?after=$"),
            Json("/p/v1/videos/edits", r#"{"video":{"id":"$"}}"#),
            Json("/p/v1/videos/extensions", r#"{"video_id":"$"}"#),
            Pairs("/p/v1/videos/edits", "video[id]=$"),
            Part("/p/v1/videos/edits", "video[id]", "$"),
            Part("/p/v1/videos/edits", "video", r#"{"id":"$"}"#),
        ],
    },
    Guarded {
        made: ("POST", "/p/v1/videos/characters", "{}", r#"{"id":"$"}"#),
        uses: &[
            Path("GET", "/p/v1/videos/characters/$"),
            Json("/p/v1/videos", r#"{"characters":[{"id":"x"},{"id":"$"}]}"#),
            Part("/p/v1/videos", "characters[0][id]", "$"),
        ],
    },
    Guarded {
        made: ("POST", "/p/v1/fine_tuning/jobs", "{}", r#"{"id":"$"}"#),
        uses: &[
            Path("GET", "/p/v1/fine_tuning/jobs/$/events"),
            Path("POST", "/p/v1/fine_tuning/jobs/$/cancel"),
            Path("GET", "/p/v1/fine_tuning/jobs?after=$"),
            Json("/p/v1/x", r#"{"job_id":"$"}"#),
            Pairs("/p/v1/x", "job_id=$"),
        ],
    },
    Guarded {
        made: (
            "POST",
            CHAT_PATH,
            r#"{"model":"m","messages":[],"store":true}"#,
            r#"{"id":"$"}"#,
        ),
        uses: &[
            Path("GET", "/p/v1/chat/completions/$"),
            Path("GET", "/p/v1/chat/completions/$/messages"),
            Path("DELETE", "/p/v1/chat/completions/$"),
            Path("GET", "/p/v1/chat/completions?after=$"),
            Json("/p/v1/x", r#"{"completion_ids":["x","$"]}"#),
        ],
    },
    Guarded {
        made: ("POST", "/p/v1/assistants", "{}", r#"{"id":"$"}"#),
        uses: &[
            Path("GET", "/p/v1/assistants/$"),
            Path("GET", "/p/v1/assistants?after=$"),
            Json("/p/v1/threads/runs", r#"{"assistant_id":"$"}"#),
        ],
    },
    Guarded {
        made: ("POST", "/p/v1/threads", "{}", r#"{"id":"$"}"#),
        uses: &[
            Path("POST", "/p/v1/threads/$/runs"),
            Path("GET", "/p/v1/threads/$/messages"),
            Json("/p/v1/x", r#"{"thread_id":"$"}"#),
        ],
    },
    Guarded {
        made: ("POST", "/p/v1/evals", "{}", r#"{"id":"$"}"#),
        uses: &[
            Path("POST", "/p/v1/evals/$/runs"),
            Path("GET", "/p/v1/evals?after=$"),
            Json("/p/v1/x", r#"{"eval_id":"$"}"#),
        ],
    },
    Guarded {
        made: ("POST", "/p/v1/skills", "a form", r#"{"id":"$"}"#),
        uses: &[
            Path("GET", "/p/v1/skills/$/content"),
            Path("GET", "/p/v1/skills?after=$"),
            Json(
                RESPONSES,
                r#"{"model":"m","input":"x","tools":[{"environment":{"skills":[{"skill_id":"$"}]}}]}"#,
            ),
        ],
    },
];

/// Kinds of Ark, SiliconFlow and Mistral.
const OTHER_KINDS: &[Guarded] = &[
    Guarded {
        made: (
            "POST",
            "/p/api/v3/contents/generations/tasks",
            "{}",
            r#"{"id":"$"}"#,
        ),
        uses: &[
            Path("GET", "/p/api/v3/contents/generations/tasks/$"),
            Path("DELETE", "/p/api/v3/contents/generations/tasks/$"),
            Path(
                "GET",
                "/p/api/v3/contents/generations/tasks?filter.task_ids=$",
            ),
            Path(
                "GET",
                "/p/api/v3/contents/generations/tasks?filter.task_ids=x,$",
            ),
            Json(
                "/p/api/v3/contents/generations/tasks",
                r#"{"draft_task":{"id":"$"}}"#,
            ),
        ],
    },
    Guarded {
        made: ("POST", "/p/api/v3/context/create", "{}", r#"{"id":"$"}"#),
        uses: &[
            Json(
                "/p/api/v3/context/chat/completions",
                r#"{"context_id":"$","messages":[]}"#,
            ),
            Path("GET", "/p/api/v3/context?context_id=$"),
            Pairs("/p/api/v3/x", "context_id=$"),
        ],
    },
    Guarded {
        made: ("POST", "/p/v1/video/submit", "{}", r#"{"requestId":"$"}"#),
        uses: &[
            Json("/p/v1/video/status", r#"{"requestId":"$"}"#),
            Path("GET", "/p/v1/video/status?requestId=$"),
            Pairs("/p/v1/video/status", "requestId=$"),
        ],
    },
    Guarded {
        made: ("POST", "/p/v1/batch/jobs", "{}", r#"{"id":"$"}"#),
        uses: &[
            Path("GET", "/p/v1/batch/jobs/$"),
            Path("POST", "/p/v1/batch/jobs/$/cancel"),
        ],
    },
    Guarded {
        made: (
            "POST",
            "/research",
            r#"{"input":"x"}"#,
            r#"{"request_id":"$"}"#,
        ),
        uses: &[
            Path("GET", "/research/$"),
            Path("GET", "/p/research/$"),
            Path("GET", "/p/x?request_id=$"),
            Json("/p/x", r#"{"request_id":"$"}"#),
        ],
    },
];

/// Anthropic's kinds: these calls have the header `anthropic-version`.
const ANTHROPIC_KINDS: &[Guarded] = &[
    Guarded {
        made: ("POST", "/p/v1/messages/batches", "{}", r#"{"id":"$"}"#),
        uses: &[
            Path("GET", "/p/v1/messages/batches/$/results"),
            Path("POST", "/p/v1/messages/batches/$/cancel"),
            Path("DELETE", "/p/v1/messages/batches/$"),
            Path("GET", "/p/v1/messages/batches?after_id=$"),
            Path("GET", "/p/v1/messages/batches?before_id=$"),
        ],
    },
    Guarded {
        made: ("POST", "/p/v1/files", "a form", r#"{"id":"$"}"#),
        uses: &[
            Path("GET", "/p/v1/files/$/content"),
            Path("DELETE", "/p/v1/files/$"),
            Path("GET", "/p/v1/files?after_id=$"),
            Json(
                "/v1/messages",
                r#"{"model":"m","max_tokens":1,"messages":[{"content":[{"source":{"type":"file","file_id":"$"}}]}]}"#,
            ),
            Json(
                "/v1/messages",
                r#"{"model":"m","max_tokens":1,"messages":[{"content":[{"type":"container_upload","file_id":"$"}]}]}"#,
            ),
            Json(
                "/p/v1/messages/batches",
                r#"{"requests":[{"params":{"messages":[{"content":[{"source":{"file_id":"$"}}]}]}}]}"#,
            ),
            Part("/p/v1/x", "file_id", "$"),
        ],
    },
    Guarded {
        made: ("POST", "/p/v1/skills", "a form", r#"{"id":"$"}"#),
        uses: &[
            Path("GET", "/p/v1/skills/$/versions"),
            Path("DELETE", "/p/v1/skills/$"),
            Json(
                "/v1/messages",
                r#"{"model":"m","max_tokens":1,"messages":[],"container":{"skills":[{"type":"custom","skill_id":"$"}]}}"#,
            ),
        ],
    },
];

const GEMINI_KINDS: &[Guarded] = &[
    Guarded {
        made: (
            "POST",
            "/upload/v1beta/files",
            "bytes",
            r#"{"file":{"name":"files/$"}}"#,
        ),
        uses: &[
            Path("GET", "/v1beta/files/$"),
            Path("GET", "/p/v1beta/files/$:download?alt=media"),
            Path("DELETE", "/v1/files/$?key=VIRTUAL"),
            Path("GET", "/p/v1beta/x?uri=files%2F$"),
            Json(
                GEMINI,
                r#"{"contents":[{"parts":[{"fileData":{"fileUri":"https://g.example/v1beta/files/$"}}]}]}"#,
            ),
            Json(
                GEMINI,
                r#"{"contents":[{"parts":[{"file_data":{"file_uri":"files/$"}}]}]}"#,
            ),
            Json(
                "/v1beta/models/g:batchGenerateContent",
                r#"{"batch":{"inputConfig":{"fileName":"files/$"}}}"#,
            ),
            Json(
                "/v1beta/models/g:batchGenerateContent",
                r#"{"batch":{"input_config":{"file_name":"files/$"}}}"#,
            ),
            Json("/p/v1beta/x:importFile", r#"{"fileName":"files/$"}"#),
            Json(
                "/p/v1beta/cachedContents",
                r#"{"contents":[{"parts":[{"fileData":{"fileUri":"files/$"}}]}]}"#,
            ),
            Json(
                "/p/v1beta/interactions",
                r#"{"input":[{"type":"document","uri":"files/$"}]}"#,
            ),
            Json(
                "/v1beta/models/v:predictLongRunning",
                r#"{"instances":[{"video":{"uri":"files/$"}}]}"#,
            ),
            Json("/p/v1beta/x", r#"{fileData:{fileUri:"files/$"}}"#),
            Pairs(
                "/p/v1beta/x",
                "uri=https%3A%2F%2Fg.example%2Fv1beta%2Ffiles%2F$",
            ),
            Part("/p/v1beta/x", "file_uri", "files/$"),
        ],
    },
    Guarded {
        made: (
            "POST",
            "/p/v1beta/cachedContents",
            "{}",
            r#"{"name":"cachedContents/$"}"#,
        ),
        uses: &[
            Path("GET", "/p/v1beta/cachedContents/$"),
            Path("PATCH", "/p/v1beta/cachedContents/$?updateMask=ttl"),
            Json(
                GEMINI,
                r#"{"contents":[],"cachedContent":"cachedContents/$"}"#,
            ),
            Json(
                GEMINI,
                r#"{"contents":[],"cached_content":"cachedContents/$"}"#,
            ),
            Json(
                "/v1beta/models/g:batchGenerateContent",
                r#"{"batch":{"inputConfig":{"requests":{"requests":[{"request":{"cachedContent":"cachedContents/$"}}]}}}}"#,
            ),
            Pairs("/p/v1beta/x", "cachedContent=cachedContents/$"),
        ],
    },
    Guarded {
        made: (
            "POST",
            "/v1beta/models/g:batchGenerateContent",
            "{}",
            r#"{"name":"batches/$"}"#,
        ),
        uses: &[
            Path("GET", "/p/v1beta/batches/$"),
            Path("POST", "/p/v1beta/batches/$:cancel"),
        ],
    },
    Guarded {
        made: (
            "POST",
            "/v1beta/models/v:predictLongRunning",
            "{}",
            r#"{"name":"models/v/operations/$"}"#,
        ),
        uses: &[
            Path("GET", "/p/v1beta/models/v/operations/$"),
            Path("GET", "/p/v1beta/operations/$"),
        ],
    },
    Guarded {
        made: ("POST", "/p/v1beta/interactions", "{}", r#"{"id":"$"}"#),
        uses: &[
            Path("GET", "/p/v1beta/interactions/$"),
            Path("POST", "/p/v1beta/interactions/$/cancel"),
            Json("/p/v1beta/interactions", r#"{"previousInteractionId":"$"}"#),
            Json(
                "/p/v1beta/interactions",
                r#"{"previous_interaction_id":"$"}"#,
            ),
        ],
    },
    Guarded {
        made: (
            "POST",
            "/p/v1beta/tunedModels",
            "{}",
            r#"{"name":"tunedModels/$/operations/x$"}"#,
        ),
        uses: &[
            Path("GET", "/p/v1beta/tunedModels/$"),
            Path("POST", "/p/v1beta/tunedModels/$:generateContent"),
            Path("GET", "/p/v1beta/tunedModels/$/permissions"),
            Json(
                "/p/v1beta/tunedModels",
                r#"{"tunedModelSource":{"tunedModel":"tunedModels/$"}}"#,
            ),
            Json(
                "/p/v1beta/x:countTokens",
                r#"{"generateContentRequest":{"model":"tunedModels/$"}}"#,
            ),
        ],
    },
    Guarded {
        made: (
            "POST",
            "/p/v1beta/fileSearchStores",
            "{}",
            r#"{"name":"fileSearchStores/$"}"#,
        ),
        uses: &[
            Path("GET", "/p/v1beta/fileSearchStores/$/documents"),
            Path(
                "POST",
                "/p/upload/v1beta/fileSearchStores/$:uploadToFileSearchStore",
            ),
            Json(
                GEMINI,
                r#"{"contents":[],"tools":[{"fileSearch":{"fileSearchStoreNames":["fileSearchStores/x","fileSearchStores/$"]}}]}"#,
            ),
            Json(
                GEMINI,
                r#"{"contents":[],"tools":[{"file_search":{"file_search_store_names":["fileSearchStores/$"]}}]}"#,
            ),
        ],
    },
];

impl Use {
    async fn send(&self, callers: &Callers, caller: &str, header: (&str, &str), id: &str) -> Reply {
        let filled = |text: &str| {
            let text = text.replace("VIRTUAL", &Callers::secret(caller));
            text.replace('$', id)
        };
        let (method, path, media_type, body) = match self {
            Path(method, path) => (*method, *path, "application/json", String::new()),
            Json(path, body) => ("POST", *path, "application/json", filled(body)),
            Pairs(path, body) => (
                "POST",
                *path,
                "application/x-www-form-urlencoded",
                filled(body),
            ),
            Part(path, name, value) => {
                let head = format!("; name=\"{name}\"");
                ("POST", *path, FORM, form(&head, &filled(value)))
            }
        };
        let bearer = format!("Bearer {}", Callers::secret(caller));
        let mut headers = vec![("content-type", media_type), header];
        if !path.contains("VIRTUAL") {
            headers.push(("authorization", &bearer));
        }
        let gw = &callers.gw;
        gw.send(method, &filled(path), &headers, body.as_bytes())
            .await
    }

    fn name(&self) -> String {
        match self {
            Path(method, path) => format!("{method} {path}"),
            Json(path, body) | Pairs(path, body) => format!("{path} {body}"),
            Part(path, name, value) => format!("{path} {name}: {value}"),
        }
    }
}

#[tokio::test]
async fn another_callers_id_is_refused_wherever_an_api_takes_it() {
    let callers = Callers::start().await;
    let plain = ("x-none", "x");
    let anthropic = ("anthropic-version", "2023-06-01");
    let kinds = OPENAI_KINDS
        .iter()
        .chain(OTHER_KINDS)
        .map(|kind| (kind, plain));
    let kinds = kinds.chain(ANTHROPIC_KINDS.iter().map(|kind| (kind, anthropic)));
    let kinds = kinds.chain(GEMINI_KINDS.iter().map(|kind| (kind, plain)));
    for (number, (kind, header)) in kinds.enumerate() {
        let (method, path, body, answer) = kind.made;
        let id = format!("id-{number}-8f3a");
        let answer = Step::Status {
            status: 200,
            headers: vec![],
            body: answer.replace('$', &id),
        };
        callers.mock.script("*", [answer]);
        let bearer = format!("Bearer {}", Callers::secret("owner"));
        let headers = [("authorization", &*bearer), header];
        let made = callers
            .gw
            .send(method, path, &headers, body.as_bytes())
            .await;
        assert_eq!(made.status, 200, "{path}: {made:?}");
        let before = callers.requests();
        for place in kind.uses {
            let reply = place.send(&callers, "guesser", header, &id).await;
            refused(&reply, 404, "not_found", &place.name());
        }
        assert_eq!(callers.requests(), before, "{path}: no key was used");
        for place in kind.uses {
            // The mock does not know the object; what counts is that its account was asked.
            let own = place.send(&callers, "owner", header, &id).await;
            assert_eq!(own.key(), made.key(), "{}: {own:?}", place.name());
        }
    }
    callers.gw.stop().await;
}
