//! Endpoints and the forms of our own answers, protocol by protocol.

use http::{HeaderName, HeaderValue};
use serde_json::{Value, json};

use super::Protocol::{Anthropic, Gemini, OpenAi, Tavily};
use super::*;

fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
    pairs
        .iter()
        .map(|(name, value)| {
            (
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            )
        })
        .collect()
}

fn call(
    method: &str,
    path: &str,
    pairs: &[(&'static str, &'static str)],
    query: Option<&str>,
) -> Lookup {
    lookup(&method.parse().unwrap(), path, &headers(pairs), query)
}

fn endpoint(method: &str, path: &str) -> Endpoint {
    match call(method, path, &[], None) {
        Lookup::Endpoint(endpoint) => endpoint,
        other => panic!("{method} {path}: {other:?}"),
    }
}

#[test]
fn openai_endpoints() {
    let expect = |model, json, repeat| Endpoint {
        json,
        repeat,
        ..Endpoint::post(OpenAi, model)
    };
    for path in [
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/embeddings",
        "/v1/responses/compact",
        "/v1/audio/speech",
        "/v1/rerank",
    ] {
        let is_of_responses = path.starts_with("/v1/responses");
        assert_eq!(
            endpoint("POST", path),
            Endpoint {
                requires_objects: is_of_responses,
                ..expect(ModelIn::Body, true, Repeat::Safe)
            },
            "{path}"
        );
    }
    assert_eq!(
        endpoint("POST", "/v1/responses"),
        Endpoint {
            requires_objects: true,
            hides_model: true,
            ..expect(ModelIn::BodyOrPrompt, true, Repeat::NeverIfStored)
        }
    );
    assert_eq!(
        endpoint("POST", "/v1/responses/input_tokens"),
        Endpoint {
            requires_objects: true,
            generates: false,
            ..expect(ModelIn::OptionalBody, true, Repeat::Safe)
        }
    );
    assert_eq!(
        endpoint("POST", "/v1/moderations"),
        expect(ModelIn::OptionalBody, true, Repeat::Safe)
    );
    for path in ["/v1/audio/transcriptions", "/v1/audio/translations"] {
        assert_eq!(
            endpoint("POST", path),
            expect(ModelIn::Form, false, Repeat::Safe),
            "{path}"
        );
    }
    for (path, model) in [
        ("/v1/images/generations", ModelIn::OptionalBody),
        ("/v1/images/edits", ModelIn::OptionalForm),
        ("/v1/images/variations", ModelIn::OptionalForm),
    ] {
        let json = model == ModelIn::OptionalBody;
        let images = Endpoint {
            hides_model: true,
            ..expect(model, json, Repeat::Safe)
        };
        assert_eq!(endpoint("POST", path), images, "{path}");
    }
    assert!(endpoint("POST", "/v1/chat/completions").generates);
}

#[test]
fn stored_responses_are_called_by_their_id() {
    for (method, path, repeat) in [
        ("GET", "/v1/responses/resp_1", Repeat::Safe),
        ("DELETE", "/v1/responses/resp_1", Repeat::Never),
        ("GET", "/v1/responses/resp_1/input_items", Repeat::Safe),
        ("POST", "/v1/responses/resp_1/cancel", Repeat::Never),
    ] {
        let found = endpoint(method, path);
        assert!(
            found.by_object && !found.generates && !found.json,
            "{method} {path}"
        );
        assert_eq!(
            (found.model, found.repeat),
            (ModelIn::Nowhere, repeat),
            "{method} {path}"
        );
    }
    assert!(endpoint("GET", "/research/r1").by_object);
    assert!(!endpoint("POST", "/v1/responses").by_object);
    for (method, path, allow) in [
        ("POST", "/v1/responses/resp_1", "GET, DELETE"),
        ("GET", "/v1/responses/resp_1/cancel", "POST"),
    ] {
        assert_eq!(
            call(method, path, &[], None),
            Lookup::MethodNotAllowed(OpenAi, allow),
            "{method} {path}"
        );
    }
    for path in [
        "/v1/responses/",
        "/v1/responses//x",
        "/v1/responses/resp_1/",
        "/v1/responses/compact/",
    ] {
        assert_eq!(
            call("POST", path, &[], None),
            Lookup::Unknown(OpenAi),
            "{path}"
        );
    }
}

