//! The open files of all sessions, as the sessions report them to the leader. In memory, and pure: time comes
//! in.
//!
//! The namespace does not record opens: each would cost an entry of the log. Instead every session reports
//! its open files every few seconds. The worker `unlinked_files` frees a removed file when the reports prove
//! that no session has it open; its module head has the argument. A new leader has no reports and frees
//! nothing until all sessions have reported.

use parking_lot::Mutex;
use rain_types::{Ino, SessionId};
use std::collections::{HashMap, HashSet};
use std::time::Instant;

/// The open files of a session, as it reports them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum OpenFiles {
    /// These files.
    Only(HashSet<Ino>),
    /// More files than fit into a report: any file may be open.
    Anything,
}

#[derive(Debug)]
struct Report {
    /// Arrival of the last report.
    received: Instant,
    /// A complete list of the files opened before this moment and still open. `None`: no settled report yet.
    certain: Option<(Instant, OpenFiles)>,
}

/// The last reports of all sessions.
#[derive(Debug, Default)]
pub(crate) struct OpenFileReports {
    by_session: Mutex<HashMap<SessionId, Report>>,
}

impl OpenFileReports {
    /// Takes a report. `settled`: every open that was begun before the answer to the session's last report is
    /// over, so that its file is in `open`. Then the report is certain for the time before that last report.
    pub(crate) fn take(&self, session: SessionId, open: OpenFiles, settled: bool, now: Instant) {
        let mut by_session = self.by_session.lock();
        let before = by_session.remove(&session);
        let certain = match before {
            Some(before) if settled => Some((before.received, open)),
            before => before.and_then(|before| before.certain),
        };
        by_session.insert(session, Report { received: now, certain });
    }

    /// Forgets all reports: another node has led meanwhile, and reports made to it are missing here.
    pub(crate) fn forget(&self) {
        self.by_session.lock().clear();
    }

    /// Returns the files that no open session has open. `sealed` has each file with the moment at which it
    /// was seen sealed. Without a certain report of every session newer than that moment a file is not
    /// returned.
    pub(crate) fn free(&self, sessions: &[SessionId], sealed: &HashMap<Ino, Instant>) -> Vec<Ino> {
        let mut by_session = self.by_session.lock();
        by_session.retain(|session, _| sessions.contains(session));
        let certain: Option<Vec<_>> = sessions
            .iter()
            .map(|session| by_session.get(session).and_then(|report| report.certain.as_ref()))
            .collect();
        let Some(certain) = certain else { return Vec::new() };
        let is_free = |ino: &Ino, seen: Instant| {
            certain.iter().all(|(since, open)| {
                *since >= seen && matches!(open, OpenFiles::Only(open) if !open.contains(ino))
            })
        };
        sealed.iter().filter(|(ino, seen)| is_free(ino, **seen)).map(|(ino, _)| *ino).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const A: SessionId = SessionId(1);
    const B: SessionId = SessionId(2);
    const FILE: Ino = Ino(7);

    fn only(inos: &[u64]) -> OpenFiles {
        OpenFiles::Only(inos.iter().map(|ino| Ino(*ino)).collect())
    }

    /// Reports at given seconds; whether the file, seen sealed at second 10, is freed after them.
    fn is_freed(sessions: &[SessionId], reports: &[(u64, SessionId, OpenFiles, bool)]) -> bool {
        let start = Instant::now();
        let at = |secs| start + Duration::from_secs(secs);
        let table = OpenFileReports::default();
        for (secs, session, open, settled) in reports {
            table.take(*session, open.clone(), *settled, at(*secs));
        }
        let sealed = HashMap::from([(FILE, at(10))]);
        table.free(sessions, &sealed) == [FILE]
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
        assert!(!is_freed(&[A], &[(11, A, none(), true), (13, A, OpenFiles::Anything, true)]));
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
