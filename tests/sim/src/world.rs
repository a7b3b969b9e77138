//! A cluster of ring endpoints in virtual time. The same seed gives the same run.
//!
//! The network loses, duplicates and delays packets, and is cut. Clocks drift. Processes stall, crash and
//! start again.
//!
//! Every step is checked against `rain_ring::invariants`. The first invariant that does not hold ends the
//! run; the failure carries the invariant's name and the virtual time.

use rain_ring::link::{LinkSettings, Path};
use rain_ring::wire::Envelope;
use rain_ring::{
    Clock, Command, Configuration, Durable, Eligible, Endpoint, Entry, Epoch, Event, Fence, Input, Node,
    Notice, Notification, Phase, ProtocolStep, Settings, invariants,
};
use rain_types::NodeId;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Size and faults of a simulated cluster.
#[derive(Debug, Clone)]
pub struct WorldOptions {
    /// Nodes.
    pub nodes: u32,
    /// Settings of the ring.
    pub settings: Settings,
    /// Shortest and longest latency of a packet.
    pub latency: (Duration, Duration),
    /// Packets lost, per thousand.
    pub lost: u32,
    /// Packets delivered twice, per thousand.
    pub doubled: u32,
    /// Packets delayed by up to 100 ms more, per thousand.
    pub late: u32,
    /// Largest error of a clock's rate, per thousand.
    pub drift: u32,
    /// Whether a machine reports to senders that a process has ended.
    pub refuses: bool,
    /// Whether the cluster begins with its first node. The others become eligible while it runs, as in
    /// `storaged`.
    pub grows: bool,
    /// Longest time that a disk takes to make a record durable.
    pub disk: Duration,
}

impl WorldOptions {
    /// A quiet LAN.
    pub fn quiet(nodes: u32) -> WorldOptions {
        WorldOptions {
            nodes,
            settings: Settings::for_nodes(nodes as usize),
            latency: (Duration::from_micros(80), Duration::from_micros(400)),
            lost: 0,
            doubled: 0,
            late: 0,
            drift: 10,
            refuses: true,
            grows: false,
            disk: Duration::from_millis(8),
        }
    }
}

/// Time between two reads of the list of eligible nodes, in a cluster that grows.
const LOOKS_EVERY: Duration = Duration::from_millis(100);

/// Why a run failed.
#[derive(Debug, Clone)]
pub struct Failure {
    /// The broken rule.
    pub what: String,
    /// Virtual time of the failure.
    pub at: Duration,
}

#[derive(Debug, Clone)]
enum Happening {
    Arrives(Envelope),
    Refused {
        to: NodeId,
        path: Path,
    },
    Fires {
        node: usize,
        life: u64,
        clock: Clock,
        set: u64,
    },
    /// The first node reads the list of eligible nodes.
    Looks,
    Written {
        node: usize,
        life: u64,
        durable: Durable,
    },
}

struct Machine {
    endpoint: Option<Endpoint>,
    disk: Durable,
    /// Running timers, each with the number of its latest setting.
    clocks: BTreeMap<Clock, u64>,
    /// Rate of the clock, in millionths of true time.
    rate: u64,
    /// End of a stall; until then the process handles nothing.
    stalled_until: Duration,
    disk_busy_until: Duration,
}

/// Events counted in a run.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// Tokens taken.
    pub tokens: u64,
    /// Tokens regenerated after a loss.
    pub regenerated: u64,
    /// Messages and changes committed.
    pub committed: u64,
    /// Fences of the master lock, in the order of its grants.
    pub masters: Vec<Fence>,
    /// Whether two nodes had the master lock at once.
    pub two_masters: bool,
}

