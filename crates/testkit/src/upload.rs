//! Gemini's resumable uploads (`X-Goog-Upload-Protocol: resumable`): started, sent in pieces to the address in the first
//! response, then finalized. A client can query how much was received, and cancel.
//!
//! This module must never know of sockets or steps.

use bytes::Bytes;
use http::header::HOST;
use http::request::Parts;
use http::{HeaderValue, Method};

use crate::answer::{Answer, ApiError, Kind};
use crate::call::{Call, query_param};
use crate::objects;
use crate::state::Status;

/// The size of every piece except the last must be a multiple of this.
const GRANULARITY: &str = "262144";

/// A step of an upload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Endpoint {
    /// Starts an upload. The next steps go to `host`; `mime_type` is the file's type.
    Start { host: String, mime_type: String },
    /// Continues an upload.
    Step {
        id: String,
        /// `upload`, `finalize`, both, `query` or `cancel`.
        commands: Vec<String>,
        offset: Option<u64>,
    },
}

impl Endpoint {
    /// The step of a request below `/upload/`; `None` if its headers name none.
    pub(crate) fn of(head: &Parts) -> Option<Self> {
        let text = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok());
        let commands: Vec<String> = text("x-goog-upload-command")
            .unwrap_or_default()
            .split(',')
            .map(|command| command.trim().to_ascii_lowercase())
            .collect();
        if !matches!(head.method, Method::POST | Method::PUT)
            || !head.uri.path().starts_with("/upload/")
        {
            return None;
        }
        if let Some(id) = query_param(head.uri.query().unwrap_or_default(), "upload_id") {
            let offset = text("x-goog-upload-offset").and_then(|offset| offset.parse().ok());
            return Some(Self::Step {
                id,
                commands,
                offset,
            });
        }
        let starts = text("x-goog-upload-protocol") == Some("resumable") && commands == ["start"];
        starts.then(|| Self::Start {
            host: text(HOST.as_str()).unwrap_or("localhost").to_owned(),
            mime_type: text("x-goog-upload-header-content-type")
                .unwrap_or("application/octet-stream")
                .to_owned(),
        })
    }
}

/// The normal response.
pub(crate) fn answer(endpoint: &Endpoint, call: &Call<'_>) -> Result<Answer, ApiError> {
    match endpoint {
        Endpoint::Start { host, mime_type } => Ok(start(call, host, mime_type)),
        Endpoint::Step {
            id,
            commands,
            offset,
        } => step(call, id, commands, *offset),
    }
}

fn start(call: &Call<'_>, host: &str, mime_type: &str) -> Answer {
    // As long as a real id.
    let id = [call.state.id("up-"), call.state.id(""), call.state.id("")].concat();
    call.state.own(&id, call.key);
    call.state.upload(&id, |progress| {
        progress.mime_type = mime_type.to_owned();
    });
    let next =
        format!("http://{host}/upload/v1beta/files?upload_id={id}&upload_protocol=resumable");
    empty(call)
        .header("x-goog-upload-url", &next)
        .header("x-goog-upload-control-url", &next)
        .header("x-goog-upload-chunk-granularity", GRANULARITY)
        .header("x-goog-upload-status", "active")
}

fn step(
    call: &Call<'_>,
    id: &str,
    commands: &[String],
    offset: Option<u64>,
) -> Result<Answer, ApiError> {
    if !call.state.owns(id, call.key) {
        return Err(ApiError::new(404, Kind::NotFound, "No such upload."));
    }
    let has_command = |name: &str| commands.iter().any(|command| command == name);
    let progress = call.state.upload(id, |progress| {
        if progress.status != Status::Active {
            return Ok(progress.clone());
        }
        if has_command("upload") {
            if offset != Some(progress.received) {
                return Err(ApiError::invalid(
                    "X-Goog-Upload-Offset is not what was received.",
                ));
            }
            progress.received += call.body.len() as u64;
        }
        if has_command("finalize") {
            progress.status = Status::Final;
        } else if has_command("cancel") {
            progress.status = Status::Cancelled;
        }
        Ok(progress.clone())
    })?;
    let (status, answer) = match progress.status {
        Status::Active => ("active", empty(call)),
        Status::Cancelled => ("cancelled", empty(call)),
        Status::Final if has_command("finalize") => ("final", objects::uploaded(call, &progress)),
        Status::Final => ("final", empty(call)),
    };
    Ok(answer.header("x-goog-upload-status", status).header(
        "x-goog-upload-size-received",
        &progress.received.to_string(),
    ))
}

fn empty(call: &Call<'_>) -> Answer {
    let text = HeaderValue::from_static("text/plain; charset=utf-8");
    Answer::whole(call.protocol, call.state, text, Bytes::new())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The step of a request with these upload headers.
    fn endpoint(request: &str, headers: &[(&str, &str)]) -> Option<Endpoint> {
        let (method, uri) = request.split_once(' ').unwrap();
        let mut request = http::Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            request = request.header(format!("x-goog-upload-{name}"), *value);
        }
        Endpoint::of(&request.body(()).unwrap().into_parts().0)
    }

    #[test]
    fn headers_select_the_step() {
        let start = [("protocol", "resumable"), ("command", "start")];
        assert!(matches!(
            endpoint("POST /upload/v1beta/files", &start),
            Some(Endpoint::Start { .. })
        ));
        assert_eq!(
            endpoint(
                "PUT /upload/v1beta/files?upload_id=U",
                &[("command", "upload, Finalize"), ("offset", "7")]
            ),
            Some(Endpoint::Step {
                id: "U".to_owned(),
                commands: vec!["upload".to_owned(), "finalize".to_owned()],
                offset: Some(7),
            })
        );
        for (request, headers) in [
            ("POST /upload/v1beta/files", &[][..]),
            ("POST /upload/v1beta/files", &start[..1]),
            ("POST /v1beta/files", &start),
            ("GET /upload/v1beta/files?upload_id=U", &[]),
        ] {
            assert_eq!(endpoint(request, headers), None, "{request}");
        }
    }
}
