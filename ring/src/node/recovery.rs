//! 911 calls: asking for the right to regenerate the token, and answering such calls. Joins and merges are
//! the same call.
//!
//! A granting node promises to take no older token, and reports its newest primary copy. Only the founder
//! decides whether its ring is primary. The table of answers is in the crate's documentation.
//!
//! Held by `a_911_granted_to_an_older_copy_is_caught`, `a_promise_forgotten_by_a_restart_is_caught` and
//! `a_token_lost_with_its_holder_is_made_again`.

use super::{Master, Node, Phase, nonsense};
use crate::effect::{Effect, ProtocolStep, Timer};
use crate::epoch::{Epoch, Stamp};
use crate::log::{Content, Entry, LogWindow};
use crate::message::{Call, CallerState, Denial, Deny, Grant, Message};
use crate::settings::Detection;
use crate::token::{Member, Rank, Report, Token, View};
use rain_types::NodeId;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// A 911 call of this node that is under way.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Calling {
    epoch: Epoch,
    caller_state: CallerState,
    tries: u32,
    asked: BTreeSet<NodeId>,
    /// Nodes whose answers are waited for until the last attempt.
    needed: BTreeSet<NodeId>,
    grants: BTreeMap<NodeId, (Member, Grant)>,
    /// Nodes that require another number or configuration.
    objections: BTreeSet<NodeId>,
}

impl Node {
    /// Starts starving: the token is not available, so the node calls 911.
    pub(super) fn starve(&mut self, out: &mut Vec<Effect>) {
        self.end_waits(out);
        self.lose_master(out);
        if self.phase != Phase::Starving {
            self.phase = Phase::Starving;
            out.push(Effect::Step(ProtocolStep::Starves));
        }
        self.allegiance = Rank::default();
        self.call(CallerState::Starving, out);
    }

    pub(super) fn call(&mut self, caller_state: CallerState, out: &mut Vec<Effect>) {
        // The last number can be used again if no ring was founded with it and no node has promised a higher
        // one.
        let again = self.promised.founder == self.me.node
            && self.promised != self.stamp().epoch
            && self.promised.number >= self.outbid;
        let number = if again { self.promised.number } else { self.promised.number.max(self.outbid) + 1 };
        if !self.reserve(number, out) {
            // The promise is not durable yet: the node tries again soon.
            out.push(Effect::Set(Timer::Call, self.settings.call_timeout));
            self.calling = None;
            return;
        }
        let epoch = Epoch { number, founder: self.me.node };
        self.promised = epoch;
        let (asked, needed) = self.whom_to_ask(caller_state);
        out.push(Effect::Step(ProtocolStep::Called { epoch, caller_state }));
        self.calling = Some(Calling {
            epoch,
            caller_state,
            tries: 0,
            asked,
            needed,
            grants: BTreeMap::new(),
            objections: BTreeSet::new(),
        });
        self.send_call(out);
        self.count_answers(out);
    }

    /// Returns the time until the next call. It differs between nodes, so that nodes that called at once do
    /// not do so again and again.
    fn retry_after(&self) -> Duration {
        let before = self.asked.configuration.nodes().filter(|node| *node < self.me.node).count() as u32;
        self.settings.retry_after + self.settings.ack_timeout * before.min(16) / 4
    }

    fn whom_to_ask(&self, caller_state: CallerState) -> (BTreeSet<NodeId>, BTreeSet<NodeId>) {
        let leaving = |node: &NodeId| self.report(*node).is_some_and(|report| report.leaving);
        let view = self.view().into_iter().flat_map(|view| &view.members).map(|member| member.node);
        let members: BTreeSet<NodeId> = view.filter(|node| *node != self.me.node && !leaving(node)).collect();
        let others: BTreeSet<NodeId> = match caller_state {
            CallerState::Holder => self.applicants_to_call(),
            CallerState::Starving => {
                self.known().into_iter().filter(|node| *node != self.me.node && !leaving(node)).collect()
            }
        };
        let asked: BTreeSet<NodeId> = members.union(&others).copied().collect();
        let needed =
            if caller_state == CallerState::Starving && !members.is_empty() { &members } else { &asked };
        let needed = needed.iter().copied().filter(|node| self.is_expected(*node)).collect();
        (asked, needed)
    }

    fn send_call(&mut self, out: &mut Vec<Effect>) {
        let Some(calling) = &self.calling else { return };
        let call = Call {
            epoch: calling.epoch,
            caller_state: calling.caller_state,
            copy: self.stamp(),
            lineage: self.lineage,
            rank: self.view().map_or(Rank::default(), View::rank),
            configuration: self.asked.configuration.clone(),
        };
        for to in &calling.asked {
            if !calling.grants.contains_key(to) && !calling.objections.contains(to) {
                let message = Message::Call(Box::new(call.clone()));
                out.push(Effect::Send { to: *to, message, attempt: calling.tries });
            }
        }
        out.push(Effect::Set(Timer::Call, self.settings.call_timeout));
    }

