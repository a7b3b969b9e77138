//! Directories and small files of a volume, by name.

use rain_client::{Error, NewInode, OpenFile, Volume};
use rain_namespace::command::RenameMode;
use rain_namespace::error::NsError;
use rain_namespace::record::{Attr, FileKind};
use rain_types::Ino;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

const DIRECTORY_MODE: u16 = 0o755;
const FILE_MODE: u16 = 0o644;

/// Entries of a directory that are asked for at once.
const PAGE: u32 = 1024;

/// Largest file that is read whole, bytes: a manifest of a rank with very many parts.
const SMALL_BYTES_MAX: u64 = 256 << 20;

/// Bytes of one read.
const READ_BYTES: u64 = 4 << 20;

/// Numbers temporary files of this process.
static TEMPORARIES: AtomicU64 = AtomicU64::new(0);

/// What is made belongs to the user of this process.
fn new_inode(kind: FileKind, mode: u16) -> NewInode {
    NewInode::new(kind, mode, rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw())
}

/// The inode of a name; none: there is none.
pub(crate) async fn find(volume: &Volume, dir: Ino, name: &str) -> Result<Option<Attr>, Error> {
    match volume.lookup(dir, name.as_bytes()).await {
        Ok(attr) => Ok(Some(attr)),
        Err(Error::Refused(NsError::NotFound | NsError::Stale)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Makes a directory. Returns its number, and whether it is new.
pub(crate) async fn make(volume: &Volume, dir: Ino, name: &str) -> Result<(Ino, bool), Error> {
    let new = new_inode(FileKind::Directory, DIRECTORY_MODE);
    match volume.make(dir, name.as_bytes(), new).await {
        Ok(attr) => Ok((attr.ino, true)),
        Err(Error::Refused(NsError::Exists)) => Ok((volume.lookup(dir, name.as_bytes()).await?.ino, false)),
        Err(error) => Err(error),
    }
}

/// Makes a file that does not exist, and opens it.
pub(crate) async fn create(volume: &Arc<Volume>, dir: Ino, name: &str) -> Result<Arc<OpenFile>, Error> {
    let new = new_inode(FileKind::File, FILE_MODE);
    Ok(volume.create(dir, name.as_bytes(), new).await?.1)
}

/// Writes a small file, durably, under a temporary name, and then gives it its name.
pub(crate) async fn write(
    volume: &Arc<Volume>,
    dir: Ino,
    name: &str,
    bytes: &[u8],
    mode: RenameMode,
) -> Result<(), Error> {
    let session = volume.session().id();
    let temporary = format!(".{name}.{session}.{}", TEMPORARIES.fetch_add(1, Relaxed));
    let file = create(volume, dir, &temporary).await?;
    let written = async {
        file.write(0, bytes).await?;
        file.flush().await?;
        volume.rename(dir, temporary.as_bytes(), dir, name.as_bytes(), mode).await
    };
    let written = written.await;
    if written.is_err() {
        let _ = volume.unlink(dir, temporary.as_bytes()).await;
    }
    written
}

/// Reads a small file.
pub(crate) async fn read(volume: &Arc<Volume>, ino: Ino) -> Result<Vec<u8>, Error> {
    let file = volume.open(ino).await?;
    let size = file.size().min(SMALL_BYTES_MAX);
    read_range(&file, 0, size).await
}

/// Reads a range. The result is shorter only where the file ends.
pub(crate) async fn read_range(file: &OpenFile, offset: u64, len: u64) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::with_capacity(len as usize);
    while (bytes.len() as u64) < len {
        let left = (len - bytes.len() as u64).min(READ_BYTES);
        let piece = file.read(offset + bytes.len() as u64, left as u32).await?;
        if piece.is_empty() {
            break;
        }
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes)
}

/// The entries of a directory.
pub(crate) async fn list(volume: &Volume, dir: Ino) -> Result<Vec<(Vec<u8>, Attr)>, Error> {
    let mut all = Vec::new();
    loop {
        let after = all.last().map(|(name, _): &(Vec<u8>, Attr)| name.clone());
        let (entries, more) = volume.read_directory(dir, after.as_deref(), PAGE).await?;
        let is_empty = entries.is_empty();
        all.extend(entries.into_iter().map(|entry| (entry.name, entry.attr)));
        if !more || is_empty {
            return Ok(all);
        }
    }
}

/// Removes a directory with everything below it. What others have removed meanwhile is as good.
pub(crate) async fn remove_all(volume: &Volume, parent: Ino, name: &str) -> Result<(), Error> {
    let gone = |result: Result<(), Error>| match result {
        Err(Error::Refused(NsError::NotFound | NsError::Stale)) => Ok(()),
        result => result,
    };
    let Some(attr) = find(volume, parent, name).await? else { return Ok(()) };
    let mut to_empty = vec![(parent, name.as_bytes().to_vec(), attr.ino, false)];
    while let Some((parent, name, dir, is_listed)) = to_empty.pop() {
        if is_listed {
            gone(volume.remove_directory(parent, &name).await.map(|_| ()))?;
            continue;
        }
        to_empty.push((parent, name, dir, true));
        let entries = match list(volume, dir).await {
            Err(Error::Refused(NsError::NotFound | NsError::Stale)) => continue,
            entries => entries?,
        };
        for (name, attr) in entries {
            if attr.kind == FileKind::Directory {
                to_empty.push((dir, name, attr.ino, false));
            } else {
                gone(volume.unlink(dir, &name).await)?;
            }
        }
    }
    Ok(())
}
