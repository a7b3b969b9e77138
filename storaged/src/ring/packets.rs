//! Envelopes as datagrams: cut into parts, sealed, put together again.
//!
//! ```text
//! "RR" version  number    part   parts  seal       part of the envelope
//!  2      1     8 LE      2 LE   2 LE   8 LE       up to 8169 bytes
//! ```
//!
//! The seal is CRC-64/NVMe over the cluster's id and all other bytes. It keeps clusters apart and finds
//! damage (UDP's own checksum is weak); it does not authenticate. A packet with another seal is dropped and
//! counted.
//!
//! Memory is bounded by the number and the length of unfinished envelopes; the oldest one is dropped
//! (`what_never_ends_is_forgotten`).

use crc_fast::{CrcAlgorithm, Digest};
use rain_ring::wire::{self, Envelope};
use rain_types::ClusterId;
use std::collections::VecDeque;
use std::net::SocketAddr;

const VERSION: u8 = 1;
const HEAD: usize = 2 + 1 + 8 + 2 + 2;
const SEAL: usize = 8;
/// Size of a datagram, bytes: six Ethernet frames, one frame of a loopback or of jumbo frames.
pub(super) const DATAGRAM_BYTES: usize = 8192;
const PART: usize = DATAGRAM_BYTES - HEAD - SEAL;
/// Parts of one envelope: a full token, with room.
const PARTS_MAX: usize = 512;
/// Unfinished envelopes.
const UNFINISHED_MAX: usize = 64;

/// Seals and opens datagrams of one cluster.
#[derive(Debug, Clone)]
pub(super) struct Seal(ClusterId);

impl Seal {
    pub(super) fn of(cluster: ClusterId) -> Seal {
        Seal(cluster)
    }

    fn over(&self, head: &[u8], part: &[u8]) -> [u8; SEAL] {
        let mut digest = Digest::new(CrcAlgorithm::Crc64Nvme);
        digest.update(&self.0.0.to_be_bytes());
        digest.update(head);
        digest.update(part);
        digest.finalize().to_le_bytes()
    }

    /// Returns the datagrams of an envelope; none for an envelope that is too long.
    pub(super) fn cut(&self, number: u64, envelope: &Envelope) -> Vec<Vec<u8>> {
        let bytes = wire::encode(envelope);
        let parts = bytes.len().div_ceil(PART);
        if parts > PARTS_MAX {
            return Vec::new();
        }
        let datagram = |(at, part): (usize, &[u8])| {
            let mut datagram = Vec::with_capacity(HEAD + SEAL + part.len());
            datagram.extend_from_slice(b"RR");
            datagram.push(VERSION);
            datagram.extend_from_slice(&number.to_le_bytes());
            datagram.extend_from_slice(&(at as u16).to_le_bytes());
            datagram.extend_from_slice(&(parts as u16).to_le_bytes());
            let seal = self.over(&datagram, part);
            datagram.extend_from_slice(&seal);
            datagram.extend_from_slice(part);
            datagram
        };
        bytes.chunks(PART).enumerate().map(datagram).collect()
    }

    /// Returns number, part, count of parts and contents of a datagram; `None` unless it is whole and of this
    /// cluster.
    fn open<'a>(&self, datagram: &'a [u8]) -> Option<(u64, usize, usize, &'a [u8])> {
        let (head, rest) = datagram.split_at_checked(HEAD)?;
        let (seal, part) = rest.split_at_checked(SEAL)?;
        if &head[..2] != b"RR" || head[2] != VERSION || self.over(head, part) != *seal {
            return None;
        }
        let number = u64::from_le_bytes(*head[3..].first_chunk()?);
        let at = usize::from(u16::from_le_bytes(*head[11..].first_chunk()?));
        let parts = usize::from(u16::from_le_bytes(*head[13..].first_chunk()?));
        (at < parts && parts <= PARTS_MAX).then_some((number, at, parts, part))
    }
}

