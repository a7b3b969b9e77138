//! The namespace's leader: where it is, and calls to it.
//!
//! A client learns of a new leader from three sources: the stream of ring views, which names it within a
//! round of the token; nodes that it asks; and a refusal by a node that leads no more. A call that waits for
//! a replaced leader is sent to the new one at once. Commands carry ids, so a command that was applied before
//! is answered and not applied again.
//!
//! The client is in one of three states:
//!
//! | state | meaning | left by |
//! |---|---|---|
//! | well | the leader answered the last call | a broken or late call, or a refusal to lead: doubted |
//! | doubted | the client looks for a leader, and calls wait for it | a leader confirms itself: well; no hope of one: lost |
//! | lost | no leader answers, and calls fail at once | a leader confirms itself: well |
//!
//! There is hope of a leader for `dead_after`, and for up to [`MAJORITY_PATIENCE`] times that while a node
//! reports that its ring has a majority of the voters. Such a cluster has a leader that is only slow (its
//! disk), or elects one: that may take longer than `dead_after`.

use super::discovery::{ASK_TIMEOUT, LOOK_EVERY, LeaderAddress, describe};
use super::endpoint::{grpc_endpoint, is_broken, refusal};
use crate::error::Error;
use parking_lot::{Mutex, MutexGuard};
use rain_proto::v1;
use rain_types::{ClusterId, NodeId};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{Notify, watch};
use tonic::transport::Channel;
use tonic::{Code, Status};

/// Time without an answer after which a call starts a search for the leader. The call itself goes on.
const DOUBT_AFTER: Duration = Duration::from_millis(120);

/// Pause between two rounds of looking after a long time without a leader, so that a dead cluster is not
/// flooded.
const LOOK_RARELY: Duration = Duration::from_millis(300);

/// A round of looking ends after this once one node has answered: nodes that are cut off must not delay the
/// next round.
const ROUND: Duration = Duration::from_millis(60);

/// The longest wait for the leader of a cluster that has a majority, as a multiple of `dead_after`. It ends the
/// wait of a client that is cut off from the leader and not from other nodes.
const MAJORITY_PATIENCE: u32 = 4;

#[derive(Debug)]
struct Doubts {
    /// When the leader began to be doubted; none while it is well.
    since: Option<Instant>,
    /// Whether any node answered in the last round. It decides between `NoMajority` and `Unreachable`.
    some_answer: bool,
    /// When a node last reported that its ring has a majority of the voters.
    majority: Option<Instant>,
    /// Addresses of the registered nodes, asked besides the addresses the client was opened with.
    addresses: Vec<String>,
}

impl Doubts {
    /// Whether a leader may still be found, if it has been doubted since `since`.
    fn is_hopeful(&self, since: Instant, dead_after: Duration, now: Instant) -> bool {
        let doubted = now.duration_since(since);
        let majority = self.majority.is_some_and(|at| now.duration_since(at) < dead_after);
        doubted < if majority { dead_after * MAJORITY_PATIENCE } else { dead_after }
    }
}

/// The leader as this client knows it.
#[derive(Debug)]
pub(crate) struct Leader {
    cluster: ClusterId,
    dead_after: Duration,
    /// The addresses the client was opened with.
    given: Vec<String>,
    current: watch::Sender<Option<LeaderAddress>>,
    doubts: Mutex<Doubts>,
    doubted: Notify,
}

impl Leader {
    /// Starts from the leader that was found, or in state "lost" without one. [`Leader::look`] has to run
    /// beside it.
    pub(crate) fn new(
        cluster: ClusterId,
        given: Vec<String>,
        found: Option<LeaderAddress>,
        dead_after: Duration,
    ) -> Arc<Leader> {
        let leader = Arc::new(Leader {
            cluster,
            dead_after,
            given,
            doubts: Mutex::new(Doubts {
                since: None,
                some_answer: true,
                majority: None,
                addresses: Vec::new(),
            }),
            doubted: Notify::new(),
            current: watch::Sender::new(found),
        });
        if leader.current().is_none() {
            // Discovery has looked for it already, so calls need not wait again.
            leader.doubts().since = Some(Instant::now().checked_sub(dead_after).unwrap_or_else(Instant::now));
            leader.doubted.notify_one();
        }
        leader
    }

