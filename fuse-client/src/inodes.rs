//! What this mount remembers of the inodes the kernel knows, and of nothing else: an entry lives from the
//! first reply that names the inode to the kernel's FORGET, so the kernel's own cache bounds this table.
//!
//! Inode numbers are the namespace's own, except that FUSE wants 1 for the root: [`Numbers`] swaps the two.
//!
//! Invariants:
//! 1. `lookups` is the number of replies that named the inode, less what the kernel forgot. It is counted
//!    before the reply is sent, so a FORGET never overtakes it.
//! 2. `changed` grows with every change this mount makes to the inode, by one clock for the whole mount
//!    ([`Inodes::now`]). What was read from the namespace at clock t shows all changes up to t.

use fuser::INodeNo;
use rain_namespace::record::{Attr, FileKind};
use rain_types::Ino;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

const SHARDS: usize = 16;

/// Threads that are remembered to have looked up one inode.
const NAMED_MAX: usize = 16;

/// The namespace's inode numbers and the kernel's: the same, with the volume's root and 1 swapped.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Numbers {
    root: Ino,
}

impl Numbers {
    pub(crate) fn new(root: Ino) -> Numbers {
        Numbers { root }
    }

    /// The kernel's number.
    pub(crate) fn kernel(self, ino: Ino) -> INodeNo {
        INodeNo(self.swap(ino.0))
    }

    /// The namespace's number.
    pub(crate) fn namespace(self, number: INodeNo) -> Ino {
        Ino(self.swap(number.0))
    }

    fn swap(self, number: u64) -> u64 {
        match number {
            number if number == self.root.0 => INodeNo::ROOT.0,
            number if number == INodeNo::ROOT.0 => self.root.0,
            number => number,
        }
    }
}

#[derive(Debug, Default)]
struct Known {
    lookups: u64,
    /// When this mount last changed it, by the mount's clock. 0: not since it is known.
    changed: u64,
    /// Of a directory: the directory it is in, as last heard.
    parent: Ino,
    /// The version of the contents in the attributes that the kernel was last given.
    told: u64,
    /// Which threads were lately told that a name means it, and when; the newest last.
    named: Vec<(u32, Instant)>,
    /// Until when it is taken for granted that there is no `security.capability`.
    no_capability_until: Option<Instant>,
}

/// The table.
#[derive(Debug)]
pub(crate) struct Inodes {
    shards: [Mutex<HashMap<Ino, Known>>; SHARDS],
    clock: AtomicU64,
    trust: Duration,
}

impl Inodes {
    /// `trust` is how long an answer about `security.capability` holds.
    pub(crate) fn new(root: Ino, trust: Duration) -> Inodes {
        let inodes = Inodes { shards: Default::default(), clock: AtomicU64::new(1), trust };
        // The kernel has the root without ever looking it up, and never forgets it.
        inodes.shard(root).insert(root, Known { lookups: 1, parent: root, ..Known::default() });
        inodes
    }

    fn shard(&self, ino: Ino) -> MutexGuard<'_, HashMap<Ino, Known>> {
        let shard = &self.shards[ino.0 as usize % SHARDS];
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A reply is about to name this inode to the kernel.
    pub(crate) fn looked_up(&self, attr: &Attr) {
        let mut shard = self.shard(attr.ino);
        let known = shard.entry(attr.ino).or_default();
        known.lookups += 1;
        known.tell(attr);
    }

    /// A thread is about to be told that a name means this inode.
    pub(crate) fn named(&self, ino: Ino, thread: u32) {
        if let Some(known) = self.shard(ino).get_mut(&ino) {
            known.named.retain(|(told, _)| *told != thread);
            if known.named.len() >= NAMED_MAX {
                known.named.remove(0);
            }
            known.named.push((thread, Instant::now()));
        }
    }

