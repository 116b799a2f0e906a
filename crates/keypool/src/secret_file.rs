//! Files with one generated secret each, that only their owner can read.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use keypool_core::secret::Secret;

use crate::owner::{self, Owner};

/// The secret in a file; `None` if the file is missing or empty.
pub(crate) fn read(path: &Path) -> io::Result<Option<Secret>> {
    match fs::read_to_string(path) {
        Ok(text) if !text.trim().is_empty() => {
            make_private(path)?;
            Ok(Some(Secret::new(text.trim())))
        }
        Ok(_) => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Generates 256 random bits, and stores them before they are used.
pub(crate) fn generate(path: &Path, prefix: &str) -> io::Result<Secret> {
    let secret = random(prefix)?;
    write(path, &secret)?;
    Ok(secret)
}

/// 256 random bits after a prefix.
pub(crate) fn random(prefix: &str) -> io::Result<Secret> {
    let mut bytes = [0u8; 32];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(Secret::new(format!("{prefix}{text}")))
}

/// Writes a secret into a file that the owner of the file `like` can read, and nobody else.
pub(crate) fn write_like(path: &Path, secret: &Secret, like: &Path) -> io::Result<()> {
    let owner = Owner::of(like)?;
    write(path, secret)?;
    owner.give(path)
}

/// Writes a secret. After a crash, the file may hold a part of it.
pub(crate) fn write(path: &Path, secret: &Secret) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    make_private(path)?;
    writeln!(file, "{}", secret.expose())?;
    file.sync_all()?;
    synchronise_folder(path)
}

/// Puts the file `new`, which holds `secret`, in the place of `path`: after a crash, `path` holds the one or the other
/// secret. It is no error if another process has just done it.
pub(crate) fn replace(new: &Path, path: &Path, secret: &Secret) -> io::Result<()> {
    match fs::rename(new, path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => match read(path)? {
            Some(current) if current == *secret => Ok(()),
            _ => Err(error),
        },
        renamed => renamed.and_then(|()| synchronise_folder(path)),
    }
}

/// Waits until the name of a file is on the disk.
fn synchronise_folder(path: &Path) -> io::Result<()> {
    File::open(owner::folder(path))?.sync_all()
}

fn make_private(path: &Path) -> io::Result<()> {
    let mode = fs::metadata(path)?.permissions().mode();
    if mode & 0o077 == 0 {
        return Ok(());
    }
    match fs::set_permissions(path, fs::Permissions::from_mode(0o600)) {
        // It is another user's, who lets a group read it and not everyone.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied && mode & 0o007 == 0 => {
            Ok(())
        }
        changed => changed,
    }
}
