//! Which server a command calls, and which token it sends there.

use std::net::TcpListener;

use keypool_testkit::Mock;

use crate::cli::{run, start, start_with};
use crate::harness::{Folder, Gateway, PoolConfig, key};
use crate::tls::{Authority, TlsProxy};

const LIST: [&str; 2] = ["keys", "list"];
const WRONG: &str = "a-token-of-another-server";

/// `keys list` in a folder of its own, with these variables.
async fn list(args: &[&str], env: &[(&str, &str)]) -> crate::cli::Done {
    run(&Folder::new(""), &[&LIST, args].concat(), env, "").await
}

/// A gateway with one key, and its URL.
async fn gateway() -> (Mock, Gateway, String) {
    let mock = Mock::start().await.expect("a mock");
    let gw = start(&PoolConfig::new(&mock, "p", [1]).to_string()).await;
    let url = format!("http://{}", gw.addr);
    (mock, gw, url)
}

#[tokio::test]
async fn the_local_server_is_found_by_its_configuration() {
    let (_mock, gw, url) = gateway().await;
    assert!(gw.keypool(&LIST).await.ok().contains("p-1"));
    // Its own URL is no other server.
    let itself = format!("{url}/");
    let named = [&LIST[..], &["--server", &itself]].concat();
    assert!(gw.keypool(&named).await.ok().contains("p-1"));
    gw.stop().await;

    let mock = Mock::start().await.expect("a mock");
    let token = "admin_token_of_the_configuration";
    let config = format!(
        "[admin]\ntoken = \"{token}\"\n{}",
        PoolConfig::new(&mock, "p", [1])
    );
    let gw = start_with(&config, &[]).await;
    assert!(gw.keypool(&LIST).await.ok().contains("p-1"));
    gw.folder()
        .write("other.toml", "[server]\nlisten = \"127.0.0.1:1\"\n");
    let other = [&LIST[..], &["--config", "other.toml"]].concat();
    assert!(
        gw.keypool(&other)
            .await
            .failed()
            .contains("there is no admin token in")
    );
    gw.stop().await;
}

#[tokio::test]
async fn a_generated_token_is_sent_to_no_other_server() {
    let (_mock, gw, _url) = gateway().await;
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    other.set_nonblocking(true).unwrap();
    let url = format!("http://{}", other.local_addr().unwrap());
    let said = gw
        .keypool(&["keys", "list", "--server", &url])
        .await
        .failed();
    assert!(
        said.contains(&format!(
            "set KEYPOOL_ADMIN_TOKEN to the admin token of {url}"
        )),
        "{said}"
    );
    let env = [("KEYPOOL_SERVER", url.as_str())];
    let said = run(gw.folder(), &LIST, &env, "").await.failed();
    assert!(said.contains("set KEYPOOL_ADMIN_TOKEN"), "{said}");
    assert!(other.accept().is_err(), "the other server was called");
    gw.stop().await;
}

#[tokio::test]
async fn an_exported_token_is_not_sent_to_a_server_from_dotenv() {
    let (_mock, gw, url) = gateway().await;
    let folder = Folder::new("");
    folder.write(".env", &format!("KEYPOOL_SERVER={url}\n"));
    let token = ("KEYPOOL_ADMIN_TOKEN", gw.token.as_str());
    let said = run(&folder, &LIST, &[token], "").await.failed();
    assert!(said.contains("the token is not sent there"), "{said}");
    let named = [&LIST[..], &["--server", &url]].concat();
    assert!(
        run(&folder, &named, &[token], "")
            .await
            .ok()
            .contains("p-1")
    );
    let exported = [token, ("KEYPOOL_SERVER", url.as_str())];
    assert!(
        run(&folder, &LIST, &exported, "")
            .await
            .ok()
            .contains("p-1")
    );
    gw.stop().await;
}

#[tokio::test]
async fn another_server_is_called_with_the_token_of_the_environment() {
    let (_mock, gw, url) = gateway().await;
    let token = ("KEYPOOL_ADMIN_TOKEN", gw.token.as_str());
    assert!(
        list(&["--server", &url], &[token])
            .await
            .ok()
            .contains("p-1")
    );
    let env = [token, ("KEYPOOL_SERVER", &url)];
    assert!(list(&[], &env).await.ok().contains("p-1"));
    // A flag wins, and `.env` counts as the environment does.
    let env = [token, ("KEYPOOL_SERVER", "http://127.0.0.1:1")];
    assert!(list(&["--server", &url], &env).await.ok().contains("p-1"));
    let folder = Folder::new("this is no TOML");
    folder.write(
        ".env",
        &format!("KEYPOOL_SERVER={url}\nKEYPOOL_ADMIN_TOKEN={}\n", gw.token),
    );
    assert!(run(&folder, &LIST, &[], "").await.ok().contains("p-1"));
    // A proxy is not asked for what is on this machine.
    let env = [
        token,
        ("http_proxy", "http://127.0.0.1:1"),
        ("ALL_PROXY", "http://127.0.0.1:1"),
    ];
    assert!(list(&["--server", &url], &env).await.ok().contains("p-1"));
    gw.stop().await;
}

