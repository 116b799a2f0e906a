//! Which calls make, read and end objects, and what their answers tell.

use super::*;

fn said(protocol: Protocol, method: &str, path: &str, store: Option<bool>) -> Option<Tells> {
    tells(protocol, &method.parse().unwrap(), path, store)
}

/// What the answer to a call tells.
enum Say {
    Made,
    Upload,
    Yields(&'static str),
    Gone(&'static str),
    Nothing,
}
use Say::{Gone, Made, Nothing, Upload, Yields};

const CALLS: &[(Protocol, &str, &str, Say)] = &[
    (OpenAi, "POST", "/v1/files", Made),
    (OpenAi, "POST", "/files", Made),
    (OpenAi, "POST", "/v1/batches", Made),
    (OpenAi, "POST", "/v1/videos", Made),
    (OpenAi, "POST", "/v1/videos/video_1/remix", Made),
    (OpenAi, "POST", "/v1/videos/edits", Made),
    (OpenAi, "POST", "/v1/uploads/upload_1/complete", Made),
    (OpenAi, "POST", "/v1/conversations", Made),
    (OpenAi, "POST", "/v1/conversations/conv_1/restart", Made),
    (OpenAi, "POST", "/v1/conversations/conv_1", Nothing),
    (OpenAi, "POST", "/api/v3/contents/generations/tasks", Made),
    (OpenAi, "POST", "/context/create", Made),
    (OpenAi, "POST", "/api/v3/context/chat/completions", Nothing),
    (OpenAi, "POST", "/v1/video/submit", Made),
    (OpenAi, "POST", "/v1/video/status", Nothing),
    (OpenAi, "POST", "/v1/batch/jobs", Made),
    (OpenAi, "POST", "/v1/vector_stores/vs_1/files", Nothing),
    (OpenAi, "POST", "/v1/batches/batch_1/cancel", Nothing),
    (OpenAi, "POST", "/v1/chat/completions", Nothing),
    (OpenAi, "POST", "/v1/embeddings", Nothing),
    (OpenAi, "GET", "/v1/batches/batch_1", Yields("batch_1")),
    (
        OpenAi,
        "GET",
        "/v1/fine_tuning/jobs/ftjob-1",
        Yields("ftjob-1"),
    ),
    (OpenAi, "GET", "/v1/files/file-1", Nothing),
    (OpenAi, "GET", "/v1/files", Nothing),
    (OpenAi, "DELETE", "/v1/files/file-1", Gone("file-1")),
    (OpenAi, "DELETE", "/v1/responses/resp_1", Gone("resp_1")),
    (
        OpenAi,
        "DELETE",
        "/v1/vector_stores/vs_1/files/file-1",
        Nothing,
    ),
    (Anthropic, "POST", "/v1/messages/batches", Made),
    (Anthropic, "POST", "/v1/skills", Made),
    (Anthropic, "POST", "/v1/messages", Nothing),
    (Gemini, "POST", "/v1beta/cachedContents", Made),
    (Gemini, "POST", "/upload/v1beta/files", Made),
    (
        Gemini,
        "POST",
        "/v1beta/models/veo:predictLongRunning",
        Made,
    ),
    (Gemini, "POST", "/v1beta/models/g:generateContent", Nothing),
    (
        Gemini,
        "GET",
        "/v1beta/models/veo/operations/o",
        Yields("operations/o"),
    ),
    (Gemini, "PUT", "/upload/v1beta/files", Made),
    (Gemini, "GET", "/upload/v1beta/files", Nothing),
    (
        Gemini,
        "POST",
        "/upload/v1beta/fileSearchStores/s:uploadToFileSearchStore",
        Upload,
    ),
    (Gemini, "PUT", "/v1beta/files", Nothing),
    (Gemini, "DELETE", "/v1beta/files/abc", Gone("files/abc")),
    (Tavily, "POST", "/research", Made),
    (Tavily, "GET", "/research/r-1", Nothing),
    (Tavily, "POST", "/search", Nothing),
];

#[test]
fn calls_that_make_read_or_end_objects_are_known() {
    for (protocol, method, path, expect) in CALLS {
        let expect = match expect {
            Made => Some(Tells::Made),
            Upload => Some(Tells::Upload),
            Yields(id) => Some(Tells::Yields((*id).to_owned())),
            Gone(id) => Some(Tells::Gone((*id).to_owned())),
            Nothing => None,
        };
        assert_eq!(
            said(*protocol, method, path, None),
            expect,
            "{method} {path}"
        );
    }
    for (path, store, expect) in [
        ("/v1/responses", None, true),
        ("/v1/responses", Some(true), true),
        ("/v1/responses", Some(false), false),
        ("/v1/chat/completions", Some(true), true),
        ("/v1/chat/completions", Some(false), false),
    ] {
        assert_eq!(
            said(OpenAi, "POST", path, store).is_some(),
            expect,
            "{path} {store:?}"
        );
    }
}

const BATCH: &str = r#"{"id":"batch_1","input_file_id":"file-1","output_file_id":"file-2","error_file_id":"file-3",
    "metadata":{"output_file_id":"file-4"},"errors":["file-5"]}"#;
const VIDEO: &str = r#"{"name":"models/veo/operations/o","response":{"generateVideoResponse":{"generatedSamples":[
    {"video":{"uri":"https://g.example/v1beta/files/f:download?alt=media"}},{"video":{"uri":"files/g"}}]}}}"#;
