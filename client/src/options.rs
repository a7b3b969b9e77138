//! The client's options, with their defaults and the reasons for them.

use std::time::Duration;

/// The largest block, bytes.
pub const BLOCK_BYTES_MAX: usize = 1 << 20;

/// Files up to this length live inline in the namespace, bytes.
pub const INLINE_BYTES_MAX: usize = 4096;

/// Which k of a block's n shares are read when the whole block is wanted. Nodes that do not answer come last
/// under every policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ReadPolicy {
    /// The least load index first; differences below 300 of 1000 do not count. Among equals the nearest
    /// first.
    #[default]
    LeastLoad,
    /// The node that is expected to answer first, in steps of a factor of four.
    Nearest,
    /// All shares in turn, so that all nodes serve alike.
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

/// The options of a client.
#[derive(Debug, Clone)]
pub struct Options {
    /// A label for people, shown in the list of sessions: "mount of /main at /mnt, pid 77".
    pub label: String,
    /// An operation that needs unreachable nodes fails after this. 1.2 s: long enough to restart a process,
    /// short enough not to look like a hang.
    pub dead_after: Duration,
    /// An operation on nodes that answer fails after this. 30 s, because a disk may stall for seconds.
    pub slow_after: Duration,
    /// Limit of written data that is not stored yet, over all files of a volume, bytes. Writers wait at the
    /// limit. 96 MiB.
    pub dirty_bytes_max: u64,
    /// Limit of the block cache, bytes. 64 MiB: the kernel's cache is the large one, this one bridges the
    /// pieces of a block.
    pub cache_bytes_max: u64,
    /// Blocks that the flush of one file stores at a time. 8.
    pub blocks_in_flight_max: usize,
    /// Which shares of a block are read.
    pub read_policy: ReadPolicy,
    /// Only observe: the client opens no session and needs no leader of the namespace.
    pub observe: bool,
    /// Write back: directories in which the client makes and removes much are delegated to it, and changes of
    /// names and small files in them are acknowledged early. Other clients see them at once; they are durable
    /// at the next flush. False: every call returns once its change is durable.
    pub write_back: bool,
    /// Keep leases: what this client has cached of names, attributes and data is right until another client's
    /// change is about to be acknowledged, and written data is kept back only while no other client looks.
    /// False: nothing tells this client of others' changes.
    pub caches: bool,
    /// First back-off before a recalled delegation is requested again. Each back-off is twice as long as the
    /// one before, up to 150 times this. 0.2 s.
    pub delegation_backoff: Duration,
    /// Without a majority, answer queries from the state of a node, which may be stale. False: such queries
    /// fail. True by default.
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
            caches: false,
            delegation_backoff: Duration::from_millis(200),
            allow_stale: true,
        }
    }
}
