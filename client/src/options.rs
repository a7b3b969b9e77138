//! What a user of the client may set, with the defaults and their reasons.

use std::time::Duration;

/// Which k of a block's n shares are read, when all of its data is wanted. Nodes that do not answer come last in each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ReadPolicy {
    /// The least load index first (less than 300 of 1000 between two is no difference); among equals the nearest.
    #[default]
    LeastLoad,
    /// What is expected to answer first, in steps of a factor of four.
    Nearest,
    /// Every share in turn, so that all nodes serve alike.
    RoundRobin,
}

impl std::str::FromStr for ReadPolicy {
    type Err = String;

    fn from_str(text: &str) -> Result<ReadPolicy, String> {
        match text {
            "least-load" => Ok(ReadPolicy::LeastLoad),
            "nearest" => Ok(ReadPolicy::Nearest),
            "round-robin" => Ok(ReadPolicy::RoundRobin),
            _ => Err(format!("{text:?} is none of least-load, nearest, round-robin")),
        }
    }
}

/// Bounds of a client.
#[derive(Debug, Clone)]
pub struct Options {
    /// For people, shown among the sessions: "mount of /main at /mnt, pid 77".
    pub label: String,
    /// An operation that needs unreachable nodes gives up after this. Long enough for a process to be
    /// started again, short enough that nobody thinks of a hang. 1.2 s.
    pub dead_after: Duration,
    /// An operation on nodes that answer gives up after this: a disk may stall for seconds. 30 s.
    pub slow_after: Duration,
    /// Data written and not yet stored, over all files, bytes. Writers wait at this. 96 MiB.
    pub dirty_bytes_max: u64,
    /// Blocks kept after reading, bytes. The kernel's cache is the large one; this one only bridges
    /// the pieces of one block. 64 MiB.
    pub cache_bytes_max: u64,
    /// Blocks one file's flush stores at a time. 8.
    pub blocks_in_flight_max: usize,
    /// Which shares are read.
    pub read_policy: ReadPolicy,
    /// It only looks: no session is opened, and no leader of the namespace is needed.
    pub observe: bool,
    /// Directories in which it makes and removes much are held, and names and small files in them are told to the namespace behind the caller:
    /// durable at the next flush, seen by others at once. False: every call returns when it is durable.
    pub write_back: bool,
    /// A directory that another client wanted back is not held again so soon; twice as long each time, up to 150 times as long. 0.2 s.
    pub delegation_backoff: Duration,
    /// Without a majority, what a node has is an answer, which may be old; else there is none. True.
    pub allow_stale: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            label: format!("pid {}", std::process::id()),
            dead_after: Duration::from_millis(1200),
            slow_after: Duration::from_secs(30),
            dirty_bytes_max: 96 << 20,
            cache_bytes_max: 64 << 20,
            blocks_in_flight_max: 8,
            read_policy: ReadPolicy::default(),
            observe: false,
            write_back: false,
            delegation_backoff: Duration::from_millis(200),
            allow_stale: true,
        }
    }
}
