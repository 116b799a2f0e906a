//! Hot reload: reloads the configuration when its file or `.env` changes.
//!
//! The files are read twice a second. Editors and orchestrators replace files, move folders and swap links, also on file
//! systems without change notifications, and to files of the same size and time. Comparing the contents detects all of
//! that, and the files are small.

use std::sync::Arc;
use std::time::Duration;

use keypool_gateway::context::Gateway;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::config::{Contents, SourceFile};
use crate::reloader::Reloader;
use crate::signals;

/// How often the files are read.
const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// Watches the files of `reloader` until the process ends. They need not exist yet.
#[expect(
    clippy::disallowed_methods,
    reason = "lives as long as the process; a shutdown does not wait for it"
)]
pub(crate) fn start(gw: &Arc<Gateway>, reloader: Arc<Reloader>) {
    tokio::spawn(follow(Arc::clone(gw), reloader));
}

async fn follow(gw: Arc<Gateway>, reloader: Arc<Reloader>) {
    let mut ticks = interval(POLL_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut handled = reloader.files();
    let mut last = handled.clone();
    loop {
        ticks.tick().await;
        let now = current(&reloader, &last);
        // A file may be written in several steps: it is read once it is the same at two checks.
        let is_quiet = now == last;
        last = now;
        if is_quiet && (last != handled || reloader.is_due(Instant::now())) {
            handled.clone_from(&last);
            signals::reload(&gw).await;
        }
    }
}

/// The files with their contents. One that cannot be read twice keeps its `last` contents.
fn current(reloader: &Reloader, last: &[SourceFile]) -> Vec<SourceFile> {
    let current = |file: SourceFile| {
        let before = last.iter().find(|last| last.path == file.path);
        let before = before.map_or(file.contents, |last| last.contents);
        let contents = Contents::now(&file.path).unwrap_or(before);
        SourceFile { contents, ..file }
    };
    reloader.files().into_iter().map(current).collect()
}
