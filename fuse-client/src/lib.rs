//! A volume as a directory: the FUSE filesystem over `rain-client`.
//!
//! [`check_mountpoint`] says why a directory cannot be mounted at. [`mount`] mounts a volume and returns once
//! the mount answers. [`Mounted`] waits for the end of the mount, or unmounts.
//!
//! A program can rely on the following; `docs/consistency.md` has it call by call.
//! - Within a mount: POSIX as on a local disk. A program sees its own and its neighbours' changes at once. A
//!   file that is removed or replaced while it is open lives on until it is closed.
//! - Across mounts: the same. What a call on one mount has done, the next call on any mount sees. The kernel
//!   uses names and attributes for at most `entry_ttl` and `attr_ttl` (1 s each) without asking, and no longer than
//!   the client's lease on them lasts.
//! - Durability: with fsync. fsync of a file makes the data written to that file durable, and fsync of any
//!   file or directory makes all names durable that this mount has changed. Without fsync, names are durable
//!   within about a tenth of a second and data is stored within seconds; a close makes the data durable where
//!   others may have known the file. With `-o sync` every call is durable when it returns.
//! - An fsync that could not store written data returns the error, and so does a close. The exception is the
//!   close of a file that this mount has just made: its error comes with the next fsync. The data stays in
//!   memory and is tried again.
//! - Locks (flock, fcntl, lockf, OFD) hold over all mounts. A read under a lock sees the data that the last
//!   holder wrote. Without a majority no lock is given (ENOLCK).
//! - No call waits for ever: each operation has a deadline in the client. After it the program gets EIO, and
//!   the log names the nodes that did not answer. A wait for a lock ends with the lock or with a signal. That holds
//!   also when the mount's process is killed, if a second process runs [`guard`()].
//!
//! - POSIX: ACLs, O_TMPFILE, whiteouts, birth times, file handles; `docs/posix.md` has the list.
//!
//! Left out: quotas, FIEMAP, reflinks, `syncfs` reaching beyond the kernel (fsync the files), access times (as
//! with `noatime`).
//!
//! Modules: `fs` answers the kernel, over `handles`, `listing` (directories) and `lockers` (owners of locks). `coherence` knows what the
//! kernel has cached and decides what it may keep. `errno` is the table of errors. `mount` is everything
//! around the filesystem: options, checks, threads, unmounting.

mod coherence;
mod errno;
mod fs;
mod handles;
mod listing;
mod lockers;
mod mount;
mod numbers;
mod ttl;

pub use mount::{DaemonEnd, MountError, MountOptions, Mounted, Unmounter, check_mountpoint, guard, mount};
