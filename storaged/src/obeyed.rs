//! The newest mandate that this node has obeyed, in the file `obeyed-mandate` ([`crate::disk::slots`]).
//!
//! A leader's workers delete, repair and move shares by a mandate: the leader's term, and the version of the
//! cluster's layout that the work was decided by. A deposed leader may not know yet that it is deposed, and a
//! request may be late. So a node obeys no older term than it has obeyed, and no delete by an older layout.
//!
//! Invariants:
//! 1. A newer mandate is durable before the node obeys it, and it is never lowered
//!    (`the_newest_mandate_is_kept_over_a_restart_and_a_torn_write`,
//!    `a_mandate_that_the_disk_does_not_take_is_not_obeyed`).
//! 2. When a newer mandate is obeyed, all work by older ones has ended
//!    (`a_newer_mandate_waits_for_the_work_by_an_older_one`). So nothing is deleted by an old decision after a
//!    share was put by a newer one.
//! 3. A member whose file is lost or damaged does not start
//!    (`a_member_without_its_file_is_refused`). A new data folder has obeyed nothing. It belongs to a new node,
//!    and nobody has a mandate for work on that node from before.

use crate::disk::Media;
use crate::disk::slots::{PayloadLength, SlotFile, SlotFormat, Unreadable};
use rain_proto::convert::Mandate;
use rain_types::{LeaderTerm, NodeId};
use std::io;
use std::path::Path;
use std::sync::Arc;
use thiserror::Error;
use tokio::sync::{OwnedRwLockReadGuard, RwLock};

const FORMAT: SlotFormat = SlotFormat {
    magic: b"RAINMND1",
    slot_bytes: 4096,
    length: PayloadLength::Prefix,
    unreadable: Unreadable::IsAnError,
};

/// First byte of the payload.
const VERSION: u8 = 1;

/// Version, term, leader, layout.
const PAYLOAD_BYTES: usize = 1 + 8 + 4 + 8;

/// Why a mandate is not obeyed.
#[derive(Debug, Error)]
pub(crate) enum Disobeyed {
    /// The node has obeyed a later term.
    #[error("the leader's term {given} is over: this node has obeyed term {newest}")]
    TermOver {
        /// The term of the mandate.
        given: LeaderTerm,
        /// The newest term that the node has obeyed.
        newest: LeaderTerm,
    },
    /// The node has obeyed a newer layout, and the work must not go by an older one.
    #[error(
        "the work was decided by version {given} of the cluster's layout: this node has obeyed version {newest}"
    )]
    PlacesOld {
        /// The version of the mandate.
        given: u64,
        /// The newest version that the node has obeyed.
        newest: u64,
    },
    /// The file cannot be written.
    #[error("noting term {given}, which this node has not obeyed before: {source}")]
    Io {
        /// The term of the mandate.
        given: LeaderTerm,
        /// The system's error.
        source: io::Error,
    },
}

/// The newest mandate that this node has obeyed. Clones are the same one.
#[derive(Debug, Clone)]
pub(crate) struct Obeyed(Arc<RwLock<State>>);

#[derive(Debug)]
struct State {
    file: SlotFile,
    /// Newest term and newest layout. They need not come from one mandate.
    newest: Mandate,
}

/// The permission to work by a mandate. No newer one is obeyed until it is dropped.
#[derive(Debug)]
pub(crate) struct Obeying(
    #[expect(dead_code, reason = "the guard is kept, never used")] OwnedRwLockReadGuard<State>,
);

impl Obeyed {
    /// Opens the file, or makes it for a folder that belongs to no member yet. Fails for a member whose file
    /// is missing or damaged.
    pub(crate) fn open(media: &dyn Media, path: &Path, is_member: bool) -> io::Result<Obeyed> {
        let (mut file, payload) = SlotFile::open(media, path, FORMAT)?;
        let newest = match payload {
            Some(payload) => decode(&payload).ok_or_else(|| {
                let why = "the file has another version: run the version of RAIN that wrote it";
                io::Error::new(io::ErrorKind::InvalidData, why)
            })?,
            None if is_member => {
                let why = "the file is missing or empty. A node that has forgotten which leaders it has obeyed is another \
                           node: give it a new number and an empty folder";
                return Err(io::Error::new(io::ErrorKind::InvalidData, why));
            }
            None => {
                // From here on an empty file is a lost one.
                file.write(&encode(Mandate::default()))?;
                Mandate::default()
            }
        };
        Ok(Obeyed(Arc::new(RwLock::new(State { file, newest }))))
    }

    /// Obeys a mandate, if it is of no older term than the newest one.
    pub(crate) async fn obey(&self, given: Mandate) -> Result<Obeying, Disobeyed> {
        self.obey_unless(given, false).await
    }

