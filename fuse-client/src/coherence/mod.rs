//! Coherence of the kernel's caches: what this mount has told the kernel, and whether the kernel may still
//! use it.
//!
//! The kernel caches names, attributes and pages of files, and answers programs from these caches without
//! asking. Every decision about them is made here: the lifetimes of names and attributes, whether pages
//! survive an open, and what is dropped after an open, a lock grant or a misplaced append. The rest of the
//! crate reports events to [`Coherence`] and asks it; it never decides by itself.
//!
//! Purpose: this is the one place where "the kernel's pages of this file are of version v" is exact. The client
//! owns the versions of contents, and says since which version every change has been its own
//! ([`OpenFile::own_since`]); pages that were read since then are right. This module owns the kernel's half: it
//! records from which version on the kernel has pages, and moves that version only after the kernel has dropped
//! all older pages.
//!
//! Invariants that hold:
//! 1. A reply that names an inode is counted before it is sent, so a FORGET never overtakes it ([`inodes`]).
//! 2. A name and attributes expire after the lifetimes of the mount ([`Lifetimes`]). A missing name is never
//!    cached.
//! 3. An open drops the kernel's attributes before it replies, if they are of another version of the contents
//!    than the file has, or if the open empties the file.
//! 4. An open is answered only after the kernel has dropped all pages that may be of contents from before
//!    another client's change, however many opens are under way
//!    (`pages_count_as_newer_only_once_the_kernel_has_dropped_the_older_ones`).
//! 5. A lock is answered only after the same, and after the kernel has dropped its attributes.
//! 6. A page of a directory that was read for an earlier request gives attributes only if it is younger than
//!    a lifetime, and if this mount has since changed neither the directory nor the inode.
//! 7. An open that the kernel reached by a cached name fails with ESTALE if the file has no name any more, on
//!    which the kernel looks the name up again. Exceptions: the file is open through this mount already, or
//!    the thread has looked the name up just before ([`NAME_FRESH`]).
//!
//! 8. A name and attributes are given for no longer than the client's lease on them lasts. Another mount's change
//!    is acknowledged only after [`Coherence::drop_cached`] has returned here. The kernel itself ignores
//!    attributes of a reply to a request that was sent before the attributes were dropped.
//! 9. Names are never dropped, they expire: what is mounted on a directory stays mounted, whatever other mounts do
//!    to other names. While the kernel cannot let a name expire, walks through its directory wait ([`doubted`]).
//! 10. A read is answered short, up to the end of the file, only when the kernel's length is no greater, or becomes so
//!     by the answer ([`lengths`]; for processes with CAP_DAC_READ_SEARCH).
//!
//! What does not hold yet:
//! 1. A notification that the kernel refuses counts as done.
//! 2. The version of the attributes is recorded when a reply is built, not when the kernel takes it. Two
//!    replies under way may be taken in the other order, and then the record names the wrong version.
//! 3. A handle that gets O_APPEND after its open (fcntl) appends through the kernel's pages. Where another mount
//!    has appended, the pages are dropped after the reply. A read in between finds the bytes where the kernel
//!    believed the end to be.

mod again;
mod doubted;
mod ends;
mod inodes;
mod lengths;
mod names;
mod notify;
mod pages;
mod writes;

#[cfg(test)]
pub(crate) use self::inodes::tests::attr as test_attr;

use self::again::{LookAgain, Of};
use self::doubted::Doubted;
pub(crate) use self::doubted::UnderWay;
use self::ends::EndsRead;
use self::inodes::{KernelInodes, hash};
use self::lengths::KernelLengths;
use self::names::{GivenName, GivenNames};
use self::notify::Notifications;
pub(crate) use self::pages::READ_WITHIN;
use self::writes::WritesUnderWay;
use crate::numbers::Numbers;
use fuser::Notifier;
use rain_client::Dropped;
use rain_namespace::acl::{DEFAULT, is_acl};
use rain_namespace::command::{AttrChange, Known, RenameMode};
use rain_namespace::lease::Subject;
use rain_namespace::record::{Attr, FileKind};
use rain_types::Ino;
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::RwLock;

