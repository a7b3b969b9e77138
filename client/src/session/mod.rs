//! The session.

pub(crate) mod openings;
