//! `Namespace`: commands and queries, answered by the leader of the metadata service, and the renewal of
//! sessions.

use crate::inode_leases::{Granted, InodeLeases, Want};
use crate::joined::Joined;
use crate::metadata::{AskError, MetadataService, ProposeError};
use crate::open_files::{OpenFileReports, OpenFiles};
use crate::sessions::SessionLeases;
use rain_namespace::command::{Command, Request};
use rain_namespace::lease::{Claim, Subject, Wanted};
use rain_namespace::query::{Answer, Answered, Query};
use rain_namespace::wire;
use rain_proto::v1;
use rain_proto::v1::namespace_server::Namespace;
use rain_types::{Ino, SessionId};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tonic::Status;

/// Longest wait of a query for a lock or a recall. The client asks again.
const WAIT_MAX: Duration = Duration::from_secs(10);

/// Requests of one call: as many as one entry of the log takes.
const REQUESTS_MAX: usize = 1000;

/// The service. A node that does not lead answers "failed precondition", except to queries that allow a stale
/// answer.
#[derive(Debug)]
pub(crate) struct NamespaceService {
    pub(crate) joined: Arc<Joined>,
    pub(crate) sessions: Arc<SessionLeases>,
    pub(crate) open_files: Arc<OpenFileReports>,
    pub(crate) leases: Arc<InodeLeases>,
}

impl NamespaceService {
    fn metadata(&self) -> Result<&Arc<MetadataService>, Status> {
        self.joined.metadata_or_status()
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
                self.sessions.renew(id.session);
            }
            if let Command::CreateVolume { code, .. } = &request.command {
                // The namespace functions know no codec; this node does.
                rain_codec::by_name(code.codec.name(), code.k.into(), code.m.into())
                    .map_err(|error| Status::invalid_argument(error.to_string()))?;
            }
        }
        let applied = self.leases.change(metadata, requests).await.map_err(propose_status)?;
        let applied = applied.iter().map(|applied| wire::encode(applied).into()).collect();
        Ok(tonic::Response::new(v1::ProposeResponse { applied, position: metadata.applied_index() }))
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
            self.sessions.renew(*session);
        }
        let want = want(request.get_ref().lease());
        let (answered, position, age, granted) = if allow_stale {
            // Read before the state, so that the state is not older.
            let position = metadata.applied_index();
            let answered = metadata.try_query(&query).map_err(|error| Status::internal(error.to_string()))?;
            (answered, position, metadata.age(), None)
        } else {
            let (answered, granted) = match self.leases.answer(metadata, &query, want).await {
                Ok((answered, _)) if is_waiting(&answered) && !wait.is_zero() => {
                    (ask_waiting(metadata, &query, wait).await.map_err(ask_status)?, None)
                }
                answered => answered.map_err(ask_status)?,
            };
            (answered, metadata.applied_index(), Duration::ZERO, granted)
        };
        let (answered, age_ms) = (wire::encode(&answered).into(), age.as_millis() as u64);
        let granted = granted.map(lease_grant);
        Ok(tonic::Response::new(v1::QueryResponse { answered, age_ms, position, granted }))
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
            self.sessions.renew(session);
            let files = if more_open {
                OpenFiles::Anything
            } else {
                OpenFiles::Only(files.into_iter().map(Ino).collect())
            };
            self.open_files.take(session, files, settled, Instant::now());
        }
        let totals = self.metadata()?.try_query(&Query::Totals);
        let places = match totals.map_err(|error| Status::internal(error.to_string()))? {
            Ok(Answer::Totals(totals)) => totals.places,
            _ => 0,
        };
        Ok(tonic::Response::new(v1::RenewResponse { open, places }))
    }

    async fn leases(
        &self,
        request: tonic::Request<v1::LeasesRequest>,
    ) -> Result<tonic::Response<v1::LeasesResponse>, Status> {
        let v1::LeasesRequest { session, after, wait_ms } = request.into_inner();
        let session = SessionId(session);
        let wait = Duration::from_millis(wait_ms.into()).min(WAIT_MAX);
        let contact =
            self.leases.contact(self.metadata()?, session, after, wait).await.map_err(ask_status)?;
        if contact.open {
            self.sessions.renew(session);
        }
        let wanted = contact.wanted.into_iter().map(|Wanted { subject, up_to, keep_read }| v1::WantedLease {
            subject: wire::encode(&subject).into(),
            up_to,
            keep_read,
        });
        Ok(tonic::Response::new(v1::LeasesResponse {
            term: Some(contact.term.into()),
            open: contact.open,
            registered: contact.registered,
            wanted: wanted.collect(),
            last: contact.last,
        }))
    }

    async fn register(
        &self,
        request: tonic::Request<v1::RegisterRequest>,
    ) -> Result<tonic::Response<v1::RegisterResponse>, Status> {
        let v1::RegisterRequest { session, writes, claims } = request.into_inner();
        let writes: Vec<Ino> = writes.into_iter().map(Ino).collect();
        let claims: Vec<Claim> = claims.iter().map(claim).collect::<Result<_, _>>()?;
        let registered = self.leases.register(self.metadata()?, SessionId(session), &writes, &claims).await;
        let registered = registered.map_err(ask_status)?;
        let kept = registered.kept.into_iter().map(|(ino, number)| v1::KeptLease { ino: ino.0, number });
        Ok(tonic::Response::new(v1::RegisterResponse {
            term: Some(registered.term.into()),
            open: registered.open,
            kept: kept.collect(),
            last: registered.last,
            granted: registered.granted,
            refused: registered.refused,
            claimed: registered.claimed,
        }))
    }

    async fn release(
        &self,
        request: tonic::Request<v1::ReleaseRequest>,
    ) -> Result<tonic::Response<v1::ReleaseResponse>, Status> {
        let v1::ReleaseRequest { session, term, leases } = request.into_inner();
        let term = term.ok_or_else(|| Status::invalid_argument("a release without its term"))?;
        let mut released = Vec::with_capacity(leases.len());
        for v1::ReleasedLease { subject, up_to, keep_read } in leases {
            released.push((decoded_subject(&subject)?, up_to, keep_read));
        }
        self.leases.release(term.into(), SessionId(session), &released).map_err(ask_status)?;
        Ok(tonic::Response::new(v1::ReleaseResponse {}))
    }
}

