//! A node of the ring: its state and its reaction to each input. The table of states is in the crate's
//! documentation.
//!
//! `turn` handles the token (take, hold, pass), `recovery` 911 calls, and `data` the token's cargo.
//!
//! Invariants, held by the model checker (`ring/tests/model`) and the simulator:
//! 1. At most one node is EATING in an epoch.
//! 2. Of the nodes EATING in primary rings, at most one is in an epoch whose tokens a majority still takes.
//! 3. Two views of one epoch are equal. A node's view never goes to an older epoch, not even across a
//!    restart.
//! 4. Committed logs are prefixes of one another, as long as fewer than a majority of nodes lose their memory
//!    at once.
//! 5. The node compares no times; only timers tell it that something is late.

mod data;
mod recovery;
mod turn;

use crate::change::Change;
use crate::durable::Durable;
use crate::effect::{Effect, ProtocolStep, Timer};
use crate::eligible::{Configuration, Eligible};
use crate::epoch::{Epoch, Fence, Stamp};
use crate::log::{Entry, LogWindow};
use crate::message::Message;
use crate::settings::Settings;
use crate::shared::SharedData;
use crate::token::{About, Member, Rank, Report, Token, View};
use data::{Outbox, SentSnapshot, Sync};
use rain_types::NodeId;
use recovery::Calling;
use std::collections::BTreeSet;
use turn::Passing;

pub use data::OutboxFull;

/// An input of a node.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Input {
    /// Start; the first input, once.
    Start,
    /// A message has arrived.
    Message {
        /// Sender with its incarnation.
        from: Member,
        /// Message.
        message: Message,
    },
    /// A timer has expired.
    Timer(Timer),
    /// [`Effect::Persist`] is done.
    Persisted(Durable),
    /// A machine reports that no process listens at this node's addresses: the process has ended.
    Unreachable(NodeId),
    /// The link monitor reports whether any link to a node works both ways.
    Link {
        /// Node.
        peer: NodeId,
        /// Whether any link is up.
        up: bool,
    },
    /// The eligible nodes by the cluster's record. The holder of a primary token takes them as the next
    /// membership.
    Eligible(Eligible),
    /// Nodes to announce the ring to, which are eligible or about to be.
    Contacts(BTreeSet<NodeId>),
    /// New report of this node about itself.
    About(About),
    /// New times and limits; they must be valid.
    Settings(Settings),
    /// Wait for the token and keep it as the master lock.
    AcquireMaster,
    /// Release the master lock.
    ReleaseMaster,
    /// Leave the ring.
    Leave,
}

/// The state of a node, as in the paper.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// The node waits for the token.
    Hungry,
    /// The node holds the token.
    Eating,
    /// The node has not seen the token for `starving_after`, and calls 911.
    Starving,
    /// The node has left.
    Gone,
}

/// Rules that the model checker breaks in order to show that it notices. All other users keep the defaults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rules {
    /// The founder of a primary ring has the newest copy among the granting nodes.
    pub newest_copy_founds: bool,
    /// A 911 call follows a failed pass, not a pass to the next node.
    pub failed_pass_calls: bool,
    /// A promise survives a restart.
    pub promises_last: bool,
}

