//! The ring under `stateright`: every interleaving of deliveries, losses, duplicates, timers, crashes and
//! restarts, within bounds that are printed with the number of states.
//!
//! A message stays in the network until it is delivered, in any order. A message that is never delivered is
//! lost; some may be delivered twice. Any running timer may expire at any time, so every delay and clock
//! drift is included. The disk is immediate: a state that a node makes durable is durable before the node's
//! next message is sent, because the node waits for that itself.
//!
//! `RAIN_MODEL_STATES` sets the largest number of states of each run (`cargo xtask model ring` takes 5
//! million).

use rain_ring::{
    Bytes, Change, Configuration, Detection, Durable, Effect, Eligible, Entry, Epoch, Input, Member, Message,
    Node, Phase, ProtocolStep, Rules, Settings, Timer, invariants,
};
use rain_types::NodeId;
use stateright::{Checker, HasDiscoveries, Model, Property};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

#[derive(Debug, Clone)]
struct Ring {
    nodes: u32,
    rules: Rules,
    detection: Detection,
    /// A ring of all nodes has formed before the search begins.
    formed: bool,
    crashes: u8,
    doublings: u8,
    /// Number of changes of the shared data.
    changes: u8,
    epoch_max: u64,
    seq_max: u64,
    messages_max: usize,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct World {
    nodes: Vec<Option<Node>>,
    disks: Vec<Durable>,
    timers: Vec<BTreeSet<Timer>>,
    network: BTreeSet<(Member, NodeId, Message)>,
    crashes: u8,
    doublings: u8,
    changes: u8,
    // The memory of an outside observer.
    views: Vec<Epoch>,
    committed: BTreeMap<u64, Entry>,
    went_back: bool,
    forgot: bool,
    regenerated: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Action {
    Deliver(Member, NodeId, Message),
    DeliverAndKeep(Member, NodeId, Message),
    Fire(usize, Timer),
    Crash(usize),
    Restart(usize),
    Submit(usize),
}

impl Ring {
    fn settings(&self) -> Settings {
        Settings {
            detection: self.detection,
            pass_tries: 1,
            call_tries: 1,
            epoch_reserve: 4,
            rotation: Duration::from_millis(10),
            ..Settings::default()
        }
    }

    fn give(&self, world: &mut World, at: usize, input: Input) {
        let mut inputs = vec![input];
        while let Some(input) = inputs.pop() {
            let Some(node) = &mut world.nodes[at] else { return };
            let mut effects = Vec::new();
            node.handle(input, &mut effects);
            let me = node.me();
            for effect in effects {
                match effect {
                    Effect::Send { to, message, .. } => {
                        world.network.insert((me, to, message));
                    }
                    // Announcements and parts of snapshots lead to no state that is not reached without them.
                    Effect::Set(Timer::Hello | Timer::Sync | Timer::Lease, _) => {}
                    Effect::Set(timer, _) => {
                        world.timers[at].insert(timer);
                    }
                    Effect::Cancel(timer) => {
                        world.timers[at].remove(&timer);
                    }
                    Effect::Persist(durable) => {
                        world.disks[at] = durable.clone();
                        inputs.push(Input::Persisted(durable));
                    }
                    Effect::View(view) => {
                        world.went_back |= view.epoch < world.views[at];
                        world.views[at] = view.epoch;
                    }
                    Effect::Step(ProtocolStep::Founded(stamp)) => world.regenerated |= stamp.seq > 4,
                    _ => {}
                }
            }
        }
        self.remember(world, at);
    }

    /// Notes committed entries, and whether one differs from the entry that was committed before.
    fn remember(&self, world: &mut World, at: usize) {
        let Some(node) = &world.nodes[at] else { return };
        for (index, entry) in node.committed_entries() {
            let known = world.committed.entry(index).or_insert_with(|| entry.clone());
            world.forgot |= known != entry;
        }
    }

    /// Delivers all messages and lets timers expire in order until all nodes are in one ring.
    fn form(&self, world: &mut World) {
        for _ in 0..1000 {
            if let Some((from, to, message)) = world.network.pop_first() {
                self.give(world, to.0 as usize - 1, Input::Message { from, message });
                continue;
            }
            let nodes: Vec<&Node> = world.nodes.iter().flatten().collect();
            if invariants::agreed(&nodes) && nodes[0].reports().iter().all(|report| report.visited) {
                return;
            }
            let turn = (0..world.nodes.len()).find(|at| world.timers[*at].contains(&Timer::Turn));
            let (at, timer) = match turn {
                Some(at) => (at, Timer::Turn),
                None => {
                    let any = |at: &usize| !world.timers[*at].is_empty();
                    let at = (0..world.nodes.len()).find(any).expect("a timer");
                    (at, *world.timers[at].first().expect("one"))
                }
            };
            world.timers[at].remove(&timer);
            self.give(world, at, Input::Timer(timer));
        }
        panic!("no ring of all formed: {world:#?}");
    }

    fn states(&self, name: &str) -> usize {
        let target = std::env::var("RAIN_MODEL_STATES").ok().and_then(|text| text.parse().ok());
        let target: usize = target.unwrap_or(60_000);
        let checker = self.clone().checker().threads(2).target_state_count(target).spawn_bfs().join();
        let states = checker.unique_state_count();
        eprintln!(
            "{name}: {states} states, {} steps deep; {} nodes, epochs to {}, hops to {}, {} messages at once, {} crashes, {} doublings, {} changes",
            checker.max_depth(),
            self.nodes,
            self.epoch_max,
            self.seq_max,
            self.messages_max,
            self.crashes,
            self.doublings,
            self.changes
        );
        checker.assert_properties();
        states
    }
}

impl Model for Ring {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        let all: BTreeSet<NodeId> = (1..=self.nodes).map(NodeId).collect();
        let configuration = Configuration { installed: Eligible { version: 1, nodes: all }, pending: None };
        let durable = Durable { incarnation: 1, epoch_ceiling: 0, configuration };
        let count = self.nodes as usize;
        let mut world = World {
            nodes: (1..=self.nodes)
                .map(|id| Some(Node::with_rules(NodeId(id), durable.clone(), self.settings(), self.rules)))
                .collect(),
            disks: vec![durable; count],
            timers: vec![BTreeSet::new(); count],
            network: BTreeSet::new(),
            crashes: self.crashes,
            doublings: self.doublings,
            changes: self.changes,
            views: vec![Epoch::default(); count],
            committed: BTreeMap::new(),
            went_back: false,
            forgot: false,
            regenerated: false,
        };
        for at in 0..count {
            self.give(&mut world, at, Input::Start);
        }
        if self.formed {
            self.form(&mut world);
        }
        vec![world]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        for (from, to, message) in &world.network {
            actions.push(Action::Deliver(*from, *to, message.clone()));
            if world.doublings > 0 {
                actions.push(Action::DeliverAndKeep(*from, *to, message.clone()));
            }
        }
        for (at, node) in world.nodes.iter().enumerate() {
            if node.is_none() {
                actions.push(Action::Restart(at));
                continue;
            }
            actions.extend(world.timers[at].iter().map(|timer| Action::Fire(at, *timer)));
            if world.changes > 0 {
                actions.push(Action::Submit(at));
            }
            if world.crashes > 0 {
                actions.push(Action::Crash(at));
            }
        }
    }

    fn next_state(&self, world: &World, action: Action) -> Option<World> {
        let mut next = world.clone();
        match action {
            Action::Deliver(from, to, message) => {
                next.network.remove(&(from, to, message.clone()));
                self.give(&mut next, to.0 as usize - 1, Input::Message { from, message });
            }
            Action::DeliverAndKeep(from, to, message) => {
                next.doublings -= 1;
                self.give(&mut next, to.0 as usize - 1, Input::Message { from, message });
            }
            Action::Fire(at, timer) => {
                next.timers[at].remove(&timer);
                self.give(&mut next, at, Input::Timer(timer));
            }
            Action::Submit(at) => {
                next.changes -= 1;
                let node = next.nodes[at].as_mut()?;
                node.submit(Change::Message(Bytes(vec![at as u8]))).ok()?;
            }
            Action::Crash(at) => {
                next.crashes -= 1;
                next.nodes[at] = None;
                next.timers[at].clear();
            }
            Action::Restart(at) => {
                next.disks[at].incarnation += 1;
                let id = NodeId(at as u32 + 1);
                let node = Node::with_rules(id, next.disks[at].clone(), self.settings(), self.rules);
                next.nodes[at] = Some(node);
                self.give(&mut next, at, Input::Start);
            }
        }
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Ring>> {
        fn alive(world: &World) -> Vec<&Node> {
            world.nodes.iter().flatten().collect()
        }
        vec![
            Property::always("one node is EATING in an epoch", |_, world: &World| {
                invariants::one_eater_of_an_epoch(&alive(world))
            }),
            Property::always("one primary token is live", |ring: &Ring, world: &World| {
                let eligible: Vec<NodeId> = (1..=ring.nodes).map(NodeId).collect();
                invariants::one_live_primary_token(&alive(world), &eligible)
            }),
            Property::always("views of an epoch agree", |_, world: &World| {
                invariants::views_agree(&alive(world))
            }),
            Property::always("no view goes backwards", |_, world: &World| !world.went_back),
            Property::always("what is committed stays", |_, world: &World| {
                !world.forgot && invariants::mirrors_agree(&alive(world))
            }),
        ]
    }

    fn within_boundary(&self, world: &World) -> bool {
        world.network.len() <= self.messages_max
            && world
                .nodes
                .iter()
                .flatten()
                .all(|node| node.promised().number <= self.epoch_max && node.stamp().seq <= self.seq_max)
    }
}

/// Few messages at once and no faults, so that the search is deep rather than broad.
fn narrow() -> Ring {
    Ring { crashes: 0, doublings: 0, messages_max: 2, ..three() }
}

fn three() -> Ring {
    Ring {
        nodes: 3,
        rules: Rules::default(),
        detection: Detection::Aggressive,
        formed: true,
        crashes: 1,
        doublings: 1,
        changes: 1,
        epoch_max: 24,
        seq_max: 24,
        messages_max: 6,
    }
}

#[test]
fn three_nodes_from_a_ring() {
    assert!(three().states("three nodes, a ring has formed") > 1000);
}

#[test]
fn three_nodes_from_nothing() {
    let ring = Ring { formed: false, messages_max: 8, ..three() };
    assert!(ring.states("three nodes, from nothing") > 1000);
}

#[test]
fn three_nodes_deep() {
    assert!(narrow().states("three nodes, deep") > 1000);
}

#[test]
fn three_nodes_conservative() {
    let ring = Ring { detection: Detection::Conservative, ..three() };
    assert!(ring.states("three nodes, conservative") > 1000);
}

#[test]
fn four_nodes_from_a_ring() {
    let ring = Ring { nodes: 4, messages_max: 7, ..three() };
    assert!(ring.states("four nodes, a ring has formed") > 1000);
}

/// Searches a ring with a broken rule, and returns the violated properties.
fn caught(ring: &Ring) -> Vec<&'static str> {
    let builder = ring.clone().checker().threads(2).target_state_count(3_000_000);
    let checker = builder.finish_when(HasDiscoveries::Any).spawn_bfs().join();
    let mut found: Vec<_> = checker.discoveries().into_iter().collect();
    found.sort_by_key(|(name, _)| *name);
    for (name, path) in &found {
        eprintln!(
            "caught after {} steps: {name} ({} states)",
            path.clone().into_actions().len(),
            checker.unique_state_count()
        );
    }
    found.into_iter().map(|(name, _)| name).collect()
}

#[test]
fn a_911_granted_to_an_older_copy_is_caught() {
    let rules = Rules { newest_copy_founds: false, ..Rules::default() };
    let ring = Ring { rules, ..narrow() };
    assert!(caught(&ring).contains(&"what is committed stays"));
}

#[test]
fn a_pass_to_the_next_node_after_a_missed_acknowledgement_is_caught() {
    let rules = Rules { failed_pass_calls: false, ..Rules::default() };
    assert!(caught(&Ring { rules, ..three() }).contains(&"one node is EATING in an epoch"));
}

#[test]
fn a_promise_forgotten_by_a_restart_is_caught() {
    let rules = Rules { promises_last: false, ..Rules::default() };
    assert!(!caught(&Ring { rules, ..three() }).is_empty());
}

#[test]
fn a_token_lost_with_its_holder_is_made_again() {
    let ring = three();
    let mut world = ring.init_states().pop().expect("one");
    let at = world.nodes.iter().flatten().position(|node| node.phase() == Phase::Eating).expect("a holder");
    world.nodes[at] = None;
    world.timers[at].clear();
    let mut left = 200usize;
    while !world.nodes.iter().flatten().any(|node| node.phase() == Phase::Eating) {
        left -= 1;
        assert!(left > 0, "nobody made the token again");
        if let Some((from, to, message)) = world.network.pop_first() {
            ring.give(&mut world, to.0 as usize - 1, Input::Message { from, message });
        } else {
            // Round robin: a scheduler that always served the same node would never let another node's timer
            // expire.
            let waiting = (0..3).map(|at| (at + left) % 3);
            let mut waiting = waiting.filter_map(|at| Some((at, *world.timers[at].first()?)));
            let (at, timer) = waiting.next().expect("a timer");
            world.timers[at].remove(&timer);
            ring.give(&mut world, at, Input::Timer(timer));
        }
    }
    let holder = world.nodes.iter().flatten().find(|node| node.phase() == Phase::Eating).expect("a holder");
    assert_eq!(holder.view().map(|view| (view.primary, view.members.len())), Some((true, 2)));
}
