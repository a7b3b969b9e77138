//! The token: taking it, holding it, and passing it on.
//!
//! Held by `a_pass_to_the_next_node_after_a_missed_acknowledgement_is_caught` and the properties of
//! `ring/tests/model`.

use super::recovery::remembers;
use super::{Master, Node, Phase, nonsense};
use crate::effect::{Effect, ProtocolStep, Timer};
use crate::epoch::{Epoch, Stamp};
use crate::message::{CallerState, Message};
use crate::token::{Member, Token};
use rain_types::NodeId;
use std::collections::BTreeSet;
use std::time::Duration;

/// A pass that is not acknowledged yet.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Passing {
    to: NodeId,
    attempt: u32,
}

impl Node {
    pub(super) fn token(&mut self, from: Member, token: Token, out: &mut Vec<Effect>) {
        let stamp = token.stamp;
        let held = self.stamp();
        // Each stamp of an epoch goes to one node, so this is a repeated send of a token that was here
        // before.
        if stamp.epoch == held.epoch && stamp <= held {
            out.push(self.send(from.node, Message::TokenAck(stamp)));
            return;
        }
        if stamp.epoch < self.promised {
            out.push(Effect::Step(ProtocolStep::StaleToken { from: from.node, stamp }));
            out.push(self.send(from.node, Message::TokenNack { stamp, promised: self.promised }));
            return;
        }
        if let Some(why) = self.malformed(&token) {
            return nonsense(from, why, out);
        }
        if !token.view.members.contains(&self.me) {
            return nonsense(from, "a token of a ring without this node", out);
        }
        // Taking the token is a promise. If the promise is not durable yet, the token is not taken, and will
        // be sent again.
        if !self.reserve(stamp.epoch.number, out) {
            return;
        }
        out.push(self.send(from.node, Message::TokenAck(stamp)));
        self.take(token, out);
    }

