//! What a program does with files of values in places, and with the links of a file.

use super::map::Map;
use super::work::name;
use rain_sim::model::{Op, Reply, SHEET_PLACES, Sheet, Way};
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// Distance of two places. Each is on a page of its own, because a page that was changed through a map is stored
/// whole. Only the first one fits into an inline file.
const PLACE_BYTES: u64 = 5000;

/// Bytes of a file of values.
const SHEET_BYTES: usize = (SHEET_PLACES as usize - 1) * PLACE_BYTES as usize + 8;

/// The files of values, and the file with links, open.
pub(super) struct Sheets {
    folder: OwnedFd,
    direct: OwnedFd,
    /// Past the kernel's pages.
    direct_past: OwnedFd,
    buffered: OwnedFd,
    mapped: OwnedFd,
    /// None: on a mount that dies.
    map: Option<Map>,
    links: OwnedFd,
    linked: OwnedFd,
    guarded: OwnedFd,
}

/// The offset of a place.
fn offset(place: u8) -> u64 {
    u64::from(place) * PLACE_BYTES
}

fn file_name(sheet: Sheet) -> &'static str {
    match sheet {
        Sheet::Direct => "direct",
        Sheet::Buffered => "buffered",
        Sheet::Mapped => "mapped",
    }
}

/// Makes the files in a folder.
pub(super) fn prepare(folder: &Path) -> anyhow::Result<()> {
    std::fs::write(folder.join("direct"), b"")?;
    std::fs::write(folder.join("buffered"), b"")?;
    std::fs::write(folder.join("mapped"), [0; SHEET_BYTES])?;
    std::fs::write(folder.join("guarded"), [0; 8])?;
    std::fs::create_dir(folder.join("links"))?;
    std::fs::write(folder.join("links/file"), b"linked")?;
    Ok(())
}

impl Sheets {
    /// Opens the files in a folder.
    pub(super) fn open(folder: &OwnedFd, maps: bool) -> Result<Sheets, Errno> {
        let folder = folder.try_clone().map_err(|_| Errno::MFILE)?;
        let open = |name: &str, flags: OFlags| {
            rustix::fs::openat(&folder, name, flags | OFlags::CLOEXEC, Mode::empty())
        };
        let mapped = open("mapped", OFlags::RDWR)?;
        Ok(Sheets {
            direct: open("direct", OFlags::RDWR)?,
            direct_past: open("direct", OFlags::RDWR | OFlags::DIRECT)?,
            buffered: open("buffered", OFlags::RDWR)?,
            map: maps.then(|| Map::new(&mapped, SHEET_BYTES)).transpose()?,
            mapped,
            links: open("links", OFlags::DIRECTORY)?,
            linked: open("links/file", OFlags::RDONLY)?,
            guarded: open("guarded", OFlags::RDWR)?,
            folder,
        })
    }

    fn handle(&self, sheet: Sheet) -> &OwnedFd {
        match sheet {
            Sheet::Direct => &self.direct,
            Sheet::Buffered => &self.buffered,
            Sheet::Mapped => &self.mapped,
        }
    }

    /// Opens a file of values for one call.
    fn opened(&self, sheet: Sheet, flags: OFlags) -> Result<OwnedFd, Errno> {
        rustix::fs::openat(&self.folder, file_name(sheet), flags | OFlags::CLOEXEC, Mode::empty())
    }

