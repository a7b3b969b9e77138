//! Distributed store: encode a block, send its n shares at once, and decide when enough of them are durable.
//!
//! The write quorum: the shares of all nodes that answer; where one of these nodes is late, at least k + 1
//! shares; where only k nodes answer, k shares. The caller names the shares that are not durable by then as
//! missing, and repair makes them.

use super::blocks::Blocks;
use super::crc::chunk_checksums;
use super::share::ShareFault;
use super::work::WorkOrder;
use crate::error::Error;
use crate::options::Options;
use crate::rpc::endpoint::{is_broken, is_misdirected};
use crate::rpc::hedge;
use crate::rpc::node::{Node, Probe};
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

/// Pause between two rounds of sending shares that did not get through.
const RETRY_EVERY: Duration = Duration::from_millis(60);

/// Longest wait for the late shares while only k are durable: after it the block is written without margin.
const WITHOUT_MARGIN_AFTER: Duration = Duration::from_secs(1);

/// With k shares durable or more, the late nodes are probed after this: their shares may be lost on a network
/// that is cut, and another network lead to them.
const PROBE_AFTER: Duration = Duration::from_millis(60);

/// A late node that does not answer the probe within this is not waited for.
const PROBE_WITHIN: Duration = Duration::from_millis(180);

/// Pause between two decisions whether to go on waiting for late nodes.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Gap between the shares in memory, bytes. At distances that are multiples of 4 KiB, equal offsets of all
/// shares share few sets of the processor's caches, and twelve shares overfill them (docs/codec.md,
/// "skewed").
const SKEW: usize = 192;

/// A share to be written to its node.
#[derive(Debug, Clone)]
pub(super) struct ShareWrite {
    pub(super) index: usize,
    pub(super) node: NodeId,
    pub(super) payload: Bytes,
}

/// What all share writes of one block have in common.
#[derive(Debug, Clone)]
pub(super) struct BlockWrite {
    pub(super) id: BlockId,
    pub(super) code: CodeSpec,
    /// The block's length, bytes.
    pub(super) len: u32,
    /// The order of a leader's worker; none for a client that writes.
    pub(super) order: Option<WorkOrder>,
}

impl Blocks {
    /// Encodes a block into its n shares. All of them share one allocation.
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