    fn malformed(&self, token: &Token) -> Option<&'static str> {
        let members: BTreeSet<NodeId> = token.view.members.iter().map(|member| member.node).collect();
        if token.view.epoch != token.stamp.epoch {
            Some("a token of two epochs")
        } else if token.reports.len() != token.view.members.len() || members.len() != token.reports.len() {
            Some("a token whose lists do not fit together")
        } else if token.log.is_some() != token.view.primary {
            Some("a token with the wrong cargo")
        } else {
            None
        }
    }

    /// Takes the token, which was passed here or founded here.
    pub(super) fn take(&mut self, mut token: Token, out: &mut Vec<Effect>) {
        let fresh = self.view().is_none_or(|view| view.epoch != token.view.epoch);
        self.end_waits(out);
        self.promised = self.promised.max(token.stamp.epoch);
        self.phase = Phase::Eating;
        self.allegiance = token.view.rank();
        out.push(Effect::Cancel(Timer::Starve));
        out.push(Effect::Step(ProtocolStep::Took(token.stamp)));
        let window = token.log.take();
        if fresh {
            let members: BTreeSet<Member> = token.view.members.iter().copied().collect();
            self.applicants.retain(|applicant| !members.contains(applicant));
            self.foreign.retain(|node| !token.view.contains(*node));
            // The kept snapshot may be of a history that this ring has abandoned.
            self.snapshot = None;
            self.end_sync(out);
            out.push(Effect::View(token.view.clone()));
        }
        if token.view.primary {
            let mut configuration = self.asked.configuration.clone();
            configuration.installed = token.eligible.clone();
            self.learn(&configuration, out);
        }
        self.copy = Some(token);
        if let Some(window) = window {
            self.take_log(window, fresh, out);
        }
        self.write_report();
        self.hold(out);
    }

    /// Ends the pass and the call that are under way.
    pub(super) fn end_waits(&mut self, out: &mut Vec<Effect>) {
        if self.passing.take().is_some() {
            out.push(Effect::Cancel(Timer::Pass));
        }
        if self.calling.take().is_some() {
            out.push(Effect::Cancel(Timer::Call));
        }
    }

    fn hold(&mut self, out: &mut Vec<Effect>) {
        if self.master == Master::Wanted
            && let Some(fence) = self.fence()
        {
            self.master = Master::Held;
            out.push(Effect::Master(fence));
            out.push(Effect::Set(Timer::Lease, self.settings.lease));
            return;
        }
        let copy = self.copy.as_ref().expect("EATING has the token");
        // The first round of a view has no pauses, so that all members learn of it quickly.
        let known = copy.reports.iter().all(|report| report.visited);
        let members = copy.view.members.len().max(1) as u32;
        let turn = if known { self.settings.rotation / members } else { Duration::ZERO };
        out.push(Effect::Set(Timer::Turn, turn));
    }

    pub(super) fn write_report(&mut self) {
        let (synced, has, lineage) = (self.is_synced(), self.carried().last(), self.lineage);
        let (leaving, about, me) = (self.leaving, self.about.clone(), self.me.node);
        let Some(report) = self.copy.as_mut().and_then(|copy| copy.report_mut(me)) else { return };
        report.visited = true;
        report.has = has;
        report.synced = synced;
        report.lineage = lineage;
        report.leaving = leaving;
        report.doubted_by = None;
        report.about = about;
    }

    pub(super) fn end_turn(&mut self, out: &mut Vec<Effect>) {
        if !self.is_eating() || self.calling.is_some() || self.master == Master::Held {
            return;
        }
        if self.view().is_some_and(|view| view.primary) {
            self.append_and_commit(out);
        } else {
            self.write_report();
        }
        if self.leaving && self.view().is_some_and(|view| view.members.len() == 1) {
            return self.leave(out);
        }
        if !self.leaving && self.wants_other_members() {
            return self.call(CallerState::Holder, out);
        }
        self.pass(out);
    }

    /// Returns whether the holder should call for another view.
    fn wants_other_members(&self) -> bool {
        let copy = self.copy.as_ref().expect("EATING has the token");
        let view = &copy.view;
        let successor = view.successor(self.me.node);
        let silent = |member: &Member| {
            member.node != self.me.node
                && (self.gone.contains(&member.node)
                    || Some(member.node) == successor && self.suspects.contains(&member.node))
        };
        let configuration = &self.asked.configuration;
        let promotable = !view.primary
            && copy.reports.iter().all(|report| report.visited)
            && self.suffices(|node| copy.report(node).map(|report| remembers(report.lineage)))
            && copy.reports.iter().all(|report| report.lineage <= self.lineage);
        let change = view.primary && configuration.pending.is_some();
        !self.applicants_to_call().is_empty()
            || view.members.iter().any(silent)
            || copy.reports.iter().any(|report| report.leaving)
            || promotable
            || change
    }

    /// Returns known nodes outside of the view that ask to join, or whose ring has a lower rank. They need
    /// not be eligible yet.
    pub(super) fn applicants_to_call(&self) -> BTreeSet<NodeId> {
        let outside = |node: &NodeId| !self.view().is_some_and(|view| view.contains(*node));
        let applied = self.applicants.iter().map(|member| member.node);
        let foreign = self.foreign.iter().copied().filter(outside);
        applied.chain(foreign).filter(|node| self.is_known(*node) && self.is_expected(*node)).collect()
    }

    fn pass(&mut self, out: &mut Vec<Effect>) {
        let copy = self.copy.as_mut().expect("EATING has the token");
        let to = copy.view.successor(self.me.node).expect("a member");
        if to == self.me.node {
            copy.stamp.seq += 1;
            if copy.view.primary {
                self.lineage = copy.stamp;
            }
            let (rotation, wanted) = (self.settings.rotation, self.master == Master::Wanted);
            if wanted {
                self.hold(out)
            } else {
                out.push(Effect::Set(Timer::Turn, rotation))
            }
            return;
        }
        self.phase = Phase::Hungry;
        self.passing = Some(Passing { to, attempt: 0 });
        self.send_pass(out);
        out.push(Effect::Set(Timer::Starve, self.settings.starving_after));
    }

    fn send_pass(&mut self, out: &mut Vec<Effect>) {
        let (Some(passing), Some(copy)) = (&self.passing, &self.copy) else { return };
        let mut token = copy.clone();
        token.stamp.seq += 1;
        token.log = token.view.primary.then(|| self.carried().after(self.base));
        let (to, stamp, attempt) = (passing.to, token.stamp, passing.attempt);
        if attempt == 0 {
            out.push(Effect::Step(ProtocolStep::Passed { to, stamp }));
        }
        out.push(Effect::Send { to, message: Message::Token(Box::new(token)), attempt });
        out.push(Effect::Set(Timer::Pass, self.settings.ack_timeout));
    }

    pub(super) fn token_ack(&mut self, from: Member, stamp: Stamp, out: &mut Vec<Effect>) {
        if !self.is_pass_under_way(from, stamp) {
            return;
        }
        self.passing = None;
        out.push(Effect::Cancel(Timer::Pass));
        if self.leaving {
            self.leave(out);
        }
    }

    pub(super) fn token_nack(&mut self, from: Member, stamp: Stamp, promised: Epoch, out: &mut Vec<Effect>) {
        self.outbid = self.outbid.max(promised.number);
        if !self.is_pass_under_way(from, stamp) {
            return;
        }
        // The successor may have taken an earlier send of the token all the same, so the token is not known
        // to be here.
        self.passing = None;
        out.push(Effect::Cancel(Timer::Pass));
        self.starve(out);
    }

    fn is_pass_under_way(&self, from: Member, stamp: Stamp) -> bool {
        let held = self.stamp();
        self.passing.as_ref().is_some_and(|passing| passing.to == from.node)
            && stamp == Stamp { epoch: held.epoch, seq: held.seq + 1 }
    }

    pub(super) fn pass_late(&mut self, out: &mut Vec<Effect>) {
        let Some(passing) = &mut self.passing else { return };
        passing.attempt += 1;
        if passing.attempt < self.settings.pass_tries && !self.gone.contains(&passing.to) {
            return self.send_pass(out);
        }
        let to = passing.to;
        self.passing = None;
        self.suspects.insert(to);
        out.push(Effect::Step(ProtocolStep::PassFailed { to }));
        if self.rules.failed_pass_calls {
            self.starve(out);
        } else {
            self.pass_to_the_next_one(to, out);
        }
    }

    /// The paper's rule, which makes two tokens if the first pass has arrived. Only the model checker uses
    /// it.
    fn pass_to_the_next_one(&mut self, failed: NodeId, out: &mut Vec<Effect>) {
        let copy = self.copy.as_mut().expect("it has passed a token");
        let at = copy.view.position(failed).expect("a member");
        copy.view.members.remove(at);
        copy.reports.remove(at);
        self.phase = Phase::Eating;
        self.pass(out);
    }

    pub(super) fn send(&self, to: NodeId, message: Message) -> Effect {
        Effect::Send { to, message, attempt: 0 }
    }
}
