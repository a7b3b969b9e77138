//! Retrieve: any k of n shares. Bytes are read from the shares that hold them. A share that is late, gone or
//! damaged is replaced by decoding the same range from other shares.
//!
//! A range that is cut at whole stripes is a code word of its own (`rain_codec::Code::stripe_bytes`). So a
//! small read of a lost share costs k small reads, not k shares.

use super::blocks::Blocks;
use super::location::BlockLocation;
use super::share::ShareFault;
use crate::error::Error;
use crate::options::ReadPolicy;
use crate::rpc::hedge;
use crate::rpc::node::Node;
use crate::stats::count;
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use rain_codec::{Code, Piece, ShareSet};
use rain_types::NodeId;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

/// Pause between two attempts while too few nodes answer.
const RETRY_EVERY: Duration = Duration::from_millis(60);

impl Blocks {
    /// The block, if the cache has it.
    pub(crate) fn cached(&self, location: &BlockLocation) -> Option<Bytes> {
        self.cache.get(location.id)
    }

    /// Whether the block is in the cache or being read.
    pub(crate) fn is_cached_or_coming(&self, location: &BlockLocation) -> bool {
        self.cache.contains(location.id)
    }

    /// Reads a whole block into the cache.
    pub(crate) async fn read_block(&self, location: &BlockLocation) -> Result<Bytes, Error> {
        let cell = self.cache.cell(location.id);
        let read =
            cell.get_or_try_init(|| self.read_range(location, 0..location.len as usize)).await.cloned();
        match &read {
            Ok(_) => self.cache.settle(location.id),
            Err(_) => self.cache.forget_failed(location.id),
        }
        read
    }

    /// Reads a range of a block.
    pub(crate) async fn read_range(
        &self,
        location: &BlockLocation,
        range: Range<usize>,
    ) -> Result<Bytes, Error> {
        let code = self.code(location.code)?;
        let len = location.len as usize;
        let pieces = code.locate(len, range.clone());
        if pieces.iter().map(|piece| piece.len).sum::<usize>() != range.len() {
            return Err(Error::Protocol(format!(
                "bytes {range:?} do not lie in block {} of {len}",
                location.id
            )));
        }
        let share = code.share_bytes(len);
        let groups = group_pieces(&pieces, share, code.stripe_bytes());
        let gathers = groups
            .iter()
            .map(|(stretch, wanted)| self.gather(location, code.as_ref(), stretch.clone(), *wanted, true));
        let gathered = futures::future::try_join_all(gathers).await?;
        let find = |piece: &Piece| -> Bytes {
            let at = groups.iter().position(|(stretch, wanted)| {
                wanted.contains(piece.share)
                    && stretch.start <= piece.share_offset
                    && piece.share_offset + piece.len <= stretch.end
            });
            let at = at.expect("every piece was put into a group");
            let stretch = &groups[at].0;
            gathered[at][&piece.share]
                .slice(piece.share_offset - stretch.start..piece.share_offset - stretch.start + piece.len)
        };
        if let [piece] = pieces.as_slice() {
            return Ok(find(piece));
        }
        let mut whole = BytesMut::with_capacity(range.len());
        for piece in &pieces {
            whole.extend_from_slice(&find(piece));
        }
        Ok(whole.freeze())
    }

    /// Gets one range of the wanted shares, by reading or by decoding. The range is whole stripes. With
    /// `by_policy`, and where k shares are wanted, the read policy may choose any k shares to read.
    ///
    /// Fails with `Unreachable` when too few nodes answer until the patience runs out, and with `Damaged`
    /// when fewer than k good shares exist.
    pub(super) async fn gather(
        &self,
        location: &BlockLocation,
        code: &dyn Code,
        range: Range<usize>,
        wanted: ShareSet,
        by_policy: bool,
    ) -> Result<BTreeMap<usize, Bytes>, Error> {
        let begun = Instant::now();
        loop {
            let lost = match self.gather_once(location, code, range.clone(), wanted, by_policy).await {
                Ok(shares) => return Ok(shares),
                Err(lost) => lost,
            };
            let away: Vec<NodeId> = lost
                .iter()
                .filter(|(_, fault)| matches!(fault, ShareFault::Unreachable))
                .map(|(node, _)| *node)
                .collect();
            if lost.len() - away.len() > code.m() {
                return Err(Error::Damaged { what: format!("block {}", location.id) });
            }
            if begun.elapsed() >= self.patience() {
                self.begin_outage(&away);
                tracing::error!(block = %location.id, missing = ?away, "too few nodes answer");
                return Err(Error::Unreachable {
                    what: format!("reading block {}", location.id),
                    missing: away,
                });
            }
            tokio::time::sleep(RETRY_EVERY).await;
        }
    }

