//! Ends the sessions of clients that were silent for longer than a lease, so that what they left open is freed.

use crate::metadata::MetadataService;
use crate::service::namespace::Leases;
use rain_namespace::command::{Command, Request};
use rain_namespace::query::{Answer, Query};
use rain_types::SessionId;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::mpsc;

/// Runs until the node stops. Ended sessions are told to `ended`, for the sweep of their shares.
pub(crate) async fn run(metadata: Arc<MetadataService>, leases: Arc<Leases>, ended: mpsc::Sender<SessionId>) {
    loop {
        tokio::time::sleep(leases.ttl() / 4).await;
        let Ok(Answer::Sessions(open)) = metadata.query(&Query::Sessions) else { continue };
        let open: Vec<SessionId> = open.into_iter().map(|session| session.id).collect();
        for session in leases.expired(&open, Instant::now()) {
            let request = Request::internal(Command::EndSession { session });
            match metadata.propose(request).await {
                Ok(_) => {
                    tracing::info!(%session, "session ended: its client was silent for {:?}", leases.ttl());
                    let _ = ended.try_send(session);
                }
                Err(error) => tracing::warn!(%session, %error, "ending a silent session"),
            }
        }
    }
}
