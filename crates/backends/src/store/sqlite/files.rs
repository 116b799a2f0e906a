//! What is done with the file as a whole: locking, creating, backup and restoring.

use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use keypool_core::store::{StoreError, StoreErrorKind};

use super::Sqlite;
use crate::store::schema;
use crate::store::sql::Database;
use crate::store::sql_store;

/// How long copying and checking a file may take.
const DEADLINE: Duration = Duration::from_secs(600);
/// What SQLite keeps beside a file, by the ending of its name.
const LOGS: [&str; 2] = ["-wal", "-shm"];

/// The ending of the name of a backup that is being restored.
const RESTORING: &str = "restoring";

/// Held while no other process may have the store open.
pub(super) struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        // When the file is closed, a process that was just started may still share it.
        let _ = self.0.unlock();
    }
}

/// The path without symbolic links: the lock, the logs and what a restore keeps belong beside the file itself.
pub(super) fn resolve(path: &Path) -> PathBuf {
    let of_new_file = || {
        Some(
            fs::canonicalize(directory(path))
                .ok()?
                .join(path.file_name()?),
        )
    };
    // What cannot be resolved cannot be used either, which says why.
    fs::canonicalize(path)
        .ok()
        .or_else(of_new_file)
        .unwrap_or_else(|| path.to_owned())
}

/// Takes the lock of a store, on a file beside it.
pub(super) fn lock(path: &Path) -> Result<Lock, StoreError> {
    let name = with_suffix(path, "lock");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&name);
    let file = file.map_err(|error| not_writable(&name, &error))?;
    match file.try_lock() {
        Ok(()) => Ok(Lock(file)),
        Err(TryLockError::WouldBlock) => Err(StoreError::new(
            StoreErrorKind::InUse,
            format!(
                "another keypool server uses the database {}; stop it, or give this one another file as `url` of [store]. \
                 Servers share a store on PostgreSQL only",
                path.display()
            ),
        )),
        Err(TryLockError::Error(error)) => Err(not_writable(&name, &error)),
    }
}

/// The path with another ending: `keypool.db` and `lock` make `keypool.db.lock`.
fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    name.into()
}

pub(super) fn not_writable(path: &Path, error: &std::io::Error) -> StoreError {
    let advice = match error.kind() {
        ErrorKind::NotFound => "create its directory",
        ErrorKind::StorageFull => "free space on the disk",
        ErrorKind::PermissionDenied => {
            "give keypool's user the right to write it and its directory"
        }
        ErrorKind::ReadOnlyFilesystem => "move the store to a disk that can be written",
        _ => "check the disk",
    };
    let message = format!("{} cannot be written ({error}); {advice}", path.display());
    StoreError::new(StoreErrorKind::NotWritable, message)
}

/// Refuses to go on without a file.
pub(super) fn check_exists(path: &Path) -> Result<(), StoreError> {
    if is_empty(path)? {
        let message = format!(
            "there is no database {}; name the file that `url` of [store] names",
            path.display()
        );
        return Err(StoreError::new(StoreErrorKind::Missing, message));
    }
    Ok(())
}

/// Whether there is no file, or nothing in it.
pub(super) fn is_empty(path: &Path) -> Result<bool, StoreError> {
    match fs::metadata(path) {
        Ok(metadata) => Ok(metadata.len() == 0),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(true),
        Err(error) => Err(not_writable(path, &error)),
    }
}

/// Creates the file, unless there is one, so that only its owner reads it.
pub(super) fn create(path: &Path) -> Result<(), StoreError> {
    match create_new(path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        created => created
            .map(drop)
            .map_err(|error| not_writable(path, &error)),
    }
}

fn create_new(path: &Path) -> std::io::Result<File> {
    File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
}

