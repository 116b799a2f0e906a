//! `keypool batch run`: makes the calls of a file on a running server, which it calls as a caller.

mod run;
mod state;

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use tokio::sync::oneshot;

use self::run::Run;
use self::state::State;
use super::Failure;
use super::client::Client;
use super::server::ServerArgs;

#[derive(Args)]
pub(super) struct BatchArgs {
    #[command(subcommand)]
    verb: BatchVerb,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Subcommand)]
enum BatchVerb {
    /// Run the calls of a JSON Lines file as a batch, and wait for their results.
    ///
    /// If it is interrupted, the batch goes on, and the same command continues with it.
    /// The virtual key in KEYPOOL_API_KEY is presented, if it is set.
    /// Exits with 1 if a call failed or was not made.
    #[command(after_help = "Example:\n  keypool batch run calls.jsonl -o results.jsonl")]
    Run(RunArgs),
}

#[derive(Args)]
struct RunArgs {
    /// File with one call per line.
    #[arg(value_name = "INPUT")]
    input: PathBuf,
    /// File for the responses of the calls that succeeded.
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// File for the calls that failed [default: the name of the output with .errors.jsonl at its end].
    #[arg(long, value_name = "FILE")]
    errors: Option<PathBuf>,
    /// Path of all calls [default: the `url` of the first line].
    #[arg(long, value_name = "PATH")]
    endpoint: Option<String>,
    /// Cancel the batch that this command began, and save the results that there are.
    #[arg(long)]
    cancel: bool,
}

/// The files of a batch.
#[derive(Clone)]
struct Paths {
    input: PathBuf,
    output: PathBuf,
    errors: PathBuf,
    state: PathBuf,
}

impl Paths {
    fn new(args: &RunArgs) -> Result<Self, Failure> {
        let errors = args.errors.clone();
        let paths = Self {
            input: args.input.clone(),
            output: args.output.clone(),
            errors: errors.unwrap_or_else(|| errors_beside(&args.output)),
            state: with_suffix(&args.output, ".batch"),
        };
        if paths.output == paths.errors {
            return Err(Failure::Other(
                "--output and --errors name the same file: name two files".to_owned(),
            ));
        }
        let input = args.input.canonicalize().ok();
        for result in [&paths.output, &paths.errors] {
            if input.is_some() && input == result.canonicalize().ok() {
                return Err(Failure::Other(format!(
                    "{} is the input: name another file for the results",
                    result.display()
                )));
            }
        }
        Ok(paths)
    }
}

/// The file for errors, if the command does not name it.
fn errors_beside(output: &Path) -> PathBuf {
    match output.extension() {
        Some(ending) if ending == "jsonl" => output.with_extension("errors.jsonl"),
        _ => with_suffix(output, ".errors.jsonl"),
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}

/// Runs a verb.
pub(super) fn run(args: &BatchArgs) -> Result<ExitCode, Failure> {
    let BatchVerb::Run(verb) = &args.verb;
    let paths = Paths::new(verb)?;
    let run = Run {
        client: Client::of(args.server.data_plane()?, args.server.json),
        paths: paths.clone(),
        endpoint: verb.endpoint.clone(),
    };
    let cancels = verb.cancel;
    let (end, ended) = oneshot::channel();
    // The calls to the server block, so another thread makes them. It ends with the process.
    std::thread::spawn(move || end.send(run.to_end(cancels)));
    super::runtime()?.block_on(async {
        tokio::select! {
            outcome = ended => match outcome {
                Ok(outcome) => outcome,
                Err(_) => Err(Failure::Other("the command has failed; please report what it printed before".to_owned())),
            },
            _ = tokio::signal::ctrl_c() => Err(interrupted(&paths)),
        }
    })
}

fn interrupted(paths: &Paths) -> Failure {
    let mut stderr = std::io::stderr();
    if stderr.is_terminal() {
        // Behind the progress bar.
        let _ = writeln!(stderr);
    }
    match State::read(&paths.state) {
        Ok(Some(state)) => match &state.batch_id {
            Some(id) => Failure::Other(format!(
                "interrupted; the batch goes on. {}",
                how_to_go_on(id)
            )),
            None => Failure::Other("interrupted. Run the same command to go on".to_owned()),
        },
        _ => Failure::Other("interrupted".to_owned()),
    }
}

fn how_to_go_on(id: &str) -> String {
    format!("Run the same command to continue with batch {id}, or add --cancel to cancel it")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_for_errors_is_named_after_the_output() {
        for (output, errors) in [
            ("out.jsonl", "out.errors.jsonl"),
            ("a.b/out.1.jsonl", "a.b/out.1.errors.jsonl"),
            ("out", "out.errors.jsonl"),
            ("out.json", "out.json.errors.jsonl"),
        ] {
            assert_eq!(errors_beside(Path::new(output)), Path::new(errors));
        }
    }
}
