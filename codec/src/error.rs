//! [`CodeError`]: every reason for which a code refuses a call, with the values that caused it.

use thiserror::Error;

use crate::ShareSet;

/// The reason why a code does not exist or refused a call. The call has written to no buffer.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CodeError {
    /// No code has the given name.
    #[error("there is no code {name:?}; there are {}", known.join(", "))]
    UnknownCode {
        /// The name given.
        name: String,
        /// The names of all codes.
        known: &'static [&'static str],
    },
    /// The code exists, but not for this k and m.
    #[error("code {code} cannot be k={k}, m={m}: it needs {rule}; the codes are {}", known.join(", "))]
    Geometry {
        /// The code's name.
        code: &'static str,
        /// Data shares asked for.
        k: usize,
        /// Parity shares asked for.
        m: usize,
        /// The rule that k and m break.
        rule: &'static str,
        /// The names of all codes.
        known: &'static [&'static str],
    },
    /// The caller passed the wrong number of buffers.
    #[error("{given} share buffers were given, the code has {expected}")]
    ShareCount {
        /// Number of buffers passed.
        given: usize,
        /// Number of shares of the code.
        expected: usize,
    },
    /// Two buffers have different lengths.
    #[error("share {share} has {len} bytes, others have {expected}")]
    ShareLength {
        /// The share whose length differs from the lengths before it.
        share: usize,
        /// Length of this share, bytes.
        len: usize,
        /// Length of the shares before it, bytes.
        expected: usize,
    },
    /// The buffers end within a stripe.
    #[error("shares of {len} bytes are not whole stripes of {stripe_bytes} bytes")]
    PartialStripe {
        /// Length of the buffers, bytes.
        len: usize,
        /// Length of a stripe, bytes; the buffers must be a multiple of it.
        stripe_bytes: usize,
    },
    /// A set names a share that the code does not have.
    #[error("share {share} was named, the code has shares 0 to {}", n - 1)]
    NoSuchShare {
        /// The share that was named.
        share: usize,
        /// Number of shares of the code.
        n: usize,
    },
    /// More shares are lost than the code survives.
    #[error("{} shares are there ({present}), {needed} are needed", present.len())]
    TooFewShares {
        /// The available shares.
        present: ShareSet,
        /// Number of shares that the code needs.
        needed: usize,
    },
    /// The code's equations do not determine the wanted shares: the code is not MDS for this loss.
    #[error("shares {wanted} do not follow from {present}")]
    Undetermined {
        /// The available shares.
        present: ShareSet,
        /// The wanted shares.
        wanted: ShareSet,
    },
    /// An update reaches past the end of the share.
    #[error("an update of {len} bytes at {offset} reaches past a share of {share_bytes} bytes")]
    UpdateOutside {
        /// First byte of the update.
        offset: usize,
        /// Length of the update, bytes.
        len: usize,
        /// Length of the share, bytes.
        share_bytes: usize,
    },
    /// An update addresses bytes of parity.
    #[error("byte {offset} of share {share} is parity, not data")]
    NotData {
        /// The share of the update.
        share: usize,
        /// The first byte that is parity.
        offset: usize,
    },
    /// Another code made the repair plan.
    #[error("the plan is for {plan}, the code is {code}")]
    ForeignPlan {
        /// The code that made the plan.
        plan: String,
        /// The code that was asked to execute it.
        code: String,
    },
}