    /// A thread opens the inode: how long ago it was told a name of it, if it was since it last opened it. Else the kernel has the name
    /// from memory.
    pub(crate) fn opened(&self, ino: Ino, thread: u32) -> Option<Duration> {
        let mut shard = self.shard(ino);
        let named = &mut shard.get_mut(&ino)?.named;
        let at = named.iter().position(|(told, _)| *told == thread)?;
        Some(named.remove(at).1.elapsed())
    }

    /// A reply is about to give the kernel attributes of an inode it has.
    pub(crate) fn told(&self, attr: &Attr) {
        if let Some(known) = self.shard(attr.ino).get_mut(&attr.ino) {
            known.tell(attr);
        }
    }

    /// Whether the kernel's attributes are those of this version of the contents.
    pub(crate) fn kernel_knows(&self, ino: Ino, version: u64) -> bool {
        self.shard(ino).get(&ino).is_some_and(|known| known.told == version)
    }

    /// The kernel forgot `lookups` of the replies that named it.
    pub(crate) fn forget(&self, ino: Ino, lookups: u64) {
        let mut shard = self.shard(ino);
        if let Some(known) = shard.get_mut(&ino) {
            known.lookups = known.lookups.saturating_sub(lookups);
            if known.lookups == 0 {
                shard.remove(&ino);
            }
        }
    }

    /// The mount's clock: take it before asking the namespace.
    pub(crate) fn now(&self) -> u64 {
        self.clock.load(Ordering::Acquire)
    }

    /// This mount has changed the inode (of a directory: its names).
    pub(crate) fn changed(&self, ino: Ino) {
        if let Some(known) = self.shard(ino).get_mut(&ino) {
            known.changed = self.clock.fetch_add(1, Ordering::AcqRel) + 1;
        }
    }

    /// Whether this mount has changed the inode since.
    pub(crate) fn changed_since(&self, ino: Ino, then: u64) -> bool {
        self.shard(ino).get(&ino).is_some_and(|known| known.changed > then)
    }

    /// The directory that a directory is in, if it was ever said.
    pub(crate) fn parent(&self, directory: Ino) -> Option<Ino> {
        self.shard(directory).get(&directory).map(|known| known.parent).filter(|parent| parent.0 != 0)
    }

    /// Whether the inode is known to have no `security.capability`.
    pub(crate) fn lacks_capability(&self, ino: Ino) -> bool {
        let until = self.shard(ino).get(&ino).and_then(|known| known.no_capability_until);
        until.is_some_and(|until| Instant::now() < until)
    }

    /// The namespace, asked at clock `then`, said that there is no `security.capability`.
    pub(crate) fn learn_no_capability(&self, ino: Ino, then: u64) {
        if let Some(known) = self.shard(ino).get_mut(&ino)
            && known.changed <= then
        {
            known.no_capability_until = Some(Instant::now() + self.trust);
        }
    }

    /// Somebody sets an extended attribute here.
    pub(crate) fn doubt_capability(&self, ino: Ino) {
        if let Some(known) = self.shard(ino).get_mut(&ino) {
            known.no_capability_until = None;
        }
    }

    /// How many inodes the kernel knows.
    pub(crate) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner).len()).sum()
    }
}

impl Known {
    fn tell(&mut self, attr: &Attr) {
        self.told = attr.version;
        if attr.kind == FileKind::Directory {
            self.parent = attr.parent;
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use rain_namespace::record::Time;
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
        }
    }

    fn table() -> Inodes {
        Inodes::new(Ino(40), Duration::from_secs(60))
    }

    #[test]
    fn the_root_is_1_for_the_kernel_and_every_number_maps_back() {
        for root in [1, 40, 1 << 48] {
            let numbers = Numbers::new(Ino(root));
            assert_eq!(numbers.kernel(Ino(root)), INodeNo::ROOT);
            let mut kernel: Vec<u64> = [1, 2, 40, 41, 1 << 48].map(|ino| numbers.kernel(Ino(ino)).0).into();
            for ino in [1, 2, 40, 41, 1 << 48] {
                assert_eq!(numbers.namespace(numbers.kernel(Ino(ino))), Ino(ino));
            }
            kernel.sort();
            kernel.dedup();
            assert_eq!(kernel.len(), 5, "two inodes share a number");
        }
    }

