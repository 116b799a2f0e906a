//! Ids in paths and bodies, of every protocol.

mod answers;

use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue};
use proptest::prelude::*;

use super::answers::MAX_IDS;
use super::names::{MAX_ID, MAX_TEXT};
use super::*;
use crate::protocol::Protocol;
use crate::protocol::Protocol::{Anthropic, Gemini, OpenAi, Tavily};

fn path_ids(protocol: Protocol, path: &str, query: Option<&str>) -> Vec<(RefKind, String)> {
    let mut ids: Vec<(RefKind, String)> = Vec::new();
    in_path(protocol, path, query, |how, id| {
        if !ids.iter().any(|(_, known)| known == id) {
            ids.push((how, id.to_owned()));
        }
    });
    ids
}

fn needed(protocol: Protocol, path: &str) -> Vec<String> {
    let ids = path_ids(protocol, path, None);
    let needed = ids.into_iter().filter(|(how, _)| *how == RefKind::Required);
    needed.map(|(_, id)| id).collect()
}

fn typed_body_ids(
    protocol: Protocol,
    media_type: &'static str,
    body: &str,
) -> Vec<(RefKind, String)> {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    let mut ids = Vec::new();
    in_body(protocol, &headers, body.as_bytes(), |how, id| {
        ids.push((how, id.to_owned()));
    });
    ids
}

/// The ids that the body needs, and the others.
fn body_ids(protocol: Protocol, body: &str) -> (Vec<String>, Vec<String>) {
    let ids = typed_body_ids(protocol, "application/json", body);
    let (needed, others): (Vec<_>, Vec<_>) = ids
        .into_iter()
        .partition(|(how, _)| *how == RefKind::Required);
    let bare = |ids: Vec<(RefKind, String)>| ids.into_iter().map(|(_, id)| id).collect();
    (bare(needed), bare(others))
}

#[test]
fn paths_name_the_object_they_are_about() {
    for (protocol, path, id) in [
        (OpenAi, "/v1/responses/resp_1", Some("resp_1")),
        (OpenAi, "/v1/responses/resp_1/input_items", Some("resp_1")),
        (OpenAi, "/responses/resp_1/cancel", Some("resp_1")),
        (OpenAi, "/v1/files/file-1/content", Some("file-1")),
        (OpenAi, "/batches/batch_1", Some("batch_1")),
        (
            OpenAi,
            "/v1/conversations/conv_1/items/msg_1",
            Some("conv_1"),
        ),
        (OpenAi, "/v1/vector_stores/vs_1/files/file-1", Some("vs_1")),
        (OpenAi, "/v1/videos/video_1/content", Some("video_1")),
        (OpenAi, "/v1/uploads/upload_1/parts", Some("upload_1")),
        (OpenAi, "/v1/fine_tuning/jobs/ftjob-1", Some("ftjob-1")),
        (
            OpenAi,
            "/v1/chat/completions/chatcmpl-1",
            Some("chatcmpl-1"),
        ),
        (
            OpenAi,
            "/api/v3/contents/generations/tasks/cgt-1",
            Some("cgt-1"),
        ),
        (OpenAi, "/contents/generations/tasks/cgt-1", Some("cgt-1")),
        (OpenAi, "/v1/responses", None),
        (OpenAi, "/v1/responses/compact", None),
        (OpenAi, "/v1/videos/edits", None),
        (OpenAi, "/context/create", None),
        (OpenAi, "/api/v3/context/chat/completions", None),
        (OpenAi, "/v1/videos/models", None),
        (OpenAi, "/v1/batch/jobs/b-1/cancel", Some("b-1")),
        (OpenAi, "/v1/video/submit", None),
        (OpenAi, "/v1/chat/completions", None),
        (OpenAi, "/v1/models/gpt-4o", None),
        (
            Anthropic,
            "/v1/messages/batches/msgbatch_1/results",
            Some("msgbatch_1"),
        ),
        (Anthropic, "/v1/files/file_1", Some("file_1")),
        (Anthropic, "/v1/messages", None),
        (Gemini, "/v1beta/files/abc", Some("files/abc")),
        (Gemini, "/v1beta/files/abc:download", Some("files/abc")),
        (Gemini, "/v1/cachedContents/c1", Some("cachedContents/c1")),
        (Gemini, "/v1beta/batches/b1:cancel", Some("batches/b1")),
        (
            Gemini,
            "/v1beta/models/veo/operations/o1",
            Some("operations/o1"),
        ),
        (Gemini, "/v1beta/interactions/i1", Some("interactions/i1")),
        (Gemini, "/upload/v1beta/files", None),
        (Gemini, "/v1beta/models/gemini-x:generateContent", None),
        (Tavily, "/research/r-1", Some("r-1")),
        (Tavily, "/search", None),
    ] {
        assert_eq!(needed(protocol, path), Vec::from_iter(id), "{path}");
    }
}

