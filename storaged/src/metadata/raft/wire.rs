//! The bytes of entries, votes and messages, in the log, in the state file and between members.
//! `docs/formats-log.md` has the tables; the tests at the end hold them.
//!
//! Numbers are little endian. The namespace's entries are carried unchanged, and reading them copies nothing.

use super::types::{Entry, EntryLogId, MemberAddress, Membership, Payload, StoredMembership, Vote};
use bytes::{Buf, BufMut, Bytes};
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, VoteRequest, VoteResponse};
use openraft::{CommittedLeaderId, EntryPayload, LogId};
use rain_types::{ClusterId, NodeId};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use thiserror::Error;

/// Version of records and messages.
const VERSION: u8 = 1;

/// Entries of one message. A message that announces more is malformed, so that a bad count allocates little.
const ENTRIES_MAX: u32 = 4096;

/// The bytes are not of this format, or not whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("malformed bytes of the namespace's log or of a message between members")]
pub(crate) struct Malformed;

type Read<T> = Result<T, Malformed>;

fn u8_of(from: &mut Bytes) -> Read<u8> {
    from.try_get_u8().map_err(|_| Malformed)
}

fn u32_of(from: &mut Bytes) -> Read<u32> {
    from.try_get_u32_le().map_err(|_| Malformed)
}

fn u64_of(from: &mut Bytes) -> Read<u64> {
    from.try_get_u64_le().map_err(|_| Malformed)
}

fn bytes_of(from: &mut Bytes, len: usize) -> Read<Bytes> {
    if len > from.len() { Err(Malformed) } else { Ok(from.split_to(len)) }
}

fn whole<T>(value: T, rest: &Bytes) -> Read<T> {
    if rest.is_empty() { Ok(value) } else { Err(Malformed) }
}

fn put_log_id(out: &mut Vec<u8>, id: Option<&EntryLogId>) {
    match id {
        None => out.put_u8(0),
        Some(id) => {
            out.put_u8(1);
            out.put_u64_le(id.leader_id.term);
            out.put_u32_le(id.leader_id.node_id.0);
            out.put_u64_le(id.index);
        }
    }
}

fn log_id_of(from: &mut Bytes) -> Read<Option<EntryLogId>> {
    match u8_of(from)? {
        0 => Ok(None),
        1 => {
            let (term, node) = (u64_of(from)?, NodeId(u32_of(from)?));
            Ok(Some(LogId::new(CommittedLeaderId::new(term, node), u64_of(from)?)))
        }
        _ => Err(Malformed),
    }
}

fn put_vote(out: &mut Vec<u8>, vote: &Vote) {
    out.put_u64_le(vote.leader_id.term);
    out.put_u32_le(vote.leader_id.node_id.0);
    out.put_u8(u8::from(vote.committed));
}

fn vote_of(from: &mut Bytes) -> Read<Vote> {
    let (term, node) = (u64_of(from)?, NodeId(u32_of(from)?));
    match u8_of(from)? {
        0 => Ok(Vote::new(term, node)),
        1 => Ok(Vote::new_committed(term, node)),
        _ => Err(Malformed),
    }
}

#[derive(Serialize, Deserialize)]
struct WrittenMembership {
    /// One set of voters, or two while the membership changes.
    configs: Vec<BTreeSet<NodeId>>,
    nodes: BTreeMap<NodeId, String>,
}

fn membership_bytes(membership: &Membership) -> Vec<u8> {
    let nodes = membership.nodes().map(|(id, place)| (*id, place.address.clone())).collect();
    let written = WrittenMembership { configs: membership.get_joint_config().clone(), nodes };
    postcard::to_extend(&written, Vec::new()).expect("a membership can always be written")
}

fn membership_of(bytes: &[u8]) -> Read<Membership> {
    let written: WrittenMembership = postcard::from_bytes(bytes).map_err(|_| Malformed)?;
    // openraft panics at a configuration that names nobody.
    if written.configs.iter().flatten().any(|voter| !written.nodes.contains_key(voter)) {
        return Err(Malformed);
    }
    let nodes: BTreeMap<NodeId, MemberAddress> =
        written.nodes.into_iter().map(|(id, address)| (id, MemberAddress { address })).collect();
    Ok(Membership::new(written.configs, nodes))
}