#[test]
fn image_edits_may_be_json() {
    let edits = |value| match call("POST", "/v1/images/edits", &[("content-type", value)], None) {
        Lookup::Endpoint(endpoint) => (endpoint.model, endpoint.json),
        other => panic!("{other:?}"),
    };
    assert_eq!(
        edits("Application/JSON; charset=utf-8"),
        (ModelIn::OptionalBody, true)
    );
    assert_eq!(
        edits("multipart/form-data; boundary=application/json"),
        (ModelIn::OptionalForm, false)
    );
    assert_eq!(edits("application/jsonl"), (ModelIn::OptionalForm, false));
}

#[test]
fn anthropic_endpoints() {
    let messages = endpoint("POST", "/v1/messages");
    assert_eq!(messages, Endpoint::post(Anthropic, ModelIn::Body));
    assert_eq!(
        endpoint("POST", "/v1/messages/count_tokens"),
        Endpoint {
            generates: false,
            ..messages
        }
    );
}

/// The Gemini call at `path`, and the model that it names.
fn gemini_call(path: &str) -> (Endpoint, &str) {
    let found = endpoint("POST", path);
    let ModelIn::Path(range) = found.model.clone() else {
        panic!("{path}: {found:?}")
    };
    (found, &path[range])
}

#[test]
fn gemini_calls_name_the_model_in_the_path() {
    for (path, model) in [
        ("/v1beta/models/gemini-3:generateContent", "gemini-3"),
        ("/v1/models/gemini-3:generateContent", "gemini-3"),
        ("/v1/models/pool%2Fg:v2:generateContent", "pool%2Fg:v2"),
    ] {
        let (found, named) = gemini_call(path);
        assert_eq!(named, model, "{path}");
        assert_eq!(found, Endpoint::post(Gemini, found.model.clone()), "{path}");
    }
    for path in [
        "/v1beta/models/:generateContent",
        "/v1beta/models/g:",
        "/v1/models/a/b:generateContent",
        "/v1/models/g:a/b",
        "/v1beta/tunedModels/:generateContent",
        "/v1beta/tunedModels/a/b:generateContent/",
        "/v1beta/models//:generateContent",
        "/v1beta/files/",
        "/v1beta/filesx",
        "/v1beta/filesé",
    ] {
        assert_eq!(
            call("POST", path, &[], None),
            Lookup::Unknown(Gemini),
            "{path}"
        );
    }
}