    /// Obeys a mandate, if it is of no older term and of no older layout than the newest ones.
    pub(crate) async fn obey_strictly(&self, given: Mandate) -> Result<Obeying, Disobeyed> {
        self.obey_unless(given, true).await
    }

    async fn obey_unless(&self, given: Mandate, strictly: bool) -> Result<Obeying, Disobeyed> {
        loop {
            let state = self.0.clone().read_owned().await;
            let newest = state.newest;
            if given.term < newest.term {
                return Err(Disobeyed::TermOver { given: given.term, newest: newest.term });
            }
            if strictly && given.places < newest.places {
                return Err(Disobeyed::PlacesOld { given: given.places, newest: newest.places });
            }
            if given.term <= newest.term && given.places <= newest.places {
                return Ok(Obeying(state));
            }
            drop(state);
            let mut state = self.0.clone().write_owned().await;
            // On a thread for blocking work, which goes on when the caller is gone.
            let raised = tokio::task::spawn_blocking(move || state.raise(given)).await;
            let raised = raised.unwrap_or_else(|error| Err(io::Error::other(error)));
            raised.map_err(|source| Disobeyed::Io { given: given.term, source })?;
        }
    }
}

impl State {
    /// Makes a mandate durable where it is newer.
    fn raise(&mut self, given: Mandate) -> io::Result<()> {
        let newest =
            Mandate { term: self.newest.term.max(given.term), places: self.newest.places.max(given.places) };
        if newest != self.newest {
            self.file.write(&encode(newest))?;
            self.newest = newest;
        }
        Ok(())
    }
}

fn encode(mandate: Mandate) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(PAYLOAD_BYTES);
    bytes.push(VERSION);
    bytes.extend_from_slice(&mandate.term.term.to_le_bytes());
    bytes.extend_from_slice(&mandate.term.node.0.to_le_bytes());
    bytes.extend_from_slice(&mandate.places.to_le_bytes());
    bytes
}

