//! Why an operation of the client failed. Each variant is one sentence for people, with the values and what
//! to do; `rain-fuse` maps them to errno in one table.

use rain_namespace::error::NsError;
use rain_types::NodeId;
use std::time::Duration;
use thiserror::Error;

/// A failure.
#[derive(Debug, Clone, Error)]
pub enum Error {
    /// The namespace says no.
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
    /// Nodes answer, but no majority of those that keep the namespace.
    #[error(
        "{what}: no majority of the nodes that keep the namespace answers{}. Files can be read; nothing is changed until more nodes \
         are back, and then everything goes on by itself",
        if *may_be_done { ", and it may or may not have been done" } else { "" }
    )]
    NoMajority {
        /// What was being done.
        what: String,
        /// It was sent before that was known.
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
        /// Which block.
        what: String,
    },
    /// The nodes answer, but not in time.
    #[error("{what} was not done within {after:?}; the nodes answer but are too slow")]
    TimedOut {
        /// What was being done.
        what: String,
        /// How long it was waited for.
        after: Duration,
    },
    /// The locks on a file are lost: the session that had them has ended, or may have.
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
        /// Where it was looked for.
        addresses: String,
        /// The last thing heard.
        why: String,
    },
    /// A node belongs to another cluster.
    #[error("{address} belongs to cluster {found}, not to {expected}: check the address list")]
    Foreign {
        /// Which node.
        address: String,
        /// Its cluster.
        found: String,
        /// Ours.
        expected: String,
    },
    /// A peer sent what makes no sense: another version, or a fault.
    #[error("not understood: {0}; are client and nodes of the same version?")]
    Protocol(String),
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
