//! [`Code`]: the interface of every erasure code, and its terms.
//!
//! A **share** is cut into **stripes**, and a stripe into **rows** (the papers' packets). The same stripe of
//! all n shares is one code word. So equal stripe-aligned ranges of the shares are themselves the shares of a
//! smaller block, and a partial read decodes only the range that it read
//! (`any_range_of_stripes_decodes_alone`).
//!
//! Only [`Code::locate`] knows the positions of a block's data in the shares (`locate_is_a_bijection`). In a
//! horizontal code the first k shares are the data. In a vertical code (X-Code, B-Code) every share has some
//! rows of data and some of parity.
//!
//! Left out: headers, checksums and the decision whether a share is trustworthy, which belong to the share
//! store.

use std::fmt::Debug;
use std::ops::Range;

use crate::{CodeError, RepairPlan, ShareSet, Stores};

/// A range of a block's bytes that is contiguous in one share, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// The share.
    pub share: usize,
    /// Offset in the share, bytes.
    pub share_offset: usize,
    /// Offset in the block, bytes.
    pub block_offset: usize,
    /// Length, bytes.
    pub len: usize,
}

/// The result of [`Code::verify`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The shares are consistent.
    Clean,
    /// Exactly one share is wrong, this one. Needs m >= 2. With more than m - 1 wrong shares the result may
    /// name an innocent share; a checksum, where there is one, decides.
    WrongShare(usize),
    /// The shares are inconsistent, and no single share explains it.
    Inconsistent,
}

/// An erasure code (n, k): it turns a block into n shares, and any k of the shares restore the block.
///
/// All shares of a block have the same length, a multiple of [`stripe_bytes`](Code::stripe_bytes). Buffers
/// are passed as n slices in the order of the shares. An operation that fails has written nothing.
pub trait Code: Send + Sync + Debug {
    /// Returns the name by which [`by_name`](crate::by_name) finds the code.
    fn name(&self) -> &'static str;

    /// Returns the number of shares that suffice to restore a block.
    fn k(&self) -> usize;

    /// Returns the number of shares that may be lost.
    fn m(&self) -> usize;

    /// Returns the number of shares of a block.
    fn n(&self) -> usize {
        self.k() + self.m()
    }

    /// Returns the number of rows of one share in one stripe; a [`RepairPlan`] counts in rows.
    fn rows(&self) -> usize;

    /// Returns the number of bytes of one share in one code word. Any range of the shares that starts and
    /// ends on a multiple of it is a sequence of whole code words: it can be encoded, verified and
    /// reconstructed alone.
    fn stripe_bytes(&self) -> usize;

    /// Returns the length of each share of a block of this many bytes: a multiple of `stripe_bytes`, and 0
    /// for 0.
    fn share_bytes(&self, block_bytes: usize) -> usize;

    /// Returns the positions of the bytes `range` of a block in its shares, in block order; each piece lies
    /// in one share. The part of `range` past the end of the block is ignored.
    ///
    /// In a horizontal code, data share i holds the block's bytes from i*S to (i+1)*S, padded with zeros at
    /// the end; S is `share_bytes`.
    fn locate(&self, block_bytes: usize, range: Range<usize>) -> Vec<Piece>;

    /// Computes the parity. `shares` are n buffers of equal length, with the data at the positions of
    /// `locate` and zeros in the other data bytes. Fails when the buffers do not fit the code.
    fn encode(&self, shares: &mut [&mut [u8]]) -> Result<(), CodeError> {
        self.encode_with(shares, Stores::Cached)
    }

    /// Computes the parity like [`encode`](Code::encode); `stores` selects the store instructions. Codes
    /// without a choice ignore it.
    fn encode_with(&self, shares: &mut [&mut [u8]], stores: Stores) -> Result<(), CodeError>;

    /// Computes every share of `wanted` that is not in `present` from the shares in `present`. Writes to no
    /// other share. The buffers of shares in neither set may be empty. Fails when fewer than k shares are
    /// present, or when the buffers do not fit the code.
    fn reconstruct(
        &self,
        shares: &mut [&mut [u8]],
        present: ShareSet,
        wanted: ShareSet,
    ) -> Result<(), CodeError> {
        self.reconstruct_with(shares, present, wanted, Stores::Cached)
    }

    /// Computes shares like [`reconstruct`](Code::reconstruct); `stores` selects the store instructions.
    fn reconstruct_with(
        &self,
        shares: &mut [&mut [u8]],
        present: ShareSet,
        wanted: ShareSet,
        stores: Stores,
    ) -> Result<(), CodeError>;

    /// Checks n complete shares and finds a single wrong one where the code can (m >= 2). Fails when the
    /// buffers do not fit the code.
    fn verify(&self, shares: &[&[u8]]) -> Result<Verdict, CodeError>;

    /// Carries a change of data into the parity. `delta` is old XOR new of the bytes from `offset` on in
    /// share `share`; it needs no alignment. Only the parity bytes that depend on the change are written. The
    /// caller writes the data itself, before or after. An empty buffer stands for a share that is stored
    /// elsewhere and is skipped, so a node with one parity share can apply a delta to it alone. Fails when
    /// the bytes are parity or lie outside the share.
    fn update(
        &self,
        share: usize,
        offset: usize,
        delta: &[u8],
        shares: &mut [&mut [u8]],
    ) -> Result<(), CodeError>;

    /// Returns the rows of available shares that suffice to make the `lost` shares, with as few bytes read as
    /// the code can. Fails when fewer than k shares are available.
    fn repair_plan(&self, lost: ShareSet, available: ShareSet) -> Result<RepairPlan, CodeError>;

    /// Makes the lost shares of `plan`. Reads only the rows that the plan names. The buffers of shares that
    /// it neither reads nor makes may be empty. Fails when another code made the plan.
    fn reconstruct_from_plan(&self, plan: &RepairPlan, shares: &mut [&mut [u8]]) -> Result<(), CodeError>;

    /// Copies a block's bytes into n buffers of `share_bytes(block.len())` zeros, ready for
    /// [`encode`](Code::encode). Fails when a buffer has another length.
    fn split(&self, block: &[u8], shares: &mut [&mut [u8]]) -> Result<(), CodeError> {
        check_full(shares.iter().map(|share| share.len()), self.n(), self.share_bytes(block.len()))?;
        for piece in self.locate(block.len(), 0..block.len()) {
            shares[piece.share][piece.share_offset..][..piece.len]
                .copy_from_slice(&block[piece.block_offset..][..piece.len]);
        }
        Ok(())
    }

    /// Copies a block's bytes out of the data shares; the inverse of [`split`](Code::split). The buffers of
    /// shares without data of the block may be empty. Fails when a buffer that is needed has another length.
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

/// Checks that there are n buffers and that the buffers in `used` have the same length, in whole stripes.
/// Returns that length.
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
        // Most lengths are as expected and need no lookup in `used`.
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

/// Checks that the sets name only shares of the code, and that at least `k` shares are in `present`.
pub(crate) fn check_sets(present: ShareSet, wanted: ShareSet, n: usize, k: usize) -> Result<(), CodeError> {
    if let Some(share) = present.union(wanted).minus(ShareSet::all(n)).iter().next() {
        return Err(CodeError::NoSuchShare { share, n });
    }
    if present.len() < k {
        return Err(CodeError::TooFewShares { present, needed: k });
    }
    Ok(())
}

/// Checks the arguments of [`Code::update`]: the change must lie within the share. Returns the length of the
/// buffers that are not empty, or `None` when all are empty.
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
