//! Packing: makes blocks of written segments. Pure.
//!
//! A segment of a block's length becomes a block. Smaller segments, from random writes, are packed together
//! into blocks of up to 1 MiB. So 256 random writes of 4 KiB cost one block, and the data around them is not
//! rewritten.

use super::buffer::Segment;
use crate::options::BLOCK_BYTES_MAX;
use bytes::{Bytes, BytesMut};

/// The range of a file at which a part of a packed block shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Shown {
    pub(crate) offset: u64,
    pub(crate) len: u32,
    pub(crate) block_offset: u32,
}

/// A block to be stored, and the ranges at which its parts show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Packed {
    pub(crate) data: Bytes,
    pub(crate) shown: Vec<Shown>,
}

/// Packs segments into blocks, in order. Every byte lands in exactly one block.
pub(crate) fn pack(segments: &[Segment]) -> Vec<Packed> {
    let mut packed = Vec::new();
    let mut small: Vec<&Segment> = Vec::new();
    let mut small_bytes = 0;
    for segment in segments {
        debug_assert!(segment.data.len() <= BLOCK_BYTES_MAX, "segments are cut at a block's length");
        if segment.data.len() == BLOCK_BYTES_MAX {
            packed.push(join(&[segment]));
            continue;
        }
        if small_bytes + segment.data.len() > BLOCK_BYTES_MAX {
            packed.push(join(&small));
            small.clear();
            small_bytes = 0;
        }
        small.push(segment);
        small_bytes += segment.data.len();
    }
    if !small.is_empty() {
        packed.push(join(&small));
    }
    packed
}

fn join(segments: &[&Segment]) -> Packed {
    let shown = |segment: &Segment, block_offset: usize| Shown {
        offset: segment.offset,
        len: segment.data.len() as u32,
        block_offset: block_offset as u32,
    };
    if let [one] = segments {
        return Packed { data: one.data.clone(), shown: vec![shown(one, 0)] };
    }
    let mut data = BytesMut::with_capacity(segments.iter().map(|segment| segment.data.len()).sum());
    let mut places = Vec::with_capacity(segments.len());
    for segment in segments {
        places.push(shown(segment, data.len()));
        data.extend_from_slice(&segment.data);
    }
    Packed { data: data.freeze(), shown: places }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_byte_lands_in_one_block_at_its_place(
            lens in proptest::collection::vec(prop_oneof![1usize..5000, 500_000usize..BLOCK_BYTES_MAX, Just(BLOCK_BYTES_MAX)], 0..12)
        ) {
            let mut at = 7;
            let mut segments = Vec::new();
            for len in lens {
                let data: Bytes = (0..len).map(|i| (i as u64 * 31 + at) as u8).collect::<Vec<_>>().into();
                segments.push(Segment { offset: at, data });
                at += len as u64 + 3;
            }
            let packed = pack(&segments);
            let mut shown: Vec<(u64, Bytes)> = Vec::new();
            for block in &packed {
                prop_assert!(!block.data.is_empty() && block.data.len() <= BLOCK_BYTES_MAX);
                let total: usize = block.shown.iter().map(|s| s.len as usize).sum();
                prop_assert_eq!(total, block.data.len());
                for s in &block.shown {
                    let from = s.block_offset as usize;
                    shown.push((s.offset, block.data.slice(from..from + s.len as usize)));
                }
            }
            shown.sort_by_key(|(offset, _)| *offset);
            let wanted: Vec<_> = segments.iter().map(|s| (s.offset, s.data.clone())).collect();
            prop_assert_eq!(shown, wanted);
        }
    }

    #[test]
    fn small_writes_share_blocks() {
        let segments: Vec<_> =
            (0..512).map(|i| Segment { offset: i * 1_000_000, data: vec![1; 4096].into() }).collect();
        assert_eq!(pack(&segments).len(), 2);
    }
}