fn decoded_subject(subject: &[u8]) -> Result<Subject, Status> {
    wire::decode(subject).map_err(|error| Status::invalid_argument(error.to_string()))
}

fn claim(claimed: &v1::ClaimedLease) -> Result<Claim, Status> {
    Ok(Claim { subject: decoded_subject(&claimed.subject)?, for_good: claimed.for_good })
}

fn want(kind: v1::LeaseKind) -> Want {
    match kind {
        v1::LeaseKind::LeaseNone => Want::Nothing,
        v1::LeaseKind::LeaseRead => Want::Read,
        v1::LeaseKind::LeaseReadOpen => Want::ReadOpen,
        v1::LeaseKind::LeaseWriteIfFree => Want::WriteIfFree,
        v1::LeaseKind::LeaseWrite => Want::Write,
    }
}

fn lease_grant(granted: Granted) -> v1::LeaseGrant {
    let Granted { term, number, write, unleased, read_for } = granted;
    let unleased = unleased.iter().map(|subject| wire::encode(subject).into()).collect();
    let read_ms = read_for.as_millis() as u32;
    v1::LeaseGrant { term: Some(term.into()), number, write, unleased, read_ms }
}

/// Returns true for an answer that says "not yet": a lock that waits, a directory that is delegated, no
/// recall.
fn is_waiting(answered: &Answered) -> bool {
    match answered {
        Ok(Answer::Ticket { waiting, .. }) => *waiting,
        Ok(Answer::Delegation(held)) => held.is_some(),
        Ok(Answer::Delegations(held)) => !held.iter().any(|(_, recalled)| *recalled),
        _ => false,
    }
}

/// Answers a query. While the answer is "not yet", asks again after every change that may have changed it,
/// for at most `wait`.
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
            // The caller then asks the next leader at once.
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
        // The node goes away, and another takes over.
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
