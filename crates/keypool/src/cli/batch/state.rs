//! What is kept of a batch beside its output until its end, and what is read of its input.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, BufWriter, ErrorKind, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::super::Failure;
use super::with_suffix;

/// The endpoint of a file whose lines name none. The server reports what is wrong with them.
const DEFAULT_ENDPOINT: &str = "/v1/chat/completions";

/// A batch that has not ended, so that the same command can continue with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct State {
    /// URL of the server.
    pub(super) server: String,
    /// SHA-256 of the input, in hexadecimal digits.
    pub(super) input_sha256: String,
    /// Id of the uploaded input; `None` until it is uploaded.
    pub(super) file_id: Option<String>,
    /// Id of the batch; `None` until its creation is acknowledged.
    pub(super) batch_id: Option<String>,
}

impl State {
    /// The state in a file; `None` if there is no such file.
    pub(super) fn read(path: &Path) -> Result<Option<Self>, Failure> {
        let name = path.display();
        match fs::read(path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|error| {
                let what = format!(
                    "{name} is not the state of a batch: move it away to start a new batch"
                );
                Failure::because(what, error)
            }),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Failure::because(format!("cannot read {name}"), error)),
        }
    }

    /// Puts the state in the place of the one before.
    pub(super) fn write(&self, path: &Path) -> Result<(), Failure> {
        replace(path, |file| {
            serde_json::to_writer_pretty(file, self)
                .map_err(|error| Failure::because("cannot write the state", error))
        })
    }
}

/// Removes a file that may be missing.
pub(super) fn remove(path: &Path) -> Result<(), Failure> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(Failure::because(
            format!("cannot remove {}", path.display()),
            error,
        )),
        _ => Ok(()),
    }
}

/// Writes a file under a temporary name beside it, and renames it: under its own name, it is complete.
pub(super) fn replace(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<File>) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let part = with_suffix(path, ".part");
    let failed =
        |error: io::Error| Failure::because(format!("cannot write {}", path.display()), error);
    let mut file = BufWriter::new(File::create(&part).map_err(failed)?);
    let written = write(&mut file).and_then(|()| {
        file.flush().map_err(failed)?;
        file.get_ref().sync_all().map_err(failed)?;
        fs::rename(&part, path).map_err(failed)
    });
    if written.is_err() {
        let _ = fs::remove_file(&part);
    }
    written
}

/// SHA-256 of a file, in hexadecimal digits.
pub(super) fn digest(path: &Path) -> Result<String, Failure> {
    let read = || {
        let mut hasher = Sha256::new();
        let mut reader = BufReader::with_capacity(1 << 16, File::open(path)?);
        loop {
            let piece = reader.fill_buf()?;
            if piece.is_empty() {
                return Ok(hasher.finalize());
            }
            hasher.update(piece);
            let length = piece.len();
            reader.consume(length);
        }
    };
    let digest = read().map_err(|error: io::Error| cannot_read(path, error))?;
    Ok(digest.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The `url` of the first line that has one.
pub(super) fn endpoint(path: &Path) -> Result<String, Failure> {
    #[derive(Deserialize)]
    struct Line {
        url: String,
    }
    let file = File::open(path).map_err(|error| cannot_read(path, error))?;
    for line in BufReader::new(file).split(b'\n') {
        let line = line.map_err(|error| cannot_read(path, error))?;
        let line = line.strip_prefix("\u{feff}".as_bytes()).unwrap_or(&line);
        if let Ok(line) = serde_json::from_slice::<Line>(line) {
            return Ok(line.url);
        }
    }
    Ok(DEFAULT_ENDPOINT.to_owned())
}

pub(super) fn cannot_read(path: &Path, error: io::Error) -> Failure {
    Failure::because(format!("cannot read {}", path.display()), error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file_with(name: &str, text: &str) -> std::path::PathBuf {
        let folder = std::env::temp_dir().join(format!("keypool-batch-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join(name);
        fs::write(&path, text).unwrap();
        path
    }

    #[test]
    fn the_endpoint_is_the_url_of_the_first_line_that_has_one() {
        for (name, text, expected) in [
            (
                "first",
                "\u{feff}{\"url\":\"/a\"}\r\n{\"url\":\"/b\"}",
                "/a",
            ),
            ("second", "\n{\"custom_id\":\n{\"url\":\"/b\"}\n", "/b"),
            ("none", "{}\n{\"url\":1}", DEFAULT_ENDPOINT),
            ("empty", "", DEFAULT_ENDPOINT),
        ] {
            let path = file_with(name, text);
            assert_eq!(endpoint(&path).unwrap(), expected, "{name}");
            fs::remove_file(path).unwrap();
        }
    }

    #[test]
    fn the_digest_of_a_file_is_its_sha_256() {
        let path = file_with("digest", "abc");
        // The example of FIPS 180-2, appendix B.1.
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(digest(&path).unwrap(), expected);
        fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_file_is_replaced_as_a_whole_or_not_at_all() {
        let path = file_with("state", "before");
        let broken = replace(&path, |file| {
            file.write_all(b"half").unwrap();
            Err(Failure::Other("broke off".to_owned()))
        });
        assert!(broken.is_err());
        assert_eq!(fs::read(&path).unwrap(), b"before");
        assert!(!with_suffix(&path, ".part").exists());
        let wrong = State::read(&path).unwrap_err().to_string();
        assert!(wrong.contains("is not the state of a batch"), "{wrong}");
        let state = State {
            server: "http://127.0.0.1:1".to_owned(),
            input_sha256: "00".to_owned(),
            file_id: Some("file-1".to_owned()),
            batch_id: None,
        };
        state.write(&path).unwrap();
        assert_eq!(State::read(&path).unwrap(), Some(state));
        remove(&path).unwrap();
        assert_eq!(State::read(&path).unwrap(), None);
        remove(&path).unwrap();
    }
}
