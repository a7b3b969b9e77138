//! RAINCheck: checkpoints of long jobs on a RAIN volume, and their restore.
//!
//! The paper's application ("RAIN", IPPS 1999, section 5.2) writes the state of every process at intervals, encoded,
//! to all nodes, so that a job goes on from its last checkpoint as long as k nodes are left. Here a checkpoint is
//! ordinary files of a volume, which the code protects as it protects every file:
//!
//! ```text
//!   /VOLUME/.checkpoints/JOB/0000000042/manifest.json          what belongs to it; blake3 of each rank's manifest
//!                                       rank-00003.json        the rank's parts, with their lengths and blake3
//!                                       rank-00003.hashes      the chunks' hashes of all parts of the rank
//!                                       rank-00003/model.bin   a part
//! ```
//!
//! A job saves *epochs*. Any number of *ranks*, on any machines, write their *parts* at once into a directory of the
//! save, and whoever finds all ranks there commits: one rename gives the epoch its name.
//!
//! Invariants:
//! 1. An epoch is whole or absent: it has its name only after all its bytes are durable and its manifests agree.
//! 2. Only the newest *incarnation* of a job commits. The namespace decides that in the same step as the rename, so a
//!    process that was replaced, and does not know it, changes nothing.
//! 3. A save changes no epoch that exists. What fails leaves at most a hidden directory, which the next incarnation,
//!    the next save or [`Job::prune`] removes.
//! 4. What is restored is checked against the manifest, chunk by chunk, before the caller gets it.
//! 5. Memory is bounded: a part is written and read by chunks of [`CHUNK_BYTES`].
//!
//! A chunk that the last epoch has at the same place of the same part is not stored again: the new file uses the blocks
//! of the old one ([`rain_client::OpenFile::copy_range`]). A block is freed when no file uses it any more.
//!
//! | module | what it is |
//! |---|---|
//! | [`Checkpoints`], [`Job`] | the jobs of a volume, one job, its incarnation |
//! | [`Save`], [`RankSave`], [`PartSave`] | a save under way |
//! | [`Checkpoint`], [`Item`] | a committed epoch, what it can be read by |
//! | [`Runner`], [`Program`] | runs a program with saves in the background, and resumes it |
//! | `layout`, `hashes` | names and manifests; chunk hashes and their root. Pure |

mod error;
mod folders;
mod hashes;
mod job;
mod layout;
mod open;
mod prune;
mod rank;
mod runner;
mod save;
mod whole;

pub use error::Error;
pub use hashes::CHUNK_BYTES;
pub use job::{Checkpoints, Incarnation, Job};
pub use layout::{Manifest, PartRecord, RankEntry, RankRecord, Slice, shard};
pub use open::{Checkpoint, Item, Restored};
pub use prune::{EpochInfo, Keep};
pub use rank::{PartSave, PartSource, Progress, RankSave};
pub use runner::{
    Event, Failure, Finished, Part, PartReader, Program, Report, Restoring, Resumed, RunError, Runner, Step,
};
pub use save::{Save, Saved};
pub use whole::SavePending;
