//! Provider keys and base URLs as users set them: what `check` and `serve` say, and where calls go.

use keypool_testkit::Mock;
use serde_json::Value;

use crate::harness::{CHAT, Folder, Gateway, MARK, Process, key};

const SERVE: [&str; 3] = ["serve", "--listen", "127.0.0.1:0"];

/// Runs `keypool check` with these variables: its exit code, output and errors.
async fn check(config: &str, env: &[(&str, &str)]) -> (i32, String, String) {
    ended(config, &["check"], env).await
}

async fn ended(config: &str, args: &[&str], env: &[(&str, &str)]) -> (i32, String, String) {
    let mut process = Process::start_with(&Folder::new(config), args, env);
    let code = process.ended().await;
    process.assert_no_secret();
    (code, process.stdout(), process.stderr())
}

#[tokio::test]
async fn keys_of_a_json_list_and_of_a_quoted_value_are_used() {
    for (variable, base, path) in [
        (
            "GEMINI",
            "",
            "/v1beta/models/gemini-2.5-pro:generateContent",
        ),
        ("ANTHROPIC", "", "/v1/messages"),
        ("OPENAI", "/v1", "/v1/chat/completions"),
    ] {
        let (a, b) = (key(1), key(2));
        for value in [
            format!("[\"{a}\",\"{b}\"]"),
            format!("\"{a},{b}\""),
            format!("'[\"{a}\", \"{b}\"]'"),
        ] {
            let mock = Mock::start().await.unwrap();
            let base_url = mock.origin() + base;
            let (keys, base) = (
                format!("{variable}_API_KEY"),
                format!("{variable}_BASE_URL"),
            );
            let env = [(&*keys, &*value), (&*base, &*base_url)];
            let (code, out, err) = check("", &env).await;
            assert_eq!((code, err.as_str()), (0, ""), "{value}");
            assert!(out.contains("1 pool, 2 keys"), "{out}");
            let gw = Gateway::start_with("", &env).await;
            let body = match variable {
                "GEMINI" => r#"{"contents":[{"parts":[{"text":"hello"}]}]}"#,
                "ANTHROPIC" => r#"{"model":"claude-x","max_tokens":9,"messages":[]}"#,
                _ => CHAT,
            };
            for _ in 0..2 {
                let reply = gw.post(path, body).await;
                assert_eq!(reply.status, 200, "{reply:?}");
            }
            for secret in [&a, &b] {
                assert_eq!(mock.seen(secret).requests, 1, "{value}");
            }
            gw.stop().await;
        }
    }
}

#[tokio::test]
async fn a_key_that_cannot_be_meant_stops_check_and_serve() {
    let pool = "[pools.gemini]\nprovider = \"gemini\"\nkeys = \"${GEMINI_API_KEY}\"\n";
    for (config, variable, value) in [
        ("", "GEMINI_API_KEY", format!("{};{}", key(1), key(2))),
        (
            "",
            "OPENAI_API_KEY",
            format!("['{}', '{}']", key(1), key(2)),
        ),
        ("", "GROQ_API_KEY", format!("\"{}\",\"{}\"", key(1), key(2))),
        ("", "MISTRAL_API_KEY", format!("{{{}}}", key(1))),
        (pool, "GEMINI_API_KEY", format!("[{}]", key(1))),
    ] {
        let env = [(variable, &*value)];
        for args in [&["check"][..], &SERVE] {
            let (code, _, err) = ended(config, args, &env).await;
            assert_eq!(code, 1, "{variable} {args:?}: {err}");
            assert!(
                err.contains(&format!("`{variable}`")) && err.contains("\" ' [ ] { } ;"),
                "{args:?}: {err}"
            );
        }
        let folder = Folder::new(config);
        folder.write(".env", &format!("OTHER=1\n{variable}={value}\n"));
        let mut process = Process::start(&folder, &["check"]);
        let code = process.ended().await;
        process.assert_no_secret();
        let err = process.stderr();
        assert_eq!(code, 1, "{variable}: {err}");
        assert!(
            err.contains(".env:2:") || err.contains("(from `"),
            "{variable}: {err}"
        );
    }
}

