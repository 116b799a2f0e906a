//! The files of this repository, as git lists them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Folders without sources, for a copy of the repository without git.
const NOT_SOURCE: [&str; 5] = [".git", "target", "node_modules", "__pycache__", ".venv"];

/// The root of the repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .map_or_else(PathBuf::new, Path::to_path_buf)
}

/// Every file that is tracked or untracked but not ignored, relative to the root, sorted.
pub fn files() -> Vec<String> {
    let listed = Command::new("git")
        .args([
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
        ])
        .current_dir(root())
        .output();
    let mut files: Vec<String> = match listed {
        Ok(listed) if listed.status.success() => String::from_utf8_lossy(&listed.stdout)
            .split('\0')
            .filter(|name| !name.is_empty() && root().join(name).is_file())
            .map(str::to_owned)
            .collect(),
        // Not a git repository, for example an unpacked archive.
        _ => walk(&root()),
    };
    files.sort();
    files.dedup();
    files
}

fn walk(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        if path.is_dir() && !NOT_SOURCE.iter().any(|not| name == **not) {
            found.extend(walk(&path));
        } else if path.is_file() {
            let relative = path.strip_prefix(root()).unwrap_or(&path);
            found.push(relative.to_string_lossy().into_owned());
        }
    }
    found
}

/// The text of a file. Bytes that are not UTF-8 are replaced.
///
/// # Panics
/// If the file cannot be read.
pub fn read(file: &str) -> String {
    let bytes = fs::read(root().join(file));
    String::from_utf8_lossy(&bytes.unwrap_or_else(|error| panic!("{file}: {error}"))).into_owned()
}

/// The folders of the workspace's crates, from the workspace's manifest.
///
/// # Panics
/// If the manifest cannot be read.
pub fn crates() -> Vec<String> {
    let manifest: toml::Table = read("Cargo.toml").parse().expect("Cargo.toml is TOML");
    let members = manifest["workspace"]["members"]
        .as_array()
        .expect("members are a list");
    members
        .iter()
        .filter_map(|member| Some(member.as_str()?.to_owned()))
        .collect()
}

/// The Rust files in `src` of the crate in `folder`, without tests.
pub fn sources(folder: &str) -> Vec<String> {
    let src = format!("{folder}/src/");
    files()
        .into_iter()
        .filter(|file| file.starts_with(&src) && file.ends_with(".rs") && !is_test(file))
        .collect()
}

/// Whether a file contains only tests or benchmarks.
pub fn is_test(file: &str) -> bool {
    file.split('/')
        .any(|part| matches!(part, "tests" | "tests.rs" | "benches"))
}