impl Default for Rules {
    fn default() -> Rules {
        Rules { newest_copy_founds: true, failed_pass_calls: true, promises_last: true }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Master {
    Unwanted,
    Wanted,
    Held,
}

/// A node. It can be cloned and compared as a value, for the model checker.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Node {
    me: Member,
    settings: Settings,
    rules: Rules,
    /// The durable state: what is surely on the disk, and what was last sent to the disk.
    saved: Durable,
    asked: Durable,
    /// The node takes no token of an older epoch.
    promised: Epoch,
    /// Highest epoch number in the denials so far.
    outbid: u64,
    phase: Phase,
    /// The last token held, without its log; while EATING the token itself.
    copy: Option<Token>,
    passing: Option<Passing>,
    calling: Option<Calling>,
    /// Rank of the ring that the node follows.
    allegiance: Rank,
    /// Stamp of the newest primary token held with complete shared data.
    lineage: Stamp,
    /// Entries since the base of the token with the stamp `lineage`.
    log: LogWindow,
    /// Base of the token's log.
    base: u64,
    shared: SharedData,
    sync: Option<Sync>,
    snapshot: Option<SentSnapshot>,
    outbox: Outbox,
    applicants: BTreeSet<Member>,
    foreign: BTreeSet<NodeId>,
    contacts: BTreeSet<NodeId>,
    /// Nodes without a working link, or with a failed pass.
    suspects: BTreeSet<NodeId>,
    /// Nodes without a process.
    gone: BTreeSet<NodeId>,
    about: About,
    master: Master,
    leaving: bool,
    unique: u64,
}

impl Node {
    /// Returns a node that starts with its durable state. The driver has incremented the incarnation in it.
    pub fn new(me: NodeId, durable: Durable, settings: Settings) -> Node {
        Node::with_rules(me, durable, settings, Rules::default())
    }

    /// Returns a node like [`Node::new`], with other rules for the model checker.
    pub fn with_rules(me: NodeId, durable: Durable, settings: Settings, rules: Rules) -> Node {
        let promised =
            if rules.promises_last { Epoch::up_to(durable.epoch_ceiling) } else { Epoch::default() };
        Node {
            me: Member { node: me, incarnation: durable.incarnation },
            settings,
            rules,
            saved: durable.clone(),
            asked: durable,
            promised,
            outbid: 0,
            phase: Phase::Starving,
            copy: None,
            passing: None,
            calling: None,
            allegiance: Rank::default(),
            lineage: Stamp::default(),
            log: LogWindow::default(),
            base: 0,
            shared: SharedData::default(),
            sync: None,
            snapshot: None,
            outbox: Outbox::default(),
            applicants: BTreeSet::new(),
            foreign: BTreeSet::new(),
            contacts: BTreeSet::new(),
            suspects: BTreeSet::new(),
            gone: BTreeSet::new(),
            about: About::default(),
            master: Master::Unwanted,
            leaving: false,
            unique: 0,
        }
    }

    /// Returns the node's number and incarnation.
    pub fn me(&self) -> Member {
        self.me
    }

    /// Returns the node's state.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Returns the times and limits.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Returns the communication membership: the live nodes, according to the last token.
    pub fn view(&self) -> Option<&View> {
        self.copy.as_ref().map(|copy| &copy.view)
    }

    /// Returns the eligible membership: the nodes of the cluster.
    pub fn eligible(&self) -> &Configuration {
        &self.asked.configuration
    }

    /// Returns the members' reports on the last token, in the view's order.
    pub fn reports(&self) -> &[Report] {
        self.copy.as_ref().map_or(&[], |copy| &copy.reports)
    }

    /// Returns the stamp of the last token held.
    pub fn stamp(&self) -> Stamp {
        self.copy.as_ref().map_or(Stamp::default(), |copy| copy.stamp)
    }

    /// Returns the promised epoch: the node takes no token of an older one.
    pub fn promised(&self) -> Epoch {
        self.promised
    }

    /// Returns the stamp of the newest primary token held with complete shared data; zero if there was none
    /// since the start.
    pub fn lineage(&self) -> Stamp {
        self.lineage
    }

    /// Returns the node's report of itself.
    pub fn about(&self) -> &About {
        &self.about
    }

    /// Returns the mirror of the shared data.
    pub fn shared(&self) -> &SharedData {
        &self.shared
    }

    /// Returns the committed entries that are still kept, with their indices.
    pub fn committed_entries(&self) -> impl Iterator<Item = (u64, &Entry)> {
        let committed = (self.log.base + 1)..=self.log.committed;
        committed.filter_map(|index| Some((index, self.log.get(index)?)))
    }

    /// Returns whether the mirror is complete; if not, a snapshot is being fetched.
    pub fn is_synced(&self) -> bool {
        self.sync.is_none()
    }

