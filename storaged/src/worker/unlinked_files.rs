//! Frees files without a name that no session has open any more.
//!
//! The sessions report their open files to the leader ([`crate::open_files`]). Two seconds after its last
//! name has gone, a file is *sealed*: from then on the namespace refuses every open of the file. The delay is
//! for sessions that have looked up the name just before and may still open the file.
//!
//! Let T be the moment at which this worker saw the file sealed. A session that has the file open began that
//! open before T. So a session certainly does not have the file open after a report without the file if both
//! of these hold:
//!
//! 1. The session made this report after the answer to an earlier report, and this leader received that
//!    earlier report after T.
//! 2. This report is *settled*: every open or create that began before that answer is over, so that its file
//!    is in the list.
//!
//! While an open session does not report, no file is freed. The worker `leases` ends silent sessions.
//! (`a_file_is_freed_after_two_reports_without_it_and_not_before`,
//! `every_session_must_have_spoken_and_ended_ones_do_not_count`)

use crate::metadata::MetadataService;
use crate::open_files::OpenFileReports;
use rain_namespace::command::{Command, Request};
use rain_namespace::query::{Answer, Query};
use rain_types::{Ino, SessionId};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Pause between two rounds.
const EVERY: Duration = Duration::from_secs(1);

/// Time from the loss of the last name to the seal. A kernel trusts a name that it has looked up for a
/// second.
const SEAL_AFTER: Duration = Duration::from_secs(2);

/// Files freed by one command: each costs a write for every extent.
const FREED_AT_ONCE: usize = 128;

/// Files looked at in one round, a bound on memory; the others wait for the next round.
const FILES_MAX: usize = 1 << 16;

/// Files of one query.
const PAGE: u32 = 4096;

/// Runs while this node leads.
pub(crate) async fn run(metadata: Arc<MetadataService>, reports: Arc<OpenFileReports>) {
    // Files not yet sealed and sealed files, each with the moment at which it was first seen so.
    let (mut unsealed, mut sealed): (HashMap<Ino, Instant>, HashMap<Ino, Instant>) = Default::default();
    loop {
        tokio::time::sleep(EVERY).await;
        let unlinked = all_unlinked(&metadata);
        let now = Instant::now();
        for (seen, is_sealed) in [(&mut unsealed, false), (&mut sealed, true)] {
            seen.retain(|ino, _| unlinked.get(ino) == Some(&is_sealed));
            for (ino, _) in unlinked.iter().filter(|(_, sealed)| **sealed == is_sealed) {
                seen.entry(*ino).or_insert(now);
            }
        }
        let due = unsealed.iter().filter(|(_, since)| now.duration_since(**since) > SEAL_AFTER);
        let due: Vec<Ino> = due.map(|(ino, _)| *ino).collect();
        propose(&metadata, due, |inos| Command::Seal { inos }).await;
        if sealed.is_empty() {
            continue;
        }
        let Ok(Answer::Sessions(open)) = metadata.query(&Query::Sessions) else { continue };
        let sessions: Vec<SessionId> = open.into_iter().map(|session| session.id).collect();
        propose(&metadata, reports.free(&sessions, &sealed), |inos| Command::Free { inos }).await;
    }
}

async fn propose(metadata: &MetadataService, mut inos: Vec<Ino>, command: impl Fn(Vec<Ino>) -> Command) {
    inos.sort_unstable();
    for inos in inos.chunks(FREED_AT_ONCE) {
        let request = Request::internal(command(inos.to_vec()));
        if let Err(error) = metadata.propose(request).await {
            tracing::debug!(%error, "sealing or freeing removed files failed; the next round tries again");
            return;
        }
    }
}

/// Returns the files without a name; the value is true for a sealed one.
fn all_unlinked(metadata: &MetadataService) -> HashMap<Ino, bool> {
    let mut found = HashMap::new();
    let mut after = None;
    while found.len() < FILES_MAX {
        let Ok(Answer::UnlinkedFiles(page)) = metadata.query(&Query::UnlinkedFiles { after, limit: PAGE })
        else {
            break;
        };
        let Some(last) = page.last() else { break };
        after = Some(last.0);
        found.extend(page);
    }
    found
}
