//! [`Code`]: what every erasure code here can do, and the words for it.
//!
//! A **share** is cut into **stripes**, and a stripe into **rows** (the papers' packets). One stripe of all n
//! shares is one code word, so equal stripe-aligned ranges of the shares are a smaller block's shares in
//! their own right: a partial read decodes only what it read. Where a block's data lies in the shares is for
//! [`Code::locate`] alone to say: in a horizontal code the first k shares are the data, in a vertical one
//! (X-Code, B-Code) every share holds some rows of data and some of parity.
//!
//! Left out: headers, checksums and whether a share is to be believed; those are the share store's business.

use std::fmt::Debug;
use std::ops::Range;

use crate::{CodeError, RepairPlan, ShareSet, Stores};

/// A run of a block's bytes that is also a run of one share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// The share.
    pub share: usize,
    /// Where in the share it begins.
    pub share_offset: usize,
    /// Where in the block it begins.
    pub block_offset: usize,
    /// Bytes.
    pub len: usize,
}

/// What [`Code::verify`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The shares belong together.
    Clean,
    /// They would, if this one share were another. It takes m >= 2 to tell which. (With more than m - 1 wrong
    /// shares the answer may name an innocent one; a checksum decides where there is one.)
    WrongShare(usize),
    /// They do not, and no single share explains it.
    Inconsistent,
}

/// An erasure code (n, k): a block becomes n shares, and any k of them give it back.
///
/// All shares of a block have the same length, a multiple of [`stripe_bytes`](Code::stripe_bytes). Buffers
/// are passed as n slices in the order of the shares. An operation that fails has written nothing.
pub trait Code: Send + Sync + Debug {
    /// The name by which [`by_name`](crate::by_name) finds it.
    fn name(&self) -> &'static str;

    /// Shares that suffice.
    fn k(&self) -> usize;

    /// Shares that may be lost.
    fn m(&self) -> usize;

    /// Shares of a block.
    fn n(&self) -> usize {
        self.k() + self.m()
    }

    /// Rows of a share in one stripe; what a [`RepairPlan`] counts in.
    fn rows(&self) -> usize;

    /// Bytes of a share that one code word spans. Any range of the shares that starts and ends on a multiple
    /// of it is a sequence of code words of its own: it can be encoded, verified and reconstructed alone.
    fn stripe_bytes(&self) -> usize;

    /// Length of each share of a block of this many bytes: a multiple of `stripe_bytes`; 0 for 0.
    fn share_bytes(&self, block_bytes: usize) -> usize;

    /// Where the bytes `range` of a block lie in its shares: pieces in block order, each one run of one
    /// share. What of `range` lies past the block is passed over.
    ///
    /// In a horizontal code, data share i holds the block's bytes from i*S to (i+1)*S, S being `share_bytes`,
    /// padded with zeros at the end.
    fn locate(&self, block_bytes: usize, range: Range<usize>) -> Vec<Piece>;

    /// Fills in the parity. `shares` are n buffers of equal length, with the data placed as `locate` says and
    /// zeros where no data is.
    fn encode(&self, shares: &mut [&mut [u8]]) -> Result<(), CodeError> {
        self.encode_with(shares, Stores::Cached)
    }

    /// [`encode`](Code::encode), with a word on how the parity is written. Codes that have one way only ignore it.
    fn encode_with(&self, shares: &mut [&mut [u8]], stores: Stores) -> Result<(), CodeError>;

    /// Fills every share of `wanted` that is not in `present` from those that are; at least k must be
    /// present. Writes to no other share. The buffers of shares in neither set may be empty.
    fn reconstruct(
        &self,
        shares: &mut [&mut [u8]],
        present: ShareSet,
        wanted: ShareSet,
    ) -> Result<(), CodeError> {
        self.reconstruct_with(shares, present, wanted, Stores::Cached)
    }

    /// [`reconstruct`](Code::reconstruct), with a word on how the shares are written.
    fn reconstruct_with(
        &self,
        shares: &mut [&mut [u8]],
        present: ShareSet,
        wanted: ShareSet,
        stores: Stores,
    ) -> Result<(), CodeError>;

    /// Checks n complete shares, and finds the wrong one where the code can (m >= 2).
    fn verify(&self, shares: &[&[u8]]) -> Result<Verdict, CodeError>;

    /// Carries a change of data into the parity. `delta` is old XOR new of the bytes from `offset` on in
    /// share `share`, which must be data, not parity; no alignment is asked of it. Only the parity bytes that
    /// depend on it are touched: the data itself is the caller's to write, before or after. An empty buffer
    /// stands for a share that is held elsewhere and is passed over, so a node that holds one parity share
    /// can apply a delta to it alone.
    fn update(
        &self,
        share: usize,
        offset: usize,
        delta: &[u8],
        shares: &mut [&mut [u8]],
    ) -> Result<(), CodeError>;

