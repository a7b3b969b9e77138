//! A file that a program has mapped shared.
#![allow(unsafe_code)]

use rustix::io::Errno;
use std::ffi::c_void;
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::ptr::NonNull;

/// A shared map of a file.
///
/// It is read by way of `/proc/self/mem`: the same pages, and an error where a load would end the process by SIGBUS,
/// as on a dead mount. It is written by a store, as that way could put bytes into a page that has just left the map.
pub(super) struct Map {
    start: NonNull<c_void>,
    len: usize,
    memory: File,
}

fn errno(error: std::io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap_or(Errno::IO)
}

impl Map {
    /// Maps the first `len` bytes of a file.
    pub(super) fn new(file: &OwnedFd, len: usize) -> Result<Map, Errno> {
        let memory = File::open("/proc/self/mem").map_err(errno)?;
        let (access, file) = (libc::PROT_READ | libc::PROT_WRITE, file.as_raw_fd());
        // SAFETY: the kernel chooses the place, so no memory in use is replaced.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), len, access, libc::MAP_SHARED, file, 0) };
        if start == libc::MAP_FAILED {
            return Err(errno(std::io::Error::last_os_error()));
        }
        Ok(Map { start: NonNull::new(start).ok_or(Errno::NOMEM)?, len, memory })
    }

    /// The number at an offset.
    pub(super) fn read(&self, offset: usize) -> Result<u64, Errno> {
        let mut bytes = [0; 8];
        self.memory.read_exact_at(&mut bytes, self.start.as_ptr() as u64 + offset as u64).map_err(errno)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// Stores a number at an offset that is a multiple of 8, and waits until the file has it.
    pub(super) fn write(&self, offset: usize, number: u64) -> Result<(), Errno> {
        assert!(offset.is_multiple_of(8) && offset + 8 <= self.len);
        // A page that cannot be read would end the process at the store.
        self.read(offset)?;
        // SAFETY: the place is inside the map and aligned. Other processes write it, too, so the access is volatile.
        unsafe { self.start.as_ptr().byte_add(offset).cast::<u64>().write_volatile(number.to_le()) };
        // SAFETY: the range is the map.
        match unsafe { libc::msync(self.start.as_ptr(), self.len, libc::MS_SYNC) } {
            0 => Ok(()),
            _ => Err(errno(std::io::Error::last_os_error())),
        }
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: nothing refers to the map beyond this value.
        let _ = unsafe { libc::munmap(self.start.as_ptr(), self.len) };
    }
}
