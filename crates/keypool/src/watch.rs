//! Hot reload: reloads the configuration when its file or `.env` changes.
//!
//! The files are polled twice a second. Editors and orchestrators replace files, move folders and swap links, also on
//! file systems without change notifications. Polling detects all of that and costs two system calls.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use keypool_core::secret::Digest256;
use keypool_gateway::context::Gateway;
use tokio::time::{MissedTickBehavior, interval};

use crate::signals;

/// How often the files are checked.
const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// A file's modification time and length; `None` if there is no file.
type Stamp = Option<(SystemTime, u64)>;

/// Watches `files` until the process ends. They need not exist yet.
#[expect(
    clippy::disallowed_methods,
    reason = "lives as long as the process; a shutdown does not wait for it"
)]
pub(crate) fn start(gw: &Arc<Gateway>, files: Vec<PathBuf>) {
    let (stamps, contents) = (stamps(&files), digests(&files));
    tokio::spawn(follow(Arc::clone(gw), files, stamps, contents));
}

/// `last_stamps` and `contents`: the state of the files at the last check.
async fn follow(
    gw: Arc<Gateway>,
    files: Vec<PathBuf>,
    mut last_stamps: Vec<Stamp>,
    mut contents: Vec<Option<Digest256>>,
) {
    let mut ticks = interval(POLL_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut is_quiet = true;
    loop {
        ticks.tick().await;
        let now = stamps(&files);
        let was_quiet = std::mem::replace(&mut is_quiet, now == last_stamps);
        last_stamps = now;
        // A file may be written in several steps: read it at the first check without a further change.
        if was_quiet || !is_quiet {
            continue;
        }
        let now = digests(&files);
        if now != contents {
            contents = now;
            signals::reload(&gw).await;
        }
    }
}

fn stamps(files: &[PathBuf]) -> Vec<Stamp> {
    let stamp = |file: &PathBuf| {
        let metadata = std::fs::metadata(file).ok()?;
        Some((metadata.modified().ok()?, metadata.len()))
    };
    files.iter().map(stamp).collect()
}

fn digests(files: &[PathBuf]) -> Vec<Option<Digest256>> {
    let digest = |file: &PathBuf| Some(Digest256::of(&std::fs::read(file).ok()?));
    files.iter().map(digest).collect()
}
