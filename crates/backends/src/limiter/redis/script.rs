//! A script, and the commands that run it.

use redis::Cmd;

/// A Lua script. It may run twice for one call, so repeating it must change nothing.
#[derive(Clone, Debug)]
pub struct Script {
    source: &'static str,
    sha1: String,
}

impl Script {
    /// A script from `scripts/`.
    pub fn new(source: &'static str) -> Self {
        let sha1 = redis::Script::new(source).get_hash().to_owned();
        Self { source, sha1 }
    }

    /// Runs it by its digest, so that its source is not sent.
    pub(super) fn evalsha(&self, keys: &[&[u8]], args: &[&[u8]]) -> Cmd {
        invocation("EVALSHA", &self.sha1, keys, args)
    }

    /// Sends its source, runs it, and leaves it loaded.
    pub(super) fn eval(&self, keys: &[&[u8]], args: &[&[u8]]) -> Cmd {
        invocation("EVAL", self.source, keys, args)
    }
}

fn invocation(command: &'static str, script: &str, keys: &[&[u8]], args: &[&[u8]]) -> Cmd {
    let mut cmd = redis::cmd(command);
    cmd.arg(script).arg(keys.len());
    for text in keys.iter().chain(args) {
        cmd.arg(*text);
    }
    cmd
}
