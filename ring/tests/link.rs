//! The link monitor's three properties for N = 2, in every state that two ends can reach by losing, delaying
//! and reordering pings.

use rain_ring::link::{Link, LinkSettings, Ping};
use stateright::{Checker, Model, Property};
use std::collections::BTreeSet;

const SETTINGS: LinkSettings = LinkSettings { slack: 2, misses: 1, hits: 1 };

struct Ends {
    pings_max: u32,
    settings: LinkSettings,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct State {
    ends: [Link; 2],
    /// Number of pings sent by each end.
    sent: [u32; 2],
    /// Pings under way: receiver, sequence number, acknowledgement, transitions.
    network: BTreeSet<(usize, u32, u32, u64)>,
    /// Most transitions that one event has caused.
    cost_max: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Action {
    Tick(usize),
    Deliver((usize, u32, u32, u64)),
}

fn ping((_, seq, ack, transitions): (usize, u32, u32, u64)) -> Ping {
    Ping { to_incarnation: 1, seq, ack, transitions }
}

impl State {
    fn tick(&mut self, end: usize, settings: LinkSettings) -> (usize, u32, u32, u64) {
        let ping = self.ends[end].tick(settings);
        self.sent[end] += 1;
        (1 - end, ping.seq, ping.ack, ping.transitions)
    }

    /// Returns whether both ends reach the right state and stay there, if the link works (or does not work)
    /// from here on.
    fn settles(&self, works: bool, settings: LinkSettings) -> bool {
        let mut state = self.clone();
        let mut settled_at = None;
        for round in 0..16 {
            for end in 0..2 {
                let sent = state.tick(end, settings);
                if works {
                    state.ends[1 - end].receive(ping(sent), settings);
                }
            }
            let right = state.ends.iter().all(|end| end.is_up() == works);
            match settled_at {
                None if right => settled_at = Some(round),
                Some(_) if !right => return false,
                _ => {}
            }
        }
        settled_at.is_some()
    }
}

impl Model for Ends {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State { ends: Default::default(), sent: [0, 0], network: BTreeSet::new(), cost_max: 0 }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        actions.extend((0..2).filter(|end| state.sent[*end] < self.pings_max).map(Action::Tick));
        actions.extend(state.network.iter().copied().map(Action::Deliver));
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = state.clone();
        let before = [next.ends[0].transitions(), next.ends[1].transitions()];
        match action {
            Action::Tick(end) => {
                let sent = next.tick(end, self.settings);
                next.network.insert(sent);
            }
            Action::Deliver(packet) => {
                next.network.remove(&packet);
                next.ends[packet.0].receive(ping(packet), self.settings);
            }
        }
        let cost = (0..2).map(|end| next.ends[end].transitions() - before[end]).max().unwrap_or(0);
        next.cost_max = next.cost_max.max(cost);
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Ends>> {
        vec![
            Property::always("correctness", |ends: &Ends, state: &State| {
                state.settles(true, ends.settings) && state.settles(false, ends.settings)
            }),
            Property::always("bounded slack", |_, state: &State| {
                state.ends[0].transitions().abs_diff(state.ends[1].transitions()) <= 2
            }),
            Property::always("stability", |_, state: &State| state.cost_max <= 2),
            Property::sometimes("a link comes up", |_, state: &State| state.ends[0].is_up()),
            Property::sometimes("a link goes down again", |_, state: &State| {
                state.ends[0].transitions() == 2 && state.ends[1].transitions() == 1
            }),
        ]
    }
}

#[test]
fn histories_are_correct_within_slack_two_and_stable() {
    let ends = Ends { pings_max: 5, settings: SETTINGS };
    let checker = ends.checker().threads(2).spawn_bfs().join();
    eprintln!(
        "{} states of two ends, up to 5 pings of each, all of them lost, late or reordered in every way",
        checker.unique_state_count()
    );
    checker.assert_properties();
}

#[test]
fn a_slack_that_is_not_kept_is_caught() {
    // An end that may be three transitions ahead of the known state breaks the bound of two.
    let ends = Ends { pings_max: 8, settings: LinkSettings { slack: 4, ..SETTINGS } };
    let checker = ends.checker().threads(2).target_state_count(3_000_000).spawn_dfs().join();
    assert!(checker.discovery("bounded slack").is_some(), "{} states", checker.unique_state_count());
}