#[tokio::test]
async fn secrets_are_exported_from_no_named_server() {
    let (_mock, gw, _url) = gateway().await;
    gw.keypool_with(&["keys", "add", "--pool", "p"], &key(2))
        .await
        .ok();
    let export = ["keys", "export", "--pool", "p", "--secrets"];
    let url = "https://keypool.example.com";
    let named = [&export[..], &["--server", url]].concat();
    let env = [("KEYPOOL_SERVER", url)];
    for refused in [
        gw.keypool(&named).await,
        run(gw.folder(), &export, &env, "").await,
    ] {
        let said = refused.without_secret().failed();
        assert!(said.contains("asks no server"), "{said}");
    }
    assert!(gw.keypool(&export).await.ok().contains(&key(2)));
    gw.stop().await;
}

#[tokio::test]
async fn https_needs_a_certificate_that_is_trusted() {
    let (_mock, gw, _url) = gateway().await;
    let authority = Authority::new();
    let front = TlsProxy::start(authority.acceptor(&["127.0.0.1"], &[]), gw.addr).await;
    let url = format!("https://{}", front.addr);
    let token = ("KEYPOOL_ADMIN_TOKEN", gw.token.as_str());
    let trusted = list(&["--server", &url], &[token, authority.env()]).await;
    assert!(trusted.ok().contains("p-1"));
    let said = list(&["--server", &url], &[token]).await.failed();
    assert!(said.contains(&format!("cannot call {url}: ")), "{said}");
    assert_eq!(front.seen().0, 1);
    gw.stop().await;
}

#[tokio::test]
async fn a_token_is_not_sent_where_others_could_read_it() {
    let token = ("KEYPOOL_ADMIN_TOKEN", WRONG);
    for url in ["http://203.0.113.1:8080", "http://localhost.example.com"] {
        let said = list(&["--server", url], &[token]).await.failed();
        assert!(
            said.contains("neither https nor a loopback address"),
            "{said}"
        );
    }
    let folder = Folder::new("[server]\nlisten = \"203.0.113.1:8080\"\n");
    let said = run(&folder, &LIST, &[token], "").await.failed();
    assert!(
        said.contains("neither https nor a loopback address"),
        "{said}"
    );
    for url in [
        "127.0.0.1:8080",
        "ftp://127.0.0.1",
        "http://user:hunter2@127.0.0.1",
    ] {
        let said = list(&["--server", url], &[token]).await.failed();
        assert!(
            said.contains("--server must be the URL") && !said.contains("hunter2"),
            "{said}"
        );
    }
}

#[tokio::test]
async fn whatever_is_wrong_with_the_server_is_explained() {
    let (mock, gw, url) = gateway().await;
    let wrong = ("KEYPOOL_ADMIN_TOKEN", WRONG);
    let said = list(&["--server", &url], &[wrong]).await.failed();
    assert!(
        said.contains("rejects the admin token, which is from KEYPOOL_ADMIN_TOKEN"),
        "{said}"
    );
    assert!(!said.contains(WRONG), "{said}");
    let rejected = list(&["--server", &url, "--json"], &[wrong]).await;
    assert_eq!(rejected.json()["code"], "invalid_admin_token");
    let said = list(&["--server", &mock.origin()], &[wrong]).await.failed();
    assert!(said.contains("is no keypool server"), "{said}");
    let (folder, closed) = (gw.folder().clone(), url.clone());
    gw.stop().await;
    let said = run(&folder, &LIST, &[], "").await.failed();
    assert!(
        said.contains(&format!(
            "no server responds at {closed}: start one with `keypool serve`"
        )),
        "{said}"
    );
    let said = list(&[], &[]).await.failed();
    assert!(
        said.contains("start a server here with `keypool serve`"),
        "{said}"
    );
    let said = run(&Folder::new("[sever]"), &LIST, &[], "").await.failed();
    assert!(said.contains("the configuration has 1 mistake"), "{said}");
}

#[tokio::test]
async fn every_command_shows_an_example_in_its_help() {
    let verbs = [
        (
            "keys",
            &[
                "list", "add", "import", "export", "check", "refresh", "enable", "disable",
                "reset", "remove",
            ][..],
        ),
        ("virtual-keys", &["create", "list", "rotate", "revoke"]),
        ("store", &["backup", "restore", "rotate-master-key"]),
    ];
    let folder = Folder::new("");
    for (group, verbs) in verbs {
        for verb in verbs {
            let help = run(&folder, &[group, verb, "--help"], &[], "").await.ok();
            let example = format!("keypool {group} {verb}");
            let examples = help.split("Example").nth(1).unwrap_or_default();
            assert!(
                examples.contains(&example) && help.contains("--json"),
                "{help}"
            );
        }
        assert_eq!(run(&folder, &[group], &[], "").await.code, 2);
        assert_eq!(run(&folder, &[group, "nonsense"], &[], "").await.code, 2);
    }
}
