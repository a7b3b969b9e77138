//! Nodes, volumes and sessions.

use super::table::Table;
use super::table::counters::{NEXT_INO, NEXT_NODE, NEXT_SESSION, NEXT_VOLUME, PLACES};
use super::{DONE, names::new_attr};
use crate::command::{Applied, NodeSpec, Outcome};
use crate::error::NsError;
use crate::key;
use crate::kv::KvRead;
use crate::placement;
use crate::record::{FileKind, Group, NodeRecord, SessionRecord, VolumeRecord};
use rain_types::{CodeSpec, GroupId, Ino, NodeId, SessionId, VolumeId};
use std::ops::ControlFlow;

/// Largest number of placement groups that a volume may have in its life, open and closed. Every commit reads
/// the volume's record, which lists them.
const GROUPS_EVER_MAX: usize = 65_536;

/// Returns the number of a volume's groups that contain a node: open groups, and closed ones that still have
/// blocks.
pub(crate) fn groups_with<K: KvRead + ?Sized>(kv: &K, volume: &VolumeRecord, node: NodeId) -> u64 {
    let has_it = |group: GroupId| volume.nodes_of(group).is_some_and(|nodes| nodes.contains(&node));
    let open = volume.open_groups().into_iter().filter(|group| has_it(*group)).count();
    let closed = volume.closed_groups().into_iter().filter(|(group, _)| has_it(*group));
    let with_blocks = closed.filter(|(group, _)| {
        let prefix = key::all_in_group(volume.id, *group);
        let mut any = false;
        kv.scan(&prefix, &key::after_prefix(&prefix), &mut |_, _| {
            any = true;
            ControlFlow::Break(())
        });
        any
    });
    (open + with_blocks.count()) as u64
}

