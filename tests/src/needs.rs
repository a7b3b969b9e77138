//! Requirements that a test may have on the machine.

use std::process::{Command, Stdio};

/// A requirement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// A FUSE mount: /dev/fuse, and root or fusermount3.
    Mount,
    /// The tests run as root.
    Root,
    /// The program fusermount3.
    Fusermount,
    /// The program git.
    Git,
    /// Python 3 with grpcio.
    PythonGrpc,
    /// Network namespaces: root, and `ip` of iproute2.
    Namespaces,
    /// Overlayfs in a namespace of mounts of its own: root, and `unshare` of util-linux.
    Overlay,
}

/// Returns the reason why a requirement is not met; none when it is met.
pub fn missing(need: Need) -> Option<&'static str> {
    match need {
        Need::Mount if !std::path::Path::new("/dev/fuse").exists() => Some("no /dev/fuse"),
        Need::Mount if !is_root() && !runs("fusermount3", &["--version"]) => {
            Some("neither root nor fusermount3")
        }
        Need::Root if !is_root() => Some("not root"),
        Need::Fusermount if !runs("fusermount3", &["--version"]) => Some("no fusermount3"),
        Need::Git if !runs("git", &["--version"]) => Some("no git"),
        Need::PythonGrpc if !runs(&python(), &["-c", "import grpc, google.protobuf"]) => {
            Some("no python3 with grpcio; RAIN_TEST_PYTHON can name one")
        }
        Need::Namespaces | Need::Overlay if !is_root() => Some("not root"),
        Need::Overlay if !knows_overlay() => Some("no overlayfs, or no unshare"),
        Need::Namespaces if !runs("ip", &["netns", "list"]) => Some("no iproute2, or no network namespaces"),
        _ => None,
    }
}

/// The Python interpreter: RAIN_TEST_PYTHON, or python3.
pub fn python() -> String {
    std::env::var("RAIN_TEST_PYTHON").unwrap_or_else(|_| "python3".into())
}

/// Whether this process is root.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn knows_overlay() -> bool {
    let known = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    known.split_whitespace().any(|name| name == "overlay") && runs("unshare", &["--version"])
}

fn runs(program: &str, args: &[&str]) -> bool {
    let run = Command::new(program).args(args).stdout(Stdio::null()).stderr(Stdio::null()).status();
    run.is_ok_and(|status| status.success())
}
