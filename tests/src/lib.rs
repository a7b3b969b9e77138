//! What RAIN's tests share: real clusters of real processes, real mounts, and data whose every byte is known.
//!
//! - [`real`]: processes, mounts, kills. Everything started here is ended when its handle is dropped, also
//!   when a test fails.
//! - [`failover`]: what programs see while parts of a cluster fail.
//! - [`history`]: what several clients did at once while parts of a cluster fail, and whether it could have been done one after the other.
//! - [`needs`]: what a test needs of the machine; where it is missing the test is reported as ignored, with
//!   the reason in its name.
//! - [`data`]: bytes made from a seed, so that a file can be checked without a copy of it.

pub mod data;
pub mod failover;
pub mod history;
pub mod needs;
pub mod real;
pub mod source;
