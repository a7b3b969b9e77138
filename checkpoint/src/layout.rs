//! Names and manifests of checkpoints. Pure.
//!
//! Invariants: a name of an epoch, of a save and of an epoch that is being removed are never the same, and only the first
//! has no dot before it (`each_name_is_read_as_what_it_is`). The slices of an item cover it without gap or overlap
//! ([`check_ranks`]).

use crate::error::Error;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ops::Range;

/// The directory of all jobs in a volume's root.
pub(crate) const CHECKPOINTS: &str = ".checkpoints";

/// The file that says what belongs to an epoch.
pub(crate) const MANIFEST: &str = "manifest.json";

/// The extended attribute of a job's directory with its newest incarnation, in decimal digits.
pub(crate) const INCARNATION: &[u8] = b"user.rain.incarnation";

/// The extended attribute of an epoch that is kept by `prune`.
pub(crate) const PINNED: &[u8] = b"user.rain.pinned";

/// The format of the manifests.
pub(crate) const FORMAT: u32 = 1;

const JOB_NAME_MAX: usize = 128;
const PART_NAME_MAX: usize = 200;

pub(crate) fn check_job_name(name: &str) -> Result<(), Error> {
    check_name("a job", name, JOB_NAME_MAX)
}

pub(crate) fn check_part_name(name: &str) -> Result<(), Error> {
    check_name("a part", name, PART_NAME_MAX)
}

fn check_name(what: &'static str, name: &str, most: usize) -> Result<(), Error> {
    let why = match name {
        "" => "the name is empty",
        _ if name.len() > most => "the name is too long",
        _ if name.starts_with('.') => "the name begins with a dot",
        _ if name.contains('/') => "the name has a slash; a part of many files is an archive or many parts",
        _ if name.contains(char::is_control) => "the name has control characters",
        _ => return Ok(()),
    };
    Err(Error::Name { what, name: name.into(), why })
}

/// A directory in a job's directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Folder {
    /// A committed epoch.
    Epoch(u64),
    /// A save of an epoch by an incarnation.
    Saving { epoch: u64, incarnation: u64 },
    /// An epoch that is being removed.
    Removing(u64),
}

impl Folder {
    pub(crate) fn name(self) -> String {
        match self {
            Folder::Epoch(epoch) => format!("{epoch:010}"),
            Folder::Saving { epoch, incarnation } => format!(".{epoch:010}.{incarnation}.saving"),
            Folder::Removing(epoch) => format!(".{epoch:010}.removing"),
        }
    }

    /// Reads a name; none: it is something else.
    pub(crate) fn parse(name: &[u8]) -> Option<Folder> {
        let name = str::from_utf8(name).ok()?;
        let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        let number = |text: &str| text.parse::<u64>().ok().filter(|_| digits(text));
        let folder = match name.strip_prefix('.') {
            None => Folder::Epoch(number(name)?),
            Some(hidden) => match hidden.split('.').collect::<Vec<_>>()[..] {
                [epoch, "removing"] => Folder::Removing(number(epoch)?),
                [epoch, incarnation, "saving"] => {
                    Folder::Saving { epoch: number(epoch)?, incarnation: number(incarnation)? }
                }
                _ => return None,
            },
        };
        Some(folder).filter(|folder| folder.name() == name)
    }
}

pub(crate) fn rank_folder(rank: u32) -> String {
    format!("rank-{rank:05}")
}

pub(crate) fn rank_manifest(rank: u32) -> String {
    format!("rank-{rank:05}.json")
}

pub(crate) fn rank_hashes(rank: u32) -> String {
    format!("rank-{rank:05}.hashes")
}

/// The place of a part in an item that several ranks save.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slice {
    /// First byte in the item.
    pub offset: u64,
    /// Length of the whole item in bytes.
    pub total: u64,
}

/// A part: one file of one rank.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartRecord {
    /// Name.
    pub name: String,
    /// Length.
    pub bytes: u64,
    /// BLAKE3 in hexadecimal digits, as `b3sum` prints it.
    pub blake3: String,
    /// The part is a slice of an item of this name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slice: Option<Slice>,
    /// Bytes that were not in the epoch before and had to be stored.
    pub stored_bytes: u64,
}