    /// One attempt. The error lists every share that could not be read.
    async fn gather_once(
        &self,
        location: &BlockLocation,
        code: &dyn Code,
        range: Range<usize>,
        wanted: ShareSet,
        by_policy: bool,
    ) -> Result<BTreeMap<usize, Bytes>, Vec<(NodeId, ShareFault)>> {
        let known = self.nodes.map();
        let node_of = |index: usize| location.nodes.get(index).and_then(|id| known.get(id)).cloned();
        let mut got: BTreeMap<usize, Bytes> = BTreeMap::new();
        let mut lost: Vec<(NodeId, ShareFault)> = Vec::new();
        let mut asked = ShareSet::EMPTY;
        let mut late = 0;
        let mut spares = self.spares(location, code);
        // Any k shares give a whole block.
        let first: ShareSet = if by_policy && wanted.iter().count() == code.k() {
            spares.iter().rev().take(code.k()).copied().collect()
        } else {
            wanted
        };
        let mut reads = FuturesUnordered::new();
        let mut wait = hedge::READ.soonest;
        let ask = |index: usize, wait: &mut Duration| {
            let node = node_of(index);
            if let Some(node) = &node {
                *wait = (*wait).max(node.latency().late_after(hedge::READ));
            }
            self.read_one(location, node, index, range.clone())
        };
        for index in first.iter() {
            // A share whose node is down is replaced at once. It is asked for only where the spares run out.
            if node_of(index).is_some_and(|node| node.is_up()) {
                asked.insert(index);
                reads.push(ask(index, &mut wait));
            }
        }
        let mut lateness = Box::pin(tokio::time::sleep(wait));
        loop {
            if wanted.iter().all(|index| got.contains_key(&index)) {
                return Ok(got);
            }
            if got.len() >= code.k() {
                return self
                    .decode(location, code, &range, wanted, got)
                    .map_err(|fault| vec![(NodeId(0), fault)]);
            }
            // Enough reads must be under way that are not late: all the wanted shares, or k in all.
            let all_wanted_asked = wanted.iter().all(|index| asked.contains(index));
            let in_time = reads.len().saturating_sub(late);
            let short = if all_wanted_asked && lost.is_empty() && late == 0 {
                0
            } else {
                code.k().saturating_sub(got.len() + in_time)
            };
            let mut more = short;
            while more > 0
                && let Some(index) = spares.pop()
            {
                if asked.contains(index) {
                    continue;
                }
                more -= 1;
                asked.insert(index);
                if late > 0 {
                    count(&self.counters.shares_hedged);
                }
                reads.push(ask(index, &mut wait));
            }
            if reads.is_empty() {
                return Err(lost);
            }
            tokio::select! {
                Some((index, node, read)) = reads.next() => match read {
                    Ok(data) => { got.insert(index, data); }
                    Err(fault) => lost.push((node, fault)),
                },
                () = &mut lateness, if late < reads.len() => {
                    late = reads.len();
                    asked.iter().filter(|index| !got.contains_key(index)).filter_map(node_of).for_each(|node| node.try_other_addresses());
                    lateness = Box::pin(tokio::time::sleep(wait));
                }
            }
        }
    }

    /// All shares, the best one last: shares of nodes that answer, then by the read policy, then data before
    /// parity.
    fn spares(&self, location: &BlockLocation, code: &dyn Code) -> Vec<usize> {
        let known = self.nodes.map();
        let turn = match self.options.read_policy {
            ReadPolicy::RoundRobin => self.turn.fetch_add(1, Relaxed),
            ReadPolicy::LeastLoad | ReadPolicy::Nearest => 0,
        };
        let node_of = |index: usize| location.nodes.get(index).and_then(|id| known.get(id));
        let all = || (0..code.n()).filter_map(node_of);
        let least = all().map(|node| node.load()).min().unwrap_or(0);
        let soonest = all().map(|node| node.cost().1).min().unwrap_or_default();
        let mut spares: Vec<_> = (0..code.n())
            .map(|index| {
                let Some(node) = node_of(index) else { return (true, u32::MAX, u32::MAX, index) };
                let (away, time) = node.cost();
                let load = u32::from(node.load().saturating_sub(least)) / LOAD_STEP;
                let time = time_step(time, soonest);
                match self.options.read_policy {
                    ReadPolicy::LeastLoad => (away, load, time, index),
                    ReadPolicy::Nearest => (away, time, 0, index),
                    ReadPolicy::RoundRobin => (away, ((index + turn) % code.n()) as u32, 0, index),
                }
            })
            .collect();
        spares.sort_unstable_by(|left, right| right.cmp(left));
        spares.into_iter().map(|(_, _, _, index)| index).collect()
    }

