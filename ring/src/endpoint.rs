//! An endpoint: a node with its links, as a driver runs it. It takes packets, timers and commands with the
//! time. It returns the packets with their pairs of addresses, the timers, and the notifications of the node.
//!
//! Invariants (the simulator in `tests/sim`):
//! 1. The node is informed of a peer's links only when the last link goes Down or the first comes Up.
//! 2. A peer counts as without a process when each of its addresses has refused a packet since its last
//!    contact.
//! 3. An answer goes back over the link of the packet that it answers, and not over one that may just have been
//!    cut (`an_answer_goes_back_over_the_link_of_the_question`).
//! 4. Times are only recorded (`recent`, `Counts`); no decision depends on them.

use crate::change::Notice;
use crate::effect::{Effect, ProtocolStep, Timer};
use crate::epoch::Fence;
use crate::link::{LinkChange, LinkSettings, Links, Path};
use crate::message::CallerState;
use crate::node::{Input, Node, Phase};
use crate::paths;
use crate::token::View;
use crate::wire::{Body, Envelope};
use crate::{Durable, Settings};
use rain_types::NodeId;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

/// Largest number of remembered changes; older ones are dropped. They are for people, and this covers several
/// failures.
const RECENT_MAX: usize = 64;

/// A timer of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Clock {
    /// A timer of the node.
    Node(Timer),
    /// The timer of the link monitor.
    Ping,
}

/// An event that the driver reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Start; the first event, once.
    Start,
    /// A packet has arrived.
    Packet(Envelope),
    /// A timer has expired.
    Fired(Clock),
    /// A packet to this address was refused: no process listens there.
    Refused(Path),
    /// This state is durable.
    Persisted(Durable),
    /// The other nodes, each with its number of pairs of addresses.
    Peers(BTreeMap<NodeId, u8>),
    /// An input for the node: [`Input::Eligible`], [`Input::About`], [`Input::AcquireMaster`],
    /// [`Input::ReleaseMaster`] or [`Input::Leave`].
    Input(Input),
}

/// An action for the driver. Commands are executed in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Send a packet over its link.
    Transmit(Envelope),
    /// Report [`Event::Fired`] after this time, unless the timer is set again or cancelled.
    Set(Clock, Duration),
    /// Cancel a timer.
    Cancel(Clock),
    /// Make this state durable, then report [`Event::Persisted`].
    Persist(Durable),
    /// Notify the users of the ring.
    Notify(Notification),
}

/// A notification for the users of the ring.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notification {
    /// The view has changed.
    View(View),
    /// A link has changed.
    Link(LinkChange),
    /// The shared data has changed.
    Notice(Notice),
    /// This node has the master lock.
    Master(Fence),
    /// This node has lost the master lock.
    MasterLost,
    /// The node has left the ring; the driver can stop.
    Left,
    /// A step of the protocol.
    Step(ProtocolStep),
}

/// Numbers of packets on the wire; their bytes are not counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traffic {
    /// Packets with messages of the ring.
    pub ring: u64,
    /// Packets with pings.
    pub pings: u64,
}

/// Counters since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Tokens taken.
    pub tokens: u64,
    /// Passes that failed.
    pub passes_failed: u64,
    /// Times the node starved.
    pub starved: u64,
    /// Tokens that the node regenerated because one was lost.
    pub regenerated: u64,
    /// Tokens that the node regenerated for other members.
    pub reformed: u64,
    /// Tokens of old epochs that the node refused.
    pub stale: u64,
    /// Messages that made no sense.
    pub nonsense: u64,
    /// Packets sent.
    pub sent: Traffic,
    /// Packets received.
    pub received: Traffic,
}

/// A remembered change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct History {
    /// Time by the driver's clock.
    pub at: Duration,
    /// Description, for people.
    pub what: String,
}

/// A node with its links.
#[derive(Debug, Clone)]
pub struct Endpoint {
    node: Node,
    links: Links,
    peers: BTreeMap<NodeId, u8>,
    refused: BTreeSet<Path>,
    reachable: BTreeMap<NodeId, bool>,
    counts: Counts,
    recent: VecDeque<History>,
    took_at: Option<Duration>,
    /// Time between the last two tokens.
    round: Option<Duration>,
    caller_state: CallerState,
}

impl Endpoint {
    /// Returns an endpoint for a node that starts.
    pub fn new(me: NodeId, durable: Durable, settings: Settings, links: LinkSettings) -> Endpoint {
        let node = Node::new(me, durable, settings);
        Endpoint {
            links: Links::new(node.me(), links),
            node,
            peers: BTreeMap::new(),
            refused: BTreeSet::new(),
            reachable: BTreeMap::new(),
            counts: Counts::default(),
            recent: VecDeque::new(),
            took_at: None,
            round: None,
            caller_state: CallerState::Starving,
        }
    }

    /// Returns the node.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// Returns the node, for [`Node::submit`] and [`Node::unique_id`].
    pub fn node_mut(&mut self) -> &mut Node {
        &mut self.node
    }

