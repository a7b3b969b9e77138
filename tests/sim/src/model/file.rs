//! The models of a file of records, and of the names of a file and their number.

use super::{Done, Name, Op, Reply, changes_nothing};
use crate::history::Model;
use std::collections::{BTreeMap, BTreeSet};

/// A file with values in places that are far apart: its length, in places, and the values. A place without a value
/// has zeros, or is behind the end.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct SheetModel {
    /// The end: the file ends behind the value of the place before it, or is cut before this place.
    length: u64,
    values: BTreeMap<u8, u64>,
}

impl SheetModel {
    /// A file with zeros in so many places.
    pub fn of_zeros(places: u8) -> SheetModel {
        SheetModel { length: places.into(), values: BTreeMap::new() }
    }

    fn at(&self, place: u8) -> Reply {
        match u64::from(place) < self.length {
            true => Reply::Value(self.values.get(&place).copied().unwrap_or(0)),
            false => Reply::End,
        }
    }
}

impl Model for SheetModel {
    type Op = Op;
    type Reply = Reply;

    fn step(&self, event: &Done) -> Option<SheetModel> {
        let mut next = self.clone();
        match (&event.op, &event.reply) {
            (Op::Write(_, place, value, _), None | Some(Reply::Done)) => {
                next.length = next.length.max(u64::from(*place) + 1);
                next.values.insert(*place, *value);
                Some(next)
            }
            (Op::Cut(_, places, _), None | Some(Reply::Done)) => {
                next.length = (*places).into();
                next.values.retain(|place, _| place < places);
                Some(next)
            }
            (Op::Read(_, place, _), Some(reply)) => (*reply == self.at(*place)).then_some(next),
            (Op::Length(..), Some(Reply::Value(places))) => (*places == self.length).then_some(next),
            _ => None,
        }
    }

    fn changes_nothing(event: &Done) -> bool {
        changes_nothing(event)
    }
}

/// The names of a file that come and go, besides one that stays.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct LinksModel(BTreeSet<Name>);

impl Model for LinksModel {
    type Op = Op;
    type Reply = Reply;

    fn step(&self, event: &Done) -> Option<LinksModel> {
        let mut next = self.clone();
        let reply = event.reply.as_ref();
        let says = |wanted: Reply| reply.is_none_or(|reply| *reply == wanted);
        match &event.op {
            Op::Tie(name) => match next.0.insert(*name) {
                true => says(Reply::Done).then_some(next),
                false => says(Reply::Exists).then_some(next),
            },
            Op::Untie(name) => match next.0.remove(name) {
                true => says(Reply::Done).then_some(next),
                false => says(Reply::NotFound).then_some(next),
            },
            Op::Count(_) => (*reply? == Reply::Value(next.0.len() as u64 + 1)).then_some(next),
            _ => None,
        }
    }

    fn changes_nothing(event: &Done) -> bool {
        changes_nothing(event)
    }
}
