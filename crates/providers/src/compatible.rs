//! OpenAI-compatible providers as rows of one table: a name, a base URL, model families, OpenAI's rules.
//!
//! A provider with rules of its own gets a file of its own; nothing here may ask which row it is.

use http::{HeaderName, HeaderValue};
use keypool_core::fault::Fault;

use crate::dialect::{Dialect, ListCall, Refusal};
use crate::protocol::{ListedModel, Protocol};
use crate::{openai, upstream};

const NOT_YET: Option<&str> =
    Some("its own error codes are not read yet; the rules of openai-compatible apply");

/// One OpenAI-compatible provider.
pub(crate) struct Compatible {
    name: &'static str,
    env_keys: &'static [&'static str],
    env_base_url: Option<&'static str>,
    base_url: Option<&'static str>,
    models: &'static [&'static str],
    incomplete: Option<&'static str>,
}

/// Any server that speaks OpenAI's protocol.
pub(crate) static OPENAI_COMPATIBLE: Compatible = Compatible {
    name: "openai-compatible",
    env_keys: &[],
    env_base_url: None,
    base_url: None,
    models: &["*"],
    incomplete: None,
};

/// DeepSeek.
pub(crate) static DEEPSEEK: Compatible = Compatible {
    name: "deepseek",
    env_keys: &["DEEPSEEK_API_KEY"],
    env_base_url: Some("DEEPSEEK_BASE_URL"),
    base_url: Some("https://api.deepseek.com/v1"),
    models: &["deepseek-*"],
    incomplete: NOT_YET,
};

/// OpenRouter, which offers everybody's models.
pub(crate) static OPENROUTER: Compatible = Compatible {
    name: "openrouter",
    env_keys: &["OPENROUTER_API_KEY"],
    env_base_url: Some("OPENROUTER_BASE_URL"),
    base_url: Some("https://openrouter.ai/api/v1"),
    models: &["*"],
    incomplete: NOT_YET,
};

/// Moonshot (Kimi), the platform outside China.
pub(crate) static MOONSHOT: Compatible = Compatible {
    name: "moonshot",
    env_keys: &["MOONSHOT_API_KEY"],
    env_base_url: Some("MOONSHOT_BASE_URL"),
    base_url: Some("https://api.moonshot.ai/v1"),
    models: &["moonshot-*", "kimi-*"],
    incomplete: NOT_YET,
};

/// SiliconFlow, the platform in China; it offers many makers' models.
pub(crate) static SILICONFLOW: Compatible = Compatible {
    name: "siliconflow",
    env_keys: &["SILICONFLOW_API_KEY"],
    env_base_url: Some("SILICONFLOW_BASE_URL"),
    base_url: Some("https://api.siliconflow.cn/v1"),
    models: &["*"],
    incomplete: NOT_YET,
};

/// Groq.
pub(crate) static GROQ: Compatible = Compatible {
    name: "groq",
    env_keys: &["GROQ_API_KEY"],
    env_base_url: Some("GROQ_BASE_URL"),
    base_url: Some("https://api.groq.com/openai/v1"),
    models: &[
        "groq/*",
        "compound-*",
        "llama-*",
        "llama3-*",
        "meta-llama/*",
        "openai/gpt-oss-*",
        "qwen/*",
        "qwen-*",
        "gemma2-*",
        "moonshotai/*",
        "whisper-large-*",
        "distil-whisper-*",
        "playai-*",
        "allam-*",
    ],
    incomplete: NOT_YET,
};

/// Mistral.
pub(crate) static MISTRAL: Compatible = Compatible {
    name: "mistral",
    env_keys: &["MISTRAL_API_KEY"],
    env_base_url: Some("MISTRAL_BASE_URL"),
    base_url: Some("https://api.mistral.ai/v1"),
    models: &[
        "mistral-*",
        "ministral-*",
        "magistral-*",
        "codestral-*",
        "devstral-*",
        "pixtral-*",
        "voxtral-*",
        "open-mistral-*",
        "open-mixtral-*",
    ],
    incomplete: NOT_YET,
};

impl Dialect for Compatible {
    fn name(&self) -> &'static str {
        self.name
    }

    fn env_keys(&self) -> &'static [&'static str] {
        self.env_keys
    }

    fn env_base_url(&self) -> Option<&'static str> {
        self.env_base_url
    }

    fn default_base_url(&self) -> Option<&'static str> {
        self.base_url
    }

    fn default_models(&self) -> &'static [&'static str] {
        self.models
    }

    fn protocols(&self) -> &'static [Protocol] {
        &[Protocol::OpenAi]
    }

    fn upstream_path(&self, _protocol: Protocol, base_path: &str, path: &str) -> String {
        upstream::versioned_path(base_path, path)
    }

    fn credential(&self, _protocol: Protocol, secret: &str) -> Option<(HeaderName, HeaderValue)> {
        upstream::bearer(secret)
    }

    fn account_headers(&self) -> &'static [&'static str] {
        openai::ACCOUNT_HEADERS
    }

    fn is_private_header(&self, name: &str) -> bool {
        upstream::is_private_everywhere(name)
    }

    fn request_id_headers(&self) -> &'static [&'static str] {
        &["x-request-id"]
    }

    fn classify(&self, refusal: &Refusal<'_>) -> Fault {
        openai::classify(refusal)
    }

    fn list_models(&self) -> Option<ListCall> {
        Some(openai::LIST_MODELS)
    }

    fn parse_models(&self, body: &[u8]) -> Option<Vec<ListedModel>> {
        openai::parse_models(body, self.name)
    }

    fn incomplete(&self) -> Option<&'static str> {
        self.incomplete
    }
}