    fn doubts(&self) -> MutexGuard<'_, Doubts> {
        self.doubts.lock()
    }

    /// Replaces the registered nodes' addresses.
    pub(crate) fn set_addresses(&self, addresses: Vec<String>) {
        self.doubts().addresses = addresses;
    }

    /// All addresses at which a node may know the leader, without duplicates.
    pub(crate) fn addresses(&self) -> Vec<String> {
        let mut seen = BTreeSet::new();
        let mut all = self.given.clone();
        all.extend(self.doubts().addresses.iter().cloned());
        all.retain(|address| seen.insert(address.clone()));
        all
    }

    /// The leader known at this moment.
    pub(crate) fn current(&self) -> Option<LeaderAddress> {
        self.current.borrow().clone()
    }

    /// Takes in a node's statement of who leads. A term that is known, an older one, and another cluster's
    /// leader are ignored.
    pub(crate) fn learn(&self, leader: &v1::Leader) {
        // Only the leader itself can say at which of its addresses it is reached, so a known term keeps its
        // address.
        let newer = self.current().is_none_or(|known| leader.term > known.term);
        // A node of another cluster may run at an address that was ours.
        if newer && leader.cluster == self.cluster.to_string() {
            self.set_current(leader);
        }
    }

    fn set_current(&self, leader: &v1::Leader) {
        if leader.address.is_empty() {
            return;
        }
        let Ok(endpoint) = grpc_endpoint(&leader.address) else { return };
        tracing::info!(node = leader.node, address = %leader.address, term = leader.term, "the namespace's leader is known");
        self.current.send_replace(Some(LeaderAddress {
            term: leader.term,
            node: NodeId(leader.node),
            address: leader.address.clone(),
            channel: endpoint.connect_lazy(),
        }));
    }

    /// Ends the doubt: the leader answered a call or confirmed itself.
    fn end_doubt(&self) {
        let mut doubts = self.doubts();
        if let Some(since) = doubts.since.take() {
            doubts.some_answer = true;
            drop(doubts);
            if since.elapsed() > self.dead_after {
                tracing::info!("the namespace answers again, after {:?}", since.elapsed());
            }
        }
    }

    /// Begins the doubt, unless it has begun.
    fn doubt(&self) {
        self.doubts().since.get_or_insert_with(Instant::now);
        self.doubted.notify_one();
    }

    /// Fails with the error of a call when the client is in state "lost".
    pub(crate) fn check_available(&self, what: &str) -> Result<(), Error> {
        if self.lost_since().is_none() {
            return Ok(());
        }
        self.doubt();
        Err(self.failure(what, false))
    }

    /// When the doubt began, if the client is in state "lost".
    pub(crate) fn lost_since(&self) -> Option<Instant> {
        let doubts = self.doubts();
        doubts.since.filter(|since| !doubts.is_hopeful(*since, self.dead_after, Instant::now()))
    }

    fn failure(&self, what: &str, may_be_done: bool) -> Error {
        if self.doubts().some_answer {
            Error::NoMajority { what: what.into(), may_be_done }
        } else {
            Error::Unreachable { what: what.into(), missing: Vec::new() }
        }
    }

    /// Calls the leader, and its successor where the leader is replaced meanwhile.
    ///
    /// Fails when there is no hope of a leader any more, or after `slow_after` in all.
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
        self.check_available(what)?;
        let mut sent = false;
        loop {
            let leader = self.current();
            if let Some(leader) = &leader {
                sent = true;
                match self.call_once(leader, begun, slow_after, call(leader.channel.clone())).await {
                    Attempt::Done(result) => {
                        self.end_doubt();
                        return result.map_err(|status| refusal(what, &status));
                    }
                    Attempt::Moved => continue,
                    Attempt::TooLate => return Err(Error::TimedOut { what: what.into(), after: slow_after }),
                    Attempt::Failed => {}
                }
            }
            self.doubt();
            if self.lost_since().is_some() {
                tracing::warn!("{what}: no leader of the namespace answers");
                return Err(self.failure(what, sent));
            }
            let mut changes = self.current.subscribe();
            let term = leader.as_ref().map_or(0, |leader| leader.term);
            let moved = changes.wait_for(|now| now.as_ref().is_some_and(|now| now.term > term));
            // The same leader may answer again, so the wait is short.
            let _ = tokio::time::timeout(LOOK_EVERY, moved).await;
        }
    }

    async fn call_once<T>(
        &self,
        leader: &LeaderAddress,
        begun: Instant,
        slow_after: Duration,
        call: impl Future<Output = Result<tonic::Response<T>, Status>>,
    ) -> Attempt<T> {
        let mut changes = self.current.subscribe();
        let mut call = std::pin::pin!(call);
        let mut moved = std::pin::pin!(changes.wait_for(|now| {
            now.as_ref().is_some_and(|now| now.term > leader.term || now.address != leader.address)
        }));
        let mut wait = DOUBT_AFTER;
        loop {
            let left = slow_after.saturating_sub(begun.elapsed());
            tokio::select! {
                biased;
                answer = &mut call => return match answer {
                    Ok(response) => Attempt::Done(Ok(response.into_inner())),
                    Err(status) if is_no_leader(&status) || is_broken(&status) => Attempt::Failed,
                    Err(status) => Attempt::Done(Err(status)),
                },
                _ = &mut moved => return Attempt::Moved,
                () = tokio::time::sleep(wait.min(left)) => {
                    if begun.elapsed() >= slow_after {
                        return Attempt::TooLate;
                    }
                    self.doubt();
                    if self.lost_since().is_some() {
                        return Attempt::Failed;
                    }
                    wait = LOOK_EVERY;
                }
            }
        }
    }

    /// Looks for the leader whenever it is doubted. Never returns; the session aborts the task.
    pub(crate) async fn look(self: Arc<Self>) {
        loop {
            self.doubted.notified().await;
            loop {
                let Some(since) = self.doubts().since else { break };
                if self.round().await {
                    self.end_doubt();
                    break;
                }
                let long_since = since.elapsed() > self.dead_after * 4;
                tokio::time::sleep(if long_since { LOOK_RARELY } else { LOOK_EVERY }).await;
            }
        }
    }

    /// Asks all nodes who leads. Returns true once the leader itself has confirmed.
    async fn round(&self) -> bool {
        let addresses = self.addresses();
        let mut asked: futures::stream::FuturesUnordered<_> = addresses
            .iter()
            .map(|address| async move { (address, describe(address, ASK_TIMEOUT).await) })
            .collect();
        let mut some_answer = false;
        // The known leader, answering at another of its addresses.
        let mut elsewhere = None;
        let begun = tokio::time::Instant::now();
        loop {
            let wait = if some_answer { ROUND } else { ASK_TIMEOUT };
            let answer = tokio::time::timeout_at(begun + wait, futures::StreamExt::next(&mut asked)).await;
            let Ok(Some(answer)) = answer else { break };
            let (address, Ok((described, _))) = answer else { continue };
            if described.cluster != self.cluster.to_string() {
                continue;
            }
            some_answer = true;
            if described.majority {
                self.doubts().majority = Some(Instant::now());
            }
            let Some(mut leader) = described.leader else { continue };
            if leader.node == described.node {
                // The address at which it has just answered is certainly right.
                leader.address.clone_from(address);
            }
            self.learn(&leader);
            let Some(known) = self.current().filter(|_| leader.node == described.node) else { continue };
            if known.term == leader.term && known.address == leader.address {
                return true;
            }
            if known.term == leader.term {
                elsewhere = Some(leader);
            }
        }
        if let Some(leader) =
            elsewhere.filter(|leader| self.current().is_some_and(|now| now.term == leader.term))
        {
            self.set_current(&leader);
            return true;
        }
        self.doubts().some_answer = some_answer;
        false
    }
}

