//! The kernel's table of mounts (/proc/self/mountinfo), read only.
//!
//! It is parsed by hand: `procfs` reads the lines as UTF-8, so one mount point with another byte in its path
//! would make the whole table unreadable.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// A line of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// Major and minor device number.
    pub(super) device: (u32, u32),
    pub(super) path: PathBuf,
    pub(super) kind: String,
    pub(super) source: String,
}

/// The mount at a path, the uppermost if there are several; None if there is none. The path must be absolute
/// and without symlinks.
pub(super) fn mounted_at(path: &Path) -> io::Result<Option<Entry>> {
    let text = fs::read("/proc/self/mountinfo")?;
    Ok(last_at(&text, path))
}

fn last_at(text: &[u8], path: &Path) -> Option<Entry> {
    text.split(|byte| *byte == b'\n').filter_map(parse).rfind(|entry| entry.path == path)
}

/// Parses a line: `36 35 0:44 / /mnt rw,noatime shared:1 - fuse.rain a,b:/v rw,user_id=0`, see
/// proc_pid_mountinfo(5). None if the line is cut.
fn parse(line: &[u8]) -> Option<Entry> {
    let mut words = line.split(|byte| *byte == b' ');
    let device = std::str::from_utf8(words.nth(2)?).ok()?;
    let (major, minor) = device.split_once(':')?;
    let path = PathBuf::from(unescaped(words.nth(1)?));
    let mut rest = words.skip_while(|word| *word != b"-").skip(1);
    let text = |word: &[u8]| unescaped(word).to_string_lossy().into_owned();
    Some(Entry {
        device: (major.parse().ok()?, minor.parse().ok()?),
        path,
        kind: text(rest.next()?),
        source: text(rest.next()?),
    })
}

/// A word without escapes. The kernel writes space, tab, newline and backslash as a backslash and three octal
/// digits.
fn unescaped(word: &[u8]) -> OsString {
    let mut plain = Vec::with_capacity(word.len());
    let mut rest = word;
    while let Some((first, others)) = rest.split_first() {
        let code = others.get(..3).filter(|_| *first == b'\\').and_then(octal);
        plain.push(code.unwrap_or(*first));
        rest = if code.is_some() { &others[3..] } else { others };
    }
    OsString::from_vec(plain)
}

fn octal(digits: &[u8]) -> Option<u8> {
    let digits = std::str::from_utf8(digits).ok()?;
    u8::from_str_radix(digits, 8).ok()
}

/// The absolute path without symlinks. The last part of the path may be a dead mount, of which the system
/// says nothing.
pub(super) fn canonical(path: &Path) -> io::Result<PathBuf> {
    match fs::canonicalize(path) {
        Err(error) if error.raw_os_error() == Some(libc::ENOTCONN) => {
            let absolute = std::path::absolute(path)?;
            let (Some(parent), Some(name)) = (absolute.parent(), absolute.file_name()) else {
                return Err(error);
            };
            Ok(fs::canonicalize(parent)?.join(std::ffi::OsStr::from_bytes(name.as_bytes())))
        }
        found => found,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[u8] = b"22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n\
        36 22 0:44 / /mnt/my\\040files rw,nosuid,nodev,relatime shared:5 master:2 - fuse.rain a,b:/v rw,user_id=0\n\
        37 22 0:45 / /mnt/my\\040files rw - tmpfs tmp\\134fs rw\n\
        38 22 0:46 / /mnt/x rw - fuse.rain\n";

    #[test]
    fn the_uppermost_mount_of_a_path_is_found() {
        let found = last_at(TABLE, Path::new("/mnt/my files")).unwrap();
        assert_eq!(found.device, (0, 45));
        assert_eq!((found.kind.as_str(), found.source.as_str()), ("tmpfs", "tmp\\fs"));
        let root = last_at(TABLE, Path::new("/")).unwrap();
        assert_eq!((root.device, root.kind.as_str()), ((8, 1), "ext4"));
    }

    #[test]
    fn optional_fields_and_commas_do_not_shift_the_source() {
        let line = TABLE.split(|byte| *byte == b'\n').nth(1).unwrap();
        let entry = parse(line).unwrap();
        assert_eq!((entry.kind.as_str(), entry.source.as_str()), ("fuse.rain", "a,b:/v"));
    }

    #[test]
    fn what_is_not_mounted_or_not_whole_is_not_found() {
        assert_eq!(last_at(TABLE, Path::new("/mnt")), None);
        assert_eq!(last_at(TABLE, Path::new("/mnt/x")), None, "a cut line");
        assert_eq!(last_at(b"", Path::new("/")), None);
    }

    #[test]
    fn this_machine_has_a_root() {
        assert!(mounted_at(Path::new("/")).unwrap().is_some());
    }
}