    /// Ends the call when no further answer is waited for.
    fn count_answers(&mut self, out: &mut Vec<Effect>) {
        let Some(calling) = &self.calling else { return };
        let answered = |node: &NodeId| calling.grants.contains_key(node) || calling.objections.contains(node);
        if calling.needed.iter().all(answered) {
            self.end_call(out);
        }
    }

    fn end_call(&mut self, out: &mut Vec<Effect>) {
        let Some(calling) = self.calling.take() else { return };
        out.push(Effect::Cancel(Timer::Call));
        if calling.objections.is_empty() {
            return self.found(calling, out);
        }
        // The node calls again, with a higher number or with the learned configuration.
        self.outbid = self.outbid.max(calling.epoch.number + 1);
        match calling.caller_state {
            CallerState::Holder => self.call(CallerState::Holder, out),
            // Another node may be about to found a ring: a node with a higher promise is not outbid at once.
            CallerState::Starving => out.push(Effect::Set(Timer::Starve, self.retry_after())),
        }
    }

    pub(super) fn call_late(&mut self, out: &mut Vec<Effect>) {
        let Some(calling) = &mut self.calling else {
            if matches!(self.phase, Phase::Starving) {
                self.call(CallerState::Starving, out);
            } else if self.is_eating() {
                self.end_turn(out);
            }
            return;
        };
        calling.tries += 1;
        if calling.tries < self.settings.call_tries && calling.objections.is_empty() {
            self.send_call(out);
        } else {
            self.end_call(out);
        }
    }

    /// Answers another node's 911 call.
    pub(super) fn called(&mut self, from: Member, call: Call, out: &mut Vec<Effect>) {
        self.learn(&call.configuration, out);
        if let Some(why) = self.denial(from, &call, out) {
            // So a call of this node, which may have precedence, is above the denied one at once.
            self.outbid = self.outbid.max(call.epoch.number);
            return self.deny(from, call.epoch, why, out);
        }
        // A promise that is not durable yet is not given; the caller sends the call again.
        if !self.reserve(call.epoch.number, out)
            || !self.saved.configuration.agrees(&self.asked.configuration)
        {
            return;
        }
        if call.epoch != self.promised {
            self.end_waits(out);
            self.lose_master(out);
            self.promised = call.epoch;
            self.allegiance = call.rank;
            self.phase = Phase::Hungry;
            out.push(Effect::Cancel(Timer::Turn));
            out.push(Effect::Set(Timer::Starve, self.settings.starving_after));
            out.push(Effect::Step(ProtocolStep::Granted { to: from.node, epoch: call.epoch }));
        }
        let grant = Grant {
            epoch: call.epoch,
            lineage: self.lineage,
            log: self.log.runs(),
            about: self.about.clone(),
        };
        out.push(self.send(from.node, Message::Grant(Box::new(grant))));
    }

    /// Returns the reason to deny a call, by the table in the crate's documentation; `None` grants it.
    fn denial(&mut self, from: Member, call: &Call, out: &mut Vec<Effect>) -> Option<Denial> {
        if !self.asked.configuration.agrees(&call.configuration) {
            return Some(Denial::Configuration);
        }
        if call.epoch == self.promised {
            // The call was granted before, and the answer was lost.
            return None;
        }
        let held = self.stamp();
        let follows = self.copy.is_some() && self.phase != Phase::Starving;
        // After a promise of another epoch, the ring of the last view is no longer this node's ring.
        let in_a_ring = follows && self.promised == held.epoch;
        let same_view = self.copy.is_some()
            && call.copy.epoch == held.epoch
            && self.view().is_some_and(|view| view.members.contains(&from));
        match call.caller_state {
            CallerState::Holder if same_view => {
                if call.copy < held {
                    return Some(Denial::NewerCopy);
                }
            }
            CallerState::Holder => {
                if follows && call.rank <= self.allegiance {
                    return Some(Denial::Outranked);
                }
            }
            CallerState::Starving if in_a_ring && same_view => {
                if call.copy < held && self.rules.newest_copy_founds {
                    return Some(Denial::NewerCopy);
                }
            }
            CallerState::Starving if in_a_ring => {
                if !self.is_known(from.node) {
                    nonsense(from, "asks to join, and is not known", out);
                } else if self.applicants.insert(from) {
                    out.push(Effect::Step(ProtocolStep::Applied(from)));
                }
                return Some(Denial::Joining);
            }
            // All nodes without a ring use one order, so that one of them is first.
            CallerState::Starving => {
                if (call.lineage, call.copy) < (self.lineage, held) && self.rules.newest_copy_founds {
                    return Some(Denial::NewerCopy);
                }
            }
        }
        (call.epoch < self.promised).then_some(Denial::Promised)
    }

