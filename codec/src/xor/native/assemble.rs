//! How machine code goes over the stripes, the same for every machine; a machine's [`Encoder`] knows the instructions.
//!
//! ```text
//! while two blocks are left:   all stripes of this block, and between their loads the next block is fetched into the cache
//! while a stripe is left:      that stripe
//! ```
//!
//! A block is 1 KiB of each share. A stripe alone touches four lines here and four there; asked for in that order, the lines of
//! ten shares come from the second-level cache no faster than if nothing were computed at all. Fetched ahead one run after the other
//! they come half as fast again (`docs/codec.md`).

use super::super::ROW_BYTES;
use super::program::{Op, Program};
use std::collections::BTreeSet;

/// Bytes of each share in a block.
const BLOCK_BYTES: usize = 1024;
/// Instructions of all the stripes of a block, about: longer loops do not fit the processor's cache of decoded ones.
const OPS_MAX: usize = 1000;
/// Shares read from which on there is something to gain.
const SHARES_MIN: usize = 4;

/// A loop of machine code.
pub(crate) struct Loop {
    /// Where its body begins in the code.
    pub(crate) begin: usize,
    /// What must be left of the shares for another turn, bytes.
    pub(crate) bytes: usize,
}

/// Writes the instructions of one machine: a function of a list of pointers to shares and their length, which keeps an offset, zero at
/// first.
pub(crate) trait Encoder {
    /// The begin of the function, which uses these shares.
    fn enter(&mut self, used: &[usize]);

    /// The begin of a loop that is done while so many bytes are left from the offset on.
    fn begin(&mut self, bytes: usize) -> Loop;

    /// Its end: the offset grows by `step`.
    fn end(&mut self, this: &Loop, step: usize);

    /// An instruction of a program, on packets of the stripe so many bytes after the offset.
    fn op(&mut self, op: Op, at: usize);

    /// Asks for a line of a share, so many bytes after the offset; past the share's end it does nothing.
    fn fetch(&mut self, share: usize, offset: usize);

    /// The end of the function, and all of its code; none where something was too large for the machine's instructions.
    fn leave(self) -> Option<Vec<u8>>;
}

/// Code for a program on a machine with such vectors. `used`: the shares that it touches, ascending.
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

/// The lines of the next block, share by share, spread over the loads of this one.
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
