//! Two clients that keep leases: what one has changed, the other sees.

use super::namespace::{Asked, TestNamespace};
use crate::file::{Dropped, KernelCache};
use crate::volume::{NewInode, Volume};
use futures::future::BoxFuture;
use parking_lot::Mutex;
use rain_namespace::command::{AttrChange, Command, RenameMode};
use rain_namespace::lease::Subject;
use rain_namespace::query::Query;
use rain_namespace::record::FileKind;
use rain_types::{Ino, SessionId};
use std::sync::{Arc, Weak};
use std::time::Duration;

fn file() -> NewInode {
    NewInode::new(FileKind::File, 0o644, 0, 0)
}

/// A kernel that takes its time, and notes what it has dropped.
#[derive(Debug, Default)]
struct Kernel(Mutex<Vec<Dropped>>);

impl KernelCache for Kernel {
    fn drop_cached<'a>(&'a self, dropped: &'a [Dropped]) -> BoxFuture<'a, ()> {
        Box::pin(async {
            tokio::time::sleep(Duration::from_millis(30)).await;
            self.0.lock().extend_from_slice(dropped);
        })
    }

    fn drop_all<'a>(&'a self, _files: &'a [Ino]) -> BoxFuture<'a, ()> {
        Box::pin(async {})
    }

    fn drop_unleased<'a>(&'a self, _files: &'a [Ino]) -> BoxFuture<'a, ()> {
        Box::pin(async {})
    }
}

