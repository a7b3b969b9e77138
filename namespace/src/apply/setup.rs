//! Nodes, volumes and sessions.

use super::table::Table;
use super::table::counters::{NEXT_INO, NEXT_SESSION, NEXT_VOLUME};
use super::{DONE, names::fresh};
use crate::command::{Applied, Outcome};
use crate::error::NsError;
use crate::key;
use crate::placement;
use crate::record::{FileKind, NodeRecord, SessionRecord, VolumeRecord};
use rain_types::{CodeSpec, Ino, NodeId, SessionId, VolumeId};
use std::ops::ControlFlow;

impl Table<'_> {
    pub(super) fn register_node(&mut self, id: NodeId, address: &str, domain: &str, weight: u32) -> Applied {
        if id.0 == 0 || address.is_empty() || weight == 0 {
            return Err(NsError::Invalid(format!("node {id} at {address:?} with weight {weight}")));
        }
        let joined = self.read::<NodeRecord>(&key::node(id)).map_or(self.time, |known| known.joined);
        let record = NodeRecord { id, address: address.into(), domain: domain.into(), weight, joined };
        self.write(&key::node(id), &record);
        DONE
    }

    pub(super) fn create_volume(
        &mut self,
        name: &str,
        code: CodeSpec,
        groups: u32,
        (uid, gid, mode): (u32, u32, u16),
    ) -> Applied {
        let good = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if name.is_empty() || name.len() > 64 || name.starts_with('.') || !name.bytes().all(good) {
            return Err(NsError::Invalid(format!(
                "{name:?} is no name for a volume: 1 to 64 letters, digits, '-', '_', '.', not beginning with '.'"
            )));
        }
        if self.kv.get(&key::volume_name(name)).is_some() {
            return Err(NsError::Exists);
        }
        if code.k == 0 || code.n() > 64 || !(1..=4096).contains(&groups) {
            return Err(NsError::Invalid(format!("code {code} with {groups} groups")));
        }
        let mut nodes = Vec::new();
        for key in self.keys(b"N", usize::MAX) {
            nodes.extend(self.read::<NodeRecord>(&key));
        }
        if nodes.len() < code.n() {
            let (needed, have) = (code.n() as u32, nodes.len() as u32);
            return Err(NsError::TooFewNodes { code: code.to_string(), needed, have });
        }
        let id = VolumeId(self.next(NEXT_VOLUME) as u32);
        let groups = placement::plan_groups(id, code.n(), &nodes, groups);
        let mut root = fresh(Ino::new(0, self.next(NEXT_INO)), id, FileKind::Directory, self.time);
        (root.uid, root.gid, root.mode) = (uid, gid, mode & 0o7777);
        root.parent = root.ino;
        let record = VolumeRecord {
            id,
            name: name.into(),
            code,
            root: root.ino,
            groups,
            inodes: 0,
            held: 0,
            created: self.time,
        };
        self.put_attr(&root);
        self.write(&key::volume(id), &record);
        self.write(&key::volume_name(name), &id);
        self.count_volume(id, 1, 0);
        Ok(Outcome::Volume(id))
    }

    pub(super) fn open_session(&mut self, label: &str) -> Applied {
        if label.len() > 1024 {
            return Err(NsError::Invalid(format!("a label of {} bytes", label.len())));
        }
        let id = SessionId(self.next(NEXT_SESSION));
        self.write(
            &key::session(id),
            &SessionRecord { id, label: label.into(), opened: self.time, done_below: 0 },
        );
        Ok(Outcome::Session(id))
    }

    pub(super) fn end_session(&mut self, session: SessionId) -> Applied {
        self.kv.delete(&key::session(session));
        self.forget_results(session, 0, u64::MAX);
        let mut orphans = Vec::new();
        let prefix = key::orphans(session);
        self.kv.scan(&prefix, &key::after_prefix(&prefix), &mut |key, _| {
            orphans.extend(key::last_number(key).map(Ino));
            ControlFlow::Continue(())
        });
        self.release(session, &orphans)
    }

    pub(super) fn release(&mut self, session: SessionId, inos: &[Ino]) -> Applied {
        for ino in inos {
            let orphan = key::orphan(session, *ino);
            if self.kv.get(&orphan).is_some() {
                self.kv.delete(&orphan);
                if let Ok(attr) = self.attr(*ino) {
                    self.free(&attr);
                }
            }
        }
        DONE
    }
}