#[test]
fn an_id_is_found_however_its_path_is_encoded() {
    for path in [
        "/v1/responses/resp%5F1",
        "/v1/responses%2fresp_1",
        "/v1//responses//resp_1/",
        "/v1/%72esponses/resp_1",
        "/v1%5cresponses%5Cresp_1",
    ] {
        assert_eq!(needed(OpenAi, path), ["resp_1"], "{path}");
    }
    let ids = path_ids(OpenAi, "/v1/vector_stores/vs_1/files/file-2", None);
    assert!(
        ids.contains(&(RefKind::IdField, "file-2".to_owned())),
        "{ids:?}"
    );
    let ids = path_ids(Gemini, "/v1beta/fileSearchStores/s/operations/o", None);
    assert!(
        ids.contains(&(RefKind::IdField, "operations/o".to_owned())),
        "{ids:?}"
    );
    let query = Some("page_num=1&filter.task_ids=cgt-1,cgt%2D2&after=file-3&x=file-4&file-5");
    let ids = path_ids(OpenAi, "/", query);
    let expect = ["cgt-1", "cgt-2", "file-3"].map(|id| (RefKind::IdField, id.to_owned()));
    assert_eq!(ids, expect);
    let ids = path_ids(OpenAi, "/v1/videos/characters/char_1", None);
    assert!(
        ids.contains(&(RefKind::IdField, "char_1".to_owned())),
        "{ids:?}"
    );
    let ids = path_ids(Gemini, "/upload/v1beta/files", Some("upload_id=a%2Bb&x=1"));
    assert_eq!(ids, [(RefKind::Required, "upload_id=a+b".to_owned())]);
}

