//! The lowest rung: nodes, the connections to them, the namespace's leader, and the ring's view.
//!
//! - [`Nodes`](nodes::Nodes) registers every node of the cluster; [`node`] is one of them with its
//!   connections and health.
//! - [`leader`] follows the namespace's leader and calls it; [`discovery`] finds a cluster by addresses.
//! - [`view`] watches the token ring's view on two nodes; [`hedge`] says when an answer is late.
//! - [`direct`] calls one node, with a short deadline and no retry; [`endpoint`] has the settings of a
//!   connection.
//!
//! This rung knows nothing of sessions, blocks, volumes or files.

pub(crate) mod direct;
pub(crate) mod discovery;
pub(crate) mod endpoint;
pub(crate) mod hedge;
pub(crate) mod leader;
pub(crate) mod node;
pub(crate) mod nodes;
pub(crate) mod view;
