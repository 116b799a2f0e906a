//! Which calls create, list and delete objects, and which ids their answers give.

use super::*;

fn effect(
    protocol: Protocol,
    method: &str,
    path: &str,
    store: Option<bool>,
) -> Option<ObjectEffect> {
    object_effect(protocol, &method.parse().unwrap(), path, store)
}

/// An [`ObjectEffect`] in a table.
enum Expected {
    Creates,
    BeginsUpload,
    Lists(&'static str),
    Deletes(&'static str),
    Nothing,
}
use Expected::{BeginsUpload, Creates, Deletes, Lists, Nothing};

const CALLS: &[(Protocol, &str, &str, Expected)] = &[
    (OpenAi, "POST", "/v1/files", Creates),
    (OpenAi, "POST", "/files", Creates),
    (OpenAi, "POST", "/v1/batches", Creates),
    (OpenAi, "POST", "/v1/videos", Creates),
    (OpenAi, "POST", "/v1/videos/video_1/remix", Creates),
    (OpenAi, "POST", "/v1/videos/edits", Creates),
    (OpenAi, "POST", "/v1/uploads/upload_1/complete", Creates),
    (OpenAi, "POST", "/v1/conversations", Creates),
    (OpenAi, "POST", "/v1/conversations/conv_1/restart", Creates),
    (OpenAi, "POST", "/v1/conversations/conv_1", Nothing),
    (
        OpenAi,
        "POST",
        "/api/v3/contents/generations/tasks",
        Creates,
    ),
    (OpenAi, "POST", "/context/create", Creates),
    (OpenAi, "POST", "/api/v3/context/chat/completions", Nothing),
    (OpenAi, "POST", "/v1/video/submit", Creates),
    (OpenAi, "POST", "/v1/video/status", Nothing),
    (OpenAi, "POST", "/v1/batch/jobs", Creates),
    (OpenAi, "POST", "/v1/vector_stores/vs_1/files", Nothing),
    (OpenAi, "POST", "/v1/batches/batch_1/cancel", Nothing),
    (OpenAi, "POST", "/v1/chat/completions", Nothing),
    (OpenAi, "POST", "/v1/embeddings", Nothing),
    (OpenAi, "GET", "/v1/batches/batch_1", Lists("batch_1")),
    (
        OpenAi,
        "GET",
        "/v1/fine_tuning/jobs/ftjob-1",
        Lists("ftjob-1"),
    ),
    (OpenAi, "GET", "/v1/files/file-1", Nothing),
    (OpenAi, "GET", "/v1/files", Nothing),
    (OpenAi, "DELETE", "/v1/files/file-1", Deletes("file-1")),
    (OpenAi, "DELETE", "/v1/responses/resp_1", Deletes("resp_1")),
    (
        OpenAi,
        "DELETE",
        "/v1/vector_stores/vs_1/files/file-1",
        Nothing,
    ),
    (Anthropic, "POST", "/v1/messages/batches", Creates),
    (Anthropic, "POST", "/v1/skills", Creates),
    (Anthropic, "POST", "/v1/messages", Nothing),
    (Gemini, "POST", "/v1beta/cachedContents", Creates),
    (Gemini, "POST", "/upload/v1beta/files", Creates),
    (
        Gemini,
        "POST",
        "/v1beta/models/veo:predictLongRunning",
        Creates,
    ),
    (Gemini, "POST", "/v1beta/models/g:generateContent", Nothing),
    (
        Gemini,
        "GET",
        "/v1beta/models/veo/operations/o",
        Lists("operations/o"),
    ),
    (Gemini, "PUT", "/upload/v1beta/files", Creates),
    (Gemini, "GET", "/upload/v1beta/files", Nothing),
    (
        Gemini,
        "POST",
        "/upload/v1beta/fileSearchStores/s:uploadToFileSearchStore",
        BeginsUpload,
    ),
    (Gemini, "PUT", "/v1beta/files", Nothing),
    (Gemini, "DELETE", "/v1beta/files/abc", Deletes("files/abc")),
    (Tavily, "POST", "/research", Creates),
    (Tavily, "GET", "/research/r-1", Nothing),
    (Tavily, "POST", "/search", Nothing),
];

#[test]
fn the_effect_of_each_call_on_objects_is_known() {
    for (protocol, method, path, expect) in CALLS {
        let expect = match expect {
            Creates => Some(ObjectEffect::Creates),
            BeginsUpload => Some(ObjectEffect::BeginsUpload),
            Lists(id) => Some(ObjectEffect::Lists((*id).to_owned())),
            Deletes(id) => Some(ObjectEffect::Deletes((*id).to_owned())),
            Nothing => None,
        };
        assert_eq!(
            effect(*protocol, method, path, None),
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
            effect(OpenAi, "POST", path, store).is_some(),
            expect,
            "{path} {store:?}"
        );
    }
}

const BATCH: &str = r#"{"id":"batch_1","input_file_id":"file-1","output_file_id":"file-2","error_file_id":"file-3",
    "metadata":{"output_file_id":"file-4"},"errors":["file-5"]}"#;
const VIDEO: &str = r#"{"name":"models/veo/operations/o","response":{"generateVideoResponse":{"generatedSamples":[
    {"video":{"uri":"https://g.example/v1beta/files/f:download?alt=media"}},{"video":{"uri":"files/g"}}]}}}"#;
