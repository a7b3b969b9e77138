//! Histories of several clients that work on one volume of a real cluster while parts of it fail.
//!
//! The nodes are real processes in network namespaces. Four clients of the library, each with a session of
//! its own, work on one directory of four names, one file with a value and with permission bits, one log to
//! which all append, and one lock. They cache what their leases allow. `rain_sim::history` checks that each
//! history is linearizable.
//!
//! [`MountHistory`] does the same with programs on three mounts, by system calls. The kernel's caches are part of
//! what is checked then, and a mount dies and comes back. The programs have more files: of values in places, which
//! they write past the kernel's pages, through them, or through a shared map, and cut; one whose links come and go;
//! one that a lock guards.
//!
//! A call that has not returned may be seen on its own mount before others see it (docs/consistency.md). So what is
//! written through the kernel's pages or a map, and links, are used by one program of each mount only.
//!
//! The seed chooses the operations and the faults. The machine decides their timing, so a seed does not give
//! the same history twice.

mod client;
mod cluster;
mod faults;
mod map;
mod mounts;
mod program;
mod report;
mod sheets;
mod work;

pub use cluster::HistoryCluster;
pub use mounts::MountHistory;
pub use report::{HistoryOptions, HistoryReport, expect_linearizable};
