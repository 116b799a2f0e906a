//! The keypool binary: command line, configuration, wiring.

mod admin_token;
mod cli;
mod config;
mod limiter;
mod logging;
mod open_files;
mod owner;
mod reloader;
mod secret_file;
mod signals;
mod store;
mod watch;
mod welcome;

use std::process::ExitCode;

/// The request path frees blocks of a few KiB and allocates them again at once. This allocator reuses the block freed
/// last, which is still in the CPU caches; glibc's does so only up to 1 KiB.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let code = cli::run();
    logging::flush();
    code
}
