//! The guard of a mount: it ends the kernel's connection where a killed mount daemon cannot.
//!
//! The kernel ends a connection when the last thread of the daemon has exited. A thread that has the kernel drop
//! pages waits in the kernel for pages that a request under way has locked, and no signal wakes it. If the daemon is
//! killed then, that request is never answered, the thread never exits, and every program on the mount would hang
//! for ever. So a second process watches the daemon. It holds no descriptor of the connection, only the `abort`
//! file of the kernel's control filesystem (fusectl), which was opened for it while the daemon was well.
//!
//! Left out: a guard that is killed together with its daemon, by one signal to both, guards nothing.

use super::MountError;
use procfs::process::Process;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, openat};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

/// The time between two looks at the daemon.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// The time that a killed daemon has to exit. It is far more than its memory takes to be given back.
const EXIT_WAIT: Duration = Duration::from_secs(1);

/// How a guarded daemon ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DaemonEnd {
    /// It has exited: the kernel has ended its connection.
    Exited,
    /// Its main thread has exited, and another is stuck in the kernel. The connection was aborted.
    Aborted,
}

/// Opens the file by which the connection with this minor device number can be aborted. Root needs no mounted
/// fusectl; another user needs it at its usual place.
pub(super) fn abort_file(minor: u32) -> io::Result<File> {
    let usual = format!("/sys/fs/fuse/connections/{minor}/abort");
    OpenOptions::new().write(true).open(&usual).or_else(|error| {
        let control = control_filesystem().map_err(|_| error)?;
        let opened =
            openat(&control, format!("{minor}/abort"), OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(File::from(opened))
    })
}

/// fusectl, mounted nowhere.
fn control_filesystem() -> rustix::io::Result<OwnedFd> {
    let context = rustix::mount::fsopen("fusectl", FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_create(context.as_fd())?;
    rustix::mount::fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
}

/// Watches the daemon until it ends, and aborts its connection if it was killed and does not exit within a second.
/// `abort` comes from [`Mounted::abort_file`](super::Mounted::abort_file).
///
/// Fails when the daemon cannot be watched or the connection cannot be aborted.
pub fn guard(daemon: u32, mut abort: File) -> Result<DaemonEnd, MountError> {
    let failed = |what: &str, why: io::Error| MountError::Guard { daemon, what: what.to_owned(), why };
    let unwatched = |why| failed("watching it", why);
    let pid = i32::try_from(daemon).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| unwatched(io::ErrorKind::InvalidInput.into()))?;
    let process = match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(process) => process,
        Err(rustix::io::Errno::SRCH) => return Ok(DaemonEnd::Exited),
        Err(error) => return Err(unwatched(error.into())),
    };
    loop {
        if has_exited(&process, LOOK_EVERY).map_err(unwatched)? {
            return Ok(DaemonEnd::Exited);
        }
        if !main_thread_has_exited(&process) {
            continue;
        }
        if has_exited(&process, EXIT_WAIT).map_err(unwatched)? {
            return Ok(DaemonEnd::Exited);
        }
        if !main_thread_has_exited(&process) {
            continue;
        }
        abort.write_all(b"1").map_err(|error| failed("aborting its connection", error))?;
        return Ok(DaemonEnd::Aborted);
    }
}

/// Waits for the end of all threads of a process, at most for `longest`. Returns whether they have ended.
fn has_exited(process: &OwnedFd, longest: Duration) -> io::Result<bool> {
    let longest = Timespec { tv_sec: longest.as_secs() as i64, tv_nsec: longest.subsec_nanos().into() };
    let mut polled = [PollFd::new(process, PollFlags::IN)];
    match poll(&mut polled, Some(&longest)) {
        Ok(ready) => Ok(ready > 0),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Whether the main thread of a process is a zombie: the process was told to exit, or was killed. False if /proc does
/// not say it, as where it belongs to another PID namespace.
fn main_thread_has_exited(process: &OwnedFd) -> bool {
    // The number that the process has in the PID namespace of this /proc.
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", process.as_raw_fd()));
    let pid = info
        .ok()
        .and_then(|info| info.lines().find_map(|line| line.strip_prefix("Pid:")?.trim().parse().ok()));
    let Some(pid) = pid.filter(|pid: &i32| *pid > 0) else { return false };
    let stat = Process::new(pid).and_then(|process| process.stat());
    stat.is_ok_and(|stat| matches!(stat.state, 'Z' | 'X'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader, Read, Seek};
    use std::process::{Child, Command, Stdio};

    /// A process whose main thread exits once it has said so, while another thread goes on if `stuck`.
    fn daemon(stuck: bool) -> Child {
        let program = format!(
            "import ctypes, threading, time\n\
             threading.Thread(target=time.sleep, args=({},)).start()\n\
             print('ready', flush=True)\n\
             ctypes.CDLL(None).syscall({}, 0)\n",
            if stuck { 60 } else { 0 },
            libc::SYS_exit
        );
        let mut child =
            Command::new("python3").args(["-c", &program]).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        child
    }

    fn guarded(stuck: bool) -> (DaemonEnd, String) {
        let mut daemon = daemon(stuck);
        let folder = std::env::temp_dir().join(format!("rain-guard-{}-{stuck}", std::process::id()));
        let abort =
            OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&folder).unwrap();
        let end = guard(daemon.id(), abort.try_clone().unwrap());
        let _ = daemon.kill();
        let _ = daemon.wait();
        let mut written = String::new();
        (&abort).rewind().unwrap();
        (&abort).read_to_string(&mut written).unwrap();
        let _ = std::fs::remove_file(&folder);
        (end.unwrap(), written)
    }

    #[test]
    fn the_connection_of_a_daemon_that_cannot_exit_is_aborted() {
        assert_eq!(guarded(true), (DaemonEnd::Aborted, "1".into()));
    }

    #[test]
    fn the_connection_of_a_daemon_that_exits_is_left_to_the_kernel() {
        assert_eq!(guarded(false), (DaemonEnd::Exited, String::new()));
    }
}
