//! The loops of the machine code, the same for every machine; an [`Encoder`] knows the instructions of one
//! machine.
//!
//! ```text
//! while two blocks are left:   all stripes of this block; between their loads the next block is prefetched
//! while a stripe is left:      that stripe
//! ```
//!
//! A block is 1 KiB of each share. A single stripe touches a few cache lines of one share, then a few of the
//! next. In that order the lines of ten shares arrive from the second-level cache so slowly that the
//! computation costs nothing. Prefetched share by share, they arrive half as fast again (`docs/codec.md`).

use super::super::ROW_BYTES;
use super::program::{Op, Program};
use std::collections::BTreeSet;

/// Bytes of each share in a block, which is prefetched as a whole.
const BLOCK_BYTES: usize = 1024;
/// Largest number of instructions in the loop over a block, about. Longer loops do not fit into the
/// processor's cache of decoded instructions.
const OPS_MAX: usize = 1000;
/// Fewest shares read for which prefetching gains anything.
const SHARES_MIN: usize = 4;

/// A loop of machine code.
pub(crate) struct Loop {
    /// Position of the loop's body in the code.
    pub(crate) begin: usize,
    /// Bytes that must be left of the shares for another turn.
    pub(crate) bytes: usize,
}

/// Writes the instructions of one machine. The result is a function of a list of pointers to shares and of
/// their length. The function keeps an offset into the shares, which is zero at first.
pub(crate) trait Encoder {
    /// Writes the beginning of a function that uses these shares.
    fn enter(&mut self, used: &[usize]);

    /// Writes the beginning of a loop that runs while `bytes` bytes are left from the offset on.
    fn begin(&mut self, bytes: usize) -> Loop;

    /// Writes the end of the loop, which adds `step` to the offset.
    fn end(&mut self, this: &Loop, step: usize);

    /// Writes an instruction of a program, on packets of the stripe `at` bytes after the offset.
    fn op(&mut self, op: Op, at: usize);

    /// Writes a prefetch of a share's cache line `offset` bytes after the offset. Past the share's end it has
    /// no effect.
    fn fetch(&mut self, share: usize, offset: usize);

    /// Writes the end of the function and returns all of its code; `None` when a number did not fit into an
    /// instruction.
    fn leave(self) -> Option<Vec<u8>>;
}

/// Returns the code for a program on a machine with vectors of `vector_bytes`. `used` are the shares that the
/// program touches, ascending.
pub(crate) fn assemble(
    mut encoder: impl Encoder,
    program: &Program,
    used: &[usize],
    stripe_bytes: usize,
    vector_bytes: usize,
) -> Option<Vec<u8>> {
    let stripe = |encoder: &mut dyn FnMut(Op, usize), at: usize| {
        for lane in (0..ROW_BYTES).step_by(vector_bytes) {
            program.ops.iter().for_each(|op| encoder(*op, at + lane));
        }
    };
    encoder.enter(used);
    let loaded: BTreeSet<usize> = program.loads().map(|packet| packet.share()).collect();
    let stripes = (BLOCK_BYTES / stripe_bytes).min((OPS_MAX / program.ops.len().max(1)).max(1));
    if stripes > 0 && loaded.len() >= SHARES_MIN {
        let block = stripes * stripe_bytes;
        let blocks = encoder.begin(2 * block);
        let mut ahead =
            Ahead::new(&loaded, block, stripes * ROW_BYTES / vector_bytes * program.loads().count());
        for number in 0..stripes {
            let with_fetches = &mut |op, at| {
                if let Op::Load { .. } = op {
                    ahead
                        .lines_for_a_load()
                        .iter()
                        .for_each(|(share, offset)| encoder.fetch(*share, *offset));
                }
                encoder.op(op, at);
            };
            stripe(with_fetches, number * stripe_bytes);
        }
        encoder.end(&blocks, block);
    }
    let rest = encoder.begin(stripe_bytes);
    stripe(&mut |op, at| encoder.op(op, at), 0);
    encoder.end(&rest, stripe_bytes);
    encoder.leave()
}

/// The cache lines of the next block, share by share, spread over the loads of this block.
struct Ahead {
    lines: Vec<(usize, usize)>,
    loads: usize,
    loads_done: usize,
}

impl Ahead {
    fn new(shares: &BTreeSet<usize>, block: usize, loads: usize) -> Ahead {
        let of = |share: usize| (block..2 * block).step_by(ROW_BYTES).map(move |offset| (share, offset));
        Ahead { lines: shares.iter().flat_map(|share| of(*share)).collect(), loads, loads_done: 0 }
    }

    fn lines_for_a_load(&mut self) -> &[(usize, usize)] {
        let at = |loads: usize| (loads * self.lines.len()).div_ceil(self.loads);
        self.loads_done += 1;
        &self.lines[at(self.loads_done - 1)..at(self.loads_done)]
    }
}
