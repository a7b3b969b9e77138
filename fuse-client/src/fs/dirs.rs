//! Reading directories.
//!
//! A page of names comes with the attributes of their inodes, in one round trip, and is given to the kernel
//! in several replies (READDIRPLUS), so that the kernel needs no lookups. By the time of the later replies
//! the page may be outdated. The kernel would believe it over what it knows from this mount's own changes: a
//! file that was written meanwhile would shrink. So before attributes are given from a page that was read for
//! an earlier request, [`crate::coherence`] is asked whether the page is still valid. If the page is too old,
//! or if this mount has changed the directory or the inode since, the page is read again from that position.
//! The kernel itself orders changes that are under way at the same time, by versions of its own.
//!
//! Plain READDIR gives no attributes and needs none of this.

use super::RainFs;
use super::attrs::{file_type, to_kernel};
use super::replies::GENERATION;
use crate::coherence::Stamp;
use crate::handles::OpenedDirectory;
use crate::listing::{AtCookie, Listing, PageRequest, Told};
use fuser::{Errno, FileAttr, FileType, ReplyDirectory, ReplyDirectoryPlus};
use rain_namespace::query::DirectoryEntry;
use rain_types::Ino;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, UNIX_EPOCH};

/// The place of an entry in a listing.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    /// The cookie of the next entry.
    next: u64,
    /// When the entry was read.
    read: Stamp,
    /// It was told with leases on it and on its name.
    leased: bool,
}

/// A reply being filled. `add` and `add_dots` return false when the reply has no room for the entry.
pub(super) trait Reply: Send {
    /// Whether entries carry attributes.
    const PLUS: bool;
    fn add_dots(&mut self, fs: &RainFs, ino: Ino, name: &str, next: u64) -> bool;
    fn add(&mut self, fs: &RainFs, directory: Ino, entry: &DirectoryEntry, at: Place) -> bool;
    fn finish(self, filled: Result<(), Errno>);
}

impl Reply for ReplyDirectory {
    const PLUS: bool = false;

    fn add_dots(&mut self, fs: &RainFs, ino: Ino, name: &str, next: u64) -> bool {
        !ReplyDirectory::add(self, fs.numbers.kernel(ino), next, FileType::Directory, name)
    }

    fn add(&mut self, fs: &RainFs, _directory: Ino, entry: &DirectoryEntry, at: Place) -> bool {
        let name = OsStr::from_bytes(&entry.name);
        !ReplyDirectory::add(
            self,
            fs.numbers.kernel(entry.attr.ino),
            at.next,
            file_type(entry.attr.kind),
            name,
        )
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

    fn add_dots(&mut self, fs: &RainFs, ino: Ino, name: &str, next: u64) -> bool {
        // Of `.` and `..` the kernel uses only the number and the kind.
        let attr = directory_attr(fs, ino);
        !ReplyDirectoryPlus::add(self, attr.ino, next, name, &Duration::ZERO, &attr, GENERATION)
    }

    fn add(&mut self, fs: &RainFs, directory: Ino, entry: &DirectoryEntry, at: Place) -> bool {
        let read_for = fs.read_for((directory, &entry.name), entry.attr.ino);
        let given = fs.coherence.listed((directory, &entry.name), &entry.attr, read_for);
        // Once more: whoever gave a lease up before the name was noted as given did not have the kernel drop it.
        let (name_for, _) = fs.read_for((directory, &entry.name), entry.attr.ino);
        let lifetime = if at.leased { name_for.unwrap_or(given).min(given) } else { Duration::ZERO };
        let attr = to_kernel(&entry.attr, fs.numbers);
        let name = OsStr::from_bytes(&entry.name);
        let full = ReplyDirectoryPlus::add(self, attr.ino, at.next, name, &lifetime, &attr, GENERATION);
        if !full {
            fs.coherence.listed_entry(&entry.attr, lifetime, at.read);
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

/// Attributes of a directory; only the number and the kind are meant to be used.
fn directory_attr(fs: &RainFs, ino: Ino) -> FileAttr {
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

/// How far a reply was filled from a page.
enum Filled {
    /// To the end of the page; the next entry is at this cookie.
    To(u64),
    /// The reply is full.
    Full,
    /// The page is outdated from this cookie on.
    Outdated(u64),
}

impl RainFs {
    /// Answers one request for entries from a cookie on. At most one page is read for a request, and only
    /// while the reply has no entry yet: entries that are there are given at once.
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
                AtCookie::End => return Ok(()),
                AtCookie::Dots(name) => {
                    let ino = if name == "." { Some(directory) } else { self.coherence.parent(directory) };
                    if !reply.add_dots(self, ino.unwrap_or(directory), name, cookie + 1) {
                        return Ok(());
                    }
                    cookie += 1;
                    continue;
                }
                AtCookie::Unread(_) if !empty => return Ok(()),
                AtCookie::Unread(wanted) => {
                    let stamp = self.coherence.stamp();
                    let (entries, more) = self.read_page(directory, &wanted).await?;
                    let unleased = if R::PLUS { self.unleased(directory, &entries) } else { BTreeSet::new() };
                    listing.fill(&wanted, entries, more, unleased, stamp);
                    (cookie, just_read) = (wanted.cookie, true);
                    continue;
                }
                AtCookie::Entries { cookie: first, told } => {
                    let check = R::PLUS && !just_read;
                    match self.fill_from(directory, first, (told, check), reply) {
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

    /// Fills a reply from a page that was read at a stamp. `check`: its attributes may be outdated.
    fn fill_from<R: Reply>(
        &self,
        directory: Ino,
        mut cookie: u64,
        (told, check): (Told<'_>, bool),
        reply: &mut R,
    ) -> Filled {
        let Told { entries, unleased, stamp: read } = told;
        if check && self.coherence.listing_is_outdated(directory, read) {
            return Filled::Outdated(cookie);
        }
        for entry in entries {
            if check && self.coherence.attributes_are_outdated(entry.attr.ino, read) {
                return Filled::Outdated(cookie);
            }
            let place = Place { next: cookie + 1, read, leased: !unleased.contains(&entry.attr.ino) };
            if !reply.add(self, directory, entry, place) {
                return Filled::Full;
            }
            cookie += 1;
        }
        Filled::To(cookie)
    }

    /// The inodes of a listing that were told without a lease on them or on their names. A lease that comes before
    /// the entries are given is not on what was told.
    fn unleased(&self, directory: Ino, entries: &[DirectoryEntry]) -> BTreeSet<Ino> {
        let is_unleased = |entry: &&DirectoryEntry| {
            let (name, attr) = self.read_for((directory, &entry.name), entry.attr.ino);
            [name, attr].into_iter().flatten().any(|left| left.is_zero())
        };
        entries.iter().filter(is_unleased).map(|entry| entry.attr.ino).collect()
    }

    async fn read_page(
        &self,
        directory: Ino,
        wanted: &PageRequest,
    ) -> Result<(Vec<DirectoryEntry>, bool), Errno> {
        let read = self.volume.read_directory(directory, wanted.after.as_deref(), wanted.limit).await;
        read.map_err(|error| self.errno("reading a directory", &error))
    }
}
