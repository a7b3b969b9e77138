//! The token's cargo: copying, committing and applying the log, and fetching a snapshot of the shared data.

use super::Node;
use crate::change::{Bytes, Change};
use crate::effect::{Effect, ProtocolStep, Timer};
use crate::log::{Content, Entry, LogWindow};
use crate::message::Message;
use crate::shared::SharedData;
use crate::token::Member;
use crate::wire;
use rain_types::NodeId;
use std::collections::VecDeque;
use thiserror::Error;

/// The reason why a change was not accepted: too many changes wait for the token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("{waiting} bytes of changes wait for the token, {more} more would be above the limit of {limit}")]
pub struct OutboxFull {
    /// Size of the waiting changes, bytes.
    pub waiting: usize,
    /// Size of the refused change, bytes.
    pub more: usize,
    /// Limit, bytes.
    pub limit: usize,
}

/// This node's changes that are not known to be applied, oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct Outbox {
    changes: VecDeque<(u64, Change)>,
    bytes: usize,
    last_id: u64,
}

impl Outbox {
    pub(super) fn push(&mut self, change: Change, limit: usize) -> Result<u64, OutboxFull> {
        let more = change.bytes();
        if self.bytes + more > limit {
            return Err(OutboxFull { waiting: self.bytes, more, limit });
        }
        self.bytes += more;
        self.last_id += 1;
        self.changes.push_back((self.last_id, change));
        Ok(self.last_id)
    }

    fn forget_up_to(&mut self, id: u64) {
        while self.changes.front().is_some_and(|change| change.0 <= id) {
            let (_, change) = self.changes.pop_front().expect("there is one");
            self.bytes -= change.bytes();
        }
    }
}

/// A snapshot of the shared data that is being fetched. Until it is complete, the node keeps its old copy and
/// reports that one. Otherwise a ring that breaks in between would lose a copy.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct Sync {
    /// The token's log since its first arrival. The snapshot must include the entry at its base.
    log: LogWindow,
    /// Index and length of the snapshot, and the bytes that have arrived.
    index: u64,
    total: u64,
    bytes: Vec<u8>,
    tries: usize,
}

/// The snapshot that was last sent, kept for the next part.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct SentSnapshot {
    index: u64,
    bytes: Vec<u8>,
}

impl Node {
    /// Takes over the log of a token that has arrived.
    pub(super) fn take_log(&mut self, window: LogWindow, fresh: bool, out: &mut Vec<Effect>) {
        let copy = self.copy.as_ref().expect("the token is here");
        let whole = copy.report(self.me.node).is_some_and(|report| report.synced);
        self.base = window.base;
        match &mut self.sync {
            Some(sync) if sync.log.reaches(&window) => sync.log.take(window),
            None if (whole || !fresh) && self.log.reaches(&window) => self.log.take(window),
            _ => self.start_sync(window, out),
        }
        self.apply_committed(out);
    }

    /// Returns the log for this node's token.
    pub(super) fn carried(&self) -> &LogWindow {
        self.sync.as_ref().map_or(&self.log, |sync| &sync.log)
    }

    /// Stops fetching a snapshot, which is complete, or not of the new ring.
    pub(super) fn end_sync(&mut self, out: &mut Vec<Effect>) {
        if self.sync.take().is_some() {
            out.push(Effect::Cancel(Timer::Sync));
        }
    }

    fn apply_committed(&mut self, out: &mut Vec<Effect>) {
        if !self.is_synced() {
            return;
        }
        self.lineage = self.stamp();
        let mut notices = Vec::new();
        while self.shared.applied() < self.log.committed {
            let next = self.shared.applied() + 1;
            let Some(entry) = self.log.get(next) else { break };
            self.shared.apply(next, entry, self.me, &mut notices);
        }
        out.extend(notices.into_iter().map(Effect::Notice));
        self.log.trim(self.base.min(self.shared.applied()));
        self.outbox.forget_up_to(self.shared.last_id_of(self.me));
    }

