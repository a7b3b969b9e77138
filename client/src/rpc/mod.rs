//! Nodes and their connections.

pub(crate) mod hedge;
pub(crate) mod leader;
pub(crate) mod node;
pub(crate) mod view;