#[tokio::test]
async fn a_variable_that_is_not_read_is_named_by_check_and_serve() {
    for (name, known) in [
        ("GEMINI_API_KEYS", "`GEMINI_API_KEY`"),
        ("OPENAI_API_KEY_1", "`OPENAI_API_KEY`"),
        ("anthropic_api_key", "`ANTHROPIC_API_KEY`"),
        ("DEEPSEEK_KEY", "`DEEPSEEK_API_KEY`"),
    ] {
        let secret = key(1);
        let env = [(name, &*secret)];
        let (code, out, err) = check("", &env).await;
        assert_eq!(code, 0, "{err}");
        let expected = format!("keypool: warning: environment, {name}: `{name}` is not read: ");
        assert!(
            err.starts_with(&expected) && err.contains(known) && err.lines().count() == 1,
            "{out}{err}"
        );
        let gw = Gateway::start_with("", &env).await;
        gw.logged(&format!("`{name}` is not read")).await;
        gw.stop().await;
    }
    let harmless = [
        ("OPENAI_API_KEY_FILE", "/run/secrets/openai"),
        ("OPENAI_ORG_ID", "org"),
        ("AZURE_OPENAI_API_KEY", "x"),
    ];
    let (code, _, err) = check("", &harmless).await;
    assert_eq!((code, err.as_str()), (0, ""));
    let folder = Folder::new("");
    folder.write(".env", &format!("GROQ_API_KEY_2={}\n", key(2)));
    let mut process = Process::start(&folder, &["check", "--json"]);
    assert_eq!(process.ended().await, 0);
    let report: Value = serde_json::from_str(&process.stdout()).unwrap();
    let warning = report["warnings"][0].as_str().unwrap();
    assert!(
        warning.starts_with(".env:1:16: `GROQ_API_KEY_2`"),
        "{warning}"
    );
    assert!(!warning.contains(MARK), "{warning}");
}

#[tokio::test]
async fn a_base_url_that_ends_with_an_endpoint_is_an_error() {
    for (variable, url, correct) in [
        (
            "OPENAI",
            "https://api.openai.com/v1/chat/completions",
            "https://api.openai.com/v1",
        ),
        (
            "ANTHROPIC",
            "https://api.anthropic.com/v1/messages",
            "https://api.anthropic.com",
        ),
        (
            "GEMINI",
            "https://generativelanguage.googleapis.com/v1beta/models/gemini-x:generateContent",
            "https://generativelanguage.googleapis.com",
        ),
        (
            "TAVILY",
            "https://api.tavily.com/search",
            "https://api.tavily.com",
        ),
        (
            "SILICONFLOW",
            "http://127.0.0.1:1/v1/embeddings/",
            "http://127.0.0.1:1/v1",
        ),
    ] {
        let (keys, base) = (
            format!("{variable}_API_KEY"),
            format!("{variable}_BASE_URL"),
        );
        let (code, _, err) = check("", &[(&keys, &key(1)), (&base, url)]).await;
        assert_eq!(code, 1, "{url}: {err}");
        assert!(
            err.contains(&format!("`{base}` ends with an endpoint"))
                && err.contains(&format!("write \"{correct}\"")),
            "{err}"
        );
    }
}