/// The simulated cluster.
pub struct World {
    /// Size and faults.
    pub options: WorldOptions,
    /// Virtual time.
    pub now: Duration,
    /// Source of all random choices.
    pub rng: fastrand::Rng,
    /// Events counted so far.
    pub seen: Seen,
    machines: Vec<Machine>,
    queue: BTreeMap<(Duration, u64), Happening>,
    order: u64,
    /// Pairs (from, to) between which no packet arrives.
    cut: BTreeSet<(usize, usize)>,
    views: Vec<Epoch>,
    /// Committed entries as first seen on any node.
    committed: BTreeMap<u64, Entry>,
    /// Whether committed entries are compared. They are not while a majority has lost its memory.
    comparing: bool,
    /// The node that has the master lock.
    master: Option<usize>,
    /// Whether every step is printed.
    pub trace: bool,
    /// Receives the steps as sentences.
    pub say: Option<fn(&str)>,
}

impl World {
    /// All nodes start at once, eligible to one another.
    pub fn new(seed: u64, options: WorldOptions) -> World {
        let mut rng = fastrand::Rng::with_seed(seed);
        let all: BTreeSet<NodeId> = (1..=options.nodes).map(NodeId).collect();
        let first = if options.grows { BTreeSet::from([NodeId(1)]) } else { all };
        let known = Configuration { installed: Eligible { version: 1, nodes: first }, pending: None };
        let drift = u64::from(options.drift) * 1000;
        let machines = (0..options.nodes)
            .map(|at| Machine {
                endpoint: None,
                disk: Durable {
                    incarnation: 0,
                    epoch_ceiling: 0,
                    // A node that no ring has admitted knows no eligible node.
                    configuration: if options.grows && at > 0 {
                        Configuration::default()
                    } else {
                        known.clone()
                    },
                },
                clocks: BTreeMap::new(),
                rate: 1_000_000 - drift + rng.u64(0..=2 * drift),
                stalled_until: Duration::ZERO,
                disk_busy_until: Duration::ZERO,
            })
            .collect();
        let mut world = World {
            views: vec![Epoch::default(); options.nodes as usize],
            options,
            now: Duration::ZERO,
            rng,
            seen: Seen::default(),
            machines,
            queue: BTreeMap::new(),
            order: 0,
            cut: BTreeSet::new(),
            committed: BTreeMap::new(),
            comparing: true,
            master: None,
            trace: false,
            say: None,
        };
        for at in 0..world.machines.len() {
            world.start(at);
        }
        if world.options.grows {
            world.enqueue(LOOKS_EVERY, Happening::Looks);
        }
        world
    }

    /// Number of nodes.
    pub fn len(&self) -> usize {
        self.machines.len()
    }

    /// Whether there are no nodes, which never holds.
    pub fn is_empty(&self) -> bool {
        self.machines.is_empty()
    }

    /// Whether a node's process runs.
    pub fn is_alive(&self, at: usize) -> bool {
        self.machines[at].endpoint.is_some()
    }

    /// A node; none when its process does not run.
    pub fn node(&self, at: usize) -> Option<&Node> {
        self.machines[at].endpoint.as_ref().map(Endpoint::node)
    }

    /// All nodes whose processes run.
    pub fn alive(&self) -> Vec<&Node> {
        self.machines.iter().filter_map(|machine| machine.endpoint.as_ref().map(Endpoint::node)).collect()
    }

    /// An endpoint; none when its process does not run.
    pub fn endpoint(&self, at: usize) -> Option<&Endpoint> {
        self.machines[at].endpoint.as_ref()
    }

    /// Starts a node's process.
    pub fn start(&mut self, at: usize) {
        let machine = &mut self.machines[at];
        if machine.endpoint.is_some() {
            return;
        }
        machine.disk.incarnation += 1;
        let options = &self.options;
        let mut endpoint = Endpoint::new(
            NodeId(at as u32 + 1),
            machine.disk.clone(),
            options.settings.clone(),
            LinkSettings::default(),
        );
        let me = NodeId(at as u32 + 1);
        let peers =
            (1..=options.nodes).map(NodeId).filter(|node| *node != me).map(|node| (node, 1)).collect();
        let mut commands = Vec::new();
        endpoint.handle(self.now, Event::Peers(peers), &mut commands);
        endpoint.handle(self.now, Event::Start, &mut commands);
        machine.endpoint = Some(endpoint);
        self.perform(at, commands);
    }

