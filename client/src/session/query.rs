//! Queries: answered by the leader; without a majority, where the options allow it, by any node from its own
//! state.

use super::leases::Grant;
use super::state::{Session, namespace_client};
use crate::error::Error;
use crate::rpc::endpoint::grpc_endpoint;
use crate::stats::count;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use rain_namespace::command::Command;
use rain_namespace::error::NsError;
use rain_namespace::lease::asked_about;
use rain_namespace::query::{Answer, Answered, Query};
use rain_namespace::record::Attr;
use rain_namespace::wire;
use rain_proto::v1;
use rain_proto::v1::LeaseKind;
use rain_types::Ino;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};
use tonic::transport::Channel;

/// Deadline for a stale answer of one node.
const STALE_TIMEOUT: Duration = Duration::from_millis(800);

/// After the first stale answer, the other nodes may answer within this: one of them may have a newer state.
const STALE_GRACE: Duration = Duration::from_millis(15);

/// Pause before the nodes are asked again for a state that is new enough.
const CATCH_UP_EVERY: Duration = Duration::from_millis(30);

/// Longest wait of one query for the return of a delegated directory.
const RECALL_WAIT: Duration = Duration::from_millis(500);

impl Session {
    /// Asks the namespace. Waits where another session holds the directory.
    ///
    /// Without a majority, and where [`crate::Options::allow_stale`] allows it, the newest state of the nodes
    /// that answer is the answer; [`Session::without_leader`] tells its age. It has everything that this
    /// client has seen, unless no node has that any more.
    pub(crate) async fn query(&self, query: &Query) -> Result<Answer, Error> {
        self.query_for(query, LeaseKind::LeaseRead).await.map(|(answer, _)| answer)
    }

    /// As [`Session::query`]. A client that keeps leases also gets one of this kind, if no other client is in
    /// the way.
    pub(crate) async fn query_for(&self, query: &Query, kind: LeaseKind) -> Result<(Answer, Grant), Error> {
        if let Some((answered, grant)) = self.leases.answer(query, kind) {
            count(&self.counters.answered_from_kept);
            return answered.map(|answer| (answer, grant)).map_err(Error::Refused);
        }
        let begun = Instant::now();
        loop {
            let asking = self.leases.ask();
            let response = match self.ask_leader(query, kind).await {
                Err(error @ Error::NoMajority { .. }) if self.options.allow_stale => {
                    let newest = self.query_any(wire::encode(query).into()).await.ok_or(error)?;
                    if !self.seen.accepts(newest.position, Instant::now()) {
                        tokio::time::sleep(CATCH_UP_EVERY).await;
                        continue;
                    }
                    self.stale_age_ms.store(newest.age_ms, Relaxed);
                    newest
                }
                asked => asked?,
            };
            let answered: Answered = wire::decode(&response.answered)?;
            match answered {
                Err(NsError::Delegated { dir, .. }) => self.recall(dir, begun).await?,
                answered => {
                    let grant = response.granted.as_ref();
                    let granted = self.leases.granted(&asking, grant, kind, query, &answered);
                    return answered.map(|answer| (answer, granted)).map_err(Error::Refused);
                }
            }
        }
    }

    /// Asks the leader anew what is kept, so that its leases last longer.
    pub(super) async fn renew_kept(&self, query: &Query) -> Result<(), Error> {
        let (kind, asking) = (LeaseKind::LeaseRead, self.leases.ask());
        let response = self.ask_leader(query, kind).await?;
        let answered: Answered = wire::decode(&response.answered)?;
        self.leases.granted(&asking, response.granted.as_ref(), kind, query, &answered);
        Ok(())
    }

    /// Gets a write lease on a file; waits until other clients have given up theirs. Returns the file's
    /// attributes under the lease.
    pub(crate) async fn write_lease(&self, ino: Ino) -> Result<(Attr, Grant), Error> {
        let (query, kind) = (Query::GetAttr { ino }, LeaseKind::LeaseWrite);
        let asking = self.leases.ask();
        let response = self.ask_leader(&query, kind).await?;
        let answered: Answered = wire::decode(&response.answered)?;
        let granted = self.leases.granted(&asking, response.granted.as_ref(), kind, &query, &answered);
        match answered.map_err(Error::Refused)? {
            Answer::Attr(attr) => Ok((attr, granted)),
            _ => Err(Error::unexpected("an inode")),
        }
    }

