//! Why a mount did not come about or does not go away: one sentence each, with what to do.

use std::io;
use std::path::PathBuf;
use thiserror::Error;

/// A failure to mount or unmount.
#[derive(Debug, Error)]
pub enum MountError {
    /// The mount point is not there.
    #[error("{path:?} does not exist; make it first: mkdir -p {path:?}")]
    Missing {
        /// The mount point.
        path: PathBuf,
    },
    /// The mount point is something else.
    #[error("{path:?} is not a directory; name an empty directory to mount at")]
    NotDirectory {
        /// The mount point.
        path: PathBuf,
    },
    /// The mount would hide something.
    #[error("{path:?} is not empty (it has {found:?}); name an empty directory to mount at")]
    NotEmpty {
        /// The mount point.
        path: PathBuf,
        /// One of the names there.
        found: String,
    },
    /// Something is mounted there.
    #[error(
        "{path:?} is a mount point already, of {source_name:?} ({kind}); unmount that first: umount {path:?}"
    )]
    Busy {
        /// The mount point.
        path: PathBuf,
        /// What is mounted there.
        source_name: String,
        /// The kind of filesystem.
        kind: String,
    },
    /// A mount is there whose process was killed.
    #[error(
        "{path:?} is a dead mount, left by a process that was killed; take it away: fusermount3 -u {path:?} \
         (or, as root, umount -l {path:?})"
    )]
    Dead {
        /// The mount point.
        path: PathBuf,
    },
    /// The mount point cannot be looked at.
    #[error("{path:?} cannot be used as a mount point: {why}")]
    Unusable {
        /// The mount point.
        path: PathBuf,
        /// What the system says.
        why: io::Error,
    },
    /// The kernel has no FUSE.
    #[error(
        "/dev/fuse is not there: load the fuse module (modprobe fuse); in a container, pass the device on \
         (--device /dev/fuse --cap-add SYS_ADMIN)"
    )]
    NoDevice,
    /// The kernel's FUSE is not for this user.
    #[error("/dev/fuse cannot be opened ({why}): run as root, or let everybody use it: chmod 666 /dev/fuse")]
    DeviceForbidden {
        /// What the system says.
        why: io::Error,
    },
    /// A user needs the helper.
    #[error(
        "fusermount3 is not installed, and only root can do without: install the package fuse3, or run as root"
    )]
    NoFusermount,
    /// A user may not let others in.
    #[error(
        "only root may let other users in: run as root, leave allow_other out, or add a line \
         user_allow_other to /etc/fuse.conf"
    )]
    AllowOther,
    /// The kernel refuses.
    #[error("the kernel refuses to mount at {path:?}: {why}{}", hint(why))]
    Refused {
        /// The mount point.
        path: PathBuf,
        /// What the system says.
        why: io::Error,
    },
    /// The helper refuses.
    #[error("fusermount3 refuses to mount at {path:?}: {why}")]
    Helper {
        /// The mount point.
        path: PathBuf,
        /// What it says.
        why: String,
    },
    /// The kernel and this program do not understand each other.
    #[error("the FUSE session at {path:?} did not start: {why}")]
    Session {
        /// The mount point.
        path: PathBuf,
        /// What went wrong.
        why: io::Error,
    },
    /// It is mounted and does not answer; it is unmounted again.
    #[error("the volume is mounted at {path:?} but does not answer: {why}; it is unmounted again")]
    NoAnswer {
        /// The mount point.
        path: PathBuf,
        /// What went wrong.
        why: String,
    },
    /// An option's value makes no sense.
    #[error("mount option {option:?} is wrong: {why}")]
    Option {
        /// As it was given.
        option: String,
        /// What is expected.
        why: &'static str,
    },
    /// Unmounting failed.
    #[error("{path:?} cannot be unmounted: {why}")]
    Unmount {
        /// The mount point.
        path: PathBuf,
        /// What the system says.
        why: String,
    },
    /// Unmounted, but what was written could not all be stored.
    #[error("{path:?} is unmounted, but written data could not be stored: {why}")]
    Unstored {
        /// The mount point.
        path: PathBuf,
        /// What the client says.
        why: String,
    },
}

fn hint(why: &io::Error) -> &'static str {
    match why.raw_os_error() {
        Some(libc::EPERM) => "; in a container, allow it with --device /dev/fuse --cap-add SYS_ADMIN",
        Some(libc::ENODEV) => "; load the fuse module: modprobe fuse",
        _ => "",
    }
}
