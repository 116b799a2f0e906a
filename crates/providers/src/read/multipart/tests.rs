//! Forms as clients build them, as attackers might, and at random.

use proptest::prelude::*;

use super::*;

const TYPE: &[u8] = b"multipart/form-data; boundary=XX";

fn part(head: &str, value: &str) -> String {
    format!("--XX\r\n{head}\r\n\r\n{value}\r\n")
}

fn named(name: &str, value: &str) -> String {
    part(
        &format!("Content-Disposition: form-data; name=\"{name}\""),
        value,
    )
}

fn form(parts: &[String]) -> String {
    format!("{}--XX--\r\n", parts.concat())
}

fn model_of(body: &str) -> Result<Option<String>, FormError> {
    Ok(peek(TYPE, body.as_bytes())?.model.map(|model| model.name))
}

#[test]
fn the_model_is_found_at_any_position() {
    let file = part(
        "Content-Disposition: form-data; name=\"file\"; filename=\"a \\\"b\\\".wav\"\r\nContent-Type: audio/wav",
        &"\r\n--X\r\nXX--XX model\0\x01".repeat(3),
    );
    let model = named("model", "whisper-1");
    for parts in [
        vec![model.clone()],
        vec![file.clone(), model.clone()],
        vec![model.clone(), file.clone()],
        vec![
            named("prompt", "name=\"model\""),
            file,
            model.clone(),
            named("n", ""),
        ],
    ] {
        let text = form(&parts);
        let seen = peek(TYPE, text.as_bytes()).unwrap().model.unwrap();
        assert_eq!(seen.name, "whisper-1");
        assert_eq!(&text[seen.range], "whisper-1");
    }
    assert_eq!(model_of(&form(&[])), Ok(None));
    assert_eq!(
        model_of(&form(&[named("models", "m"), named("Model", "m")])),
        Ok(None)
    );
    assert_eq!(
        model_of(&form(&[named("model", "")])),
        Ok(Some(String::new()))
    );
}

#[test]
fn the_variants_that_clients_use_are_read() {
    for head in [
        "Content-Disposition: form-data; name=\"model\"",
        "content-disposition:form-data;name=\"model\"",
        "CONTENT-DISPOSITION: FORM-DATA; NAME=model",
        "Content-Disposition: form-data; name = \"model\" ;",
        "Content-Type: text/plain; charset=utf-8\r\nContent-Disposition: form-data; name=model; x=\"a;b\"",
        "Content-Disposition: form-data; name=\"model\"\r\nContent-Transfer-Encoding: 8bit",
    ] {
        assert_eq!(
            model_of(&form(&[part(head, "m")])),
            Ok(Some("m".to_owned())),
            "{head}"
        );
    }
    let body = form(&[named("model", "m")]);
    for content_type in [
        "multipart/form-data; boundary=\"XX\"",
        "Multipart/Form-Data;boundary=XX",
        "multipart/form-data; charset=utf-8; BOUNDARY=\"XX\"; a=b",
    ] {
        assert!(
            peek(content_type.as_bytes(), body.as_bytes())
                .unwrap()
                .model
                .is_some(),
            "{content_type}"
        );
    }
    let preamble = format!("\r\n{body}");
    assert_eq!(model_of(&preamble), Ok(Some("m".to_owned())));
    let padded = body
        .replace("--XX\r\n", "--XX \t\r\n")
        .replace("--XX--\r\n", "--XX-- \r\nthe end");
    assert_eq!(model_of(&padded), Ok(Some("m".to_owned())));
}

#[test]
fn stream_is_read() {
    for (value, expect) in [
        ("true", true),
        ("True", true),
        ("false", false),
        ("1", false),
    ] {
        let body = form(&[named("stream", value)]);
        assert_eq!(
            peek(TYPE, body.as_bytes()).unwrap().stream,
            expect,
            "{value}"
        );
    }
}