/// However Google reads the address of a file, the file is seen.
#[test]
fn a_gemini_address_is_seen_through_its_encoding() {
    for uri in [
        "files/f",
        "https://g.example/v1beta/files/f",
        "https://g.example/v1beta/files/f:download?alt=media",
        "https://g.example/v1beta/files%2Ff",
        "https://g.example/v1beta/files%2ff%3Falt=media",
        "https://g.example/v1beta/%66iles/%66",
        "https://g.example/v1beta/files%252Ff",
        "https://g.example/v1beta//files//f#x",
        "https://g.example/v1beta/files\\\\f",
        "https://g.example/?name=files/f",
        "https://g.example/?name=files%2Ff&x=1",
        "https://g.example/v1beta/files/own/files/f",
        "files/f?padding=PADDING",
    ] {
        let uri = uri.replace("PADDING", &"x".repeat(4000));
        let body =
            format!(r#"{{"contents":[{{"parts":[{{"fileData":{{"fileUri":"{uri}"}}}}]}}]}}"#);
        let ids = typed_body_ids(Gemini, "application/json", &body);
        let wanted = (RefKind::IdField, "files/f".to_owned());
        assert!(ids.contains(&wanted), "{uri}: {ids:?}");
        let cached = format!(r#"{{"cachedContent":"{uri}"}}"#).replace("files", "cachedContents");
        let cached = cached.replace("%66iles", "%63achedContents");
        let (needed, others) = body_ids(Gemini, &cached);
        let found = |ids: &[String]| ids.iter().any(|id| id == "cachedContents/f");
        assert!(
            found(&needed) || found(&others),
            "{cached}: {needed:?} {others:?}"
        );
    }
    for query in [
        "uri=files%2Ff",
        "fileUri=files%252Ff",
        "file_uri=https%3A%2F%2Fg.example%2Ffiles%2Ff",
        "file%55ri=files/f",
    ] {
        let ids = path_ids(Gemini, "/v1beta/other", Some(query));
        assert!(
            ids.iter().any(|(_, id)| id == "files/f"),
            "{query}: {ids:?}"
        );
    }
    for path in ["/v1beta/x%252Ffiles%252Ff", "/v1beta/files%2Ff"] {
        let ids = path_ids(Gemini, path, None);
        assert!(ids.iter().any(|(_, id)| id == "files/f"), "{path}: {ids:?}");
    }
}

#[test]
fn forms_name_objects_as_json_does() {
    const URLENCODED: &str = "Application/X-WWW-Form-URLencoded; charset=utf-8";
    for (name, value, how, id) in [
        ("input_file_id", "file-1", RefKind::Required, "file-1"),
        ("conversation", "conv_1", RefKind::Required, "conv_1"),
        ("conversation[id]", "conv_1", RefKind::Required, "conv_1"),
        ("file_id", "file-1", RefKind::IdField, "file-1"),
        ("file_ids[]", "file-1", RefKind::IdField, "file-1"),
        ("input[0][file_id]", "file-1", RefKind::IdField, "file-1"),
        ("video[id]", "video_1", RefKind::IdField, "video_1"),
        ("file_ids[0]", "file-1", RefKind::IdField, "file-1"),
        ("filter.id", "file-1", RefKind::IdField, "file-1"),
    ] {
        let wanted = (how, id.to_owned());
        let pairs = format!("a=b+c&{name}={}&d", value.replace('-', "%2D"));
        let ids = typed_body_ids(OpenAi, URLENCODED, &pairs);
        assert!(ids.contains(&wanted), "{pairs}: {ids:?}");
        let ids = typed_body_ids(
            OpenAi,
            MULTIPART,
            &part(&format!("; name=\"{name}\""), value),
        );
        assert!(ids.contains(&wanted), "{name}: {ids:?}");
    }
    let ids = typed_body_ids(
        Gemini,
        URLENCODED,
        "x=1&uri=https%3A%2F%2Fg.example%2Fv1beta%2Ffiles%2Ff",
    );
    assert_eq!(ids, [(RefKind::IdField, "files/f".to_owned())]);
    for name in ["anything", "id[x]", "custom_id", "id_1", ""] {
        let pairs = format!("{name}=file-1&file-1");
        assert_eq!(typed_body_ids(OpenAi, URLENCODED, &pairs), [], "{name}");
        let form = part(&format!("; name=\"{name}\""), "file-1");
        assert_eq!(typed_body_ids(OpenAi, MULTIPART, &form), [], "{name}");
    }
    let ids = typed_body_ids(OpenAi, "text/plain", "file_id=file-1");
    assert_eq!(ids, [], "no provider reads this as a form");
}

const MULTIPART: &str = "multipart/form-data; boundary=b";

/// One part with this head after `form-data`.
fn part(head: &str, content: &str) -> String {
    format!("--b\r\nContent-Disposition: form-data{head}\r\n\r\n{content}\r\n")
}

#[test]
fn the_content_of_an_uploaded_file_is_not_looked_at() {
    let line = r#"{"custom_id":"a_1","body":{"input":[{"file_id":"file-1"}],"conversation":{"id":"conv_1"}}}"#;
    let at_top =
        r#"{"previous_response_id":"resp_1","conversation":{"id":"conv_1"},"file_id":"file-1"}"#;
    for content in [
        "file-1\r\nresp_1\r\nconv_1",
        "id,name\nfile-1,resp_1\n conv_1 ,x",
        line,
        &format!("{line}\n{at_top}\n"),
        "Content-Disposition: x; name=\"file_id\"\r\nfile-1",
    ] {
        for head in [
            r#"; name="file"; filename="ids.jsonl""#,
            r#"; filename*=UTF-8''ids; name=file"#,
            r#"; NAME = "a;b" ; FileName = "i;ds""#,
        ] {
            let form = part("; name=\"purpose\"", "batch") + &part(head, content) + "--b--\r\n";
            let ids = typed_body_ids(OpenAi, MULTIPART, &form);
            assert_eq!(ids, [], "{head}: {content}");
        }
        // A part that is named like a field for ids is one, but a file never needs an object.
        let form = part(r#"; name="conversation"; filename="ids""#, content);
        let ids = typed_body_ids(OpenAi, MULTIPART, &form);
        assert!(
            ids.iter().all(|(kind, _)| *kind == RefKind::IdField),
            "{ids:?}"
        );
    }
    let file = part(r#"; name="file"; filename="a.txt""#, "file-1");
    for behind in [
        part(r#"; name="file_id""#, "file-2"),
        part(
            r#"; name="file_id""#,
            &format!("{}file-2", " ".repeat(9000)),
        ),
    ] {
        let ids = typed_body_ids(OpenAi, MULTIPART, &(file.clone() + &behind));
        assert_eq!(ids, [(RefKind::IdField, "file-2".to_owned())]);
    }
}

#[test]
fn json_in_a_field_of_a_form_is_read_as_json() {
    let value = r#"{"type":"file","file_id":"file-1","x":"file-2"}"#;
    let form = part("; name=\"data\"", value) + "--b--\r\n";
    let ids = typed_body_ids(OpenAi, MULTIPART, &form);
    assert_eq!(ids, [(RefKind::IdField, "file-1".to_owned())]);
}

#[test]
fn a_body_that_may_be_json_is_read_as_json() {
    for media_type in [
        "application/json; x=multipart/form-data",
        "multipart/form-data, application/json",
        "text/plain",
    ] {
        let ids = typed_body_ids(OpenAi, media_type, r#"{"input_file_id":"file-1"}"#);
        let wanted = (RefKind::Required, "file-1".to_owned());
        assert!(ids.contains(&wanted), "{media_type}: {ids:?}");
    }
}

/// If we and the provider could read the head of a part differently, each reading counts.
#[test]
fn no_field_of_a_form_hides_its_id() {
    for head in [
        r#"; x-filename=1; name="file_id""#,
        r#"; name="file_id"; filename="""#,
        r#"; name="file_id"; filename="#,
        r#"; name="filename_file_id""#,
        r#"; x="; filename=1"; name="file_id""#,
        "; name=\"file_id\"\r\nContent-Disposition: x; filename=\"a\"",
        "; filename=\"a\"\r\ncontent-disposition : x; name=\"file_id\"",
        "; name=\"file_id\"\r\nX-A: filename=a",
        r#"; name="file_id"; filename="a""#,
        r#"; filename="a"; name="file_ids[]""#,
        ";\r\n name=\"file_id\"",
        r#"; name="file_id"; name="x""#,
        r#"; name="x"; name="file_id""#,
        r"; name=x; name*=UTF-8''file%5Fid",
        r#"; x="; name=file_id"#,
        r#"; name="file%5Fid""#,
        r#"; name="file\_id""#,
        "; name=\"file_id\"\nX-A: \u{fffd}",
    ] {
        for content in ["file-1", "file-0,file-1", "file-1\nx"] {
            let ids = typed_body_ids(OpenAi, MULTIPART, &part(head, content));
            let expect = (RefKind::IdField, "file-1".to_owned());
            assert!(ids.contains(&expect), "{head}: {content}: {ids:?}");
        }
    }
    for form in [
        "--b\nContent-Disposition: form-data; name=file_id\n\nfile-1",
        "x\n--b\nContent-Disposition: form-data; name=file_id\n \t\nfile-1\n--b--",
        "--c\r\nX: y\r\n\r\n--b\r\nContent-Disposition: form-data; name=file_id\r\n\r\nfile-1",
    ] {
        let ids = typed_body_ids(OpenAi, MULTIPART, form);
        assert_eq!(ids, [(RefKind::IdField, "file-1".to_owned())], "{form}");
    }
}

#[test]
fn ids_in_what_people_write_do_not_count() {
    for (protocol, body) in [
        (
            OpenAi,
            r#"{"messages":[{"role":"user","content":"file-1"}]}"#,
        ),
        (
            OpenAi,
            r#"{"input":[{"content":[{"type":"input_text","text":"file-1"}]}]}"#,
        ),
        (
            OpenAi,
            r#"{"metadata":{"previous":"resp_1","all":["resp_2"]}}"#,
        ),
        (
            Anthropic,
            r#"{"messages":[{"role":"user","content":"file_1"}]}"#,
        ),
        (
            Gemini,
            r#"{"contents":[{"parts":[{"text":"src/files/main"}]}]}"#,
        ),
    ] {
        let ids = typed_body_ids(protocol, "application/json", body);
        let named = |id: &str| ["file", "resp_"].iter().any(|start| id.starts_with(start));
        assert!(!ids.iter().any(|(_, id)| named(id)), "{body}: {ids:?}");
    }
    for body in [
        r#"{"input":[{"content":[{"type":"input_file","file_id":"file-1"}]}]}"#,
        r#"{"tools":[{"vector_store_ids":["file-0","file-1"]}]}"#,
        r#"{"tools":[{"container":"file-1"}]}"#,
        r#"{"content":[["x"],{"id":"file-1"}]}"#,
    ] {
        let ids = typed_body_ids(OpenAi, "application/json", body);
        assert!(
            ids.contains(&(RefKind::IdField, "file-1".to_owned())),
            "{body}: {ids:?}"
        );
    }
    for body in [
        r#"{"x":"file-1"}"#,
        r#"{"content":["file-1"]}"#,
        r#"{"custom_id":"file-1","user_id":"file-2"}"#,
        r#"{"valid":"file-1","ident":"file-2","model":"file-3"}"#,
        r#"{"metadata":{"file_id":"file-1"}}"#,
        r#"["file-1"]"#,
        r#""file-1""#,
    ] {
        assert_eq!(
            typed_body_ids(OpenAi, "application/json", body),
            [],
            "{body}"
        );
    }
    let ids = typed_body_ids(
        OpenAi,
        "application/json",
        r#"{"metadatas":{"file_id":"file-1"}}"#,
    );
    assert_eq!(ids, [(RefKind::IdField, "file-1".to_owned())]);
}

/// Gemini's names are chosen by callers: one of them must not make other callers' paths and texts look like it.
#[test]
fn a_chosen_name_counts_only_in_a_field_for_it() {
    let part = |part: &str| format!(r#"{{"contents":[{{"parts":[{part}]}}]}}"#);
    for body in [
        r#"{"x":"files/report"}"#.to_owned(),
        r#"{"x":"https://g.example/v1beta/files/report"}"#.to_owned(),
        r#"{"file":{"name":"files/report"}}"#.to_owned(),
        part(r#"{"functionCall":{"args":{"path":"files/report"}}}"#),
        part(r#"{"functionResponse":{"response":{"all":["files/report"]}}}"#),
        r#"{"tools":[{"functionDeclarations":[{"parameters":{"x":{"enum":["files/report"]}}}]}]}"#
            .to_owned(),
        r#"{"tools":[{"function_declarations":[{"description":"files/report"}]}]}"#.to_owned(),
    ] {
        let ids = typed_body_ids(Gemini, "application/json", &body);
        assert_eq!(ids, [], "{body}");
    }
    for body in [
        r#"{"fileUri":"/x/files/report"}"#.to_owned(),
        r#"{"inputConfig":{"fileName":"files/report"}}"#.to_owned(),
        r#"{"input_config":{"file_name":"files/report"}}"#.to_owned(),
        part(r#"{"functionResponse":{"parts":[{"fileData":{"fileUri":"files/report"}}]}}"#),
        part(r#"{"functionCall":{"args":{"uri":["files/report"]}}}"#),
        part(r#"{"functionCall":{"args":{}}},{"fileData":{"fileUri":"files/report"}}"#),
    ] {
        let ids = typed_body_ids(Gemini, "application/json", &body);
        assert_eq!(
            ids,
            [(RefKind::IdField, "files/report".to_owned())],
            "{body}"
        );
    }
    let file = self::part(r#"; filename="a""#, "files/report\r\nx,files/report\r\n");
    assert_eq!(typed_body_ids(Gemini, MULTIPART, &file), []);
    let query = Some("path=src/files/report");
    assert_eq!(path_ids(Gemini, "/v1beta/models", query), []);
}

/// Some providers read names without quotes. What we cannot read, or is nested too deep, may be a field for ids.
#[test]
fn a_field_whose_name_cannot_be_read_counts_as_one_for_ids() {
    let deep = format!(
        r#"{}{{"fileUri":"files/report"{}"#,
        r#"{"a":"#.repeat(20),
        "}".repeat(21)
    );
    for body in [
        r#"{fileUri:"files/report"}"#,
        r#"{"a":{},fileData:{fileUri:"files/report"}}"#,
        r#"{"text":"x",y:["files/report"]}"#,
        &deep,
    ] {
        let ids = typed_body_ids(Gemini, "application/json", body);
        let expect = [(RefKind::IdField, "files/report".to_owned())];
        assert_eq!(ids, expect, "{body}");
    }
}

const IN_FIELDS: &[(Protocol, &str, &str)] = &[
    (OpenAi, r#"{"previous_response_id":"resp_1"}"#, "resp_1"),
    (
        OpenAi,
        r#"{"a":[{"b":1}],"conversation" : "conv_1"}"#,
        "conv_1",
    ),
    (OpenAi, r#"{"conversation":{"id":"conv_1"}}"#, "conv_1"),
    (OpenAi, r#"{"input_file_id":"file-1"}"#, "file-1"),
    (OpenAi, r#"{"requestId":"r1"}"#, "r1"),
    (OpenAi, r#"{"context_id":"ctx-1"}"#, "ctx-1"),
    (
        OpenAi,
        r#"{"previous_response_\u0069d":"resp\u005f1"}"#,
        "resp_1",
    ),
    (
        Gemini,
        r#"{"cachedContent":"cachedContents/c"}"#,
        "cachedContents/c",
    ),
    (
        Gemini,
        r#"{"cached_content":"cachedContents/c"}"#,
        "cachedContents/c",
    ),
    (
        Gemini,
        r#"{"previous_interaction_id":"v1_x"}"#,
        "interactions/v1_x",
    ),
    (
        Gemini,
        r#"{"previousInteractionId":"v1_x"}"#,
        "interactions/v1_x",
    ),
];

const ELSEWHERE: &[(Protocol, &str, &str)] = &[
    (
        OpenAi,
        r#"{"input":[{"content":[{"type":"input_file","file_id":"file-1"}]}]}"#,
        "file-1",
    ),
    (
        OpenAi,
        r#"{"tools":[{"vector_store_ids":["vs_1"]}]}"#,
        "vs_1",
    ),
    (OpenAi, r#"{"x":{"file_id":"file\u002d1"}}"#, "file-1"),
    (OpenAi, r#"{"input":{"conversation":"conv_1"}}"#, "conv_1"),
    (OpenAi, r#"{"input_files":["file-0","file-1"]}"#, "file-1"),
    (
        OpenAi,
        r#"{"messages":[{"content":[{"image_url":{"url":"ms://file-1"}}]}]}"#,
        "file-1",
    ),
    (
        Anthropic,
        r#"{"messages":[{"content":[{"source":{"file_id":"file_1"}}]}]}"#,
        "file_1",
    ),
    (
        Gemini,
        r#"{"contents":[{"parts":[{"fileData":{"fileUri":"https://g.example/v1beta/files/abc"}}]}]}"#,
        "files/abc",
    ),
    (
        Gemini,
        r#"{"batch":{"requests":[{"request":{"cachedContent":"cachedContents/c"}}]}}"#,
        "cachedContents/c",
    ),
];

#[test]
fn bodies_name_objects_in_fields_and_elsewhere() {
    for &(protocol, body, id) in IN_FIELDS {
        assert_eq!(body_ids(protocol, body).0, [id], "{body}");
    }
    let twice = r#"{"previous_response_id":"resp_1","previous_response_id":"resp_2"}"#;
    assert_eq!(
        body_ids(OpenAi, twice).0,
        ["resp_1", "resp_2"],
        "whichever the provider takes"
    );
    for body in [
        r#"{"input":[{"previous_response_id":"resp_1"}]}"#,
        r#"{"metadata":{"conversation":"conv_1"}}"#,
        r#"{"conversation":{"name":{"id":"conv_1"}}}"#,
        r#"{"previous_response_id":null,"conversation":7}"#,
    ] {
        assert_eq!(body_ids(OpenAi, body).0, [""; 0], "{body}");
    }
    for &(protocol, body, id) in ELSEWHERE {
        let (needed, others) = body_ids(protocol, body);
        assert!(
            needed.is_empty() && others.iter().any(|found| found == id),
            "{body}: {others:?}"
        );
    }
    let prose = r#"{"messages":[{"role":"user","content":"tell me of file-1 and resp_1"}]}"#;
    assert_eq!(body_ids(OpenAi, prose).1, [""; 0]);
}

#[test]
fn only_a_text_too_long_for_an_id_is_not_read() {
    // The longest way to write it: six bytes for each.
    let escaped = |text: &str| -> String { text.bytes().map(|b| format!("\\u{b:04x}")).collect() };
    let padded = |length: usize| {
        let start = "https://g.example/v1beta/files/f?x=";
        start.to_owned() + &"x".repeat(length - start.len())
    };
    for (length, found) in [(MAX_TEXT, 1), (MAX_TEXT + 1, 0)] {
        for text in [padded(length), escaped(&padded(length))] {
            let body = format!(r#"{{"fileUri":"{text}"}}"#);
            let ids = typed_body_ids(Gemini, "application/json", &body);
            assert_eq!(ids.len(), found, "{length}: {ids:?}");
        }
    }
    let field = format!(
        r#"{{"cachedContent":"{}"}}"#,
        escaped("cachedContents/c") + &"?".repeat(60_000)
    );
    assert_eq!(
        body_ids(Gemini, &field).0,
        ["cachedContents/c"],
        "a field for ids is read whatever its length"
    );
}

/// A long text is neither copied nor unescaped unless it can be an id.
#[test]
fn a_string_is_found_too_long_before_it_is_decoded() {
    for (length, too_long) in [(600, false), (601, true)] {
        let text = format!("\"{}\"", "x".repeat(length));
        let mut met = 0;
        json::strings(text.as_bytes(), |_, raw| {
            met += 1;
            assert_eq!(raw.is_longer_than(100), too_long, "{length}");
        });
        assert_eq!(met, 1);
    }
}

proptest! {
    #[test]
    fn any_bytes_are_looked_through_without_harm(
        bytes in prop::collection::vec(prop::sample::select(b"{}[]\":,\\ id_-/file\xff\0".to_vec()), 0..200),
    ) {
        for protocol in [OpenAi, Anthropic, Gemini, Tavily] {
            for media_type in ["application/json", "application/x-www-form-urlencoded", "multipart/form-data"] {
                let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(media_type))]);
                in_body(protocol, &headers, &bytes, |_, id| assert!(!id.is_empty() && id.len() <= MAX_ID));
            }
            for effect in [ObjectEffect::Creates, ObjectEffect::Lists(String::new())] {
                assert!(created_ids(protocol, &effect, "/v1/files", &bytes).len() <= MAX_IDS);
            }
            let path = String::from_utf8_lossy(&bytes);
            in_path(protocol, &path, Some(&path), |_, id| assert!(id.len() <= MAX_ID));
        }
    }

    /// Strings and their paths, compared with a full parse.
    #[test]
    fn strings_are_found_as_a_full_parse_finds_them(
        fields in prop::collection::vec(("[a-c\\\\\"]{1,2}", "[ -~é\\\\\"]{0,6}", 0usize..4), 0..6),
    ) {
        let mut top = serde_json::Map::new();
        for (key, value, shape) in &fields {
            let value = serde_json::Value::from(value.clone());
            top.insert(key.clone(), match shape {
                0 => value,
                1 => serde_json::json!([value, 1, {"x": null}]),
                2 => serde_json::json!({"in": value}),
                _ => serde_json::json!({"deep": {"in": [value]}}),
            });
        }
        let mut expected: Vec<(Vec<String>, String)> = Vec::new();
        for (key, value) in &top {
            for (text, below) in [
                (value, &[][..]),
                (&value[0], &[json::ANY]),
                (&value["in"], &["in"]),
                (&value["deep"]["in"][0], &["deep", "in", json::ANY]),
            ] {
                let path = std::iter::once(&**key).chain(below.iter().copied());
                let path = path.map(str::to_owned).collect();
                expected.extend(text.as_str().map(|text| (path, text.to_owned())));
            }
        }
        let mut found = 0;
        json::strings(serde_json::Value::from(top).to_string().as_bytes(), |place, text| {
            let (path, value) = &expected[found];
            let path: Vec<&str> = path.iter().map(String::as_str).collect();
            assert!(place.is(&path), "{path:?}: {place:?}");
            assert!(place.is_below(path[0]) && !place.is(&path[1..]));
            let nearest = path.iter().rfind(|part| **part != json::ANY).unwrap();
            assert_eq!(place.field(), json::NearestField::Named((*nearest).into()));
            assert_eq!(*value, text.read());
            found += 1;
        });
        prop_assert_eq!(found, expected.len());
    }
}