#[test]
fn geminis_files_are_reached_without_a_pools_name() {
    for (method, path, query, repeat, by_object) in [
        ("POST", "/upload/v1beta/files", None, Repeat::Never, false),
        (
            "POST",
            "/upload/v1beta/files",
            Some("uploadType=media"),
            Repeat::Never,
            false,
        ),
        (
            "POST",
            "/upload/v1beta/files",
            Some("upload_id=U&upload_protocol=resumable"),
            Repeat::Never,
            true,
        ),
        (
            "PUT",
            "/upload/v1beta/files",
            Some("x=1&upload%5Fid=U"),
            Repeat::Never,
            true,
        ),
        (
            "GET",
            "/v1beta/files",
            Some("pageSize=1"),
            Repeat::Safe,
            false,
        ),
        ("GET", "/v1beta/files/f", None, Repeat::Safe, true),
        ("GET", "/v1beta/files/f:download", None, Repeat::Safe, true),
        ("DELETE", "/v1beta/files/f", None, Repeat::Never, true),
    ] {
        let google = [("x-goog-api-key", "x")];
        let plain = (call(method, path, &[], query), path.to_owned());
        // With Google's own credential the older version is Gemini's too.
        let older = path.replace("v1beta", "v1");
        for (found, path) in [plain, (call(method, &older, &google, query), older)] {
            let Lookup::Endpoint(found) = found else {
                panic!("{method} {path}: {found:?}");
            };
            let is_list = method == "GET" && !by_object;
            assert!(found.objects && !found.json && !found.generates, "{path}");
            assert_eq!(found.native, is_list, "{method} {path}");
            assert_eq!(found.model, ModelIn::Nowhere, "{path}");
            assert_eq!(
                (found.protocol, found.repeat, found.by_object),
                (Gemini, repeat, by_object),
                "{method} {path}"
            );
        }
    }
    let piece = call("POST", "/upload/v1/files", &[], Some("upload_id=U"));
    assert!(matches!(piece, Lookup::Endpoint(found) if found.by_object));
    assert_eq!(endpoint("GET", "/v1/files/f").protocol, OpenAi);
}

/// Each with a header of the request, a path that creates, and a path of what was created.
const OBJECTS: &[(Protocol, (&str, &str), &str, &str)] = &[
    (OpenAi, JSON, "/v1/files", "/v1/files/f/content"),
    (OpenAi, JSON, "/v1/batches", "/v1/batches/b/cancel"),
    (
        OpenAi,
        JSON,
        "/v1/conversations",
        "/v1/conversations/c/items/i",
    ),
    (OpenAi, JSON, "/v1/uploads", "/v1/uploads/u/parts"),
    (
        OpenAi,
        JSON,
        "/v1/vector_stores",
        "/v1/vector_stores/v/search",
    ),
    (OpenAi, JSON, "/v1/containers", "/v1/containers/c/files/f"),
    (OpenAi, JSON, "/v1/videos", "/v1/videos/v/content"),
    (OpenAi, JSON, "/v1/videos/edits", "/v1/videos/v/remix"),
    (
        OpenAi,
        JSON,
        "/v1/fine_tuning/jobs",
        "/v1/fine_tuning/jobs/j/events",
    ),
    (
        OpenAi,
        JSON,
        "/v1/threads/runs",
        "/v1/threads/t/runs/r/steps",
    ),
    (OpenAi, JSON, "/v1/evals", "/v1/evals/e/runs"),
    (OpenAi, JSON, "/v1/skills", "/v1/skills/s/versions/1"),
    (
        Anthropic,
        JSON,
        "/v1/messages/batches",
        "/v1/messages/batches/b/results",
    ),
    (
        Anthropic,
        ("anthropic-version", "x"),
        "/v1/files",
        "/v1/files/f/content",
    ),
    (
        Anthropic,
        ("anthropic-version", "x"),
        "/v1/skills",
        "/v1/skills/s/versions",
    ),
    (
        Gemini,
        JSON,
        "/v1beta/cachedContents",
        "/v1beta/cachedContents/c",
    ),
    (Gemini, JSON, "/v1/cachedContents", "/v1/cachedContents/c"),
    (
        Gemini,
        JSON,
        "/v1beta/tunedModels",
        "/v1beta/tunedModels/t/operations/o",
    ),
    (
        Gemini,
        JSON,
        "/v1beta/fileSearchStores",
        "/v1beta/fileSearchStores/s/documents/d",
    ),
    (
        Gemini,
        JSON,
        "/v1beta/interactions",
        "/v1beta/interactions/i/cancel",
    ),
    (
        Gemini,
        ("x-goog-api-key", "x"),
        "/v1/interactions",
        "/v1/batches/b:cancel",
    ),
    (
        Gemini,
        JSON,
        "/upload/v1beta/files",
        "/v1beta/models/veo/operations/o",
    ),
    (
        Gemini,
        JSON,
        "/v1/interactions",
        "/v1/models/veo/operations/o",
    ),
    (
        Gemini,
        JSON,
        "/v1/interactions",
        "/upload/v1/fileSearchStores/s:uploadToFileSearchStore",
    ),
];
const JSON: (&str, &str) = ("content-type", "application/json");