    /// Returns the fence for an exclusive action; `None` unless the node is EATING in a primary ring, because
    /// only then it may act.
    pub fn fence(&self) -> Option<Fence> {
        let copy = self.copy.as_ref().filter(|copy| self.phase == Phase::Eating && copy.view.primary)?;
        Some(Fence { eligible: copy.eligible.version, stamp: copy.stamp })
    }

    /// Returns a number that no other node and no other incarnation of this node returns.
    pub fn unique_id(&mut self) -> u128 {
        self.unique += 1;
        let who = u128::from(self.me.node.0) << 32 | u128::from(self.me.incarnation as u32);
        who << 64 | u128::from(self.unique)
    }

    /// Queues a change for the token. Returns its id, which [`Notice::Done`](crate::Notice::Done) reports
    /// when the change is made. Fails when too many changes wait.
    pub fn submit(&mut self, change: Change) -> Result<u64, OutboxFull> {
        self.outbox.push(change, self.settings.outbox_bytes_max)
    }

    /// Processes an input and adds the resulting effects to `out`, in order.
    pub fn handle(&mut self, input: Input, out: &mut Vec<Effect>) {
        if self.phase == Phase::Gone {
            return;
        }
        match input {
            Input::Start => self.start(out),
            Input::Message { from, message } => self.message(from, message, out),
            Input::Timer(timer) => self.timer(timer, out),
            // The report of an older write may come late.
            Input::Persisted(durable) => {
                if durable.epoch_ceiling >= self.saved.epoch_ceiling {
                    self.saved = durable;
                }
            }
            Input::Unreachable(node) => self.unreachable(node, out),
            Input::Link { peer, up: true } => {
                self.suspects.remove(&peer);
            }
            Input::Link { peer, up: false } => {
                self.suspects.insert(peer);
                self.hurry_if_successor(peer, out);
            }
            Input::Eligible(next) => self.propose_eligible(next, out),
            Input::Contacts(contacts) => self.contacts = contacts,
            Input::About(about) => self.about = about,
            Input::Settings(settings) => self.settings = settings,
            Input::AcquireMaster => {
                if self.master == Master::Unwanted {
                    self.master = Master::Wanted;
                }
            }
            Input::ReleaseMaster => self.release_master(out),
            Input::Leave => {
                self.leaving = true;
                if self.phase == Phase::Starving && self.copy.is_none() {
                    self.leave(out);
                }
            }
        }
    }

    fn start(&mut self, out: &mut Vec<Effect>) {
        self.reserve(self.saved.epoch_ceiling + 1, out);
        out.push(Effect::Set(Timer::Hello, self.settings.hello_every));
        self.starve(out);
    }

    fn message(&mut self, from: Member, message: Message, out: &mut Vec<Effect>) {
        if from.node == self.me.node {
            return nonsense(from, "from this node's own number", out);
        }
        // Messages of an earlier incarnation of a member are obsolete.
        let newer = self.view().and_then(|view| view.members.iter().find(|member| member.node == from.node));
        if newer.is_some_and(|member| member.incarnation > from.incarnation) {
            return nonsense(from, "from an earlier life of that node", out);
        }
        self.suspects.remove(&from.node);
        self.gone.remove(&from.node);
        match message {
            Message::Token(token) => self.token(from, *token, out),
            Message::TokenAck(stamp) => self.token_ack(from, stamp, out),
            Message::TokenNack { stamp, promised } => self.token_nack(from, stamp, promised, out),
            Message::Call(call) => self.called(from, *call, out),
            Message::Grant(grant) => self.granted(from, *grant, out),
            Message::Deny(deny) => self.denied(from, &deny, out),
            Message::Hello { rank, epoch: _, members } => self.hello(from, rank, &members),
            Message::SnapshotAsk { need, index, have } => self.snapshot_ask(from, need, index, have, out),
            Message::SnapshotPart { index, total, offset, bytes } => {
                self.snapshot_part(index, total, offset, &bytes.0, out);
            }
        }
    }