/// What a rank has saved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RankRecord {
    /// Format of this record.
    pub format: u32,
    /// Job.
    pub job: String,
    /// Epoch.
    pub epoch: u64,
    /// Incarnation that has saved it.
    pub incarnation: u64,
    /// Rank, from 0.
    pub rank: u32,
    /// Number of ranks of the epoch.
    pub ranks: u32,
    /// Seconds since 1970 at which the rank had saved all parts.
    pub saved_at: u64,
    /// Length of the chunks whose hashes are kept.
    pub chunk_bytes: u64,
    /// BLAKE3 of the file of chunk hashes, in hexadecimal digits.
    pub hashes_blake3: String,
    /// Parts in the order of their names. The chunk hashes follow the same order.
    pub parts: Vec<PartRecord>,
}

/// A rank in an epoch's manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RankEntry {
    /// Rank.
    pub rank: u32,
    /// BLAKE3 of the rank's manifest, in hexadecimal digits.
    pub blake3: String,
}

/// What belongs to an epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Format of this record.
    pub format: u32,
    /// Job.
    pub job: String,
    /// Epoch.
    pub epoch: u64,
    /// Incarnation that has saved it.
    pub incarnation: u64,
    /// Seconds since 1970 at which the last rank was saved.
    pub saved_at: u64,
    /// Bytes of all parts.
    pub bytes: u64,
    /// Bytes that were not in the epoch before.
    pub stored_bytes: u64,
    /// Ranks by number.
    pub ranks: Vec<RankEntry>,
}

/// A part: its slice, its length in bytes, its rank.
type PartOf = (Option<Slice>, u64, u32);

/// Checks that the records of all ranks, by number, make one checkpoint. Returns why not.
pub(crate) fn check_ranks(
    job: &str,
    epoch: u64,
    incarnation: u64,
    ranks: &[RankRecord],
) -> Result<(), String> {
    // Of each name: the parts' slices, lengths and ranks.
    let mut items: BTreeMap<&str, Vec<PartOf>> = BTreeMap::new();
    for (at, rank) in ranks.iter().enumerate() {
        let of = (rank.format, rank.job.as_str(), rank.epoch, rank.incarnation, rank.rank, rank.ranks);
        let wanted = (FORMAT, job, epoch, incarnation, at as u32, ranks.len() as u32);
        if of != wanted {
            return Err(format!("the manifest of rank {at} is of {of:?}, not of {wanted:?}"));
        }
        if rank.parts.windows(2).any(|two| two[0].name >= two[1].name) {
            return Err(format!("the parts of rank {at} are not in the order of their names"));
        }
        for part in &rank.parts {
            items.entry(&part.name).or_default().push((part.slice, part.bytes, rank.rank));
        }
    }
    for (name, mut parts) in items {
        if parts.iter().all(|(slice, ..)| slice.is_none()) {
            continue;
        }
        let Some(mut slices) = parts
            .iter_mut()
            .map(|(slice, bytes, rank)| Some(((*slice)?, *bytes, *rank)))
            .collect::<Option<Vec<_>>>()
        else {
            return Err(format!(
                "some ranks save {name} as slices of one item, others as a part of their own"
            ));
        };
        slices.sort_by_key(|(slice, bytes, _)| (slice.offset, *bytes));
        let total = slices[0].0.total;
        let mut end = 0;
        for (slice, bytes, rank) in slices {
            if slice.total != total {
                return Err(format!(
                    "{name} has {total} bytes by one rank and {} by rank {rank}",
                    slice.total
                ));
            }
            if slice.offset != end {
                return Err(format!(
                    "{name}: the slice of rank {rank} begins at byte {}, and the one before ends at {end}",
                    slice.offset
                ));
            }
            end += bytes;
        }
        if end != total {
            return Err(format!("{name}: the slices end at byte {end} of {total}"));
        }
    }
    Ok(())
}

