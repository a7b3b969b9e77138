//! Distributed store: encode, send all n shares at once, and decide when enough are durable.
//!
//! The write quorum (design, section 3): the shares of all nodes that answer; when one of them is late, at
//! least k + 1; with only k left, k. What is not durable by then is named as missing, and repair makes it.

use super::{Blocks, ShareFault, chunk_checksums};
use crate::error::Error;
use crate::options::Options;
use crate::rpc::hedge;
use crate::rpc::node::{Answers, Node, is_broken};
use crate::stats::count;
use bytes::{Bytes, BytesMut};
use futures::FutureExt;
use futures::future::BoxFuture;
use rain_proto::{convert, v1};
use rain_types::{BlockId, CodeSpec, NodeId, ShareIndex};
use std::cmp::Ordering;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// Between two rounds of sending what did not get through.
const AGAIN_EVERY: Duration = Duration::from_millis(60);

/// With only k shares durable, the others are waited for so long before the block goes on without margin.
const WITHOUT_MARGIN_AFTER: Duration = Duration::from_secs(1);

/// Then those that are late are asked whether they are there at all, and who does not say so within this is not waited for.
const ASK_AFTER: Duration = Duration::from_millis(60);
const SAY_WITHIN: Duration = Duration::from_millis(180);

/// How often it is looked whether the late are still worth waiting for.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Bytes between shares in memory. Distances that are multiples of 4 KiB bring the same offsets of all shares into the same few places of
/// the processor's caches, which twelve shares and more overfill (docs/codec.md, "skewed").
const SKEW: usize = 192;

/// A share on its way to its node.
#[derive(Debug, Clone)]
pub(super) struct ShareWrite {
    pub(super) index: usize,
    pub(super) node: NodeId,
    pub(super) payload: Bytes,
}

impl Blocks {
    /// Cuts a block into its n shares, encoded. All of them share one allocation.
    pub(super) fn encode(&self, spec: CodeSpec, data: &[u8]) -> Result<Vec<Bytes>, Error> {
        let code = self.code(spec)?;
        let share = code.share_bytes(data.len());
        let stride = share + SKEW;
        let mut whole = BytesMut::zeroed(stride * code.n());
        {
            let mut shares: Vec<&mut [u8]> =
                whole.chunks_mut(stride).map(|chunk| &mut chunk[..share]).collect();
            code.split(data, &mut shares).map_err(|error| Error::Protocol(error.to_string()))?;
            code.encode(&mut shares).map_err(|error| Error::Protocol(error.to_string()))?;
        }
        let whole = whole.freeze();
        Ok((0..code.n()).map(|index| whole.slice(index * stride..index * stride + share)).collect())
    }

    /// Stores a block. Gives the bits of the shares that could not be placed.
    pub(crate) async fn store(
        self: &Blocks,
        id: BlockId,
        spec: CodeSpec,
        nodes: &[NodeId],
        data: Bytes,
    ) -> Result<u64, Error> {
        let shares = self.encode(spec, &data)?;
        let writes: Vec<ShareWrite> = shares
            .into_iter()
            .zip(nodes)
            .enumerate()
            .map(|(index, (payload, node))| ShareWrite { index, node: *node, payload })
            .collect();
        let all: u64 = writes.iter().map(|write| 1 << write.index).sum();
        let placed = self.place(id, spec, data.len() as u32, writes, usize::from(spec.k)).await?;
        count(&self.counters.blocks_stored);
        if placed != all {
            count(&self.counters.blocks_stored_missing);
        }
        Ok(all & !placed)
    }

