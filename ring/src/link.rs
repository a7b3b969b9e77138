//! The link monitor: both ends of a link see the same history of Up and Down, at most N transitions apart. It
//! follows the consistent-history protocol of RAIN (LeMahieu, Bohossian, Bruck 1998; *Computing in the RAIN*,
//! section on link failures).
//!
//! A history alternates and begins with Down, so the number of transitions determines all of it. Pings carry
//! a sequence number, the last received sequence number, and that number of transitions. No reliable channel
//! is needed.
//!
//! Invariants, which `histories_are_correct_within_slack_two_and_stable` checks exhaustively:
//! 1. *Correctness*: a link that works both ways for a while is Up at both ends; a link that does not is Down
//!    at both ends.
//! 2. *Bounded slack*: no end is more than N transitions ahead of the other (N is at least 2).
//! 3. *Stability*: one received or missed ping causes at most N transitions at an end.
//!
//! An end goes Down by itself while it is less than N ahead of the known state of the other end. It goes Up
//! only when it is at most N - 2 ahead. It follows the other end at once when that is ahead. So one step down
//! is always possible.

use crate::token::Member;
use rain_types::NodeId;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A ping from one end of a link to the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Ping {
    /// Incarnation of the receiving node to which the other fields refer; 0 while unknown.
    pub to_incarnation: u64,
    /// Number of the ping.
    pub seq: u32,
    /// Number of the last ping received from the other end.
    pub ack: u32,
    /// Number of transitions at the sending end.
    pub transitions: u64,
}

/// The limits of the link monitor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LinkSettings {
    /// Bound N of the slack, at least 2.
    pub slack: u64,
    /// Consecutive pings without a new acknowledgement after which the link counts as broken.
    pub misses: u32,
    /// Consecutive new acknowledgements after which the link counts as working.
    pub hits: u32,
}

impl Default for LinkSettings {
    fn default() -> LinkSettings {
        LinkSettings { slack: 2, misses: 3, hits: 2 }
    }
}

/// One end of a link, for one incarnation of the other node.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Link {
    seq: u32,
    received: u32,
    acked: u32,
    missed: u32,
    hit: u32,
    transitions: u64,
    peer_transitions: u64,
}

impl Link {
    /// Returns whether the link is Up, as this end sees it.
    pub fn is_up(&self) -> bool {
        self.transitions % 2 == 1
    }

    /// Returns the number of transitions at this end, which determines the whole history.
    pub fn transitions(&self) -> u64 {
        self.transitions
    }

    /// Returns the next ping. Goes Down if too many acknowledgements are missing.
    pub fn tick(&mut self, settings: LinkSettings) -> Ping {
        self.seq += 1;
        self.missed = self.missed.saturating_add(1);
        if self.missed > settings.misses {
            self.hit = 0;
            if self.is_up() && self.transitions < self.peer_transitions + settings.slack {
                self.transitions += 1;
            }
        }
        Ping { to_incarnation: 0, seq: self.seq, ack: self.received, transitions: self.transitions }
    }

    /// Processes a ping of the other end.
    pub fn receive(&mut self, ping: Ping, settings: LinkSettings) {
        if ping.seq <= self.received {
            return;
        }
        self.received = ping.seq;
        self.peer_transitions = self.peer_transitions.max(ping.transitions);
        // This end follows every transition of the other end.
        let follows = self.peer_transitions > self.transitions;
        self.transitions = self.transitions.max(self.peer_transitions);
        if ping.ack > self.acked && ping.ack <= self.seq {
            self.acked = ping.ack;
            self.missed = 0;
            self.hit = self.hit.saturating_add(1);
            let ahead = self.transitions - self.peer_transitions;
            if !follows && !self.is_up() && self.hit >= settings.hits && ahead + 2 <= settings.slack {
                self.transitions += 1;
            }
        }
    }
}

/// One pair of addresses: the nth address of this node and the nth of another node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Path {
    /// Other node.
    pub peer: NodeId,
    /// Number of the pair, from 0.
    pub link: u8,
}

/// A link and the incarnation of the other node.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
struct WatchedLink {
    incarnation: u64,
    link: Link,
}

/// A change of a link's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LinkChange {
    /// Link that changed.
    pub path: Path,
    /// Whether the link is Up.
    pub up: bool,
    /// Whether any link to the node is Up.
    pub reachable: bool,
}

/// All links of a node.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Links {
    me: Member,
    settings: LinkSettings,
    links: BTreeMap<Path, WatchedLink>,
}

impl Links {
    /// Returns a monitor without links.
    pub fn new(me: Member, settings: LinkSettings) -> Links {
        Links { me, settings, links: BTreeMap::new() }
    }

    /// Replaces the set of watched links; links that stay keep their history.
    pub fn watch(&mut self, paths: impl IntoIterator<Item = Path>) {
        let mut old = std::mem::take(&mut self.links);
        for path in paths {
            self.links.insert(path, old.remove(&path).unwrap_or_default());
        }
    }

    /// Adds the next pings to `pings`, and the changes due to missing acknowledgements to `changes`.
    pub fn tick(&mut self, pings: &mut Vec<(Path, Ping)>, changes: &mut Vec<LinkChange>) {
        let paths: Vec<Path> = self.links.keys().copied().collect();
        for path in paths {
            let settings = self.settings;
            let watched = self.links.get_mut(&path).expect("it is a key");
            let before = watched.link.is_up();
            let ping = Ping { to_incarnation: watched.incarnation, ..watched.link.tick(settings) };
            pings.push((path, ping));
            self.note(path, before, changes);
        }
    }

    /// Processes a ping that came over a link. `incarnation` is that of the sender.
    pub fn receive(&mut self, path: Path, incarnation: u64, ping: Ping, changes: &mut Vec<LinkChange>) {
        let Some(watched) = self.links.get_mut(&path) else { return };
        let before = watched.link.is_up();
        if incarnation < watched.incarnation {
            return;
        }
        if incarnation > watched.incarnation {
            *watched = WatchedLink { incarnation, link: Link::default() };
        }
        // A ping to an earlier incarnation of this node says nothing about this one.
        if ping.to_incarnation == self.me.incarnation {
            watched.link.receive(ping, self.settings);
        }
        self.note(path, before, changes);
    }

    fn note(&self, path: Path, before: bool, changes: &mut Vec<LinkChange>) {
        let up = self.is_up(path);
        if up != before {
            changes.push(LinkChange { path, up, reachable: self.is_reachable(path.peer) });
        }
    }

    /// Returns whether a link is Up.
    pub fn is_up(&self, path: Path) -> bool {
        self.links.get(&path).is_some_and(|watched| watched.link.is_up())
    }

    /// Returns for each link to a node whether it is Up, by the link's number.
    pub fn states(&self, peer: NodeId) -> Vec<bool> {
        let of = self.links.range(Path { peer, link: 0 }..=Path { peer, link: u8::MAX });
        of.map(|(_, watched)| watched.link.is_up()).collect()
    }

    /// Returns whether any link to a node is Up.
    pub fn is_reachable(&self, peer: NodeId) -> bool {
        self.states(peer).contains(&true)
    }

    /// Returns all links with their states and numbers of transitions.
    pub fn all(&self) -> impl Iterator<Item = (Path, bool, u64)> + '_ {
        self.links.iter().map(|(path, watched)| (*path, watched.link.is_up(), watched.link.transitions))
    }
}
