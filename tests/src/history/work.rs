//! What clients of the library and programs on mounts have in common: their turns, names, and records of the log.

use rain_sim::model::Name;
use std::time::{Duration, Instant};

/// Names in the directory: few, so that all meet at each of them.
pub(super) const NAMES: u8 = 4;

/// Permission bits of a new file.
pub(super) const FILE_MODE: u16 = 0o644;

/// Pause between two operations. It leaves the machine time to make the faults.
pub(super) const PAUSE: Duration = Duration::from_millis(2);

/// Length of a phase in which all work, or one alone. It is long enough for one that works alone to be delegated
/// the directory.
const PHASE: Duration = Duration::from_millis(120);

/// Bytes of a record of the log. The first records are stored inline, later ones in blocks.
pub(super) const RECORD: usize = 100;

/// A name in the directory: one letter each.
pub(super) fn name(name: Name) -> [u8; 1] {
    [b'a' + name]
}

/// Whether it is the turn of this worker of so many. Phases in which all work alternate with phases in which one
/// works alone, and is delegated the directory.
pub(super) fn is_turn(start: Instant, number: u32, of: u32) -> bool {
    let phase = start.elapsed().as_millis() / PHASE.as_millis();
    phase.is_multiple_of(2) || phase / 2 % u128::from(of) == u128::from(number)
}

/// A record of the log with its number.
pub(super) fn record(number: u64) -> [u8; RECORD] {
    let mut bytes = [b'.'; RECORD];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    bytes
}

/// The numbers of the records in a log.
pub(super) fn records(log: &[u8]) -> Vec<u64> {
    let number = |record: &[u8]| record[..8].try_into().map_or(0, u64::from_le_bytes);
    log.chunks(RECORD).map(number).collect()
}