    /// The holder's work on the log: appends its own changes, commits entries that a majority has, and drops
    /// entries that all members have.
    pub(super) fn append_and_commit(&mut self, out: &mut Vec<Effect>) {
        let epoch = self.stamp().epoch;
        if self.is_synced() {
            let there = self.shared.last_id_of(self.me);
            let there = there.max(self.log.last_id_of(self.me.node, self.me.incarnation));
            let mut bytes = self.log.bytes();
            for (id, change) in self.outbox.changes.iter().filter(|(id, _)| *id > there) {
                bytes += change.bytes();
                if bytes > self.settings.token_bytes_max {
                    break;
                }
                let content = Content::Change { origin: self.me, id: *id, change: change.clone() };
                self.log.push(Entry { epoch, content });
            }
        }
        self.write_report();
        let copy = self.copy.as_ref().expect("EATING has the token");
        let has = |node: NodeId| copy.report(node).filter(|report| report.visited && report.synced);
        let log = self.sync.as_mut().map_or(&mut self.log, |sync| &mut sync.log);
        let mut committed = log.committed;
        while committed < log.last()
            && copy.eligible.has_majority(|node| has(node).is_some_and(|report| report.has > committed))
        {
            committed += 1;
        }
        let everywhere = copy.reports.iter().map(|report| report.has).min().unwrap_or(0);
        log.committed = committed;
        self.base = self.base.max(everywhere.min(committed));
        self.apply_committed(out);
    }

    fn start_sync(&mut self, log: LogWindow, out: &mut Vec<Effect>) {
        let tries = self.sync.as_ref().map_or(0, |sync| sync.tries);
        self.sync = Some(Sync { log, tries, ..Sync::default() });
        self.ask_snapshot(out);
    }

    /// Asks a member with complete shared data for the next part, another member at each attempt.
    pub(super) fn ask_snapshot(&mut self, out: &mut Vec<Effect>) {
        let Some(sync) = &mut self.sync else { return };
        out.push(Effect::Set(Timer::Sync, self.settings.call_timeout * 2));
        let Some(copy) = &self.copy else { return };
        let members = copy.view.members.iter().zip(&copy.reports);
        let whole: Vec<NodeId> = members
            .filter(|(member, report)| report.synced && member.node != self.me.node)
            .map(|(member, _)| member.node)
            .collect();
        if whole.is_empty() {
            return;
        }
        let to = whole[sync.tries % whole.len()];
        sync.tries += 1;
        let (need, index, have) = (sync.log.base, sync.index, sync.bytes.len() as u64);
        out.push(Effect::Send { to, message: Message::SnapshotAsk { need, index, have }, attempt: 0 });
    }

    pub(super) fn snapshot_ask(
        &mut self,
        from: Member,
        need: u64,
        index: u64,
        have: u64,
        out: &mut Vec<Effect>,
    ) {
        if !self.is_synced() || self.shared.applied() < need {
            return;
        }
        let fits = |kept: &SentSnapshot| kept.index >= need;
        if !self.snapshot.as_ref().is_some_and(fits) {
            self.snapshot =
                Some(SentSnapshot { index: self.shared.applied(), bytes: wire::encode(&self.shared) });
        }
        let kept = self.snapshot.as_ref().expect("just made");
        let total = kept.bytes.len() as u64;
        let offset = if index == kept.index { have.min(total) } else { 0 };
        let end = (offset as usize + self.settings.snapshot_part_bytes).min(kept.bytes.len());
        let bytes = Bytes(kept.bytes[offset as usize..end].to_vec());
        out.push(self.send(from.node, Message::SnapshotPart { index: kept.index, total, offset, bytes }));
    }

    pub(super) fn snapshot_part(
        &mut self,
        index: u64,
        total: u64,
        offset: u64,
        bytes: &[u8],
        out: &mut Vec<Effect>,
    ) {
        let Some(sync) = &mut self.sync else { return };
        if index < sync.log.base {
            return;
        }
        if offset == 0 && (sync.index != index || sync.bytes.is_empty()) {
            (sync.index, sync.total) = (index, total);
            sync.bytes.clear();
        } else if index != sync.index || total != sync.total || offset != sync.bytes.len() as u64 {
            return;
        }
        sync.bytes.extend_from_slice(bytes);
        // The next part comes from the same member.
        sync.tries = sync.tries.saturating_sub(1);
        if (sync.bytes.len() as u64) < total {
            return self.ask_snapshot(out);
        }
        match wire::decode::<SharedData>(&sync.bytes) {
            Ok(shared) if shared.applied() == index => {
                self.log = std::mem::take(&mut sync.log);
                self.shared = shared;
                self.snapshot = None;
                self.end_sync(out);
                out.push(Effect::Step(ProtocolStep::Synced { index }));
                self.apply_committed(out);
            }
            _ => {
                let log = std::mem::take(&mut sync.log);
                *sync = Sync { log, ..Sync::default() };
            }
        }
    }
}