    /// Kills a node's process. Its memory is lost; its disk stays.
    pub fn kill(&mut self, at: usize) {
        let machine = &mut self.machines[at];
        machine.endpoint = None;
        machine.clocks.clear();
        // A committed entry survives as long as no majority of any eligible membership in force has lost its
        // memory.
        let forgotten = |node: NodeId| {
            self.node(node.0 as usize - 1)
                .is_none_or(|node| !node.is_synced() || node.lineage() == rain_ring::Stamp::default())
        };
        let sets = self.machines.iter().flat_map(|machine| {
            let known = &machine.disk.configuration;
            [Some(&known.installed), known.pending.as_ref()].into_iter().flatten()
        });
        if sets.filter(|set| set.version > 0).any(|set| set.has_majority(forgotten)) {
            self.comparing = false;
        }
    }

    /// A node's process does nothing for this time; its packets wait.
    pub fn stall(&mut self, at: usize, time: Duration) {
        self.machines[at].stalled_until = self.now + time;
    }

    /// Packets of one node to another are dropped, or not any more.
    pub fn cut(&mut self, from: usize, to: usize, cut: bool) {
        if cut {
            self.cut.insert((from, to));
        } else {
            self.cut.remove(&(from, to));
        }
    }

    /// The network falls into two.
    pub fn partition(&mut self, side: &BTreeSet<usize>) {
        for from in 0..self.len() {
            for to in 0..self.len() {
                if side.contains(&from) != side.contains(&to) {
                    self.cut.insert((from, to));
                }
            }
        }
    }

    /// All cuts are mended and everybody runs.
    pub fn heal(&mut self) {
        self.cut.clear();
        for at in 0..self.len() {
            self.machines[at].stalled_until = self.now;
            self.start(at);
        }
    }

    /// Gives a node an order.
    pub fn tell(&mut self, at: usize, input: Input) {
        self.give(at, Event::Input(input));
    }

    /// A node submits a change.
    pub fn submit(&mut self, at: usize, change: rain_ring::Change) {
        if let Some(endpoint) = &mut self.machines[at].endpoint {
            let _ = endpoint.node_mut().submit(change);
        }
    }

    /// Lets time pass.
    pub fn run_for(&mut self, time: Duration) -> Result<(), Failure> {
        let end = self.now + time;
        self.run_until(end, |_| false).map(|_| ())
    }

    /// Lets time pass until something holds. Gives how long it took, nothing if it did not come.
    pub fn run_until(
        &mut self,
        end: Duration,
        holds: impl Fn(&World) -> bool,
    ) -> Result<Option<Duration>, Failure> {
        let begun = self.now;
        if holds(self) {
            return Ok(Some(Duration::ZERO));
        }
        while let Some(entry) = self.queue.first_entry() {
            if entry.key().0 > end {
                break;
            }
            let ((time, _), happening) = entry.remove_entry();
            self.now = time;
            self.happen(happening);
            self.check()?;
            if holds(self) {
                return Ok(Some(self.now - begun));
            }
        }
        self.now = end;
        Ok(None)
    }

