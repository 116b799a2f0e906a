//! Hot reload: a change of the configuration file or of `.env` is put in force.
//!
//! Editors and orchestrators replace files rather than write them, so the folders are watched, and what counts is
//! whether the contents changed.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use keypool_core::secret::Digest256;
use keypool_gateway::context::Gateway;
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;

use crate::signals;

/// A file is read when it has been quiet for so long: it may be written in several steps.
const QUIET: Duration = Duration::from_millis(200);

/// Watches for as long as it lives.
pub(crate) struct Watching {
    _watcher: Option<RecommendedWatcher>,
}

/// Starts watching `files`, which need not exist yet.
#[expect(
    clippy::disallowed_methods,
    reason = "lives as long as the process; a shutdown does not wait for it"
)]
pub(crate) fn start(gw: &Arc<Gateway>, files: Vec<PathBuf>) -> Watching {
    // One place is enough: what matters is that something happened.
    let (sender, receiver) = mpsc::channel(1);
    let mut watcher = notify::recommended_watcher(move |_| {
        let _ = sender.try_send(());
    })
    .ok();
    for folder in folders(&files) {
        let watched = watcher
            .as_mut()
            .is_some_and(|watcher| watcher.watch(&folder, RecursiveMode::NonRecursive).is_ok());
        if !watched {
            tracing::warn!(
                "cannot watch {}: reload with SIGHUP or the admin API after a change",
                folder.display()
            );
        }
    }
    tokio::spawn(follow(Arc::clone(gw), files, receiver));
    Watching { _watcher: watcher }
}

async fn follow(gw: Arc<Gateway>, files: Vec<PathBuf>, mut events: mpsc::Receiver<()>) {
    let mut known = contents(&files);
    while events.recv().await.is_some() {
        tokio::time::sleep(QUIET).await;
        while events.try_recv().is_ok() {}
        let now = contents(&files);
        if now != known {
            known = now;
            signals::reload(&gw).await;
        }
    }
}

fn folders(files: &[PathBuf]) -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = files
        .iter()
        .filter_map(|file| file.parent())
        .map(|folder| {
            if folder.as_os_str().is_empty() {
                Path::new(".")
            } else {
                folder
            }
        })
        .map(Path::to_path_buf)
        .collect();
    folders.sort();
    folders.dedup();
    folders
}

fn contents(files: &[PathBuf]) -> Vec<Option<Digest256>> {
    files
        .iter()
        .map(|file| std::fs::read(file).ok().map(|bytes| Digest256::of(&bytes)))
        .collect()
}
