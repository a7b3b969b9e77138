//! Takes delegated directories back from sessions that do not give them back.
//!
//! A session that is wanted to give a directory back stores what it has and does so, in milliseconds. One that is dead or cut off does
//! not: after [`SILENT_MAX`] it is not waited for. It does not use what it holds any more by then: it stops when it has not heard from the
//! leader for less than that, by its own clock (`rain-client`). One that is there but cannot get its data stored has [`SLOW_MAX`].
//! What it sends later is applied then, as any command.

use crate::metadata::MetadataService;
use crate::service::namespace::Leases;
use rain_namespace::command::{Command, Request};
use rain_namespace::query::{Answer, Query};
use rain_types::{Ino, SessionId};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Between looks.
const EVERY: Duration = Duration::from_millis(250);

/// A session that was silent for so long holds nothing that others want.
const SILENT_MAX: Duration = Duration::from_secs(3);

/// From the recall to the end of patience with a session that is there.
const SLOW_MAX: Duration = Duration::from_secs(15);

/// Recalled directories looked at in one round.
const PAGE: u32 = 4096;

/// Runs while this node leads.
pub(crate) async fn run(metadata: Arc<MetadataService>, leases: Arc<Leases>) {
    // Since when each is known to be wanted back.
    let mut wanted: HashMap<(Ino, SessionId), Instant> = HashMap::new();
    loop {
        tokio::time::sleep(EVERY).await;
        let Ok(Answer::Recalled(recalled)) = metadata.query(&Query::Recalled { limit: PAGE }) else {
            continue;
        };
        let now = Instant::now();
        wanted.retain(|held, _| recalled.contains(held));
        for (dir, session) in recalled {
            let since = *wanted.entry((dir, session)).or_insert(now);
            let silence = leases.silence(session, now);
            if silence <= SILENT_MAX && now.duration_since(since) <= SLOW_MAX {
                continue;
            }
            tracing::warn!(%dir, %session, ?silence, "a directory is taken back from a session that does not give it back");
            let request = Request::internal(Command::RevokeDelegation { dir, session });
            if let Err(error) = metadata.propose(request).await {
                tracing::debug!(%error, "taking a directory back; it is tried again");
                break;
            }
        }
    }
}