    /// Sends parcels until at least `needed` of them are durable, all where possible without waiting for the
    /// late. Gives the bits of the durable ones.
    pub(super) async fn place(
        &self,
        id: BlockId,
        spec: CodeSpec,
        block_len: u32,
        writes: Vec<ShareWrite>,
        needed: usize,
    ) -> Result<u64, Error> {
        let begun = Instant::now();
        let mut placed = 0u64;
        let mut waiting = writes;
        loop {
            let (durable, faults) = self.send_round(id, spec, block_len, &waiting, placed, needed).await;
            placed |= durable;
            waiting.retain(|write| placed & 1 << write.index == 0);
            if placed.count_ones() as usize >= needed {
                return Ok(placed);
            }
            let of = |kind: fn(&ShareFault) -> bool| -> Vec<NodeId> {
                faults.iter().filter(|(_, fault)| kind(fault)).map(|(node, _)| *node).collect()
            };
            let full = of(|fault| matches!(fault, ShareFault::Full));
            let away = of(|fault| matches!(fault, ShareFault::Unreachable));
            if placed.count_ones() as usize + away.len() < needed {
                if full.is_empty() {
                    let why = faults.iter().find_map(|(node, fault)| match fault {
                        ShareFault::Refused(why) => Some(format!("node {node} refuses block {id}: {why}")),
                        _ => None,
                    });
                    return Err(Error::Protocol(
                        why.unwrap_or_else(|| format!("block {id} cannot be placed")),
                    ));
                }
                return Err(Error::NoSpace { nodes: full });
            }
            if begun.elapsed() >= self.patience() {
                self.outage_begins(&away);
                return Err(Error::Unreachable { what: format!("storing block {id}"), missing: away });
            }
            tokio::time::sleep(AGAIN_EVERY).await;
        }
    }

    /// One round: sends every waiting parcel to its node, and collects until all have answered or enough have
    /// and the others are late. The late ones go on in the background, in case their nodes wake up.
    async fn send_round(
        &self,
        id: BlockId,
        spec: CodeSpec,
        block_len: u32,
        waiting: &[ShareWrite],
        placed: u64,
        needed: usize,
    ) -> (u64, Vec<(NodeId, ShareFault)>) {
        let known = self.nodes();
        let (answers, mut answered) = mpsc::channel(waiting.len().max(1));
        let mut faults = Vec::new();
        let mut out: Vec<Arc<Node>> = Vec::new();
        // Nodes that do not answer are skipped while there are enough that do: their probe brings them back.
        let up =
            waiting.iter().filter(|write| known.get(&write.node).is_some_and(|node| node.is_up())).count();
        let enough_up = placed.count_ones() as usize + up >= needed;
        let mut late_after = hedge::WRITE.soonest;
        let send = |node: &Arc<Node>, write: &ShareWrite| {
            let slow_after = self.options.slow_after;
            let sent = send_share(node.clone(), id, spec, block_len, write.clone(), slow_after);
            let answers = answers.clone();
            tokio::spawn(async move {
                // Nobody may be waiting any more: then the share is listed as missing and made again.
                let _ = answers.send(sent.await).await;
            });
        };
        for write in waiting {
            match known.get(&write.node) {
                Some(node) if node.is_up() || !enough_up => {
                    late_after = late_after.max(node.latency().late_after(hedge::WRITE));
                    out.push(node.clone());
                    send(node, write);
                }
                _ => faults.push((write.node, ShareFault::Unreachable)),
            }
        }
        let mut durable = 0u64;
        let begun = Instant::now();
        let patience = tokio::time::sleep(LOOK_EVERY);
        tokio::pin!(patience);
        let got = placed.count_ones() as usize;
        let mut waits = Waits { begun, needed, got, reached: begun, asked: false, gone: false };
        let gone: BoxFuture<'_, Vec<Answers>> = futures::future::pending().boxed();
        tokio::pin!(gone);
        while !out.is_empty() {
            waits.has((placed | durable).count_ones() as usize);
            tokio::select! {
                Some(answer) = answered.recv() => match answer {
                    (index, node, Ok(())) => {
                        durable |= 1 << index;
                        out.retain(|waited| waited.id != node);
                    }
                    (_, node, Err(fault)) => {
                        faults.push((node, fault));
                        out.retain(|waited| waited.id != node);
                    }
                },
                found = &mut gone => {
                    gone.set(futures::future::pending().boxed());
                    waits.gone = found.iter().all(|answers| *answers == Answers::No);
                    // What went the other way is lost there, or comes late: a share may be put twice.
                    let on_other_ways = out.iter().zip(found).filter(|(_, answers)| *answers == Answers::OtherWay);
                    for (node, _) in on_other_ways {
                        waiting.iter().filter(|write| write.node == node.id).for_each(|write| send(node, write));
                    }
                }
                () = &mut patience => {
                    let elapsed = begun.elapsed();
                    if waits.got < needed && elapsed >= self.options.dead_after / 2 {
                        // Whoever is only slow answers the probe and counts again.
                        out.iter().for_each(|node| node.lags());
                    }
                    if waits.is_to_ask() {
                        waits.asked = true;
                        gone.set(ask_all(out.clone()).boxed());
                    }
                    let away = out.iter().all(|node| !node.is_in_view());
                    let silent = out.iter().all(|node| !node.is_up());
                    if !waits.is_over(&self.options, late_after, away, silent) {
                        patience.as_mut().reset(tokio::time::Instant::now() + LOOK_EVERY);
                        continue;
                    }
                    for node in &out {
                        node.lags();
                        faults.push((node.id, ShareFault::Unreachable));
                    }
                    break;
                }
            }
        }
        (durable, faults)
    }
}

