//! Runs commands of the binary against a gateway of the test, and checks that they show no secret.

use std::io::Write;
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::sync::Arc;

use serde_json::Value;

use crate::harness::{Folder, Gateway, MARK, within};

/// What a command has printed, and its exit code.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Done {
    /// The output of a command that was done.
    pub(crate) fn ok(self) -> String {
        assert_eq!(self.code, 0, "{self:?}");
        self.stdout
    }

    /// What a command that failed has said.
    pub(crate) fn failed(self) -> String {
        assert_eq!(self.code, 1, "{self:?}");
        self.stderr
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Checks that no key of these tests was shown.
    pub(crate) fn without_secret(self) -> Done {
        assert!(
            !format!("{self:?}").contains(MARK),
            "a key was shown: {self:?}"
        );
        self
    }
}

/// Runs a command in a folder, with these environment variables and no others, and `input` as its standard input.
pub(crate) async fn run(
    folder: &Arc<Folder>,
    args: &[&str],
    env: &[(&str, &str)],
    input: &str,
) -> Done {
    let mut child = Command::new(env!("CARGO_BIN_EXE_keypool"))
        .args(args)
        .current_dir(folder.path("."))
        .env_clear()
        .envs(env.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let mut stdin = child.stdin.take().expect("piped");
    let input = input.to_owned();
    // Fails if the command does not read it.
    let writing = std::thread::spawn(move || drop(stdin.write_all(input.as_bytes())));
    let ended = tokio::task::spawn_blocking(move || child.wait_with_output());
    let output = within(ended).await.expect("no panic").expect("an end");
    writing.join().expect("no panic");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    let done = Done {
        code: output.status.code().expect("it was not killed"),
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    };
    assert!(!done.stderr.contains("panicked"), "{done:?}");
    let token = std::fs::read_to_string(folder.path("keypool.admin-token")).unwrap_or_default();
    let is_shown = !token.is_empty() && format!("{done:?}").contains(token.trim());
    assert!(!is_shown, "the admin token was shown: {done:?}");
    done
}

/// A gateway that listens where its configuration says, as commands expect it.
pub(crate) async fn start(config: &str) -> Gateway {
    start_with(config, &[]).await
}

/// The same with further arguments of `serve`.
pub(crate) async fn start_with(config: &str, args: &[&str]) -> Gateway {
    let free = TcpListener::bind("127.0.0.1:0").expect("a port");
    let addr = free.local_addr().expect("an address");
    drop(free);
    let folder = Folder::new(&format!("[server]\nlisten = \"{addr}\"\n{config}"));
    Gateway::run(&folder, &[&["serve"], args].concat()).await
}

impl Gateway {
    /// Runs a command in the gateway's folder.
    pub(crate) async fn keypool(&self, args: &[&str]) -> Done {
        self.keypool_with(args, "").await
    }

    /// The same with standard input.
    pub(crate) async fn keypool_with(&self, args: &[&str], input: &str) -> Done {
        run(self.folder(), args, &[], input).await
    }
}
