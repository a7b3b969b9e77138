//! The client's errors. Each variant is one sentence for people, with the values and what to do. `rain-fuse`
//! maps the variants to errno in one table.

use rain_namespace::error::NsError;
use rain_types::NodeId;
use std::time::Duration;
use thiserror::Error;

/// Why an operation of the client failed.
#[derive(Debug, Clone, Error)]
pub enum Error {
    /// The namespace refused the request.
    #[error("{0}")]
    Refused(NsError),
    /// Too few nodes answer.
    #[error(
        "{what}: too few nodes answer; missing {}. Start them again: everything goes on by itself",
        list(missing)
    )]
    Unreachable {
        /// What was being done.
        what: String,
        /// Nodes that were needed and did not answer.
        missing: Vec<NodeId>,
    },
    /// Nodes answer, but no majority of the namespace's voters.
    #[error(
        "{what}: no majority of the nodes that keep the namespace answers{}. Files can be read; nothing is changed until more nodes \
         are back, and then everything goes on by itself",
        if *may_be_done { ", and it may or may not have been done" } else { "" }
    )]
    NoMajority {
        /// What was being done.
        what: String,
        /// The request was sent before that was known, so it may have been applied.
        may_be_done: bool,
    },
    /// Too many nodes have no space left.
    #[error("no space left on nodes {}: delete something or add space there", list(nodes))]
    NoSpace {
        /// Nodes that refused for want of space.
        nodes: Vec<NodeId>,
    },
    /// Fewer than k good shares are left.
    #[error("{what}: too few undamaged shares are left")]
    Damaged {
        /// The block.
        what: String,
    },
    /// The nodes answer, but not in time.
    #[error("{what} was not done within {after:?}; the nodes answer but are too slow")]
    TimedOut {
        /// What was being done.
        what: String,
        /// The deadline that passed.
        after: Duration,
    },
    /// The locks on a file are lost: their session has ended, or may have ended.
    #[error(
        "the locks on this file are lost: this client was away for too long, and others may have had them since. Close the file, open it \
         and lock it again"
    )]
    LockLost,
    /// No data (or hole) at or after the offset.
    #[error("no data at or after this offset")]
    NoData,
    /// No node of the list answers, or none knows who leads the namespace.
    #[error("no cluster at {addresses}: {why}")]
    NoCluster {
        /// The addresses that were asked.
        addresses: String,
        /// The last answer or failure.
        why: String,
    },
    /// A node belongs to another cluster.
    #[error("{address} belongs to cluster {found}, not to {expected}: check the address list")]
    Foreign {
        /// The node's address.
        address: String,
        /// The node's cluster.
        found: String,
        /// This client's cluster.
        expected: String,
    },
    /// A peer sent a message that this client does not understand: another version, or a fault.
    #[error("not understood: {0}; are client and nodes of the same version?")]
    Protocol(String),
}

impl Error {
    /// A peer's answer is not of the kind that was asked for. `wanted` names that kind: "an inode".
    pub(crate) fn unexpected(wanted: &str) -> Error {
        Error::Protocol(format!("the answer is not {wanted}"))
    }
}

impl From<NsError> for Error {
    fn from(error: NsError) -> Error {
        Error::Refused(error)
    }
}

fn list(nodes: &[NodeId]) -> String {
    if nodes.is_empty() {
        return "all nodes that keep the namespace".into();
    }
    nodes.iter().map(|node| format!("node {node}")).collect::<Vec<_>>().join(", ")
}