#[derive(Debug)]
struct Unfinished {
    from: SocketAddr,
    number: u64,
    parts: Vec<Option<Vec<u8>>>,
}

/// Puts envelopes together from their parts.
#[derive(Debug, Default)]
pub(super) struct Reassembly {
    unfinished: VecDeque<Unfinished>,
    /// Datagrams that were damaged, of another cluster, or not decodable.
    pub(super) dropped: u64,
}

impl Reassembly {
    pub(super) fn take(&mut self, seal: &Seal, from: SocketAddr, datagram: &[u8]) -> Option<Envelope> {
        let Some((number, at, parts, part)) = seal.open(datagram) else {
            self.dropped += 1;
            return None;
        };
        if parts == 1 {
            return self.decode(part);
        }
        let known = self.unfinished.iter().position(|one| one.from == from && one.number == number);
        let index = known.unwrap_or_else(|| {
            if self.unfinished.len() == UNFINISHED_MAX {
                self.unfinished.pop_front();
            }
            self.unfinished.push_back(Unfinished { from, number, parts: vec![None; parts] });
            self.unfinished.len() - 1
        });
        let unfinished = &mut self.unfinished[index];
        *unfinished.parts.get_mut(at)? = Some(part.to_vec());
        if unfinished.parts.iter().any(Option::is_none) {
            return None;
        }
        let whole = self.unfinished.remove(index)?;
        let bytes: Vec<u8> = whole.parts.into_iter().flatten().flatten().collect();
        self.decode(&bytes)
    }

    fn decode(&mut self, bytes: &[u8]) -> Option<Envelope> {
        let envelope = wire::decode(bytes).ok();
        self.dropped += u64::from(envelope.is_none());
        envelope
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rain_ring::wire::Body;
    use rain_ring::{Bytes, Member, Message};
    use rain_types::NodeId;

    fn envelope(bytes: usize) -> Envelope {
        let bytes = Bytes((0..bytes).map(|at| at as u8).collect());
        let message = Message::SnapshotPart { index: 1, total: 2, offset: 0, bytes };
        let from = Member { node: NodeId(1), incarnation: 3 };
        Envelope { from, to: NodeId(2), link: 0, body: Body::Ring(message) }
    }

    #[test]
    fn parts_in_any_order_give_the_envelope_and_damage_gives_none() {
        let seal = Seal::of(ClusterId(7));
        let from: SocketAddr = "127.0.0.1:1".parse().expect("an address");
        for len in [0, 100, PART, 5 * PART] {
            let mut reassembly = Reassembly::default();
            let sent = envelope(len);
            let mut datagrams = seal.cut(9, &sent);
            assert!(datagrams.iter().all(|datagram| datagram.len() <= DATAGRAM_BYTES));
            datagrams.reverse();
            let got: Vec<_> =
                datagrams.iter().filter_map(|datagram| reassembly.take(&seal, from, datagram)).collect();
            assert_eq!(got, [sent]);
            let mut damaged = datagrams[0].clone();
            *damaged.last_mut().expect("bytes") ^= 1;
            assert!(reassembly.take(&seal, from, &damaged).is_none() && reassembly.dropped == 1);
            let foreign = Seal::of(ClusterId(8));
            assert!(reassembly.take(&foreign, from, &datagrams[0]).is_none() && reassembly.dropped == 2);
        }
    }

    #[test]
    fn what_never_ends_is_forgotten() {
        let seal = Seal::of(ClusterId(7));
        let from: SocketAddr = "127.0.0.1:1".parse().expect("an address");
        let mut reassembly = Reassembly::default();
        for number in 0..1000 {
            reassembly.take(&seal, from, &seal.cut(number, &envelope(2 * PART))[0]);
        }
        assert_eq!(reassembly.unfinished.len(), UNFINISHED_MAX);
        assert!(seal.cut(1, &envelope(PARTS_MAX * PART)).is_empty());
        for junk in [&b""[..], b"RR", &[0; 60]] {
            assert!(reassembly.take(&seal, from, junk).is_none());
        }
    }
}
