//! Programs from outside on two mounts of a real cluster, while parts of it fail.
//!
//! - [`stage`]: the cluster, its mounts, what fails meanwhile, and the probes that find stalls.
//! - [`report`]: a row for each program, a table at the end.
//! - [`process`]: programs with a limit of time.
//! - [`posix`]: suites that test a filesystem: `cargo xtask posix`.
//! - [`programs`]: programs that people use: `cargo xtask programs`.

pub mod posix;
pub mod process;
pub mod programs;
pub mod report;
pub mod stage;
