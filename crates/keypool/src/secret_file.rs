//! Files with one generated secret each, that only their owner can read.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use keypool_core::secret::Secret;

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
    let mut bytes = [0u8; 32];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let text = format!("{prefix}{text}");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    make_private(path)?;
    writeln!(file, "{text}")?;
    file.sync_all()?;
    Ok(Secret::new(text))
}

fn make_private(path: &Path) -> io::Result<()> {
    if fs::metadata(path)?.permissions().mode() & 0o077 != 0 {
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    }
    Ok(())
}