#[test]
fn ambiguous_forms_are_refused() {
    let model = named("model", "m");
    let whole = form(std::slice::from_ref(&model));
    let broken = [
        ("no end", whole.replace("--XX--\r\n", "")),
        ("cut", whole[..whole.len() - 6].to_owned()),
        ("nothing", String::new()),
        ("no boundary", "hello".to_owned()),
        (
            "a line end of its own",
            whole.replace("m\r\n--XX--", "m\n--XX--"),
        ),
        ("a longer boundary", whole.replace("--XX--", "--XXY--")),
        ("text after it", whole.replace("--XX\r\n", "--XX x\r\n")),
        ("a part after the end", format!("{whole}--XX\r\n")),
        ("a form after the end", format!("{whole}{whole}")),
        (
            "headers without end",
            form(&[
                part("Content-Disposition: form-data; name=\"a\"", "b").replace("\r\n\r\n", "\r\n")
            ]),
        ),
        ("an empty part", format!("--XX\r\n--XX\r\n{whole}")),
    ];
    for (what, body) in broken {
        assert!(
            matches!(model_of(&body), Err(FormError::Broken(_))),
            "{what}: {:?}",
            model_of(&body)
        );
    }
}

#[test]
fn text_after_the_last_boundary_is_ignored_unless_it_has_one() {
    let whole = form(&[named("model", "m")]);
    for behind in [
        "",
        "the end",
        "\r\n\r\nthe end\r\n",
        "--YY\r\n",
        "see --XX and XX--\r\n",
        "-\r\n--X\r\n",
    ] {
        let body = format!("{whole}{behind}");
        assert_eq!(model_of(&body), Ok(Some("m".to_owned())), "{behind:?}");
    }
    let other = named("model", "n");
    for behind in [
        other.clone(),
        format!("\r\n{other}"),
        format!("the end\r\n{other}--XX--\r\n"),
        format!("the end\n{other}"),
        format!("the end\r{other}"),
        "--XX--".to_owned(),
        "--XX--\r\n".to_owned(),
        "the end\r\n--XX".to_owned(),
        "the end\r\n--XXY\r\n".to_owned(),
    ] {
        let body = format!("{whole}{behind}");
        assert!(
            matches!(model_of(&body), Err(FormError::Broken(_))),
            "{behind:?}: {:?}",
            model_of(&body)
        );
    }
    let ends_there = whole.trim_end();
    assert_eq!(model_of(ends_there), Ok(Some("m".to_owned())));
    assert!(model_of(&format!("{ends_there}the end")).is_err());
}

#[test]
fn ambiguous_heads_are_refused() {
    for head in [
        "Content-Type: text/plain",
        "Content-Disposition: form-data",
        "Content-Disposition: form-data; name*=UTF-8''model",
        "Content-Disposition: form-data; name=\"a\"; name=\"model\"",
        "Content-Disposition: form-data; name=\"mod\\el\"",
        "Content-Disposition: form-data; name=\"%6dodel\"",
        "Content-Disposition: form-data; name=\" model\"",
        "Content-Disposition: form-data; name=\"a\"\r\nContent-Disposition: form-data; name=\"model\"",
        "Content-Disposition: form-data;\r\n name=\"model\"",
        "Content-Disposition: form-data; name=\"a\n\"",
        "Content-Disposition: form-data; name=\"model",
        "Content-Disposition: form-data; name=\"a\"model\"",
        "Content-Disposition: attachment; name=\"model\"",
        "no header",
        "Content-Disposition: form-data; name=\"model\"\r\nContent-Transfer-Encoding: base64",
    ] {
        let body = form(&[part(head, "m")]);
        assert!(
            matches!(model_of(&body), Err(FormError::Broken(_))),
            "{head}: {:?}",
            model_of(&body)
        );
    }
}

