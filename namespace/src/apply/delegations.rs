//! Delegations: directories whose names belong to one session for a while. [`crate::delegation`] decides
//! commands in them.
//!
//! While a directory is delegated, commands of other sessions on its names and attributes are refused with
//! `Delegated` and change nothing (`a_delegated_directory_is_its_holders_alone_until_it_is_given_back`). A
//! refused session recalls the directory, waits until it is returned, and sends its command again.

use super::DONE;
use super::table::Table;
use super::table::counters::NEXT_INO;
use crate::command::{Applied, Outcome};
use crate::error::NsError;
use crate::key;
use crate::record::DelegationRecord;
use rain_types::{Ino, SessionId};

/// Largest number of inode numbers that one command reserves, so that one session cannot use up the numbers.
const RESERVED_MAX: u32 = 65_536;

impl Table<'_> {
    fn delegation(&self, dir: Ino) -> Option<DelegationRecord> {
        self.read(&key::delegation(dir))
    }

    /// Fails unless the asker may change the directory's names and attributes.
    pub(super) fn check_delegation(&self, dir: Ino) -> Result<(), NsError> {
        match self.delegation(dir) {
            Some(record) if self.asker != Some(record.session) => {
                Err(NsError::Delegated { dir, session: record.session })
            }
            _ => Ok(()),
        }
    }

    pub(super) fn delegate(&mut self, dir: Ino, session: SessionId) -> Applied {
        let attr = self.directory(dir)?;
        self.check_delegation(dir)?;
        if self.delegation(dir).is_none() {
            self.write(&key::delegation(dir), &DelegationRecord { session, recalled: false });
            self.kv.put(&key::delegated_to(session, dir), &[]);
        }
        Ok(Outcome::Attr(attr))
    }

    pub(super) fn recall(&mut self, dir: Ino) -> Applied {
        if let Some(record) = self.delegation(dir) {
            self.write(&key::delegation(dir), &DelegationRecord { recalled: true, ..record });
        }
        DONE
    }

    pub(super) fn return_delegations(&mut self, dirs: &[Ino], session: SessionId) -> Applied {
        for dir in dirs {
            if self.delegation(*dir).is_some_and(|record| record.session == session) {
                self.end_delegation(*dir);
            }
        }
        DONE
    }

    /// Ends the delegation of a directory, if it has one.
    pub(super) fn end_delegation(&mut self, dir: Ino) {
        if let Some(record) = self.delegation(dir) {
            self.kv.delete(&key::delegation(dir));
            self.kv.delete(&key::delegated_to(record.session, dir));
        }
    }

    /// Ends all delegations of a session that has ended.
    pub(super) fn drop_delegations(&mut self, session: SessionId) {
        for key in self.keys(&key::all_delegated_to(session), usize::MAX) {
            if let Some(dir) = key::last_number(&key) {
                self.end_delegation(Ino(dir));
            }
        }
    }

    pub(super) fn reserve_inos(&mut self, count: u32) -> Applied {
        if !(1..=RESERVED_MAX).contains(&count) {
            return Err(NsError::Invalid(format!("{count} inode numbers, 1 to {RESERVED_MAX} at a time")));
        }
        let first = self.read::<u64>(&key::counter(NEXT_INO)).unwrap_or(1);
        self.write(&key::counter(NEXT_INO), &(first + u64::from(count)));
        Ok(Outcome::Reserved { first: Ino::new(0, first), count })
    }
}
