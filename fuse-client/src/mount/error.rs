//! Why mounting or unmounting failed: one sentence each, with what to do.

use std::io;
use std::path::PathBuf;
use thiserror::Error;

/// A failure to mount or unmount.
#[derive(Debug, Error)]
pub enum MountError {
    /// The mount point does not exist.
    #[error("{path:?} does not exist; make it first: mkdir -p {path:?}")]
    Missing {
        /// The mount point.
        path: PathBuf,
    },
    /// The mount point is not a directory.
    #[error("{path:?} is not a directory; name an empty directory to mount at")]
    NotDirectory {
        /// The mount point.
        path: PathBuf,
    },
    /// The mount point is not empty: the mount would hide its files.
    #[error("{path:?} is not empty (it has {found:?}); name an empty directory to mount at")]
    NotEmpty {
        /// The mount point.
        path: PathBuf,
        /// One of the names there.
        found: String,
    },
    /// Another filesystem is mounted at the mount point.
    #[error(
        "{path:?} is a mount point already, of {source_name:?} ({kind}); unmount that first: umount {path:?}"
    )]
    Busy {
        /// The mount point.
        path: PathBuf,
        /// The source of the other mount.
        source_name: String,
        /// The kind of filesystem.
        kind: String,
    },
    /// A dead mount is there: its process was killed.
    #[error(
        "{path:?} is a dead mount, left by a process that was killed; take it away: fusermount3 -u {path:?} \
         (or, as root, umount -l {path:?})"
    )]
    Dead {
        /// The mount point.
        path: PathBuf,
    },
    /// The mount point cannot be examined.
    #[error("{path:?} cannot be used as a mount point: {why}")]
    Unusable {
        /// The mount point.
        path: PathBuf,
        /// The error of the system.
        why: io::Error,
    },
    /// The kernel has no FUSE.
    #[error(
        "/dev/fuse is not there: load the fuse module (modprobe fuse); in a container, pass the device on \
         (--device /dev/fuse --cap-add SYS_ADMIN)"
    )]
    NoDevice,
    /// This user may not open the kernel's FUSE device.
    #[error("/dev/fuse cannot be opened ({why}): run as root, or let everybody use it: chmod 666 /dev/fuse")]
    DeviceForbidden {
        /// The error of the system.
        why: io::Error,
    },
    /// A user without privilege needs fusermount3, which is not installed.
    #[error(
        "fusermount3 is not installed, and only root can do without: install the package fuse3, or run as root"
    )]
    NoFusermount,
    /// This user may not let other users in.
    #[error(
        "only root may let other users in: run as root, leave allow_other out, or add a line \
         user_allow_other to /etc/fuse.conf"
    )]
    AllowOther,
    /// The kernel refuses to mount.
    #[error("the kernel refuses to mount at {path:?}: {why}{}", hint(why))]
    Refused {
        /// The mount point.
        path: PathBuf,
        /// The error of the system.
        why: io::Error,
    },
    /// fusermount3 refuses to mount.
    #[error("fusermount3 refuses to mount at {path:?}: {why}")]
    Helper {
        /// The mount point.
        path: PathBuf,
        /// The error message of fusermount3.
        why: String,
    },
    /// The FUSE session did not start.
    #[error("the FUSE session at {path:?} did not start: {why}")]
    Session {
        /// The mount point.
        path: PathBuf,
        /// The cause.
        why: io::Error,
    },
    /// The volume was mounted, did not answer, and was unmounted again.
    #[error("the volume is mounted at {path:?} but does not answer: {why}; it is unmounted again")]
    NoAnswer {
        /// The mount point.
        path: PathBuf,
        /// The cause.
        why: String,
    },
    /// The value of an option is wrong.
    #[error("mount option {option:?} is wrong: {why}")]
    Option {
        /// The option as it was given.
        option: String,
        /// The form that is expected.
        why: &'static str,
    },
    /// The system or fusermount3 refuses to unmount.
    #[error("{path:?} cannot be unmounted: {why}")]
    Unmount {
        /// The mount point.
        path: PathBuf,
        /// The error of the system.
        why: String,
    },
    /// The volume is unmounted, but some written data could not be stored.
    #[error("{path:?} is unmounted, but written data could not be stored: {why}")]
    Unstored {
        /// The mount point.
        path: PathBuf,
        /// The error message of the client.
        why: String,
    },
    /// The guard of a mount ([`guard`](super::guard())) failed.
    #[error("guarding the mount daemon {daemon}: {what}: {why}")]
    Guard {
        /// The process id of the daemon.
        daemon: u32,
        /// What the guard was doing.
        what: String,
        /// The system's error.
        why: io::Error,
    },
}

/// The end of the sentence about a refusal of the kernel: how to avoid it.
fn hint(why: &io::Error) -> &'static str {
    match why.raw_os_error() {
        Some(libc::EPERM) => "; in a container, allow it with --device /dev/fuse --cap-add SYS_ADMIN",
        Some(libc::ENODEV) => "; load the fuse module: modprobe fuse",
        _ => "",
    }
}
