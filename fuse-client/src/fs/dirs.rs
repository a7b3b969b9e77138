//! Reading directories.
//!
//! A page of names comes with the attributes of what they name, in one round trip, and is given to the kernel
//! in several replies (READDIRPLUS), which then needs no lookups. By the time of the later replies the page may
//! be outdated, and the kernel would believe it over what it knows from this mount's own changes: a file that
//! was written meanwhile would shrink. So before attributes are given from a page read for an earlier request,
//! it is checked that the page is young and that this mount changed neither the directory nor the inode since;
//! otherwise it is read again from there. Changes that are under way at the same time are the kernel's to sort
//! out, and it does, by versions of its own.
//!
//! Plain READDIR gives no attributes and needs none of this.

use super::Shared;
use super::attrs::{file_type, to_kernel};
use crate::handles::OpenedDirectory;
use crate::listing::{Listing, Stamp, Step, Wanted};
use fuser::{Errno, FileAttr, FileType, Generation, ReplyDirectory, ReplyDirectoryPlus};
use rain_namespace::query::DirectoryEntry;
use rain_types::Ino;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, Instant, UNIX_EPOCH};

/// A reply being filled. `add_*` give false when there is no room.
pub(super) trait Reply: Send {
    /// Whether entries carry attributes.
    const PLUS: bool;
    fn add_dots(&mut self, fs: &Shared, ino: Ino, name: &str, next: u64) -> bool;
    fn add(&mut self, fs: &Shared, entry: &DirectoryEntry, next: u64) -> bool;
    fn finish(self, filled: Result<(), Errno>);
}

impl Reply for ReplyDirectory {
    const PLUS: bool = false;

    fn add_dots(&mut self, fs: &Shared, ino: Ino, name: &str, next: u64) -> bool {
        !ReplyDirectory::add(self, fs.numbers.kernel(ino), next, FileType::Directory, name)
    }

    fn add(&mut self, fs: &Shared, entry: &DirectoryEntry, next: u64) -> bool {
        let name = OsStr::from_bytes(&entry.name);
        !ReplyDirectory::add(self, fs.numbers.kernel(entry.attr.ino), next, file_type(entry.attr.kind), name)
    }

    fn finish(self, filled: Result<(), Errno>) {
        match filled {
            Ok(()) => self.ok(),
            Err(errno) => self.error(errno),
        }
    }
}

impl Reply for ReplyDirectoryPlus {
    const PLUS: bool = true;

    fn add_dots(&mut self, fs: &Shared, ino: Ino, name: &str, next: u64) -> bool {
        // The kernel takes only the number and the kind of these two.
        let attr = directory_attr(fs, ino);
        !ReplyDirectoryPlus::add(self, attr.ino, next, name, &Duration::ZERO, &attr, Generation(0))
    }

    fn add(&mut self, fs: &Shared, entry: &DirectoryEntry, next: u64) -> bool {
        let attr = to_kernel(&entry.attr, fs.numbers);
        let name = OsStr::from_bytes(&entry.name);
        let full =
            ReplyDirectoryPlus::add(self, attr.ino, next, name, &fs.times.both(), &attr, Generation(0));
        if !full {
            fs.inodes.looked_up(&entry.attr);
        }
        !full
    }

    fn finish(self, filled: Result<(), Errno>) {
        match filled {
            Ok(()) => self.ok(),
            Err(errno) => self.error(errno),
        }
    }
}

fn directory_attr(fs: &Shared, ino: Ino) -> FileAttr {
    FileAttr {
        ino: fs.numbers.kernel(ino),
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: FileType::Directory,
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 0,
        flags: 0,
    }
}

/// What filling from a page came to.
enum Filled {
    /// The page is used up; go on at this cookie.
    To(u64),
    /// There is no room for more.
    Full,
    /// The page is outdated from this cookie on.
    Outdated(u64),
}

impl Shared {
    /// Answers one request for entries from a cookie on. At most one page is read for it, and only while the
    /// reply has no entry yet: what is there is given at once.
    pub(super) async fn read_directory<R: Reply>(&self, opened: &OpenedDirectory, cookie: u64, mut reply: R) {
        let mut listing = opened.listing.lock().await;
        let filled = self.fill(opened.ino, &mut listing, cookie, &mut reply).await;
        reply.finish(filled);
    }

    async fn fill<R: Reply>(
        &self,
        directory: Ino,
        listing: &mut Listing,
        mut cookie: u64,
        reply: &mut R,
    ) -> Result<(), Errno> {
        if cookie == 0 {
            listing.rewind();
        }
        let (mut empty, mut just_read) = (true, false);
        loop {
            let outdated = match listing.at(cookie) {
                Step::End => return Ok(()),
                Step::Dots(name) => {
                    let ino = if name == "." { Some(directory) } else { self.inodes.parent(directory) };
                    if !reply.add_dots(self, ino.unwrap_or(directory), name, cookie + 1) {
                        return Ok(());
                    }
                    cookie += 1;
                    continue;
                }
                Step::Read(_) if !empty => return Ok(()),
                Step::Read(wanted) => {
                    let stamp = Stamp { change: self.inodes.now(), at: Instant::now() };
                    let (entries, more) = self.read_page(directory, &wanted).await?;
                    listing.fill(&wanted, entries, more, stamp);
                    (cookie, just_read) = (wanted.cookie, true);
                    continue;
                }
                Step::Entries { cookie: first, entries, stamp } => {
                    let check = (R::PLUS && !just_read).then_some(stamp);
                    match self.fill_from(directory, first, entries, check, reply) {
                        Filled::Full => return Ok(()),
                        Filled::Outdated(at) if at > first => return Ok(()),
                        Filled::Outdated(at) => at,
                        Filled::To(next) => {
                            (cookie, empty) = (next, false);
                            continue;
                        }
                    }
                }
            };
            if !empty {
                return Ok(());
            }
            cookie = listing.cut(outdated);
        }
    }

    /// Fills from a page; `check` is the stamp of one whose attributes may be outdated.
    fn fill_from<R: Reply>(
        &self,
        directory: Ino,
        mut cookie: u64,
        entries: &[DirectoryEntry],
        check: Option<Stamp>,
        reply: &mut R,
    ) -> Filled {
        let old = |stamp: Stamp| {
            stamp.at.elapsed() > self.times.both() || self.inodes.changed_since(directory, stamp.change)
        };
        if check.is_some_and(old) {
            return Filled::Outdated(cookie);
        }
        for entry in entries {
            if check.is_some_and(|stamp| self.inodes.changed_since(entry.attr.ino, stamp.change)) {
                return Filled::Outdated(cookie);
            }
            if !reply.add(self, entry, cookie + 1) {
                return Filled::Full;
            }
            cookie += 1;
        }
        Filled::To(cookie)
    }

    async fn read_page(&self, directory: Ino, wanted: &Wanted) -> Result<(Vec<DirectoryEntry>, bool), Errno> {
        let read = self.volume.read_directory(directory, wanted.after.as_deref(), wanted.limit).await;
        read.map_err(|error| self.errno("reading a directory", &error))
    }
}