/// The outcome of sending a call to one leader.
enum Attempt<T> {
    /// The leader answered or refused.
    Done(Result<T, Status>),
    /// Another node leads, or the leader is at another address.
    Moved,
    /// The leader does not answer, or leads no more.
    Failed,
    /// `slow_after` has passed.
    TooLate,
}

/// Whether a status says that the node does not lead, or has no majority behind it.
fn is_no_leader(status: &Status) -> bool {
    matches!(status.code(), Code::FailedPrecondition | Code::Aborted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_with_a_majority_is_given_longer_to_have_a_leader() {
        let (ms, start) = (Duration::from_millis, Instant::now());
        let dead_after = ms(1000);
        let mut doubts = Doubts { since: None, some_answer: true, majority: None, addresses: Vec::new() };
        assert!(doubts.is_hopeful(start, dead_after, start + ms(999)));
        assert!(!doubts.is_hopeful(start, dead_after, start + ms(1000)), "nobody speaks of a majority");
        doubts.majority = Some(start + ms(500));
        assert!(doubts.is_hopeful(start, dead_after, start + ms(1499)));
        assert!(!doubts.is_hopeful(start, dead_after, start + ms(1500)), "the majority is gone since");
        doubts.majority = Some(start + ms(3900));
        assert!(doubts.is_hopeful(start, dead_after, start + ms(3999)));
        assert!(
            !doubts.is_hopeful(start, dead_after, start + ms(4000)),
            "this client cannot reach the leader"
        );
    }
}
