//! Holds the bytes of docs/formats.md: a change of them needs a higher `wire::VERSION`.

use rain_ring::wire::{self, Body, Envelope};
use rain_ring::{
    About, Bytes, Change, Configuration, Content, Durable, Eligible, Entry, Epoch, LogWindow, Member,
    Message, Report, Stamp, Token, View, link::Ping,
};
use rain_types::NodeId;
use std::sync::Arc;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn eligible() -> Eligible {
    Eligible { version: 300, nodes: [1, 2].map(NodeId).into() }
}

fn token() -> Envelope {
    let epoch = Epoch { number: 5, founder: NodeId(2) };
    let stamp = Stamp { epoch, seq: 77 };
    let member = |node| Member { node: NodeId(node), incarnation: 3 };
    let about = About { addresses: vec!["h:1".into()], load: 400, links_down: vec![NodeId(9)] };
    let report = Report { visited: true, has: 8, synced: true, lineage: stamp, about, ..Report::default() };
    let change = Change::Write { key: "k".into(), value: Bytes(b"v".to_vec()) };
    let content = Content::Change { origin: member(1), id: 4, change };
    let log = LogWindow {
        base: 7,
        base_epoch: epoch,
        entries: vec![Arc::new(Entry { epoch, content })],
        committed: 7,
    };
    let view = View { epoch, primary: true, members: vec![member(2), member(1)] };
    let reports = vec![report, Report::default()];
    let token = Token { stamp, view, eligible: eligible(), reports, log: Some(log) };
    Envelope { from: member(1), to: NodeId(2), link: 1, body: Body::Ring(Message::Token(Box::new(token))) }
}

#[test]
fn the_bytes_are_those_of_version_one() {
    let configuration = Configuration { installed: eligible(), pending: None };
    let durable = Durable { incarnation: 2, epoch_ceiling: 1029, configuration };
    let ping = Ping { to_incarnation: 1, seq: 200, ack: 3, transitions: 1 };
    let from = Member { node: NodeId(1), incarnation: 3 };
    let ping = Envelope { from, to: NodeId(2), link: 0, body: Body::Ping(ping) };
    assert_eq!(hex(&wire::encode(&durable)), "01028508ac0202010200");
    assert_eq!(hex(&wire::encode(&ping)), "01010302000101c8010301");
    assert_eq!(
        hex(&wire::encode(&token())),
        "0101030201000005024d0502010202030103ac020201020201080105024d00000103683a31900301090000000000000000000000010705020105020101030402016b017607"
    );
    assert_eq!(wire::decode(&wire::encode(&token())), Ok(token()));
}

#[test]
fn damaged_bytes_are_an_error_and_never_a_panic() {
    let bytes = wire::encode(&token());
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1 << bit;
            let _ = wire::decode::<Envelope>(&damaged);
            let _ = wire::decode::<Envelope>(&damaged[..at]);
        }
    }
    assert!(wire::decode::<Envelope>(&[]).is_err() && wire::decode::<Envelope>(&[2, 0]).is_err());
    let mut longer = bytes;
    longer.push(0);
    assert!(wire::decode::<Envelope>(&longer).is_err());
}