/// Encodes the membership with the id of its entry, for the store.
pub(crate) fn encode_stored_membership(stored: &StoredMembership) -> Vec<u8> {
    let mut out = vec![VERSION];
    put_log_id(&mut out, stored.log_id().as_ref());
    out.extend(membership_bytes(stored.membership()));
    out
}

/// See [`encode_stored_membership`].
pub(crate) fn decode_stored_membership(bytes: &[u8]) -> Read<StoredMembership> {
    let mut from = Bytes::copy_from_slice(bytes);
    if u8_of(&mut from)? != VERSION {
        return Err(Malformed);
    }
    let id = log_id_of(&mut from)?;
    Ok(StoredMembership::new(id, membership_of(&from)?))
}

/// Encodes an entry as a record of the log, without its position, which the log has.
pub(crate) fn encode_record(entry: &Entry) -> Vec<u8> {
    let mut out = Vec::with_capacity(16 + payload_len(entry));
    put_record(&mut out, entry);
    out
}

/// Returns the bytes of an entry's payload, about.
pub(crate) fn payload_len(entry: &Entry) -> usize {
    match &entry.payload {
        EntryPayload::Normal(payload) => payload.0.len(),
        EntryPayload::Blank => 0,
        EntryPayload::Membership(_) => 256,
    }
}

fn put_record(out: &mut Vec<u8>, entry: &Entry) {
    let kind = match &entry.payload {
        EntryPayload::Blank => 0,
        EntryPayload::Normal(_) => 1,
        EntryPayload::Membership(_) => 2,
    };
    out.put_u8(VERSION);
    out.put_u8(kind);
    out.put_u64_le(entry.log_id.leader_id.term);
    out.put_u32_le(entry.log_id.leader_id.node_id.0);
    match &entry.payload {
        EntryPayload::Blank => {}
        EntryPayload::Normal(payload) => out.extend_from_slice(&payload.0),
        EntryPayload::Membership(membership) => out.extend(membership_bytes(membership)),
    }
}

/// Decodes the record of the entry with this index.
pub(crate) fn decode_record(index: u64, mut record: Bytes) -> Read<Entry> {
    if u8_of(&mut record)? != VERSION {
        return Err(Malformed);
    }
    let kind = u8_of(&mut record)?;
    let (term, node) = (u64_of(&mut record)?, NodeId(u32_of(&mut record)?));
    let payload = match kind {
        0 => whole(EntryPayload::Blank, &record)?,
        1 => EntryPayload::Normal(Payload(record)),
        2 => EntryPayload::Membership(membership_of(&record)?),
        _ => return Err(Malformed),
    };
    Ok(Entry { log_id: LogId::new(CommittedLeaderId::new(term, node), index), payload })
}

/// The contents of the state file, which must not be forgotten: the promise, and the beginning of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RaftState {
    pub(crate) cluster: ClusterId,
    pub(crate) node: NodeId,
    pub(crate) vote: Option<Vote>,
    pub(crate) purged: Option<EntryLogId>,
}

pub(crate) fn encode_raft_state(state: &RaftState) -> Vec<u8> {
    let mut out = vec![VERSION];
    out.put_u128_le(state.cluster.0);
    out.put_u32_le(state.node.0);
    match &state.vote {
        None => out.put_u8(0),
        Some(vote) => {
            out.put_u8(1);
            put_vote(&mut out, vote);
        }
    }
    put_log_id(&mut out, state.purged.as_ref());
    out
}

pub(crate) fn decode_raft_state(bytes: &[u8]) -> Read<RaftState> {
    let mut from = Bytes::copy_from_slice(bytes);
    if u8_of(&mut from)? != VERSION {
        return Err(Malformed);
    }
    let cluster = ClusterId(from.try_get_u128_le().map_err(|_| Malformed)?);
    let node = NodeId(u32_of(&mut from)?);
    let vote = match u8_of(&mut from)? {
        0 => None,
        1 => Some(vote_of(&mut from)?),
        _ => return Err(Malformed),
    };
    let purged = log_id_of(&mut from)?;
    whole(RaftState { cluster, node, vote, purged }, &from)
}