/// The part of an item of `total` bytes that a rank gets when the item is cut for another number of ranks: whole units of
/// `align` bytes, as evenly as possible.
pub fn shard(total: u64, align: u64, rank: u32, ranks: u32) -> Range<u64> {
    let (units, ranks) = (u128::from(total.div_ceil(align.max(1))), u128::from(ranks.max(1)));
    let edge = |rank: u128| ((units * rank / ranks) as u64).saturating_mul(align.max(1)).min(total);
    edge(rank.into())..edge(u128::from(rank) + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn each_name_is_read_as_what_it_is() {
        let folders = [
            Folder::Epoch(0),
            Folder::Epoch(u64::MAX),
            Folder::Saving { epoch: 42, incarnation: 7 },
            Folder::Removing(42),
        ];
        for folder in folders {
            assert_eq!(Folder::parse(folder.name().as_bytes()), Some(folder));
        }
        for other in
            ["42", "+000000042", ".0000000042", "0000000042.saving", "", ".", "manifest.json", "00000000042"]
        {
            assert_eq!(Folder::parse(other.as_bytes()), None, "{other}");
        }
        assert!(check_job_name("train-7_b.x").is_ok());
        for bad in ["", ".hidden", "a/b", "a\nb", &"x".repeat(129)] {
            assert!(check_job_name(bad).is_err(), "{bad:?}");
        }
    }

    /// A name, a length, and a slice.
    type TestPart = (&'static str, u64, Option<(u64, u64)>);

    fn rank(rank: u32, ranks: u32, parts: &[TestPart]) -> RankRecord {
        let parts = parts.iter().map(|(name, bytes, slice)| PartRecord {
            name: (*name).into(),
            bytes: *bytes,
            blake3: String::new(),
            slice: slice.map(|(offset, total)| Slice { offset, total }),
            stored_bytes: 0,
        });
        RankRecord {
            format: FORMAT,
            job: "j".into(),
            epoch: 5,
            incarnation: 2,
            rank,
            ranks,
            saved_at: 0,
            chunk_bytes: 1,
            hashes_blake3: String::new(),
            parts: parts.collect(),
        }
    }

    #[test]
    fn slices_that_do_not_add_up_are_refused() {
        let check = |ranks: &[RankRecord]| check_ranks("j", 5, 2, ranks);
        let two = |a: Option<(u64, u64)>, b: Option<(u64, u64)>| {
            [rank(0, 2, &[("w", 10, a)]), rank(1, 2, &[("w", 5, b)])]
        };
        assert!(check(&two(Some((0, 15)), Some((10, 15)))).is_ok());
        assert!(check(&two(Some((5, 15)), Some((0, 15)))).is_ok(), "in any order");
        assert!(check(&two(None, None)).is_ok(), "each its own");
        for (a, b) in [
            ((0, 15), (11, 15)),
            ((0, 15), (9, 15)),
            ((0, 16), (10, 16)),
            ((0, 15), (10, 16)),
            ((1, 15), (11, 15)),
        ] {
            assert!(check(&two(Some(a), Some(b))).is_err(), "{a:?} {b:?}");
        }
        assert!(check(&two(Some((0, 15)), None)).is_err());
        assert!(check_ranks("j", 6, 2, &two(None, None)).is_err(), "another epoch");
        assert!(check_ranks("j", 5, 3, &two(None, None)).is_err(), "another incarnation");
        assert!(check(&[rank(1, 2, &[]), rank(0, 2, &[])]).is_err());
    }

    proptest! {
        #[test]
        fn shards_cover_an_item(total in 0u64..10_000, align in 1u64..17, ranks in 1u32..20) {
            let mut end = 0;
            for rank in 0..ranks {
                let part = shard(total, align, rank, ranks);
                prop_assert_eq!(part.start, end);
                prop_assert!(part.start.is_multiple_of(align) || part.start == total);
                end = part.end;
            }
            prop_assert_eq!(end, total);
        }
    }
}
