//! Checks before mounting: each obstacle is an error that says what to do, before anything is started.

use super::error::MountError;
use super::options::MountOptions;
use super::table;
use std::env;
use std::fs::{self, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// The device by which a process serves a mount.
pub(super) const DEVICE: &str = "/dev/fuse";

/// The configuration of fusermount3.
const FUSE_CONF: &str = "/etc/fuse.conf";

/// Whether this process mounts by itself, without fusermount3.
pub(super) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Checks that a volume can be mounted at a path: it must be an empty directory with nothing mounted at it,
/// and this user must be able to use FUSE. Fails with the first obstacle.
pub fn check_mountpoint(path: &Path) -> Result<(), MountError> {
    check_directory(path)?;
    check_device(Path::new(DEVICE))?;
    if !is_root() {
        fusermount().ok_or(MountError::NoFusermount)?;
    }
    Ok(())
}

fn check_directory(path: &Path) -> Result<(), MountError> {
    let owned = || path.to_owned();
    let unusable = |why| MountError::Unusable { path: path.to_owned(), why };
    let found = fs::metadata(path).map_err(|error| match (error.kind(), error.raw_os_error()) {
        (ErrorKind::NotFound, _) => MountError::Missing { path: owned() },
        (_, Some(libc::ENOTDIR)) => MountError::Missing { path: owned() },
        // "Transport endpoint is not connected".
        (_, Some(libc::ENOTCONN)) => MountError::Dead { path: owned() },
        _ => unusable(error),
    })?;
    if !found.is_dir() {
        return Err(MountError::NotDirectory { path: owned() });
    }
    let canonical = table::canonical(path).map_err(unusable)?;
    if let Some(mount) = table::mounted_at(&canonical).map_err(unusable)? {
        return Err(MountError::Busy { path: owned(), source_name: mount.source, kind: mount.kind });
    }
    match fs::read_dir(path).map_err(unusable)?.next() {
        None => Ok(()),
        Some(Ok(entry)) => Err(MountError::NotEmpty {
            path: owned(),
            found: entry.file_name().to_string_lossy().into_owned(),
        }),
        Some(Err(error)) => Err(unusable(error)),
    }
}

fn check_device(device: &Path) -> Result<(), MountError> {
    match OpenOptions::new().read(true).write(true).open(device) {
        Ok(_) => Ok(()),
        Err(error) => Err(device_error(error)),
    }
}

/// The error when /dev/fuse cannot be opened.
pub(super) fn device_error(error: std::io::Error) -> MountError {
    match (error.kind(), error.raw_os_error()) {
        (ErrorKind::NotFound, _) | (_, Some(libc::ENODEV | libc::ENXIO)) => MountError::NoDevice,
        _ => MountError::DeviceForbidden { why: error },
    }
}

/// The path of fusermount3, by which users without privilege mount.
pub(super) fn fusermount() -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/bin", "/bin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    env::split_paths(&path).chain(usual).map(|folder| folder.join("fusermount3")).find(|file| {
        fs::metadata(file).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
    })
}

/// Checks that this user may let other users in, if the options ask for that.
pub(super) fn check_allow_other(options: &MountOptions) -> Result<(), MountError> {
    let root = is_root();
    if root
        || !options.lets_others_in(root)
        || allows_other(&fs::read_to_string(FUSE_CONF).unwrap_or_default())
    {
        return Ok(());
    }
    Err(MountError::AllowOther)
}

fn allows_other(conf: &str) -> bool {
    conf.lines().any(|line| line.split('#').next().unwrap_or_default().trim() == "user_allow_other")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Error;

    fn message(path: &Path) -> String {
        check_directory(path).unwrap_err().to_string()
    }

    /// A fresh directory below the build's own, removed with everything in it at the end.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Scratch {
            let path = env::temp_dir().join(format!("rain-fuse-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Scratch(path)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    #[test]
    fn an_empty_directory_will_do() {
        let scratch = Scratch::new("empty");
        check_directory(&scratch.0).unwrap();
    }

    #[test]
    fn a_missing_directory_is_to_be_made_first() {
        let scratch = Scratch::new("missing");
        let message = message(&scratch.0.join("mnt"));
        assert!(message.contains("does not exist") && message.contains("mkdir -p"), "{message}");
    }

    #[test]
    fn a_file_is_no_mount_point_nor_is_anything_below_it() {
        let scratch = Scratch::new("file");
        let file = scratch.0.join("file");
        fs::write(&file, "x").unwrap();
        assert!(message(&file).contains("is not a directory"));
        assert!(message(&file.join("mnt")).contains("does not exist"));
    }

    #[test]
    fn a_directory_with_something_in_it_is_refused_and_the_thing_named() {
        let scratch = Scratch::new("full");
        fs::write(scratch.0.join("precious"), "x").unwrap();
        let message = message(&scratch.0);
        assert!(message.contains("not empty") && message.contains("precious"), "{message}");
    }

    #[test]
    fn a_mount_point_is_taken_and_what_is_there_is_named() {
        let message = message(Path::new("/proc"));
        assert!(message.contains("mount point already") && message.contains("umount \"/proc\""), "{message}");
        assert!(message.contains("(proc)"), "{message}");
    }

    #[test]
    fn a_missing_device_is_told_from_a_forbidden_one() {
        let scratch = Scratch::new("device");
        let message = check_device(&scratch.0.join("fuse")).unwrap_err().to_string();
        assert!(message.contains("modprobe fuse"), "{message}");
        let message = device_error(Error::from_raw_os_error(libc::EACCES)).to_string();
        assert!(message.contains("chmod 666 /dev/fuse"), "{message}");
        assert!(matches!(device_error(Error::from_raw_os_error(libc::ENODEV)), MountError::NoDevice));
    }

    #[test]
    fn letting_others_in_needs_its_own_line_in_the_configuration() {
        assert!(allows_other("mount_max = 10\n  user_allow_other # yes\n"));
        assert!(!allows_other("#user_allow_other\n"));
        assert!(!allows_other("user_allow_others\n"));
        assert!(!allows_other(""));
    }
}
