//! The one table from errors of the client and the namespace to the errno that a program sees.
//!
//! Invariant: every variant is named, so that a new one does not compile before its errno is decided here. A
//! program only gets the number. The rest (which nodes are missing, what to do) is in the error's text, which
//! the caller logs.

use fuser::Errno;
use rain_client::Error;
use rain_namespace::error::NsError;

/// The errno for a failure of the client.
pub(crate) fn of(error: &Error) -> Errno {
    match error {
        Error::Refused(refusal) => of_refusal(refusal),
        Error::NoSpace { .. } => Errno::ENOSPC,
        Error::NoData => Errno::ENXIO,
        // Nothing was changed, and nothing can be changed: without a majority the namespace is read-only.
        Error::NoMajority { may_be_done: false, .. } => Errno::EROFS,
        Error::NoMajority { may_be_done: true, .. }
        | Error::Unreachable { .. }
        | Error::LockLost
        | Error::Damaged { .. }
        | Error::TimedOut { .. }
        | Error::NoCluster { .. }
        | Error::Foreign { .. }
        | Error::Protocol(_) => Errno::EIO,
    }
}

/// The errno for a refusal of the namespace.
pub(crate) fn of_refusal(refusal: &NsError) -> Errno {
    match refusal {
        NsError::NotFound => Errno::ENOENT,
        NsError::Exists => Errno::EEXIST,
        NsError::NotDirectory => Errno::ENOTDIR,
        NsError::IsDirectory => Errno::EISDIR,
        NsError::NotEmpty => Errno::ENOTEMPTY,
        NsError::NameTooLong { .. } => Errno::ENAMETOOLONG,
        NsError::Invalid(_) => Errno::EINVAL,
        NsError::Stale => Errno::ESTALE,
        NsError::NoAttribute => Errno::NO_XATTR,
        // setxattr(2): "insufficient space remaining to store the extended attribute".
        NsError::AttributesTooLarge => Errno::ENOSPC,
        NsError::TooManyLinks => Errno::EMLINK,
        NsError::FileTooLarge => Errno::EFBIG,
        NsError::NotPermitted(_) => Errno::EPERM,
        NsError::CrossVolume => Errno::EXDEV,
        NsError::Deadlock => Errno::EDEADLK,
        NsError::TooManyLocks => Errno::ENOLCK,
        // The client has recalled the delegation and waited for it in vain.
        NsError::Delegated { .. } => Errno::EBUSY,
        // The client handles these itself (blocks instead of inline data, a new session). One that comes this
        // far is a fault of RAIN, not a program's mistake.
        NsError::NotInline | NsError::HasInline | NsError::SessionEnded(_) => Errno::EIO,
        NsError::GuardFailed | NsError::NameChanged => Errno::ESTALE,
        // Never an answer to a request of a mount.
        NsError::TooFewNodes { .. } | NsError::Malformed(_) | NsError::Answered(_) => Errno::EIO,
    }
}

/// Whether the failure is one of the cluster, whose text belongs in the log. A refusal is an everyday answer,
/// except one that a program sees as EIO.
pub(crate) fn is_trouble(error: &Error) -> bool {
    match error {
        Error::Refused(refusal) => of_refusal(refusal).code() == libc::EIO,
        Error::NoData => false,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rain_types::{NodeId, SessionId};
    use std::time::Duration;

    #[test]
    fn every_refusal_has_the_errno_that_programs_expect() {
        let table = [
            (NsError::NotFound, libc::ENOENT),
            (NsError::Exists, libc::EEXIST),
            (NsError::NotDirectory, libc::ENOTDIR),
            (NsError::IsDirectory, libc::EISDIR),
            (NsError::NotEmpty, libc::ENOTEMPTY),
            (NsError::NameTooLong { bytes: 256, limit: 255 }, libc::ENAMETOOLONG),
            (NsError::Invalid("x".into()), libc::EINVAL),
            (NsError::Stale, libc::ESTALE),
            (NsError::NotInline, libc::EIO),
            (NsError::HasInline, libc::EIO),
            (NsError::GuardFailed, libc::ESTALE),
            (NsError::NameChanged, libc::ESTALE),
            (NsError::NoAttribute, libc::ENODATA),
            (NsError::AttributesTooLarge, libc::ENOSPC),
            (NsError::TooManyLinks, libc::EMLINK),
            (NsError::FileTooLarge, libc::EFBIG),
            (NsError::NotPermitted("x".into()), libc::EPERM),
            (NsError::CrossVolume, libc::EXDEV),
            (NsError::Deadlock, libc::EDEADLK),
            (NsError::TooManyLocks, libc::ENOLCK),
            (NsError::Delegated { dir: rain_types::Ino(1), session: SessionId(1) }, libc::EBUSY),
            (NsError::SessionEnded(SessionId(3)), libc::EIO),
            (NsError::TooFewNodes { code: "rdp 4+2".into(), needed: 6, have: 3 }, libc::EIO),
            (NsError::Malformed("x".into()), libc::EIO),
        ];
        for (refusal, expected) in table {
            assert_eq!(of_refusal(&refusal).code(), expected, "{refusal:?}");
            let error = Error::Refused(refusal);
            assert_eq!(of(&error).code(), expected);
            assert_eq!(is_trouble(&error), expected == libc::EIO, "{error:?}");
        }
    }

    #[test]
    fn what_the_cluster_cannot_do_is_eio_and_worth_a_line_in_the_log() {
        let what = || "reading".to_owned();
        let table = [
            (Error::Unreachable { what: what(), missing: vec![NodeId(2)] }, libc::EIO),
            (Error::Damaged { what: what() }, libc::EIO),
            (Error::TimedOut { what: what(), after: Duration::from_secs(30) }, libc::EIO),
            (Error::NoCluster { addresses: what(), why: what() }, libc::EIO),
            (Error::Foreign { address: what(), found: what(), expected: what() }, libc::EIO),
            (Error::Protocol(what()), libc::EIO),
            (Error::LockLost, libc::EIO),
            (Error::NoSpace { nodes: vec![NodeId(1)] }, libc::ENOSPC),
            (Error::NoMajority { what: what(), may_be_done: false }, libc::EROFS),
            (Error::NoMajority { what: what(), may_be_done: true }, libc::EIO),
        ];
        for (error, expected) in table {
            assert_eq!(of(&error).code(), expected, "{error:?}");
            assert!(is_trouble(&error), "{error:?}");
        }
        assert_eq!(of(&Error::NoData).code(), libc::ENXIO);
        assert!(!is_trouble(&Error::NoData));
    }
}
