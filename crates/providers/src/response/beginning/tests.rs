//! Whole responses, and the same byte by byte.

use super::*;

const OPENING: &str = "data: {\"type\":\"response.created\"}\n\n";
const OUTPUT: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n";

fn read(content_type: &str, stream: bool, body: &str) -> Beginning {
    read_as(content_type, stream, false, body)
}

/// `may_be_text`: of a call that may be answered by plain text.
fn read_as(content_type: &str, stream: bool, may_be_text: bool, body: &str) -> Beginning {
    let expected = Expected {
        media: Media::of(content_type.as_bytes()),
        stream,
        may_be_text,
        holds_opening: true,
    };
    let whole = BeginningReader::new(expected).read(body.as_bytes(), true);
    // Byte by byte, the same is found, at the latest at the end.
    let mut reader = BeginningReader::new(expected);
    let found = (0..body.len())
        .map(|end| reader.read(&body.as_bytes()[..end], false))
        .find(|found| *found != Beginning::Undecided)
        .unwrap_or_else(|| reader.read(body.as_bytes(), true));
    let is_output = |found: &Beginning| *found == Beginning::Output;
    assert!(
        found == whole || is_output(&found) == is_output(&whole),
        "{body}: {found:?}, {whole:?}"
    );
    whole
}

fn status(found: &Beginning) -> Option<u16> {
    match found {
        Beginning::Error { status, .. } => Some(*status),
        _ => None,
    }
}

#[test]
fn an_answer_is_found_by_its_first_bytes() {
    for (content_type, stream, body) in [
        ("application/json", false, r#"{"choices":[]}"#),
        ("application/json", false, " \n\r\n[1]"),
        ("application/json; charset=utf-8", false, "\"text\""),
        ("application/json", true, r#"[{"candidates":[]}"#),
        ("application/x-ndjson", true, "{\"a\":1}\n{\"b\":"),
        ("", false, r#"{"data":[]}"#),
        ("audio/mpeg", false, "{"),
        ("audio/pcm", false, "  "),
        ("text/event-stream", true, OUTPUT),
        ("text/event-stream", true, "data: text\n\n"),
        ("text/plain", true, OUTPUT),
        ("", true, OUTPUT),
        ("text/event-stream", true, r#"{"choices":[{}]}"#),
    ] {
        assert_eq!(
            read(content_type, stream, body),
            Beginning::Output,
            "{content_type}: {body}"
        );
    }
    let opened = format!(": hi\n\n{OPENING}data:\n\n{OUTPUT}");
    assert_eq!(read("text/event-stream", true, &opened), Beginning::Output);
    let role_only =
        "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\"}}]}\n\ndata: [DONE]\n\n";
    assert_eq!(
        read("text/event-stream", true, role_only),
        Beginning::Output
    );
}

#[test]
fn sound_and_text_are_answers_where_they_may_be() {
    for (content_type, body) in [
        ("", "ID3\u{3}sound"),
        ("application/octet-stream", "RIFF"),
        ("text/plain", "[Music] and no JSON"),
        ("text/plain", "<i>said</i>"),
        ("text/plain", "\n"),
        ("text/vtt", "WEBVTT"),
        ("text/plain", ": not an event"),
    ] {
        assert_eq!(
            read_as(content_type, false, true, body),
            Beginning::Output,
            "{body}"
        );
    }
    for (content_type, body) in [
        ("text/html", "<!-- c -->\n<html>"),
        ("text/plain", ""),
        ("audio/mpeg", ""),
    ] {
        let found = read_as(content_type, false, true, body);
        assert!(matches!(found, Beginning::Nothing(_)), "{body}: {found:?}");
    }
    let error = r#"{"error":{"code":503}}"#;
    for content_type in ["audio/mpeg", "application/octet-stream", "text/plain"] {
        assert_eq!(
            status(&read_as(content_type, false, true, error)),
            Some(503)
        );
    }
}

#[test]
fn errors_are_found_in_every_form() {
    let bare = r#"{"error":{"code":429}}"#;
    let anthropic =
        "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"rate_limit_error\"}}";
    for (content_type, stream, body) in [
        ("application/json", false, bare.to_owned()),
        ("application/json", false, format!("\n\n \u{20}{bare}")),
        ("application/json", false, format!("\u{feff}{bare}")),
        ("application/json", true, format!("[{bare}]")),
        ("text/event-stream", true, bare.to_owned()),
        ("text/plain", false, bare.to_owned()),
        ("", false, bare.to_owned()),
        ("text/event-stream", true, format!("data: {bare}\n\n")),
        (
            "text/event-stream",
            true,
            format!("{OPENING}data: {bare}\n\n"),
        ),
        (
            "text/event-stream",
            true,
            format!("id: 1\n\nretry: 5\n\ndata:\n\n{anthropic}\n\n"),
        ),
        ("text/event-stream", true, anthropic.to_owned()),
        ("text/event-stream", true, format!("data: {bare}\n")),
        ("text/plain", true, format!("data: {bare}\n\n")),
        ("", true, anthropic.to_owned()),
        ("application/json", true, format!("data: {bare}")),
        (
            "text/event-stream",
            true,
            format!("{bare}\ndata: [DONE]\n\n"),
        ),
        (
            "application/json",
            false,
            r#"{"object":"error","code":429,"message":"m"}"#.to_owned(),
        ),
        (
            "application/json",
            false,
            r#"{"type":"error","code":"rate_limited"}"#.to_owned(),
        ),
    ] {
        assert_eq!(
            status(&read(content_type, stream, &body)),
            Some(429),
            "{content_type}: {body}"
        );
    }
}

#[test]
fn a_response_without_an_answer_is_nothing() {
    for (content_type, stream, body) in [
        ("application/json", false, ""),
        ("application/json", false, " \n\n"),
        ("audio/mpeg", false, ""),
        ("application/json", false, r#"{"choices":[{"mess"#),
        ("", false, r#"{"choices":["#),
        ("application/json", false, "upstream connect error"),
        ("application/json", false, "<html>login</html>"),
        ("text/html", false, "\n<!DOCTYPE html><p>"),
        ("text/html", false, "<script>location='x'</script>"),
        ("text/plain", false, "OK"),
        ("", false, "all good"),
        ("text/plain", true, "upstream connect error"),
        ("text/plain", false, "{\"choices\":[{\"mess"),
        ("text/plain", false, "<HTML>"),
        ("text/event-stream", true, "<html>"),
        ("text/event-stream", true, ""),
        (
            "text/event-stream",
            true,
            ": keep-alive\n\n: keep-alive\n\n",
        ),
        ("text/event-stream", true, "id: 1\n\n"),
        ("text/event-stream", true, OPENING),
        (
            "text/event-stream",
            true,
            "data: {\"choices\":[{\"delta\":{\"content\":\"a",
        ),
        ("text/event-stream", true, "data: [DONE]\n\n"),
        ("", true, ": hi\n\n"),
    ] {
        let found = read(content_type, stream, body);
        assert!(
            matches!(found, Beginning::Nothing(_)),
            "{content_type}: {body}: {found:?}"
        );
    }
}

#[test]
fn the_opening_of_background_work_is_its_answer() {
    let expected = Expected {
        media: Media::Events,
        stream: true,
        may_be_text: false,
        holds_opening: false,
    };
    let mut reader = BeginningReader::new(expected);
    assert_eq!(reader.read(b": hi\n\n", false), Beginning::Undecided);
    let body = format!(": hi\n\n{OPENING}");
    assert_eq!(reader.read(body.as_bytes(), false), Beginning::Output);
}
