//! Tests of the models.

use super::*;
use crate::history::{Event, linearize};

fn one_after_the_other(steps: &[(u32, Op, Option<Reply>)]) -> Vec<Done> {
    let event = |(at, (client, op, reply)): (usize, &(u32, Op, Option<Reply>))| Event {
        client: *client,
        op: op.clone(),
        reply: reply.clone(),
        begun: at as u64 * 10,
        ended: at as u64 * 10 + 5,
    };
    steps.iter().enumerate().map(event).collect()
}

fn names(steps: &[(u32, Op, Option<Reply>)]) -> bool {
    linearize(NamesModel::default(), &one_after_the_other(steps)).is_ok()
}

#[test]
fn names_do_what_a_directory_does() {
    let listed = |names: &[(Name, u64)]| Some(Reply::Names(names.iter().copied().collect()));
    assert!(names(&[
        (1, Op::Create(0), Some(Reply::File(7))),
        (2, Op::Create(0), Some(Reply::Exists)),
        (1, Op::Link(7, 1), Some(Reply::File(7))),
        (1, Op::Rename(0, 1), Some(Reply::Done)),
        (1, Op::List, listed(&[(0, 7), (1, 7)])),
        (1, Op::Create(2), Some(Reply::File(8))),
        (1, Op::Rename(2, 0), Some(Reply::Done)),
        (1, Op::List, listed(&[(0, 8), (1, 7)])),
        (1, Op::Unlink(1), Some(Reply::Done)),
        (1, Op::Link(7, 2), Some(Reply::NotFound)),
        (1, Op::Unlink(1), Some(Reply::NotFound)),
    ]));
    let created = (1, Op::Create(0), Some(Reply::File(7)));
    assert!(!names(&[created.clone(), (2, Op::Lookup(0), Some(Reply::NotFound))]));
    assert!(!names(&[created.clone(), (2, Op::Lookup(0), Some(Reply::File(8)))]));
    assert!(!names(&[created.clone(), (2, Op::Create(0), Some(Reply::File(8)))]));
    assert!(!names(&[created.clone(), (2, Op::List, listed(&[]))]));
    assert!(!names(&[created.clone(), (2, Op::Rename(0, 1), Some(Reply::NotFound))]));
    assert!(!names(&[created, (2, Op::Unlink(0), Some(Reply::NotFound))]));
}

#[test]
fn a_file_whose_maker_heard_nothing_is_any_file_and_then_that_one() {
    let lost = (1, Op::Create(0), None);
    let seen = |file| (2, Op::Lookup(0), Some(Reply::File(file)));
    assert!(names(&[lost.clone(), seen(9), seen(9)]));
    assert!(!names(&[lost, seen(9), seen(8)]));
}

#[test]
fn a_log_has_every_record_once_and_in_order() {
    let logs = |steps: &[(u32, Op, Option<Reply>)]| {
        let history = one_after_the_other(steps);
        linearize(LogModel::of(&history), &history).is_ok()
    };
    let append = |client, record, at| (client, Op::Append(record), Some(Reply::At(at)));
    let read = |records: &[u64]| (3, Op::ReadLog, Some(Reply::Records(records.to_vec())));
    assert!(logs(&[append(1, 5, 0), append(2, 6, 1), read(&[5, 6])]));
    assert!(!logs(&[append(1, 5, 0), append(2, 6, 0), read(&[6])]), "a lost record");
    assert!(!logs(&[append(1, 5, 0), append(2, 6, 1), read(&[5])]), "old contents");
    let length = |records| (3, Op::LogLength, Some(Reply::Value(records)));
    assert!(logs(&[append(1, 5, 0), length(1), append(2, 6, 1), length(2)]));
    assert!(!logs(&[append(1, 5, 0), append(2, 6, 1), length(1)]), "an old length");
    let lost = (1, Op::Append(5), None);
    assert!(logs(&[lost.clone(), read(&[])]) && logs(&[lost, read(&[5])]));
}

#[test]
fn a_lock_has_one_holder() {
    let locks = |steps: &[(u32, Op, Option<Reply>)]| {
        linearize(LockModel::default(), &one_after_the_other(steps)).is_ok()
    };
    let taken = (1, Op::TryLock, Some(Reply::Done));
    assert!(locks(&[
        taken.clone(),
        (2, Op::TryLock, Some(Reply::Held)),
        (1, Op::Unlock, Some(Reply::Done)),
        (2, Op::TryLock, Some(Reply::Done)),
    ]));
    assert!(!locks(&[taken.clone(), (2, Op::TryLock, Some(Reply::Done))]));
    assert!(!locks(&[taken, (1, Op::Unlock, Some(Reply::Done)), (2, Op::TryLock, Some(Reply::Held))]));
}

#[test]
fn a_file_of_values_ends_where_it_was_written_or_cut_last() {
    let sheet = |steps: &[(u32, Op, Option<Reply>)]| {
        linearize(SheetModel::default(), &one_after_the_other(steps)).is_ok()
    };
    let write = |place, value| (1, Op::Write(Sheet::Direct, place, value, Way::Handle), Some(Reply::Done));
    let cut = |places| (2, Op::Cut(Sheet::Direct, places, Way::Path), Some(Reply::Done));
    let read = |place, reply| (3, Op::Read(Sheet::Direct, place, Way::Path), Some(reply));
    let length = |places| (3, Op::Length(Sheet::Direct, Way::Handle), Some(Reply::Value(places)));
    assert!(sheet(&[write(2, 7), length(3), read(0, Reply::Value(0)), read(2, Reply::Value(7))]));
    assert!(sheet(&[write(2, 7), cut(1), length(1), read(2, Reply::End), cut(3), read(2, Reply::Value(0))]));
    assert!(!sheet(&[write(2, 7), cut(1), length(3)]), "an old length");
    assert!(!sheet(&[write(2, 7), cut(2), cut(3), read(2, Reply::Value(7))]), "cut bytes are back");
    assert!(!sheet(&[write(2, 7), cut(1), read(2, Reply::Value(0))]), "zeros behind the end");
    assert!(!sheet(&[write(2, 7), read(2, Reply::Torn)]));
}

#[test]
fn a_file_has_as_many_links_as_names() {
    let links = |steps: &[(u32, Op, Option<Reply>)]| {
        linearize(LinksModel::default(), &one_after_the_other(steps)).is_ok()
    };
    let tie = |name, reply| (1, Op::Tie(name), Some(reply));
    let untie = |name, reply| (2, Op::Untie(name), Some(reply));
    let count = |links| (3, Op::Count(Way::Path), Some(Reply::Value(links)));
    assert!(links(&[
        count(1),
        tie(0, Reply::Done),
        tie(0, Reply::Exists),
        count(2),
        untie(0, Reply::Done),
        count(1)
    ]));
    assert!(links(&[untie(0, Reply::NotFound), (1, Op::Tie(1), None), count(2)]));
    assert!(!links(&[tie(0, Reply::Done), tie(1, Reply::Done), count(2)]), "an old count");
}
