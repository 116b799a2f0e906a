//! Hot reload: a change of the configuration file or of `.env` is put in force.
//!
//! The files are looked at twice a second. Editors and orchestrators replace files, move folders and swap links, on
//! file systems that tell nobody; a look sees all of that, and costs two system calls.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use keypool_core::secret::Digest256;
use keypool_gateway::context::Gateway;
use tokio::time::{MissedTickBehavior, interval};

use crate::signals;

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// What a look at a file's outside shows: when it was changed, and its length. `None`: there is no file.
type Outside = Option<(SystemTime, u64)>;

/// Watches `files`, which need not exist yet, for as long as the process lives.
#[expect(
    clippy::disallowed_methods,
    reason = "lives as long as the process; a shutdown does not wait for it"
)]
pub(crate) fn start(gw: &Arc<Gateway>, files: Vec<PathBuf>) {
    let seen = Seen {
        outside: look(&files),
        contents: read(&files),
    };
    tokio::spawn(follow(Arc::clone(gw), files, seen));
}

/// What the files were like when they were looked at.
struct Seen {
    outside: Vec<Outside>,
    contents: Vec<Option<Digest256>>,
}

async fn follow(gw: Arc<Gateway>, files: Vec<PathBuf>, seen: Seen) {
    let mut ticks = interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let Seen {
        mut outside,
        mut contents,
    } = seen;
    let mut is_quiet = true;
    loop {
        ticks.tick().await;
        let now = look(&files);
        let was_quiet = std::mem::replace(&mut is_quiet, now == outside);
        outside = now;
        // Read when a change is followed by quiet: a file may be written in several steps.
        if was_quiet || !is_quiet {
            continue;
        }
        let now = read(&files);
        if now != contents {
            contents = now;
            signals::reload(&gw).await;
        }
    }
}

fn look(files: &[PathBuf]) -> Vec<Outside> {
    let outside = |file: &PathBuf| {
        let metadata = std::fs::metadata(file).ok()?;
        Some((metadata.modified().ok()?, metadata.len()))
    };
    files.iter().map(outside).collect()
}

fn read(files: &[PathBuf]) -> Vec<Option<Digest256>> {
    let digest = |file: &PathBuf| Some(Digest256::of(&std::fs::read(file).ok()?));
    files.iter().map(digest).collect()
}
