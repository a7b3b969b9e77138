//! Attaching a connection to the kernel to a mount point, and detaching it.
//!
//! fuser could do both, but its own way has traps: a comma in the source becomes options, the subtype is lost
//! when root mounts, and (0.18) the end of a session unmounts the path once more, whatever is mounted there
//! by then. So root mounts here by mount(2), others by fusermount3, and fuser is given the connection.

use super::check::{DEVICE, device_error, fusermount, is_root};
use super::error::MountError;
use super::options::MountOptions;
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use std::ffi::CString;
use std::fs::{self, OpenOptions};
use std::io::{self, IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};

/// The kind of filesystem that the table of mounts shows.
pub(super) const KIND: &str = "fuse.rain";

/// Mounts at an absolute path and returns the connection. From here on programs that touch the mount point
/// wait until a session answers, or until the connection is dropped.
pub(super) fn attach(path: &Path, options: &MountOptions) -> Result<OwnedFd, MountError> {
    if is_root() { attach_as_root(path, options) } else { attach_by_helper(path, options) }
}

fn attach_as_root(path: &Path, options: &MountOptions) -> Result<OwnedFd, MountError> {
    let refused = |why| MountError::Refused { path: path.to_owned(), why };
    let mode = fs::metadata(path).map_err(refused)?.mode();
    let device = OpenOptions::new().read(true).write(true).open(DEVICE).map_err(device_error)?;
    let data = format!(
        "fd={},rootmode={mode:o},user_id={},group_id={},{}",
        device.as_raw_fd(),
        rustix::process::getuid().as_raw(),
        rustix::process::getgid().as_raw(),
        options.kernel_data(true)
    );
    let data = CString::new(data).expect("numbers and words have no zero byte");
    let mut flags = MountFlags::empty();
    for (on, flag) in [
        (options.read_only, MountFlags::RDONLY),
        (!options.suid, MountFlags::NOSUID),
        (!options.dev, MountFlags::NODEV),
        (!options.exec, MountFlags::NOEXEC),
    ] {
        flags.set(flag, on);
    }
    rustix::mount::mount(options.source.as_str(), path, KIND, flags, data.as_c_str())
        .map_err(|errno| refused(errno.into()))?;
    Ok(device.into())
}

/// Mounts by fusermount3, which sends the connection over a socket whose number it is given. The socket is
/// its standard input, the one descriptor that a child can be given without leaking it to others.
fn attach_by_helper(path: &Path, options: &MountOptions) -> Result<OwnedFd, MountError> {
    let failed = |why: String| MountError::Helper { path: path.to_owned(), why };
    let program = fusermount().ok_or(MountError::NoFusermount)?;
    let (ours, theirs) = UnixStream::pair().map_err(|error| failed(error.to_string()))?;
    let mut child = Command::new(program)
        .arg("-o")
        .arg(options.helper_options())
        .arg("--")
        .arg(path)
        .env("_FUSE_COMMFD", "0")
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| failed(error.to_string()))?;
    let received = receive(&ours);
    let mut said = String::new();
    if let Some(stderr) = &mut child.stderr {
        let _ = stderr.read_to_string(&mut said);
    }
    let status = child.wait().map_err(|error| failed(error.to_string()))?;
    match received {
        Ok(Some(connection)) if status.success() => Ok(connection),
        _ if said.contains("user_allow_other") => Err(MountError::AllowOther),
        Err(error) if said.is_empty() => Err(failed(error.to_string())),
        _ => Err(failed(said.trim().to_owned())),
    }
}

/// Receives a descriptor over the socket; None when the other end closes without sending one.
fn receive(socket: &UnixStream) -> io::Result<Option<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0u8];
    let mut data = [IoSliceMut::new(&mut byte)];
    rustix::io::retry_on_intr(|| {
        rustix::net::recvmsg(socket, &mut data, &mut control, RecvFlags::CMSG_CLOEXEC)
    })?;
    let connection = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    Ok(connection)
}

/// How a mount was taken away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Detached {
    /// No program used it: it has ended.
    Whole,
    /// It was in use: it is gone from the tree, and ends when programs have closed their files there.
    Lazily,
}

/// Takes the mount at a path away, lazily if it is in use. Fails when the system or fusermount3 refuses.
pub(super) fn detach(path: &Path) -> Result<Detached, MountError> {
    if !is_root() {
        return detach_by_helper(path, false).or_else(|_| detach_by_helper(path, true));
    }
    let unmount = |flags| rustix::mount::unmount(path, UnmountFlags::NOFOLLOW | flags);
    match unmount(UnmountFlags::empty()) {
        Ok(()) => Ok(Detached::Whole),
        Err(rustix::io::Errno::BUSY) => match unmount(UnmountFlags::DETACH) {
            Ok(()) => Ok(Detached::Lazily),
            Err(errno) => Err(MountError::Unmount { path: path.to_owned(), why: errno.to_string() }),
        },
        Err(errno) => Err(MountError::Unmount { path: path.to_owned(), why: errno.to_string() }),
    }
}

fn detach_by_helper(path: &Path, lazily: bool) -> Result<Detached, MountError> {
    let failed = |why: String| MountError::Unmount { path: path.to_owned(), why };
    let program = fusermount().ok_or(MountError::NoFusermount)?;
    let mut command = Command::new(program);
    command.arg("-u").args(lazily.then_some("-z")).arg("--").arg(path).stdin(Stdio::null());
    let output = command.output().map_err(|error| failed(error.to_string()))?;
    if !output.status.success() {
        return Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    Ok(if lazily { Detached::Lazily } else { Detached::Whole })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
    use std::io::{IoSlice, Write};
    use std::os::fd::AsFd;

    #[test]
    fn a_connection_comes_over_the_socket() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (mut pipe_end, sent) = UnixStream::pair().unwrap();
        let descriptors = [sent.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(&descriptors)));
        rustix::net::sendmsg(&theirs, &[IoSlice::new(b"\0")], &mut control, SendFlags::empty()).unwrap();
        let received = receive(&ours).unwrap().expect("a descriptor was sent");
        drop(sent);
        pipe_end.write_all(b"x").unwrap();
        let mut byte = [0];
        UnixStream::from(received).read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"x");
    }

    #[test]
    fn a_helper_that_gives_up_sends_nothing() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(theirs);
        assert!(receive(&ours).unwrap().is_none());
    }
}
