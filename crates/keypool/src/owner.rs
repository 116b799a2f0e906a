//! The owner of a file that takes the place of another: root changes files of a server that runs as another user.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{MetadataExt, lchown};
use std::path::Path;

/// The user and the group that a file belongs to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Owner {
    user: u32,
    group: u32,
}

impl Owner {
    /// The owner of a file, or of its folder if there is no such file.
    pub(crate) fn of(path: &Path) -> io::Result<Self> {
        let metadata = match fs::metadata(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => fs::metadata(folder(path))?,
            metadata => metadata?,
        };
        Ok(Self {
            user: metadata.uid(),
            group: metadata.gid(),
        })
    }

    /// Gives a file to this owner. Where that takes root and this process is not, the file stays as it is.
    pub(crate) fn give(self, path: &Path) -> io::Result<()> {
        if Self::of(path)? == self {
            return Ok(());
        }
        // Not through a symbolic link, which the user of the server could have put there for a file of root.
        match lchown(path, Some(self.user), Some(self.group)) {
            Err(error) if error.kind() == ErrorKind::PermissionDenied => Ok(()),
            given => given,
        }
    }
}

/// The folder of a file.
pub(crate) fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}
