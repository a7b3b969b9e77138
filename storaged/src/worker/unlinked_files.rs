//! Frees files without a name that nobody has open any more.
//!
//! The namespace knows no opens: they would cost an entry of the log each. Instead every session says every few seconds which files it
//! has open, to the leader, which keeps the last word of each in memory ([`Reports`], pure). A new leader knows nothing, and frees nothing
//! until all have spoken.
//!
//! Why this is enough. A while after its last name has gone (who has looked the name up just before may still open it) an orphan is
//! *sealed*: the namespace gives it to nobody who opens. So who has it open began to open it before this worker saw it sealed, at a
//! moment T. A session counts as not having it open when it says so in
//! a report that (1) it put together after the answer to an earlier report, which this leader got after T, and (2) is *settled*: every
//! open or create begun before that answer is over, so that its file is in the list. A session that says nothing holds up
//! everything, until it is ended.

use crate::metadata::MetadataService;
use parking_lot::Mutex;
use rain_namespace::command::{Command, Request};
use rain_namespace::query::{Answer, Query};
use rain_types::{Ino, SessionId};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Between looks.
const EVERY: Duration = Duration::from_secs(1);

/// From a name's end to the seal: kernels trust a name for a second.
const OPENED_WITHIN: Duration = Duration::from_secs(2);

/// UnlinkedFiles freed by one command: freeing costs a write for each extent.
const FREED_AT_ONCE: usize = 128;

/// UnlinkedFiles looked at in one round; the others wait.
const LOOKED_AT_MAX: usize = 1 << 16;

const PAGE: u32 = 4096;

/// What a session has open, as it said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Open {
    /// These.
    Only(HashSet<Ino>),
    /// More than can be said.
    Anything,
}

#[derive(Debug)]
struct Report {
    /// When the last report came.
    received: Instant,
    /// What is certainly everything that was opened before a moment.
    certain: Option<(Instant, Open)>,
}

/// The last words of all sessions.
#[derive(Debug, Default)]
pub(crate) struct Reports {
    by_session: Mutex<HashMap<SessionId, Report>>,
}

impl Reports {
    /// A session speaks.
    pub(crate) fn take(&self, session: SessionId, open: Open, settled: bool, now: Instant) {
        let mut by_session = self.by_session.lock();
        let before = by_session.remove(&session);
        let certain = match before {
            Some(before) if settled => Some((before.received, open)),
            before => before.and_then(|before| before.certain),
        };
        by_session.insert(session, Report { received: now, certain });
    }

    /// Another node led meanwhile: what was said to it is not known here.
    pub(crate) fn forget(&self) {
        self.by_session.lock().clear();
    }

    /// Those of the orphans, each seen sealed at its moment, that no open session has open.
    fn free(&self, sessions: &[SessionId], orphans: &HashMap<Ino, Instant>) -> Vec<Ino> {
        let mut by_session = self.by_session.lock();
        by_session.retain(|session, _| sessions.contains(session));
        let words: Option<Vec<_>> = sessions
            .iter()
            .map(|session| by_session.get(session).and_then(|report| report.certain.as_ref()))
            .collect();
        let Some(words) = words else { return Vec::new() };
        let is_free = |ino: &Ino, seen: Instant| {
            words.iter().all(|(since, open)| {
                *since >= seen && matches!(open, Open::Only(open) if !open.contains(ino))
            })
        };
        orphans.iter().filter(|(ino, seen)| is_free(ino, **seen)).map(|(ino, _)| *ino).collect()
    }
}

