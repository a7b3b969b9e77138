//! What the puts and deletes of a leader's workers go by: the term of the leader, and the placement that the
//! work was decided by.
//!
//! Invariant: after the end of a term, nothing more is sent under it. A term ends when its owner says so, and
//! when a node answers that it has obeyed a later one.

use rain_proto::{convert, v1};
use rain_types::LeaderTerm;
use std::sync::Arc;
use tokio::sync::watch;
use tonic::{Code, Status};

/// A leader's term, as its workers act under it. Share it by `Arc`: it ends for all of them at once.
#[derive(Debug)]
pub struct WorkTerm {
    leader: LeaderTerm,
    over: watch::Sender<bool>,
}

impl WorkTerm {
    /// Begins the work under a leader's term.
    pub fn new(leader: LeaderTerm) -> Arc<WorkTerm> {
        Arc::new(WorkTerm { leader, over: watch::Sender::new(false) })
    }

    /// The leader's term.
    pub fn leader(&self) -> LeaderTerm {
        self.leader
    }

    /// Whether the term has ended.
    pub fn is_over(&self) -> bool {
        *self.over.borrow()
    }

    /// Ends the term, for good.
    pub fn end(&self) {
        if !self.over.send_replace(true) {
            tracing::info!(term = %self.leader, "the work under this leader's term has ended");
        }
    }

    /// Waits for the end of the term.
    pub async fn ended(&self) {
        // The sender is this term's own, so the wait ends only by the value.
        let _ = self.over.subscribe().wait_for(|over| *over).await;
    }
}

/// A piece of work under a leader's term.
#[derive(Debug, Clone)]
pub struct WorkOrder {
    /// The term.
    pub term: Arc<WorkTerm>,
    /// Version of the cluster's layout (`Totals::places`). For a delete: read before the records which say that
    /// the shares are not needed. For a put: read after the placement group which the share is for.
    pub places: u64,
}

impl WorkOrder {
    /// The mandate for a request; none once the term has ended.
    pub(crate) fn mandate(&self) -> Option<v1::Mandate> {
        let mandate = convert::Mandate { term: self.term.leader(), places: self.places };
        (!self.term.is_over()).then(|| mandate.into())
    }

    /// Takes in a node's refusal: a node that has obeyed a later term ends this one.
    pub(crate) fn refused(&self, status: &Status) {
        if status.code() == Code::PermissionDenied {
            tracing::warn!(term = %self.term.leader(), why = status.message(), "a node refuses the work of this node's workers");
            self.term.end();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rain_types::NodeId;

    #[tokio::test]
    async fn a_term_ends_for_all_by_the_answer_of_a_node_and_never_begins_again() {
        let term = WorkTerm::new(LeaderTerm { term: 3, node: NodeId(2) });
        let order = WorkOrder { term: term.clone(), places: 7 };
        assert_eq!(order.mandate(), Some(v1::Mandate { term: 3, leader: 2, places: 7 }));
        order.refused(&Status::aborted("an older placement"));
        assert!(!term.is_over());
        order.refused(&Status::permission_denied("a later term"));
        order.refused(&Status::aborted("an older placement"));
        term.ended().await;
        assert!(term.is_over() && order.mandate().is_none());
    }
}