    fn timer(&mut self, timer: Timer, out: &mut Vec<Effect>) {
        match timer {
            Timer::Turn => self.end_turn(out),
            Timer::Pass => self.pass_late(out),
            Timer::Starve => {
                if matches!(self.phase, Phase::Hungry | Phase::Starving) && self.calling.is_none() {
                    self.starve(out);
                }
            }
            Timer::Call => self.call_late(out),
            Timer::Hello => self.greet(out),
            Timer::Sync => self.ask_snapshot(out),
            Timer::Lease => self.release_master(out),
        }
    }

    fn unreachable(&mut self, node: NodeId, out: &mut Vec<Effect>) {
        if !self.gone.insert(node) || !self.view().is_some_and(|view| view.contains(node)) {
            return;
        }
        if self.phase == Phase::Eating && self.calling.is_none() && self.master != Master::Held {
            out.push(Effect::Set(Timer::Turn, std::time::Duration::ZERO));
        }
        self.hurry_if_successor(node, out);
    }

    /// Shortens the wait when the successor is suspected: a token that it held would have come back here
    /// within a round.
    fn hurry_if_successor(&mut self, node: NodeId, out: &mut Vec<Effect>) {
        let successor = self.view().and_then(|view| view.successor(self.me.node));
        if self.phase == Phase::Hungry && successor == Some(node) && self.passing.is_none() {
            let soon = self.settings.rotation + self.settings.ack_timeout / 2;
            out.push(Effect::Set(Timer::Starve, soon));
        }
    }

    fn propose_eligible(&mut self, next: Eligible, out: &mut Vec<Effect>) {
        let known = &self.asked.configuration;
        let newest = known.pending.as_ref().unwrap_or(&known.installed);
        if next.version <= newest.version || known.pending.is_some() || next.nodes == newest.nodes {
            return;
        }
        // Only a primary ring may begin a change; other nodes learn of it by a call.
        let view = self.view().filter(|view| view.primary && self.phase != Phase::Starving);
        let applied = |node| self.applicants.iter().any(|member| member.node == node);
        let there = |node| {
            view.is_some_and(|view| view.contains(node)) || applied(node) || self.foreign.contains(&node)
        };
        // A set whose majority has never been present would stop the ring, so the change waits until it can
        // succeed.
        if view.is_some() && next.has_majority(there) {
            let mut configuration = self.asked.configuration.clone();
            configuration.pending = Some(next);
            self.learn(&configuration, out);
        }
    }

    /// Merges another node's knowledge of the eligible membership, and makes the result durable.
    fn learn(&mut self, other: &Configuration, out: &mut Vec<Effect>) {
        if self.asked.configuration.learn(other) {
            out.push(Effect::Persist(self.asked.clone()));
        }
    }

    /// Returns whether a promise up to this number would survive a restart. If not, makes a higher ceiling
    /// durable.
    fn reserve(&mut self, number: u64, out: &mut Vec<Effect>) -> bool {
        if number + self.settings.epoch_reserve / 2 > self.asked.epoch_ceiling {
            self.asked.epoch_ceiling = number + self.settings.epoch_reserve;
            out.push(Effect::Persist(self.asked.clone()));
        }
        number <= self.saved.epoch_ceiling || !self.rules.promises_last
    }

    fn is_eating(&self) -> bool {
        self.phase == Phase::Eating
    }

    fn release_master(&mut self, out: &mut Vec<Effect>) {
        let held = self.master == Master::Held;
        self.master = Master::Unwanted;
        if held {
            out.push(Effect::Cancel(Timer::Lease));
            out.push(Effect::MasterLost);
            if self.is_eating() && self.calling.is_none() {
                out.push(Effect::Set(Timer::Turn, std::time::Duration::ZERO));
            }
        }
    }

    fn leave(&mut self, out: &mut Vec<Effect>) {
        self.phase = Phase::Gone;
        self.passing = None;
        self.calling = None;
        for timer in [Timer::Turn, Timer::Pass, Timer::Starve, Timer::Call, Timer::Hello, Timer::Sync] {
            out.push(Effect::Cancel(timer));
        }
        out.push(Effect::Left);
    }
}

fn nonsense(from: Member, why: &'static str, out: &mut Vec<Effect>) {
    out.push(Effect::Step(ProtocolStep::Nonsense { from: from.node, why }));
}
