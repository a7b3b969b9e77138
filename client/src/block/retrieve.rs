//! Retrieve: any k of n. What is asked for is read from the shares that hold it; whatever is late, gone or
//! damaged is replaced by decoding the same range from others.
//!
//! A range that is cut at whole stripes is a code word of its own (`rain_codec::Code::stripe_bytes`), so a small
//! read of a lost share costs k small reads, not k shares.

use super::{BlockLocation, Blocks, ShareFault};
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

/// Between two tries when too few nodes answer.
const AGAIN_EVERY: Duration = Duration::from_millis(60);

impl Blocks {
    /// The block if this client has it already.
    pub(crate) fn cached(&self, place: &BlockLocation) -> Option<Bytes> {
        self.cache.get(place.id)
    }

    /// Whether the block is here or on its way.
    pub(crate) fn known(&self, place: &BlockLocation) -> bool {
        self.cache.contains(place.id)
    }

    /// Reads a whole block, and keeps it for the reads to come.
    pub(crate) async fn read_block(&self, place: &BlockLocation) -> Result<Bytes, Error> {
        let cell = self.cache.cell(place.id);
        let read = cell.get_or_try_init(|| self.read_range(place, 0..place.len as usize)).await.cloned();
        match &read {
            Ok(_) => self.cache.settle(place.id),
            Err(_) => self.cache.forget_failed(place.id),
        }
        read
    }

    /// Reads a range of a block.
    pub(crate) async fn read_range(
        &self,
        place: &BlockLocation,
        range: Range<usize>,
    ) -> Result<Bytes, Error> {
        let code = self.code(place.code)?;
        let len = place.len as usize;
        let pieces = code.locate(len, range.clone());
        if pieces.iter().map(|piece| piece.len).sum::<usize>() != range.len() {
            return Err(Error::Protocol(format!(
                "bytes {range:?} do not lie in block {} of {len}",
                place.id
            )));
        }
        let share = code.share_bytes(len);
        let groups = group_pieces(&pieces, share, code.stripe_bytes());
        let gathers = groups
            .iter()
            .map(|(stretch, wanted)| self.gather(place, code.as_ref(), stretch.clone(), *wanted, true));
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

    /// Gets one range of the wanted shares, by reading or by decoding. The range is whole stripes. `by_policy`: where k shares are
    /// wanted, the policy may choose any other k to read.
    pub(super) async fn gather(
        &self,
        place: &BlockLocation,
        code: &dyn Code,
        range: Range<usize>,
        wanted: ShareSet,
        by_policy: bool,
    ) -> Result<BTreeMap<usize, Bytes>, Error> {
        let begun = Instant::now();
        loop {
            let lost = match self.gather_once(place, code, range.clone(), wanted, by_policy).await {
                Ok(shares) => return Ok(shares),
                Err(lost) => lost,
            };
            let away: Vec<NodeId> = lost
                .iter()
                .filter(|(_, fault)| matches!(fault, ShareFault::Unreachable))
                .map(|(node, _)| *node)
                .collect();
            if lost.len() - away.len() > code.m() {
                return Err(Error::Damaged { what: format!("block {}", place.id) });
            }
            if begun.elapsed() >= self.patience() {
                self.outage_begins(&away);
                tracing::error!(block = %place.id, missing = ?away, "too few nodes answer");
                return Err(Error::Unreachable {
                    what: format!("reading block {}", place.id),
                    missing: away,
                });
            }
            tokio::time::sleep(AGAIN_EVERY).await;
        }
    }

    /// One try. The error has every share that could not be had.
    async fn gather_once(
        &self,
        place: &BlockLocation,
        code: &dyn Code,
        range: Range<usize>,
        wanted: ShareSet,
        by_policy: bool,
    ) -> Result<BTreeMap<usize, Bytes>, Vec<(NodeId, ShareFault)>> {
        let known = self.nodes();
        let node_of = |index: usize| place.nodes.get(index).and_then(|id| known.get(id)).cloned();
        let mut got: BTreeMap<usize, Bytes> = BTreeMap::new();
        let mut lost: Vec<(NodeId, ShareFault)> = Vec::new();
        let mut asked = ShareSet::EMPTY;
        let mut late = 0;
        let mut spares = self.spares(place, code);
        // Of a whole block any k shares do.
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
            self.read_one(place, node, index, range.clone())
        };
        for index in first.iter() {
            // A share whose node is known not to answer is replaced at once, unless there is nothing else.
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
                    .decode(place, code, &range, wanted, got)
                    .map_err(|fault| vec![(NodeId(0), fault)]);
            }
            // Enough must be under way that are not late: all the wanted, or k in all.
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
                    asked.iter().filter(|index| !got.contains_key(index)).filter_map(node_of).for_each(|node| node.is_late());
                    lateness = Box::pin(tokio::time::sleep(wait));
                }
            }
        }
    }

    /// All shares, the best to ask last: nodes that answer before those that do not, then by the policy; data before
    /// parity where it makes no difference.
    fn spares(&self, place: &BlockLocation, code: &dyn Code) -> Vec<usize> {
        let known = self.nodes();
        let turn = match self.options.read_policy {
            ReadPolicy::RoundRobin => self.turn.fetch_add(1, Relaxed),
            ReadPolicy::LeastLoad | ReadPolicy::Nearest => 0,
        };
        let node_of = |index: usize| place.nodes.get(index).and_then(|id| known.get(id));
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

    async fn read_one(
        &self,
        place: &BlockLocation,
        node: Option<Arc<Node>>,
        index: usize,
        range: Range<usize>,
    ) -> (usize, NodeId, Result<Bytes, ShareFault>) {
        match node {
            Some(node) => (index, node.id, self.get_share(&node, place, index, range, None).await),
            None => {
                let id = place.nodes.get(index).copied().unwrap_or_default();
                (index, id, Err(ShareFault::Unreachable))
            }
        }
    }

    fn decode(
        &self,
        place: &BlockLocation,
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
            .map_err(|error| ShareFault::Refused(format!("block {}: {error}", place.id)))?;
        for index in wanted.iter() {
            got.entry(index).or_insert_with(|| Bytes::from(std::mem::take(&mut buffers[index])));
        }
        Ok(got)
    }
}

/// Joins pieces into ranges that are read alike from several shares: all of a share when most of it is wanted
/// from several, else each piece for itself; always whole stripes.
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

/// Less than this between two load indices is no difference: the index is a second old.
const LOAD_STEP: u32 = 300;

/// How much later than the soonest: up to four times and up to 8 ms count as the same.
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
