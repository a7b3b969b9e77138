//! The handshake: what the kernel is asked for when the connection starts, and why.
//!
//! - *No writeback cache.* It would gather small writes and hand lengths and times to the kernel, which is
//!   right only while no other mount looks. The client acknowledges writes from its own buffer instead.
//! - *Atomic O_TRUNC*: one request instead of two. *readdirplus*, adaptive: `ls -l` without lookups.
//!   *Parallel directory operations*, asynchronous reads and direct I/O: several requests under way.
//! - *Killing set-id bits* stays with the kernel: it sends a SETATTR before the write. Its version 2, where
//!   the filesystem would do it, needs flags that fuser 0.18 does not pass on. So the kernel asks for
//!   `security.capability` before every write(2); an absent one is remembered ([`crate::coherence`]). Only
//!   where an ACL is set the kernel cannot clear the set-group-id bit itself: it asks for that with a flag
//!   (FUSE_SETXATTR_EXT).
//! - *Locks* (flock, fcntl) are asked for, so that they hold across mounts ([`super::locks`]).
//! - *ACLs* are the kernel's to enforce. It asks for them as extended attributes, keeps them for as long as the
//!   attributes, and drops them with these. The umask is left to the namespace, which knows whether a
//!   directory has a default ACL instead (FUSE_DONT_MASK).
//! - *Export*: the kernel finds the inode of a file handle by looking up `.`, and a directory's parent by `..`.
//!   Inode numbers are never used twice, so a handle means the same file after the next mount.

use fuser::{InitFlags, KernelConfig};
use std::io;

/// The longest write in one request, bytes. A block is as long, so that a long sequential write fills whole
/// blocks.
const WRITE_BYTES_MAX: u32 = 1 << 20;

/// The most background requests (reads ahead, asynchronous direct I/O) under way. The kernel's default of 12
/// is few for reads that go to several nodes at a time.
const BACKGROUND_MAX: u16 = 64;

/// The number of background requests under way from which the kernel counts the mount as congested and holds
/// reads ahead back: three quarters of [`BACKGROUND_MAX`], as the kernel's own default.
const CONGESTED_FROM: u16 = 48;

/// Asks the kernel for all of the above. Fails when fuser refuses a limit; a feature that the kernel lacks is
/// left out.
pub(super) fn negotiate(config: &mut KernelConfig) -> io::Result<()> {
    for wanted in [
        InitFlags::FUSE_ASYNC_READ,
        InitFlags::FUSE_ASYNC_DIO,
        InitFlags::FUSE_ATOMIC_O_TRUNC,
        InitFlags::FUSE_BIG_WRITES,
        InitFlags::FUSE_CACHE_SYMLINKS,
        InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP,
        InitFlags::FUSE_DONT_MASK,
        InitFlags::FUSE_DO_READDIRPLUS,
        InitFlags::FUSE_EXPORT_SUPPORT,
        InitFlags::FUSE_FLOCK_LOCKS,
        InitFlags::FUSE_MAX_PAGES,
        InitFlags::FUSE_PARALLEL_DIROPS,
        InitFlags::FUSE_POSIX_ACL,
        InitFlags::FUSE_POSIX_LOCKS,
        InitFlags::FUSE_READDIRPLUS_AUTO,
        InitFlags::FUSE_SETXATTR_EXT,
    ] {
        if config.add_capabilities(wanted).is_err() {
            tracing::debug!(?wanted, "this kernel lacks a FUSE feature; the mount does without it");
        }
    }
    let refused = |what: &str| io::Error::other(format!("fuser refuses {what}"));
    config.set_max_write(WRITE_BYTES_MAX).map_err(|_| refused("writes of 1 MiB"))?;
    config.set_max_background(BACKGROUND_MAX).map_err(|_| refused("64 background requests"))?;
    config.set_congestion_threshold(CONGESTED_FROM).map_err(|_| refused("a congestion threshold of 48"))?;
    Ok(())
}
