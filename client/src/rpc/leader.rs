//! Who leads the namespace, and calls to it.
//!
//! A client hears of a new leader from the ring's word, which comes within a round of the token, from nodes that it asks, and from a
//! refusal. A call that waits for a leader that has been replaced is sent to the new one at once: commands carry ids, so that one which
//! was applied before is answered and not applied again.
//!
//! States, of the whole client:
//!
//! | state | meaning | leaves by |
//! |---|---|---|
//! | well | the last call was answered | a broken or late call, a refusal to lead: doubted |
//! | doubted | a leader is being looked for; calls wait for it | a leader confirms itself: well; `dead_after` without one: lost |
//! | lost | no leader answers; calls fail at once | a leader confirms itself: well |

use crate::error::Error;
use crate::rpc::node::{grpc_endpoint, is_broken};
use rain_proto::v1;
use rain_proto::v1::node_client::NodeClient;
use rain_types::{ClusterId, NodeId};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, watch};
use tonic::transport::Channel;
use tonic::{Code, Status};

/// A call that is not answered by then makes the leader doubted; the call goes on.
const DOUBT_AFTER: Duration = Duration::from_millis(120);

/// Between two rounds of looking for a leader.
const LOOK_EVERY: Duration = Duration::from_millis(30);

/// Where there has been none for long.
const LOOK_RARELY: Duration = Duration::from_millis(300);

/// A round of looking ends after this, where somebody has answered.
const ROUND: Duration = Duration::from_millis(60);

/// A node that does not say within this who leads is passed over.
const ASK_TIMEOUT: Duration = Duration::from_millis(400);

/// Where the leader is.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) term: u64,
    pub(crate) node: NodeId,
    pub(crate) address: String,
    pub(crate) channel: Channel,
}

#[derive(Debug)]
struct Doubts {
    /// Since when nothing has been answered.
    since: Option<Instant>,
    /// Whether some node answers, though none that leads.
    some_answer: bool,
    /// Nodes to ask, besides the addresses given at first.
    addresses: Vec<String>,
}

/// What the client knows of the leader.
#[derive(Debug)]
pub(crate) struct Leader {
    cluster: ClusterId,
    dead_after: Duration,
    given: Vec<String>,
    place: watch::Sender<Option<Place>>,
    doubts: Mutex<Doubts>,
    doubted: Notify,
}

impl Leader {
    pub(crate) fn new(
        cluster: ClusterId,
        given: Vec<String>,
        place: Option<Place>,
        dead_after: Duration,
    ) -> Arc<Leader> {
        let leader = Arc::new(Leader {
            cluster,
            dead_after,
            given,
            doubts: Mutex::new(Doubts { since: None, some_answer: true, addresses: Vec::new() }),
            doubted: Notify::new(),
            place: watch::Sender::new(place),
        });
        if leader.place().is_none() {
            // It was looked for already.
            leader.doubts().since = Some(Instant::now().checked_sub(dead_after).unwrap_or_else(Instant::now));
            leader.doubted.notify_one();
        }
        leader
    }

    fn doubts(&self) -> MutexGuard<'_, Doubts> {
        self.doubts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the nodes are now.
    pub(crate) fn set_addresses(&self, addresses: Vec<String>) {
        self.doubts().addresses = addresses;
    }

    /// All addresses at which somebody may know the leader.
    pub(crate) fn addresses(&self) -> Vec<String> {
        let mut seen = BTreeSet::new();
        let mut all = self.given.clone();
        all.extend(self.doubts().addresses.iter().cloned());
        all.retain(|address| seen.insert(address.clone()));
        all
    }

    pub(crate) fn place(&self) -> Option<Place> {
        self.place.borrow().clone()
    }

    /// A node says who leads.
    pub(crate) fn told(&self, leader: &v1::Leader) {
        // Where the one of a term is reached only it can say: it may have several addresses.
        let newer = self.place().is_none_or(|known| leader.term > known.term);
        // Another cluster's node may be where one of ours was.
        if newer && leader.cluster == self.cluster.to_string() {
            self.set_place(leader);
        }
    }

    fn set_place(&self, leader: &v1::Leader) {
        if leader.address.is_empty() {
            return;
        }
        let Ok(endpoint) = grpc_endpoint(&leader.address) else { return };
        tracing::info!(node = leader.node, address = %leader.address, term = leader.term, "the namespace's leader");
        self.place.send_replace(Some(Place {
            term: leader.term,
            node: NodeId(leader.node),
            address: leader.address.clone(),
            channel: endpoint.connect_lazy(),
        }));
    }

    /// A call was answered, or the leader has confirmed itself.
    fn is_well(&self) {
        let mut doubts = self.doubts();
        if let Some(since) = doubts.since.take() {
            doubts.some_answer = true;
            drop(doubts);
            if since.elapsed() > self.dead_after {
                tracing::info!("the namespace answers again, after {:?}", since.elapsed());
            }
        }
    }

