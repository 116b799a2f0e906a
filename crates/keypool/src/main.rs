//! The keypool binary: command line, configuration, wiring.

mod admin_token;
mod cli;
mod config;
mod logging;
mod open_files;
mod signals;
mod watch;
mod welcome;

use std::process::ExitCode;

fn main() -> ExitCode {
    let code = cli::run();
    logging::flush();
    code
}