#[test]
fn objects_are_created_and_called_without_a_pools_name() {
    for &(protocol, header, creating, path) in OBJECTS {
        for (path, by_object) in [(creating, false), (path, true)] {
            let found = call("POST", path, &[header], None);
            let Lookup::Endpoint(found) = found else {
                panic!("POST {path}: {found:?}");
            };
            assert_eq!(found.protocol, protocol, "{path}");
            assert!(
                found.objects && found.requires_objects && !found.native,
                "{path}"
            );
            assert_eq!(found.by_object, by_object, "{path}");
            assert_ne!(found.repeat, Repeat::Safe, "{path}");
        }
        let read = call("GET", path, &[header], None);
        assert!(
            matches!(read, Lookup::Endpoint(found) if found.by_object && found.repeat == Repeat::Safe && !found.generates),
            "GET {path}"
        );
    }
}

#[test]
fn lists_of_objects_are_native_and_some_do_not_exist() {
    for path in [
        "/v1/files",
        "/v1/batches",
        "/v1/videos",
        "/v1/messages/batches",
        "/v1beta/cachedContents",
        "/v1beta/batches",
        "/v1beta/interactions",
        "/v1/tunedModels",
    ] {
        assert!(endpoint("GET", path).native, "{path}");
    }
    for (path, allow) in [
        ("/v1/conversations", "POST"),
        ("/v1/uploads", "POST"),
        ("/v1/threads/runs", "POST"),
    ] {
        let found = call("GET", path, &[], None);
        assert_eq!(found, Lookup::MethodNotAllowed(OpenAi, allow), "{path}");
    }
    let created_elsewhere = call("POST", "/v1beta/batches", &[], None);
    assert_eq!(created_elsewhere, Lookup::MethodNotAllowed(Gemini, "GET"));
}

#[test]
fn calls_that_hide_their_model_are_marked() {
    for (path, hides) in [
        ("/v1/batches", true),
        ("/v1/videos", true),
        ("/v1/assistants", true),
        ("/v1/messages/batches", true),
        ("/v1beta/interactions", true),
        ("/v1beta/tunedModels/t:generateContent", true),
        ("/v1/images/generations", true),
        ("/v1/files", false),
        ("/v1/conversations", false),
        ("/v1beta/cachedContents", false),
        ("/v1/moderations", false),
    ] {
        assert_eq!(endpoint("POST", path).hides_model, hides, "{path}");
    }
}

#[test]
fn a_tuned_model_is_an_object_that_generates() {
    let path = "/v1beta/tunedModels/t:streamGenerateContent";
    let found = endpoint("POST", path);
    assert!(found.by_object && found.generates && found.stream_by_path);
    assert_eq!(found.repeat, Repeat::Safe);
    assert!(!endpoint("POST", "/v1/tunedModels/t:countTokens").generates);
}

