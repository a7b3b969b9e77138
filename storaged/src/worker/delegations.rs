//! Revokes delegations that were recalled and that their session does not return.
//!
//! A session that gets a recall stores its data and returns the directory, in milliseconds. A session that is
//! dead or cut off does not: the leader waits [`SILENT_MAX`] for it. By then the session has stopped using
//! its delegations, because its own limit of 2 s without contact (`rain-client`) is shorter. A session that
//! has contact but cannot get its data stored has [`SLOW_MAX`]. Commands that it queued before the revocation
//! and sends later are applied like any other command.

use crate::metadata::MetadataService;
use crate::sessions::SessionLeases;
use rain_namespace::command::{Command, Request};
use rain_namespace::query::{Answer, Query};
use rain_types::{Ino, SessionId};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Pause between two rounds.
const EVERY: Duration = Duration::from_millis(250);

/// A session that was silent for longer loses the delegations that others want.
const SILENT_MAX: Duration = Duration::from_secs(3);

/// Time that a session with contact has from the recall to the return.
const SLOW_MAX: Duration = Duration::from_secs(15);

/// Recalled directories of one round; the others wait for the next.
const PAGE: u32 = 4096;

/// Runs while this node leads.
pub(super) async fn run(metadata: Arc<MetadataService>, sessions: Arc<SessionLeases>) {
    // The recalled delegations, each with the moment at which this worker saw its recall first.
    let mut recalls: HashMap<(Ino, SessionId), Instant> = HashMap::new();
    loop {
        tokio::time::sleep(EVERY).await;
        let Ok(Answer::Recalled(recalled)) = metadata.query(&Query::Recalled { limit: PAGE }) else {
            continue;
        };
        let now = Instant::now();
        recalls.retain(|delegation, _| recalled.contains(delegation));
        for (dir, session) in recalled {
            let since = *recalls.entry((dir, session)).or_insert(now);
            let silence = sessions.silence(session, now);
            if silence <= SILENT_MAX && now.duration_since(since) <= SLOW_MAX {
                continue;
            }
            tracing::warn!(%dir, %session, ?silence, "revoking the delegation of a directory that its session does not return");
            let request = Request::internal(Command::RevokeDelegation { dir, session });
            if let Err(error) = metadata.propose(request).await {
                tracing::debug!(%error, "revoking a delegation; the next round tries again");
                break;
            }
        }
    }
}
