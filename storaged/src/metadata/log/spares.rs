//! Spare segments: files prepared with zeros, and purged segments kept for reuse with their old records. So
//! an append only overwrites blocks that the filesystem has already.

use super::CommandLog;
use super::error::LogError;
use crate::disk::Media;
use std::io;
use std::path::{Path, PathBuf};

/// Bytes of zeros per write.
const ZEROS_BYTES: usize = 1 << 20;

/// Makes a file full of zeros, durable.
pub(super) fn prepare(media: &dyn Media, path: &Path, bytes: u64) -> Result<(), LogError> {
    let fill = || -> io::Result<()> {
        let file = media.open(path, true)?;
        let zeros = vec![0; ZEROS_BYTES];
        let mut at = 0;
        while at < bytes {
            let step = (bytes - at).min(zeros.len() as u64);
            file.write_at(at, &zeros[..step as usize])?;
            at += step;
        }
        file.sync()
    };
    fill().map_err(|error| {
        // Best effort: the next start removes a file of another length anyway.
        let _ = media.remove(path);
        LogError::writing("preparing", path, error)
    })
}

impl CommandLog {
    pub(super) fn next_spare_path(&mut self) -> PathBuf {
        self.spare_number += 1;
        self.dir.join(format!("spare-{:016x}.seg", self.spare_number))
    }

    /// Returns a spare segment of a size, and makes one if necessary.
    pub(super) fn take_spare(&mut self, bytes: u64) -> Result<PathBuf, LogError> {
        self.await_prepared();
        if bytes == self.segment_bytes
            && let Some(spare) = self.spares.pop()
        {
            return Ok(spare);
        }
        let path = self.next_spare_path();
        prepare(&*self.media, &path, bytes)?;
        Ok(path)
    }

    /// Starts to make the next segment while the present one fills, so that no append waits for it.
    pub(super) fn prepare_spare(&mut self) {
        if !self.spares.is_empty() || self.preparing.is_some() || self.media.virtual_delay().is_some() {
            return;
        }
        let path = self.next_spare_path();
        let (media, bytes, target) = (self.media.clone(), self.segment_bytes, path.clone());
        let spawned = std::thread::Builder::new()
            .name("log-prepare".into())
            .spawn(move || prepare(&*media, &target, bytes));
        // Without a thread, the append that needs the segment makes it.
        self.preparing = spawned.ok().map(|thread| (path, thread));
    }

    /// Waits for a segment that is being made.
    pub(super) fn await_prepared(&mut self) {
        if let Some((path, thread)) = self.preparing.take() {
            match thread.join() {
                Ok(Ok(())) => self.spares.push(path),
                // The append that needs the segment tries again and reports the failure.
                Ok(Err(error)) => tracing::warn!(%error, "preparing a log segment"),
                Err(_) => tracing::error!("preparing a log segment panicked"),
            }
        }
    }
}
