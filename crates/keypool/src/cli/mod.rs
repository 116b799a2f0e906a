//! The command line: one file per subcommand. Exit codes: 0 done, 1 failed, 2 wrong usage.

mod batch;
mod check;
mod client;
mod demo;
mod format;
mod jobs;
mod keys;
mod progress;
mod prompt;
mod running;
mod serve;
mod server;
mod store;
mod table;
mod virtual_keys;

use std::io::{ErrorKind, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use http::StatusCode;
use tokio::runtime::Runtime;

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
    /// Try keypool without any account: serve a built-in mock provider behind three made-up keys.
    Demo(Common),
    /// Check the configuration and report all mistakes in it.
    Check(check::CheckArgs),
    /// Manage the provider keys of a running server.
    Keys(keys::KeysArgs),
    /// Manage the virtual keys of a running server: what callers present.
    VirtualKeys(virtual_keys::VirtualKeysArgs),
    /// Show and cancel jobs of a running server: calls that it has accepted and makes later.
    Jobs(jobs::JobsArgs),
    /// Run a file of calls on a running server.
    Batch(batch::BatchArgs),
    /// Back up and restore the store, and rotate its master key.
    Store(store::StoreArgs),
}

/// Flags of every subcommand that reads the configuration.
#[derive(Args, Clone)]
struct Common {
    /// Configuration file [default: keypool.toml in the working directory, if it exists].
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Address to listen on; overrides `server.listen`.
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,
    /// Log level: error, warn, info, debug or trace; overrides `log.level`.
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
    /// Log format: text or json; overrides `log.format`.
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
    /// How work is spread over the CPU cores.
    #[arg(long, value_enum, default_value_t)]
    threading: running::Threading,
}

impl Common {
    fn sources(&self) -> Result<Sources, Failure> {
        let overrides = Overrides {
            listen: self.listen.clone(),
            log_level: self.log_level.clone(),
            log_format: self.log_format.clone(),
        };
        Sources::from_process(self.config.clone(), overrides)
            .map_err(|error| Failure::because("cannot read the working directory", error))
    }
}

/// Runs the subcommand of the command line.
pub(crate) fn run() -> ExitCode {
    let outcome = match Cli::parse().verb {
        Verb::Serve(args) => serve::run(&args),
        Verb::Demo(args) => demo::run(&args),
        Verb::Check(args) => check::run(&args),
        Verb::Keys(args) => keys::run(&args),
        Verb::VirtualKeys(args) => virtual_keys::run(&args),
        Verb::Jobs(args) => jobs::run(&args),
        Verb::Batch(args) => batch::run(&args),
        Verb::Store(args) => store::run(&args),
    };
    match outcome {
        Ok(code) => code,
        Err(failure) => {
            if let Failure::Problem {
                json: Some(document),
                ..
            } = &failure
                && let Err(failure) = print(document)
            {
                print_error(&failure.to_string());
            }
            print_error(&failure.to_string());
            ExitCode::FAILURE
        }
    }
}

/// Why a subcommand failed, as shown to the user.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("the configuration has {count}:\n\n{errors}", count = mistakes(errors))]
    Config {
        /// All mistakes.
        errors: Errors,
    },
    #[error("{sentence}")]
    Problem {
        /// The status of its response.
        status: StatusCode,
        /// What the server refuses, and why.
        sentence: String,
        /// The problem document, if the command was to print JSON.
        json: Option<String>,
    },
    /// The server did not respond.
    #[error("{0}")]
    NoResponse(String),
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
    /// Our own sentence, followed by the cause.
    fn because(what: impl std::fmt::Display, error: impl std::fmt::Display) -> Self {
        Self::Other(format!("{what}: {error}"))
    }
}

/// The runtime of a command that reads or changes the store.
fn runtime() -> Result<Runtime, Failure> {
    running::Threading::PerCore.runtime()
}

/// Prints to standard error. A closed pipe is not an error.
fn print_error(text: &str) {
    let _ = writeln!(std::io::stderr(), "keypool: {text}");
}

/// Prints to standard output. A closed pipe is not an error: its reader has what it wants.
fn print(text: &str) -> Result<(), Failure> {
    match writeln!(std::io::stdout(), "{text}") {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(not_written(&error)),
        _ => Ok(()),
    }
}

/// Prints what is shown this one time to standard output. `what_to_do` is for those who could not read it.
fn print_once(text: &str, what_to_do: &str) -> Result<(), Failure> {
    let written = writeln!(std::io::stdout(), "{text}");
    written.map_err(|error| Failure::Other(format!("{}; {what_to_do}", not_written(&error))))
}

fn not_written(error: &std::io::Error) -> Failure {
    Failure::because("standard output could not be written", error)
}