/// The addressee of a message. A member refuses a message for another node or another cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Addressee {
    pub(crate) cluster: ClusterId,
    pub(crate) node: NodeId,
}

/// A message between members.
#[derive(Debug, Clone)]
pub(crate) enum Message {
    Append(AppendEntriesRequest<super::types::Types>),
    Vote(VoteRequest<NodeId>),
    /// The question whether the member would vote for a candidate whose log ends here.
    PreVote(Option<EntryLogId>),
    /// The head of a snapshot; the pieces follow.
    Snapshot(SnapshotHead),
}

/// The head of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SnapshotHead {
    pub(crate) vote: Vote,
    pub(crate) last: EntryLogId,
    /// The time of the last entry.
    pub(crate) time: rain_namespace::record::Time,
    pub(crate) membership: StoredMembership,
}

pub(crate) fn encode_message(to: Addressee, message: &Message) -> Bytes {
    let mut out = Vec::new();
    out.put_u8(VERSION);
    out.put_u128_le(to.cluster.0);
    out.put_u32_le(to.node.0);
    match message {
        Message::Append(append) => {
            out.reserve(128 + append.entries.iter().map(|entry| payload_len(entry) + 32).sum::<usize>());
            out.put_u8(1);
            put_vote(&mut out, &append.vote);
            put_log_id(&mut out, append.prev_log_id.as_ref());
            put_log_id(&mut out, append.leader_commit.as_ref());
            out.put_u32_le(append.entries.len() as u32);
            for entry in &append.entries {
                let at = out.len();
                out.put_u32_le(0);
                put_record(&mut out, entry);
                let len = (out.len() - at - 4) as u32;
                out[at..at + 4].copy_from_slice(&len.to_le_bytes());
            }
        }
        Message::Vote(request) => {
            out.put_u8(2);
            put_vote(&mut out, &request.vote);
            put_log_id(&mut out, request.last_log_id.as_ref());
        }
        Message::Snapshot(head) => {
            out.put_u8(3);
            put_vote(&mut out, &head.vote);
            put_log_id(&mut out, Some(&head.last));
            out.put_i64_le(head.time.secs);
            out.put_u32_le(head.time.nanos);
            out.extend(encode_stored_membership(&head.membership));
        }
        Message::PreVote(last) => {
            out.put_u8(4);
            put_log_id(&mut out, last.as_ref());
        }
    }
    out.into()
}

pub(crate) fn decode_message(mut from: Bytes) -> Read<(Addressee, Message)> {
    let from = &mut from;
    if u8_of(from)? != VERSION {
        return Err(Malformed);
    }
    let cluster = ClusterId(from.try_get_u128_le().map_err(|_| Malformed)?);
    let to = Addressee { cluster, node: NodeId(u32_of(from)?) };
    let message = match u8_of(from)? {
        1 => Message::Append(append_of(from)?),
        2 => {
            let (vote, last) = (vote_of(from)?, log_id_of(from)?);
            whole(Message::Vote(VoteRequest::new(vote, last)), from)?
        }
        3 => {
            let (vote, last) = (vote_of(from)?, log_id_of(from)?.ok_or(Malformed)?);
            let secs = from.try_get_i64_le().map_err(|_| Malformed)?;
            let time = rain_namespace::record::Time { secs, nanos: u32_of(from)? };
            let membership = decode_stored_membership(from)?;
            Message::Snapshot(SnapshotHead { vote, last, time, membership })
        }
        4 => whole(Message::PreVote(log_id_of(from)?), from)?,
        _ => return Err(Malformed),
    };
    Ok((to, message))
}

