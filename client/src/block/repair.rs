//! Repair of one block: read k shares (fewer bytes where the code's plan allows), make the missing, put them
//! back on their nodes. Which blocks, and in what order, is planned by `rain_namespace::repair`.

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
        let share = code.share_bytes(place.len as usize);
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
        let mut shares = self.gather(place, code.as_ref(), 0..share, sources, false).await?;
        let present: ShareSet = shares.keys().copied().collect();
        let mut buffers: Vec<Vec<u8>> = (0..code.n())
            .map(|index| match shares.remove(&index) {
                Some(data) => data.to_vec(),
                None if make.contains(index) => vec![0; share],
                None => Vec::new(),
            })
            .collect();
        let mut slices: Vec<&mut [u8]> = buffers.iter_mut().map(Vec::as_mut_slice).collect();
        code.reconstruct(&mut slices, present, make).map_err(|error| Error::Protocol(error.to_string()))?;
        let parcels: Vec<Parcel> = make
            .iter()
            .map(|index| Parcel {
                index,
                node: place.nodes[index],
                payload: std::mem::take(&mut buffers[index]).into(),
            })
            .collect();
        let present = self.place(place.id, place.code, place.len, parcels, 0).await?;
        Ok(Repaired { present, bytes: u64::from(present.count_ones()) * share as u64 })
    }
}