#[tokio::test]
async fn a_known_host_without_its_version_is_a_warning() {
    for (provider, url, correct) in [
        (
            "openai",
            "https://api.openai.com",
            "https://api.openai.com/v1",
        ),
        (
            "moonshot",
            "https://api.moonshot.cn/",
            "https://api.moonshot.cn/v1",
        ),
        (
            "openai-compatible",
            "https://api.groq.com",
            "https://api.groq.com/openai/v1",
        ),
        (
            "ark",
            "https://ark.cn-beijing.volces.com",
            "https://ark.cn-beijing.volces.com/api/v3",
        ),
    ] {
        let config = format!("[pools.a]\nprovider = \"{provider}\"\nbase_url = \"{url}\"\n");
        let (code, _, err) = check(&config, &[]).await;
        assert_eq!(code, 0, "{err}");
        assert!(
            err.starts_with(
                "keypool: warning: keypool.toml:3:12: `pools.a.base_url` lacks the version"
            ) && err.trim_end().ends_with(&format!("write \"{correct}\"")),
            "{err}"
        );
    }
    let config = "[pools.a]\nprovider = \"deepseek\"\nbase_url = \"https://api.deepseek.com\"\n";
    let (code, _, err) = check(config, &[]).await;
    assert_eq!((code, err.as_str()), (0, ""));
}

#[tokio::test]
async fn a_version_in_the_path_replaces_the_one_of_the_base() {
    let generate = r#"{"contents":[{"parts":[{"text":"hello"}]}]}"#;
    let message = r#"{"model":"claude-x","max_tokens":9,"messages":[]}"#;
    for (variable, base, path, body, expect) in [
        (
            "GEMINI",
            "/v1beta",
            "/v1/models/gemini-x:generateContent",
            generate,
            "/v1/models/gemini-x:generateContent",
        ),
        (
            "GEMINI",
            "/v1",
            "/v1beta/models/gemini-x:generateContent",
            generate,
            "/v1beta/models/gemini-x:generateContent",
        ),
        (
            "GEMINI",
            "/v1beta/openai",
            "/v1beta/models/gemini-x:generateContent",
            generate,
            "/v1beta/models/gemini-x:generateContent",
        ),
        ("ANTHROPIC", "/v1", "/v1/messages", message, "/v1/messages"),
        (
            "OPENAI",
            "/v1",
            "/v1/chat/completions",
            CHAT,
            "/v1/chat/completions",
        ),
        (
            "OPENAI",
            "/v1",
            "/openai/chat/completions",
            CHAT,
            "/v1/chat/completions",
        ),
        ("OPENAI", "/v1", "/openai/v2/rerank", CHAT, "/v2/rerank"),
    ] {
        let mock = Mock::start().await.unwrap();
        let base_url = mock.origin() + base;
        let (keys, name) = (
            format!("{variable}_API_KEY"),
            format!("{variable}_BASE_URL"),
        );
        let gw = Gateway::start_with("", &[(&keys, &key(1)), (&name, &base_url)]).await;
        gw.post(path, body).await;
        let seen: Vec<String> = mock.recorded().into_iter().map(|it| it.path).collect();
        assert_eq!(
            seen.first().map(String::as_str),
            Some(expect),
            "{base} {path}"
        );
        gw.stop().await;
    }
}

#[tokio::test]
async fn names_and_origins_that_cannot_be_meant_are_reported() {
    for name in ["chat", "messages", "models"] {
        let config = format!("[pools.{name}]\nprovider = \"groq\"\n");
        let (code, _, err) = check(&config, &[]).await;
        assert_eq!(code, 0, "{err}");
        assert!(
            err.contains(&format!("keypool.toml:1:8: the pool `{name}` gets every")),
            "{err}"
        );
    }
    for origin in ["*", "null"] {
        let config = format!("[server]\nallowed_origins = [\"{origin}\"]\n");
        let (code, _, err) = check(&config, &[]).await;
        assert_eq!(code, 1, "{err}");
        assert!(
            err.contains(&format!("must not contain \"{origin}\"")),
            "{err}"
        );
    }
}

#[tokio::test]
async fn the_demo_ignores_provider_keys_that_cannot_be_meant() {
    let secret = format!("{};{}", key(1), key(2));
    let env = [
        ("OPENAI_API_KEY", &*secret),
        ("OPENAI_BASE_URL", "https://api.openai.com/v1/models"),
    ];
    let args = ["demo", "--listen", "127.0.0.1:0"];
    let gw = Gateway::of(Process::start_with(&Folder::new(""), &args, &env)).await;
    gw.stop().await;
}