/// The longest time between a lookup and the open that it was for. Within it the name is taken to be still
/// true: the program sees the file as it was a moment ago. Long enough for a busy machine, and short of the
/// default lifetime of names (1 s), so that it adds nothing to what a program must expect.
const NAME_FRESH: Duration = Duration::from_millis(500);

/// The extended attribute that the kernel asks for before every write(2), to clear it.
pub(crate) const CAPABILITY: &[u8] = b"security.capability";

/// The locks for truncations: files that share one rarely meet.
const TRUNCATION_LOCKS: usize = 256;

/// How long the kernel may use names and attributes without asking again.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lifetimes {
    pub(crate) attr: Duration,
    pub(crate) entry: Duration,
}

impl Lifetimes {
    /// The lifetime where fuser takes only one for the name and the attributes.
    fn shorter(self) -> Duration {
        self.attr.min(self.entry)
    }

    /// The lifetimes, as far as the client lets a name and attributes be used.
    pub(crate) fn at_most(self, (name, attr): (ReadFor, ReadFor)) -> Lifetimes {
        Lifetimes {
            attr: attr.map_or(self.attr, |attr| attr.min(self.attr)),
            entry: name.map_or(self.entry, |name| name.min(self.entry)),
        }
    }
}

/// When something was read from the namespace: by the mount's clock of its own changes, and by the wall
/// clock.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stamp {
    pub(crate) change: u64,
    pub(crate) at: Instant,
}

/// The knowledge about the kernel's caches of one mount; see the head of this module.
#[derive(Debug)]
pub(crate) struct Coherence {
    inodes: KernelInodes,
    names: GivenNames,
    doubted: Doubted,
    again: LookAgain,
    writes: WritesUnderWay,
    ends: EndsRead,
    lengths: Arc<KernelLengths>,
    /// By inode: locked for reading while a length is told, and for writing while this mount truncates.
    truncations: Vec<Arc<RwLock<()>>>,
    lifetimes: Lifetimes,
    notifications: Notifications,
}

impl Coherence {
    pub(crate) fn new(root: Ino, lifetimes: Lifetimes, runtime: Handle) -> Coherence {
        Coherence {
            inodes: KernelInodes::new(root),
            names: GivenNames::new(lifetimes.entry),
            doubted: Doubted::default(),
            again: LookAgain::default(),
            writes: WritesUnderWay::default(),
            ends: EndsRead::default(),
            lengths: Arc::new(KernelLengths::new(Numbers::new(root))),
            truncations: (0..TRUNCATION_LOCKS).map(|_| Arc::default()).collect(),
            lifetimes,
            notifications: Notifications::new(Numbers::new(root), runtime),
        }
    }

    /// Sets the connection by which the kernel can be notified, and where the mount is.
    pub(crate) fn connect(&self, notifier: Notifier, device: OwnedFd, mountpoint: PathBuf) {
        self.notifications.connect(notifier, device);
        self.lengths.connect(mountpoint);
    }

    /// The number of inodes that the kernel knows.
    pub(crate) fn inodes_known(&self) -> usize {
        self.inodes.len()
    }
}

/// For how long the client lets what it knows of an inode, or of a name, be used
/// ([`rain_client::Volume::read_for`]). None: as long as the mount's lifetimes say.
pub(crate) type ReadFor = Option<Duration>;

/// Replies that name inodes or give attributes. Each gives the lifetime to reply with.
impl Coherence {
    /// The lifetimes of a name of an inode, and of its attributes.
    fn lifetimes(&self, attr: &Attr, read_for: (ReadFor, ReadFor)) -> Lifetimes {
        let lifetimes = self.lifetimes.at_most(read_for);
        if attr.kind == FileKind::Directory && self.doubted.is_doubted(attr.ino) {
            // Every walk through the directory has to ask.
            return Lifetimes { attr: Duration::ZERO, ..lifetimes };
        }
        lifetimes
    }

