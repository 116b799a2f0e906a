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

/// The request path gives back blocks of a few KiB and takes them again at once. This allocator hands out the one
/// given back last, which the processor still has in its caches; glibc's does so up to 1 KiB only.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let code = cli::run();
    logging::flush();
    code
}