    #[test]
    fn an_inode_is_kept_until_the_kernel_forgot_every_lookup() {
        let inodes = table();
        for _ in 0..3 {
            inodes.looked_up(&attr(7));
        }
        inodes.forget(Ino(7), 2);
        assert!(inodes.kernel_knows(Ino(7), 5));
        inodes.forget(Ino(7), 1);
        assert!(!inodes.kernel_knows(Ino(7), 5));
        assert_eq!(inodes.len(), 1, "only the root is left");
    }

    #[test]
    fn own_changes_are_told_from_older_ones() {
        let inodes = table();
        inodes.looked_up(&attr(7));
        inodes.looked_up(&attr(8));
        let then = inodes.now();
        assert!(!inodes.changed_since(Ino(7), then));
        inodes.changed(Ino(7));
        assert!(inodes.changed_since(Ino(7), then));
        assert!(!inodes.changed_since(Ino(8), then));
        assert!(!inodes.changed_since(Ino(7), inodes.now()), "seen by who asks from now on");
    }

    #[test]
    fn a_missing_capability_is_believed_until_something_is_set() {
        let inodes = table();
        inodes.looked_up(&attr(7));
        assert!(!inodes.lacks_capability(Ino(7)));
        inodes.learn_no_capability(Ino(7), inodes.now());
        assert!(inodes.lacks_capability(Ino(7)));
        inodes.doubt_capability(Ino(7));
        assert!(!inodes.lacks_capability(Ino(7)));
        let asked = inodes.now();
        inodes.changed(Ino(7));
        inodes.learn_no_capability(Ino(7), asked);
        assert!(!inodes.lacks_capability(Ino(7)), "the answer is older than a change");
    }

    #[test]
    fn a_missing_capability_is_asked_for_again_in_time() {
        let inodes = Inodes::new(Ino(40), Duration::ZERO);
        inodes.looked_up(&attr(7));
        inodes.learn_no_capability(Ino(7), inodes.now());
        assert!(!inodes.lacks_capability(Ino(7)));
    }

    #[test]
    fn a_name_is_fresh_for_one_open_of_the_thread_that_looked_it_up() {
        let inodes = table();
        inodes.looked_up(&attr(7));
        assert_eq!(inodes.opened(Ino(7), 1), None, "nobody has looked");
        for thread in [1, 2, 1] {
            inodes.named(Ino(7), thread);
        }
        assert!(inodes.opened(Ino(7), 1).is_some_and(|age| age < Duration::from_secs(5)));
        assert_eq!(inodes.opened(Ino(7), 1), None, "the kernel has it from memory");
        assert_eq!(inodes.opened(Ino(7), 3), None, "another one has looked");
        assert!(inodes.opened(Ino(7), 2).is_some());
        (0..100).for_each(|thread| inodes.named(Ino(7), thread));
        assert!(
            inodes.opened(Ino(7), 99).is_some() && inodes.opened(Ino(7), 1).is_none(),
            "a bounded memory"
        );
    }

    #[test]
    fn a_directory_remembers_where_it_is() {
        let inodes = table();
        let directory = Attr { kind: FileKind::Directory, parent: Ino(40), ..attr(9) };
        assert_eq!(inodes.parent(Ino(9)), None);
        inodes.looked_up(&directory);
        assert_eq!(inodes.parent(Ino(9)), Some(Ino(40)));
        inodes.told(&Attr { parent: Ino(41), ..directory });
        assert_eq!(inodes.parent(Ino(9)), Some(Ino(41)));
        assert_eq!(inodes.parent(Ino(40)), Some(Ino(40)), "the root is in itself");
    }
}
