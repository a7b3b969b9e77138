//! The loop of a worker that goes through a list of blocks page by page.

use super::authority::WorkError;
use crate::counters::WorkerCounters;
use rain_client::BlockLocation;
use rain_namespace::query::BlockEntry;
use rain_namespace::record::VolumeRecord;
use rain_types::GroupId;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// Pause when there is nothing to do, or nothing that can be done at the moment.
const IDLE: Duration = Duration::from_secs(1);

/// Blocks of one page.
pub(super) const PAGE: u32 = 256;

/// Pages with nothing to do that the worker passes over before it pauses.
const PAGES_AT_ONCE: u32 = 64;

/// Blocks worked on at the same time: few, so that the reads and writes of users go first.
pub(super) const AT_A_TIME: usize = 4;

/// The outcome of a page.
pub(super) enum Round {
    /// Some blocks were done.
    Done,
    /// No block can be done at the moment.
    NothingHere,
    /// The list has no further page.
    End,
}

/// A list of blocks and the work on them.
pub(super) trait Pages: Send {
    /// The work as a word of the log: `repairing`.
    const DOING: &str;

    fn counters(&self) -> &WorkerCounters;

    /// Works on the next page.
    fn page(&mut self) -> impl Future<Output = Result<Round, WorkError>> + Send;

    /// Makes the first page the next one.
    fn rewind(&mut self);
}

/// Goes through the list again and again.
pub(super) async fn work<P: Pages>(mut pages: P) {
    let mut passed_over = 0;
    loop {
        match pages.page().await {
            Ok(Round::Done) => {
                passed_over = 0;
                continue;
            }
            // Blocks that can be done may stand behind blocks that cannot.
            Ok(Round::NothingHere) if passed_over < PAGES_AT_ONCE => {
                passed_over += 1;
                continue;
            }
            Ok(Round::NothingHere) => {}
            Ok(Round::End) => pages.rewind(),
            Err(error) => {
                pages.counters().failed(&error);
                tracing::warn!(%error, "{}; it is tried again", P::DOING);
            }
        }
        passed_over = 0;
        pages.counters().running.store(false, Relaxed);
        tokio::time::sleep(IDLE).await;
    }
}

/// Returns the location of a block in a group of its volume: the present group, or the one to move to.
/// `None`: the volume has no such group.
pub(super) fn location(volume: &VolumeRecord, entry: &BlockEntry, group: GroupId) -> Option<BlockLocation> {
    let nodes = volume.nodes_of(group)?.into();
    Some(BlockLocation { id: entry.id, len: entry.record.len, code: volume.code, group, nodes })
}