#[test]
fn forms_that_name_no_one_model_say_why() {
    let model = named("model", "m");
    let whole = form(std::slice::from_ref(&model));
    assert_eq!(
        model_of(&form(&[model.clone(), model.clone()])),
        Err(FormError::TwoModels)
    );
    let file = part(
        "Content-Disposition: form-data; name=\"model\"; filename=\"m.txt\"",
        "m",
    );
    assert_eq!(model_of(&form(&[file])), Err(FormError::ModelIsAFile));
    let not_utf8 = [
        b"--XX\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\n".as_slice(),
        b"\xff\r\n--XX--",
    ]
    .concat();
    assert_eq!(peek(TYPE, &not_utf8), Err(FormError::NotUtf8));
    for content_type in [
        "",
        "application/json",
        "multipart/form-data",
        "multipart/mixed; boundary=XX",
        "multipart/form-data; boundary=",
        "multipart/form-data; boundary=XX; boundary=YY",
        "multipart/form-data; boundary=\"XX",
    ] {
        assert_eq!(
            peek(content_type.as_bytes(), whole.as_bytes()),
            Err(FormError::NotAForm),
            "{content_type}"
        );
    }
    let long = format!("multipart/form-data; boundary={}", "X".repeat(71));
    assert_eq!(
        peek(long.as_bytes(), whole.as_bytes()),
        Err(FormError::NotAForm)
    );
}

/// One part as a client that builds forms would describe it.
#[derive(Clone, Debug)]
struct Made {
    name: &'static str,
    file: bool,
    value: Vec<u8>,
}

fn made() -> impl Strategy<Value = Made> {
    let pieces = prop::sample::select(vec![
        b"m".to_vec(),
        b"gpt".to_vec(),
        b"\r\n".to_vec(),
        b"\n".to_vec(),
        b"\r".to_vec(),
        b"-".to_vec(),
        b"--".to_vec(),
        b"--B".to_vec(),
        b"name=\"model\"".to_vec(),
        b"\r\n\r\n".to_vec(),
        vec![0, 255],
        b" ".to_vec(),
    ]);
    let value = prop::collection::vec(pieces, 0..6).prop_map(|pieces| pieces.concat());
    let name = prop::sample::select(vec!["model", "model", "file", "stream", "models", "x"]);
    (name, any::<bool>(), value).prop_map(|(name, file, value)| Made { name, file, value })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// A form is built from known parts: the result must be the part, or the reason why it is refused.
    #[test]
    fn finds_the_model_of_any_form(
        parts in prop::collection::vec(made(), 0..5),
        dashes in 0usize..30,
        quoted in any::<bool>(),
        preamble in any::<bool>(),
    ) {
        let boundary = format!("{}Bound9", "-".repeat(dashes));
        let mut body = if preamble { b"before\r\n".to_vec() } else { Vec::new() };
        let mut ranges = Vec::new();
        for part in &parts {
            let file = if part.file { "; filename=\"f\"\r\nContent-Type: a/b" } else { "" };
            body.extend_from_slice(format!("--{boundary}\r\nContent-Disposition: form-data; name=\"{}\"{file}\r\n\r\n", part.name).as_bytes());
            ranges.push(body.len()..body.len() + part.value.len());
            body.extend_from_slice(&part.value);
            body.extend_from_slice(b"\r\n");
        }
        body.extend_from_slice(format!("--{boundary}--\r\n").as_bytes());
        let quote = if quoted { "\"" } else { "" };
        let content_type = format!("multipart/form-data; boundary={quote}{boundary}{quote}");
        let seen = peek(content_type.as_bytes(), &body);
        let mut models = parts.iter().zip(&ranges).filter(|(part, _)| part.name == "model");
        let expected = match models.next() {
            None => Ok(None),
            Some((part, _)) if part.file => Err(FormError::ModelIsAFile),
            Some((part, range)) => match std::str::from_utf8(&part.value) {
                Err(_) => Err(FormError::NotUtf8),
                Ok(_) if models.next().is_some() => Err(FormError::TwoModels),
                Ok(name) => Ok(Some(ModelAt { name: name.to_owned(), range: range.clone() })),
            },
        };
        prop_assert_eq!(seen.map(|form| form.model), expected);
    }

    #[test]
    fn any_bytes_are_read_without_harm(
        bytes in prop::collection::vec(prop::sample::select(b"-X\r\n:;=\" model\\\0\xff".to_vec()), 0..120),
    ) {
        if let Ok(FormPeek { model: Some(model), .. }) = peek(TYPE, &bytes) {
            prop_assert_eq!(&bytes[model.range], model.name.as_bytes());
        }
    }
}
