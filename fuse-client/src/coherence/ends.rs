//! Reads that were answered up to the end of their file.
//!
//! The kernel fills the rest of such a page with zeros, wakes the reader, and only then looks at its length of the
//! file. If the length has been raised by then, the program reads zeros behind the end that it was answered. Nothing
//! tells when the reader has looked. So a length that another mount has made is told to the kernel only when readers
//! of a lower end have had [`LOOKS_WITHIN`]. A thread that asks for the length is past its own reads.
//!
//! Left out: a reader that gets no processor for longer than that; attributes in a listing; appends by this mount,
//! which raise the length at once, as appends with O_DIRECT do on a disk.

use parking_lot::Mutex;
use rain_types::Ino;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The time from the answer to a read until the reader looks at the length. Usually it is some microseconds.
const LOOKS_WITHIN: Duration = Duration::from_millis(5);

/// A read that was answered up to the end of its file.
#[derive(Debug)]
struct Read {
    ino: Ino,
    /// 0: a thread that is not known.
    thread: u32,
    end: u64,
    answered: Instant,
}

/// The reads of the last [`LOOKS_WITHIN`], the newest last, and older ones until the next one.
#[derive(Debug, Default)]
pub(super) struct EndsRead(Mutex<VecDeque<Read>>);

impl EndsRead {
    /// A read of a thread is about to be answered up to the end of the file.
    pub(super) fn answered(&self, ino: Ino, thread: u32, end: u64) {
        let now = Instant::now();
        let mut reads = self.0.lock();
        while reads.front().is_some_and(|read| now.duration_since(read.answered) > LOOKS_WITHIN) {
            reads.pop_front();
        }
        reads.push_back(Read { ino, thread, end, answered: now });
    }

    /// Waits until other threads that have read up to a lower end by now have looked at the length.
    pub(super) async fn looked(&self, ino: Ino, thread: u32, length: u64) {
        if let Some(until) = self.looks_until(ino, thread, length) {
            tokio::time::sleep_until(until.into()).await;
        }
    }

    fn looks_until(&self, ino: Ino, thread: u32, length: u64) -> Option<Instant> {
        let reads = self.0.lock();
        let is_waited_for =
            |read: &&Read| read.ino == ino && (read.thread != thread || thread == 0) && read.end < length;
        let until = reads.iter().rfind(is_waited_for)?.answered + LOOKS_WITHIN;
        (Instant::now() < until).then_some(until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_longer_file_waits_for_readers_of_its_former_end() {
        let ends = EndsRead::default();
        ends.answered(Ino(7), 1, 100);
        let waits = |ino, thread, length| ends.looks_until(Ino(ino), thread, length).is_some();
        assert!(waits(7, 2, 101));
        assert!(waits(7, 0, 101), "it may be any thread");
        assert!(!waits(7, 1, 101), "the reader itself");
        assert!(!waits(7, 2, 100), "the file is not longer");
        assert!(!waits(8, 2, 101));
        std::thread::sleep(LOOKS_WITHIN * 2);
        assert!(!waits(7, 2, 101));
        ends.answered(Ino(8), 1, 100);
        assert_eq!(ends.0.lock().len(), 1, "older reads are forgotten");
    }

    #[tokio::test]
    async fn the_wait_ends() {
        let ends = EndsRead::default();
        ends.answered(Ino(7), 1, 100);
        ends.looked(Ino(7), 2, 101).await;
        assert!(ends.looks_until(Ino(7), 2, 101).is_none());
    }
}