fn decode(payload: &[u8]) -> Option<Mandate> {
    let rest = payload.strip_prefix(&[VERSION])?;
    let (term, rest) = rest.split_first_chunk()?;
    let (node, rest) = rest.split_first_chunk()?;
    let places = rest.try_into().ok()?;
    let term = LeaderTerm { term: u64::from_le_bytes(*term), node: NodeId(u32::from_le_bytes(*node)) };
    Some(Mandate { term, places: u64::from_le_bytes(places) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{DiskMedia, MediaFile};
    use std::fs::File;
    use std::os::unix::fs::FileExt;
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
    use std::time::Duration;

    fn mandate(term: u64, node: u32, places: u64) -> Mandate {
        Mandate { term: LeaderTerm { term, node: NodeId(node) }, places }
    }

    fn open(path: &Path, is_member: bool) -> Obeyed {
        Obeyed::open(&DiskMedia, path, is_member).expect("opened")
    }

    async fn newest(obeyed: &Obeyed) -> Mandate {
        obeyed.0.read().await.newest
    }

    #[tokio::test]
    async fn no_older_term_is_obeyed_and_no_delete_by_an_older_layout() {
        let folder = tempfile::tempdir().expect("a folder");
        let obeyed = open(&folder.path().join("m"), false);
        obeyed.obey(mandate(5, 2, 9)).await.expect("the first");
        obeyed.obey(mandate(5, 2, 9)).await.expect("the same again");
        for older in [mandate(4, 7, 99), mandate(5, 1, 99), mandate(0, 0, 0)] {
            let error = obeyed.obey(older).await.expect_err("an older term");
            assert!(error.to_string().contains("term 5.2"), "{error}");
            obeyed.obey_strictly(older).await.expect_err("an older term");
        }
        obeyed.obey(mandate(5, 2, 8)).await.expect("a put by an older layout harms nothing");
        let error = obeyed.obey_strictly(mandate(6, 1, 8)).await.expect_err("an older layout");
        assert!(matches!(error, Disobeyed::PlacesOld { given: 8, newest: 9 }), "{error}");
        assert_eq!(newest(&obeyed).await, mandate(5, 2, 9), "what is refused is not noted");
        // Within one term of the consensus a later leader has a higher node.
        obeyed.obey_strictly(mandate(5, 3, 9)).await.expect("a later leader of the same term");
        obeyed.obey(mandate(7, 1, 2)).await.expect("a later term");
        assert_eq!(newest(&obeyed).await, mandate(7, 1, 9), "the layout is not lowered");
    }

    #[tokio::test]
    async fn the_newest_mandate_is_kept_over_a_restart_and_a_torn_write() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("m");
        open(&path, false).obey(mandate(3, 1, 4)).await.expect("obeyed");
        let obeyed = open(&path, true);
        obeyed.obey(mandate(2, 9, 4)).await.expect_err("an older one, after a restart");
        obeyed.obey(mandate(4, 1, 4)).await.expect("a newer one");
        drop(obeyed);
        // Generations 1, 2 and 3 are written. The next write goes to slot 0 and is torn: 3 counts.
        let file = File::options().write(true).open(&path).expect("there");
        file.write_all_at(&[0xff; 30], 0).expect("torn");
        let obeyed = open(&path, true);
        obeyed.obey(mandate(3, 1, 4)).await.expect_err("an older one, after a torn write");
        assert_eq!(newest(&obeyed).await, mandate(4, 1, 4));
    }

    #[tokio::test]
    async fn a_member_without_its_file_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("m");
        let lost = || Obeyed::open(&DiskMedia, &path, true).expect_err("lost").to_string();
        assert!(lost().contains("missing"), "never made");
        assert!(lost().contains("missing"), "the try before has made an empty one");
        open(&path, false).obey(mandate(3, 1, 4)).await.expect("obeyed");
        std::fs::remove_file(&path).expect("removed");
        assert!(lost().contains("missing"), "removed");
        std::fs::write(&path, vec![0x5a; 8192]).expect("damaged");
        assert!(lost().contains("damaged"));
        std::fs::write(&path, "short").expect("damaged");
        assert!(lost().contains("missing"), "cut off");
    }

    #[tokio::test]
    async fn a_newer_mandate_waits_for_the_work_by_an_older_one() {
        let folder = tempfile::tempdir().expect("a folder");
        let obeyed = open(&folder.path().join("m"), false);
        let deleting = obeyed.obey_strictly(mandate(3, 1, 4)).await.expect("obeyed");
        let newer = tokio::spawn({
            let obeyed = obeyed.clone();
            async move { obeyed.obey(mandate(4, 2, 5)).await.map(drop) }
        });
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(!newer.is_finished(), "the older work has not ended");
        drop(deleting);
        newer.await.expect("no panic").expect("obeyed");
        obeyed.obey(mandate(3, 1, 4)).await.expect_err("older by now");
    }

    /// A disk that refuses to sync while it is told to.
    #[derive(Debug, Clone, Default)]
    struct Broken(Arc<AtomicBool>);

    #[derive(Debug)]
    struct BrokenFile(Box<dyn MediaFile>, Broken);

    impl Media for Broken {
        fn open(&self, path: &Path, create: bool) -> io::Result<Box<dyn MediaFile>> {
            Ok(Box::new(BrokenFile(DiskMedia.open(path, create)?, self.clone())))
        }
        fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
            DiskMedia.list(dir)
        }
        fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
            DiskMedia.rename(from, to)
        }
        fn remove(&self, path: &Path) -> io::Result<()> {
            DiskMedia.remove(path)
        }
        fn sync_directory(&self, dir: &Path) -> io::Result<()> {
            DiskMedia.sync_directory(dir)
        }
    }

    impl MediaFile for BrokenFile {
        fn len(&self) -> io::Result<u64> {
            self.0.len()
        }
        fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
            self.0.read_at(offset, bytes)
        }
        fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
            self.0.write_at(offset, bytes)
        }
        fn set_len(&self, len: u64) -> io::Result<()> {
            self.0.set_len(len)
        }
        fn sync(&self) -> io::Result<()> {
            if self.1.0.load(Relaxed) { Err(io::Error::other("no sync")) } else { self.0.sync() }
        }
    }

    #[tokio::test]
    async fn a_mandate_that_the_disk_does_not_take_is_not_obeyed() {
        let folder = tempfile::tempdir().expect("a folder");
        let broken = Broken::default();
        let obeyed = Obeyed::open(&broken, &folder.path().join("m"), false).expect("opened");
        obeyed.obey(mandate(3, 1, 4)).await.expect("obeyed");
        broken.0.store(true, Relaxed);
        let error = obeyed.obey(mandate(4, 1, 4)).await.expect_err("not durable");
        assert!(matches!(error, Disobeyed::Io { .. }), "{error}");
        obeyed.obey(mandate(3, 1, 4)).await.expect("the one before still holds");
        broken.0.store(false, Relaxed);
        obeyed.obey(mandate(4, 1, 4)).await.expect("durable now");
    }

    /// The table of `docs/formats.md`.
    #[test]
    fn the_payload_keeps_its_bytes() {
        let golden = [&[1][..], &[44, 1, 0, 0, 0, 0, 0, 0], &[2, 0, 0, 0], &[7, 0, 0, 0, 0, 0, 0, 0]];
        assert_eq!(encode(mandate(300, 2, 7)), golden.concat());
        assert_eq!(decode(&golden.concat()), Some(mandate(300, 2, 7)));
        assert_eq!((decode(&golden.concat()[..20]), decode(&[2; 21]), decode(&[1; 22])), (None, None, None));
    }
}
