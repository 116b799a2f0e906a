//! What each dialect declares: its names, addresses, models and headers.

use std::collections::BTreeSet;

use http::HeaderName;
use keypool_core::base_url::BaseUrl;
use keypool_providers::catalogue;
use keypool_providers::protocol::Protocol;

#[test]
fn every_provider_has_a_name_of_its_own() {
    let names = catalogue::ALL.iter().map(|dialect| dialect.name);
    let unique: BTreeSet<&str> = names.clone().collect();
    assert_eq!(unique.len(), names.len());
    assert!(catalogue::find("nobody").is_none());
}

#[test]
fn what_each_dialect_declares_is_valid() {
    for dialect in catalogue::ALL {
        let name = dialect.name;
        assert_eq!(catalogue::find(name).unwrap().name, name);
        if let Some(base_url) = dialect.default_base_url {
            assert_eq!(base_url.parse::<BaseUrl>().unwrap().to_string(), base_url);
            let variable = format!("{}_BASE_URL", name.to_ascii_uppercase());
            assert_eq!(dialect.env_base_url, Some(variable.as_str()));
            let variable = format!("{}_API_KEY", name.to_ascii_uppercase());
            assert_eq!(dialect.env_keys.first(), Some(&variable.as_str()));
        }
        for header in dialect
            .account_headers
            .iter()
            .chain(dialect.request_id_headers)
        {
            assert_eq!(*header, HeaderName::from_static(header).as_str());
        }
        for header in dialect.request_id_headers {
            assert!(!(dialect.is_private_header)(header), "{name}: {header}");
        }
    }
}

#[test]
fn providers_are_asked_for_usage_only_where_they_need_it_and_take_it() {
    let needing = catalogue::ALL
        .iter()
        .filter(|dialect| dialect.needs_include_usage)
        .map(|dialect| dialect.name);
    // Mistral answers 422. It and the others missing here report usage unasked; Tavily has none.
    let expect = [
        "openai",
        "anthropic",
        "gemini",
        "ark",
        "deepseek",
        "siliconflow",
        "openai-compatible",
        "mock",
    ];
    assert_eq!(needing.collect::<Vec<_>>(), expect);
}

#[test]
fn default_base_urls_have_the_path_that_their_host_needs() {
    let own = catalogue::ALL.iter().filter_map(|dialect| {
        let url: BaseUrl = dialect.default_base_url?.parse().unwrap();
        Some((dialect, url, dialect.openai_base?))
    });
    let mut seen = 0;
    for (dialect, url, base) in own {
        let name = dialect.name;
        let is_own = |host: &&str| keypool_core::pattern::matches(host, url.authority());
        assert!(base.hosts.iter().any(is_own), "{name}");
        if dialect.protocols == [Protocol::OpenAi] {
            assert_eq!(&**url.path(), base.path, "{name}");
            seen += 1;
        }
    }
    assert_eq!(seen, 7, "all but DeepSeek, which needs no version");
}

#[test]
fn each_provider_has_a_header_for_its_request_id() {
    for (name, header) in [
        ("openai", "x-request-id"),
        ("anthropic", "request-id"),
        ("deepseek", "x-ds-trace-id"),
        ("openrouter", "x-generation-id"),
        ("moonshot", "msh-request-id"),
        ("siliconflow", "x-siliconcloud-trace-id"),
        ("groq", "x-request-id"),
        ("mistral", "mistral-correlation-id"),
    ] {
        let headers = catalogue::find(name).unwrap().request_id_headers;
        assert_eq!(headers.first(), Some(&header), "{name}");
    }
}