fn append_of(from: &mut Bytes) -> Read<AppendEntriesRequest<super::types::Types>> {
    let vote = vote_of(from)?;
    let (prev_log_id, leader_commit) = (log_id_of(from)?, log_id_of(from)?);
    let count = u32_of(from)?;
    if count > ENTRIES_MAX {
        return Err(Malformed);
    }
    let first = prev_log_id.map_or(Some(0), |id| id.index.checked_add(1)).ok_or(Malformed)?;
    let mut entries = Vec::with_capacity(count as usize);
    for number in 0..u64::from(count) {
        let len = u32_of(from)? as usize;
        let index = first.checked_add(number).ok_or(Malformed)?;
        entries.push(decode_record(index, bytes_of(from, len)?)?);
    }
    whole(AppendEntriesRequest { vote, prev_log_id, entries, leader_commit }, from)
}

/// An answer between members.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    Append(AppendEntriesResponse<NodeId>),
    Vote(VoteResponse<NodeId>),
    PreVote(bool),
    /// The vote of a member that has taken a snapshot or refused it.
    Snapshot(Vote),
}

pub(crate) fn encode_reply(reply: &Reply) -> Bytes {
    let mut out = vec![VERSION];
    match reply {
        Reply::Append(AppendEntriesResponse::Success) => out.put_u8(1),
        Reply::Append(AppendEntriesResponse::PartialSuccess(matching)) => {
            out.put_u8(2);
            put_log_id(&mut out, matching.as_ref());
        }
        Reply::Append(AppendEntriesResponse::Conflict) => out.put_u8(3),
        Reply::Append(AppendEntriesResponse::HigherVote(vote)) => {
            out.put_u8(4);
            put_vote(&mut out, vote);
        }
        Reply::Vote(response) => {
            out.put_u8(5);
            put_vote(&mut out, &response.vote);
            put_log_id(&mut out, response.last_log_id.as_ref());
            out.put_u8(u8::from(response.vote_granted));
        }
        Reply::Snapshot(vote) => {
            out.put_u8(6);
            put_vote(&mut out, vote);
        }
        Reply::PreVote(would) => {
            out.put_u8(7);
            out.put_u8(u8::from(*would));
        }
    }
    out.into()
}