    fn deny(&mut self, from: Member, epoch: Epoch, why: Denial, out: &mut Vec<Effect>) {
        out.push(Effect::Step(ProtocolStep::Denied { to: from.node, epoch, why }));
        let configuration = self.asked.configuration.clone();
        let deny = Deny { epoch, why, promised: self.promised, configuration };
        out.push(self.send(from.node, Message::Deny(Box::new(deny))));
    }

    pub(super) fn granted(&mut self, from: Member, grant: Grant, out: &mut Vec<Effect>) {
        let Some(calling) = &mut self.calling else { return };
        if grant.epoch == calling.epoch && calling.asked.contains(&from.node) {
            calling.grants.insert(from.node, (from, grant));
            self.count_answers(out);
        }
    }

    pub(super) fn denied(&mut self, from: Member, deny: &Deny, out: &mut Vec<Effect>) {
        self.outbid = self.outbid.max(deny.promised.number);
        let Some(calling) = &mut self.calling else { return };
        if deny.epoch != calling.epoch || !calling.asked.contains(&from.node) {
            return;
        }
        out.push(Effect::Step(ProtocolStep::Refused { by: from.node, why: deny.why }));
        match deny.why {
            Denial::Promised | Denial::Configuration => {
                calling.objections.insert(from.node);
                self.learn(&deny.configuration, out);
                self.count_answers(out);
            }
            Denial::NewerCopy | Denial::Joining | Denial::Outranked => {
                self.end_waits(out);
                self.lose_master(out);
                self.phase = Phase::Starving;
                out.push(Effect::Cancel(Timer::Turn));
                out.push(Effect::Set(Timer::Starve, self.retry_after()));
            }
        }
    }

    /// Founds a ring: regenerates the token with the granting nodes.
    fn found(&mut self, calling: Calling, out: &mut Vec<Effect>) {
        let newest = calling.grants.values().all(|(_, grant)| grant.lineage <= self.lineage);
        let primary = self.suffices(|node| {
            if node == self.me.node {
                return Some(remembers(self.lineage));
            }
            calling.grants.get(&node).map(|(_, grant)| remembers(grant.lineage))
        }) && (newest || !self.rules.newest_copy_founds);
        // The new token continues from the complete shared data.
        self.end_sync(out);
        self.base = self.log.base;
        let (members, reports) = self.new_ring(&calling);
        let stamp = Stamp { epoch: calling.epoch, seq: self.stamp().seq + 1 };
        let view = View { epoch: calling.epoch, primary, members };
        let configuration = &self.asked.configuration;
        let eligible = configuration.pending.as_ref().unwrap_or(&configuration.installed).clone();
        let mut token = Token { stamp, view, eligible, reports, log: None };
        out.push(Effect::Step(ProtocolStep::Founded(stamp)));
        if primary {
            let mut window = self.log.clone();
            let content = Content::View(token.view.members.clone());
            window.push(Entry { epoch: stamp.epoch, content });
            token.log = Some(window);
        }
        self.applicants.clear();
        self.foreign.clear();
        self.take(token, out);
    }

    /// Returns whether these nodes can be a primary ring: they are a majority, and one of them knows the
    /// committed entries. A node has forgotten them if it has restarted and was in no primary ring with
    /// complete data since. So the nodes that remember must be a majority, or all nodes must be present, or a
    /// majority has forgotten and no more can be recovered. `there` returns for a present node whether it
    /// remembers.
    pub(super) fn suffices(&self, there: impl Fn(NodeId) -> Option<bool>) -> bool {
        let configuration = &self.asked.configuration;
        configuration.has_quorum(|node| there(node).is_some())
            && (configuration.has_quorum(|node| there(node) == Some(true))
                || configuration.has_quorum(|node| there(node) == Some(false))
                || configuration.nodes().all(|node| there(node).is_some()))
    }

    /// Returns the members of the new ring, this node first, and their reports.
    fn new_ring(&self, calling: &Calling) -> (Vec<Member>, Vec<Report>) {
        let mine = &self.log;
        let mut order = vec![self.me.node];
        let old: Vec<NodeId> = self.ring_after_me();
        order.extend(calling.grants.keys().filter(|node| !old.contains(node)));
        order.extend(self.keep_or_move(&old, calling));
        let mut members = Vec::new();
        let mut reports = Vec::new();
        for node in order {
            let (member, report) = if node == self.me.node {
                let (has, lineage) = (mine.last(), self.lineage);
                let report = Report { synced: true, has, lineage, ..Report::default() };
                (self.me, Report { about: self.about.clone(), ..report })
            } else if let Some((member, grant)) = calling.grants.get(&node) {
                (*member, report_of(grant, mine))
            } else {
                // The member stays though it is silent (conservative detection), with its last report.
                let view = self.view().expect("it was a member");
                let known = self.report(node).cloned().unwrap_or_default();
                let member = view.members[view.position(node).expect("a member")];
                // The logs of members of an orphan ring are not parts of one log.
                let (synced, has) = if view.primary { (known.synced, known.has) } else { (false, mine.base) };
                let doubted_by = Some(self.me.node);
                (member, Report { visited: false, synced, has, doubted_by, ..known })
            };
            members.push(member);
            reports.push(report);
        }
        (members, reports)
    }

