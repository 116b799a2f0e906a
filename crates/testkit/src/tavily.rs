//! Tavily's endpoints: search, extract, crawl, map, research, usage, errors.
//!
//! This module must never know of sockets, scripts or steps.

use http::Method;
use serde::Deserialize;
use serde_json::json;

use crate::answer::{Answer, ApiError, Protocol, array, quoted, rfc3339};
use crate::call::{Call, decoded};
use crate::quota::number;
use crate::state::State;

/// The endpoint of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Endpoint {
    Search,
    Extract,
    Crawl,
    Map,
    Research,
    ResearchResult(String),
    Usage,
}

impl Endpoint {
    /// The endpoint of a path.
    pub(crate) fn of(method: &Method, path: &str) -> Option<Self> {
        if *method == Method::POST {
            return match path {
                "/search" => Some(Endpoint::Search),
                "/extract" => Some(Endpoint::Extract),
                "/crawl" => Some(Endpoint::Crawl),
                "/map" => Some(Endpoint::Map),
                "/research" => Some(Endpoint::Research),
                _ => None,
            };
        }
        if *method != Method::GET {
            return None;
        }
        if path == "/usage" {
            return Some(Endpoint::Usage);
        }
        let id = path.strip_prefix("/research/")?;
        (!id.is_empty()).then(|| Endpoint::ResearchResult(decoded(id)))
    }
}

#[derive(Deserialize)]
struct Body {
    query: Option<String>,
    urls: Option<Urls>,
    url: Option<String>,
    input: Option<String>,
    model: Option<String>,
    max_results: Option<usize>,
    include_answer: Option<serde_json::Value>,
    include_usage: Option<bool>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Urls {
    One(String),
    Many(Vec<String>),
}

/// The normal response.
pub(crate) fn answer(endpoint: &Endpoint, call: &Call<'_>) -> Result<Answer, ApiError> {
    let text = match endpoint {
        Endpoint::Search => search(call)?,
        Endpoint::Extract => extract(call)?,
        Endpoint::Crawl => visit_site(call, |url| {
            format!(
                r#"{{"url":{},"raw_content":"A page that keypool's mock provider made up.","favicon":null}}"#,
                quoted(url)
            )
        })?,
        Endpoint::Map => visit_site(call, quoted)?,
        Endpoint::Research => research(call)?,
        Endpoint::ResearchResult(id) => research_result(call, id)?,
        Endpoint::Usage => usage(call),
    };
    Ok(Answer::json(call.protocol, call.state, text))
}

fn missing<T>(field: Option<T>, name: &str) -> Result<T, ApiError> {
    field.ok_or_else(|| ApiError::invalid(format!("{name} is missing.")))
}

/// The last fields of every response.
fn tail(call: &Call<'_>, include_usage: Option<bool>) -> String {
    let id = call.state.id("");
    let usage = if include_usage == Some(true) {
        r#","usage":{"credits":1}"#
    } else {
        ""
    };
    format!(r#""response_time":0.01,"request_id":"{id}"{usage}"#)
}

fn search(call: &Call<'_>) -> Result<String, ApiError> {
    let body: Body = call.parse()?;
    let query = missing(body.query, "Query")?;
    let reply = call.reply(&query.chars().take(80).collect::<String>(), None);
    let wanted = body
        .include_answer
        .is_some_and(|value| value != false && !value.is_null());
    let answer = if wanted {
        quoted(&reply.text())
    } else {
        "null".to_owned()
    };
    let n = body.max_results.unwrap_or(5).min(20);
    let results = array((1..=n).map(|index| {
        let score = 1.0 - index as f64 / 100.0;
        format!(
            r#"{{"url":"https://mock.invalid/{index}","title":"Made-up result {index}","content":{},"score":{score:.2},"raw_content":null}}"#,
            quoted(&reply.text()),
        )
    }));
    let (query, tail) = (quoted(&query), tail(call, body.include_usage));
    Ok(format!(
        r#"{{"query":{query},"follow_up_questions":null,"answer":{answer},"images":[],"results":{results},{tail}}}"#
    ))
}

fn extract(call: &Call<'_>) -> Result<String, ApiError> {
    let body: Body = call.parse()?;
    let urls = match missing(body.urls, "urls")? {
        Urls::One(url) => vec![url],
        Urls::Many(urls) => urls,
    };
    let results = array(urls.iter().map(|url| {
        format!(
            r#"{{"url":{},"raw_content":"A page that keypool's mock provider made up.","images":[]}}"#,
            quoted(url)
        )
    }));
    Ok(format!(
        r#"{{"results":{results},"failed_results":[],{}}}"#,
        tail(call, body.include_usage)
    ))
}

/// Crawl and map: the start page and one below it.
fn visit_site(call: &Call<'_>, result: impl Fn(&str) -> String) -> Result<String, ApiError> {
    let body: Body = call.parse()?;
    let url = missing(body.url, "url")?;
    let below = format!("{}/made-up", url.trim_end_matches('/'));
    let (results, tail) = (
        array([result(&url), result(&below)]),
        tail(call, body.include_usage),
    );
    Ok(format!(
        r#"{{"base_url":{},"results":{results},{tail}}}"#,
        quoted(&url)
    ))
}

fn research(call: &Call<'_>) -> Result<String, ApiError> {
    let body: Body = call.parse()?;
    let input = quoted(&missing(body.input, "input")?);
    let model = quoted(body.model.as_deref().unwrap_or("auto"));
    let (id, created) = (call.state.id("research-"), rfc3339(call.state.unix()));
    call.state.own(&id, call.key);
    Ok(format!(
        r#"{{"request_id":"{id}","created_at":"{created}","status":"pending","input":{input},"model":{model},"response_time":0.01}}"#
    ))
}

fn research_result(call: &Call<'_>, id: &str) -> Result<String, ApiError> {
    if !call.state.owns(id, call.key) {
        return Err(ApiError::not_found("Research task not found."));
    }
    let (id, created) = (quoted(id), rfc3339(call.state.unix()));
    let content = quoted(call.reply("", None).text().trim());
    Ok(format!(
        r#"{{"request_id":{id},"created_at":"{created}","status":"completed","content":{content},"sources":[{{"title":"Made-up source","url":"https://mock.invalid/1","favicon":null}}],"response_time":0.01}}"#
    ))
}

/// The credits of the key's account, which has no other key and no pay-as-you-go.
fn usage(call: &Call<'_>) -> String {
    let (limit, used) = call.state.quota(call.key).limit_and_used().unzip();
    let (limit, used) = (limit.map(number), number(used.unwrap_or(0.0)));
    let key = json!({
        "usage": used,
        "limit": null,
        "search_usage": used,
        "extract_usage": 0,
        "crawl_usage": 0,
        "map_usage": 0,
        "research_usage": 0,
    });
    let account = json!({
        "current_plan": "Mock",
        "plan_usage": used,
        "plan_limit": limit,
        "search_usage": used,
        "extract_usage": 0,
        "crawl_usage": 0,
        "map_usage": 0,
        "research_usage": 0,
        "paygo_usage": 0,
        "paygo_limit": null,
    });
    json!({ "key": key, "account": account }).to_string()
}

/// An error in Tavily's format.
pub(crate) fn error(state: &State, error: &ApiError) -> Answer {
    let body = format!(r#"{{"detail":{{"error":{}}}}}"#, quoted(&error.message));
    Answer::error(Protocol::Tavily, state, error.status, body).retry_after(error.retry_after)
}
