//! Lengths and contents of files never go back, whatever answers come late.

use super::namespace::{Asked, TestNamespace};
use crate::volume::{NewInode, Volume};
use rain_namespace::command::{AttrChange, Command};
use rain_namespace::query::Query;
use rain_namespace::record::{Attr, FileKind};
use rain_types::Ino;
use std::sync::Arc;

fn new_file() -> NewInode {
    NewInode::new(FileKind::File, 0o644, 0, 0)
}

fn is_commit(asked: Asked<'_>) -> bool {
    matches!(asked, Asked::Command(Command::Commit { .. }))
}

fn is_get_attr(asked: Asked<'_>) -> bool {
    matches!(asked, Asked::Query(Query::GetAttr { .. }))
}

fn is_set_attr(asked: Asked<'_>) -> bool {
    matches!(asked, Asked::Command(Command::SetAttr { .. }))
}

fn is_open(asked: Asked<'_>) -> bool {
    matches!(asked, Asked::Query(Query::Open { .. }))
}

fn is_listing(asked: Asked<'_>) -> bool {
    matches!(asked, Asked::Query(Query::ReadDirectory { .. }))
}

/// A file with committed contents, open nowhere.
async fn closed_file(volume: &Arc<Volume>, name: &[u8], contents: &[u8]) -> Ino {
    let (attr, file) = volume.create(volume.root(), name, new_file()).await.expect("created");
    file.write(0, contents).await.expect("written");
    file.flush().await.expect("stored");
    attr.ino
}

fn ask_attr(volume: &Arc<Volume>, ino: Ino) -> tokio::task::JoinHandle<Attr> {
    let volume = volume.clone();
    tokio::spawn(async move { volume.attr(ino).await.expect("attributes") })
}

#[tokio::test]
async fn a_length_that_was_asked_before_a_commit_is_not_told_after_it() {
    let namespace = TestNamespace::start().await;
    let (_client, volume) = namespace.client().await;
    let (attr, file) = volume.create(volume.root(), b"grows", new_file()).await.expect("created");
    for length in [100u64, 200, 300] {
        let mut asked = namespace.hold(is_get_attr);
        let answer = ask_attr(&volume, attr.ino);
        asked.reached().await;
        file.write(length - 100, &[7; 100]).await.expect("written");
        file.flush().await.expect("stored");
        asked.release();
        assert_eq!(answer.await.expect("no panic").size, length);
    }
}

#[tokio::test]
async fn nor_where_the_file_was_closed_meanwhile() {
    let namespace = TestNamespace::start().await;
    let (_client, volume) = namespace.client().await;
    let ino = closed_file(&volume, b"grows", &[1; 100]).await;
    let (mut asked, mut listed) = (namespace.hold(is_get_attr), namespace.hold(is_listing));
    let answer = ask_attr(&volume, ino);
    asked.reached().await;
    let listing = {
        let volume = volume.clone();
        tokio::spawn(async move { volume.read_directory(volume.root(), None, 10).await.expect("listed") })
    };
    listed.reached().await;
    let file = volume.open(ino).await.expect("opened");
    file.write(100, &[2; 50]).await.expect("written");
    file.flush().await.expect("stored");
    drop(file);
    assert!(volume.files().get(ino).is_none(), "nothing is known of the file any more");
    asked.release();
    listed.release();
    assert_eq!(answer.await.expect("no panic").size, 150);
    assert_eq!(listing.await.expect("no panic").0[0].attr.size, 150);
}

#[tokio::test]
async fn a_file_that_is_opened_while_it_is_emptied_is_empty() {
    let namespace = TestNamespace::start().await;
    let (_client, volume) = namespace.client().await;
    let ino = closed_file(&volume, b"cut", &[9; 3000]).await;
    let empty = AttrChange { size: Some(0), ..AttrChange::default() };

    // The open is asked before the file is cut, and answered after.
    let mut asked = namespace.hold(is_open);
    let opening = {
        let volume = volume.clone();
        tokio::spawn(async move { volume.open(ino).await.expect("opened") })
    };
    asked.reached().await;
    assert_eq!(volume.set_attr(ino, empty.clone()).await.expect("cut").size, 0);
    asked.release();
    let file = opening.await.expect("no panic");
    assert_eq!(file.size(), 0);
    file.write(0, &[3; 10]).await.expect("written");
    file.flush().await.expect("stored");
    assert_eq!(volume.attr(ino).await.expect("attributes").size, 10);
    file.write(10, &[3; 2990]).await.expect("written");
    file.flush().await.expect("stored");
    drop(file);

    // The file is opened, with its old length, while the cut is under way.
    let mut asked = namespace.hold(is_open);
    let opening = {
        let volume = volume.clone();
        tokio::spawn(async move { volume.open(ino).await.expect("opened") })
    };
    asked.reached().await;
    let mut cut = namespace.hold(|asked| matches!(asked, Asked::Command(Command::SetAttr { .. })));
    let cutting = {
        let volume = volume.clone();
        tokio::spawn(async move { volume.set_attr(ino, empty).await.expect("cut") })
    };
    cut.reached().await;
    asked.release();
    let file = opening.await.expect("no panic");
    cut.release();
    assert_eq!(cutting.await.expect("no panic").size, 0);
    assert_eq!(file.size(), 0, "the open file has been cut");
    file.write(0, &[4; 10]).await.expect("written");
    file.flush().await.expect("stored");
    assert_eq!(file.read(0, 100).await.expect("read"), vec![4; 10]);
    assert_eq!(volume.attr(ino).await.expect("attributes").size, 10);
}

