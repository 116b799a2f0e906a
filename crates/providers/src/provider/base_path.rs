//! What the path of a base URL must not be: an endpoint, or nothing at a host whose provider needs a version.
//!
//! Must never know a provider by name: what differs between them comes from their dialects.

use keypool_core::base_url::BaseUrl;
use keypool_core::pattern::any_matches;

use super::{catalogue, paths};
use crate::dialect::Dialect;
use crate::protocol::Protocol;

/// Endpoints that no prefix is named like, so that they need no version before them.
const ENDPOINTS: &[&str] = &[
    "/audio/speech",
    "/audio/transcriptions",
    "/audio/translations",
    "/chat/completions",
    "/completions",
    "/contents/generations/tasks",
    "/embeddings",
    "/embeddings/multimodal",
    "/images/edits",
    "/images/generations",
    "/images/variations",
    "/messages",
    "/messages/batches",
    "/messages/count_tokens",
    "/moderations",
    "/rerank",
    "/responses",
    "/responses/compact",
    "/responses/input_tokens",
];

/// Endpoints whose names a server may also use for a prefix, unless a version is before them.
const AFTER_A_VERSION: &[&str] = &[
    "/batches",
    "/cachedcontents",
    "/complete",
    "/conversations",
    "/files",
    "/fine_tuning/jobs",
    "/interactions",
    "/models",
    "/realtime",
    "/uploads",
    "/vector_stores",
    "/videos",
];

/// The endpoints of Tavily's protocol, which has no versions.
const SEARCH_ENDPOINTS: &[&str] = &[
    "/search",
    "/extract",
    "/crawl",
    "/map",
    "/research",
    "/usage",
];

/// What is wrong with a base URL, and the form that is probably meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mistake {
    /// It ends with an endpoint, to which keypool would add another.
    Endpoint {
        /// The base URL without it.
        correct: String,
    },
    /// It leads to a known host, but the path that OpenAI's protocol has there is missing.
    NoVersion {
        /// The base URL with it.
        correct: String,
    },
}

/// The mistake in a base URL of a pool with this dialect.
pub fn mistake(dialect: &Dialect, base: &BaseUrl) -> Option<Mistake> {
    let path = base.path();
    let correct = |path: &str| format!("{}{path}", base.origin());
    match without_endpoint(dialect, path) {
        Some(rest) => {
            let path = needed_path(dialect, base, &rest).unwrap_or(&rest);
            let correct = correct(path);
            Some(Mistake::Endpoint { correct })
        }
        None => {
            let correct = correct(needed_path(dialect, base, path)?);
            Some(Mistake::NoVersion { correct })
        }
    }
}

/// Whether the base URLs of `dialect` end in their version.
fn is_versioned(dialect: &Dialect) -> bool {
    dialect.protocols == [Protocol::OpenAi]
}

/// The path that the base URL needs at its host, if `path` is only a part of it or has no version.
fn needed_path(dialect: &Dialect, base: &BaseUrl, path: &str) -> Option<&'static str> {
    let known = catalogue::ALL.iter().filter_map(|known| known.openai_base);
    let own = known
        .filter(|_| is_versioned(dialect))
        .find(|own| any_matches(own.hosts, base.authority()))?;
    let is_part = own.path.starts_with(path) || own.path.ends_with(path);
    let is_short = is_part && path.len() < own.path.len();
    (is_short || !paths::has_version(path)).then_some(own.path)
}

/// `path` without the endpoint that it ends with; for a dialect that keeps paths, also without the version before it.
fn without_endpoint(dialect: &Dialect, path: &str) -> Option<String> {
    let segments: Vec<&str> = path.split('/').filter(|it| !it.is_empty()).collect();
    let kept = segments.len() - endpoint_length(dialect, &segments)?;
    let rest = joined(&segments[..kept]);
    if is_versioned(dialect) {
        return Some(rest);
    }
    let root = dialect.openai_root.unwrap_or_default();
    let rest = rest.strip_suffix(root).unwrap_or(&rest);
    Some(paths::without_version(rest).to_owned())
}