    fn happen(&mut self, happening: Happening) {
        if self.trace && !matches!(happening, Happening::Arrives(_)) {
            eprintln!("{:>12.6} {happening:?}", self.now.as_secs_f64());
        }
        let (at, event) = match &happening {
            Happening::Looks => {
                self.enqueue(self.now + LOOKS_EVERY, Happening::Looks);
                let nodes = (1..=self.options.nodes).map(NodeId).collect();
                (0, Event::Input(Input::Eligible(Eligible { version: 2, nodes })))
            }
            Happening::Arrives(envelope) => (envelope.to.0 as usize - 1, Event::Packet(envelope.clone())),
            Happening::Refused { to, path } => (to.0 as usize - 1, Event::Refused(*path)),
            Happening::Fires { node, life, clock, set } => {
                if self.machines[*node].disk.incarnation != *life
                    || self.machines[*node].clocks.get(clock) != Some(set)
                {
                    return;
                }
                (*node, Event::Fired(*clock))
            }
            Happening::Written { node, life, durable } => {
                if self.machines[*node].disk.incarnation != *life || !self.is_alive(*node) {
                    return;
                }
                let disk = &mut self.machines[*node].disk;
                if durable.epoch_ceiling >= disk.epoch_ceiling {
                    *disk = durable.clone();
                }
                (*node, Event::Persisted(durable.clone()))
            }
        };
        let machine = &mut self.machines[at];
        if machine.stalled_until > self.now {
            // The process handles all of it when the stall ends.
            let due = machine.stalled_until;
            self.enqueue(due, happening);
            return;
        }
        if let Event::Fired(clock) = &event {
            machine.clocks.remove(clock);
        }
        if machine.endpoint.is_none() {
            if let Event::Packet(envelope) = &event
                && self.options.refuses
                && !self.cut.contains(&(at, envelope.from.node.0 as usize - 1))
            {
                let path = Path { peer: envelope.to, link: envelope.link };
                let due = self.now + self.options.latency.0;
                self.enqueue(due, Happening::Refused { to: envelope.from.node, path });
            }
            return;
        }
        self.give(at, event);
    }

    fn give(&mut self, at: usize, event: Event) {
        let Some(endpoint) = &mut self.machines[at].endpoint else { return };
        let mut commands = Vec::new();
        endpoint.handle(self.now, event, &mut commands);
        self.perform(at, commands);
    }

    fn perform(&mut self, at: usize, commands: Vec<Command>) {
        let life = self.machines[at].disk.incarnation;
        for command in commands {
            match command {
                Command::Transmit(envelope) => self.transmit(at, envelope),
                Command::Set(clock, after) => {
                    let scaled = after.as_nanos() as u64 / 1000 * self.machines[at].rate / 1000;
                    let set = self.enqueue(
                        self.now + Duration::from_nanos(scaled),
                        Happening::Fires { node: at, life, clock, set: self.order },
                    );
                    self.machines[at].clocks.insert(clock, set);
                }
                Command::Cancel(clock) => {
                    self.machines[at].clocks.remove(&clock);
                }
                Command::Persist(durable) => {
                    let most = self.options.disk.as_micros() as u64;
                    let due = self.now + Duration::from_micros(self.rng.u64(most / 8..=most));
                    // Writes follow one another, as in the driver.
                    let due = due.max(self.machines[at].disk_busy_until);
                    self.machines[at].disk_busy_until = due;
                    self.enqueue(due, Happening::Written { node: at, life, durable });
                }
                Command::Notify(request) => self.record(at, &request),
            }
        }
    }

    fn record(&mut self, at: usize, request: &Notification) {
        if self.trace {
            eprintln!("{:>12.6} node {}: {request:?}", self.now.as_secs_f64(), at + 1);
        }
        if let Some(say) = self.say
            && let Some(line) = crate::demo::tell(self.now, at, request)
        {
            say(&line);
        }
        match request {
            Notification::View(view) => {
                if view.epoch < self.views[at] {
                    self.views[at] = Epoch::up_to(u64::MAX);
                } else {
                    self.views[at] = view.epoch;
                }
            }
            Notification::Step(ProtocolStep::Took(_)) => self.seen.tokens += 1,
            Notification::Notice(Notice::Message { .. }) => self.seen.committed += 1,
            Notification::Master(fence) => {
                self.seen.masters.push(*fence);
                self.seen.two_masters |= self.master.replace(at).is_some_and(|other| other != at);
            }
            Notification::MasterLost => self.master = None,
            _ => {}
        }
    }

