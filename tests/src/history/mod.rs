//! Histories of what several clients did to one volume on a real cluster while parts of it fail, and whether they could have been done one
//! after the other (the check is `rain_sim::history`'s).

pub mod run;

pub use run::{Asked, Report, Stage};