/// Number of segments of the endpoint at the end.
fn endpoint_length(dialect: &Dialect, segments: &[&str]) -> Option<usize> {
    let path = joined(segments).to_ascii_lowercase();
    let speaks = |protocol| dialect.protocols.contains(&protocol);
    let longest = |endpoints: &[&str]| {
        let ends = endpoints
            .iter()
            .filter(|endpoint| path.ends_with(*endpoint));
        ends.map(|endpoint| endpoint.matches('/').count()).max()
    };
    let follows_version = |length: &usize| {
        let before = segments[..segments.len() - length].last();
        before.is_some_and(|segment| paths::has_version(segment))
    };
    let (last, before) = (segments.last()?, segments.iter().rev().nth(1));
    if last.contains(':') || path.contains("%3a") {
        // `models/{model}:{method}`
        return Some(segments.len().min(2));
    }
    let model = (speaks(Protocol::Gemini) && before == Some(&"models")).then_some(2);
    longest(ENDPOINTS)
        .or_else(|| longest(AFTER_A_VERSION).filter(follows_version))
        .or(model.filter(follows_version))
        .or_else(|| longest(SEARCH_ENDPOINTS).filter(|_| speaks(Protocol::Tavily)))
}

fn joined(segments: &[&str]) -> String {
    let parts = segments.iter().flat_map(|segment| ["/", segment]);
    parts.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(provider: &str, url: &str) -> Option<Mistake> {
        let dialect = catalogue::find(provider).unwrap();
        mistake(dialect, &url.parse().unwrap())
    }

    /// Provider, base URL and the correct form.
    const WITH_ENDPOINT: &[(&str, &str, &str)] = &[
        (
            "openai",
            "https://api.openai.com/v1/chat/completions",
            "https://api.openai.com/v1",
        ),
        (
            "openai",
            "https://api.openai.com/chat/completions/",
            "https://api.openai.com/v1",
        ),
        (
            "openai-compatible",
            "http://h:8000/v1/embeddings",
            "http://h:8000/v1",
        ),
        (
            "openai-compatible",
            "http://h:8000/Chat/Completions",
            "http://h:8000",
        ),
        (
            "openai-compatible",
            "https://h/v1//chat//completions",
            "https://h/v1",
        ),
        ("openai-compatible", "https://h/v1/models", "https://h/v1"),
        ("openai-compatible", "https://h/v1/messages", "https://h/v1"),
        (
            "ark",
            "https://ark.cn-beijing.volces.com/api/v3/chat/completions",
            "https://ark.cn-beijing.volces.com/api/v3",
        ),
        (
            "ark",
            "https://ark.cn-beijing.volces.com/api/v3/contents/generations/tasks",
            "https://ark.cn-beijing.volces.com/api/v3",
        ),
        (
            "groq",
            "https://api.groq.com/openai/v1/audio/transcriptions",
            "https://api.groq.com/openai/v1",
        ),
        (
            "deepseek",
            "https://api.deepseek.com/chat/completions",
            "https://api.deepseek.com",
        ),
        (
            "deepseek",
            "https://api.deepseek.com/beta/completions",
            "https://api.deepseek.com/beta",
        ),
        (
            "siliconflow",
            "https://api.siliconflow.cn/v1/rerank",
            "https://api.siliconflow.cn/v1",
        ),
        (
            "anthropic",
            "https://api.anthropic.com/v1/messages",
            "https://api.anthropic.com",
        ),
        (
            "anthropic",
            "https://h/anthropic/v1/messages/count_tokens",
            "https://h/anthropic",
        ),
        (
            "anthropic",
            "https://api.anthropic.com/v1/complete",
            "https://api.anthropic.com",
        ),
        (
            "gemini",
            "https://generativelanguage.googleapis.com/v1beta/models/gemini-x:generateContent",
            "https://generativelanguage.googleapis.com",
        ),
        (
            "gemini",
            "https://h/p/v1/models/gemini-x%3AstreamGenerateContent",
            "https://h/p",
        ),
        ("gemini", "https://h/v1beta/models/gemini-x", "https://h"),
        (
            "gemini",
            "https://h/v1beta/openai/chat/completions",
            "https://h",
        ),
        (
            "openai-compatible",
            "https://generativelanguage.googleapis.com/v1beta/models/x:generateContent",
            "https://generativelanguage.googleapis.com/v1beta/openai",
        ),
        (
            "tavily",
            "https://api.tavily.com/search",
            "https://api.tavily.com",
        ),
        ("tavily", "https://h/p/extract", "https://h/p"),
    ];

    #[test]
    fn an_endpoint_at_the_end_is_found_with_the_correct_form() {
        for &(provider, url, correct) in WITH_ENDPOINT {
            let correct = correct.to_owned();
            let expect = Some(Mistake::Endpoint { correct });
            assert_eq!(of(provider, url), expect, "{provider} {url}");
        }
    }

    /// Provider, base URL and the correct form.
    const WITHOUT_VERSION: &[(&str, &str, &str)] = &[
        (
            "openai",
            "https://api.openai.com",
            "https://api.openai.com/v1",
        ),
        (
            "openai",
            "https://eu.api.openai.com/",
            "https://eu.api.openai.com/v1",
        ),
        (
            "groq",
            "https://api.groq.com",
            "https://api.groq.com/openai/v1",
        ),
        (
            "groq",
            "https://api.groq.com/openai",
            "https://api.groq.com/openai/v1",
        ),
        (
            "groq",
            "https://api.groq.com/v1",
            "https://api.groq.com/openai/v1",
        ),
        (
            "openrouter",
            "https://openrouter.ai/api",
            "https://openrouter.ai/api/v1",
        ),
        (
            "openrouter",
            "https://OpenRouter.ai/v1",
            "https://openrouter.ai/api/v1",
        ),
        (
            "moonshot",
            "https://api.moonshot.cn",
            "https://api.moonshot.cn/v1",
        ),
        (
            "siliconflow",
            "https://api.siliconflow.com",
            "https://api.siliconflow.com/v1",
        ),
        (
            "mistral",
            "https://api.mistral.ai",
            "https://api.mistral.ai/v1",
        ),
        (
            "ark",
            "https://ark.ap-southeast.bytepluses.com",
            "https://ark.ap-southeast.bytepluses.com/api/v3",
        ),
        (
            "openai-compatible",
            "https://api.mistral.ai",
            "https://api.mistral.ai/v1",
        ),
        (
            "openai-compatible",
            "https://api.anthropic.com",
            "https://api.anthropic.com/v1",
        ),
        (
            "openai-compatible",
            "https://generativelanguage.googleapis.com/v1beta",
            "https://generativelanguage.googleapis.com/v1beta/openai",
        ),
    ];

    #[test]
    fn a_known_host_without_its_version_is_found_with_the_correct_form() {
        for &(provider, url, correct) in WITHOUT_VERSION {
            let correct = correct.to_owned();
            let expect = Some(Mistake::NoVersion { correct });
            assert_eq!(of(provider, url), expect, "{provider} {url}");
        }
    }

    #[test]
    fn other_base_urls_are_left_alone() {
        for dialect in catalogue::ALL {
            if let Some(url) = dialect.default_base_url {
                assert_eq!(of(dialect.name, url), None, "{url}");
            }
        }
        for (provider, url) in [
            ("openai-compatible", "http://127.0.0.1:11434"),
            ("openai-compatible", "https://llm.example.com"),
            (
                "openai-compatible",
                "https://x.services.ai.azure.com/models",
            ),
            (
                "openai-compatible",
                "https://gateway.ai.cloudflare.com/v1/account/gateway/compat",
            ),
            ("openai-compatible", "https://h/search"),
            ("openai-compatible", "https://h/files"),
            ("openai-compatible", "https://h/messages-gateway"),
            ("openai", "https://x.openai.azure.com/openai/v1"),
            ("deepseek", "https://api.deepseek.com"),
            ("deepseek", "https://api.deepseek.com/beta"),
            ("openai-compatible", "https://api.deepseek.com"),
            ("ark", "https://ark.cn-beijing.volces.com/api/coding/v3"),
            ("ark", "https://ark.cn-beijing.volces.com/api/v3/bots"),
            ("anthropic", "https://api.deepseek.com/anthropic"),
            ("anthropic", "https://api.moonshot.ai/anthropic"),
            ("anthropic", "https://api.anthropic.com/v1"),
            ("gemini", "https://generativelanguage.googleapis.com/v1beta"),
            (
                "gemini",
                "https://generativelanguage.googleapis.com/v1beta/openai",
            ),
            ("tavily", "https://h/tavily"),
            ("mock", "http://127.0.0.1:9000/v1"),
        ] {
            assert_eq!(of(provider, url), None, "{provider} {url}");
        }
    }
}