#[test]
fn models_go_to_the_provider_that_makes_them() {
    for (name, pattern) in [
        ("deepseek", "deepseek-*"),
        ("openrouter", "*"),
        ("moonshot", "kimi-*"),
        ("siliconflow", "*"),
        ("groq", "llama-*"),
        ("mistral", "mistral-*"),
        ("openai-compatible", "*"),
    ] {
        let dialect = catalogue::find(name).unwrap();
        assert!(dialect.default_models.contains(&pattern), "{name}");
        let models = dialect.parse_models(br#"{"data":[{"id":"m","object":"model"}]}"#);
        let owner = models.unwrap().remove(0).owned_by;
        assert_eq!(owner, name);
    }
}

#[test]
fn models_are_listed_where_the_provider_can() {
    for (name, path, query) in [
        ("openai", "/v1/models", ""),
        ("anthropic", "/v1/models", "limit=1000"),
        ("gemini", "/v1beta/models", "pageSize=1000"),
        ("ark", "/api/v3/models", ""),
        ("deepseek", "/v1/models", ""),
        ("openrouter", "/api/v1/models", ""),
        ("moonshot", "/v1/models", ""),
        ("siliconflow", "/v1/models", ""),
        ("groq", "/openai/v1/models", ""),
        ("mistral", "/v1/models", ""),
    ] {
        let dialect = catalogue::find(name).unwrap();
        let call = dialect.list_models.unwrap();
        let base: BaseUrl = dialect.default_base_url.unwrap().parse().unwrap();
        let sent = (dialect.upstream_path)(dialect.protocols[0], base.path(), call.path);
        assert_eq!((sent.as_str(), call.query), (path, query), "{name}");
    }
    assert!(catalogue::find("tavily").unwrap().list_models.is_none());
}

#[test]
fn quotas_are_asked_where_the_provider_reports_them() {
    let expect = [
        ("tavily", "/usage"),
        ("deepseek", "/user/balance"),
        ("openrouter", "/api/v1/key"),
        ("moonshot", "/v1/users/me/balance"),
        ("siliconflow", "/v1/user/info"),
        ("mock", "/usage"),
    ];
    let reporting = catalogue::ALL.iter().filter_map(|dialect| {
        let base = dialect.default_base_url.map(|url| url.parse::<BaseUrl>());
        let base = base.map(|url| url.unwrap().path().to_string());
        let path = (dialect.quota?.path)(&base.unwrap_or_default());
        Some((dialect.name, path))
    });
    let reporting: Vec<_> = reporting.collect();
    let reporting: Vec<_> = reporting
        .iter()
        .map(|(name, path)| (*name, path.as_str()))
        .collect();
    assert_eq!(reporting, expect);
    let proxied = |name| (catalogue::find(name).unwrap().quota.unwrap().path)("/proxy/v1");
    assert_eq!(proxied("openrouter"), "/proxy/v1/key");
    assert_eq!(proxied("moonshot"), "/proxy/v1/users/me/balance");
}

#[test]
fn only_tavily_limits_how_often_a_quota_is_asked() {
    for dialect in catalogue::ALL {
        let allowance = dialect.quota.and_then(|call| call.allowance);
        let expect = (dialect.name == "tavily").then_some((10, 600));
        let stated = allowance.map(|allowance| (allowance.calls, allowance.per.as_secs()));
        assert_eq!(stated, expect, "{}", dialect.name);
    }
}

#[test]
fn a_quota_response_that_is_no_json_has_a_code() {
    for dialect in catalogue::ALL {
        for body in ["", "<html>", "{\"key\":", "\u{feff}", "\0\0"] {
            let code = dialect
                .parse_quota("h", body.as_bytes())
                .unwrap_err()
                .as_str();
            let expect = match dialect.quota {
                Some(_) => "quota_response_not_json",
                None => "quota_not_offered",
            };
            assert_eq!(code, expect, "{}: {body:?}", dialect.name);
        }
    }
}

#[test]
fn callers_neither_choose_nor_see_accounts() {
    for (name, header) in [
        ("openai", "openai-project"),
        ("groq", "openai-organization"),
        ("deepseek", "openai-organization"),
        ("openrouter", "openai-project"),
        ("moonshot", "openai-project"),
        ("siliconflow", "openai-project"),
        ("mistral", "openai-project"),
        ("ark", "openai-organization"),
        ("anthropic", "anthropic-workspace-id"),
        ("anthropic", "anthropic-user-profile-id"),
        ("gemini", "x-goog-user-project"),
        ("tavily", "x-tavily-access-mode"),
        ("tavily", "x-project-id"),
        ("mock", "anthropic-workspace-id"),
    ] {
        assert!(
            catalogue::find(name)
                .unwrap()
                .account_headers
                .contains(&header),
            "{name}: {header}"
        );
    }
    for (name, header, private) in [
        ("openai", "openai-organization", true),
        ("openai", "x-ratelimit-remaining-tokens_usage_based", true),
        ("openai", "openai-processing-ms", false),
        ("openai", "retry-after", false),
        ("mistral", "ratelimitbysize-limit", true),
        ("mistral", "x-ratelimit-remaining-tokens-minute", true),
        ("groq", "x-ratelimit-reset-requests", true),
        ("openrouter", "x-ratelimit-reset", true),
        ("openrouter", "x-generation-id", false),
        ("moonshot", "msh-org-id", true),
        ("moonshot", "msh-uid", true),
        ("moonshot", "msh-project-id", true),
        ("moonshot", "msh-gid", true),
        ("moonshot", "msh-request-id", false),
        ("deepseek", "msh-org-id", false),
        ("anthropic", "anthropic-ratelimit-input-tokens-reset", true),
        ("anthropic", "anthropic-priority-output-tokens-limit", true),
        ("anthropic", "anthropic-organization-id", true),
        ("anthropic", "anthropic-workspace-id", true),
        ("anthropic", "anthropic-version", false),
        ("anthropic", "x-ratelimit-limit-requests", true),
        ("gemini", "content-type", false),
        ("mock", "anthropic-ratelimit-requests-limit", true),
        ("mock", "x-ratelimit-limit-requests", true),
    ] {
        let dialect = catalogue::find(name).unwrap();
        assert_eq!(
            (dialect.is_private_header)(header),
            private,
            "{name}: {header}"
        );
    }
}

#[test]
fn a_secret_that_does_not_fit_a_header_is_not_sent() {
    for dialect in catalogue::ALL {
        for protocol in dialect.protocols {
            let (_, value) = (dialect.credential)(*protocol, "key-1").unwrap();
            assert!(value.is_sensitive(), "{}", dialect.name);
            assert!(
                (dialect.credential)(*protocol, "key\r\nx: y").is_none(),
                "{}",
                dialect.name
            );
        }
    }
}
