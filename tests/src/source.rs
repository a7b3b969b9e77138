//! The files of this repository, for the tests that hold its rules.

use anyhow::{Context, ensure};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Texts of files by their paths, in the order of the paths.
pub type Files = Vec<(String, String)>;

/// The workspace's folder.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map_or_else(PathBuf::new, Path::to_owned)
}

/// All Rust files below a folder of the workspace, by their paths within that folder.
/// Fails when the folder or one of its files cannot be read.
pub fn rust_files(folder: &str) -> anyhow::Result<Files> {
    let top = root().join(folder);
    let (mut found, mut to_read) = (Vec::new(), vec![top.clone()]);
    while let Some(at) = to_read.pop() {
        for entry in std::fs::read_dir(&at).with_context(|| format!("listing {}", at.display()))? {
            let path = entry?.path();
            if path.is_dir() {
                to_read.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path);
                let text = text.with_context(|| format!("reading {}", path.display()))?;
                found.push((path.strip_prefix(&top)?.display().to_string(), text));
            }
        }
    }
    found.sort();
    Ok(found)
}

/// All files with an extension that git tracks or would track, by their paths from the workspace's folder.
/// Fails without git, and outside of a git work tree.
pub fn tracked_files(extension: &str) -> anyhow::Result<Files> {
    let pattern = format!("*.{extension}");
    let output = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", &pattern])
        .current_dir(root())
        .output()
        .context("running git")?;
    ensure!(output.status.success(), "git ls-files: {}", String::from_utf8_lossy(&output.stderr));
    let listed = String::from_utf8(output.stdout).context("a path that is not UTF-8")?;
    let mut found = Vec::new();
    for path in listed.split_terminator('\0') {
        // A file that was deleted is listed until the deletion is staged.
        if let Ok(text) = std::fs::read_to_string(root().join(path)) {
            found.push((path.to_owned(), text));
        }
    }
    found.sort();
    Ok(found)
}