    /// Returns the links.
    pub fn links(&self) -> &Links {
        &self.links
    }

    /// Returns the counters since the start.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Returns the last changes, oldest first.
    pub fn recent(&self) -> impl Iterator<Item = &History> {
        self.recent.iter()
    }

    /// Returns the time between the last two tokens; `None` before the second.
    pub fn round(&self) -> Option<Duration> {
        self.round
    }

    /// Processes an event and adds the resulting commands to `out`.
    pub fn handle(&mut self, now: Duration, event: Event, out: &mut Vec<Command>) {
        match event {
            Event::Start => {
                self.ping(now, out);
                self.feed(now, Input::Start, out);
            }
            Event::Packet(envelope) => self.packet(now, envelope, out),
            Event::Fired(Clock::Ping) => self.ping(now, out),
            Event::Fired(Clock::Node(timer)) => self.feed(now, Input::Timer(timer), out),
            Event::Refused(path) => self.refused(now, path, out),
            Event::Persisted(durable) => self.feed(now, Input::Persisted(durable), out),
            Event::Peers(peers) => self.watch(now, peers, out),
            Event::Input(input) => self.feed(now, input, out),
        }
    }

    fn watch(&mut self, now: Duration, peers: BTreeMap<NodeId, u8>, out: &mut Vec<Command>) {
        let links = |(peer, count): (&NodeId, &u8)| {
            let peer = *peer;
            (0..*count).map(move |link| Path { peer, link })
        };
        self.links.watch(peers.iter().flat_map(links));
        let contacts = peers.keys().copied().collect();
        self.peers = peers;
        self.feed(now, Input::Contacts(contacts), out);
    }

    fn ping(&mut self, now: Duration, out: &mut Vec<Command>) {
        out.push(Command::Set(Clock::Ping, self.node.settings().ping_every));
        let (mut pings, mut changes) = (Vec::new(), Vec::new());
        self.links.tick(&mut pings, &mut changes);
        self.counts.sent.pings += pings.len() as u64;
        let from = self.node.me();
        for (path, ping) in pings {
            let envelope = Envelope { from, to: path.peer, link: path.link, body: Body::Ping(ping) };
            out.push(Command::Transmit(envelope));
        }
        self.links_changed(now, changes, out);
    }

    fn packet(&mut self, now: Duration, envelope: Envelope, out: &mut Vec<Command>) {
        let Envelope { from, to, link, body } = envelope;
        if to != self.node.me().node {
            self.counts.nonsense += 1;
            return;
        }
        self.refused.retain(|path| path.peer != from.node);
        match body {
            Body::Ping(ping) => {
                self.counts.received.pings += 1;
                let mut changes = Vec::new();
                self.links.receive(Path { peer: from.node, link }, from.incarnation, ping, &mut changes);
                self.links_changed(now, changes, out);
            }
            Body::Ring(message) => {
                self.counts.received.ring += 1;
                let question = Path { peer: from.node, link };
                self.feed_from(now, Input::Message { from, message }, Some(question), out);
            }
        }
    }

    fn refused(&mut self, now: Duration, path: Path, out: &mut Vec<Command>) {
        let links = self.peers.get(&path.peer).copied().unwrap_or(0);
        self.refused.insert(path);
        let peer = path.peer;
        if (0..links).all(|link| self.refused.contains(&Path { peer, link })) && links > 0 {
            self.feed(now, Input::Unreachable(peer), out);
        }
    }

    fn links_changed(&mut self, now: Duration, changes: Vec<LinkChange>, out: &mut Vec<Command>) {
        for change in changes {
            let state = if change.up { "up" } else { "down" };
            self.note(now, format!("link {} to node {} is {state}", change.path.link, change.path.peer));
            out.push(Command::Notify(Notification::Link(change)));
            let before = self.reachable.insert(change.path.peer, change.reachable);
            if before != Some(change.reachable) {
                let input = Input::Link { peer: change.path.peer, up: change.reachable };
                self.feed(now, input, out);
            }
        }
    }

    fn feed(&mut self, now: Duration, input: Input, out: &mut Vec<Command>) {
        self.feed_from(now, input, None, out);
    }

