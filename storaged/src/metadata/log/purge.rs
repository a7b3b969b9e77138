//! Drops records from either end of the log: truncation, purge, reset.

use super::record::{RECORD_HEAD, RecordHead};
use super::{CommandLog, LogError, SPARES_MAX};

impl CommandLog {
    /// Drops all records above `index`, durably. A new segment that begins at `index + 1` replaces them: the
    /// rename of that segment decides.
    pub fn truncate_after(&mut self, index: u64) -> Result<(), LogError> {
        self.check_running()?;
        if index + 1 >= self.next_index() {
            return Ok(());
        }
        if index + 1 < self.first_index() {
            return Err(LogError::NotHeld { index, first: self.first_index(), last: self.next_index() - 1 });
        }
        let result = self.cut(index);
        // A log that is half cut in memory must not go on.
        if let Err(error) = &result {
            self.stopped = Some(error.to_string());
        }
        result
    }

    fn cut(&mut self, index: u64) -> Result<(), LogError> {
        while self.segments.len() > 1 && self.active().head.first_index > index + 1 {
            let segment = self.segments.pop_back().expect("more than one is there");
            self.media
                .remove(&segment.path)
                .map_err(|error| LogError::io("removing", &segment.path, error))?;
            self.sync_directory()?;
        }
        let segment = self.segments.back_mut().expect("a log has a segment");
        let keep = (index + 1 - segment.head.first_index) as usize;
        if let Some(end) = segment.offsets.get(keep) {
            segment.end = u64::from(*end);
            segment.offsets.truncate(keep);
        }
        self.last_checksum = match segment.offsets.last() {
            None => segment.head.previous,
            Some(offset) => {
                let mut bytes = [0; RECORD_HEAD];
                let read = segment.file.read_at(u64::from(*offset), &mut bytes);
                read.map_err(|error| LogError::io("reading", &segment.path, error))?;
                RecordHead::peek(&bytes).expect("a head's bytes were read").crc
            }
        };
        let sequence = segment.head.sequence + 1;
        self.start_segment(sequence, index + 1, 0)
    }

    /// Drops records below `index`, by whole segments; the last segment always stays.
    pub fn purge_below(&mut self, index: u64) -> Result<(), LogError> {
        self.check_running()?;
        let mut changed = false;
        while self.segments.len() > 1 && self.segments[1].head.first_index <= index {
            let segment = self.segments.pop_front().expect("more than one is there");
            let recycled = if segment.size == self.segment_bytes && self.spares.len() < SPARES_MAX {
                let spare = self.next_spare_path();
                let result = self.media.rename(&segment.path, &spare);
                self.spares.push(spare);
                result
            } else {
                self.media.remove(&segment.path)
            };
            if let Err(error) = recycled {
                let error = LogError::io("purging", &segment.path, error);
                self.stopped = Some(error.to_string());
                return Err(error);
            }
            changed = true;
        }
        // A spare must not be written to while a crash could bring back its name as a segment.
        if changed {
            let synced = self.sync_directory();
            return self.stop_unless_passing(synced);
        }
        Ok(())
    }

    /// Drops every record; the next one is `index`. For a store that is ahead of its log.
    pub fn reset(&mut self, index: u64) -> Result<(), LogError> {
        self.check_running()?;
        let sequence = self.active().head.sequence + 1;
        let result = self.remove_all().and_then(|()| self.start_segment(sequence, index, 0));
        if let Err(error) = &result {
            self.stopped = Some(error.to_string());
            return result;
        }
        self.segments.drain(..self.segments.len() - 1);
        Ok(())
    }

    fn remove_all(&mut self) -> Result<(), LogError> {
        for segment in &self.segments {
            self.media
                .remove(&segment.path)
                .map_err(|error| LogError::io("removing", &segment.path, error))?;
        }
        self.sync_directory()?;
        self.last_checksum = 0;
        Ok(())
    }
}
