//! [`RepairPlan`]: what to read to make lost shares again, and how.
//!
//! A plan names rows (packets) of each stripe, the same in every stripe, so one plan serves shares of any
//! length. A source sends only the rows that are named ([`RepairPlan::pack`]); the repairer spreads them into
//! a buffer of the share's length ([`RepairPlan::unpack`]) and lets the code execute the plan
//! ([`Code::reconstruct_from_plan`](crate::Code::reconstruct_from_plan)), which looks at no other byte.
//!
//! Where shares come from (the nearest node, the least loaded) is the caller's choice, made by what it passes
//! as available.

use std::sync::Arc;

use crate::schedule::Schedule;
use crate::{CodeError, ShareSet};

/// Which rows of one share a plan reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShareRead {
    /// The share.
    pub share: usize,
    /// Rows of each of its stripes, ascending.
    pub rows: Vec<usize>,
}

/// What to read to make lost shares again; from [`Code::repair_plan`](crate::Code::repair_plan).
#[derive(Debug, Clone)]
pub struct RepairPlan {
    pub(crate) code: CodeId,
    pub(crate) lost: ShareSet,
    pub(crate) reads: Vec<ShareRead>,
    pub(crate) rows: usize,
    pub(crate) row_bytes: usize,
    /// How an array code executes it; codes over a field go by `lost` and `reads`.
    pub(crate) schedule: Option<Arc<Schedule>>,
}

/// Tells codes apart, so that a plan is executed by the code that made it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CodeId {
    pub(crate) name: &'static str,
    pub(crate) k: usize,
    pub(crate) m: usize,
}

impl CodeId {
    /// Refuses a plan that another code made.
    pub(crate) fn check(self, plan: &RepairPlan) -> Result<(), CodeError> {
        if plan.code == self {
            return Ok(());
        }
        let say = |id: CodeId| format!("{} {}+{}", id.name, id.k, id.m);
        Err(CodeError::ForeignPlan { plan: say(plan.code), code: say(self) })
    }
}

/// Some rows of each stripe, out of whole stripes `bytes` of `stripe_rows` rows of `row_bytes`, one after the other: what a node that
/// holds a share sends, without knowing the code.
///
/// # Panics
/// When `bytes` are not whole stripes, or a stripe has no such row.
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
    /// The shares it makes.
    pub fn lost(&self) -> ShareSet {
        self.lost
    }

    /// What it reads, by share, ascending. Shares of which nothing is read are not listed.
    pub fn reads(&self) -> &[ShareRead] {
        &self.reads
    }

    /// The shares it reads from.
    pub fn sources(&self) -> ShareSet {
        self.reads.iter().map(|read| read.share).collect()
    }

    /// Bytes of a row.
    pub fn row_bytes(&self) -> usize {
        self.row_bytes
    }

    /// Bytes of each share that one stripe takes.
    pub fn stripe_bytes(&self) -> usize {
        self.rows * self.row_bytes
    }

    /// Rows read for each stripe, over all shares.
    pub fn rows_per_stripe(&self) -> usize {
        self.reads.iter().map(|read| read.rows.len()).sum()
    }

    /// Bytes read for each stripe, over all shares.
    pub fn bytes_per_stripe(&self) -> usize {
        self.rows_per_stripe() * self.row_bytes
    }

    /// Bytes read in all, for shares of this many bytes.
    pub fn bytes(&self, share_bytes: usize) -> usize {
        share_bytes / self.stripe_bytes() * self.bytes_per_stripe()
    }

    /// The rows that the plan reads of `share`, out of its whole stripes `bytes`, one after the other.
    ///
    /// # Panics
    /// When `bytes` are not whole stripes.
    pub fn pack(&self, share: usize, bytes: &[u8]) -> Vec<u8> {
        pack_rows(bytes, self.row_bytes, self.rows, self.rows_of(share))
    }

    /// Rows of a stripe of each share.
    pub fn stripe_rows(&self) -> usize {
        self.rows
    }

    /// The inverse of [`RepairPlan::pack`]: puts rows where they were in the share. Other bytes of `bytes`
    /// stay.
    ///
    /// # Panics
    /// When `packed` is not what `pack` gives for a share of the length of `bytes`.
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

    /// The rows of each stripe that it reads of a share, ascending; none of a share that it does not read.
    pub fn rows_of(&self, share: usize) -> &[usize] {
        self.reads.iter().find(|read| read.share == share).map_or(&[], |read| &read.rows)
    }
}