    /// Something is wrong; since when.
    fn doubt(&self) -> Instant {
        let since = *self.doubts().since.get_or_insert_with(Instant::now);
        self.doubted.notify_one();
        since
    }

    /// Whether a leader is known or at least being looked for; else what a call would say.
    pub(crate) fn is_there(&self, what: &str) -> Result<(), Error> {
        if self.lost_since().is_none() {
            return Ok(());
        }
        self.doubt();
        Err(self.failure(what, false))
    }

    /// Since when no leader has answered, where that is longer than calls wait.
    pub(crate) fn lost_since(&self) -> Option<Instant> {
        self.doubts().since.filter(|since| since.elapsed() >= self.dead_after)
    }

    fn failure(&self, what: &str, may_be_done: bool) -> Error {
        if self.doubts().some_answer {
            Error::NoMajority { what: what.into(), may_be_done }
        } else {
            Error::Unreachable { what: what.into(), missing: Vec::new() }
        }
    }

    /// Calls the leader, whoever that is by then; gives up when none has answered for `dead_after`, or after `slow_after` in all.
    pub(crate) async fn call<T, F>(
        &self,
        what: &str,
        slow_after: Duration,
        call: impl Fn(Channel) -> F,
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        let begun = Instant::now();
        self.is_there(what)?;
        let mut sent = false;
        loop {
            let place = self.place();
            if let Some(place) = &place {
                sent = true;
                match self.call_once(place, begun, slow_after, call(place.channel.clone())).await {
                    Attempt::Done(result) => {
                        self.is_well();
                        return result.map_err(|status| refused_call(what, &status));
                    }
                    Attempt::Moved => continue,
                    Attempt::TooLate => return Err(Error::TimedOut { what: what.into(), after: slow_after }),
                    Attempt::Failed => {}
                }
            }
            let since = self.doubt();
            if since.elapsed() >= self.dead_after {
                tracing::warn!("{what}: no leader of the namespace answers");
                return Err(self.failure(what, sent));
            }
            let mut changes = self.place.subscribe();
            let term = place.as_ref().map_or(0, |place| place.term);
            let moved = changes.wait_for(|now| now.as_ref().is_some_and(|now| now.term > term));
            // The same one may be well again.
            let _ = tokio::time::timeout(LOOK_EVERY, moved).await;
        }
    }

    async fn call_once<T>(
        &self,
        place: &Place,
        begun: Instant,
        slow_after: Duration,
        call: impl Future<Output = Result<tonic::Response<T>, Status>>,
    ) -> Attempt<T> {
        let mut changes = self.place.subscribe();
        let mut call = std::pin::pin!(call);
        let mut moved = std::pin::pin!(changes.wait_for(|now| {
            now.as_ref().is_some_and(|now| now.term > place.term || now.address != place.address)
        }));
        let mut wait = DOUBT_AFTER;
        loop {
            let left = slow_after.saturating_sub(begun.elapsed());
            tokio::select! {
                biased;
                answer = &mut call => return match answer {
                    Ok(response) => Attempt::Done(Ok(response.into_inner())),
                    Err(status) if leads_not(&status) || is_broken(&status) => Attempt::Failed,
                    Err(status) => Attempt::Done(Err(status)),
                },
                _ = &mut moved => return Attempt::Moved,
                () = tokio::time::sleep(wait.min(left)) => {
                    if begun.elapsed() >= slow_after {
                        return Attempt::TooLate;
                    }
                    if self.doubt().elapsed() >= self.dead_after {
                        return Attempt::Failed;
                    }
                    wait = LOOK_EVERY;
                }
            }
        }
    }

    /// Looks for the leader whenever it is doubted. Runs as long as the client.
    pub(crate) async fn look(self: Arc<Self>) {
        loop {
            self.doubted.notified().await;
            loop {
                let Some(since) = self.doubts().since else { break };
                if self.round().await {
                    self.is_well();
                    break;
                }
                let long_since = since.elapsed() > self.dead_after * 4;
                tokio::time::sleep(if long_since { LOOK_RARELY } else { LOOK_EVERY }).await;
            }
        }
    }

