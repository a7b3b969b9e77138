//! A lock is released when its owner says so, and no later lock with it.

use super::namespace::{Asked, TestNamespace};
use crate::file::OpenFile;
use crate::volume::{NewInode, Volume};
use rain_namespace::command::Command;
use rain_namespace::lock::{Lock, LockKind};
use rain_namespace::record::{Attr, FileKind};
use std::sync::Arc;

fn lock(owner: u64) -> Lock {
    Lock { kind: LockKind::Flock, owner, exclusive: true, first: 0, last: u64::MAX, pid: 1 }
}

/// A new file that owner 1 has locked.
async fn locked_file(volume: &Arc<Volume>) -> (Attr, Arc<OpenFile>) {
    let new = NewInode::new(FileKind::File, 0o644, 0, 0);
    let (attr, file) = volume.create(volume.root(), b"locked", new).await.expect("created");
    assert!(file.try_lock(&lock(1)).await.expect("asked"));
    (attr, file)
}

fn is_unlock(asked: Asked<'_>) -> bool {
    matches!(asked, Asked::Command(Command::Unlock { .. }))
}

#[tokio::test]
async fn a_lock_that_is_taken_while_an_earlier_one_is_released_stays_known() {
    let namespace = TestNamespace::start().await;
    let (_client, volume) = namespace.client().await;
    let (attr, file) = locked_file(&volume).await;
    let mut unlock = namespace.hold(is_unlock);
    let unlocking = {
        let file = file.clone();
        tokio::spawn(async move { file.unlock(&lock(1)).await })
    };
    unlock.reached().await;
    // The namespace has released the lock, and grants it again before the client hears of that.
    assert!(file.try_lock(&lock(1)).await.expect("asked"));
    unlock.release();
    unlocking.await.expect("no panic").expect("unlocked");
    // The second lock is this client's until its owner closes the file: others do not get it before.
    let (_other_client, other) = namespace.client().await;
    let theirs = other.open(attr.ino).await.expect("opened");
    assert!(!theirs.try_lock(&lock(2)).await.expect("asked"));
    assert!(file.release_on_close(LockKind::Flock, 1), "the client knows that the owner has a lock");
    file.release_closed().await.expect("released");
    assert!(theirs.try_lock(&lock(2)).await.expect("asked"));
}

#[tokio::test]
async fn the_locks_of_the_last_close_go_and_those_of_a_new_open_stay() {
    let namespace = TestNamespace::start().await;
    let (_client, volume) = namespace.client().await;
    let (attr, file) = locked_file(&volume).await;
    let mut unlock = namespace.hold(is_unlock);
    drop(file);
    unlock.reached().await;
    let file = volume.open(attr.ino).await.expect("opened again");
    let locking = {
        let file = file.clone();
        tokio::spawn(async move { file.try_lock(&lock(1)).await })
    };
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    unlock.release();
    assert!(locking.await.expect("no panic").expect("asked"));
    let (_other_client, other) = namespace.client().await;
    let theirs = other.open(attr.ino).await.expect("opened");
    assert!(!theirs.try_lock(&lock(2)).await.expect("asked"), "the new open has the lock");
}
