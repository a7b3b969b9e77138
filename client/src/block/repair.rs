//! Repair and moves of one block: read the sources, make the shares that are missing, and put them on their
//! nodes. The sources of a move are the shares themselves; those of a repair are the rows of a repair plan,
//! or any k shares.
//!
//! The namespace plans which blocks are repaired or moved, and in what order.

use super::blocks::Blocks;
use super::location::BlockLocation;
use super::store::{BlockWrite, ShareWrite};
use super::work::WorkOrder;
use crate::error::Error;
use rain_codec::ShareSet;

/// The result of a repair or move.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Repaired {
    /// Bits of the shares that are durable on their nodes.
    pub present: u64,
    /// Bytes written.
    pub bytes: u64,
    /// Bytes read from nodes.
    pub read: u64,
}

impl Blocks {
    /// Makes the shares in `missing` (bits) again, for those of their nodes that answer.
    pub(crate) async fn repair(
        &self,
        location: &BlockLocation,
        missing: u64,
        order: &WorkOrder,
    ) -> Result<Repaired, Error> {
        let code = self.code(location.code)?;
        let make: ShareSet = (0..code.n())
            .filter(|index| missing & 1 << index != 0 && self.is_up(location.nodes[*index]))
            .collect();
        if make.is_empty() {
            return Ok(Repaired::default());
        }
        let there: ShareSet = (0..code.n())
            .filter(|index| missing & 1 << index == 0 && self.is_up(location.nodes[*index]))
            .collect();
        if let Some(repaired) = self.repair_by_plan(location, make, there, order).await? {
            return Ok(repaired);
        }
        // Any k of the others. `gather` replaces a share that is late or gone.
        self.make(location, there.lowest(code.k()), make, location, order).await
    }

    /// Repairs by the code's plan, which reads rows of other shares. None: the plan reads no less than k
    /// shares, or a source fails.
    async fn repair_by_plan(
        &self,
        location: &BlockLocation,
        make: ShareSet,
        there: ShareSet,
        order: &WorkOrder,
    ) -> Result<Option<Repaired>, Error> {
        let code = self.code(location.code)?;
        let planner = code.clone();
        // The code keeps its plans, but the first of a kind takes some milliseconds.
        let plan = match tokio::task::spawn_blocking(move || planner.repair_plan(make, there)).await {
            Ok(Ok(plan)) => plan,
            _ => return Ok(None),
        };
        let share = code.share_bytes(location.len as usize);
        let read = plan.bytes(share);
        if read >= code.k() * share {
            return Ok(None);
        }
        let known = self.nodes.map();
        let sources =
            plan.reads().iter().map(|read| (read.share, known.get(&location.nodes[read.share]).cloned()));
        let reads = sources.map(async |(index, node)| match node {
            Some(node) => {
                let packed = self.get_share(&node, location, index, 0..share, Some(&plan)).await;
                packed.ok().map(|packed| (index, packed))
            }
            None => None,
        });
        let Some(packed) = futures::future::join_all(reads).await.into_iter().collect::<Option<Vec<_>>>()
        else {
            return Ok(None);
        };
        let mut buffers: Vec<Vec<u8>> = vec![Vec::new(); code.n()];
        make.union(plan.sources()).iter().for_each(|index| buffers[index] = vec![0; share]);
        packed.iter().for_each(|(index, packed)| plan.unpack(*index, packed, &mut buffers[*index]));
        let mut slices: Vec<&mut [u8]> = buffers.iter_mut().map(Vec::as_mut_slice).collect();
        code.reconstruct_from_plan(&plan, &mut slices).map_err(|error| Error::Protocol(error.to_string()))?;
        self.put_made(location, make, buffers, read as u64, order).await.map(Some)
    }

    /// Puts the made shares onto their nodes. `read` is the number of bytes they were made from.
    async fn put_made(
        &self,
        to: &BlockLocation,
        make: ShareSet,
        mut buffers: Vec<Vec<u8>>,
        read: u64,
        order: &WorkOrder,
    ) -> Result<Repaired, Error> {
        let share = make.iter().map(|index| buffers[index].len() as u64).max().unwrap_or(0);
        let write = |index: usize| ShareWrite {
            index,
            node: to.nodes[index],
            payload: std::mem::take(&mut buffers[index]).into(),
        };
        let writes: Vec<ShareWrite> = make.iter().map(write).collect();
        let block = BlockWrite { id: to.id, code: to.code, len: to.len, order: Some(order.clone()) };
        let present = self.put_shares(&block, writes, 0).await?;
        Ok(Repaired { present, bytes: u64::from(present.count_ones()) * share, read })
    }

    /// Moves a block's shares: those whose nodes differ between `from` and `to` are put onto their nodes in
    /// `to`. A share that is not `missing` (bits) is copied where its old node answers; any other is made.
    pub(crate) async fn move_shares(
        &self,
        from: &BlockLocation,
        to: &BlockLocation,
        missing: u64,
        order: &WorkOrder,
    ) -> Result<Repaired, Error> {
        let code = self.code(from.code)?;
        let there = |index: &usize| missing & 1 << index == 0 && self.is_up(from.nodes[*index]);
        let moving: ShareSet = (0..code.n()).filter(|index| from.nodes[*index] != to.nodes[*index]).collect();
        let copied: ShareSet = moving.iter().filter(there).collect();
        let sources = if copied.len() == moving.len() {
            copied
        } else {
            let others = (0..code.n()).filter(there).filter(|index| !copied.contains(*index));
            copied.iter().chain(others).take(code.k().max(copied.len())).collect()
        };
        self.make(from, sources, moving, to, order).await
    }

    /// Reads the shares `sources`, computes the shares of `make` that are not among them, and stores all
    /// shares of `make` on their nodes in `to`.
    async fn make(
        &self,
        from: &BlockLocation,
        sources: ShareSet,
        make: ShareSet,
        to: &BlockLocation,
        order: &WorkOrder,
    ) -> Result<Repaired, Error> {
        let code = self.code(from.code)?;
        let share = code.share_bytes(from.len as usize);
        let mut shares = self.gather(from, code.as_ref(), 0..share, sources, false).await?;
        let present: ShareSet = shares.keys().copied().collect();
        let mut buffers: Vec<Vec<u8>> = (0..code.n())
            .map(|index| match shares.remove(&index) {
                Some(data) => data.to_vec(),
                None if make.contains(index) => vec![0; share],
                None => Vec::new(),
            })
            .collect();
        let mut slices: Vec<&mut [u8]> = buffers.iter_mut().map(Vec::as_mut_slice).collect();
        let unknown: ShareSet = make.iter().filter(|index| !present.contains(*index)).collect();
        if !unknown.is_empty() {
            code.reconstruct(&mut slices, present, unknown)
                .map_err(|error| Error::Protocol(error.to_string()))?;
        }
        let read = (present.len() * share) as u64;
        self.put_made(to, make, buffers, read, order).await
    }
}
