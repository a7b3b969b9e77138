//! A node whose members' wires are cut while it leads, with its real services: its workers delete nothing by
//! what only the node itself still believes.

use super::parts::Parts;
use super::{put_together, serve};
use crate::config::Cli;
use crate::identity::Identity;
use crate::metadata::raft::election::Election;
use crate::metadata::{
    AppendStream, Delivery, Member, MetadataOptions, MetadataService, Transport, TransportError,
};
use crate::share::{ShareKey, ShareMeta};
use crate::worker::{Authority, PlacementLock, search_node};
use bytes::Bytes;
use clap::Parser;
use parking_lot::Mutex;
use rain_client::{WorkOrder, WorkTerm};
use rain_namespace::command::{Command, NodeSpec, Outcome, Request};
use rain_proto::convert::Mandate;
use rain_types::{BlockId, ClusterId, CodeSpec, Codec, NodeId, SessionId, ShareIndex};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

const CLUSTER: ClusterId = ClusterId(0xc1);

/// The members of a cluster, and the one that is cut off from the others.
#[derive(Debug, Clone, Default)]
struct Wires(Arc<Mutex<WiresState>>);

#[derive(Debug, Default)]
struct WiresState {
    members: BTreeMap<NodeId, Arc<MetadataService>>,
    cut: Option<NodeId>,
}

impl Wires {
    fn reach(&self, from: NodeId, to: NodeId) -> Option<Arc<MetadataService>> {
        let wires = self.0.lock();
        let is_cut = wires.cut.is_some_and(|cut| (cut == from) != (cut == to));
        wires.members.get(&to).filter(|_| !is_cut).cloned()
    }
}

#[derive(Debug, Clone)]
struct Port(NodeId, Wires, Option<NodeId>);

impl Port {
    async fn carry(self, to: NodeId, message: Bytes) -> Result<Bytes, TransportError> {
        let gone = || TransportError("gone".into());
        let Some(metadata) = self.1.reach(self.0, to) else {
            // Silence, not a refusal.
            tokio::time::sleep(Duration::from_secs(5)).await;
            return Err(gone());
        };
        let answer = metadata.message(message).await.map_err(|error| TransportError(error.to_string()))?;
        self.1.reach(self.0, to).map(|_| answer).ok_or_else(gone)
    }
}

impl AppendStream for Port {
    fn ask<'a>(&'a mut self, message: Bytes) -> Delivery<'a> {
        Box::pin(self.clone().carry(self.2.expect("a stream has its target"), message))
    }
}

impl Transport for Port {
    fn append_stream(&self, to: NodeId, _address: &str) -> Box<dyn AppendStream> {
        Box::new(Port(self.0, self.1.clone(), Some(to)))
    }

    fn call<'a>(&'a self, to: NodeId, _address: &'a str, message: Bytes) -> Delivery<'a> {
        Box::pin(self.clone().carry(to, message))
    }

    fn send_snapshot<'a>(
        &'a self,
        to: NodeId,
        _address: &'a str,
        head: Bytes,
        pieces: mpsc::Receiver<Bytes>,
    ) -> Delivery<'a> {
        Box::pin(async move {
            let metadata = self.1.reach(self.0, to).ok_or_else(|| TransportError("gone".into()))?;
            metadata.snapshot(head, pieces).await.map_err(|error| TransportError(error.to_string()))
        })
    }
}