    fn transmit(&mut self, at: usize, envelope: Envelope) {
        if self.cut.contains(&(at, envelope.to.0 as usize - 1)) || self.rng.u32(0..1000) < self.options.lost {
            return;
        }
        let copies = 1 + u32::from(self.rng.u32(0..1000) < self.options.doubled);
        for _ in 0..copies {
            let (least, most) = self.options.latency;
            let mut takes = self.rng.u64(least.as_micros() as u64..=most.as_micros() as u64);
            if self.rng.u32(0..1000) < self.options.late {
                takes += self.rng.u64(0..100_000);
            }
            let due = self.now + Duration::from_micros(takes);
            self.enqueue(due, Happening::Arrives(envelope.clone()));
        }
    }

    fn enqueue(&mut self, due: Duration, happening: Happening) -> u64 {
        let number = self.order;
        self.order += 1;
        self.queue.insert((due, number), happening);
        number
    }

    /// Checks every rule that must always hold.
    fn check(&mut self) -> Result<(), Failure> {
        let eligible: Vec<NodeId> = (1..=self.options.nodes).map(NodeId).collect();
        let nodes = self.alive();
        let broken = if !invariants::one_eater_of_an_epoch(&nodes) {
            Some("two nodes are EATING in one epoch")
        } else if !invariants::one_live_primary_token(&nodes, &eligible) {
            Some("two primary tokens are alive")
        } else if self.order.is_multiple_of(64) && !invariants::views_agree(&nodes) {
            Some("two views of one epoch differ")
        } else if self.views.contains(&Epoch::up_to(u64::MAX)) {
            Some("a view went backwards")
        } else if self.order.is_multiple_of(64) && !invariants::mirrors_agree(&nodes) {
            Some("two mirrors with the same entries differ")
        } else {
            None
        };
        if let Some(what) = broken {
            return Err(Failure { what: what.into(), at: self.now });
        }
        self.compare_committed()
    }

    fn compare_committed(&mut self) -> Result<(), Failure> {
        if !self.order.is_multiple_of(16) {
            return Ok(());
        }
        if !self.comparing {
            self.committed.clear();
            let nodes = self.alive();
            self.comparing = invariants::agreed(&nodes)
                && nodes.len() == self.len()
                && nodes.iter().all(|node| node.is_synced() && node.view().is_some_and(|view| view.primary));
            return Ok(());
        }
        for at in 0..self.machines.len() {
            let Some(endpoint) = &self.machines[at].endpoint else { continue };
            // A node that was in no primary ring since its start has no committed entries.
            for (index, entry) in endpoint.node().committed_entries() {
                let known = self.committed.entry(index).or_insert_with(|| entry.clone());
                if known != entry {
                    let what =
                        format!("entry {index} was committed as {known:?}, node {} has {entry:?}", at + 1);
                    return Err(Failure { what, at: self.now });
                }
            }
        }
        Ok(())
    }

    /// Tokens that the running nodes have regenerated after a loss.
    pub fn regenerated(&self) -> u64 {
        self.machines
            .iter()
            .filter_map(|machine| machine.endpoint.as_ref())
            .map(|e| e.counts().regenerated)
            .sum()
    }

    /// Whether all running nodes share one view, of exactly the running nodes.
    pub fn is_agreed(&self) -> bool {
        invariants::agreed(&self.alive())
    }

    /// Whether the nodes of a group share one view, of exactly this group.
    pub fn is_agreed_among(&self, group: &BTreeSet<usize>) -> bool {
        let nodes: Vec<&Node> = group.iter().filter_map(|at| self.node(*at)).collect();
        nodes.len() == group.len() && invariants::agreed(&nodes)
    }

    /// Whether a node is in no other node's view.
    pub fn is_out(&self, at: usize) -> bool {
        let me = NodeId(at as u32 + 1);
        (0..self.len()).filter(|other| *other != at).all(|other| {
            self.node(other).is_none_or(|node| {
                node.phase() != Phase::Starving && node.view().is_some_and(|view| !view.contains(me))
            })
        })
    }
}
