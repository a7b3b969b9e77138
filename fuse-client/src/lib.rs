//! A volume as a directory: the FUSE filesystem over `rain-client`.
//!
//! [`check_mountpoint`] tells in words what stands in the way, [`mount`] mounts and returns once the mount
//! answers, [`Mounted`] waits for the end or unmounts.
//!
//! What programs can rely on:
//! - Within a mount: POSIX as on a local disk. A program sees its own and its neighbours' changes at once; a file
//!   that is unlinked or replaced while open lives on until it is closed.
//! - Across mounts: close-to-open. Who opens a file sees what was written before its last close or fsync
//!   elsewhere. Names and attributes may look up to `entry_ttl` and `attr_ttl` old (1 s each). Appending
//!   (O_APPEND) goes to the end that opening found or later; two mounts that hold a file open and append to it
//!   at the same time overwrite each other.
//! - fsync and close report when written data could not be stored; the data stays and is tried again. Changes of
//!   names are durable when the call returns.
//! - Locks (flock, fcntl) hold among the programs of one mount only.
//! - Nothing waits for ever: each operation has a deadline in the client, after which the program gets EIO and the
//!   log says which nodes were missing.
//!
//! Left out: ACLs, quotas, O_TMPFILE, FIEMAP, reflinks, `syncfs` reaching beyond the kernel (fsync the files),
//! access times (as with `noatime`).
//!
//! Modules: `fs` answers the kernel, over `coherence`, `handles` and `listing` (directories); `errno` is the
//! table of errors; `mount` is everything around it.

mod coherence;
mod errno;
mod fs;
mod handles;
mod listing;
mod mount;
mod numbers;
mod ttl;

pub use mount::{MountError, MountOptions, Mounted, Unmounter, check_mountpoint, mount};
