//! `Namespace`: commands and queries, answered by the node that keeps the namespace, and the leases of sessions.
//!
//! A session's lease lives in this node's memory only: after a restart every open session has a whole lease
//! again, so that no client loses its session because the keeper was away.

use crate::keeper::{Keeper, ProposeError};
use rain_namespace::command::{Command, Request};
use rain_namespace::query::{Answer, Query};
use rain_namespace::wire;
use rain_proto::v1;
use rain_proto::v1::namespace_server::Namespace;
use rain_types::SessionId;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tonic::Status;

/// When each session was last heard of.
#[derive(Debug)]
pub(crate) struct Leases {
    ttl: Duration,
    seen: Mutex<HashMap<SessionId, Instant>>,
}

impl Leases {
    pub(crate) fn new(ttl: Duration) -> Leases {
        Leases { ttl, seen: Mutex::default() }
    }

    pub(crate) fn ttl(&self) -> Duration {
        self.ttl
    }

    fn seen(&self) -> MutexGuard<'_, HashMap<SessionId, Instant>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn renew(&self, session: SessionId) {
        self.seen().insert(session, Instant::now());
    }

    /// Which of the open sessions were silent for longer than a lease. One not heard of yet begins its lease now.
    pub(crate) fn expired(&self, open: &[SessionId], now: Instant) -> Vec<SessionId> {
        let mut seen = self.seen();
        seen.retain(|session, _| open.contains(session));
        open.iter()
            .filter(|session| now.duration_since(*seen.entry(**session).or_insert(now)) > self.ttl)
            .copied()
            .collect()
    }
}

/// The service. Without a keeper it says so.
#[derive(Debug)]
pub(crate) struct NamespaceService {
    pub(crate) keeper: Option<Arc<Keeper>>,
    pub(crate) leases: Arc<Leases>,
}

impl NamespaceService {
    fn keeper(&self) -> Result<&Arc<Keeper>, Status> {
        self.keeper
            .as_ref()
            .ok_or_else(|| Status::failed_precondition("this node does not keep the namespace"))
    }
}

#[tonic::async_trait]
impl Namespace for NamespaceService {
    async fn propose(
        &self,
        request: tonic::Request<v1::ProposeRequest>,
    ) -> Result<tonic::Response<v1::ProposeResponse>, Status> {
        let keeper = self.keeper()?;
        let request: Request = wire::decode(&request.get_ref().request)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        if let Some(id) = request.id {
            self.leases.renew(id.session);
        }
        if matches!(request.command, Command::RegisterNode { id, .. } if id.0 == 0) {
            return Err(Status::invalid_argument("a node's number is 1 or more"));
        }
        if let Command::CreateVolume { code, .. } = &request.command {
            // The namespace knows nothing of codes; every node that gets here does.
            rain_codec::by_name(code.codec.name(), code.k.into(), code.m.into())
                .map_err(|error| Status::invalid_argument(error.to_string()))?;
        }
        let applied = keeper.propose(request).await.map_err(propose_status)?;
        Ok(tonic::Response::new(v1::ProposeResponse { applied: wire::encode(&applied).into() }))
    }

    async fn query(
        &self,
        request: tonic::Request<v1::QueryRequest>,
    ) -> Result<tonic::Response<v1::QueryResponse>, Status> {
        let keeper = self.keeper()?;
        let query: Query = wire::decode(&request.get_ref().query)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let answered = keeper.try_query(&query).map_err(|error| Status::internal(error.to_string()))?;
        Ok(tonic::Response::new(v1::QueryResponse { answered: wire::encode(&answered).into() }))
    }

    async fn renew(
        &self,
        request: tonic::Request<v1::RenewRequest>,
    ) -> Result<tonic::Response<v1::RenewResponse>, Status> {
        let session = SessionId(request.get_ref().session);
        let open = matches!(
            self.keeper()?.query(&Query::Session { session }),
            Ok(Answer::Sessions(sessions)) if !sessions.is_empty()
        );
        if open {
            self.leases.renew(session);
        }
        Ok(tonic::Response::new(v1::RenewResponse { open }))
    }
}

fn propose_status(error: ProposeError) -> Status {
    match error {
        ProposeError::NoSpace { .. } => Status::resource_exhausted(error.to_string()),
        ProposeError::Busy { .. } => Status::deadline_exceeded(error.to_string()),
        other => Status::internal(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_ended_after_silence_and_not_before() {
        let leases = Leases::new(Duration::from_secs(10));
        let start = Instant::now();
        let open = [SessionId(1), SessionId(2)];
        assert!(leases.expired(&open, start).is_empty(), "a lease begins when it is first looked for");
        let later = start + Duration::from_secs(9);
        assert!(leases.expired(&open, later).is_empty());
        let end = start + Duration::from_secs(11);
        assert_eq!(leases.expired(&open, end), open);
        leases.renew(SessionId(2));
        assert_eq!(leases.expired(&open, Instant::now() + Duration::from_secs(5)), []);
        assert_eq!(leases.expired(&open[1..], end + Duration::from_secs(60)), [SessionId(2)]);
    }
}
