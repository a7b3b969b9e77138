//! `Namespace`: commands and queries, answered by the node that leads the namespace, and the leases of sessions.
//!
//! A session's lease lives in the leader's memory only: a new leader gives every open session a whole lease
//! again, so that no client loses its session because the leader was away.

use crate::metadata::{AskError, MetadataService, ProposeError};
use crate::node::Shared;
use crate::worker::unlinked_files::Open;
use parking_lot::Mutex;
use rain_namespace::command::{Command, Request};
use rain_namespace::query::{Answer, Answered, Query};
use rain_namespace::wire;
use rain_proto::v1;
use rain_proto::v1::namespace_server::Namespace;
use rain_types::{Ino, SessionId};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tonic::Status;

/// An answer waits at most so long for a lock.
const WAIT_MAX: Duration = Duration::from_secs(10);

/// Requests of one call.
const REQUESTS_MAX: usize = 1000;

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

    fn renew(&self, session: SessionId) {
        self.seen.lock().insert(session, Instant::now());
    }

    /// How long a session has been silent. One not heard of yet begins to be now.
    pub(crate) fn silence(&self, session: SessionId, now: Instant) -> Duration {
        now.saturating_duration_since(*self.seen.lock().entry(session).or_insert(now))
    }

    /// Every open session has a whole lease again.
    pub(crate) fn forget(&self) {
        self.seen.lock().clear();
    }

    /// Which of the open sessions were silent for longer than a lease. One not heard of yet begins its lease now.
    pub(crate) fn expired(&self, open: &[SessionId], now: Instant) -> Vec<SessionId> {
        let mut seen = self.seen.lock();
        seen.retain(|session, _| open.contains(session));
        open.iter()
            .filter(|session| now.duration_since(*seen.entry(**session).or_insert(now)) > self.ttl)
            .copied()
            .collect()
    }
}

/// The service. On a node that does not lead it says so.
#[derive(Debug)]
pub(crate) struct NamespaceService {
    pub(crate) shared: Arc<Shared>,
    pub(crate) leases: Arc<Leases>,
}

impl NamespaceService {
    fn metadata(&self) -> Result<&Arc<MetadataService>, Status> {
        self.shared.metadata_or_status()
    }
}

#[tonic::async_trait]
impl Namespace for NamespaceService {
    async fn propose(
        &self,
        request: tonic::Request<v1::ProposeRequest>,
    ) -> Result<tonic::Response<v1::ProposeResponse>, Status> {
        let metadata = self.metadata()?;
        let encoded = &request.get_ref().requests;
        if !(1..=REQUESTS_MAX).contains(&encoded.len()) {
            let why = format!("{} requests, 1 to {REQUESTS_MAX} at a time", encoded.len());
            return Err(Status::invalid_argument(why));
        }
        let requests: Result<Vec<Request>, _> = encoded.iter().map(|bytes| wire::decode(bytes)).collect();
        let requests = requests.map_err(|error| Status::invalid_argument(error.to_string()))?;
        for request in &requests {
            if let Some(id) = request.id {
                self.leases.renew(id.session);
            }
            if let Command::CreateVolume { code, .. } = &request.command {
                // The namespace knows nothing of codes; every node that gets here does.
                rain_codec::by_name(code.codec.name(), code.k.into(), code.m.into())
                    .map_err(|error| Status::invalid_argument(error.to_string()))?;
            }
        }
        let applied = metadata.propose_all(requests).await.map_err(propose_status)?;
        let applied = applied.iter().map(|applied| wire::encode(applied).into()).collect();
        Ok(tonic::Response::new(v1::ProposeResponse { applied }))
    }

