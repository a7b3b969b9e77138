//! The segment files of a store: their names, and the files that are open.

use super::{StoreError, io_error};
use crate::disk::{Media, MediaFile};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Segments that are open at a time: well below the usual limit of 1024 descriptors of a process.
const OPEN_SEGMENTS_MAX: usize = 256;

/// The folder of segments.
#[derive(Debug)]
pub(super) struct Segments {
    media: Arc<dyn Media>,
    folder: PathBuf,
    open: Mutex<HashMap<u32, Arc<dyn MediaFile>>>,
}

impl Segments {
    pub(super) fn new(media: Arc<dyn Media>, folder: &Path) -> Segments {
        Segments { media, folder: folder.to_owned(), open: Mutex::default() }
    }

    /// Returns the path of a segment.
    pub(super) fn path(&self, segment: u32) -> PathBuf {
        self.folder.join(format!("seg-{segment:06}"))
    }

    /// Returns the numbers of all segments, ascending.
    pub(super) fn list(&self) -> Result<Vec<u32>, StoreError> {
        let names = self.media.list(&self.folder).map_err(io_error("listing", &self.folder))?;
        let mut found: Vec<u32> =
            names.iter().filter_map(|name| name.strip_prefix("seg-")?.parse().ok()).collect();
        found.sort_unstable();
        Ok(found)
    }

    /// Opens a segment and makes it when it is missing; the file stays open for the next caller.
    pub(super) fn open(&self, segment: u32) -> io::Result<Arc<dyn MediaFile>> {
        if let Some(file) = self.open.lock().get(&segment) {
            return Ok(file.clone());
        }
        let file: Arc<dyn MediaFile> = self.open_once(segment)?.into();
        let mut open = self.open.lock();
        if open.len() >= OPEN_SEGMENTS_MAX
            && let Some(any) = open.keys().next().copied()
        {
            open.remove(&any);
        }
        open.insert(segment, file.clone());
        Ok(file)
    }

    /// Opens a segment for one use, as a scan of all segments does.
    pub(super) fn open_once(&self, segment: u32) -> io::Result<Box<dyn MediaFile>> {
        self.media.open(&self.path(segment), true)
    }

    /// Makes the names of new segments durable.
    pub(super) fn sync_names(&self) -> io::Result<()> {
        self.media.sync_directory(&self.folder)
    }

    /// Returns the bytes that the disk has left.
    pub(super) fn free_bytes(&self) -> io::Result<u64> {
        self.media.free_bytes(&self.folder)
    }
}