    /// Asks all nodes who leads; true when the one that does has said so itself.
    async fn round(&self) -> bool {
        let addresses = self.addresses();
        let mut asked: futures::stream::FuturesUnordered<_> = addresses
            .iter()
            .map(|address| async move { (address, describe(address, ASK_TIMEOUT).await) })
            .collect();
        let mut some_answer = false;
        // The leader that is known, at another address.
        let mut elsewhere = None;
        let begun = tokio::time::Instant::now();
        loop {
            // Whoever is cut off does not hold the next round up: a leader may have been found meanwhile.
            let wait = if some_answer { ROUND } else { ASK_TIMEOUT };
            let answer = tokio::time::timeout_at(begun + wait, futures::StreamExt::next(&mut asked)).await;
            let Ok(Some(answer)) = answer else { break };
            let (address, Ok((described, _))) = answer else { continue };
            if described.cluster != self.cluster.to_string() {
                continue;
            }
            some_answer = true;
            let Some(mut leader) = described.leader else { continue };
            if leader.node == described.node {
                // Where it has just answered.
                leader.address.clone_from(address);
            }
            self.told(&leader);
            let Some(place) = self.place().filter(|_| leader.node == described.node) else { continue };
            if place.term == leader.term && place.address == leader.address {
                return true;
            }
            if place.term == leader.term {
                elsewhere = Some(leader);
            }
        }
        if let Some(leader) =
            elsewhere.filter(|leader| self.place().is_some_and(|now| now.term == leader.term))
        {
            self.set_place(&leader);
            return true;
        }
        self.doubts().some_answer = some_answer;
        false
    }
}

enum Attempt<T> {
    Done(Result<T, Status>),
    /// There is another leader.
    Moved,
    /// The leader does not answer, or leads no more.
    Failed,
    TooLate,
}

/// Whether a status tells that the node does not lead, or has no majority behind it.
fn leads_not(status: &Status) -> bool {
    matches!(status.code(), Code::FailedPrecondition | Code::Aborted)
}

pub(crate) fn refused_call(what: &str, status: &Status) -> Error {
    match status.code() {
        Code::ResourceExhausted => Error::NoSpace { nodes: Vec::new() },
        Code::DeadlineExceeded => Error::TimedOut { what: what.into(), after: Duration::ZERO },
        code => Error::Protocol(format!("{what}: {code:?}: {}", status.message())),
    }
}

/// Finds a cluster and its leader from any of these addresses.
pub(crate) async fn find(
    addresses: &[String],
    within: Duration,
) -> Result<(v1::DescribeResponse, Place), Error> {
    let begun = Instant::now();
    let mut why = String::from("the list is empty");
    while !addresses.is_empty() {
        let mut asked: futures::stream::FuturesUnordered<_> =
            addresses.iter().map(|address| ask_for_leader(address)).collect();
        while let Some(answer) = futures::StreamExt::next(&mut asked).await {
            match answer {
                Ok(found) => return Ok(found),
                Err(error) => why = error,
            }
        }
        if begun.elapsed() >= within {
            break;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Err(Error::NoCluster { addresses: addresses.join(","), why })
}

/// As [`find`]; where none leads, any node of the cluster will do.
pub(crate) async fn find_any(
    addresses: &[String],
    within: Duration,
) -> Result<(v1::DescribeResponse, Option<Place>), Error> {
    let error = match find(addresses, within).await {
        Ok((described, place)) => return Ok((described, Some(place))),
        Err(error) => error,
    };
    let asked = addresses.iter().map(|address| describe(address, ASK_TIMEOUT));
    let answers = futures::future::join_all(asked).await;
    let of_cluster = answers.into_iter().flatten().find(|(described, _)| !described.cluster.is_empty());
    of_cluster.map(|(described, _)| (described, None)).ok_or(error)
}

async fn ask_for_leader(address: &str) -> Result<(v1::DescribeResponse, Place), String> {
    let (described, channel) = describe(address, ASK_TIMEOUT * 2).await?;
    let leader = described.leader.clone();
    let leader = leader.ok_or_else(|| format!("{address} does not know yet who leads the namespace"))?;
    let (term, node) = (leader.term, NodeId(leader.node));
    if leader.node == described.node {
        return Ok((described, Place { term, node, address: address.to_owned(), channel }));
    }
    let (described, channel) = describe(&leader.address, ASK_TIMEOUT * 2).await?;
    match described.leader {
        Some(ref itself) if itself.node == described.node => {
            Ok((described, Place { term, node, address: leader.address, channel }))
        }
        _ => Err(format!("{} does not lead the namespace, as {address} says", leader.address)),
    }
}

pub(crate) async fn describe(
    address: &str,
    within: Duration,
) -> Result<(v1::DescribeResponse, Channel), String> {
    let endpoint = grpc_endpoint(address).map_err(|error| format!("{address}: {error}"))?;
    let channel = endpoint.connect_lazy();
    let mut client = NodeClient::new(channel.clone());
    match tokio::time::timeout(within, client.describe(v1::DescribeRequest {})).await {
        Ok(Ok(described)) => Ok((described.into_inner(), channel)),
        Ok(Err(status)) => Err(format!("{address}: {}", status.message())),
        Err(_) => Err(format!("{address}: no answer within {within:?}")),
    }
}