    /// Gives the node an input. `question`: the link of the packet that brought it.
    fn feed_from(&mut self, now: Duration, input: Input, question: Option<Path>, out: &mut Vec<Command>) {
        let mut effects = Vec::new();
        self.node.handle(input, &mut effects);
        for effect in effects {
            match effect {
                Effect::Send { to, message, attempt } => {
                    let arrived = question.filter(|path| path.peer == to).map(|path| path.link.into());
                    self.send(to, &message, (attempt, arrived), out);
                }
                Effect::Set(timer, after) => out.push(Command::Set(Clock::Node(timer), after)),
                Effect::Cancel(timer) => out.push(Command::Cancel(Clock::Node(timer))),
                Effect::Persist(durable) => out.push(Command::Persist(durable)),
                Effect::View(view) => {
                    self.note(now, describe(&view));
                    out.push(Command::Notify(Notification::View(view)));
                }
                Effect::Notice(notice) => out.push(Command::Notify(Notification::Notice(notice))),
                Effect::Master(fence) => out.push(Command::Notify(Notification::Master(fence))),
                Effect::MasterLost => out.push(Command::Notify(Notification::MasterLost)),
                Effect::Left => {
                    out.push(Command::Cancel(Clock::Ping));
                    out.push(Command::Notify(Notification::Left));
                }
                Effect::Step(step) => {
                    self.count(now, &step);
                    out.push(Command::Notify(Notification::Step(step)));
                }
            }
        }
    }

    fn send(
        &mut self,
        to: NodeId,
        message: &crate::Message,
        (attempt, arrived): (u32, Option<usize>),
        out: &mut Vec<Command>,
    ) {
        let mut up = self.links.states(to);
        if up.is_empty() {
            up.push(true);
        }
        for link in paths::choose(self.node.settings().strategy, attempt, arrived, &up) {
            self.counts.sent.ring += 1;
            let body = Body::Ring(message.clone());
            out.push(Command::Transmit(Envelope { from: self.node.me(), to, link: link as u8, body }));
        }
    }

    fn count(&mut self, now: Duration, step: &ProtocolStep) {
        match step {
            ProtocolStep::Took(_) => {
                self.counts.tokens += 1;
                self.round = self.took_at.map(|before| now.saturating_sub(before));
                self.took_at = Some(now);
            }
            ProtocolStep::PassFailed { to } => {
                self.counts.passes_failed += 1;
                self.note(now, format!("node {to} did not take the token"));
            }
            ProtocolStep::Starves => {
                self.counts.starved += 1;
                self.note(now, "the token has not come; calling 911".into());
            }
            ProtocolStep::Called { caller_state, .. } => self.caller_state = *caller_state,
            ProtocolStep::Founded(stamp) => {
                if self.caller_state == CallerState::Starving {
                    self.counts.regenerated += 1;
                } else {
                    self.counts.reformed += 1;
                }
                self.note(now, format!("made the token anew: {stamp}"));
            }
            ProtocolStep::StaleToken { from, stamp } => {
                self.counts.stale += 1;
                self.note(now, format!("a stale token {stamp} from node {from} was dropped"));
            }
            ProtocolStep::Nonsense { .. } => self.counts.nonsense += 1,
            ProtocolStep::Passed { .. }
            | ProtocolStep::Granted { .. }
            | ProtocolStep::Denied { .. }
            | ProtocolStep::Refused { .. }
            | ProtocolStep::Applied(_)
            | ProtocolStep::Synced { .. } => {}
        }
    }

    fn note(&mut self, at: Duration, what: String) {
        if self.recent.len() == RECENT_MAX {
            self.recent.pop_front();
        }
        self.recent.push_back(History { at, what });
    }

    /// Returns whether the node is in a ring and not calling for one.
    pub fn in_a_ring(&self) -> bool {
        self.node.view().is_some() && matches!(self.node.phase(), Phase::Hungry | Phase::Eating)
    }
}

fn describe(view: &View) -> String {
    let nodes: Vec<String> = view.members.iter().map(|member| member.node.to_string()).collect();
    let kind = if view.primary { "primary" } else { "orphan" };
    format!("view {} ({kind}): {}", view.epoch, nodes.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eligible::Configuration;
    use crate::epoch::{Epoch, Stamp};
    use crate::message::{Call, Message};
    use crate::token::{Member, Rank};

    #[test]
    fn an_answer_goes_back_over_the_link_of_the_question() {
        let (me, caller) = (NodeId(1), Member { node: NodeId(2), incarnation: 1 });
        let mut endpoint =
            Endpoint::new(me, Durable::default(), Settings::default(), LinkSettings::default());
        let mut out = Vec::new();
        endpoint.handle(Duration::ZERO, Event::Start, &mut out);
        endpoint.handle(Duration::ZERO, Event::Peers(BTreeMap::from([(caller.node, 2)])), &mut out);
        for link in [0, 1, 0] {
            let call = Call {
                epoch: Epoch::default(),
                caller_state: CallerState::Starving,
                copy: Stamp::default(),
                lineage: Stamp::default(),
                rank: Rank::default(),
                configuration: Configuration::default(),
            };
            let body = Body::Ring(Message::Call(Box::new(call)));
            out.clear();
            let packet = Envelope { from: caller, to: me, link, body };
            endpoint.handle(Duration::ZERO, Event::Packet(packet), &mut out);
            let answers = out.iter().filter_map(|command| match command {
                Command::Transmit(envelope) if envelope.to == caller.node => Some(envelope.link),
                _ => None,
            });
            assert_eq!(answers.collect::<Vec<_>>(), [link]);
        }
    }
}
