//! The link monitor: both ends of a link see one history of Up and Down, at most N transitions apart. After the consistent-history
//! protocol of RAIN (LeMahieu, Bohossian, Bruck 1998; *Computing in the RAIN*, section on link failures).
//!
//! A history alternates, beginning with Down, so the number of transitions made says all of it. Pings carry a sequence number, the last
//! sequence number heard, and that count; no reliable channel is needed below.
//!
//! 1. *Correctness*: a link that works both ways for a while is Up at both ends, one that does not is Down at both.
//! 2. *Bounded slack*: no end is more than N transitions ahead of the other (N = 2 here at least).
//! 3. *Stability*: what an end hears or misses costs it at most N transitions.
//!
//! An end goes Down by itself while it is less than N ahead of what it knows of the other, goes Up only when it is at most N - 2 ahead,
//! and follows the other at once when that is ahead. So one step down is always open. (`tests/link.rs` checks all three exhaustively.)

use crate::token::Member;
use rain_types::NodeId;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What one end tells the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Ping {
    /// The life of the other end that the rest is about; 0 while it is unknown.
    pub to_incarnation: u64,
    /// Counts this end's pings.
    pub seq: u32,
    /// The last one heard of the other end.
    pub ack: u32,
    /// Transitions made at this end.
    pub transitions: u64,
}

/// Limits of the monitor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LinkSettings {
    /// N of the slack, 2 or more.
    pub slack: u64,
    /// Pings in a row without a new acknowledgement before the link counts as broken.
    pub misses: u32,
    /// New acknowledgements in a row before it counts as mended.
    pub hits: u32,
}

impl Default for LinkSettings {
    fn default() -> LinkSettings {
        LinkSettings { slack: 2, misses: 3, hits: 2 }
    }
}

/// One end of a link, for one life of the other end.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Link {
    seq: u32,
    heard: u32,
    acked: u32,
    missed: u32,
    hit: u32,
    transitions: u64,
    theirs: u64,
}

impl Link {
    /// Whether it is Up, as this end sees it.
    pub fn is_up(&self) -> bool {
        self.transitions % 2 == 1
    }

    /// Transitions made at this end: the whole history.
    pub fn transitions(&self) -> u64 {
        self.transitions
    }

    /// Time for a ping. Gives it, and whether the state changed.
    pub fn tick(&mut self, settings: LinkSettings) -> Ping {
        self.seq += 1;
        self.missed = self.missed.saturating_add(1);
        if self.missed > settings.misses {
            self.hit = 0;
            if self.is_up() && self.transitions < self.theirs + settings.slack {
                self.transitions += 1;
            }
        }
        Ping { to_incarnation: 0, seq: self.seq, ack: self.heard, transitions: self.transitions }
    }

    /// The other end's ping is here.
    pub fn hear(&mut self, ping: Ping, settings: LinkSettings) {
        if ping.seq <= self.heard {
            return;
        }
        self.heard = ping.seq;
        self.theirs = self.theirs.max(ping.transitions);
        // Whatever the other end has been through, this end goes through, too.
        let follows = self.theirs > self.transitions;
        self.transitions = self.transitions.max(self.theirs);
        if ping.ack > self.acked && ping.ack <= self.seq {
            self.acked = ping.ack;
            self.missed = 0;
            self.hit = self.hit.saturating_add(1);
            let ahead = self.transitions - self.theirs;
            if !follows && !self.is_up() && self.hit >= settings.hits && ahead + 2 <= settings.slack {
                self.transitions += 1;
            }
        }
    }
}

/// One pair of addresses: the nth of this node and the nth of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Path {
    /// The other node.
    pub peer: NodeId,
    /// Which pair, from 0.
    pub link: u8,
}

/// A link as it is known now.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
struct Known {
    incarnation: u64,
    link: Link,
}

/// A change of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LinkChange {
    /// Which link.
    pub path: Path,
    /// Up now.
    pub up: bool,
    /// Some link to that node is up now.
    pub reachable: bool,
}

/// All links of a node.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Links {
    me: Member,
    settings: LinkSettings,
    links: BTreeMap<Path, Known>,
}

impl Links {
    /// No links yet.
    pub fn new(me: Member, settings: LinkSettings) -> Links {
        Links { me, settings, links: BTreeMap::new() }
    }

    /// Watches these links and no others.
    pub fn watch(&mut self, paths: impl IntoIterator<Item = Path>) {
        let mut old = std::mem::take(&mut self.links);
        for path in paths {
            self.links.insert(path, old.remove(&path).unwrap_or_default());
        }
    }

    /// The pings to send now, and what has changed because answers are missing.
    pub fn tick(&mut self, pings: &mut Vec<(Path, Ping)>, changes: &mut Vec<LinkChange>) {
        let paths: Vec<Path> = self.links.keys().copied().collect();
        for path in paths {
            let settings = self.settings;
            let known = self.links.get_mut(&path).expect("it is a key");
            let before = known.link.is_up();
            let ping = Ping { to_incarnation: known.incarnation, ..known.link.tick(settings) };
            pings.push((path, ping));
            self.note(path, before, changes);
        }
    }

    /// A ping has come over a link.
    pub fn hear(&mut self, path: Path, incarnation: u64, ping: Ping, changes: &mut Vec<LinkChange>) {
        let Some(known) = self.links.get_mut(&path) else { return };
        let before = known.link.is_up();
        if incarnation < known.incarnation {
            return;
        }
        if incarnation > known.incarnation {
            *known = Known { incarnation, link: Link::default() };
        }
        // About an earlier life of this node: nothing of it holds now.
        if ping.to_incarnation == self.me.incarnation {
            known.link.hear(ping, self.settings);
        }
        self.note(path, before, changes);
    }

    fn note(&self, path: Path, before: bool, changes: &mut Vec<LinkChange>) {
        let up = self.is_up(path);
        if up != before {
            changes.push(LinkChange { path, up, reachable: self.is_reachable(path.peer) });
        }
    }

    /// Whether a link is Up.
    pub fn is_up(&self, path: Path) -> bool {
        self.links.get(&path).is_some_and(|known| known.link.is_up())
    }

    /// Of each link to a node whether it is Up, by its number.
    pub fn states(&self, peer: NodeId) -> Vec<bool> {
        let of = self.links.range(Path { peer, link: 0 }..=Path { peer, link: u8::MAX });
        of.map(|(_, known)| known.link.is_up()).collect()
    }

    /// Whether some link to a node is Up.
    pub fn is_reachable(&self, peer: NodeId) -> bool {
        self.states(peer).contains(&true)
    }

    /// All links with their states and histories' lengths.
    pub fn all(&self) -> impl Iterator<Item = (Path, bool, u64)> + '_ {
        self.links.iter().map(|(path, known)| (*path, known.link.is_up(), known.link.transitions))
    }
}
