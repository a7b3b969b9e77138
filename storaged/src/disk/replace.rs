//! Replaces a whole small file in one step: after a crash the file has its old bytes or its new ones.

use std::fs::{self, File};
use std::io;
use std::path::Path;

/// Writes `bytes` beside `path` (extension `new`), syncs them, and renames them over it. Durable when it
/// returns Ok.
pub(crate) fn replace_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    fs::write(&new, bytes)?;
    File::open(&new)?.sync_all()?;
    fs::rename(&new, path)?;
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}
