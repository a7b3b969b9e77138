//! Library of RAIN's tests.
//!
//! - [`real`]: clusters of real processes, real mounts, kills. Dropping a handle ends everything that it
//!   started, also when a test fails.
//! - [`failover`]: stalls and errors that programs see while parts of a cluster fail.
//! - [`history`]: histories of several clients while parts of a cluster fail, and the check that they are
//!   linearizable.
//! - [`needs`]: requirements of a test on the machine. Where one is not met, the test is reported as ignored,
//!   with the reason in its name.
//! - [`cases`]: the scripts of `tests/cases`, programs from outside that must end well.
//! - [`outside`]: programs from outside on two mounts, while parts of a cluster fail.
//! - [`data`]: test data computed from a seed, so that a file can be checked without a copy of it.
//! - [`source`]: the files of this repository, for the tests of its order.

pub mod cases;
pub mod data;
pub mod failover;
pub mod history;
pub mod needs;
pub mod outside;
pub mod real;
pub mod source;