    /// Asks the leader, in the frame that a query needs.
    async fn ask_leader(&self, query: &Query, kind: LeaseKind) -> Result<v1::QueryResponse, Error> {
        // The leader has to know which session asks: names may be delegated, and leases belong to a session.
        let is_framed = matches!(query, Query::Lookup { .. } | Query::ReadDirectory { .. })
            || self.caches() && asked_about(query).is_some();
        let framed = if is_framed {
            wire::encode(&Query::As { session: self.id(), query: Box::new(query.clone()) })
        } else {
            wire::encode(query)
        };
        let kind = if self.caches() { kind } else { LeaseKind::LeaseNone };
        self.query_leader(framed.into(), kind, Duration::ZERO).await
    }

    /// Asks the leader only. For a query that waits for an event, the leader may delay its answer until the
    /// event, at most by `wait`.
    pub(crate) async fn query_waiting(&self, query: &Query, wait: Duration) -> Result<Answer, Error> {
        let response = self.query_leader(wire::encode(query).into(), LeaseKind::LeaseNone, wait).await?;
        let answered: Answered = wire::decode(&response.answered)?;
        answered.map_err(Error::Refused)
    }

    /// Recalls a delegated directory and waits for its return. Fails with `TimedOut` when `slow_after` has
    /// passed since `begun`.
    pub(crate) async fn recall(&self, dir: Ino, begun: Instant) -> Result<(), Error> {
        let after = self.options.slow_after;
        self.propose_internal(Command::Recall { dir }).await?;
        loop {
            let left = after.saturating_sub(begun.elapsed());
            if left.is_zero() {
                let what = format!("waiting for directory {dir}, which another client holds,");
                return Err(Error::TimedOut { what, after });
            }
            let query = Query::Delegation { dir };
            if let Answer::Delegation(None) = self.query_waiting(&query, RECALL_WAIT.min(left)).await? {
                return Ok(());
            }
        }
    }

    async fn query_leader(
        &self,
        query: bytes::Bytes,
        kind: LeaseKind,
        wait: Duration,
    ) -> Result<v1::QueryResponse, Error> {
        count(&self.counters.queries);
        let begun = Instant::now();
        let response = self
            .call_leader("asking the namespace", |channel| {
                // A question that was asked of a leader that has gone has waited there.
                let wait_ms = wait.saturating_sub(begun.elapsed()).as_millis() as u32;
                let request = v1::QueryRequest {
                    query: query.clone(),
                    allow_stale: false,
                    wait_ms,
                    lease: kind.into(),
                };
                let mut client = namespace_client(channel);
                async move { client.query(request).await }
            })
            .await?;
        self.seen.saw(response.position);
        Ok(response)
    }

    /// Asks all nodes for their own state, and returns the answer of the newest state among the first; none
    /// when no node answers. The age of a state does not order states: a node that hears from the leader may
    /// still be applying the log.
    async fn query_any(&self, query: bytes::Bytes) -> Option<v1::QueryResponse> {
        let mut channels: Vec<Channel> = self.nodes.all().iter().map(|node| node.channel()).collect();
        if channels.is_empty() {
            let addresses = self.leader.addresses();
            channels = addresses
                .iter()
                .filter_map(|address| Some(grpc_endpoint(address).ok()?.connect_lazy()))
                .collect();
        }
        let asked = channels.into_iter().map(|channel| {
            let request = v1::QueryRequest { query: query.clone(), allow_stale: true, wait_ms: 0, lease: 0 };
            let mut client = namespace_client(channel);
            async move { tokio::time::timeout(STALE_TIMEOUT, client.query(request)).await.ok()?.ok() }
        });
        let mut asked: FuturesUnordered<_> = asked.collect();
        let mut newest: Option<v1::QueryResponse> = None;
        let mut until = None;
        loop {
            let next = asked.next();
            let answer = match until {
                None => next.await,
                Some(until) => tokio::time::timeout_at(until, next).await.unwrap_or(None),
            };
            let Some(answer) = answer else { break };
            let Some(answer) = answer.map(tonic::Response::into_inner) else { continue };
            until.get_or_insert_with(|| tokio::time::Instant::now() + STALE_GRACE);
            let rank = |answer: &v1::QueryResponse| (answer.position, std::cmp::Reverse(answer.age_ms));
            if newest.as_ref().is_none_or(|newest| rank(&answer) > rank(newest)) {
                newest = Some(answer);
            }
        }
        newest
    }
}
