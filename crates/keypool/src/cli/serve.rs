//! `keypool serve`: runs the gateway with its configuration until a signal stops it.

use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;

use super::running::serve;
use super::{Common, Failure, demo};
use crate::reloader::Reloader;
use crate::{config, welcome};

#[derive(Args)]
pub(super) struct ServeArgs {
    #[command(flatten)]
    common: Common,
    /// Run the demo instead if no provider key is configured (used by `make run`).
    #[arg(long, hide = true)]
    or_demo: bool,
}

pub(super) fn run(args: &ServeArgs) -> Result<ExitCode, Failure> {
    let sources = args.common.sources()?;
    let loaded = config::load(&sources)?;
    if args.or_demo
        && loaded
            .settings
            .pools
            .iter()
            .all(|pool| pool.keys.is_empty())
    {
        return demo::run(&args.common);
    }
    let reloader = Arc::new(Reloader::new(sources, &loaded));
    let threading = args.common.threading;
    let serving = serve(loaded, Some(reloader), welcome::Kind::Serve, threading);
    threading.runtime()?.block_on(serving)
}