#[tokio::test]
async fn a_commit_does_not_bring_back_a_length_that_another_client_has_cut() {
    let namespace = TestNamespace::start().await;
    let (_client, volume) = namespace.client().await;
    let (_other_client, other) = namespace.client().await;
    let ino = closed_file(&volume, b"cut", &[9; 3000]).await;
    let file = volume.open(ino).await.expect("opened");
    let empty = AttrChange { size: Some(0), ..AttrChange::default() };
    other.set_attr(ino, empty).await.expect("cut");
    file.write(0, &[5; 10]).await.expect("written");
    file.flush().await.expect("stored");
    assert_eq!(other.attr(ino).await.expect("attributes").size, 10);
    assert_eq!(file.read(0, 100).await.expect("read"), vec![5; 10]);
}

#[tokio::test]
async fn a_state_that_was_replaced_does_not_take_the_new_one_with_it() {
    let namespace = TestNamespace::start().await;
    let (_client, volume) = namespace.client().await;
    let ino = closed_file(&volume, b"reopened", &[1; 10]).await;
    let first = volume.open(ino).await.expect("opened");
    let state = volume.files().get(ino).expect("an open file has a state");
    drop(first);
    let second = volume.open(ino).await.expect("opened again");
    // What a background flush does at the end, which was at work on the first state.
    volume.files().remove_if_idle(&state);
    assert!(volume.files().get(ino).is_some(), "the file is open");
    second.write(0, &[2; 10]).await.expect("written");
    assert_eq!(volume.attr(ino).await.expect("attributes").size, 10);
    let third = volume.open(ino).await.expect("opened once more");
    assert_eq!(third.read(0, 10).await.expect("read"), vec![2; 10], "one file has one state");
}

#[tokio::test]
async fn what_was_read_counts_as_unchanged_until_another_client_changes_the_file() {
    let namespace = TestNamespace::start().await;
    let (_client, volume) = namespace.client().await;
    let (_other_client, other) = namespace.client().await;
    let ino = closed_file(&volume, b"shared", &[1; 10]).await;
    let since = volume.open(ino).await.expect("opened").own_since();
    let file = volume.open(ino).await.expect("opened");
    file.write(0, &[2; 10]).await.expect("written");
    file.flush().await.expect("stored");
    assert_eq!(file.own_since(), since, "its own changes");
    drop(file);
    let theirs = other.open(ino).await.expect("opened");
    theirs.write(0, &[3; 10]).await.expect("written");
    theirs.flush().await.expect("stored");
    let (first, second) = (volume.open(ino).await.expect("opened"), volume.open(ino).await.expect("opened"));
    assert!(first.own_since() > since, "another client's change");
    assert_eq!(first.own_since(), second.own_since(), "both learn of it");
    assert_eq!(first.read(0, 10).await.expect("read"), vec![3; 10]);
}

#[tokio::test]
async fn a_read_of_a_file_that_is_cut_meanwhile_ends_where_the_file_does() {
    let namespace = TestNamespace::start().await;
    let (_client, volume) = namespace.client().await;
    let (_other_client, other) = namespace.client().await;
    let ino = closed_file(&volume, b"shared", &[1; 30]).await;
    // It knows the length, and asks for the layout when it reads.
    let file = other.open(ino).await.expect("opened");
    volume.open(ino).await.expect("opened").truncate(10).await.expect("cut");
    assert_eq!(file.read(0, 30).await.expect("read"), vec![1; 10]);
    assert_eq!(file.read(10, 30).await.expect("read"), b"".as_slice());
}

#[tokio::test]
async fn what_was_written_is_read_until_a_cut_is_done_and_kept_if_it_is_given_up() {
    let namespace = TestNamespace::start().await;
    let (_client, volume) = namespace.client().await;
    let (_, file) = volume.create(volume.root(), b"cut", new_file()).await.expect("created");
    file.flush().await.expect("made");
    for is_given_up in [true, false] {
        file.write(0, &[1; 10]).await.expect("written");
        let mut cut = namespace.hold(is_set_attr);
        let cutting = {
            let file = file.clone();
            tokio::spawn(async move { file.truncate(0).await.expect("cut") })
        };
        cut.reached().await;
        assert_eq!(file.read(0, 10).await.expect("read"), vec![1; 10]);
        if is_given_up {
            cutting.abort();
            assert!(cutting.await.expect_err("no outcome").is_cancelled());
            cut.release();
            assert_eq!(file.read(0, 10).await.expect("read"), vec![1; 10]);
            file.flush().await.expect("stored");
        } else {
            cut.release();
            cutting.await.expect("no panic");
            assert_eq!(file.read(0, 10).await.expect("read"), b"".as_slice());
        }
    }
}

#[tokio::test]
async fn a_commit_under_way_shows_in_the_attributes() {
    let namespace = TestNamespace::start().await;
    let (_client, volume) = namespace.client().await;
    let (attr, file) = volume.create(volume.root(), b"new", new_file()).await.expect("created");
    let mut commit = namespace.hold(is_commit);
    file.write(0, &[1; 500]).await.expect("written");
    let flushing = {
        let file = file.clone();
        tokio::spawn(async move { file.flush().await.expect("stored") })
    };
    commit.reached().await;
    assert_eq!(volume.attr(attr.ino).await.expect("attributes").size, 500);
    file.write(500, &[2; 500]).await.expect("written");
    assert_eq!(volume.attr(attr.ino).await.expect("attributes").size, 1000);
    commit.release();
    flushing.await.expect("no panic");
    assert_eq!(volume.attr(attr.ino).await.expect("attributes").size, 1000);
}
