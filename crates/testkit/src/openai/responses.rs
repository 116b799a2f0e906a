//! OpenAI's Responses endpoint: whole, as typed events, and retrieved by id.
//!
//! This module must never know of sockets, scripts or steps.

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::answer::{Answer, ApiError, EVENTS, Reply, quoted};
use crate::call::Call;
use crate::request_text::words_of;

#[derive(Deserialize)]
struct ResponsesBody<'a> {
    model: Option<String>,
    #[serde(borrow)]
    input: Option<&'a RawValue>,
    stream: Option<bool>,
    store: Option<bool>,
    max_output_tokens: Option<u64>,
    previous_response_id: Option<String>,
}

/// The fields that all formats of one response share.
struct ResponseFields {
    id: String,
    message_id: String,
    model: String,
    created: u64,
    store: bool,
    previous: String,
}

pub(super) fn create(call: &Call<'_>) -> Result<Answer, ApiError> {
    let body: ResponsesBody<'_> = call.parse()?;
    let model = quoted(&super::required(body.model)?);
    let input = body
        .input
        .map(|raw| words_of(raw.get()))
        .unwrap_or_default();
    if let Some(previous) = &body.previous_response_id
        && !call.state.owns(previous, call.key)
    {
        return Err(ApiError::invalid(format!(
            "Previous response with id '{previous}' not found."
        )));
    }
    let reply = call.reply(&input, body.max_output_tokens);
    let subject = ResponseFields {
        id: call.state.id("resp_"),
        message_id: call.state.id("msg_"),
        model,
        created: call.state.unix(),
        store: body.store.unwrap_or(true),
        previous: body
            .previous_response_id
            .map_or("null".to_owned(), |id| quoted(&id)),
    };
    if subject.store {
        call.state.own(&subject.id, call.key);
    }
    if body.stream == Some(true) {
        return Ok(Answer::stream(
            call.protocol,
            call.state,
            EVENTS,
            events(call, &subject, &reply),
        ));
    }
    Ok(Answer::json(
        call.protocol,
        call.state,
        finished(call, &subject, &reply),
    ))
}

pub(super) fn get(call: &Call<'_>, id: &str) -> Result<Answer, ApiError> {
    known(call, id)?;
    let subject = ResponseFields {
        id: id.to_owned(),
        message_id: call.state.id("msg_"),
        model: quoted("mock-large"),
        created: call.state.unix(),
        store: true,
        previous: "null".to_owned(),
    };
    Ok(Answer::json(
        call.protocol,
        call.state,
        finished(call, &subject, &call.reply("", None)),
    ))
}

pub(super) fn delete(call: &Call<'_>, id: &str) -> Result<Answer, ApiError> {
    known(call, id)?;
    let text = format!(
        r#"{{"id":{},"object":"response","deleted":true}}"#,
        quoted(id)
    );
    Ok(Answer::json(call.protocol, call.state, text))
}

fn known(call: &Call<'_>, id: &str) -> Result<(), ApiError> {
    let found = call.state.owns(id, call.key);
    if found {
        Ok(())
    } else {
        Err(ApiError::not_found(format!(
            "Response with id '{id}' not found."
        )))
    }
}

fn part(text: &str) -> String {
    format!(r#"{{"type":"output_text","annotations":[],"logprobs":[],"text":{text}}}"#)
}

fn item(subject: &ResponseFields, status: &str, content: &str) -> String {
    let id = &subject.message_id;
    format!(
        r#"{{"id":"{id}","type":"message","status":"{status}","content":[{content}],"role":"assistant"}}"#
    )
}

/// The response object with an `output` and a `usage`.
fn object(subject: &ResponseFields, status: &str, output: &str, usage: &str) -> String {
    let ResponseFields {
        id,
        model,
        created,
        store,
        previous,
        ..
    } = subject;
    let incomplete = if status == "incomplete" {
        r#"{"reason":"max_output_tokens"}"#
    } else {
        "null"
    };
    format!(
        r#"{{"id":"{id}","object":"response","created_at":{created},"status":"{status}","background":false,"error":null,"incomplete_details":{incomplete},"instructions":null,"max_output_tokens":null,"model":{model},"output":[{output}],"parallel_tool_calls":true,"previous_response_id":{previous},"reasoning":{{"effort":null,"summary":null}},"store":{store},"temperature":1.0,"text":{{"format":{{"type":"text"}}}},"tool_choice":"auto","tools":[],"top_p":1.0,"truncation":"disabled","usage":{usage},"user":null,"metadata":{{}}}}"#
    )
}

fn last_status(reply: &Reply) -> &'static str {
    if reply.cut_short {
        "incomplete"
    } else {
        "completed"
    }
}

fn finished(call: &Call<'_>, subject: &ResponseFields, reply: &Reply) -> String {
    let usage = call.usage(format!(
        r#"{{"input_tokens":{},"input_tokens_details":{{"cached_tokens":0}},"output_tokens":{},"output_tokens_details":{{"reasoning_tokens":0}},"total_tokens":{}}}"#,
        reply.input_tokens,
        reply.output_tokens,
        reply.total_tokens(),
    ));
    let status = last_status(reply);
    object(
        subject,
        status,
        &item(subject, status, &part(&quoted(&reply.text()))),
        &usage,
    )
}

/// Numbers and formats the typed events.
struct Events(Vec<Bytes>);

impl Events {
    fn push(&mut self, kind: &str, fields: &str) {
        let n = self.0.len();
        self.0.push(Bytes::from(format!(
            "event: {kind}\ndata: {{\"type\":\"{kind}\",\"sequence_number\":{n},{fields}}}\n\n"
        )));
    }
}

fn events(call: &Call<'_>, subject: &ResponseFields, reply: &Reply) -> Vec<Bytes> {
    let mut events = Events(Vec::with_capacity(reply.pieces.len() + 8));
    let id = &subject.message_id;
    let begun = format!(
        r#""response":{}"#,
        object(subject, "in_progress", "", "null")
    );
    let text = quoted(&reply.text());
    let place = format!(r#""item_id":"{id}","output_index":0,"content_index":0"#);
    events.push("response.created", &begun);
    events.push("response.in_progress", &begun);
    let open = item(subject, "in_progress", "");
    events.push(
        "response.output_item.added",
        &format!(r#""output_index":0,"item":{open}"#),
    );
    events.push(
        "response.content_part.added",
        &format!(r#"{place},"part":{}"#, part("\"\"")),
    );
    for piece in &reply.pieces {
        events.push(
            "response.output_text.delta",
            &format!(r#"{place},"delta":{},"logprobs":[]"#, quoted(piece)),
        );
    }
    events.push(
        "response.output_text.done",
        &format!(r#"{place},"text":{text},"logprobs":[]"#),
    );
    events.push(
        "response.content_part.done",
        &format!(r#"{place},"part":{}"#, part(&text)),
    );
    let done = item(subject, last_status(reply), &part(&text));
    events.push(
        "response.output_item.done",
        &format!(r#""output_index":0,"item":{done}"#),
    );
    let last = format!("response.{}", last_status(reply));
    events.push(
        &last,
        &format!(r#""response":{}"#, finished(call, subject, reply)),
    );
    events.0
}
