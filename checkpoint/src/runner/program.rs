//! A program that a runner runs, and what it is restored from.
//!
//! All of it is called on the program's own thread, which is no thread of the async runtime: it may compute and wait
//! as long as it likes.

use crate::error::Error;
use crate::layout::{Slice, shard};
use crate::open::{Checkpoint, Item, Restored};
use crate::rank::PartSource;
use bytes::{Buf, Bytes};
use parking_lot::Mutex;
use std::future::Future;
use std::io::{self, Read};
use std::ops::Range;
use std::sync::Arc;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// Why a program cannot go on, in the program's own words.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// A program that is run step by step, and whose state can be saved between two steps.
///
/// With many ranks every rank is a program of its own. All of them do the same number of steps.
pub trait Program: Send + 'static {
    /// Begins from the start, because the job has no checkpoint. `rank` is this process's number, from 0, of `ranks`.
    fn init(&mut self, rank: u32, ranks: u32) -> Result<(), Failure>;

    /// Takes the state of a checkpoint. A checkpoint that turns out to be damaged is followed by another call for an
    /// earlier one, or by `init`, so every call replaces the whole state. The errors of `from` are best handed on as
    /// they are.
    fn restore(&mut self, from: &Restoring) -> Result<(), Failure>;

    /// Does one step. Between two steps the runner looks whether a save is due and whether this process was replaced,
    /// so a step should be much shorter than the interval of the saves. An error ends the run.
    fn step(&mut self) -> Result<Step, Failure>;

    /// The parts of this rank as they are now: bytes that were copied, or readers that go on reading the state of this
    /// moment while further steps are done. It does not wait for storage. An error ends the run.
    fn snapshot(&mut self) -> Result<Vec<Part>, Failure>;
}

/// What is to be done after a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Further steps.
    More,
    /// The state is saved and the run ends. A later run goes on from there.
    Pause,
    /// The program is finished. The state is saved, and a later run restores it and does no step.
    Finished,
}

/// A part of a rank that is to be saved.
#[derive(Debug)]
pub struct Part {
    /// Name, as of a file: not empty, no slash, no dot at the beginning, at most 200 bytes. Not `rain-runner.json`.
    pub name: String,
    /// The bytes.
    pub source: PartSource,
    /// The place in an item that all ranks have together; none: the part is the rank's own.
    pub slice: Option<Slice>,
}

impl Part {
    /// A part of the rank's own, in memory.
    pub fn new(name: impl Into<String>, bytes: impl Into<Bytes>) -> Part {
        Part { name: name.into(), source: PartSource::Bytes(bytes.into()), slice: None }
    }

    /// The part as a slice of an item of `total` bytes, from byte `offset` on. The slices of all ranks cover the item
    /// exactly, or the epoch is not committed.
    pub fn slice_of(self, offset: u64, total: u64) -> Part {
        Part { slice: Some(Slice { offset, total }), ..self }
    }
}

/// A checkpoint that a program is restored from. Its reads wait, and every byte is checked.
#[derive(Debug)]
pub struct Restoring {
    pub(super) checkpoint: Checkpoint,
    pub(super) rank: u32,
    pub(super) ranks: u32,
    pub(super) steps: u64,
    pub(super) reads: Reads,
}

impl Restoring {
    /// The epoch that is restored.
    pub fn epoch(&self) -> u64 {
        self.checkpoint.epoch()
    }

    /// The steps that were done when it was saved; 0 if no runner has saved it.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// This process's number, from 0.
    pub fn rank(&self) -> u32 {
        self.rank
    }

    /// The number of processes now. The checkpoint may be of another number ([`Restoring::checkpoint`]).
    pub fn ranks(&self) -> u32 {
        self.ranks
    }

    /// The checkpoint: its ranks, with the names and lengths of their parts.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// Reads a part of this rank into memory. Fails with `NotFound` if this rank has saved no such part.
    pub fn part(&self, name: &str) -> Result<Vec<u8>, Error> {
        self.part_of(self.rank, name)
    }

