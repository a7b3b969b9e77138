//! [`RepairPlan`]: the rows to read in order to make lost shares, and the schedule that makes them.
//!
//! A plan names rows (packets) of each stripe. The rows are the same in every stripe, so one plan serves
//! shares of any length. A source sends only the named rows ([`RepairPlan::pack`]). The repairing node
//! spreads them into a buffer of the share's length ([`RepairPlan::unpack`]) and executes the plan
//! ([`Code::reconstruct_from_plan`](crate::Code::reconstruct_from_plan)), which reads no other byte
//! (`every_plan_rebuilds_what_it_promises_from_what_it_names`).
//!
//! Left out: the choice of sources (the nearest node, the least loaded one). The caller makes it by the set
//! of available shares that it passes.

use std::sync::Arc;

use crate::schedule::Schedule;
use crate::{CodeError, ShareSet};

/// The rows of one share that a plan reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShareRead {
    /// The share.
    pub share: usize,
    /// The rows of each stripe, ascending.
    pub rows: Vec<usize>,
}

/// The rows to read in order to make lost shares; [`Code::repair_plan`](crate::Code::repair_plan) returns it.
#[derive(Debug, Clone)]
pub struct RepairPlan {
    pub(crate) code: CodeId,
    pub(crate) lost: ShareSet,
    pub(crate) reads: Vec<ShareRead>,
    pub(crate) rows: usize,
    pub(crate) row_bytes: usize,
    /// The schedule of an array code; codes over a field need only `lost` and `reads`.
    pub(crate) schedule: Option<Arc<Schedule>>,
}

/// The identity of a code, so that only the code that made a plan executes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CodeId {
    pub(crate) name: &'static str,
    pub(crate) k: usize,
    pub(crate) m: usize,
}

impl CodeId {
    /// Fails when another code made the plan.
    pub(crate) fn check(self, plan: &RepairPlan) -> Result<(), CodeError> {
        if plan.code == self {
            return Ok(());
        }
        let say = |id: CodeId| format!("{} {}+{}", id.name, id.k, id.m);
        Err(CodeError::ForeignPlan { plan: say(plan.code), code: say(self) })
    }
}

/// Returns the given rows of each stripe of `bytes`, one after the other. `bytes` are whole stripes of
/// `stripe_rows` rows of `row_bytes`. A node that stores a share uses this to send rows without knowing the
/// code.
///
/// # Panics
/// When `bytes` are not whole stripes, or when a row number is not below `stripe_rows`.
pub fn pack_rows(bytes: &[u8], row_bytes: usize, stripe_rows: usize, rows: &[usize]) -> Vec<u8> {
    let stripe_bytes = row_bytes * stripe_rows;
    assert!(bytes.len().is_multiple_of(stripe_bytes), "{} bytes are not whole stripes", bytes.len());
    let mut packed = Vec::with_capacity(bytes.len() / stripe_rows * rows.len());
    for stripe in bytes.chunks_exact(stripe_bytes) {
        for &row in rows {
            packed.extend_from_slice(&stripe[row * row_bytes..][..row_bytes]);
        }
    }
    packed
}

impl RepairPlan {
    /// Returns the shares that the plan makes.
    pub fn lost(&self) -> ShareSet {
        self.lost
    }

    /// Returns the rows that the plan reads, by share, ascending. Shares that it does not read are not
    /// listed.
    pub fn reads(&self) -> &[ShareRead] {
        &self.reads
    }

    /// Returns the shares that the plan reads.
    pub fn sources(&self) -> ShareSet {
        self.reads.iter().map(|read| read.share).collect()
    }

    /// Returns the length of a row, bytes.
    pub fn row_bytes(&self) -> usize {
        self.row_bytes
    }

    /// Returns the length of a stripe of one share, bytes.
    pub fn stripe_bytes(&self) -> usize {
        self.rows * self.row_bytes
    }

    /// Returns the number of rows read for each stripe, over all shares.
    pub fn rows_per_stripe(&self) -> usize {
        self.reads.iter().map(|read| read.rows.len()).sum()
    }

    /// Returns the number of bytes read for each stripe, over all shares.
    pub fn bytes_per_stripe(&self) -> usize {
        self.rows_per_stripe() * self.row_bytes
    }

    /// Returns the number of bytes read in all, for shares of `share_bytes`.
    pub fn bytes(&self, share_bytes: usize) -> usize {
        share_bytes / self.stripe_bytes() * self.bytes_per_stripe()
    }

    /// Returns the rows of `share` that the plan reads, one after the other. `bytes` are whole stripes of the
    /// share.
    ///
    /// # Panics
    /// When `bytes` are not whole stripes.
    pub fn pack(&self, share: usize, bytes: &[u8]) -> Vec<u8> {
        pack_rows(bytes, self.row_bytes, self.rows, self.rows_of(share))
    }

    /// Returns the number of rows in a stripe of one share.
    pub fn stripe_rows(&self) -> usize {
        self.rows
    }

    /// Puts packed rows back to their positions in the share; the inverse of [`RepairPlan::pack`]. Other
    /// bytes of `bytes` stay unchanged.
    ///
    /// # Panics
    /// When `packed` does not have the length that `pack` gives for a share of the length of `bytes`.
    pub fn unpack(&self, share: usize, packed: &[u8], bytes: &mut [u8]) {
        let rows = self.rows_of(share);
        let stripes = bytes.len() / self.stripe_bytes();
        assert_eq!(packed.len(), stripes * rows.len() * self.row_bytes, "packed rows of {stripes} stripes");
        let mut next = packed.chunks_exact(self.row_bytes);
        for stripe in bytes.chunks_exact_mut(self.stripe_bytes()) {
            for (&row, from) in rows.iter().zip(&mut next) {
                stripe[row * self.row_bytes..][..self.row_bytes].copy_from_slice(from);
            }
        }
    }

    /// Returns the rows of each stripe that the plan reads of a share, ascending; empty for a share that it
    /// does not read.
    pub fn rows_of(&self, share: usize) -> &[usize] {
        self.reads.iter().find(|read| read.share == share).map_or(&[], |read| &read.rows)
    }
}
