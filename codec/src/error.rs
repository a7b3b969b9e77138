//! [`CodeError`]: what a caller can get wrong, or lose too much of, with the values.

use thiserror::Error;

use crate::ShareSet;

/// Why a code could not be made, or could not do what was asked. Nothing has been written to any buffer then.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CodeError {
    /// No code has this name.
    #[error("there is no code {name:?}; there are {}", known.join(", "))]
    UnknownCode {
        /// The name given.
        name: String,
        /// The names there are.
        known: &'static [&'static str],
    },
    /// The code exists, but not with these numbers.
    #[error("code {code} cannot be k={k}, m={m}: it needs {rule}; the codes are {}", known.join(", "))]
    Geometry {
        /// The code's name.
        code: &'static str,
        /// Data shares asked for.
        k: usize,
        /// Parity shares asked for.
        m: usize,
        /// The rule that is broken.
        rule: &'static str,
        /// The names of the codes there are.
        known: &'static [&'static str],
    },
    /// The wrong number of buffers.
    #[error("{given} share buffers were given, the code has {expected}")]
    ShareCount {
        /// Buffers given.
        given: usize,
        /// Shares of the code.
        expected: usize,
    },
    /// Buffers of different lengths.
    #[error("share {share} has {len} bytes, others have {expected}")]
    ShareLength {
        /// The share that differs from those before it.
        share: usize,
        /// Its length.
        len: usize,
        /// The length of those before it.
        expected: usize,
    },
    /// Buffers that end within a stripe.
    #[error("shares of {len} bytes are not whole stripes of {stripe_bytes} bytes")]
    PartialStripe {
        /// The length of the buffers.
        len: usize,
        /// What it must be a multiple of.
        stripe_bytes: usize,
    },
    /// A set names a share that the code has not.
    #[error("share {share} was named, the code has shares 0 to {}", n - 1)]
    NoSuchShare {
        /// The share.
        share: usize,
        /// How many the code has.
        n: usize,
    },
    /// Too much is lost.
    #[error("{} shares are there ({present}), {needed} are needed", present.len())]
    TooFewShares {
        /// The shares that are there.
        present: ShareSet,
        /// How many must be.
        needed: usize,
    },
    /// The code's equations do not determine what was asked for: the code is not MDS for this loss.
    #[error("shares {wanted} do not follow from {present}")]
    Undetermined {
        /// The shares that are there.
        present: ShareSet,
        /// The shares that were asked for.
        wanted: ShareSet,
    },
    /// An update outside the share.
    #[error("an update of {len} bytes at {offset} reaches past a share of {share_bytes} bytes")]
    UpdateOutside {
        /// Where it begins.
        offset: usize,
        /// How long it is.
        len: usize,
        /// The length of the share.
        share_bytes: usize,
    },
    /// An update of bytes that hold no data.
    #[error("byte {offset} of share {share} is parity, not data")]
    NotData {
        /// The share.
        share: usize,
        /// The byte in it.
        offset: usize,
    },
    /// A plan of another code.
    #[error("the plan is for {plan}, the code is {code}")]
    ForeignPlan {
        /// The code the plan was made by.
        plan: String,
        /// The code that was to execute it.
        code: String,
    },
}