/// Copies the store into the new file `to`.
pub(super) async fn backup(database: &Sqlite, to: &Path) -> Result<(), StoreError> {
    if fs::symlink_metadata(to).is_ok() {
        return Err(backup_exists(to));
    }
    // A backup has its name only once it is complete.
    let partial = with_suffix(to, "partial");
    let copied = sql_store::in_time(DEADLINE, copy(database, &partial)).await;
    let copied = copied.and_then(|()| match fs::hard_link(&partial, to) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Err(backup_exists(to)),
        linked => linked.map_err(|error| not_writable(to, &error)),
    });
    // If it fails, the error says what went wrong; what is left of the copy is of no use.
    let _ = fs::remove_file(&partial);
    copied.and_then(|()| synchronise(to))
}

fn backup_exists(to: &Path) -> StoreError {
    let message = format!(
        "{} exists already; name a file that does not exist",
        to.display()
    );
    StoreError::new(StoreErrorKind::NameTaken, message)
}

async fn copy(database: &Sqlite, to: &Path) -> Result<(), StoreError> {
    // It is an error to name a file that is not a store, and to be told so only when the backup is needed.
    let mut read = database.read().await?;
    check_is_store(schema::version(database, &mut *read).await?, &database.path)?;
    drop(read);
    let target = to.to_str().ok_or_else(|| {
        StoreError::new(
            StoreErrorKind::Internal,
            "the name of the backup is not UTF-8; choose another one",
        )
    })?;
    let _ = fs::remove_file(to);
    create_new(to).map_err(|error| not_writable(to, &error))?;
    let copied = sqlx::query("VACUUM INTO $1")
        .bind(target)
        .execute(&database.readers)
        .await;
    copied.map_err(|error| database.error(&error))?;
    synchronise(to)
}

/// Puts a backup in the place of the store. Returns the name under which the store before is kept, if there was one.
pub(super) async fn restore(backup: &Path, path: &Path) -> Result<Option<PathBuf>, StoreError> {
    let new = with_suffix(path, RESTORING);
    let restored = sql_store::in_time(DEADLINE, replace(backup, path, &new)).await;
    if restored.is_err() {
        // The error says what went wrong; what is left of the copy is of no use.
        let _ = fs::remove_file(&new);
        remove_logs(&new);
    }
    restored
}

/// Refuses to make an empty store where a restore was interrupted.
pub(super) fn check_not_restoring(path: &Path) -> Result<(), StoreError> {
    if with_suffix(path, RESTORING).exists() && is_empty(path)? {
        let message = format!(
            "there is no database {}, since a restore was interrupted; run it again with `keypool store restore FILE`",
            path.display()
        );
        return Err(StoreError::new(StoreErrorKind::Missing, message));
    }
    Ok(())
}

/// Copies `backup` to `new`, checks it there, and puts it in the place of `path`.
async fn replace(backup: &Path, path: &Path, new: &Path) -> Result<Option<PathBuf>, StoreError> {
    remove_logs(new);
    copy_file(backup, new)?;
    let log = sibling(backup, LOGS[0]);
    if log.exists() {
        // The newest changes may be in the log only.
        copy_file(&log, &sibling(new, LOGS[0]))?;
        let database = Sqlite::new(new, None);
        let emptied = database.empty_log().await;
        database.close().await;
        emptied.map_err(|error| named(error, backup))?;
    }
    let database = Sqlite::read_only(new);
    let checked = check(&database, backup).await;
    database.close().await;
    remove_logs(new);
    checked?;
    synchronise(new)?;
    let kept = match is_empty(path)? {
        true => None,
        false => Some(keep(path).await?),
    };
    // At no time is there no file: until now it has two names, and this takes one of them away.
    rename(new, path)?;
    synchronise(path)?;
    Ok(kept)
}

/// Copies a file of a backup into the new file `to`, which only its owner reads.
fn copy_file(from: &Path, to: &Path) -> Result<(), StoreError> {
    let mut source = open_backup(from)?;
    let _ = fs::remove_file(to);
    let mut target = create_new(to).map_err(|error| not_writable(to, &error))?;
    io::copy(&mut source, &mut target)
        .map(drop)
        .map_err(|error| not_writable(to, &error))
}