    /// Returns the other members in ring order, beginning with the successor.
    fn ring_after_me(&self) -> Vec<NodeId> {
        let Some(view) = self.view() else { return Vec::new() };
        let at = view.position(self.me.node).unwrap_or(0);
        let (before, after) = view.members.split_at(at);
        let others = after.iter().chain(before).map(|member| member.node);
        others.filter(|node| *node != self.me.node).collect()
    }

    /// Returns the old members that stay, in order. Aggressive detection keeps the granting nodes.
    /// Conservative detection also keeps a node that failed for the first time, one position later.
    fn keep_or_move(&self, old: &[NodeId], calling: &Calling) -> Vec<NodeId> {
        let mut kept: Vec<NodeId> = Vec::new();
        let mut moved: Vec<NodeId> = Vec::new();
        for node in old {
            if calling.grants.contains_key(node) {
                kept.push(*node);
                kept.append(&mut moved);
            } else if self.settings.detection == Detection::Conservative && self.is_doubtful(*node) {
                moved.push(*node);
            }
        }
        // Without a later member that could try the node, this node's judgement decides.
        if !kept.is_empty() {
            kept.append(&mut moved);
        }
        kept
    }

    /// Returns whether a member is silent for the first time, as far as is known.
    fn is_doubtful(&self, node: NodeId) -> bool {
        !self.gone.contains(&node)
            && self.report(node).is_some_and(|report| report.doubted_by.is_none() && !report.leaving)
    }

    /// Returns whether a node is eligible, or perhaps about to be.
    pub(super) fn is_known(&self, node: NodeId) -> bool {
        self.asked.configuration.contains(node) || self.contacts.contains(&node)
    }

    /// Returns all nodes that are eligible, or perhaps about to be.
    fn known(&self) -> BTreeSet<NodeId> {
        self.asked.configuration.nodes().chain(self.contacts.iter().copied()).collect()
    }

    /// Returns a member's report on the last token here.
    fn report(&self, node: NodeId) -> Option<&Report> {
        self.copy.as_ref()?.report(node)
    }

    /// Returns whether an answer from a node can be expected: it has a working link and a process.
    pub(super) fn is_expected(&self, node: NodeId) -> bool {
        !self.suspects.contains(&node) && !self.gone.contains(&node)
    }

    pub(super) fn hello(&mut self, from: Member, rank: Rank, members: &[Member]) {
        let Some(view) = self.view() else { return };
        let known = self.is_known(from.node);
        if self.phase == Phase::Starving || !known || view.members.contains(&from) || view.rank() <= rank {
            return;
        }
        let others = members.iter().map(|member| member.node);
        let outside: Vec<NodeId> =
            others.filter(|node| !view.contains(*node) && self.is_known(*node)).collect();
        self.foreign.extend(outside);
    }

    pub(super) fn greet(&mut self, out: &mut Vec<Effect>) {
        out.push(Effect::Set(Timer::Hello, self.settings.hello_every));
        let Some(view) = self.view().filter(|_| self.phase != Phase::Starving) else { return };
        let hello = Message::Hello { rank: view.rank(), epoch: view.epoch, members: view.members.clone() };
        for node in self.known().into_iter().filter(|node| !view.contains(*node)) {
            out.push(self.send(node, hello.clone()));
        }
    }

    fn lose_master(&mut self, out: &mut Vec<Effect>) {
        if self.master == Master::Held {
            self.master = Master::Wanted;
            out.push(Effect::Cancel(Timer::Lease));
            out.push(Effect::MasterLost);
        }
    }
}

/// Returns whether a node with this lineage knows the entries that were committed while it was in the primary
/// ring.
pub(super) fn remembers(lineage: Stamp) -> bool {
    lineage != Stamp::default()
}

/// Returns the report of a granting node, compared with the founder's log.
fn report_of(grant: &Grant, mine: &LogWindow) -> Report {
    let whole = mine.common(&grant.log);
    Report {
        visited: false,
        has: whole.unwrap_or(mine.base),
        synced: whole.is_some(),
        lineage: grant.lineage,
        leaving: false,
        doubted_by: None,
        about: grant.about.clone(),
    }
}