    /// Does an operation on these files.
    pub(super) fn perform(&self, op: &Op) -> Result<Reply, Errno> {
        match op {
            Op::Write(sheet, place, value, way) => self.write(*sheet, *place, *value, *way),
            Op::Read(sheet, place, way) => self.read(*sheet, *place, *way),
            Op::Cut(sheet, places, way) => {
                match way {
                    Way::Handle | Way::Map => rustix::fs::ftruncate(self.handle(*sheet), offset(*places))?,
                    Way::Path => {
                        rustix::fs::ftruncate(self.opened(*sheet, OFlags::WRONLY)?, offset(*places))?;
                    }
                }
                Ok(Reply::Done)
            }
            Op::Length(sheet, way) => {
                let stat = match way {
                    Way::Handle | Way::Map => rustix::fs::fstat(self.handle(*sheet))?,
                    Way::Path => rustix::fs::statat(&self.folder, file_name(*sheet), AtFlags::empty())?,
                };
                let (whole, rest) = (stat.st_size as u64 / PLACE_BYTES, stat.st_size as u64 % PLACE_BYTES);
                match rest {
                    0 => Ok(Reply::Value(whole)),
                    8 => Ok(Reply::Value(whole + 1)),
                    _ => Ok(Reply::Torn),
                }
            }
            Op::Tie(at) => {
                let linked =
                    rustix::fs::linkat(&self.links, "file", &self.links, &name(*at)[..], AtFlags::empty());
                linked.map(|()| Reply::Done).or_else(refused)
            }
            Op::Untie(at) => match rustix::fs::unlinkat(&self.links, &name(*at)[..], AtFlags::empty()) {
                // The number of links is certain once the change is durable (docs/consistency.md, "Leases").
                Ok(()) => rustix::fs::fsync(&self.links).map(|()| Reply::Done),
                Err(error) => refused(error),
            },
            Op::Count(Way::Handle | Way::Map) => Ok(Reply::Value(rustix::fs::fstat(&self.linked)?.st_nlink)),
            Op::Count(Way::Path) => {
                let stat = rustix::fs::statat(&self.links, "file", AtFlags::empty())?;
                Ok(Reply::Value(stat.st_nlink))
            }
            Op::GuardedPut(value) => self.guarded(|| {
                let written = rustix::io::pwrite(&self.guarded, &value.to_le_bytes(), 0)?;
                if written == 8 { Ok(Reply::Done) } else { Err(Errno::IO) }
            }),
            Op::GuardedGet => self.guarded(|| {
                let mut bytes = [0; 8];
                rustix::io::pread(&self.guarded, &mut bytes, 0)?;
                Ok(Reply::Value(u64::from_le_bytes(bytes)))
            }),
            _ => Err(Errno::NOSYS),
        }
    }

    /// Does something while it has the lock on the guarded file.
    fn guarded(&self, then: impl FnOnce() -> Result<Reply, Errno>) -> Result<Reply, Errno> {
        match rustix::fs::flock(&self.guarded, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Ok(Reply::Held),
            Err(error) => return Err(error),
        }
        let reply = then();
        // What was written is stored before the lock is free. Until then the outcome is open.
        rustix::fs::flock(&self.guarded, FlockOperation::Unlock)?;
        reply
    }

    fn write(&self, sheet: Sheet, place: u8, value: u64, way: Way) -> Result<Reply, Errno> {
        let at = offset(place);
        let bytes = value.to_le_bytes();
        let past = if sheet == Sheet::Direct { OFlags::DIRECT } else { OFlags::empty() };
        let written = match (way, &self.map) {
            (Way::Map, Some(map)) => return map.write(at as usize, value).map(|()| Reply::Done),
            (Way::Path, _) => rustix::io::pwrite(self.opened(sheet, OFlags::WRONLY | past)?, &bytes, at)?,
            _ if sheet == Sheet::Direct => rustix::io::pwrite(&self.direct_past, &bytes, at)?,
            _ => rustix::io::pwrite(self.handle(sheet), &bytes, at)?,
        };
        if written == 8 { Ok(Reply::Done) } else { Err(Errno::IO) }
    }

    fn read(&self, sheet: Sheet, place: u8, way: Way) -> Result<Reply, Errno> {
        let at = offset(place);
        let mut bytes = [0; 8];
        let opened;
        let file = match (way, &self.map) {
            (Way::Map, Some(map)) => return map.read(at as usize).map(Reply::Value),
            (Way::Path, _) => {
                opened = self.opened(sheet, OFlags::RDONLY)?;
                opened.as_fd()
            }
            _ => self.handle(sheet).as_fd(),
        };
        Ok(match rustix::io::pread(file, &mut bytes, at)? {
            0 => Reply::End,
            8 => Reply::Value(u64::from_le_bytes(bytes)),
            _ => Reply::Torn,
        })
    }
}

fn refused(error: Errno) -> Result<Reply, Errno> {
    match error {
        Errno::NOENT => Ok(Reply::NotFound),
        Errno::EXIST => Ok(Reply::Exists),
        error => Err(error),
    }
}
