//! Stand-in for [`native`](super::native) on machines for which RAIN makes no machine code. Its types have no
//! values, so the portable executor runs every schedule.

use super::Stores;
use crate::schedule::Schedule;

#[derive(Debug, Clone, Copy)]
pub(crate) enum Level {}

impl Level {
    pub(crate) fn name(self) -> &'static str {
        match self {}
    }
}

#[derive(Debug)]
pub(crate) enum Native {}

impl Native {
    pub(crate) fn new(_: &Schedule, level: Level, _: Stores) -> Option<Native> {
        match level {}
    }

    pub(crate) fn run(&self, _: &mut [&mut [u8]], _: usize) -> bool {
        match *self {}
    }
}

pub(crate) fn best() -> Option<Level> {
    None
}