    /// A reply is about to give attributes of an inode that the kernel knows.
    pub(crate) fn attributes_given(&self, attr: &Attr, read_for: ReadFor, asked: Stamp) -> Duration {
        self.inodes.attributes_given(attr);
        let lifetime = self.lifetimes(attr, (None, read_for)).attr;
        self.inodes.learn_acls(attr, asked.change, lifetime);
        lifetime
    }

    /// A reply is about to name an inode under a name that this mount has just made.
    pub(crate) fn name_made(
        &self,
        (parent, name): (Ino, &[u8]),
        attr: &Attr,
        read_for: (ReadFor, ReadFor),
    ) -> Lifetimes {
        self.names.made(parent, name, attr.ino);
        self.name_given((parent, name), attr, read_for)
    }

    fn name_given(
        &self,
        (parent, name): (Ino, &[u8]),
        attr: &Attr,
        (name_for, attr_for): (ReadFor, ReadFor),
    ) -> Lifetimes {
        self.inodes.name_given(attr);
        if self.inodes.found_by(attr.ino, parent, name) {
            // With its attributes the kernel drops the ACL. It ignores the attributes of this reply, which it asked
            // for before, and asks for them again.
            self.notifications.drop_attributes(attr.ino);
        }
        self.lifetimes(attr, (name_for, attr_for))
    }

    /// A reply is about to name an inode to a thread that looked the name up, and is likely to open the inode
    /// next.
    pub(crate) fn name_looked_up(
        &self,
        name: (Ino, &[u8]),
        attr: &Attr,
        read_for: (ReadFor, ReadFor),
        (thread, asked): (u32, Stamp),
    ) -> Lifetimes {
        self.names.given(name.0, name.1, attr.ino);
        let lifetimes = self.name_given(name, attr, read_for);
        self.inodes.name_looked_up(attr.ino, thread);
        self.inodes.learn_acls(attr, asked.change, lifetimes.attr);
        lifetimes
    }

    /// A reply is about to give a file that this mount has just made, under a name or without one.
    pub(crate) fn file_created(
        &self,
        name: Option<((Ino, &[u8]), ReadFor)>,
        attr: &Attr,
        attr_for: ReadFor,
    ) -> Duration {
        let then = self.inodes.clock();
        let lifetimes = match name {
            Some((name, name_for)) => self.name_made(name, attr, (name_for, attr_for)),
            None => {
                self.inodes.name_given(attr);
                self.lifetimes(attr, (None, attr_for))
            }
        };
        // It is open already, and may be read from here on.
        self.inodes.pages_are_from(attr.ino, 0);
        self.inodes.learn_no_capability(attr.ino, then, lifetimes.attr);
        lifetimes.shorter()
    }

    /// A listing that is about to be sent names an inode. Returns the lifetime of the name and the attributes.
    pub(crate) fn listed(
        &self,
        (parent, name): (Ino, &[u8]),
        attr: &Attr,
        read_for: (ReadFor, ReadFor),
    ) -> Duration {
        let lifetime = self.lifetimes(attr, read_for).shorter();
        if !lifetime.is_zero() {
            self.names.given(parent, name, attr.ino);
        }
        lifetime
    }

    /// The entry of a listing that was read at a stamp is in the reply.
    pub(crate) fn listed_entry(&self, attr: &Attr, lifetime: Duration, read: Stamp) {
        self.inodes.name_given(attr);
        self.inodes.learn_acls(attr, read.change, lifetime);
    }

    /// The kernel forgot `lookups` of the replies that named the inode.
    pub(crate) fn forget(&self, ino: Ino, lookups: u64) {
        self.inodes.forget(ino, lookups);
    }

    /// This mount has removed a directory.
    pub(crate) fn directory_removed(&self, directory: Ino) {
        self.inodes.directory_removed(directory);
    }

    /// A program has opened a directory, or with `false` closed it.
    pub(crate) fn directory_opened(&self, directory: Ino, opened: bool) {
        self.inodes.directory_opened(directory, opened);
    }

    /// The attributes of a directory that was removed while programs of this mount had it open or were in it.
    pub(crate) fn attributes_of_removed(&self, directory: Ino) -> Option<Attr> {
        self.inodes.attributes_of_removed(directory)
    }

