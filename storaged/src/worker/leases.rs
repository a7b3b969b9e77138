//! Ends the sessions of clients that were silent for longer than a lease, so that their open files, locks and
//! delegations are freed.

use crate::metadata::MetadataService;
use crate::sessions::SessionLeases;
use rain_namespace::command::{Command, Request};
use rain_namespace::query::{Answer, Query};
use rain_types::SessionId;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::mpsc;

/// Runs while this node leads. `ended` gets each ended session, for the search for its stray shares.
pub(super) async fn run(
    metadata: Arc<MetadataService>,
    sessions: Arc<SessionLeases>,
    ended: mpsc::Sender<SessionId>,
) {
    loop {
        tokio::time::sleep(sessions.ttl() / 4).await;
        let Ok(Answer::Sessions(open)) = metadata.query(&Query::Sessions) else { continue };
        let open: Vec<SessionId> = open.into_iter().map(|session| session.id).collect();
        for session in sessions.expired(&open, Instant::now()) {
            let request = Request::internal(Command::EndSession { session });
            match metadata.propose(request).await {
                Ok(_) => {
                    tracing::info!(%session, "session ended: its client was silent for {:?}", sessions.ttl());
                    let _ = ended.try_send(session);
                }
                Err(error) => tracing::warn!(%session, %error, "ending the session of a silent client"),
            }
        }
    }
}
