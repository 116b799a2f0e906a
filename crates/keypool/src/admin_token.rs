//! The admin token: the operator's own, or one made up at first start and kept in a file that only its owner can read.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use keypool_core::secret::Secret;
use keypool_gateway::settings::AdminSettings;

/// The token in force.
pub(crate) struct AdminToken {
    pub(crate) secret: Secret,
    /// The file that a made-up token is kept in.
    pub(crate) file: Option<PathBuf>,
    /// It was made up just now.
    pub(crate) is_new: bool,
}

/// The configured token, the one kept in the file, or a new one.
pub(crate) fn find_or_make(settings: &AdminSettings) -> io::Result<AdminToken> {
    if let Some(secret) = &settings.token {
        return Ok(AdminToken {
            secret: secret.clone(),
            file: None,
            is_new: false,
        });
    }
    let path = &settings.token_file;
    let (secret, is_new) = match fs::read_to_string(path) {
        Ok(text) if !text.trim().is_empty() => {
            keep_private(path)?;
            (Secret::new(text.trim()), false)
        }
        Ok(_) => (make(path)?, true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => (make(path)?, true),
        Err(error) => return Err(error),
    };
    Ok(AdminToken {
        secret,
        file: Some(path.clone()),
        is_new,
    })
}

/// 256 random bits, written before they are used.
fn make(path: &Path) -> io::Result<Secret> {
    let mut bytes = [0u8; 32];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    let token: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let token = format!("kpa-{token}");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    keep_private(path)?;
    writeln!(file, "{token}")?;
    file.sync_all()?;
    Ok(Secret::new(token))
}

fn keep_private(path: &Path) -> io::Result<()> {
    if fs::metadata(path)?.permissions().mode() & 0o077 != 0 {
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_made_once_and_kept_for_its_owner_alone() {
        let dir = std::env::temp_dir().join(format!("keypool-token-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let settings = AdminSettings {
            token: None,
            token_file: dir.join("t.admin-token"),
        };
        let first = find_or_make(&settings).unwrap();
        assert!(first.is_new && first.secret.expose().len() > 60);
        fs::set_permissions(&settings.token_file, fs::Permissions::from_mode(0o644)).unwrap();
        let second = find_or_make(&settings).unwrap();
        assert!(!second.is_new && second.secret == first.secret);
        assert_eq!(
            fs::metadata(&settings.token_file)
                .unwrap()
                .permissions()
                .mode()
                & 0o777,
            0o600
        );
        fs::remove_dir_all(&dir).unwrap();
    }
}