    /// A program changes attributes of a directory that was removed while it had it open or was in it. Returns
    /// the attributes.
    pub(crate) fn change_removed(&self, directory: Ino, change: &AttrChange) -> Option<Attr> {
        self.inodes.change_removed(directory, change)
    }

    /// The directory that a directory is in, as last told to the kernel; None if it is not known.
    pub(crate) fn parent(&self, directory: Ino) -> Option<Ino> {
        self.inodes.parent(directory)
    }
}

/// Changes that this mount makes, and answers that may be older than them.
impl Coherence {
    /// This mount is about to change attributes of the inode. Until the outcome is known the kernel asks for them: other
    /// mounts may see the change before its call returns, and then no program here may see the old ones.
    pub(crate) fn changing(&self, ino: Ino) {
        self.notifications.drop_attributes(ino);
    }

    /// This mount has written to a file, or has tried to: the kernel's length of it reaches to `end`, or will.
    pub(crate) fn written(&self, ino: Ino, end: u64) {
        self.inodes.changed(ino);
        self.inodes.length_reaches(ino, end);
    }

    /// This mount has changed the inode (of a directory: its names), or has tried to.
    pub(crate) fn changed(&self, ino: Ino) {
        self.inodes.changed(ino);
    }

    /// The inodes by which the kernel knows names in a call that has their directories locked: those for which they were
    /// given last. None: that is too long ago.
    pub(crate) fn known(&self, names: &[(Ino, &[u8])]) -> Option<Vec<Known>> {
        let known = |(parent, name): &(Ino, &[u8])| {
            let ino = self.names.get(*parent, name)?.last();
            Some(Known { parent: *parent, name: name.to_vec(), ino: Some(ino) })
        };
        names.iter().map(known).collect()
    }

    /// This mount is about to rename. The kernel keeps the lifetime of the old name for the new one, in an exchange of
    /// both.
    pub(crate) fn renaming(&self, from: (Ino, &[u8]), to: (Ino, &[u8]), mode: RenameMode) {
        let known = [from, to].map(|(parent, name)| self.names.get(parent, name));
        let moves = if mode == RenameMode::Exchange { 2 } else { 1 };
        for (known, (parent, name)) in known.into_iter().zip([to, from]).take(moves) {
            if let Some(known) = known {
                self.names.given(parent, name, known.last());
            }
        }
    }

    /// This mount has moved an inode to a name. After an exchange this is not recorded of the other inode.
    pub(crate) fn moved(&self, ino: Ino, (parent, name): (Ino, &[u8])) {
        self.names.made(parent, name, ino);
        self.inodes.found_by(ino, parent, name);
    }

    /// This mount has renamed, or tried to. The names are looked up again before their next use: the lease on the
    /// old name says nothing of the new one. The kernel is told in the background, as it has locked the
    /// directories until it has the reply.
    pub(crate) fn names_in_question(&self, from: (Ino, &[u8]), to: (Ino, &[u8])) {
        let names = [from, to].into_iter().filter_map(|(parent, name)| self.names.get(parent, name));
        drop(self.notifications.expire_names(names.collect()));
    }

    /// The stamp for an answer that the namespace is about to be asked for.
    pub(crate) fn stamp(&self) -> Stamp {
        Stamp { change: self.inodes.clock(), at: Instant::now() }
    }

    /// Whether a listing that was read at `stamp` is outdated as a whole: it is older than a lifetime, or
    /// this mount has changed the directory since.
    pub(crate) fn listing_is_outdated(&self, directory: Ino, stamp: Stamp) -> bool {
        stamp.at.elapsed() > self.lifetimes.shorter() || self.attributes_are_outdated(directory, stamp)
    }

    /// Whether this mount has changed the inode since its attributes were read at `stamp`.
    pub(crate) fn attributes_are_outdated(&self, ino: Ino, stamp: Stamp) -> bool {
        self.inodes.changed_since(ino, stamp.change)
    }