    /// Reads a range of one share; the result names share and node.
    async fn read_one(
        &self,
        location: &BlockLocation,
        node: Option<Arc<Node>>,
        index: usize,
        range: Range<usize>,
    ) -> (usize, NodeId, Result<Bytes, ShareFault>) {
        match node {
            Some(node) => (index, node.id, self.get_share(&node, location, index, range, None).await),
            None => {
                let id = location.nodes.get(index).copied().unwrap_or_default();
                (index, id, Err(ShareFault::Unreachable))
            }
        }
    }

    /// Decodes the wanted shares from those that were read.
    fn decode(
        &self,
        location: &BlockLocation,
        code: &dyn Code,
        range: &Range<usize>,
        wanted: ShareSet,
        mut got: BTreeMap<usize, Bytes>,
    ) -> Result<BTreeMap<usize, Bytes>, ShareFault> {
        count(&self.counters.reads_decoded);
        let present: ShareSet = got.keys().copied().collect();
        let mut buffers: Vec<Vec<u8>> = (0..code.n())
            .map(|index| match got.get(&index) {
                Some(data) => data.to_vec(),
                None if wanted.contains(index) => vec![0; range.len()],
                None => Vec::new(),
            })
            .collect();
        let mut shares: Vec<&mut [u8]> = buffers.iter_mut().map(Vec::as_mut_slice).collect();
        code.reconstruct(&mut shares, present, wanted)
            .map_err(|error| ShareFault::Refused(format!("block {}: {error}", location.id)))?;
        for index in wanted.iter() {
            got.entry(index).or_insert_with(|| Bytes::from(std::mem::take(&mut buffers[index])));
        }
        Ok(got)
    }
}

/// Joins pieces into ranges of whole stripes, each with the shares that it is read from. Where most of
/// several shares is wanted, the range is the whole share; else each piece has its own range.
fn group_pieces(pieces: &[Piece], share_bytes: usize, stripe_bytes: usize) -> Vec<(Range<usize>, ShareSet)> {
    let wanted: usize = pieces.iter().map(|piece| piece.len).sum();
    let touched: ShareSet = pieces.iter().map(|piece| piece.share).collect();
    if touched.len() > 1 && wanted * 2 >= touched.len() * share_bytes {
        return vec![(0..share_bytes, touched)];
    }
    pieces
        .iter()
        .map(|piece| {
            let start = piece.share_offset / stripe_bytes * stripe_bytes;
            let end = (piece.share_offset + piece.len).next_multiple_of(stripe_bytes);
            (start..end, ShareSet::EMPTY.with(piece.share))
        })
        .collect()
}

/// Load indices that differ by less than this count as equal, because an index is up to a second old.
const LOAD_STEP: u32 = 300;

/// How much later than the soonest an answer is expected, in steps of a factor of four. Up to 8 ms counts as
/// the same.
fn time_step(time: Duration, soonest: Duration) -> u32 {
    let factor = time.as_micros() / soonest.as_micros().max(2000);
    factor.max(1).ilog2() / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_block_is_one_group_and_a_small_read_is_cut_at_stripes() {
        let code = rain_codec::by_name("rdp", 4, 2).expect("a code");
        let len = 1 << 20;
        let share = code.share_bytes(len);
        let whole = group_pieces(&code.locate(len, 0..len), share, code.stripe_bytes());
        assert_eq!(whole, vec![(0..share, ShareSet::all(4))]);
        let small = group_pieces(&code.locate(len, share + 1000..share + 1100), share, code.stripe_bytes());
        assert_eq!(small, vec![(768..1280, ShareSet::EMPTY.with(1))]);
        let across = group_pieces(&code.locate(len, share - 10..share + 10), share, code.stripe_bytes());
        assert_eq!(across.len(), 2);
    }
}
