//! The table of inodes that the kernel knows, with the attributes that it was given of each.
//!
//! An entry lives from the first reply that names the inode to the kernel's FORGET. So the kernel's own cache
//! bounds this table.
//!
//! Invariants:
//! 1. `lookups` is the number of replies that named the inode, less the number that the kernel forgot
//!    (`an_inode_is_kept_until_the_kernel_forgot_every_lookup`). A reply is counted before it is sent, so a
//!    FORGET never overtakes it.
//! 2. `changed` grows with every change that this mount makes to the inode, by one clock for the whole mount
//!    ([`KernelInodes::clock`]). An answer of the namespace that was asked for at clock t shows all changes
//!    up to t (`own_changes_are_told_from_older_ones`).

use parking_lot::{Mutex, MutexGuard};
use rain_namespace::command::AttrChange;
use rain_namespace::record::{Attr, FileKind, Time};
use rain_types::Ino;
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Parts of the table, each with a lock of its own, so that requests for different inodes rarely meet. A
/// power of two well above the number of threads that serve a mount.
const SHARDS: usize = 16;

/// The number of threads per inode whose latest lookup is remembered. It bounds the memory of an entry; a
/// thread that is pushed out only costs one more lookup at its next open.
const LOOKUPS_REMEMBERED_MAX: usize = 16;

/// A name as a hash.
pub(super) fn hash((parent, name): (Ino, &[u8])) -> u64 {
    let mut hasher = DefaultHasher::new();
    (parent, name).hash(&mut hasher);
    hasher.finish()
}

/// One inode that the kernel knows.
#[derive(Debug, Default)]
struct KernelInode {
    lookups: u64,
    /// When this mount last changed the inode or dropped what it had of it, by the mount's clock; 0: not since
    /// the kernel knows it.
    changed: u64,
    /// Of a directory: the attributes last given.
    directory: Option<Box<Attr>>,
    /// Of a directory: this mount has removed it.
    removed: bool,
    /// Of a directory: how often programs of this mount have it open.
    opens: u32,
    /// The version of the contents in the attributes last given.
    version: u64,
    /// Every page that the kernel has was read at this version of the contents or later. None: the kernel has
    /// had no page since it knows the inode.
    pages_from: Option<u64>,
    /// The last request that may have given the kernel pages, by the mount's count of them; 0: none.
    filled: u64,
    /// The value of `filled` up to which the kernel has dropped all pages.
    dropped: u64,
    /// The number of writes past the kernel's pages since `filled` last grew.
    written_past: u32,
    /// The number of events since which the kernel's length may be too low.
    length_doubts: u64,
    /// The value of `length_doubts` up to which the kernel has been told the length.
    length_known: u64,
    /// Of a file: the kernel's length of it is no greater.
    length_max: u64,
    /// The threads that lately looked up a name of the inode, and when; the newest last.
    looked_up: Vec<(u32, Instant)>,
    /// The time until which the inode is taken to have no `security.capability`.
    no_capability_until: Option<Instant>,
    /// The times until which the inode is taken to have no access ACL, and no default ACL.
    no_acl_until: [Option<Instant>; 2],
    /// The name by which the kernel found the inode last, as a hash.
    name: u64,
    /// The kernel was told of an ACL, or that there is none, and may have that in its cache.
    acl_given: bool,
}

impl KernelInode {
    fn attributes_given(&mut self, attr: &Attr) {
        self.version = attr.version;
        match attr.kind {
            FileKind::Directory => self.directory = Some(Box::new(attr.clone())),
            _ => self.length_max = self.length_max.max(attr.size),
        }
    }
}

/// The table of inodes that the kernel knows.
#[derive(Debug)]
pub(super) struct KernelInodes {
    shards: [Mutex<HashMap<Ino, KernelInode>>; SHARDS],
    clock: AtomicU64,
    /// Requests that may have given the kernel pages of a file.
    fills: AtomicU64,
    root: Ino,
}

