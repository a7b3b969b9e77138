//! Repair and moves of one block: read what it takes (for a move the shares themselves, else any k), make the rest, put them on their
//! nodes. Which blocks, and in what order, is planned by the namespace.

use super::store::Parcel;
use super::{BlockPlace, Blocks};
use crate::error::Error;
use rain_codec::ShareSet;

/// What came of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Repaired {
    /// Bits of the shares that are durable on their nodes now.
    pub present: u64,
    /// Bytes written.
    pub bytes: u64,
}

impl Blocks {
    /// Makes the shares named by `missing` (bits) again, for the nodes that answer.
    pub(crate) async fn repair(&self, place: &BlockPlace, missing: u64) -> Result<Repaired, Error> {
        let code = self.code(place.code)?;
        let make: ShareSet = (0..code.n())
            .filter(|index| missing & 1 << index != 0 && self.is_up(place.nodes[*index]))
            .collect();
        if make.is_empty() {
            return Ok(Repaired::default());
        }
        // Any k of the others; `gather` replaces what is late or gone.
        let sources: ShareSet = (0..code.n())
            .filter(|index| missing & 1 << index == 0 && self.is_up(place.nodes[*index]))
            .take(code.k())
            .collect();
        self.make(place, sources, make, place).await
    }

    /// Puts the shares whose nodes differ between two places of a block onto their nodes in the second. Those that are not `missing` are
    /// copied where their nodes answer.
    pub(crate) async fn move_shares(
        &self,
        from: &BlockPlace,
        to: &BlockPlace,
        missing: u64,
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
        self.make(from, sources, moving, to).await
    }

    /// Reads the sources, makes the others of `make`, and puts all of `make` onto their nodes in `to`.
    async fn make(
        &self,
        from: &BlockPlace,
        sources: ShareSet,
        make: ShareSet,
        to: &BlockPlace,
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
        let parcels: Vec<Parcel> = make
            .iter()
            .map(|index| Parcel {
                index,
                node: to.nodes[index],
                payload: std::mem::take(&mut buffers[index]).into(),
            })
            .collect();
        let present = self.place(from.id, from.code, from.len, parcels, 0).await?;
        Ok(Repaired { present, bytes: u64::from(present.count_ones()) * share as u64 })
    }
}