    /// Which rows of which available shares suffice to make the `lost` shares again, as few bytes as the code
    /// knows how.
    fn repair_plan(&self, lost: ShareSet, available: ShareSet) -> Result<RepairPlan, CodeError>;

    /// Makes the shares that `plan` promises. Reads only the rows that it names; the buffers of shares that
    /// it neither reads nor makes may be empty.
    fn reconstruct_from_plan(&self, plan: &RepairPlan, shares: &mut [&mut [u8]]) -> Result<(), CodeError>;

    /// Places a block's bytes into n buffers of `share_bytes(block.len())` zeros, ready for
    /// [`encode`](Code::encode).
    fn split(&self, block: &[u8], shares: &mut [&mut [u8]]) -> Result<(), CodeError> {
        check_full(shares.iter().map(|share| share.len()), self.n(), self.share_bytes(block.len()))?;
        for piece in self.locate(block.len(), 0..block.len()) {
            shares[piece.share][piece.share_offset..][..piece.len]
                .copy_from_slice(&block[piece.block_offset..][..piece.len]);
        }
        Ok(())
    }

    /// Takes a block's bytes out of the shares that hold data; the inverse of [`split`](Code::split). The
    /// buffers of shares that hold none of it may be empty.
    fn join(&self, shares: &[&[u8]], block: &mut [u8]) -> Result<(), CodeError> {
        let pieces = self.locate(block.len(), 0..block.len());
        let needed: ShareSet = pieces.iter().map(|piece| piece.share).collect();
        let lens = shares.iter().map(|share| share.len());
        let len = check_lengths(lens, self.n(), self.stripe_bytes(), needed)?;
        let expected = self.share_bytes(block.len());
        if len != expected {
            let share = needed.iter().next().unwrap_or(0);
            return Err(CodeError::ShareLength { share, len, expected });
        }
        for piece in pieces {
            block[piece.block_offset..][..piece.len]
                .copy_from_slice(&shares[piece.share][piece.share_offset..][..piece.len]);
        }
        Ok(())
    }
}

/// Checks that there are n buffers and that those in `used` are equally long, in whole stripes. Returns their
/// length.
pub(crate) fn check_lengths(
    lens: impl ExactSizeIterator<Item = usize>,
    n: usize,
    stripe_bytes: usize,
    used: ShareSet,
) -> Result<usize, CodeError> {
    if lens.len() != n {
        return Err(CodeError::ShareCount { given: lens.len(), expected: n });
    }
    let mut expected = None;
    for (share, len) in lens.enumerate() {
        // Most lengths are as expected, and need no look at `used`.
        if expected != Some(len) && used.contains(share) {
            match expected {
                None => expected = Some(len),
                Some(expected) => return Err(CodeError::ShareLength { share, len, expected }),
            }
        }
    }
    let len = expected.unwrap_or(0);
    if !len.is_multiple_of(stripe_bytes) {
        return Err(CodeError::PartialStripe { len, stripe_bytes });
    }
    Ok(len)
}

fn check_full(
    lens: impl ExactSizeIterator<Item = usize>,
    n: usize,
    expected: usize,
) -> Result<(), CodeError> {
    if lens.len() != n {
        return Err(CodeError::ShareCount { given: lens.len(), expected: n });
    }
    for (share, len) in lens.enumerate() {
        if len != expected {
            return Err(CodeError::ShareLength { share, len, expected });
        }
    }
    Ok(())
}

/// Checks that the sets name only shares of the code, and that at least `k` are in `present`.
pub(crate) fn check_sets(present: ShareSet, wanted: ShareSet, n: usize, k: usize) -> Result<(), CodeError> {
    if let Some(share) = present.union(wanted).minus(ShareSet::all(n)).iter().next() {
        return Err(CodeError::NoSuchShare { share, n });
    }
    if present.len() < k {
        return Err(CodeError::TooFewShares { present, needed: k });
    }
    Ok(())
}

/// Checks the arguments of [`Code::update`]: the change must lie in the share. Returns the length of the
/// buffers that are not empty, or `None` when all are.
pub(crate) fn check_update(
    share: usize,
    offset: usize,
    delta: &[u8],
    shares: &[&mut [u8]],
    n: usize,
    stripe_bytes: usize,
) -> Result<Option<usize>, CodeError> {
    if share >= n {
        return Err(CodeError::NoSuchShare { share, n });
    }
    let held: ShareSet =
        shares.iter().enumerate().take(n).filter(|(_, buffer)| !buffer.is_empty()).map(|(i, _)| i).collect();
    let len = check_lengths(shares.iter().map(|buffer| buffer.len()), n, stripe_bytes, held)?;
    if held.is_empty() {
        return Ok(None);
    }
    match offset.checked_add(delta.len()) {
        Some(end) if end <= len => Ok(Some(len)),
        _ => Err(CodeError::UpdateOutside { offset, len: delta.len(), share_bytes: len }),
    }
}
