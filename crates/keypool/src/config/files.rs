//! The files that the configuration was read from, and what a reload must know of their contents.
//!
//! This module must never know what is in them.

use std::path::{Path, PathBuf};

use keypool_core::hash;

/// A file that the configuration was read from. It need not exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SourceFile {
    /// Its name as the user knows it.
    pub(crate) name: String,
    /// Where it is.
    pub(crate) path: PathBuf,
    /// What was read.
    pub(crate) contents: Contents,
}

/// What a reload must know about the contents of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Contents {
    /// There is no file that can be read.
    Missing,
    /// The file has nothing but white space.
    Blank,
    /// The file has a text, with this hash. Its author gains nothing by making two texts with the same one.
    Text(u64),
}

impl Contents {
    /// What is at `path` now; `None` if that cannot be read twice, such as a pipe.
    pub(crate) fn now(path: &Path) -> Option<Self> {
        let is_special = std::fs::metadata(path).is_ok_and(|it| !it.is_file());
        (!is_special).then(|| Self::of(path, &std::fs::read(path)))
    }

    /// What was read from `path`. A pipe that gives nothing was read before.
    pub(super) fn of(path: &Path, read: &std::io::Result<Vec<u8>>) -> Self {
        match read {
            Ok(bytes) if !bytes.trim_ascii().is_empty() => Self::Text(hash::bytes(0, bytes)),
            Ok(_) if path.is_file() => Self::Blank,
            Ok(_) | Err(_) => Self::Missing,
        }
    }
}
