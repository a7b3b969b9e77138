//! Renewal: tells the leader that the session is alive and which files it has open, and replaces a session
//! that has ended.

use super::numbers::Numbers;
use super::state::{NO_SESSION, Session, namespace_client};
use crate::error::Error;
use rain_namespace::command::{Command, Outcome};
use rain_proto::v1;
use rain_types::{Ino, SessionId};
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

/// A session reports its open files at least this often. A removed file keeps its space until two such
/// reports.
const RENEW_EVERY: Duration = Duration::from_secs(1);

/// Open files reported one by one. A session with more of them reports only that, and then no file counts as
/// closed.
const OPEN_FILES_MAX: usize = 1 << 16;

/// The result of a renewal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Renewed {
    /// Nodes and placement groups are as this client knows them.
    Unchanged,
    /// Nodes or placement groups have changed. The caller reads them again, then calls
    /// [`Session::placement_is`] with this version.
    PlacementChanged(u64),
}

impl Session {
    /// The pause between two renewals.
    pub(crate) fn renewal_pause(&self) -> Duration {
        Duration::from_millis(self.ttl_ms.load(Relaxed) / 4).min(RENEW_EVERY)
    }

    /// Renews the session once. `open_files` lists the files that are open, or closed and not stored yet; it
    /// is called after the opens under way were looked at, so that an open that is over by then is in the
    /// list.
    pub(crate) async fn renew(&self, open_files: impl FnOnce() -> Vec<Ino>) -> Result<Renewed, Error> {
        let id = self.id();
        if id == NO_SESSION {
            return Ok(Renewed::Unchanged);
        }
        let asked = Instant::now();
        let settled = self.openings.settled();
        let mut open: Vec<u64> = open_files().into_iter().map(|ino| ino.0).collect();
        let more_open = open.len() > OPEN_FILES_MAX;
        open.truncate(OPEN_FILES_MAX);
        let response = self
            .call_leader("renewing the session", |channel| {
                let mut client = namespace_client(channel);
                let request = v1::RenewRequest { session: id.0, open: open.clone(), more_open, settled };
                async move { client.renew(request).await }
            })
            .await?;
        self.openings.answered();
        if !response.open {
            self.reopen(id).await?;
            return Ok(Renewed::Unchanged);
        }
        if self.id() == id {
            *self.renewed.lock() = asked;
        }
        if response.places == self.placement_version.load(Relaxed) {
            return Ok(Renewed::Unchanged);
        }
        Ok(Renewed::PlacementChanged(response.places))
    }

    /// This client's nodes and placement groups are of this version.
    pub(crate) fn placement_is(&self, version: u64) {
        self.placement_version.store(version, Relaxed);
    }

    /// Opens a session in place of `ended`, unless that has been done meanwhile.
    pub(crate) async fn reopen(&self, ended: SessionId) -> Result<(), Error> {
        let _one_at_a_time = self.reopening.lock().await;
        if self.id() != ended {
            return Ok(());
        }
        let command = Command::OpenSession { label: self.options.label.clone(), caches: self.options.caches };
        let asked = Instant::now();
        let Outcome::Session(id) = self.propose_internal(command).await? else {
            return Err(Error::unexpected("a session"));
        };
        if ended != NO_SESSION {
            tracing::warn!(%ended, new = %id, "the session had ended; a new one is open");
        }
        let mut numbers = self.numbers.lock();
        *numbers = Numbers::new(id);
        *self.renewed.lock() = asked;
        Ok(())
    }
}
