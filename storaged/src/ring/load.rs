//! The load index of a node, 0 (idle) to 1000 (full). The token carries it to all nodes.
//!
//! `load = 1000 * (c * cpu + q * queue + d * disk) / (c + q + d)`, with
//! - `cpu`: the busy part of the machine's processor time of the last second,
//! - `queue`: the requests for shares under way, as a part of 64,
//! - `disk`: the used part of the node's space,
//!
//! and the weights of `--load-weights` (by default 4, 4, 2). It follows the load index of the HAS
//! architecture (Haddad 2006, 3.22), which counts processor and memory. For shares the queue says more than
//! memory.

use std::time::Duration;

/// Requests under way that count as a full queue.
const QUEUE_FULL: u64 = 64;

/// The weights of the parts of the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoadWeights {
    /// Weight of the processor.
    pub cpu: u32,
    /// Weight of the queue of requests.
    pub queue: u32,
    /// Weight of the disk.
    pub disk: u32,
}

impl Default for LoadWeights {
    fn default() -> LoadWeights {
        LoadWeights { cpu: 4, queue: 4, disk: 2 }
    }
}

impl std::str::FromStr for LoadWeights {
    type Err = String;

    fn from_str(text: &str) -> Result<LoadWeights, String> {
        let wrong = || format!("{text:?} is not CPU,QUEUE,DISK, as 4,4,2 (0 to 100, not all 0)");
        let parts: Vec<u32> =
            text.split(',').map(|part| part.trim().parse().map_err(|_| wrong())).collect::<Result<_, _>>()?;
        match parts[..] {
            [cpu, queue, disk] if cpu + queue + disk > 0 && [cpu, queue, disk].iter().all(|w| *w <= 100) => {
                Ok(LoadWeights { cpu, queue, disk })
            }
            _ => Err(wrong()),
        }
    }
}

/// Computes the index. `cpu` is in thousandths; `used` and `free` are bytes.
pub(crate) fn index(weights: LoadWeights, cpu: u64, under_way: u64, used: u64, free: u64) -> u16 {
    let queue = under_way.min(QUEUE_FULL) * 1000 / QUEUE_FULL;
    let disk = (u128::from(used) * 1000 / u128::from((used + free).max(1))) as u64;
    let sum = u64::from(weights.cpu) * cpu.min(1000)
        + u64::from(weights.queue) * queue
        + u64::from(weights.disk) * disk;
    (sum / u64::from(weights.cpu + weights.queue + weights.disk)) as u16
}

/// The machine's processor time at the last sample.
#[derive(Debug, Default)]
pub(crate) struct Cpu {
    busy: u64,
    all: u64,
}

impl Cpu {
    /// Returns the busy part since the last sample, in thousandths; 0 where the system does not say.
    pub(crate) fn sample(&mut self) -> u64 {
        let Some((busy, all)) = std::fs::read_to_string("/proc/stat").ok().and_then(|text| parse(&text))
        else {
            return 0;
        };
        let part = (busy - self.busy.min(busy)) * 1000 / (all - self.all.min(all)).max(1);
        (self.busy, self.all) = (busy, all);
        part
    }
}

fn parse(stat: &str) -> Option<(u64, u64)> {
    let line = stat.lines().next()?.strip_prefix("cpu ")?;
    let ticks: Vec<u64> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let all: u64 = ticks.iter().take(8).sum();
    let idle = ticks.get(3)? + ticks.get(4)?;
    Some((all - idle, all))
}

/// Interval of the samples.
pub(crate) const EVERY: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_index_is_the_weighted_mean_of_its_parts() {
        let weights = LoadWeights::default();
        assert_eq!(index(weights, 0, 0, 0, 100), 0);
        assert_eq!(index(weights, 1000, 1000, 100, 0), 1000);
        assert_eq!(index(weights, 500, 32, 50, 50), 500);
        assert_eq!(index(LoadWeights { cpu: 0, queue: 1, disk: 0 }, 1000, 16, 1, 1), 250);
        assert_eq!("1, 2,3".parse(), Ok(LoadWeights { cpu: 1, queue: 2, disk: 3 }));
        for wrong in ["", "1,2", "0,0,0", "1,2,x", "1,2,3,4", "101,1,1"] {
            assert!(wrong.parse::<LoadWeights>().is_err(), "{wrong}");
        }
        assert_eq!(parse("cpu  10 0 10 70 10 0 0 0 0 0\ncpu0 1"), Some((20, 100)));
    }
}