impl Table<'_> {
    fn nodes(&self) -> Vec<NodeRecord> {
        self.keys(b"N", usize::MAX).iter().filter_map(|key| self.read(key)).collect()
    }

    pub(super) fn register_node(&mut self, id: NodeId, node: &NodeSpec) -> Applied {
        let NodeSpec { address, domain, weight, witness, folder, others } = node.clone();
        if address.is_empty() || weight == 0 {
            return Err(NsError::Invalid(format!("node {id} at {address:?} with weight {weight}")));
        }
        let nodes = self.nodes();
        let by_folder = nodes.iter().find(|known| !folder.is_empty() && known.folder == folder);
        let id = match (by_folder, id) {
            (Some(known), NodeId(0)) => known.id,
            (Some(known), id) if known.id != id => {
                return Err(NsError::Invalid(format!(
                    "the data folder of node {} says that it is node {id}",
                    known.id
                )));
            }
            (None, NodeId(0)) => {
                if let Some(known) = nodes.iter().find(|known| known.address == address && !known.draining) {
                    return Err(NsError::Invalid(format!(
                        "{address} is node {}'s address, and this is another data folder",
                        known.id
                    )));
                }
                NodeId(self.read::<u64>(&key::counter(NEXT_NODE)).unwrap_or(1) as u32)
            }
            (_, id) => id,
        };
        let known = nodes.iter().find(|known| known.id == id).cloned();
        if let Some(known) = &known
            && (known.folder != folder || known.witness != witness)
        {
            let why = if known.witness != witness {
                "was not a witness then, or is none now"
            } else {
                "has another data folder"
            };
            return Err(NsError::Invalid(format!(
                "node {id} is known, and this one {why}: it is another node"
            )));
        }
        let next = self.read::<u64>(&key::counter(NEXT_NODE)).unwrap_or(1);
        if known.is_none() && u64::from(id.0) < next {
            return Err(NsError::Invalid(format!(
                "node {id} was removed from the cluster; its number is not used again"
            )));
        }
        let joined = known.as_ref().map_or(self.time, |known| known.joined);
        let draining = known.as_ref().is_some_and(|known| known.draining);
        if u64::from(id.0) >= next {
            self.write(&key::counter(NEXT_NODE), &(u64::from(id.0) + 1));
        }
        if known.is_none() {
            // The new node takes over the address of a draining node, which is unreachable from then on.
            for old in nodes.iter().filter(|old| old.address == address) {
                self.put_node(
                    Some(old),
                    &NodeRecord { address: String::new(), others: Vec::new(), ..old.clone() },
                );
            }
        }
        let record = NodeRecord { id, address, domain, weight, joined, witness, folder, draining, others };
        self.put_node(known.as_ref(), &record);
        Ok(Outcome::Node(id))
    }

    fn put_node(&mut self, known: Option<&NodeRecord>, record: &NodeRecord) {
        if known != Some(record) {
            self.write(&key::node(record.id), record);
            self.count(PLACES, 1);
        }
    }

    pub(super) fn set_draining(&mut self, id: NodeId, draining: bool) -> Applied {
        let known: NodeRecord = self.read(&key::node(id)).ok_or(NsError::NotFound)?;
        self.put_node(Some(&known), &NodeRecord { draining, ..known.clone() });
        DONE
    }

    pub(super) fn regroup(&mut self, id: VolumeId) -> Applied {
        let mut volume: VolumeRecord = self.read(&key::volume(id)).ok_or(NsError::NotFound)?;
        let nodes = self.nodes();
        let Some(following) = placement::plan_following(&volume, &nodes) else {
            let (needed, have) =
                (volume.code.n() as u32, nodes.iter().filter(|node| node.takes_shares()).count() as u32);
            return Err(NsError::TooFewNodes { code: volume.code.to_string(), needed, have });
        };
        if following.is_empty() {
            return DONE;
        }
        if volume.groups.len() + following.len() > GROUPS_EVER_MAX {
            return Err(NsError::Invalid(format!(
                "volume {} has had {} placement groups, and may have {GROUPS_EVER_MAX} in its life",
                volume.name,
                volume.groups.len()
            )));
        }
        volume.groups.extend(following);
        self.write(&key::volume(id), &volume);
        self.count(PLACES, 1);
        DONE
    }

    pub(super) fn remove_node(&mut self, id: NodeId) -> Applied {
        if self.kv.get(&key::node(id)).is_none() {
            return Err(NsError::NotFound);
        }
        for key in self.keys(b"V", usize::MAX) {
            let volume: Option<VolumeRecord> = self.read(&key);
            if let Some(volume) = volume.filter(|volume| groups_with(self.kv, volume, id) > 0) {
                return Err(NsError::Invalid(format!("node {id} holds shares of volume {}", volume.name)));
            }
        }
        self.kv.delete(&key::node(id));
        self.count(PLACES, 1);
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
        let mut nodes = self.nodes();
        nodes.retain(NodeRecord::takes_shares);
        if nodes.len() < code.n() {
            let (needed, have) = (code.n() as u32, nodes.len() as u32);
            return Err(NsError::TooFewNodes { code: code.to_string(), needed, have });
        }
        let id = VolumeId(self.next(NEXT_VOLUME) as u32);
        let groups = placement::plan_groups(id, code.n(), &nodes, groups);
        let groups = groups.into_iter().zip(0..).map(|(nodes, slot)| Group { slot, nodes }).collect();
        let mut root = new_attr(Ino::new(0, self.next(NEXT_INO)), id, FileKind::Directory, self.time);
        (root.uid, root.gid, root.mode) = (uid, gid, mode & 0o7777);
        root.parent = root.ino;
        let record = VolumeRecord {
            id,
            name: name.into(),
            code,
            root: root.ino,
            groups,
            inodes: 0,
            stored_bytes: 0,
            created: self.time,
        };
        self.put_attr(&root);
        self.write(&key::volume(id), &record);
        self.write(&key::volume_name(name), &id);
        self.count_volume(id, 1, 0);
        Ok(Outcome::Volume(id))
    }

    pub(super) fn open_session(&mut self, label: &str, caches: bool) -> Applied {
        if label.len() > 1024 {
            return Err(NsError::Invalid(format!("a label of {} bytes", label.len())));
        }
        let id = SessionId(self.next(NEXT_SESSION));
        self.write(
            &key::session(id),
            &SessionRecord { id, label: label.into(), opened: self.time, done_below: 0, caches },
        );
        Ok(Outcome::Session(id))
    }

    pub(super) fn end_session(&mut self, session: SessionId) -> Applied {
        self.kv.delete(&key::session(session));
        self.forget_results(session, 0, u64::MAX);
        self.drop_locks(session);
        self.drop_delegations(session);
        DONE
    }
}
