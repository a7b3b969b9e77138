//! The durable base: a redb database in a numbered file, with its tables.

use super::base_file::{BaseFile, BaseHealth};
use super::memtable::Memtable;
use super::{AppliedPosition, StoreError};
use crate::disk::Media;
use rain_namespace::record::Time;
use redb::{Database, ReadOnlyTable, ReadableDatabase, TableDefinition};
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(super) type BaseTable = ReadOnlyTable<&'static [u8], &'static [u8]>;

pub(super) const DATA: TableDefinition<'static, &'static [u8], &'static [u8]> =
    TableDefinition::new("namespace");
const META: TableDefinition<'static, &'static str, u64> = TableDefinition::new("meta");
const BYTES: TableDefinition<'static, &'static str, &'static [u8]> = TableDefinition::new("bytes");
const MEMBERSHIP: &str = "membership";

/// Version of the contents of a base. A base of another version is refused.
pub(super) const FORMAT: u64 = 2;

/// The file of a base that is being received.
pub(super) const INCOMING: &str = "incoming.redb";

/// The database and its file.
pub(super) struct Base {
    pub(super) database: Database,
    pub(super) path: PathBuf,
    pub(super) number: u64,
}

/// The contents of a base at one moment.
pub(super) struct BaseContents {
    pub(super) table: BaseTable,
    pub(super) applied: AppliedPosition,
    pub(super) membership: Vec<u8>,
}

pub(super) fn base_name(number: u64) -> String {
    format!("base-{number}.redb")
}

/// Returns path and number of the base with the highest number, or of a first one. Removes older bases and a
/// base that was not received completely.
pub(super) fn find_base(media: &dyn Media, dir: &Path) -> Result<(PathBuf, u64), StoreError> {
    let failed = |error| StoreError::base("looking for the base", error);
    let names = media.list(dir).map_err(failed)?;
    let number = |name: &str| name.strip_prefix("base-")?.strip_suffix(".redb")?.parse::<u64>().ok();
    let newest = names.iter().filter_map(|name| number(name)).max();
    for name in
        names.iter().filter(|name| *name == INCOMING || (number(name).is_some() && number(name) != newest))
    {
        media.remove(&dir.join(name)).map_err(failed)?;
    }
    let number = newest.unwrap_or(1);
    Ok((dir.join(base_name(number)), number))
}

pub(super) fn open_database(
    media: &dyn Media,
    path: &Path,
    cache_bytes: usize,
    health: &Arc<BaseHealth>,
) -> Result<Database, StoreError> {
    let file = media.open(path, true).map_err(|error| StoreError::base("opening", error))?;
    let mut builder = Database::builder();
    builder.set_cache_size(cache_bytes);
    builder
        .create_with_backend(BaseFile::new(file, health.clone()))
        .map_err(|error| StoreError::base("opening", error))
}

/// Makes the tables of a new base; returns the contents of a new or an old one.
pub(super) fn prepare_tables(database: &Database) -> Result<BaseContents, StoreError> {
    let read = || read_base(database);
    let reading = |error| StoreError::base("reading", error);
    if let Some(contents) = read().map_err(reading)? {
        return Ok(contents);
    }
    if let Some(found) = other_format(database).map_err(reading)? {
        return Err(StoreError::Format { found });
    }
    write_base(database, &Memtable::default()).map_err(|error| StoreError::base("creating", error))?;
    read().map_err(reading)?.ok_or_else(|| StoreError::base("creating", "nothing was written"))
}

fn other_format(database: &Database) -> Result<Option<u64>, redb::Error> {
    let transaction = database.begin_read()?;
    match transaction.open_table(META) {
        Err(redb::TableError::TableDoesNotExist(_)) => Ok(None),
        table => Ok(table?.get("format")?.map(|value| value.value()).filter(|format| *format != FORMAT)),
    }
}

/// Reads the contents in one transaction; `None` for a new base or another format.
pub(super) fn read_base(database: &Database) -> Result<Option<BaseContents>, redb::Error> {
    let transaction = database.begin_read()?;
    let meta = match transaction.open_table(META) {
        Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
        table => table?,
    };
    let number = |key: &str| meta.get(key).map(|value| value.map_or(0, |value| value.value()));
    if number("format")? != FORMAT {
        return Ok(None);
    }
    let time = Time { secs: number("secs")? as i64, nanos: number("nanos")? as u32 };
    let applied = AppliedPosition {
        index: number("applied")?,
        term: number("term")?,
        node: number("node")? as u32,
        time,
    };
    let membership = transaction.open_table(BYTES)?.get(MEMBERSHIP)?.map(|bytes| bytes.value().to_vec());
    let membership = membership.unwrap_or_default();
    Ok(Some(BaseContents { table: transaction.open_table(DATA)?, applied, membership }))
}

/// Commits a memtable with its last entry and its membership in one durable transaction.
pub(super) fn write_base(database: &Database, memtable: &Memtable) -> Result<(), redb::Error> {
    let mut transaction = database.begin_write()?;
    // With every commit redb writes its allocator's state, so that an open after a crash need not walk the
    // whole tree.
    transaction.set_quick_repair(true);
    {
        let mut data = transaction.open_table(DATA)?;
        for (key, value) in memtable.iter() {
            match value {
                Some(value) => drop(data.insert(key.as_slice(), value.as_slice())?),
                None => drop(data.remove(key.as_slice())?),
            }
        }
    }
    write_meta(&transaction, memtable.last(), memtable.membership())?;
    transaction.commit()?;
    Ok(())
}

/// Writes the last entry and, if given, the membership.
pub(super) fn write_meta(
    transaction: &redb::WriteTransaction,
    applied: AppliedPosition,
    membership: Option<&[u8]>,
) -> Result<(), redb::Error> {
    let mut meta = transaction.open_table(META)?;
    meta.insert("format", FORMAT)?;
    meta.insert("applied", applied.index)?;
    meta.insert("term", applied.term)?;
    meta.insert("node", u64::from(applied.node))?;
    meta.insert("secs", applied.time.secs as u64)?;
    meta.insert("nanos", u64::from(applied.time.nanos))?;
    let mut bytes = transaction.open_table(BYTES)?;
    if let Some(membership) = membership {
        bytes.insert(MEMBERSHIP, membership)?;
    }
    Ok(())
}