/// How long late shares are waited for.
struct Waits {
    begun: Instant,
    needed: usize,
    got: usize,
    /// Since when there are so many.
    reached: Instant,
    /// The late were asked whether they are there.
    asked: bool,
    /// None of them has said so.
    gone: bool,
}

/// Whether these nodes are there.
async fn ask_all(nodes: Vec<Arc<Node>>) -> Vec<Answers> {
    let asked = nodes.iter().map(|node| node.answers_within(SAY_WITHIN));
    futures::future::join_all(asked).await
}

impl Waits {
    fn is_to_ask(&self) -> bool {
        !self.asked && self.got == self.needed && self.reached.elapsed() >= ASK_AFTER
    }

    fn has(&mut self, got: usize) {
        // With one more than is needed the clock runs: others that come do not set it back.
        if got > self.got {
            if self.got <= self.needed {
                self.reached = Instant::now();
            }
            self.got = got;
        }
    }

    /// Who is `away` by the ring is waited for only where it is needed. With k + 1 the late are left behind soon; with k, without margin,
    /// only after more patience, or when they answer nothing at all. With fewer they are needed, until they are `silent` for long.
    fn is_over(&self, options: &Options, late_after: Duration, away: bool, silent: bool) -> bool {
        let since = self.reached.elapsed();
        match self.got.cmp(&self.needed) {
            Ordering::Greater => away || since >= late_after,
            Ordering::Equal => away || self.gone || since >= late_after.max(WITHOUT_MARGIN_AFTER),
            Ordering::Less => {
                let elapsed = self.begun.elapsed();
                elapsed >= options.slow_after || (silent && elapsed >= options.dead_after)
            }
        }
    }
}

type Answer = (usize, NodeId, Result<(), ShareFault>);

async fn send_share(
    node: Arc<Node>,
    id: BlockId,
    spec: CodeSpec,
    block_len: u32,
    write: ShareWrite,
    slow_after: Duration,
) -> Answer {
    let request = v1::PutShareRequest {
        key: Some(convert::share_key(id, ShareIndex(write.index as u8))),
        code: Some(spec.into()),
        block_len,
        chunk_crcs: convert::checksum_table(&chunk_checksums(&write.payload)),
        payload: write.payload,
    };
    let call = node.begin();
    let mut shares = node.shares();
    let answer = match tokio::time::timeout(slow_after, shares.put(request)).await {
        Ok(answer) => answer,
        Err(_) => return (write.index, node.id, Err(ShareFault::Unreachable)),
    };
    call.ended(&answer);
    let result = answer.map(|_| ()).map_err(|status| match status.code() {
        _ if is_broken(&status) => ShareFault::Unreachable,
        tonic::Code::ResourceExhausted => ShareFault::Full,
        _ => ShareFault::Refused(status.message().to_owned()),
    });
    (write.index, node.id, result)
}
