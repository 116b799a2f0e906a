//! The command line: one file per verb. Exit 0 done, 1 failed, 2 wrong usage.

mod check;
mod demo;
mod running;
mod serve;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::config::{Errors, Overrides, Sources};

/// Makes many API keys work as one.
#[derive(Parser)]
#[command(name = "keypool", version, about, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Serve the configured pools.
    Serve(serve::ServeArgs),
    /// Serve a built-in mock provider behind three made-up keys: try everything without an account.
    Demo(Common),
    /// Check the configuration and report every mistake in it.
    Check(check::CheckArgs),
}

/// Flags that every verb takes which reads the configuration.
#[derive(Args, Clone)]
struct Common {
    /// Configuration file [default: keypool.toml in the working directory, where there is one].
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Address to listen on, in place of `server.listen`.
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,
    /// error, warn, info, debug or trace, in place of `log.level`.
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
    /// text or json, in place of `log.format`.
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
    /// How the work is spread over the processor's cores.
    #[arg(long, value_enum, default_value_t)]
    threading: running::Threading,
}

impl Common {
    fn sources(&self) -> std::io::Result<Sources> {
        let overrides = Overrides {
            listen: self.listen.clone(),
            log_level: self.log_level.clone(),
            log_format: self.log_format.clone(),
        };
        Sources::from_process(self.config.clone(), overrides)
    }
}

/// Reads the command line and does what it says.
pub(crate) fn run() -> ExitCode {
    let outcome = match Cli::parse().verb {
        Verb::Serve(args) => serve::run(&args),
        Verb::Demo(args) => demo::run(&args),
        Verb::Check(args) => check::run(&args),
    };
    match outcome {
        Ok(code) => code,
        Err(failure) => {
            complain(&failure.to_string());
            ExitCode::FAILURE
        }
    }
}

/// Why a verb failed, for a person.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("the configuration has {count}:\n\n{errors}", count = mistakes(errors))]
    Config {
        /// Every mistake.
        errors: Errors,
    },
    #[error("{0}")]
    Other(String),
}

fn mistakes(errors: &Errors) -> String {
    match errors.0.len() {
        1 => "1 mistake".to_owned(),
        n => format!("{n} mistakes"),
    }
}

impl From<Errors> for Failure {
    fn from(errors: Errors) -> Self {
        Self::Config { errors }
    }
}

impl Failure {
    /// A sentence of our own, then what the system said.
    fn because(what: impl std::fmt::Display, error: impl std::fmt::Display) -> Self {
        Self::Other(format!("{what}: {error}"))
    }
}

/// To standard error. A reader that is gone is no reason to fail.
fn complain(text: &str) {
    let _ = writeln!(std::io::stderr(), "keypool: {text}");
}

/// To standard output, likewise.
fn say(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}