/// A batch whose request, repeated in the answer, names files of whoever; and whose results quote some.
const INLINE_BATCH: &str = r#"{"name":"batches/b","metadata":{"name":"batches/other","displayName":"files/x1","inputConfig":
    {"fileName":"files/x2","requests":{"requests":[{"request":{"contents":[{"parts":[{"fileData":{"fileUri":"files/x3"}},
    {"text":"files/x4"}]}],"response":{"responsesFile":"files/x5"}}}]}},"output":{"responsesFile":"files/made"}},
    "response":{"inlinedResponses":{"inlinedResponses":[{"response":{"responsesFile":"files/x6"}}]}}}"#;
/// What tells, with `YIELDS` for any object that was read.
const YIELDS: Tells = Tells::Yields(String::new());
const ANSWERS: &[(Protocol, &str, Tells, &str, &[&str])] = &[
    (
        OpenAi,
        "/v1/files",
        Tells::Made,
        r#"{"object":"file","id":"file-1"}"#,
        &["file-1"],
    ),
    (
        OpenAi,
        "/v1/responses",
        Tells::Made,
        r#"{"error":null,"id":"resp_1","output":[{"id":"msg_1"}]}"#,
        &["resp_1"],
    ),
    (
        OpenAi,
        "/v1/responses",
        Tells::Made,
        "event: response.created\ndata: {\"type\":\"response.created\",\"response\":{\"id\":\"resp_1\",\"instructions\":\"cut o",
        &["resp_1"],
    ),
    (
        OpenAi,
        "/v1/uploads/u/complete",
        Tells::Made,
        r#"{"id":"upload_1","file":{"id":"file-9"}}"#,
        &["file-9"],
    ),
    (
        OpenAi,
        "/v1/conversations",
        Tells::Made,
        r#"{"object":"conversation","id":"conv_1","metadata":{"conversation_id":"conv_2"}}"#,
        &["conv_1"],
    ),
    (
        OpenAi,
        "/v1/conversations",
        Tells::Made,
        r#"{"object":"conversation.response","outputs":[{"id":"msg_1","conversation_id":"conv_2"}],"conversation_id":"conv_1"}"#,
        &["conv_1"],
    ),
    (
        OpenAi,
        "/v1/conversations/conv_1/restart",
        Tells::Made,
        "event: conversation.response.started\ndata: {\"type\":\"conversation.response.started\",\"conversation_id\":\"conv_3\"}\n\n",
        &["conv_3"],
    ),
    (
        OpenAi,
        "/v1/batches/batch_1",
        YIELDS,
        BATCH,
        &["file-2", "file-3"],
    ),
    (
        OpenAi,
        "/v1/video/submit",
        Tells::Made,
        r#"{"requestId":"r1"}"#,
        &["r1"],
    ),
    (
        OpenAi,
        "/v1/batch/jobs/b-1",
        YIELDS,
        r#"{"id":"b-1","input_files":["f-1"],"output_file":"file-2"}"#,
        &["file-2"],
    ),
    (
        Anthropic,
        "/v1/files",
        Tells::Made,
        r#"{"id":"file_1","type":"file"}"#,
        &["file_1"],
    ),
    (
        Gemini,
        "/v1beta/cachedContents",
        Tells::Made,
        r#"{"name":"cachedContents/c"}"#,
        &["cachedContents/c"],
    ),
    (
        Gemini,
        "/upload/v1beta/files",
        Tells::Made,
        r#"{"file":{"name":"files/f"}}"#,
        &["files/f"],
    ),
    (
        Gemini,
        "/v1beta/models/veo:predictLongRunning",
        Tells::Made,
        r#"{"name":"models/veo/operations/o"}"#,
        &["operations/o"],
    ),
    (
        Gemini,
        "/v1beta/interactions",
        Tells::Made,
        r#"{"id":"v1_x"}"#,
        &["interactions/v1_x"],
    ),
    (
        Gemini,
        "/v1beta/operations/o",
        YIELDS,
        VIDEO,
        &["files/f", "files/g"],
    ),
    (
        Gemini,
        "/v1beta/batches/b",
        YIELDS,
        INLINE_BATCH,
        &["files/made"],
    ),
    (
        Gemini,
        "/v1beta/models/g:batchGenerateContent",
        Tells::Made,
        INLINE_BATCH,
        &["batches/b"],
    ),
    (
        OpenAi,
        "/v1/fine_tuning/jobs/ftjob-1",
        YIELDS,
        r#"{"id":"ftjob-1","training_file":"file-1","result_files":["file-2","file-3"]}"#,
        &["file-2", "file-3"],
    ),
    (
        OpenAi,
        "/v1/conversations",
        Tells::Made,
        r#"{"response":{"id":"resp_1"},"file":{"id":"file-1"},"requestId":"r1","id":"conv_1"}"#,
        &["conv_1"],
    ),
    (
        Gemini,
        "/upload/v1beta/files",
        Tells::Upload,
        r#"{"name":"files/x","file":{"name":"files/x"}}"#,
        &[],
    ),
    (
        Tavily,
        "/research",
        Tells::Made,
        r#"{"request_id":"r-1"}"#,
        &["r-1"],
    ),
    (OpenAi, "/v1/files", Tells::Made, r#"{"id":7}"#, &[]),
    (OpenAi, "/v1/files", Tells::Made, "<html>", &[]),
    (
        OpenAi,
        "/v1/files",
        Tells::Made,
        r#"{"id":"two words"}"#,
        &[],
    ),
    (OpenAi, "/v1/files", Tells::Made, r#"{"object":"fi"#, &[]),
];

#[test]
fn answers_give_the_ids_of_what_was_made() {
    for (protocol, path, tells, answer, ids) in ANSWERS {
        assert_eq!(
            told(*protocol, tells, path, answer.as_bytes()),
            *ids,
            "{answer}"
        );
    }
}

#[test]
fn an_upload_in_steps_is_known_by_its_next_address() {
    let mut headers = HeaderMap::new();
    assert_eq!(upload_session(&headers), None);
    let next = "https://g.example/upload/v1beta/files?upload_id=AB%2DC&upload_protocol=resumable";
    headers.append("x-goog-upload-url", HeaderValue::from_static("elsewhere"));
    headers.append("x-goog-upload-url", HeaderValue::from_static(next));
    assert_eq!(upload_session(&headers).as_deref(), Some("upload_id=AB-C"));
}

#[test]
fn what_runs_on_or_adds_to_a_conversation_makes_something() {
    for (body, expect) in [
        (r#"{"store":false}"#, false),
        (r#"{"store":false,"background":true}"#, true),
        (r#"{"store":false,"background":false}"#, false),
        (r#"{"store":false,"conversation":"conv_1"}"#, true),
        (r#"{"store":false,"conversation":null}"#, false),
        ("{", false),
    ] {
        assert_eq!(makes_though_not_stored(body.as_bytes()), expect, "{body}");
    }
}