/// Runs while this node leads.
pub(crate) async fn run(metadata: Arc<MetadataService>, reports: Arc<Reports>) {
    // Since when each is known to be as it is.
    let (mut open, mut sealed): (HashMap<Ino, Instant>, HashMap<Ino, Instant>) = Default::default();
    loop {
        tokio::time::sleep(EVERY).await;
        let orphans = all_orphans(&metadata);
        let now = Instant::now();
        for (seen, is_sealed) in [(&mut open, false), (&mut sealed, true)] {
            seen.retain(|ino, _| orphans.get(ino) == Some(&is_sealed));
            for (ino, _) in orphans.iter().filter(|(_, sealed)| **sealed == is_sealed) {
                seen.entry(*ino).or_insert(now);
            }
        }
        let due = open.iter().filter(|(_, since)| now.duration_since(**since) > OPENED_WITHIN);
        let due: Vec<Ino> = due.map(|(ino, _)| *ino).collect();
        propose(&metadata, due, |inos| Command::Seal { inos }).await;
        if sealed.is_empty() {
            continue;
        }
        let Ok(Answer::Sessions(there)) = metadata.query(&Query::Sessions) else { continue };
        let sessions: Vec<SessionId> = there.into_iter().map(|session| session.id).collect();
        propose(&metadata, reports.free(&sessions, &sealed), |inos| Command::Free { inos }).await;
    }
}

async fn propose(metadata: &MetadataService, mut inos: Vec<Ino>, command: impl Fn(Vec<Ino>) -> Command) {
    inos.sort_unstable();
    for inos in inos.chunks(FREED_AT_ONCE) {
        let request = Request::internal(command(inos.to_vec()));
        if let Err(error) = metadata.propose(request).await {
            tracing::debug!(%error, "freeing removed files; it is tried again");
            return;
        }
    }
}

/// With whether they are sealed.
fn all_orphans(metadata: &MetadataService) -> HashMap<Ino, bool> {
    let mut found = HashMap::new();
    let mut after = None;
    while found.len() < LOOKED_AT_MAX {
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

#[cfg(test)]
mod tests {
    use super::*;

    const A: SessionId = SessionId(1);
    const B: SessionId = SessionId(2);
    const FILE: Ino = Ino(7);

    fn only(inos: &[u64]) -> Open {
        Open::Only(inos.iter().map(|ino| Ino(*ino)).collect())
    }

    /// Reports at given seconds; whether the file, seen sealed at second 10, is freed after them.
    fn is_freed(sessions: &[SessionId], reports: &[(u64, SessionId, Open, bool)]) -> bool {
        let start = Instant::now();
        let at = |secs| start + Duration::from_secs(secs);
        let table = Reports::default();
        for (secs, session, open, settled) in reports {
            table.take(*session, open.clone(), *settled, at(*secs));
        }
        let orphans = HashMap::from([(FILE, at(10))]);
        table.free(sessions, &orphans) == [FILE]
    }

    #[test]
    fn a_file_is_freed_after_two_reports_without_it_and_not_before() {
        let none = || only(&[8]);
        assert!(!is_freed(&[A], &[]), "nothing was said");
        assert!(!is_freed(&[A], &[(11, A, none(), true)]), "it may have been put together long ago");
        assert!(!is_freed(&[A], &[(9, A, none(), true), (11, A, none(), true)]), "the one before is too old");
        assert!(is_freed(&[A], &[(11, A, none(), true), (13, A, none(), true)]));
        assert!(
            !is_freed(&[A], &[(11, A, none(), true), (13, A, none(), false)]),
            "an open may be under way"
        );
        assert!(!is_freed(&[A], &[(11, A, none(), true), (13, A, only(&[7, 8]), true)]));
        assert!(!is_freed(&[A], &[(11, A, none(), true), (13, A, Open::Anything, true)]));
        assert!(is_freed(&[], &[]), "nobody is there");
    }

    #[test]
    fn every_session_must_have_spoken_and_ended_ones_do_not_count() {
        let words = |session| [(11, session, only(&[]), true), (13, session, only(&[]), true)];
        assert!(!is_freed(&[A, B], &words(A)));
        let held = [(11, B, only(&[7]), true), (13, B, only(&[7]), true)];
        assert!(!is_freed(&[A, B], &[words(A), held.clone()].concat()));
        assert!(is_freed(&[A], &[words(A), held].concat()), "the one that had it open has ended");
        assert!(is_freed(&[A, B], &[words(A), words(B)].concat()));
    }

    #[test]
    fn a_word_that_is_not_settled_leaves_the_last_one_standing() {
        let words = [(11, A, only(&[]), true), (13, A, only(&[]), true), (15, A, only(&[7]), false)];
        assert!(is_freed(&[A], &words), "it was free already, and cannot be opened since");
    }
}