impl KernelInodes {
    /// A table with the root only.
    pub(super) fn new(root: Ino) -> KernelInodes {
        let inodes = KernelInodes {
            shards: Default::default(),
            clock: AtomicU64::new(1),
            fills: AtomicU64::new(0),
            root,
        };
        // The kernel has the root without ever looking it up, and never forgets it.
        inodes.shard(root).insert(root, KernelInode { lookups: 1, ..KernelInode::default() });
        inodes
    }

    fn shard(&self, ino: Ino) -> MutexGuard<'_, HashMap<Ino, KernelInode>> {
        self.shards[ino.0 as usize % SHARDS].lock()
    }

    /// Counts a reply that is about to name the inode, and records the attributes in it.
    pub(super) fn name_given(&self, attr: &Attr) {
        let mut shard = self.shard(attr.ino);
        let inode = shard.entry(attr.ino).or_default();
        inode.lookups += 1;
        inode.attributes_given(attr);
    }

    /// Records that the reply to a thread's lookup is about to name this inode.
    pub(super) fn name_looked_up(&self, ino: Ino, thread: u32) {
        if let Some(inode) = self.shard(ino).get_mut(&ino) {
            inode.looked_up.retain(|(by, _)| *by != thread);
            if inode.looked_up.len() >= LOOKUPS_REMEMBERED_MAX {
                inode.looked_up.remove(0);
            }
            inode.looked_up.push((thread, Instant::now()));
        }
    }

    /// The time since the thread looked up a name of the inode, if it has not opened the inode since. None:
    /// the kernel has the name from its cache. The lookup serves one open only: it is forgotten here.
    pub(super) fn take_name_age(&self, ino: Ino, thread: u32) -> Option<Duration> {
        let mut shard = self.shard(ino);
        let looked_up = &mut shard.get_mut(&ino)?.looked_up;
        let at = looked_up.iter().position(|(by, _)| *by == thread)?;
        Some(looked_up.remove(at).1.elapsed())
    }

    /// The kernel is about to be told of an ACL of the inode, or that there is none.
    pub(super) fn acl_given(&self, ino: Ino) {
        if let Some(inode) = self.shard(ino).get_mut(&ino) {
            inode.acl_given = true;
        }
    }

    /// Records the name in a reply that was just counted. Returns whether the kernel may have an older ACL of the
    /// inode in its cache: it drops that when it looks up a name that it has, but not at another name.
    pub(super) fn found_by(&self, ino: Ino, parent: Ino, name: &[u8]) -> bool {
        let name = hash((parent, name));
        let mut shard = self.shard(ino);
        let Some(inode) = shard.get_mut(&ino) else { return false };
        let is_another = std::mem::replace(&mut inode.name, name) != name;
        is_another && std::mem::take(&mut inode.acl_given)
    }

    /// Records attributes that a reply is about to give of an inode that the kernel knows.
    pub(super) fn attributes_given(&self, attr: &Attr) {
        if let Some(inode) = self.shard(attr.ino).get_mut(&attr.ino) {
            inode.attributes_given(attr);
        }
    }

    /// Whether the attributes last given are those of this version of the contents.
    pub(super) fn has_version(&self, ino: Ino, version: u64) -> bool {
        self.shard(ino).get(&ino).is_some_and(|inode| inode.version == version)
    }

    /// The version from which on the kernel has pages of the inode; none if it has no page.
    pub(super) fn pages_from(&self, ino: Ino) -> Option<u64> {
        self.shard(ino).get(&ino).and_then(|inode| inode.pages_from)
    }

    /// The kernel has dropped every page that was read before this version, or has had none.
    pub(super) fn pages_are_from(&self, ino: Ino, version: u64) {
        if let Some(inode) = self.shard(ino).get_mut(&ino) {
            inode.pages_from = inode.pages_from.max(Some(version));
        }
    }

    /// A request begins that may give the kernel pages of the file.
    pub(super) fn pages_filled(&self, ino: Ino) {
        if let Some(inode) = self.shard(ino).get_mut(&ino) {
            inode.filled = self.fills.fetch_add(1, Ordering::Relaxed) + 1;
            inode.written_past = 0;
        }
    }

    /// Counts a write past the kernel's pages. Returns the number of them since the last request that may have given
    /// the kernel pages.
    pub(super) fn written_past(&self, ino: Ino) -> u32 {
        let mut shard = self.shard(ino);
        let Some(inode) = shard.get_mut(&ino) else { return 0 };
        inode.written_past = inode.written_past.saturating_add(1);
        inode.written_past
    }

    /// The last request that may have given the kernel pages; none if it has no page.
    pub(super) fn pages(&self, ino: Ino) -> Option<u64> {
        let shard = self.shard(ino);
        shard.get(&ino).filter(|inode| inode.filled > inode.dropped).map(|inode| inode.filled)
    }

    /// The kernel has dropped all pages that requests up to `filled` may have given it.
    pub(super) fn pages_dropped(&self, ino: Ino, filled: u64) {
        if let Some(inode) = self.shard(ino).get_mut(&ino) {
            inode.dropped = inode.dropped.max(filled);
        }
    }

    /// The kernel's length of the file may be too low from here on.
    pub(super) fn doubt_length(&self, ino: Ino) {
        if let Some(inode) = self.shard(ino).get_mut(&ino) {
            inode.length_doubts += 1;
        }
    }

    /// Whether the kernel's length may be too low: the number of events that made it so.
    pub(super) fn length_doubted(&self, ino: Ino) -> Option<u64> {
        let shard = self.shard(ino);
        let doubted = shard.get(&ino).filter(|inode| inode.length_doubts > inode.length_known);
        doubted.map(|inode| inode.length_doubts)
    }

    /// The kernel was told a length that was asked for after this number of doubts.
    pub(super) fn length_is_known(&self, ino: Ino, doubts: u64) {
        if let Some(inode) = self.shard(ino).get_mut(&ino) {
            inode.length_known = inode.length_known.max(doubts);
        }
    }

    /// The kernel's length of a file may be as great as this.
    pub(super) fn length_reaches(&self, ino: Ino, end: u64) {
        if let Some(inode) = self.shard(ino).get_mut(&ino) {
            inode.length_max = inode.length_max.max(end);
        }
    }

    /// The kernel's length of a file is about to be made no greater than `end`. Returns how great it may be, if that is
    /// more.
    pub(super) fn lower_length(&self, ino: Ino, end: u64) -> Option<u64> {
        let mut shard = self.shard(ino);
        let inode = shard.get_mut(&ino).filter(|inode| inode.length_max > end)?;
        Some(std::mem::replace(&mut inode.length_max, end))
    }

    /// The kernel forgot `lookups` of the replies that named the inode. The last one removes the entry.
    pub(super) fn forget(&self, ino: Ino, lookups: u64) {
        let mut shard = self.shard(ino);
        if let Some(inode) = shard.get_mut(&ino) {
            inode.lookups = inode.lookups.saturating_sub(lookups);
            if inode.lookups == 0 {
                shard.remove(&ino);
            }
        }
    }

    /// The mount's clock of its own changes. It is read before the namespace is asked.
    pub(super) fn clock(&self) -> u64 {
        self.clock.load(Ordering::Acquire)
    }

    /// This mount has changed the inode (of a directory: its names).
    pub(super) fn changed(&self, ino: Ino) {
        if let Some(inode) = self.shard(ino).get_mut(&ino) {
            inode.changed = self.clock.fetch_add(1, Ordering::AcqRel) + 1;
        }
    }

    /// Everything may have changed. Returns all inodes.
    pub(super) fn changed_all(&self) -> Vec<Ino> {
        let clock = self.clock.fetch_add(1, Ordering::AcqRel) + 1;
        let mut all = Vec::new();
        for shard in &self.shards {
            for (ino, inode) in shard.lock().iter_mut() {
                inode.changed = clock;
                inode.no_capability_until = None;
                inode.no_acl_until = [None; 2];
                all.push(*ino);
            }
        }
        all
    }

    /// Whether this mount has changed the inode after `then`.
    pub(super) fn changed_since(&self, ino: Ino, then: u64) -> bool {
        self.shard(ino).get(&ino).is_some_and(|inode| inode.changed > then)
    }

    /// The directory that a directory is in, as last given; None if it is not known.
    pub(super) fn parent(&self, directory: Ino) -> Option<Ino> {
        if directory == self.root {
            return Some(directory);
        }
        self.shard(directory).get(&directory)?.directory.as_ref().map(|attr| attr.parent)
    }

    /// This mount has removed a directory.
    pub(super) fn directory_removed(&self, directory: Ino) {
        if let Some(inode) = self.shard(directory).get_mut(&directory) {
            inode.removed = true;
        }
    }

    /// A program has opened a directory, or with `false` closed it.
    pub(super) fn directory_opened(&self, directory: Ino, opened: bool) {
        if let Some(inode) = self.shard(directory).get_mut(&directory) {
            inode.opens = if opened { inode.opens + 1 } else { inode.opens.saturating_sub(1) };
        }
    }

    /// The attributes of a directory that the namespace does not have any more, if programs of this mount may
    /// have it open or be in it. A directory that another mount has removed must be open here: without that the
    /// kernel may ask for a name that it only remembers.
    pub(super) fn attributes_of_removed(&self, directory: Ino) -> Option<Attr> {
        let shard = self.shard(directory);
        let inode = shard.get(&directory).filter(|inode| inode.removed || inode.opens > 0)?;
        let attr = inode.directory.as_deref()?;
        Some(Attr { nlink: 0, size: 0, ..attr.clone() })
    }

    /// As [`KernelInodes::attributes_of_removed`], after a change, which only this mount knows.
    pub(super) fn change_removed(&self, directory: Ino, change: &AttrChange) -> Option<Attr> {
        self.attributes_of_removed(directory)?;
        if let Some(attr) = self.shard(directory).get_mut(&directory)?.directory.as_deref_mut() {
            let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let now = Time { secs: since.as_secs() as i64, nanos: since.subsec_nanos() };
            change.apply_to(attr, now);
        }
        self.attributes_of_removed(directory)
    }

    /// Whether the inode is known to have no `security.capability`.
    pub(super) fn lacks_capability(&self, ino: Ino) -> bool {
        let until = self.shard(ino).get(&ino).and_then(|inode| inode.no_capability_until);
        until.is_some_and(|until| Instant::now() < until)
    }

    /// The namespace, asked at clock `then`, said that there is no `security.capability`. The answer may be used
    /// for a while.
    pub(super) fn learn_no_capability(&self, ino: Ino, then: u64, usable_for: Duration) {
        if let Some(inode) = self.shard(ino).get_mut(&ino)
            && inode.changed <= then
        {
            inode.no_capability_until = Some(Instant::now() + usable_for);
        }
    }

    /// Attributes of the inode that the namespace was asked for at clock `then` may be used for a while. They say
    /// which ACLs the inode lacks.
    pub(super) fn learn_acls(&self, attr: &Attr, then: u64, usable_for: Duration) {
        if let Some(inode) = self.shard(attr.ino).get_mut(&attr.ino)
            && inode.changed <= then
        {
            let until = Instant::now() + usable_for;
            inode.no_acl_until = [attr.acl, attr.default_acl].map(|has| (!has).then_some(until));
        }
    }

    /// Whether the inode is known to have no access ACL, or no default ACL.
    pub(super) fn lacks_acl(&self, ino: Ino, default: bool) -> bool {
        let until = self.shard(ino).get(&ino).and_then(|inode| inode.no_acl_until[usize::from(default)]);
        until.is_some_and(|until| Instant::now() < until)
    }

    /// An extended attribute of the inode is set: the next question about one is asked again.
    pub(super) fn doubt_xattrs(&self, ino: Ino) {
        if let Some(inode) = self.shard(ino).get_mut(&ino) {
            inode.no_capability_until = None;
            inode.no_acl_until = [None; 2];
        }
    }

    /// The number of inodes that the kernel knows.
    pub(super) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use rain_types::VolumeId;

    pub(crate) fn attr(ino: u64) -> Attr {
        Attr {
            ino: Ino(ino),
            volume: VolumeId(1),
            kind: FileKind::File,
            mode: 0o644,
            uid: 0,
            gid: 0,
            nlink: 1,
            size: 0,
            stored_bytes: 0,
            rdev: 0,
            atime: Time::default(),
            mtime: Time::default(),
            ctime: Time::default(),
            crtime: Time::default(),
            version: 5,
            parent: Ino(0),
            extents: 0,
            acl: false,
            default_acl: false,
        }
    }

    fn table() -> KernelInodes {
        KernelInodes::new(Ino(40))
    }

    #[test]
    fn an_inode_is_kept_until_the_kernel_forgot_every_lookup() {
        let inodes = table();
        for _ in 0..3 {
            inodes.name_given(&attr(7));
        }
        inodes.forget(Ino(7), 2);
        assert!(inodes.has_version(Ino(7), 5));
        inodes.forget(Ino(7), 1);
        assert!(!inodes.has_version(Ino(7), 5));
        assert_eq!(inodes.len(), 1, "only the root is left");
    }

    #[test]
    fn the_kernel_has_pages_until_all_that_it_was_given_are_dropped() {
        let inodes = table();
        inodes.name_given(&attr(7));
        assert_eq!(inodes.pages(Ino(7)), None);
        inodes.pages_filled(Ino(7));
        let filled = inodes.pages(Ino(7)).unwrap();
        inodes.pages_filled(Ino(7));
        inodes.pages_dropped(Ino(7), filled);
        let filled = inodes.pages(Ino(7)).expect("a request began after the drop did");
        inodes.pages_dropped(Ino(7), filled);
        assert_eq!(inodes.pages(Ino(7)), None);
    }

    #[test]
    fn a_length_is_doubted_until_it_was_told_after_the_last_doubt() {
        let inodes = table();
        inodes.name_given(&attr(7));
        assert_eq!(inodes.length_doubted(Ino(7)), None, "it came with the name");
        inodes.doubt_length(Ino(7));
        let doubts = inodes.length_doubted(Ino(7)).unwrap();
        inodes.doubt_length(Ino(7));
        inodes.length_is_known(Ino(7), doubts);
        let doubts = inodes.length_doubted(Ino(7)).expect("doubted again meanwhile");
        inodes.length_is_known(Ino(7), doubts);
        assert_eq!(inodes.length_doubted(Ino(7)), None);
    }

    #[test]
    fn own_changes_are_told_from_older_ones() {
        let inodes = table();
        inodes.name_given(&attr(7));
        inodes.name_given(&attr(8));
        let then = inodes.clock();
        assert!(!inodes.changed_since(Ino(7), then));
        inodes.changed(Ino(7));
        assert!(inodes.changed_since(Ino(7), then));
        assert!(!inodes.changed_since(Ino(8), then));
        assert!(!inodes.changed_since(Ino(7), inodes.clock()), "seen by who asks from now on");
    }

    #[test]
    fn a_missing_capability_is_believed_until_something_is_set() {
        let inodes = table();
        inodes.name_given(&attr(7));
        assert!(!inodes.lacks_capability(Ino(7)));
        inodes.learn_no_capability(Ino(7), inodes.clock(), Duration::from_secs(60));
        assert!(inodes.lacks_capability(Ino(7)));
        inodes.doubt_xattrs(Ino(7));
        assert!(!inodes.lacks_capability(Ino(7)));
        let asked = inodes.clock();
        inodes.changed(Ino(7));
        inodes.learn_no_capability(Ino(7), asked, Duration::from_secs(60));
        assert!(!inodes.lacks_capability(Ino(7)), "the answer is older than a change");
    }

    #[test]
    fn a_missing_acl_is_believed_until_something_is_set() {
        let (inodes, hour) = (table(), Duration::from_secs(3600));
        inodes.name_given(&attr(7));
        assert!(!inodes.lacks_acl(Ino(7), false), "nothing was said");
        inodes.learn_acls(&Attr { acl: true, ..attr(7) }, inodes.clock(), hour);
        assert!(!inodes.lacks_acl(Ino(7), false) && inodes.lacks_acl(Ino(7), true));
        inodes.learn_acls(&attr(7), inodes.clock(), hour);
        assert!(inodes.lacks_acl(Ino(7), false));
        let asked = inodes.clock();
        inodes.changed(Ino(7));
        inodes.doubt_xattrs(Ino(7));
        inodes.learn_acls(&attr(7), asked, hour);
        assert!(!inodes.lacks_acl(Ino(7), false), "the answer is older than a change");
    }

    #[test]
    fn an_acl_in_the_kernels_cache_is_doubted_at_another_name() {
        let inodes = table();
        inodes.name_given(&attr(7));
        assert!(!inodes.found_by(Ino(7), Ino(40), b"a"), "it has no ACL yet");
        inodes.acl_given(Ino(7));
        assert!(!inodes.found_by(Ino(7), Ino(40), b"a"), "it drops the ACL by itself");
        assert!(inodes.found_by(Ino(7), Ino(40), b"b"));
        assert!(!inodes.found_by(Ino(7), Ino(41), b"b"), "it was dropped already");
    }

    #[test]
    fn a_missing_capability_is_asked_for_again_in_time() {
        let inodes = table();
        inodes.name_given(&attr(7));
        inodes.learn_no_capability(Ino(7), inodes.clock(), Duration::ZERO);
        assert!(!inodes.lacks_capability(Ino(7)));
    }

    #[test]
    fn a_name_is_fresh_for_one_open_of_the_thread_that_looked_it_up() {
        let inodes = table();
        inodes.name_given(&attr(7));
        assert_eq!(inodes.take_name_age(Ino(7), 1), None, "nobody has looked");
        for thread in [1, 2, 1] {
            inodes.name_looked_up(Ino(7), thread);
        }
        assert!(inodes.take_name_age(Ino(7), 1).is_some_and(|age| age < Duration::from_secs(5)));
        assert_eq!(inodes.take_name_age(Ino(7), 1), None, "the kernel has it from memory");
        assert_eq!(inodes.take_name_age(Ino(7), 3), None, "another one has looked");
        assert!(inodes.take_name_age(Ino(7), 2).is_some());
        (0..100).for_each(|thread| inodes.name_looked_up(Ino(7), thread));
        assert!(
            inodes.take_name_age(Ino(7), 99).is_some() && inodes.take_name_age(Ino(7), 1).is_none(),
            "a bounded memory"
        );
    }

    #[test]
    fn a_directory_remembers_where_it_is() {
        let inodes = table();
        let directory = Attr { kind: FileKind::Directory, parent: Ino(40), ..attr(9) };
        assert_eq!(inodes.parent(Ino(9)), None);
        inodes.name_given(&directory);
        assert_eq!(inodes.parent(Ino(9)), Some(Ino(40)));
        inodes.attributes_given(&Attr { parent: Ino(41), ..directory });
        assert_eq!(inodes.parent(Ino(9)), Some(Ino(41)));
        assert_eq!(inodes.parent(Ino(40)), Some(Ino(40)), "the root is in itself");
    }

    #[test]
    fn a_removed_directory_has_attributes_while_programs_may_be_in_it() {
        let inodes = table();
        let directory = Attr { kind: FileKind::Directory, nlink: 2, size: 3, ..attr(9) };
        inodes.name_given(&directory);
        assert!(inodes.attributes_of_removed(Ino(9)).is_none(), "it may be a name that the kernel remembers");
        inodes.directory_opened(Ino(9), true);
        let found = inodes.attributes_of_removed(Ino(9)).map(|attr| (attr.ino, attr.nlink, attr.size));
        assert_eq!(found, Some((Ino(9), 0, 0)));
        inodes.directory_opened(Ino(9), false);
        assert!(inodes.attributes_of_removed(Ino(9)).is_none());
        inodes.directory_removed(Ino(9));
        assert!(inodes.attributes_of_removed(Ino(9)).is_some(), "a program may be in it without a handle");
        inodes.forget(Ino(9), 1);
        assert!(inodes.attributes_of_removed(Ino(9)).is_none());
    }
}
