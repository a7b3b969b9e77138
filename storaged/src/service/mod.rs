//! The gRPC services of a node. Each file is one service: it checks what came over the wire, calls the part
//! that does the work, and puts the outcome into a status. No work is done here.

pub(crate) mod checkpoint;
pub(crate) mod files;
pub(crate) mod namespace;
pub(crate) mod node;
pub(crate) mod raft;
pub(crate) mod shares;