    /// Stores a block. Returns the bits of the shares that could not be placed.
    ///
    /// Fails when fewer than k shares could be placed: `Unreachable`, `NoSpace`, or `Protocol` with a node's
    /// reason.
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
        let block = BlockWrite { id, code: spec, len: data.len() as u32, order: None };
        let placed = self.put_shares(&block, writes, usize::from(spec.k)).await?;
        count(&self.counters.blocks_stored);
        if placed != all {
            count(&self.counters.blocks_stored_missing);
        }
        Ok(all & !placed)
    }

    /// Sends shares until at least `needed` of them are durable; more of them where that needs no waiting for
    /// late nodes. Returns the bits of the durable shares.
    pub(super) async fn put_shares(
        &self,
        block: &BlockWrite,
        writes: Vec<ShareWrite>,
        needed: usize,
    ) -> Result<u64, Error> {
        let id = block.id;
        let begun = Instant::now();
        let mut placed = 0u64;
        let mut waiting = writes;
        loop {
            let (durable, faults) = self.send_round(block, &waiting, placed, needed).await;
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
                self.begin_outage(&away);
                return Err(Error::Unreachable { what: format!("storing block {id}"), missing: away });
            }
            tokio::time::sleep(RETRY_EVERY).await;
        }
    }

    /// One round: sends every waiting share to its node, and collects answers until all nodes have answered,
    /// or enough have and the others are late. Late writes go on in the background, in case their nodes wake
    /// up.
    async fn send_round(
        &self,
        block: &BlockWrite,
        waiting: &[ShareWrite],
        placed: u64,
        needed: usize,
    ) -> (u64, Vec<(NodeId, ShareFault)>) {
        let known = self.nodes.map();
        let (answers, mut answered) = mpsc::channel(waiting.len().max(1));
        let mut faults = Vec::new();
        let mut out: Vec<Arc<Node>> = Vec::new();
        // Nodes that are down are skipped while enough others are up. Their probe brings them back.
        let up =
            waiting.iter().filter(|write| known.get(&write.node).is_some_and(|node| node.is_up())).count();
        let enough_up = placed.count_ones() as usize + up >= needed;
        let mut late_after = hedge::WRITE.soonest;
        let send = |node: &Arc<Node>, write: &ShareWrite| {
            let slow_after = self.options.slow_after;
            let sent = send_share(node.clone(), block.clone(), write.clone(), slow_after);
            let answers = answers.clone();
            tokio::spawn(async move {
                // The round may be over. Then the share is listed as missing, and repair makes it again.
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
        let mut waits = Waits { begun, needed, got, reached: begun, probed: false, silent: false };
        let probing: BoxFuture<'_, Vec<Probe>> = futures::future::pending().boxed();
        tokio::pin!(probing);
        while !out.is_empty() {
            waits.reach((placed | durable).count_ones() as usize);
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
                probes = &mut probing => {
                    probing.set(futures::future::pending().boxed());
                    waits.silent = probes.iter().all(|probe| *probe == Probe::Silent);
                    // A write over the old address is lost or comes late, so it is sent again. A share may be
                    // put twice.
                    let elsewhere = out.iter().zip(probes).filter(|(_, probe)| *probe == Probe::OtherAddress);
                    for (node, _) in elsewhere {
                        waiting.iter().filter(|write| write.node == node.id).for_each(|write| send(node, write));
                    }
                }
                () = &mut patience => {
                    let elapsed = begun.elapsed();
                    if waits.got < needed && elapsed >= self.options.dead_after / 2 {
                        // A node that is only slow answers its probe and counts as up again.
                        out.iter().for_each(|node| node.mark_lagging());
                    }
                    if waits.is_time_to_probe() {
                        waits.probed = true;
                        probing.set(probe_all(out.clone()).boxed());
                    }
                    let away = out.iter().all(|node| !node.is_in_view());
                    let down = out.iter().all(|node| !node.is_up());
                    if !waits.is_over(&self.options, late_after, away, down) {
                        patience.as_mut().reset(tokio::time::Instant::now() + LOOK_EVERY);
                        continue;
                    }
                    for node in &out {
                        node.mark_lagging();
                        faults.push((node.id, ShareFault::Unreachable));
                    }
                    break;
                }
            }
        }
        (durable, faults)
    }
}

/// The wait for late shares.
struct Waits {
    begun: Instant,
    needed: usize,
    /// Durable shares.
    got: usize,
    /// When `got` last grew. It is not updated once `got` exceeds `needed`.
    reached: Instant,
    /// The late nodes have been probed.
    probed: bool,
    /// None of the late nodes has answered the probe.
    silent: bool,
}

/// Probes nodes; the results are in their order.
async fn probe_all(nodes: Vec<Arc<Node>>) -> Vec<Probe> {
    let probes = nodes.iter().map(|node| node.probe_within(PROBE_WITHIN));
    futures::future::join_all(probes).await
}

impl Waits {
    fn is_time_to_probe(&self) -> bool {
        !self.probed && self.got >= self.needed && self.reached.elapsed() >= PROBE_AFTER
    }

    /// Takes in the number of durable shares.
    fn reach(&mut self, got: usize) {
        // Once k + 1 shares are durable the clock runs on: further shares do not set it back.
        if got > self.got {
            if self.got <= self.needed {
                self.reached = Instant::now();
            }
            self.got = got;
        }
    }

    /// Whether the round ends. `away`: no late node is in the ring's view. `down`: no late node is up.
    ///
    /// With k + 1 durable shares the round ends soon. With k, without margin, it ends after more patience, or
    /// when the late nodes do not answer the probe. With fewer the late nodes are needed, and the round ends
    /// when they have been down for long.
    fn is_over(&self, options: &Options, late_after: Duration, away: bool, down: bool) -> bool {
        let since = self.reached.elapsed();
        match self.got.cmp(&self.needed) {
            Ordering::Greater => away || since >= late_after,
            Ordering::Equal => away || self.silent || since >= late_after.max(WITHOUT_MARGIN_AFTER),
            Ordering::Less => {
                let elapsed = self.begun.elapsed();
                elapsed >= options.slow_after || (down && elapsed >= options.dead_after)
            }
        }
    }
}

/// The answer to one share write: the share's index, its node, and whether it is durable.
type Answer = (usize, NodeId, Result<(), ShareFault>);

/// Sends one share to its node.
async fn send_share(node: Arc<Node>, block: BlockWrite, write: ShareWrite, slow_after: Duration) -> Answer {
    let mandate = block.order.as_ref().map(WorkOrder::mandate);
    if let Some(None) = mandate {
        let why = "the term of this worker's leader is over".to_owned();
        return (write.index, node.id, Err(ShareFault::Refused(why)));
    }
    let request = v1::PutShareRequest {
        key: Some(convert::share_key(block.id, ShareIndex(write.index as u8))),
        code: Some(block.code.into()),
        block_len: block.len,
        chunk_crcs: convert::checksum_table(&chunk_checksums(&write.payload)),
        payload: write.payload,
        to: Some(node.addressee()),
        mandate: mandate.flatten(),
    };
    let call = node.begin();
    let mut shares = node.shares();
    let answer = match tokio::time::timeout(slow_after, shares.put(request)).await {
        Ok(answer) => answer,
        Err(_) => return (write.index, node.id, Err(ShareFault::Unreachable)),
    };
    call.ended(&answer);
    if let (Some(order), Err(status)) = (&block.order, &answer) {
        order.refused(status);
    }
    let result = answer.map(|_| ()).map_err(|status| match status.code() {
        _ if is_broken(&status) || is_misdirected(&status) => ShareFault::Unreachable,
        tonic::Code::ResourceExhausted => ShareFault::Full,
        _ => ShareFault::Refused(status.message().to_owned()),
    });
    (write.index, node.id, result)
}