/// Opens a member. It stands for election whenever the others that it reaches are enough.
async fn member(wires: &Wires, dir: &Path, node: NodeId, address: &str) -> Arc<MetadataService> {
    let member = Member { cluster: CLUSTER, node, address: address.to_owned() };
    let port = Arc::new(Port(node, wires.clone(), None));
    let opened = MetadataService::open(dir, member, MetadataOptions::default(), port).await;
    let metadata = Arc::new(opened.expect("opened"));
    wires.0.lock().members.insert(node, metadata.clone());
    let (wires, standing) = (wires.clone(), metadata.clone());
    tokio::spawn(async move {
        let mut election = Election::default();
        loop {
            let view: Vec<NodeId> =
                [1, 2, 3].map(NodeId).into_iter().filter(|to| wires.reach(node, *to).is_some()).collect();
            standing.run_election(&mut election, Some(&view)).await;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    metadata
}

async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < Duration::from_secs(20), "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn do_at(metadata: &MetadataService, command: Command) -> Outcome {
    metadata.propose(Request::internal(command)).await.expect("proposed").expect("applied")
}

fn spec(address: &str, folder: u32) -> NodeSpec {
    let (address, folder) = (address.to_owned(), format!("{folder:032x}"));
    NodeSpec { address, folder, weight: 1, ..NodeSpec::default() }
}

/// Puts a share of a session's first block into the node's store.
async fn put(parts: &Parts, session: SessionId) -> ShareKey {
    let key = ShareKey { block: BlockId { session, seq: 1 }, index: ShareIndex(0) };
    let code = CodeSpec { codec: Codec::Rs, k: 1, m: 2 };
    let payload = Bytes::from(vec![7; 4096]);
    let crcs = rain_client::block::chunk_checksums(&payload);
    let (done, stored) = tokio::sync::oneshot::channel();
    let meta = ShareMeta { key, code, block_len: 4096, share_len: 4096 };
    parts.store.as_ref().expect("no witness").put_with(meta, crcs, payload, |result| {
        let _ = done.send(result);
    });
    stored.await.expect("answered").expect("stored");
    key
}

fn has(parts: &Parts, key: ShareKey) -> bool {
    let listed = parts.store.as_ref().expect("no witness").list(None, 100).expect("listed");
    listed.iter().any(|meta| meta.key == key)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_leader_without_a_majority_deletes_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("1");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let bound = listener.local_addr().expect("bound");
    let address = bound.to_string();
    let data_arg = data.display().to_string();
    let config =
        Cli::parse_from(["storaged", "--data", &data_arg, "--listen", &address, "--peers", &address]);
    let config = config.into_config().expect("settings");
    let identity = Identity::take(&data, None, false).expect("free");
    let parts = Arc::new(put_together(config, &identity, bound).await.expect("parts"));
    tokio::spawn(serve::serve(vec![listener], parts.clone()));
    let wires = Wires::default();
    let leader = member(&wires, &data.join("namespace"), NodeId(1), &address).await;
    parts.joined.set_member(CLUSTER, NodeId(1));
    parts.joined.set_metadata(leader.clone());
    leader.bootstrap().await.expect("begun");
    until("node 1 does not lead", || leader.is_confirmed()).await;
    // Of the others only the metadata services run.
    let others = [2, 3].map(NodeId);
    let mut away = Vec::new();
    for (id, at) in [(1, address.as_str()), (2, "127.0.0.1:2"), (3, "127.0.0.1:3")] {
        do_at(&leader, Command::RegisterNode { id: NodeId(id), node: spec(at, id) }).await;
        if id > 1 {
            away.push(member(&wires, &folder.path().join(id.to_string()), NodeId(id), at).await);
        }
    }
    let begun = Instant::now();
    while leader.leadership().borrow().voters.len() < 3 {
        let _ = leader.settle_membership(&leader.nodes(), 1, &BTreeSet::new()).await;
        assert!(begun.elapsed() < Duration::from_secs(20), "not all vote");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    until("the followers lag", || {
        away.iter().all(|other| other.nodes().len() == 3 && other.leadership().borrow().voters.len() == 3)
    })
    .await;

    // With a majority a share of a session that does not exist is stray, and is deleted.
    let term = WorkTerm::new(leader.leads_in().expect("it leads"));
    let authority = Authority::take(leader.clone(), &parts.own_client, term.clone()).await.expect("taken");
    let lock = PlacementLock::default();
    let stray = put(&parts, SessionId(900)).await;
    assert_eq!(search_node(&authority, NodeId(1), None, &lock).await.expect("searched"), 1);
    assert!(!has(&parts, stray));

    // Node 1 is cut off and still believes that it leads. The others elect one of them, which opens a session.
    wires.0.lock().cut = Some(NodeId(1));
    until("nobody else leads", || away.iter().any(|other| other.is_confirmed())).await;
    let next = away.iter().find(|other| other.is_confirmed()).expect("elected");
    assert!(others.contains(&next.member().node));
    let Outcome::Session(session) =
        do_at(next, Command::OpenSession { label: "new".into(), caches: false }).await
    else {
        panic!("no session")
    };
    // The session's client reaches node 1, which knows no such session.
    let live = put(&parts, session).await;
    assert_eq!(leader.leads_in(), Some(term.leader()), "it does not know better");
    for searched in [None, Some(session)] {
        let error =
            search_node(&authority, NodeId(1), searched, &lock).await.expect_err("no answer is certain");
        assert!(error.to_string().contains("majority"), "{error}");
    }
    assert!(has(&parts, live), "a live share was deleted");

    // A delete that is late: the decision was made in the old term, and the next leader has put a share since.
    let later = next.leads_in().expect("it leads");
    parts.obeyed.obey(Mandate { term: later, places: 0 }).await.map(drop).expect("obeyed");
    let order = WorkOrder { term: WorkTerm::new(term.leader()), places: u64::MAX };
    let client = parts.own_client.client().await.expect("connected");
    let late = client.delete_shares(NodeId(1), &[(live.block, live.index)], &order).await;
    assert!(late.is_err() && order.term.is_over() && has(&parts, live));

    // Node 1 hears of the other leader: the authority is over, and stays so.
    wires.0.lock().cut = None;
    until("node 1 goes on leading", || leader.leads_in() != Some(term.leader())).await;
    let error = search_node(&authority, NodeId(1), None, &lock).await.expect_err("over");
    assert!(error.to_string().contains("is over"), "{error}");
    assert!(term.is_over() && has(&parts, live));
}
