//! The lines of the files with results.

use std::sync::Arc;

use bytes::Bytes;
use keypool_core::store::{BatchUsage, JobClaim, JobError, JobResponse, LineResult};
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};

use crate::jobs::ResponseHead;

/// One line, as in OpenAI's Batch API.
#[derive(Serialize)]
struct OutputLine<'a> {
    id: String,
    custom_id: &'a str,
    response: Option<LineResponse>,
    error: Option<LineError<'a>>,
}

#[derive(Serialize)]
struct LineResponse {
    status_code: u16,
    request_id: Option<String>,
    body: Box<RawValue>,
}

#[derive(Serialize)]
struct LineError<'a> {
    code: &'a str,
    message: &'a str,
}

/// Which line a result is of.
pub(super) struct LineOf<'a> {
    pub(super) claim: &'a JobClaim,
    pub(super) batch: &'a Arc<str>,
    pub(super) line: u64,
    pub(super) custom_id: &'a str,
}

impl LineOf<'_> {
    /// The result of a call with this response; without one, the error.
    pub(super) fn result(
        &self,
        succeeded: bool,
        response: Option<JobResponse>,
        error: Option<&JobError>,
    ) -> LineResult {
        let body = response.as_ref().map(|response| response.rest.clone());
        let usage = body.as_ref().map_or_else(BatchUsage::default, usage);
        let response = response.map(line_response);
        let error = error.filter(|_| response.is_none());
        let text = serde_json::to_string(&OutputLine {
            id: format!("batch_req_{:032x}", fastrand::u128(..)),
            custom_id: self.custom_id,
            response,
            error: error.map(|error| LineError {
                code: &error.code,
                message: &error.message,
            }),
        });
        LineResult {
            claim: self.claim.clone(),
            batch: Arc::clone(self.batch),
            line: self.line,
            succeeded,
            text: text.unwrap_or_default(),
            usage,
        }
    }
}

fn line_response(response: JobResponse) -> LineResponse {
    let head = ResponseHead::from_json(&response.head);
    let header = |name: &str| {
        let headers = head.iter().flat_map(|head| &head.headers);
        headers
            .filter(|(known, _)| known == name)
            .map(|(_, value)| value.clone())
            .next()
    };
    LineResponse {
        status_code: head.as_ref().map_or(0, |head| head.status),
        request_id: header("x-request-id"),
        body: json_of(&response.rest),
    }
}

/// The body as JSON on one line: as it is, or as a string if it is none.
fn json_of(body: &Bytes) -> Box<RawValue> {
    let has_breaks = memchr::memchr2(b'\n', b'\r', body).is_some();
    let json = match has_breaks {
        // Between tokens only, since a string has none. Reading and writing it removes them.
        true => {
            serde_json::from_slice::<serde_json::Value>(body).and_then(|value| to_raw_value(&value))
        }
        false => serde_json::from_slice::<Box<RawValue>>(body),
    };
    json.or_else(|_| to_raw_value(&String::from_utf8_lossy(body)))
        .unwrap_or_else(|_| RawValue::NULL.to_owned())
}

#[derive(Deserialize)]
struct WithUsage {
    usage: Option<ReportedUsage>,
}

/// What chat, completions, embeddings and responses report.
#[derive(Default, Deserialize)]
struct ReportedUsage {
    #[serde(alias = "prompt_tokens", default)]
    input_tokens: u64,
    #[serde(alias = "completion_tokens", default)]
    output_tokens: u64,
    #[serde(alias = "prompt_tokens_details")]
    input_tokens_details: Option<InputDetails>,
    #[serde(alias = "completion_tokens_details")]
    output_tokens_details: Option<OutputDetails>,
}

#[derive(Default, Deserialize)]
struct InputDetails {
    #[serde(default)]
    cached_tokens: u64,
}

#[derive(Default, Deserialize)]
struct OutputDetails {
    #[serde(default)]
    reasoning_tokens: u64,
}

fn usage(body: &Bytes) -> BatchUsage {
    let read = serde_json::from_slice::<WithUsage>(body).ok();
    let usage = read.and_then(|read| read.usage).unwrap_or_default();
    BatchUsage {
        input_tokens: usage.input_tokens,
        cached_tokens: usage.input_tokens_details.unwrap_or_default().cached_tokens,
        output_tokens: usage.output_tokens,
        reasoning_tokens: usage
            .output_tokens_details
            .unwrap_or_default()
            .reasoning_tokens,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(body: &str) -> (serde_json::Value, BatchUsage) {
        let claim = JobClaim {
            id: "j".into(),
            attempt: 1,
        };
        let of = LineOf {
            claim: &claim,
            batch: &"b".into(),
            line: 3,
            custom_id: "mine",
        };
        let response = JobResponse {
            head: r#"{"status":200,"headers":[["x-request-id","r"]]}"#.to_owned(),
            rest: Bytes::from(body.to_owned()),
            pieces: 0,
            bytes: body.len() as u64,
        };
        let result = of.result(true, Some(response), None);
        assert!(!result.text.contains('\n'), "{}", result.text);
        (serde_json::from_str(&result.text).unwrap(), result.usage)
    }

    #[test]
    fn a_response_is_one_line_with_its_usage() {
        let (line, usage) = result(
            "{\n \"usage\": {\"prompt_tokens\": 7, \"completion_tokens\": 2,\r\n \"prompt_tokens_details\": {\"cached_tokens\": 5}}}\n",
        );
        assert_eq!(line["response"]["body"]["usage"]["prompt_tokens"], 7);
        assert_eq!(
            (&line["custom_id"], &line["response"]["request_id"]),
            (&"mine".into(), &"r".into())
        );
        assert!(line["error"].is_null());
        let expected = BatchUsage {
            input_tokens: 7,
            cached_tokens: 5,
            output_tokens: 2,
            reasoning_tokens: 0,
        };
        assert_eq!(usage, expected);
        let (line, usage) = result("not\njson");
        assert_eq!(
            (&line["response"]["body"], usage),
            (&"not\njson".into(), BatchUsage::default())
        );
    }
}
