//! The system call that a request comes from. FUSE does not tell it, but the thread is still in it, and `/proc` names
//! it.
//!
//! `/proc` is read by hand here, as one word is needed: the parsers of `procfs` read the whole file and refuse one that
//! lacks a field. Programs of another architecture have other numbers; they are not told apart.

use std::fs;
use std::time::Duration;

/// Maximum number of reads of `/proc` for one request. `/proc` names the system call only once the thread sleeps in
/// it, which takes microseconds.
const READS_MAX: u32 = 5;

/// The time between two such reads: the shortest that the runtime's timer can wait.
const READ_INTERVAL: Duration = Duration::from_millis(1);

/// The calls that make a name. The kernel does not make them again when the lookup of the name fails with ESTALE.
#[cfg(target_arch = "x86_64")]
const MAKES_NAMES: [i64; 9] = [
    libc::SYS_bind,
    libc::SYS_link,
    libc::SYS_linkat,
    libc::SYS_mkdir,
    libc::SYS_mkdirat,
    libc::SYS_mknod,
    libc::SYS_mknodat,
    libc::SYS_symlink,
    libc::SYS_symlinkat,
];
#[cfg(not(target_arch = "x86_64"))]
const MAKES_NAMES: [i64; 5] =
    [libc::SYS_bind, libc::SYS_linkat, libc::SYS_mkdirat, libc::SYS_mknodat, libc::SYS_symlinkat];

/// The number of the system call in which a thread sleeps. None: it cannot be found out.
pub(super) async fn call_of(thread: u32) -> Option<i64> {
    for _ in 0..READS_MAX {
        let line = fs::read_to_string(format!("/proc/{thread}/syscall")).ok()?;
        if !line.starts_with("running") {
            return number(&line);
        }
        tokio::time::sleep(READ_INTERVAL).await;
    }
    None
}

/// Whether a thread is making a name.
pub(super) async fn makes_name(thread: u32) -> bool {
    call_of(thread).await.is_some_and(|call| MAKES_NAMES.contains(&call))
}

/// The number in a line of `/proc/*/syscall`.
fn number(line: &str) -> Option<i64> {
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_is_the_first_word() {
        assert_eq!(number("73 0x3 0x6 0x0 0x0 0x0 0x0 0x7ffd 0x7f26\n"), Some(73));
        assert_eq!(number("-1 0x7ffd 0x7f26\n"), Some(-1), "in no call");
        assert_eq!(number("running\n"), None);
        assert_eq!(number(""), None);
    }

    #[tokio::test]
    async fn a_thread_that_does_not_exist_makes_no_name() {
        assert_eq!(call_of(0).await, None);
        assert!(!makes_name(0).await);
    }
}