fn kernel_of(volume: &Volume) -> Arc<Kernel> {
    let kernel = Arc::new(Kernel::default());
    let weak: Weak<Kernel> = Arc::downgrade(&kernel);
    volume.set_kernel_cache(weak);
    kernel
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn written_data_is_seen_by_another_client_before_it_is_stored_unasked() {
    let namespace = TestNamespace::start().await;
    let ((_a, a), (_b, b)) = (namespace.caching_client().await, namespace.caching_client().await);
    let (attr, ours) = a.create(a.root(), b"f", file()).await.expect("made");
    ours.write(0, b"one").await.expect("written");
    assert_eq!(b.attr(attr.ino).await.expect("asked").size, 3);
    let theirs = b.open(attr.ino).await.expect("opened");
    assert_eq!(&theirs.read(0, 100).await.expect("read")[..], b"one");
    for round in 0..20u8 {
        ours.write(u64::from(round), &[round]).await.expect("written");
        let read = theirs.read(0, 100).await.expect("read");
        assert_eq!(read.get(usize::from(round)), Some(&round), "round {round}");
    }
    ours.truncate(2).await.expect("cut");
    assert_eq!(theirs.read(0, 100).await.expect("read").len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_clients_that_append_lose_no_record() {
    let namespace = TestNamespace::start().await;
    let ((_a, a), (_b, b)) = (namespace.caching_client().await, namespace.caching_client().await);
    let (attr, ours) = a.create(a.root(), b"log", file()).await.expect("made");
    let theirs = b.open_to(attr.ino, true).await.expect("opened");
    let append = |file: Arc<crate::OpenFile>, who: u8| async move {
        for number in 0..100u8 {
            file.append(&[who, number]).await.expect("appended");
            if number % 10 == 0 {
                file.flush().await.expect("stored");
            }
        }
    };
    let (one, other) = (tokio::spawn(append(ours.clone(), b'a')), tokio::spawn(append(theirs.clone(), b'b')));
    one.await.expect("ended");
    other.await.expect("ended");
    let log = ours.read(0, 4096).await.expect("read");
    let of = |who: u8| log.chunks(2).filter(|record| record[0] == who).map(|record| record[1]).collect();
    let (ours, theirs): (Vec<u8>, Vec<u8>) = (of(b'a'), of(b'b'));
    assert_eq!((ours, theirs), ((0..100).collect(), (0..100).collect()), "each once and in order");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_returns_after_the_other_kernel_has_dropped_what_it_touches() {
    let namespace = TestNamespace::start().await;
    let ((_a, a), (_b, b)) = (namespace.caching_client().await, namespace.caching_client().await);
    let kernel = kernel_of(&b);
    for name in [b"x", b"y", b"z"] {
        a.make(a.root(), name, file()).await.expect("made");
    }
    let root = a.root();
    let (x, y) = (b.lookup(root, b"x").await.expect("found"), b.lookup(root, b"y").await.expect("found"));
    let name = |name: &[u8]| Subject::Name(root, name.to_vec());
    let cached = |subject| b.read_for(&subject).is_some_and(|left| left > Duration::ZERO);
    assert!(cached(name(b"x")) && cached(Subject::Inode(x.ino)) && !cached(name(b"z")));
    a.rename(root, b"x", root, b"y", RenameMode::Replace).await.expect("renamed");
    let dropped = kernel.0.lock().clone();
    for expected in [
        Dropped::Name(root, b"x".to_vec()),
        Dropped::Name(root, b"y".to_vec()),
        Dropped::Inode(x.ino),
        Dropped::Inode(y.ino),
    ] {
        assert!(dropped.contains(&expected), "{expected:?} is not in {dropped:?}");
    }
    assert!(!cached(name(b"x")) && !cached(name(b"y")) && !cached(Subject::Inode(x.ino)));
    assert_eq!(b.lookup(root, b"y").await.expect("found").ino, x.ino);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_a_change_has_overtaken_is_not_cached() {
    let namespace = TestNamespace::start().await;
    let ((_a, a), (_b, b)) = (namespace.caching_client().await, namespace.caching_client().await);
    let attr = a.make(a.root(), b"f", file()).await.expect("made");
    let ino = attr.ino;
    let mut held =
        namespace.hold(move |asked| matches!(asked, Asked::Query(Query::GetAttr { ino: of }) if *of == ino));
    let asking = {
        let b = b.clone();
        tokio::spawn(async move { b.attr(ino).await.expect("asked") })
    };
    held.reached().await;
    // The lease of the answer under way is given up, although the answer has not come.
    a.set_attr(ino, AttrChange { mode: Some(0o600), ..AttrChange::default() }).await.expect("changed");
    held.release();
    assert_eq!(asking.await.expect("asked").mode, 0o644, "the state at the time of the question");
    assert_eq!(b.read_for(&Subject::Inode(ino)), Some(Duration::ZERO), "and not to be used again");
    assert_eq!(b.attr(ino).await.expect("asked").mode, 0o600);
    assert!(b.read_for(&Subject::Inode(ino)).is_some_and(|left| left > Duration::ZERO));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_without_leases_sees_and_is_seen() {
    let namespace = TestNamespace::start().await;
    let ((_a, a), (_b, b)) = (namespace.caching_client().await, namespace.client().await);
    let (attr, ours) = a.create(a.root(), b"f", file()).await.expect("made");
    ours.write(0, b"one").await.expect("written");
    let theirs = b.open(attr.ino).await.expect("opened");
    assert_eq!(&theirs.read(0, 100).await.expect("read")[..], b"one");
    theirs.write(1, b"NE").await.expect("written");
    theirs.flush().await.expect("stored");
    assert_eq!(&ours.read(0, 100).await.expect("read")[..], b"oNE");
    let command = Command::Unlink { parent: a.root(), name: b"f".to_vec() };
    let mut held = namespace.hold(move |asked| matches!(asked, Asked::Command(asked) if *asked == command));
    let removing = tokio::spawn({
        let (b, root) = (b.clone(), b.root());
        async move { b.unlink(root, b"f").await.expect("removed") }
    });
    held.reached().await;
    assert!(a.lookup(a.root(), b"f").await.is_err(), "applied, though not acknowledged");
    held.release();
    removing.await.expect("removed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_asked_once_is_answered_again_without_a_message_until_it_changes() {
    let namespace = TestNamespace::start().await;
    let ((_a, a), (client, b)) = (namespace.caching_client().await, namespace.caching_client().await);
    let root = a.root();
    let (made, ours) = a.create(root, b"f", file()).await.expect("made");
    ours.write(0, b"one").await.expect("written");
    ours.flush().await.expect("stored");
    drop(ours);
    let asked = || client.stats().queries;
    let read = || async {
        let attr = b.lookup(root, b"f").await.expect("found");
        let file = b.open(attr.ino).await.expect("opened");
        file.read(0, 100).await.expect("read")
    };
    assert_eq!(&read().await[..], b"one");
    assert!(b.lookup(root, b"none").await.is_err());
    let before = asked();
    for _ in 0..10 {
        assert_eq!(&read().await[..], b"one");
        assert!(b.lookup(root, b"none").await.is_err());
        assert_eq!(b.attr(made.ino).await.expect("asked").size, 3);
    }
    assert_eq!(asked(), before, "everything is known");
    // Another client's changes.
    let theirs = a.open_to(made.ino, true).await.expect("opened");
    theirs.write(3, b" two").await.expect("written");
    assert_eq!(&read().await[..], b"one two");
    a.make(root, b"none", file()).await.expect("made");
    assert!(b.lookup(root, b"none").await.is_ok());
    // Its own.
    b.rename(root, b"none", root, b"other", RenameMode::Replace).await.expect("renamed");
    assert!(b.lookup(root, b"none").await.is_err());
    let moved = b.lookup(root, b"other").await.expect("found");
    b.link(moved.ino, root, b"third").await.expect("linked");
    assert_eq!(b.lookup(root, b"other").await.expect("found").nlink, 2);
    b.unlink(root, b"third").await.expect("removed");
    assert_eq!(b.attr(moved.ino).await.expect("asked").nlink, 1);
    let mode = AttrChange { mode: Some(0o600), ..AttrChange::default() };
    b.set_attr(moved.ino, mode).await.expect("changed");
    assert_eq!(b.attr(moved.ino).await.expect("asked").mode, 0o600);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_is_not_sent_for_its_fence_leaves_nothing_uncertain() {
    let namespace = TestNamespace::start().await;
    let (client, a) = namespace.caching_client().await;
    let ino = a.make(a.root(), b"f", file()).await.expect("made").ino;
    let command = Command::SetAttr { ino, change: AttrChange { mode: Some(0o600), ..AttrChange::default() } };
    let refused = a.session().propose_once(Some(SessionId(u64::MAX)), &command).await.expect("decided here");
    assert!(refused.is_err(), "another session's fence");
    a.attr(ino).await.expect("asked");
    let before = client.stats().queries;
    assert_eq!(a.attr(ino).await.expect("known").mode, 0o644);
    assert_eq!(client.stats().queries, before, "it was kept");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_kept_stays_right_and_answers_under_a_new_leader() {
    let namespace = TestNamespace::start().await;
    let ((ours, a), (theirs, b)) = (namespace.caching_client().await, namespace.caching_client().await);
    let (attr, file) = b.create(b.root(), b"f", file()).await.expect("made");
    file.write(0, b"one").await.expect("written");
    let read = a.open(attr.ino).await.expect("opened");
    assert_eq!(a.lookup(a.root(), b"f").await.expect("looked up").size, 3);
    assert_eq!(&read.read(0, 100).await.expect("read")[..], b"one");
    for _ in 0..3 {
        namespace.new_leader();
        // All are registered with it: it answers what may be kept back.
        namespace.until_registered(&[&ours, &theirs]).await;
        let before = ours.stats().queries;
        assert_eq!(a.lookup(a.root(), b"f").await.expect("looked up").size, 3);
        assert_eq!(a.open(attr.ino).await.expect("opened").attr().size, 3);
        assert_eq!(&read.read(0, 100).await.expect("read")[..], b"one");
        assert_eq!(ours.stats().queries, before, "it was kept");
    }
    file.write(3, b"two").await.expect("written");
    assert_eq!(a.attr(attr.ino).await.expect("asked").size, 6);
    b.rename(b.root(), b"f", b.root(), b"g", RenameMode::Replace).await.expect("renamed");
    assert!(a.lookup(a.root(), b"f").await.is_err());
}