pub(crate) fn decode_reply(mut from: Bytes) -> Read<Reply> {
    let from = &mut from;
    if u8_of(from)? != VERSION {
        return Err(Malformed);
    }
    let reply = match u8_of(from)? {
        1 => Reply::Append(AppendEntriesResponse::Success),
        2 => Reply::Append(AppendEntriesResponse::PartialSuccess(log_id_of(from)?)),
        3 => Reply::Append(AppendEntriesResponse::Conflict),
        4 => Reply::Append(AppendEntriesResponse::HigherVote(vote_of(from)?)),
        5 => {
            let (vote, last_log_id) = (vote_of(from)?, log_id_of(from)?);
            Reply::Vote(VoteResponse { vote, last_log_id, vote_granted: u8_of(from)? == 1 })
        }
        6 => Reply::Snapshot(vote_of(from)?),
        7 => Reply::PreVote(u8_of(from)? == 1),
        _ => return Err(Malformed),
    };
    whole(reply, from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use openraft::RaftLogId;
    use rain_namespace::record::Time;

    fn id(term: u64, node: u32, index: u64) -> EntryLogId {
        LogId::new(CommittedLeaderId::new(term, NodeId(node)), index)
    }

    fn membership() -> Membership {
        let nodes = |ids: &[u32]| ids.iter().map(|id| NodeId(*id)).collect::<BTreeSet<_>>();
        let places: BTreeMap<NodeId, MemberAddress> = (1..=4)
            .map(|node| (NodeId(node), MemberAddress { address: format!("10.0.0.{node}:7400") }))
            .collect();
        Membership::new(vec![nodes(&[1, 2, 3]), nodes(&[2, 3, 4])], places)
    }

    fn entries() -> Vec<Entry> {
        vec![
            Entry { log_id: id(3, 2, 8), payload: EntryPayload::Blank },
            Entry { log_id: id(3, 2, 9), payload: EntryPayload::Normal(Payload(Bytes::from_static(b"xyz"))) },
            Entry { log_id: id(3, 2, 10), payload: EntryPayload::Membership(membership()) },
        ]
    }

    #[test]
    fn records_read_back_and_keep_their_bytes() {
        for entry in entries() {
            let record = encode_record(&entry);
            assert_eq!(decode_record(entry.get_log_id().index, record.into()), Ok(entry));
        }
        let golden = [&[1, 1, 3, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0][..], b"xyz"].concat();
        assert_eq!(encode_record(&entries()[1]), golden);
        let head = [1, 2, 3, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 2, 3, 1, 2, 3, 3, 2, 3, 4, 4, 1, 13];
        assert_eq!(encode_record(&entries()[2])[..head.len()], head);
    }

    #[test]
    fn what_is_kept_reads_back_and_keeps_its_bytes() {
        let kept = RaftState {
            cluster: ClusterId(7),
            node: NodeId(5),
            vote: Some(Vote::new_committed(9, NodeId(4))),
            purged: Some(id(2, 1, 3)),
        };
        let bytes = encode_raft_state(&kept);
        assert_eq!(decode_raft_state(&bytes), Ok(kept));
        let mut golden = vec![1, 7];
        golden.extend([0; 15]);
        golden.extend([5, 0, 0, 0, 1, 9, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 1]);
        golden.extend([1, 2, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bytes, golden);
        let nothing = RaftState { vote: None, purged: None, ..kept };
        assert_eq!(decode_raft_state(&encode_raft_state(&nothing)), Ok(nothing));
    }

    #[test]
    fn messages_and_replies_read_back_and_torn_ones_are_malformed() {
        let to = Addressee { cluster: ClusterId(9), node: NodeId(2) };
        let vote = Vote::new(4, NodeId(3));
        let append = AppendEntriesRequest {
            vote,
            prev_log_id: Some(id(2, 1, 7)),
            entries: entries(),
            leader_commit: Some(id(2, 1, 5)),
        };
        let head = SnapshotHead {
            vote,
            last: id(1, 1, 1),
            time: Time { secs: -1, nanos: 5 },
            membership: StoredMembership::new(Some(id(1, 1, 0)), membership()),
        };
        let messages = [
            Message::Append(append),
            Message::Vote(VoteRequest::new(vote, None)),
            Message::Snapshot(head),
            Message::PreVote(Some(id(1, 2, 3))),
        ];
        for message in messages {
            let bytes = encode_message(to, &message);
            let (addressee, read) = decode_message(bytes.clone()).expect("whole");
            assert_eq!(addressee, to);
            assert_eq!(encode_message(to, &read), bytes);
            for cut in 0..bytes.len() {
                assert!(decode_message(bytes.slice(..cut)).is_err(), "cut at {cut} of {}", bytes.len());
            }
        }
        let replies = [
            Reply::Append(AppendEntriesResponse::Success),
            Reply::Append(AppendEntriesResponse::PartialSuccess(Some(id(1, 2, 3)))),
            Reply::Append(AppendEntriesResponse::Conflict),
            Reply::Append(AppendEntriesResponse::HigherVote(vote)),
            Reply::Vote(VoteResponse { vote, last_log_id: Some(id(1, 2, 3)), vote_granted: true }),
            Reply::Snapshot(vote),
            Reply::PreVote(true),
        ];
        for reply in replies {
            let bytes = encode_reply(&reply);
            for cut in 0..bytes.len() {
                assert!(decode_reply(bytes.slice(..cut)).is_err());
            }
            assert_eq!(decode_reply(bytes), Ok(reply));
        }
    }

    #[test]
    fn a_count_that_lies_is_refused() {
        let to = Addressee { cluster: ClusterId(9), node: NodeId(2) };
        let empty = AppendEntriesRequest {
            vote: Vote::new(4, NodeId(3)),
            prev_log_id: Some(id(2, 1, u64::MAX)),
            entries: Vec::new(),
            leader_commit: None,
        };
        let mut bytes = encode_message(to, &Message::Append(empty)).to_vec();
        let at = bytes.len() - 4;
        bytes[at..].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(decode_message(bytes.into()).is_err());
    }
}