#[test]
fn a_video_names_its_model_in_json_or_in_a_form() {
    let model = |media_type| {
        let headers = [("content-type", media_type)];
        match call("POST", "/v1/videos", &headers, None) {
            Lookup::Endpoint(endpoint) => endpoint.model,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(model("application/json"), ModelIn::OptionalBody);
    assert_eq!(
        model("multipart/form-data; boundary=b"),
        ModelIn::OptionalForm
    );
}

#[test]
fn the_id_of_an_upload_is_read_however_it_is_encoded() {
    let long = format!("upload_id={}", "x".repeat(1025));
    for (query, id) in [
        ("upload_id=AB-C", Some("upload_id=AB-C")),
        ("a=1&upload_id=AB%2DC&b", Some("upload_id=AB-C")),
        ("%75pload%5fid=a%2Bb", Some("upload_id=a+b")),
        ("upload_id=1&upload_id=2", Some("upload_id=1")),
        ("upload_ids=1", None),
        ("upload_id=", None),
        ("upload_id", None),
        ("upload_id=a%20b", None),
        (&long, None),
        ("", None),
    ] {
        assert_eq!(upload_id(query).as_deref(), id, "{query}");
    }
}

#[test]
fn gemini_methods_differ_in_what_may_be_repeated() {
    for (method, repeat, generates, stream) in [
        ("generateContent", Repeat::Safe, true, false),
        ("streamGenerateContent", Repeat::Safe, true, true),
        ("countTokens", Repeat::Safe, false, false),
        ("embedContent", Repeat::Safe, true, false),
        ("batchEmbedContents", Repeat::Safe, true, false),
        ("predict", Repeat::Safe, true, false),
        ("predictLongRunning", Repeat::Never, true, false),
        ("batchGenerateContent", Repeat::Never, true, false),
        ("asyncBatchEmbedContent", Repeat::Never, true, false),
        ("notYetKnown", Repeat::Never, true, false),
    ] {
        let path = format!("/v1beta/models/g:{method}");
        let (found, model) = gemini_call(&path);
        assert_eq!(
            (model, found.json, found.repeat),
            ("g", true, repeat),
            "{method}"
        );
        assert_eq!(
            (found.generates, found.stream_by_path),
            (generates, stream),
            "{method}"
        );
    }
}

#[test]
fn tavily_endpoints_choose_no_pool_by_model() {
    let post = Endpoint {
        generates: false,
        ..Endpoint::post(Tavily, ModelIn::Nowhere)
    };
    for path in ["/search", "/extract", "/crawl", "/map"] {
        assert_eq!(endpoint("POST", path), post, "{path}");
    }
    assert_eq!(
        endpoint("POST", "/research"),
        Endpoint {
            repeat: Repeat::Never,
            ..post
        }
    );
    assert_eq!(endpoint("GET", "/usage"), Endpoint::get(Tavily));
    let by_object = Endpoint {
        by_object: true,
        ..Endpoint::get(Tavily)
    };
    assert_eq!(endpoint("GET", "/research/0b-1"), by_object);
}

#[test]
fn model_lists_answer_in_the_protocol_that_asks() {
    let goog: &[(&'static str, &'static str)] = &[("x-goog-api-key", "k")];
    let anthropic: &[(&'static str, &'static str)] = &[("anthropic-version", "2023-06-01")];
    for (path, pairs, query, protocol, id) in [
        ("/v1/models", &[] as &[_], None, OpenAi, None),
        ("/v1/models", goog, None, Gemini, None),
        ("/v1/models", &[], Some("pageSize=5&key=k"), Gemini, None),
        ("/v1/models", &[], Some("%6Bey=k"), Gemini, None),
        ("/v1/models", &[], Some("monkey=k"), OpenAi, None),
        ("/v1/models", anthropic, Some("limit=5"), Anthropic, None),
        (
            "/v1/models/claude-x",
            anthropic,
            None,
            Anthropic,
            Some("claude-x"),
        ),
        ("/v1beta/models", anthropic, None, Gemini, None),
        (
            "/v1beta/models/gemini-3",
            &[],
            None,
            Gemini,
            Some("gemini-3"),
        ),
        (
            "/v1/models/meta-llama/x:free",
            &[],
            None,
            OpenAi,
            Some("meta-llama/x:free"),
        ),
        ("/v1/models/meta%2Fx", goog, None, Gemini, Some("meta%2Fx")),
    ] {
        let Lookup::Endpoint(found) = call("GET", path, pairs, query) else {
            panic!("{path}")
        };
        let shown = match found.models.as_ref().unwrap() {
            ModelsCall::List => None,
            ModelsCall::One(range) => Some(&path[range.clone()]),
        };
        assert_eq!((found.protocol, shown), (protocol, id), "{path}");
        assert_eq!(
            Endpoint {
                models: None,
                ..found
            },
            Endpoint::get(protocol),
            "{path}"
        );
    }
}

#[test]
fn known_paths_with_another_method() {
    for (method, path, protocol, takes) in [
        ("GET", "/v1/chat/completions", OpenAi, "POST"),
        ("OPTIONS", "/v1/chat/completions", OpenAi, "POST"),
        ("HEAD", "/v1/audio/translations", OpenAi, "POST"),
        ("GET", "/v1/responses", OpenAi, "POST"),
        ("post", "/v1/responses", OpenAi, "POST"),
        ("PUT", "/v1/messages", Anthropic, "POST"),
        ("HEAD", "/v1/models", OpenAi, "GET"),
        ("POST", "/v1/models", OpenAi, "GET"),
        ("DELETE", "/v1/models/ft:gpt:org", OpenAi, "GET, POST"),
        ("DELETE", "/v1/models/a/b", OpenAi, "GET"),
        ("POST", "/v1/models/gpt-4o", OpenAi, "GET"),
        ("OPTIONS", "/v1beta/models", Gemini, "GET"),
        (
            "PUT",
            "/v1beta/models/g:generateContent",
            Gemini,
            "GET, POST",
        ),
        ("GET", "/search", Tavily, "POST"),
        ("GET", "/research", Tavily, "POST"),
        ("POST", "/research/1", Tavily, "GET"),
        ("HEAD", "/usage", Tavily, "GET"),
    ] {
        assert_eq!(
            call(method, path, &[], None),
            Lookup::MethodNotAllowed(protocol, takes),
            "{method} {path}"
        );
    }
    assert_eq!(
        call("HEAD", "/v1/models", &[("anthropic-version", "x")], None),
        Lookup::MethodNotAllowed(Anthropic, "GET")
    );
}

#[test]
fn other_paths_are_unknown() {
    for path in [
        "",
        "/",
        "/v1",
        "/v1/",
        "/v1/chat/completions/",
        "/v1/chat",
        "//v1/messages",
        "/V1/messages",
        "/v1/chat%2Fcompletions",
        "/v1/models/",
        "/v1/models/a/",
        "/v1/models//a",
        "/v1/modelsx",
        "/search/",
        "/research/",
        "/research/a/b",
        "/research/a/",
        "/v1/images/other",
        "/v1betax/models",
        "/v1/rerank?x",
    ] {
        for method in ["GET", "POST", "DELETE"] {
            assert_eq!(
                call(method, path, &[], None),
                Lookup::Unknown(OpenAi),
                "{method} {path}"
            );
        }
    }
    assert_eq!(
        call("GET", "/nope", &[("anthropic-version", "x")], None),
        Lookup::Unknown(Anthropic)
    );
    assert_eq!(
        call("GET", "/nope", &[("x-goog-api-key", "x")], None),
        Lookup::Unknown(Gemini)
    );
    assert_eq!(
        call("GET", "/nope", &[], Some("key=x")),
        Lookup::Unknown(Gemini)
    );
    for path in [
        "/upload/v1beta/files/x",
        "/upload/v1beta/x",
        "/upload/files",
    ] {
        assert_eq!(
            call("POST", path, &[], Some("upload_id=U")),
            Lookup::Unknown(OpenAi),
            "{path}"
        );
    }
    assert_eq!(call("GET", "/v1beta/", &[], None), Lookup::Unknown(Gemini));
    assert_eq!(call("GET", "/v1beta", &[], None), Lookup::Unknown(Gemini));
}

const ALL: [Protocol; 4] = [OpenAi, Anthropic, Gemini, Tavily];

fn body(protocol: Protocol, status: u16, code: &str) -> Value {
    let error = OwnError {
        status,
        code,
        message: "Wait \"30\" s\nand try again.",
        dimension: None,
        retry_after: None,
    };
    serde_json::from_slice(&error_body(protocol, &error)).unwrap()
}

#[test]
fn own_errors_have_the_form_of_each_protocol() {
    let message = "Wait \"30\" s\nand try again.";
    assert_eq!(
        body(OpenAi, 503, "no_key_available"),
        json!({"error": {"message": message, "type": "service_unavailable_error", "param": null, "code": "no_key_available"}})
    );
    assert_eq!(
        body(Anthropic, 503, "no_key_available"),
        json!({"type": "error", "error": {
            "type": "overloaded_error", "message": message, "code": "no_key_available",
            "details": {"error_code": "no_key_available"},
        }})
    );
    assert_eq!(
        body(Gemini, 503, "no_key_available"),
        json!({"error": {"code": 503, "message": message, "status": "UNAVAILABLE", "details": [{
            "@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "NO_KEY_AVAILABLE", "domain": "keypool",
            "metadata": {"code": "no_key_available"},
        }]}})
    );
    assert_eq!(
        body(Tavily, 503, "no_key_available"),
        json!({"detail": {"error": message, "code": "no_key_available"}})
    );
}

#[test]
fn each_status_has_its_type() {
    for (status, types) in [
        (
            400,
            "invalid_request_error invalid_request_error INVALID_ARGUMENT",
        ),
        (
            401,
            "authentication_error authentication_error UNAUTHENTICATED",
        ),
        (403, "permission_error permission_error PERMISSION_DENIED"),
        (404, "invalid_request_error not_found_error NOT_FOUND"),
        (
            405,
            "invalid_request_error invalid_request_error UNIMPLEMENTED",
        ),
        (408, "invalid_request_error timeout_error DEADLINE_EXCEEDED"),
        (
            413,
            "invalid_request_error request_too_large INVALID_ARGUMENT",
        ),
        (429, "rate_limit_error rate_limit_error RESOURCE_EXHAUSTED"),
        (
            431,
            "invalid_request_error invalid_request_error INVALID_ARGUMENT",
        ),
        (500, "server_error api_error INTERNAL"),
        (502, "server_error api_error UNAVAILABLE"),
        (
            503,
            "service_unavailable_error overloaded_error UNAVAILABLE",
        ),
        (504, "server_error timeout_error DEADLINE_EXCEEDED"),
    ] {
        let openai = body(OpenAi, status, "c")["error"]["type"].take();
        let anthropic = body(Anthropic, status, "c")["error"]["type"].take();
        let gemini = body(Gemini, status, "c")["error"]["status"].take();
        let seen = [&openai, &anthropic, &gemini]
            .map(|word| word.as_str().unwrap())
            .join(" ");
        assert_eq!(seen, types, "{status}");
    }
}

#[test]
fn a_broken_stream_ends_with_one_event() {
    let error = OwnError {
        status: 503,
        code: "upstream_unreachable",
        message: "The stream broke.\n\nTry again.",
        dimension: None,
        retry_after: None,
    };
    for protocol in [OpenAi, Anthropic, Gemini] {
        let event = stream_error(protocol, &error);
        let text = std::str::from_utf8(&event).unwrap();
        assert!(
            text.ends_with("}\n\n") && !text.trim_end().contains("\n\n"),
            "{text}"
        );
        assert_eq!(
            &*event_data(&event),
            &*error_body(protocol, &error),
            "{text}"
        );
        assert_eq!(
            crate::sse::EventReader::default().next(&event),
            Some(0..event.len()),
            "{text}"
        );
    }
    // google-genai looks for exactly this beginning.
    assert!(stream_error(Gemini, &error).starts_with(b"data: {\"error\":"));
    assert!(stream_error(OpenAi, &error).starts_with(b"data: {\"error\":"));
    assert!(stream_error(Anthropic, &error).starts_with(b"event: error\ndata: {"));
    assert_eq!(stream_error(Tavily, &error), Bytes::new());
}

#[test]
fn own_errors_are_recognised_as_errors() {
    for status in [400, 401, 403, 404, 429, 503, 504] {
        let error = OwnError {
            status,
            code: "x",
            message: "m",
            dimension: None,
            retry_after: None,
        };
        for protocol in [OpenAi, Gemini, Anthropic] {
            assert!(
                error_in_event(&stream_error(protocol, &error)).is_some(),
                "{protocol:?} {status}"
            );
            assert!(
                error_in_body(&error_body(protocol, &error)).is_some(),
                "{protocol:?} {status}"
            );
        }
        assert_eq!(error_in_body(&error_body(Gemini, &error)), Some(status));
    }
}

fn listed() -> Vec<ListedModel> {
    let model = |id: &str, created, display_name: Option<&str>| ListedModel {
        id: id.to_owned(),
        owned_by: "pool".to_owned(),
        created,
        display_name: display_name.map(str::to_owned),
    };
    vec![
        model("alpha/one", 1_700_000_000, Some("Alpha \"1\"")),
        model("text-embed-2", 0, None),
    ]
}

fn parsed(bytes: &Bytes) -> Value {
    serde_json::from_slice(bytes).unwrap()
}

#[test]
fn model_lists_have_the_form_of_each_protocol() {
    let openai = json!({"object": "list", "data": [
        {"id": "alpha/one", "object": "model", "created": 1_700_000_000, "owned_by": "pool"},
        {"id": "text-embed-2", "object": "model", "created": 0, "owned_by": "pool"},
    ]});
    assert_eq!(parsed(&model_list(OpenAi, &listed())), openai);
    assert_eq!(parsed(&model_list(Tavily, &listed())), openai);
    assert_eq!(
        parsed(&model_list(Anthropic, &listed())),
        json!({"data": [
            {"type": "model", "id": "alpha/one", "display_name": "Alpha \"1\"", "created_at": "2023-11-14T22:13:20Z"},
            {"type": "model", "id": "text-embed-2", "display_name": "text-embed-2", "created_at": "1970-01-01T00:00:00Z"},
        ], "has_more": false, "first_id": "alpha/one", "last_id": "text-embed-2"})
    );
    assert_eq!(
        parsed(&model_list(Gemini, &listed())),
        json!({"models": [
            {"name": "models/alpha/one", "displayName": "Alpha \"1\"",
             "supportedGenerationMethods": ["generateContent", "streamGenerateContent", "countTokens"]},
            {"name": "models/text-embed-2", "displayName": "text-embed-2",
             "supportedGenerationMethods": ["embedContent", "batchEmbedContents", "countTokens"]},
        ]})
    );
}

#[test]
fn empty_lists_and_odd_dates() {
    assert_eq!(
        parsed(&model_list(OpenAi, &[])),
        json!({"object": "list", "data": []})
    );
    assert_eq!(
        parsed(&model_list(Anthropic, &[])),
        json!({"data": [], "has_more": false, "first_id": null, "last_id": null})
    );
    assert_eq!(parsed(&model_list(Gemini, &[])), json!({"models": []}));
    let odd = ListedModel {
        created: i64::MAX,
        ..listed().remove(0)
    };
    assert_eq!(
        parsed(&model_object(Anthropic, &odd))["created_at"],
        "1970-01-01T00:00:00Z"
    );
}

#[test]
fn one_model_looks_as_in_the_list() {
    for protocol in ALL {
        let list = parsed(&model_list(protocol, &listed()));
        let items = list.get("data").or(list.get("models")).unwrap();
        assert_eq!(
            items[0],
            parsed(&model_object(protocol, &listed()[0])),
            "{protocol:?}"
        );
    }
}
