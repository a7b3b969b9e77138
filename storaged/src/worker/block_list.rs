//! The loop of a worker that goes through a list of blocks in pages, and what such workers share.

use super::WorkerCounters;
use rain_client::{BlockLocation, Error};
use rain_namespace::query::BlockEntry;
use rain_namespace::record::VolumeRecord;
use rain_types::GroupId;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// Between looks when there is nothing to do, or nothing that can be done now.
const IDLE: Duration = Duration::from_secs(1);

/// Blocks listed at a time.
pub(super) const PAGE: u32 = 256;

/// Pages without anything to do that are passed over before a pause.
const PAGES_AT_ONCE: u32 = 64;

/// Blocks worked on at the same time: bounded so that people's reads and writes keep the upper hand.
pub(super) const AT_A_TIME: usize = 4;

/// What became of a page.
pub(super) enum Round {
    /// Something of it was done.
    Done,
    /// None of it can be done now.
    NothingHere,
    /// There is none.
    End,
}

/// A list of blocks that are worked on.
pub(super) trait Pages: Send {
    /// What is done, for the log: `repairing`.
    const DOING: &str;

    fn counters(&self) -> &WorkerCounters;

    /// Works on the next page.
    fn page(&mut self) -> impl Future<Output = Result<Round, Error>> + Send;

    /// The next page is the first again.
    fn rewind(&mut self);
}

/// Goes through the list for ever.
pub(super) async fn work<P: Pages>(mut pages: P) {
    let mut passed_over = 0;
    loop {
        match pages.page().await {
            Ok(Round::Done) => {
                passed_over = 0;
                continue;
            }
            // What can be done may stand behind what cannot.
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

/// The place of a block as it lies, or would lie, in a group of its volume.
pub(super) fn place(volume: &VolumeRecord, entry: &BlockEntry, group: GroupId) -> Option<BlockLocation> {
    let nodes = volume.nodes_of(group)?.into();
    Some(BlockLocation { id: entry.id, len: entry.record.len, code: volume.code, group, nodes })
}
