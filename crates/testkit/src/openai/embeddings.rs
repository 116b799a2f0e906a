//! OpenAI's embeddings, as numbers or base64, and the rerank endpoint of OpenAI-like providers.
//!
//! This module must never know of sockets, scripts or steps.

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::answer::{Answer, ApiError, array, base64, numbers, quoted, vector};
use crate::call::Call;
use crate::recorded::fnv1a;
use crate::request_text::elements;

const DIMENSIONS: usize = 64;
const MOST_DIMENSIONS: usize = 4096;

#[derive(Deserialize)]
struct EmbeddingsBody<'a> {
    model: Option<String>,
    #[serde(borrow)]
    input: Option<&'a RawValue>,
    encoding_format: Option<String>,
    dimensions: Option<usize>,
}

#[derive(Deserialize)]
struct RerankBody<'a> {
    model: Option<String>,
    #[serde(borrow)]
    documents: Option<Vec<&'a RawValue>>,
    top_n: Option<usize>,
}

/// The texts to embed. A list of numbers is one text, given as tokens.
fn inputs(raw: &RawValue) -> Vec<&str> {
    let list = elements(raw.get());
    let tokens = list
        .first()
        .is_some_and(|first| first.get().starts_with(|c: char| c.is_ascii_digit()));
    if tokens {
        vec![raw.get()]
    } else {
        list.into_iter().map(RawValue::get).collect()
    }
}

pub(super) fn embeddings(call: &Call<'_>) -> Result<Answer, ApiError> {
    let body: EmbeddingsBody<'_> = call.parse()?;
    let model = quoted(&super::required(body.model)?);
    let input = body
        .input
        .ok_or_else(|| ApiError::invalid("Missing required parameter: 'input'."))?;
    let dimensions = body
        .dimensions
        .unwrap_or(DIMENSIONS)
        .clamp(1, MOST_DIMENSIONS);
    let as_base64 = body.encoding_format.as_deref() == Some("base64");
    let data = inputs(input).into_iter().enumerate().map(|(index, text)| {
        let vector = vector(fnv1a(text.as_bytes()), dimensions);
        let embedding = if as_base64 {
            let bytes: Vec<u8> = vector.iter().flat_map(|x| x.to_le_bytes()).collect();
            quoted(&base64(&bytes))
        } else {
            numbers(&vector)
        };
        format!(r#"{{"object":"embedding","index":{index},"embedding":{embedding}}}"#)
    });
    let (data, usage) = (array(data), input_usage(call));
    let text = format!(r#"{{"object":"list","data":{data},"model":{model},"usage":{usage}}}"#);
    Ok(Answer::json(call.protocol, call.state, text))
}

pub(super) fn rerank(call: &Call<'_>) -> Result<Answer, ApiError> {
    let body: RerankBody<'_> = call.parse()?;
    let model = quoted(&super::required(body.model)?);
    let documents = body
        .documents
        .ok_or_else(|| ApiError::invalid("Missing required parameter: 'documents'."))?;
    let most = body.top_n.unwrap_or(documents.len()).min(documents.len());
    let results = array((0..most).map(|index| {
        let score = 1.0 / (index + 1) as f64;
        format!(r#"{{"index":{index},"relevance_score":{score:.6}}}"#)
    }));
    let (id, usage) = (call.state.id("rerank-"), input_usage(call));
    let text = format!(r#"{{"id":"{id}","model":{model},"results":{results},"usage":{usage}}}"#);
    Ok(Answer::json(call.protocol, call.state, text))
}

fn input_usage(call: &Call<'_>) -> String {
    let tokens = call.input_tokens();
    call.usage(format!(
        r#"{{"prompt_tokens":{tokens},"total_tokens":{tokens}}}"#
    ))
}