    /// Whether the inode is known to lack an extended attribute: `security.capability`, which the kernel does not
    /// cache and asks for before every write(2), or an ACL, which it asks for with every inode.
    pub(crate) fn lacks_xattr(&self, ino: Ino, name: &[u8]) -> bool {
        if is_acl(name) {
            self.inodes.acl_given(ino);
            self.inodes.lacks_acl(ino, name == DEFAULT)
        } else {
            name == CAPABILITY && self.inodes.lacks_capability(ino)
        }
    }

    /// The kernel is about to be told of an ACL of the inode, or that there is none.
    pub(crate) fn acl_given(&self, ino: Ino) {
        self.inodes.acl_given(ino);
    }

    /// The namespace, asked at `stamp`, said that the inode has no `security.capability`.
    pub(crate) fn learn_no_capability(&self, ino: Ino, stamp: Stamp, read_for: ReadFor) {
        self.inodes.learn_no_capability(ino, stamp.change, self.lifetimes.at_most((None, read_for)).attr);
    }

    /// This mount has set an extended attribute of the inode.
    pub(crate) fn doubt_xattrs(&self, ino: Ino) {
        self.inodes.doubt_xattrs(ino);
    }
}

/// The longest wait for operations under way in a directory, before its names are doubted instead. They may wait
/// for another mount that waits for this one.
const NAMES_LOCKED_MAX: Duration = Duration::from_millis(20);

/// The directories in which names are given up at once. Each takes a blocking thread.
const DIRECTORIES_AT_ONCE: usize = 16;

/// What other mounts change, and what is not certain any more.
impl Coherence {
    /// Has the kernel drop what it has of these inodes. It has dropped them when this returns.
    pub(crate) async fn drop_cached(&self, dropped: &[Dropped]) {
        let mut names = Vec::new();
        let mut pages = Vec::new();
        tracing::debug!(?dropped, "dropping what the kernel has");
        for dropped in dropped {
            // Answers of before must not be used from here on.
            match dropped {
                Dropped::Inode(ino) => {
                    self.inodes.changed(*ino);
                    self.inodes.doubt_xattrs(*ino);
                    self.inodes.doubt_length(*ino);
                    if self.inodes.pages_from(*ino).is_some() {
                        pages.push(*ino);
                    } else {
                        self.notifications.drop_attributes(*ino);
                    }
                }
                Dropped::Name(parent, name) => {
                    self.inodes.changed(*parent);
                    names.extend(self.names.get(*parent, name));
                }
                Dropped::Names(parent) => {
                    self.inodes.changed(*parent);
                    names.extend(self.names.in_directory(*parent));
                }
            }
        }
        self.drop_names_and_pages(names, pages).await;
    }

    async fn drop_names_and_pages(&self, names: Vec<GivenName>, pages: Vec<Ino>) {
        let pages = pages.into_iter().map(|ino| {
            // At once: the pages may take longer.
            self.notifications.drop_attributes(ino);
            self.drop_pages_within(ino)
        });
        let pages = futures::future::join_all(pages);
        let mut by_directory: HashMap<Ino, Vec<GivenName>> = HashMap::new();
        for name in names {
            by_directory.entry(name.parent).or_default().push(name);
        }
        let names = async {
            let mut by_directory: Vec<_> = by_directory.into_iter().collect();
            while !by_directory.is_empty() {
                let some = by_directory.drain(..by_directory.len().min(DIRECTORIES_AT_ONCE));
                let some = some.map(|(directory, names)| self.give_up_names(directory, names));
                futures::future::join_all(some.collect::<Vec<_>>()).await;
            }
        };
        tokio::join!(pages, names);
    }

    /// No program uses these names of a directory when this returns, before the kernel has looked them up again.
    async fn give_up_names(&self, directory: Ino, names: Vec<GivenName>) {
        let mut expiring = Box::pin(self.notifications.expire_names(names.clone()));
        if tokio::time::timeout(NAMES_LOCKED_MAX, &mut expiring).await.is_ok() {
            return;
        }
        tracing::debug!(%directory, "the kernel has the directory locked: its names are doubted");
        let doubt = self.doubted.doubt(directory, names);
        self.notifications.drop_attributes(directory);
        tokio::spawn(async move {
            expiring.await;
            tracing::debug!(%directory, "the names have expired");
            drop(doubt);
        });
    }

