//! What the kernel has cached.

pub(crate) mod inodes;