fn open_backup(path: &Path) -> Result<File, StoreError> {
    let opened = File::open(path).and_then(|file| match file.metadata()?.is_dir() {
        true => Err(ErrorKind::IsADirectory.into()),
        false => Ok(file),
    });
    opened.map_err(|error| {
        let kind = match error.kind() {
            ErrorKind::NotFound => StoreErrorKind::Missing,
            _ => StoreErrorKind::Internal,
        };
        let message = format!("cannot read the backup {}: {error}", path.display());
        StoreError::new(kind, message)
    })
}

/// Gives the store another name too, under which it is kept.
async fn keep(path: &Path) -> Result<PathBuf, StoreError> {
    // The newest changes may be in the log beside the store only. A damaged store keeps its log.
    let database = Sqlite::new(path, None);
    let _ = database.empty_log().await;
    database.close().await;
    let kept = link_to_free_name(path)?;
    for log in LOGS {
        // Often there is none, and SQLite may remove it just now.
        match fs::rename(sibling(path, log), sibling(&kept, log)) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(not_writable(&kept, &error));
            }
            _ => {}
        }
    }
    synchronise(&kept)?;
    Ok(kept)
}

/// Links the first of `<name>.before-restore`, `<name>.before-restore-2` and so on that is free, with the names of its logs.
fn link_to_free_name(path: &Path) -> Result<PathBuf, StoreError> {
    let mut number = 1;
    loop {
        let kept = match number {
            1 => with_suffix(path, "before-restore"),
            number => with_suffix(path, &format!("before-restore-{number}")),
        };
        number += 1;
        if LOGS.iter().any(|log| sibling(&kept, log).exists()) {
            continue;
        }
        match fs::hard_link(path, &kept) {
            Ok(()) => return Ok(kept),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(not_writable(&kept, &error)),
        }
    }
}

fn rename(from: &Path, to: &Path) -> Result<(), StoreError> {
    fs::rename(from, to).map_err(|error| not_writable(to, &error))
}

/// Removes what SQLite has left beside a file.
fn remove_logs(path: &Path) {
    for log in LOGS {
        // Often there is none.
        let _ = fs::remove_file(sibling(path, log));
    }
}

/// Refuses what is no store, or a damaged one.
async fn check(database: &Sqlite, backup: &Path) -> Result<(), StoreError> {
    let mut read = database
        .read()
        .await
        .map_err(|error| named(error, backup))?;
    let version = schema::version(database, &mut *read)
        .await
        .map_err(|error| named(error, backup))?;
    check_is_store(version, backup)?;
    let rows = read
        .fetch("PRAGMA integrity_check", vec![])
        .await
        .map_err(|error| named(error, backup))?;
    let verdict = rows
        .into_iter()
        .next()
        .map(|mut row| row.text())
        .transpose()?;
    if verdict.as_deref() == Some("ok") {
        return Ok(());
    }
    let message = format!(
        "the backup {} is damaged; use another one",
        backup.display()
    );
    Err(StoreError::new(StoreErrorKind::Internal, message))
}

/// An error about a copy, as one about the backup that it was copied from.
fn named(error: StoreError, backup: &Path) -> StoreError {
    match error.kind {
        StoreErrorKind::Internal => {
            let message = format!(
                "the backup {} is damaged or no SQLite database; use another one",
                backup.display()
            );
            StoreError::new(StoreErrorKind::Internal, message)
        }
        _ => error,
    }
}

fn check_is_store(version: usize, path: &Path) -> Result<(), StoreError> {
    if version > 0 {
        return Ok(());
    }
    let message = format!(
        "{} is no database of keypool; name another file",
        path.display()
    );
    Err(StoreError::new(StoreErrorKind::Internal, message))
}

/// A file beside `path` that SQLite names: `keypool.db` and `-wal` make `keypool.db-wal`.
fn sibling(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

fn directory(path: &Path) -> &Path {
    path.parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}

/// Waits until the file and its name are on the disk.
fn synchronise(path: &Path) -> Result<(), StoreError> {
    let synchronised = File::open(path).and_then(|file| file.sync_all());
    let synchronised = synchronised.and_then(|()| File::open(directory(path))?.sync_all());
    synchronised.map_err(|error| not_writable(path, &error))
}