    /// Whether a lookup by a thread, which has found an inode, is to be answered with ESTALE, on which the kernel looks
    /// all names of its call up again.
    ///
    /// rename(2) looks the old name up, then the new one. If another mount renames in between, the kernel finds one
    /// inode behind both names, and does nothing, as for two links of one file. Either the thread has just looked the
    /// old name up, or the kernel had it and cannot let it expire, so that it is doubted: the directory is locked.
    ///
    /// `may_help`: the inode is known otherwise ([`Coherence::is_known_otherwise`]), and the call may be made again.
    pub(crate) fn looks_again(
        &self,
        thread: u32,
        (parent, name): (Ino, &[u8]),
        found: &Attr,
        may_help: bool,
    ) -> bool {
        let hash = hash((parent, name));
        if !may_help || !self.again.may_tell(thread, Of::Lookup(hash)) {
            if !matches!(name, b"." | b"..") {
                self.again.found(thread, (found.ino, hash), found.kind == FileKind::Directory);
            }
            return false;
        }
        tracing::debug!(%parent, name = %name.escape_ascii(), ino = %found.ino, "a name to look up again");
        self.notifications.drop_attributes(parent);
        true
    }

    /// Whether the kernel may know an inode that a thread's lookup has found by another name, which another mount has
    /// changed.
    pub(crate) fn is_known_otherwise(&self, thread: u32, (parent, name): (Ino, &[u8]), found: &Attr) -> bool {
        if matches!(name, b"." | b"..") {
            // The kernel asks for an inode, not for a name, and does not ask again.
            return false;
        }
        let has_one_name = found.kind == FileKind::Directory || found.nlink == 1;
        has_one_name && self.again.has_found(thread, found.ino, hash((parent, name)))
            || self.doubted.may_be_known(found.ino, (parent, name))
    }

    /// Whether a thread's rename, which is past its lookups, may be told to look its names up again.
    pub(crate) fn may_look_again(&self, thread: u32, old_name: (Ino, &[u8])) -> bool {
        self.again.may_tell(thread, Of::Rename(hash(old_name)))
    }

    /// A thread's lookup has found nothing, or has failed.
    pub(crate) fn name_missing(&self, thread: u32, name: (Ino, &[u8])) {
        self.again.missing(thread, hash(name));
    }

    /// A thread's rename has ended.
    pub(crate) fn call_ended(&self, thread: u32) {
        self.again.ended(thread);
    }

    /// An operation of a thread in a directory begins. The kernel may have the directory locked until the result is
    /// dropped, and after.
    pub(crate) fn begin_in(&self, directory: Ino, thread: u32) -> UnderWay {
        self.doubted.begin(directory, thread)
    }

    /// Waits until the kernel uses no name in a directory that another mount may have changed; see
    /// [`doubted`]. For an answer to who asks for the directory's attributes, as a walk through it does.
    pub(crate) async fn names_certain(&self, directory: Ino, thread: u32) {
        self.again.walks(thread);
        self.doubted.certain(directory, thread, self.lifetimes.entry).await;
    }

    /// Has the kernel drop all names and attributes, except those that may still be used, and the pages of these
    /// files.
    pub(crate) async fn drop_all(&self, files: &[Ino], may_be_used: impl Fn(&Subject) -> bool) {
        for ino in self.inodes.changed_all() {
            if !may_be_used(&Subject::Inode(ino)) {
                self.inodes.doubt_length(ino);
                self.notifications.drop_attributes(ino);
            }
        }
        let pages = files.iter().copied().filter(|ino| self.inodes.pages_from(*ino).is_some()).collect();
        let is_dropped = |given: &GivenName| !may_be_used(&Subject::Name(given.parent, given.name.to_vec()));
        let names = self.names.all().into_iter().filter(is_dropped).collect();
        self.drop_names_and_pages(names, pages).await;
    }
}
