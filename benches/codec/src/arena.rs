//! Memory for blocks: one mapping, of 2 MiB pages where the system has them, with shares at chosen strides.

use std::ptr;

/// Distance between the shares of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stride {
    /// Each share begins at a multiple of 4 KiB, as buffers of pages do.
    Aligned,
    /// Each share begins 192 bytes further, so that equal offsets fall into different sets of the first-level
    /// cache.
    Skewed,
}

/// The mapping. It is never unmapped; the process ends soon.
pub struct Arena {
    start: *mut u8,
    len: usize,
}

impl Arena {
    pub fn new(len: usize) -> Arena {
        let len = len.next_multiple_of(2 << 20);
        // SAFETY: a new private mapping.
        let start = unsafe {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            let start = libc::mmap(
                ptr::null_mut(),
                len + (2 << 20),
                libc::PROT_READ | libc::PROT_WRITE,
                flags,
                -1,
                0,
            );
            assert_ne!(start, libc::MAP_FAILED, "{len} bytes of memory");
            let aligned = start.cast::<u8>().add(start.cast::<u8>().align_offset(2 << 20));
            libc::madvise(aligned.cast(), len, libc::MADV_HUGEPAGE);
            for at in (0..len).step_by(64) {
                aligned.add(at).cast::<u64>().write(at as u64 * 0x9e37_79b9_7f4a_7c15);
            }
            aligned
        };
        Arena { start, len }
    }

    /// Returns the bytes that a block of `n` shares takes.
    pub fn block_bytes(n: usize, share: usize, stride: Stride) -> usize {
        n * Self::stride(share, stride) + 4096
    }

    fn stride(share: usize, stride: Stride) -> usize {
        share.next_multiple_of(4096) + if stride == Stride::Skewed { 192 } else { 0 }
    }

    /// Returns the shares of `count` blocks.
    pub fn blocks(&mut self, count: usize, n: usize, share: usize, stride: Stride) -> Vec<Vec<&mut [u8]>> {
        let size = Self::block_bytes(n, share, stride).next_multiple_of(4096);
        let step = Self::stride(share, stride);
        assert!(count * size <= self.len, "{count} blocks do not fit");
        // SAFETY: the shares lie inside the mapping, which is borrowed as a whole. They are disjoint: a step
        // is at least a share's length, and a block's size is at least n steps.
        let share_of = |block: usize, i: usize| unsafe {
            std::slice::from_raw_parts_mut(self.start.add(block * size + i * step), share)
        };
        (0..count).map(|block| (0..n).map(|i| share_of(block, i)).collect()).collect()
    }
}
