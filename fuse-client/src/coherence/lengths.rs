//! The kernel's own length of a file, looked at and lowered.
//!
//! See docs/decisions/0014-lengths-that-become-smaller.md.
//!
//! A read that is answered short lowers the kernel's length, unless the kernel has been told something of the file's
//! attributes since it asked: that it is to drop them, or attributes in another reply. If another mount has cut the file
//! meanwhile, the program reads zeros up to the older length. So before such an answer the kernel is made to take the
//! new length.
//!
//! FUSE has no notification that lowers a length. But the kernel takes it from an answer to a GETATTR that was asked
//! for now, and shows what it has without asking (`AT_STATX_DONT_SYNC`). This process does both on its own mount, by
//! the file's handle. That takes CAP_DAC_READ_SEARCH; a mount of a user without it leaves lengths as they are.
//!
//! The GETATTR's caller then waits for the pages behind the new length, which the read that is not answered yet has
//! locked. So it is a thread of its own, and nobody waits for its end.

use crate::numbers::Numbers;
use fuser::INodeNo;
use rain_types::Ino;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags};
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// The longest wait for a new length: for the namespace, which answers the kernel's question, and for the kernel.
/// Usually it is some hundred microseconds.
pub(super) const LOWERED_WITHIN: Duration = Duration::from_secs(2);

/// How long the kernel may ignore answers. It does while it is told something of the attributes, and while a program
/// of this mount changes the length, which may wait for the page of the very read.
const IGNORED_WITHIN: Duration = Duration::from_millis(20);

/// The time between two looks at the kernel's length.
const LOOKED_AT_EVERY: Duration = Duration::from_micros(50);

/// The time between two questions.
const ASKED_EVERY: Duration = Duration::from_millis(1);

/// The kind of a FUSE filesystem's file handles: the inode's number and its generation (FILEID_INO64_GEN).
const HANDLE_KIND: i32 = 0x81;

/// The way to a mount's files by their numbers.
#[derive(Debug)]
pub(super) struct KernelLengths {
    mountpoint: OnceLock<PathBuf>,
    numbers: Numbers,
    /// This process may not open files by handles.
    refused: AtomicBool,
}

impl KernelLengths {
    pub(super) fn new(numbers: Numbers) -> KernelLengths {
        KernelLengths { mountpoint: OnceLock::new(), numbers, refused: AtomicBool::new(false) }
    }

    /// Sets where the mount is. Only the first call counts.
    pub(super) fn connect(&self, mountpoint: PathBuf) {
        let _ = self.mountpoint.set(mountpoint);
    }

    /// Whether lengths can be lowered.
    pub(super) fn may_be_lowered(&self) -> bool {
        self.mountpoint.get().is_some() && !self.refused.load(Ordering::Relaxed)
    }

    /// Makes the kernel's length of a file no greater than `end`, as long as `is_end` says that the file ends there.
    /// Blocks, usually no longer than [`LOWERED_WITHIN`]; opening the mount point has no limit.
    pub(super) fn lower(&self, ino: Ino, end: u64, is_end: impl Fn() -> bool) -> Lowered {
        match self.try_lower(ino, end, is_end) {
            Ok(lowered) => lowered,
            Err(error) => {
                if error.kind() == io::ErrorKind::PermissionDenied {
                    tracing::debug!("reads that meet a cut may see zeros: no CAP_DAC_READ_SEARCH");
                    self.refused.store(true, Ordering::Relaxed);
                }
                tracing::debug!(%ino, %error, "the kernel's length of a file cannot be looked at");
                Lowered::No
            }
        }
    }

    fn try_lower(&self, ino: Ino, end: u64, is_end: impl Fn() -> bool) -> io::Result<Lowered> {
        let Some(mountpoint) = self.mountpoint.get() else { return Ok(Lowered::No) };
        let mount = rustix::fs::openat(CWD, mountpoint, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let file = Arc::new(open_by_number(&mount, self.numbers.kernel(ino))?);
        drop(mount);
        let begun = Instant::now();
        let mut answers = None;
        let mut answered: Option<Instant> = None;
        while length(&*file, AtFlags::STATX_DONT_SYNC)? > end {
            if !is_end() {
                return Ok(Lowered::Longer);
            }
            let is_ignored = answered.is_some_and(|answered| answered.elapsed() > IGNORED_WITHIN);
            if begun.elapsed() > LOWERED_WITHIN || is_ignored {
                return Ok(Lowered::No);
            }
            let answers = match &answers {
                Some(answers) => answers,
                None => answers.insert(ask(&file, end)?),
            };
            match answers.try_recv() {
                Ok(Ok(length)) if length > end => return Ok(Lowered::Longer),
                Ok(Ok(_)) => {
                    answered.get_or_insert_with(Instant::now);
                }
                Ok(Err(error)) => return Err(error),
                Err(_) => {}
            }
            std::thread::sleep(LOOKED_AT_EVERY);
        }
        Ok(Lowered::Yes)
    }
}

/// The outcome of [`KernelLengths::lower`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lowered {
    /// The kernel's length is no greater.
    Yes,
    /// The file is longer by now.
    Longer,
    /// It is not known to be so.
    No,
}

/// Has the kernel ask for the length of a file, in a thread, again and again as long as its answers are taken and are
/// no greater than `end`.
fn ask(file: &Arc<OwnedFd>, end: u64) -> io::Result<Receiver<io::Result<u64>>> {
    let (say, answers) = channel();
    let file = file.clone();
    std::thread::Builder::new().name("rain-length".into()).spawn(move || {
        loop {
            let answer = length(&*file, AtFlags::STATX_FORCE_SYNC);
            let goes_on = answer.as_ref().is_ok_and(|length| *length <= end);
            if say.send(answer).is_err() || !goes_on {
                return;
            }
            std::thread::sleep(ASKED_EVERY);
        }
    })?;
    Ok(answers)
}

/// The kernel's length of a file: with STATX_DONT_SYNC as it has it, with STATX_FORCE_SYNC after it has asked.
fn length(file: impl AsFd, how: AtFlags) -> io::Result<u64> {
    Ok(rustix::fs::statx(file, "", how | AtFlags::EMPTY_PATH, StatxFlags::SIZE)?.stx_size)
}

/// A FUSE file handle, as open_by_handle_at(2) takes it.
#[repr(C)]
struct FileHandle {
    bytes: u32,
    kind: i32,
    /// The number's high half, its low half, and the generation, which is 0 for all files of RAIN.
    id: [u32; 3],
}

/// Opens a file that the kernel knows, without asking the filesystem, and without access to its contents (O_PATH).
#[allow(unsafe_code)]
fn open_by_number(mount: &OwnedFd, number: INodeNo) -> io::Result<OwnedFd> {
    let id = [(number.0 >> 32) as u32, number.0 as u32, 0];
    let mut handle = FileHandle { bytes: size_of_val(&id) as u32, kind: HANDLE_KIND, id };
    let flags = libc::O_PATH | libc::O_CLOEXEC;
    // SAFETY: the kernel reads a `struct file_handle`, whose layout `FileHandle` has, and as many bytes behind its head
    // as `bytes` says.
    let fd = unsafe {
        libc::open_by_handle_at(mount.as_raw_fd(), (&raw mut handle).cast::<libc::file_handle>(), flags)
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has made this descriptor for its caller.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