/// A batch whose request, repeated in the answer, names anybody's files; and whose results quote some.
const INLINE_BATCH: &str = r#"{"name":"batches/b","metadata":{"name":"batches/other","displayName":"files/x1","inputConfig":
    {"fileName":"files/x2","requests":{"requests":[{"request":{"contents":[{"parts":[{"fileData":{"fileUri":"files/x3"}},
    {"text":"files/x4"}]}],"response":{"responsesFile":"files/x5"}}}]}},"output":{"responsesFile":"files/made"}},
    "response":{"inlinedResponses":{"inlinedResponses":[{"response":{"responsesFile":"files/x6"}}]}}}"#;
/// The effect of reading any object.
const LISTS: ObjectEffect = ObjectEffect::Lists(String::new());
const ANSWERS: &[(Protocol, &str, ObjectEffect, &str, &[&str])] = &[
    (
        OpenAi,
        "/v1/files",
        ObjectEffect::Creates,
        r#"{"object":"file","id":"file-1"}"#,
        &["file-1"],
    ),
    (
        OpenAi,
        "/v1/responses",
        ObjectEffect::Creates,
        r#"{"error":null,"id":"resp_1","output":[{"id":"msg_1"}]}"#,
        &["resp_1"],
    ),
    (
        OpenAi,
        "/v1/responses",
        ObjectEffect::Creates,
        "event: response.created\ndata: {\"type\":\"response.created\",\"response\":{\"id\":\"resp_1\",\"instructions\":\"cut o",
        &["resp_1"],
    ),
    (
        OpenAi,
        "/v1/uploads/u/complete",
        ObjectEffect::Creates,
        r#"{"id":"upload_1","file":{"id":"file-9"}}"#,
        &["file-9"],
    ),
    (
        OpenAi,
        "/v1/conversations",
        ObjectEffect::Creates,
        r#"{"object":"conversation","id":"conv_1","metadata":{"conversation_id":"conv_2"}}"#,
        &["conv_1"],
    ),
    (
        OpenAi,
        "/v1/conversations",
        ObjectEffect::Creates,
        r#"{"object":"conversation.response","outputs":[{"id":"msg_1","conversation_id":"conv_2"}],"conversation_id":"conv_1"}"#,
        &["conv_1"],
    ),
    (
        OpenAi,
        "/v1/conversations/conv_1/restart",
        ObjectEffect::Creates,
        "event: conversation.response.started\ndata: {\"type\":\"conversation.response.started\",\"conversation_id\":\"conv_3\"}\n\n",
        &["conv_3"],
    ),
    (
        OpenAi,
        "/v1/batches/batch_1",
        LISTS,
        BATCH,
        &["file-2", "file-3"],
    ),
    (
        OpenAi,
        "/v1/video/submit",
        ObjectEffect::Creates,
        r#"{"requestId":"r1"}"#,
        &["r1"],
    ),
    (
        OpenAi,
        "/v1/batch/jobs/b-1",
        LISTS,
        r#"{"id":"b-1","input_files":["f-1"],"output_file":"file-2"}"#,
        &["file-2"],
    ),
    (
        Anthropic,
        "/v1/files",
        ObjectEffect::Creates,
        r#"{"id":"file_1","type":"file"}"#,
        &["file_1"],
    ),
    (
        Gemini,
        "/v1beta/cachedContents",
        ObjectEffect::Creates,
        r#"{"name":"cachedContents/c"}"#,
        &["cachedContents/c"],
    ),
    (
        Gemini,
        "/upload/v1beta/files",
        ObjectEffect::Creates,
        r#"{"file":{"name":"files/f"}}"#,
        &["files/f"],
    ),
    (
        Gemini,
        "/v1beta/models/veo:predictLongRunning",
        ObjectEffect::Creates,
        r#"{"name":"models/veo/operations/o"}"#,
        &["operations/o"],
    ),
    (
        Gemini,
        "/v1beta/interactions",
        ObjectEffect::Creates,
        r#"{"id":"v1_x"}"#,
        &["interactions/v1_x"],
    ),
    (
        Gemini,
        "/v1beta/operations/o",
        LISTS,
        VIDEO,
        &["files/f", "files/g"],
    ),
    (
        Gemini,
        "/v1beta/batches/b",
        LISTS,
        INLINE_BATCH,
        &["files/made"],
    ),
    (
        Gemini,
        "/v1beta/models/g:batchGenerateContent",
        ObjectEffect::Creates,
        INLINE_BATCH,
        &["batches/b"],
    ),
    (
        OpenAi,
        "/v1/fine_tuning/jobs/ftjob-1",
        LISTS,
        r#"{"id":"ftjob-1","training_file":"file-1","result_files":["file-2","file-3"]}"#,
        &["file-2", "file-3"],
    ),
    (
        OpenAi,
        "/v1/conversations",
        ObjectEffect::Creates,
        r#"{"response":{"id":"resp_1"},"file":{"id":"file-1"},"requestId":"r1","id":"conv_1"}"#,
        &["conv_1"],
    ),
    (
        Gemini,
        "/upload/v1beta/files",
        ObjectEffect::BeginsUpload,
        r#"{"name":"files/x","file":{"name":"files/x"}}"#,
        &[],
    ),
    (
        Tavily,
        "/research",
        ObjectEffect::Creates,
        r#"{"request_id":"r-1"}"#,
        &["r-1"],
    ),
    (
        OpenAi,
        "/v1/files",
        ObjectEffect::Creates,
        r#"{"id":7}"#,
        &[],
    ),
    (OpenAi, "/v1/files", ObjectEffect::Creates, "<html>", &[]),
    (
        OpenAi,
        "/v1/files",
        ObjectEffect::Creates,
        r#"{"id":"two words"}"#,
        &[],
    ),
    (
        OpenAi,
        "/v1/files",
        ObjectEffect::Creates,
        r#"{"object":"fi"#,
        &[],
    ),
];

#[test]
fn answers_give_the_ids_of_created_objects() {
    for (protocol, path, effect, answer, ids) in ANSWERS {
        assert_eq!(
            created_ids(*protocol, effect, path, answer.as_bytes()),
            *ids,
            "{answer}"
        );
    }
}

#[test]
fn an_upload_in_steps_is_identified_by_its_next_address() {
    let mut headers = HeaderMap::new();
    assert_eq!(upload_session(&headers), None);
    let next = "https://g.example/upload/v1beta/files?upload_id=AB%2DC&upload_protocol=resumable";
    headers.append("x-goog-upload-url", HeaderValue::from_static("elsewhere"));
    headers.append("x-goog-upload-url", HeaderValue::from_static(next));
    assert_eq!(upload_session(&headers).as_deref(), Some("upload_id=AB-C"));
}

#[test]
fn background_and_conversation_calls_create_something_unstored() {
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