    /// Reads a part of any rank into memory.
    pub fn part_of(&self, rank: u32, name: &str) -> Result<Vec<u8>, Error> {
        let (checkpoint, name) = (self.checkpoint.clone(), name.to_owned());
        self.reads.wait(async move { checkpoint.part(rank, &name).await?.read_all(0..u64::MAX).await })
    }

    /// A part of this rank, to be read piece by piece.
    pub fn reader(&self, name: &str) -> Result<PartReader, Error> {
        let (checkpoint, rank, name) = (self.checkpoint.clone(), self.rank, name.to_owned());
        let item = self.reads.wait(async move { checkpoint.part(rank, &name).await })?;
        let restored = Some(item.read(0..u64::MAX));
        Ok(PartReader { restored, piece: Bytes::new(), reads: self.reads.clone() })
    }

    /// The length in bytes of an item that all ranks have together.
    pub fn item_bytes(&self, name: &str) -> Result<u64, Error> {
        Ok(self.item(name)?.bytes())
    }

    /// Reads a range of an item into memory. What lies past the end is left out.
    pub fn item_range(&self, name: &str, range: Range<u64>) -> Result<Vec<u8>, Error> {
        let item = self.item(name)?;
        self.reads.wait(async move { item.read_all(range).await })
    }

    /// Reads this rank's share of an item, cut for the number of ranks now in units of `align` bytes ([`shard`]).
    /// Returns its first byte in the item, and the bytes.
    pub fn item_share(&self, name: &str, align: u64) -> Result<(u64, Vec<u8>), Error> {
        let item = self.item(name)?;
        let range = shard(item.bytes(), align, self.rank, self.ranks);
        Ok((range.start, self.reads.wait(async move { item.read_all(range).await })?))
    }

    fn item(&self, name: &str) -> Result<Item, Error> {
        let (checkpoint, name) = (self.checkpoint.clone(), name.to_owned());
        self.reads.wait(async move { checkpoint.item(&name).await })
    }
}

/// A part that is read piece by piece. An error of [`Read`] has an [`Error`] inside.
#[derive(Debug)]
pub struct PartReader {
    /// What is still to come; none after an error.
    restored: Option<Restored>,
    piece: Bytes,
    reads: Reads,
}

impl Read for PartReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.piece.is_empty() && !buffer.is_empty() {
            let broken = || io::Error::other("an earlier read has failed");
            let mut restored = self.restored.take().ok_or_else(broken)?;
            let reading = async move { Ok((restored.next().await?, restored)) };
            let (piece, restored) = self.reads.wait(reading).map_err(io::Error::other)?;
            self.restored = Some(restored);
            self.piece = piece.unwrap_or_default();
        }
        let len = buffer.len().min(self.piece.len());
        self.piece.copy_to_slice(&mut buffer[..len]);
        Ok(len)
    }
}

/// Waits on the program's thread for what the async runtime does.
#[derive(Debug, Clone)]
pub(super) struct Reads {
    runtime: Handle,
    /// The last error.
    failed: Arc<Mutex<Option<Error>>>,
}

impl Reads {
    pub(super) fn new(runtime: Handle) -> Reads {
        Reads { runtime, failed: Arc::default() }
    }

    /// Waits for a future. Must not be called on a thread of the runtime. A runtime that is shut down is an error, not
    /// a panic, which `Handle::block_on` would be.
    pub(super) fn wait<T: Send + 'static>(
        &self,
        future: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) -> Result<T, Error> {
        let (send, receive) = oneshot::channel();
        self.runtime.spawn(async move { send.send(future.await) });
        let stopped =
            || Error::NotFound { what: "async runtime any more: it was shut down during a restore".into() };
        let result = receive.blocking_recv().unwrap_or_else(|_| Err(stopped()));
        if let Err(error) = &result {
            *self.failed.lock() = Some(error.clone());
        }
        result
    }

    /// The last error, which is forgotten.
    pub(super) fn take_failed(&self) -> Option<Error> {
        self.failed.lock().take()
    }
}