    async fn query(
        &self,
        request: tonic::Request<v1::QueryRequest>,
    ) -> Result<tonic::Response<v1::QueryResponse>, Status> {
        let metadata = self.metadata()?;
        let allow_stale = request.get_ref().allow_stale;
        let wait = Duration::from_millis(request.get_ref().wait_ms.into()).min(WAIT_MAX);
        let query: Query = wire::decode(&request.get_ref().query)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        if let Query::Delegations { session } = &query {
            self.leases.renew(*session);
        }
        let (answered, age) = if allow_stale {
            let answered = metadata.try_query(&query).map_err(|error| Status::internal(error.to_string()))?;
            (answered, metadata.age())
        } else {
            (ask_waiting(metadata, &query, wait).await.map_err(ask_status)?, Duration::ZERO)
        };
        let (answered, age_ms) = (wire::encode(&answered).into(), age.as_millis() as u64);
        Ok(tonic::Response::new(v1::QueryResponse { answered, age_ms }))
    }

    async fn renew(
        &self,
        request: tonic::Request<v1::RenewRequest>,
    ) -> Result<tonic::Response<v1::RenewResponse>, Status> {
        let v1::RenewRequest { session, open: files, more_open, settled } = request.into_inner();
        let session = SessionId(session);
        let asked = self.metadata()?.ask(&Query::Session { session }).await.map_err(ask_status)?;
        let open = matches!(asked, Ok(Answer::Sessions(sessions)) if !sessions.is_empty());
        if open {
            self.leases.renew(session);
            let files =
                if more_open { Open::Anything } else { Open::Only(files.into_iter().map(Ino).collect()) };
            self.shared.reports.take(session, files, settled, Instant::now());
        }
        let totals = self.metadata()?.try_query(&Query::Totals);
        let places = match totals.map_err(|error| Status::internal(error.to_string()))? {
            Ok(Answer::Totals(totals)) => totals.places,
            _ => 0,
        };
        Ok(tonic::Response::new(v1::RenewResponse { open, places }))
    }
}

/// Whether an answer says that what was asked for has not come yet.
fn is_waiting(answered: &Answered) -> bool {
    match answered {
        Ok(Answer::Ticket { waiting, .. }) => *waiting,
        Ok(Answer::Delegation(held)) => held.is_some(),
        Ok(Answer::Delegations(held)) => !held.iter().any(|(_, recalled)| *recalled),
        _ => false,
    }
}

/// Asks, and where what was asked for has not come yet, asks again whenever it may have.
async fn ask_waiting(
    metadata: &MetadataService,
    query: &Query,
    wait: Duration,
) -> Result<Answered, AskError> {
    let mut grants = metadata.grants();
    let mut leadership = metadata.leadership();
    let until = tokio::time::Instant::now() + wait;
    loop {
        grants.borrow_and_update();
        let answered = metadata.ask(query).await?;
        if !is_waiting(&answered) {
            return Ok(answered);
        }
        let come = tokio::select! {
            come = tokio::time::timeout_at(until, grants.changed()) => matches!(come, Ok(Ok(()))),
            // The next leader is asked at once.
            _ = leadership.wait_for(|now| !now.mine) => return Err(AskError::NotLeader),
        };
        if !come {
            return Ok(answered);
        }
    }
}

fn propose_status(error: ProposeError) -> Status {
    match error {
        ProposeError::NoSpace { .. } => Status::resource_exhausted(error.to_string()),
        ProposeError::Busy { .. } => Status::deadline_exceeded(error.to_string()),
        ProposeError::NotLeader => Status::failed_precondition(error.to_string()),
        ProposeError::NoMajority | ProposeError::Stuck { .. } => Status::aborted(error.to_string()),
        // The node is going away, and another takes over.
        ProposeError::Closed | ProposeError::Stopped { .. } => Status::unavailable(error.to_string()),
        other => Status::internal(other.to_string()),
    }
}

fn ask_status(error: AskError) -> Status {
    match error {
        AskError::NotLeader => Status::failed_precondition(error.to_string()),
        AskError::NoMajority => Status::aborted(error.to_string()),
        AskError::Store(why) => Status::internal(why),
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
