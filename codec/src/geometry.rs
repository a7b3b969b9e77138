//! [`Geometry`]: an XOR array code as data, which is all that the solver, the verifier and the executor need.
//!
//! A code word is an array of packets with one column for each share. The code is its parity equations: sets
//! of packets whose XOR is zero. Some packets are parity, the others data. Encoding, decoding, repair and the
//! parity that an update touches all follow by elimination over GF(2).
//!
//! Invariants of a geometry that is a code (`every_code_survives_every_loss_up_to_14_shares`):
//! 1. The equations determine the parity from the data.
//! 2. The equations determine any m lost columns from the rest.
//!
//! Left out: the placement of a block's bytes and the length of a packet ([`codes`](crate::codes)).

use crate::ShareSet;
use crate::schedule::Bits;

/// A cell of the array: row `row` of share `share`. In a [`Schedule`](crate::schedule::Schedule) the column
/// after the last share is scratch space.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Packet {
    /// The column.
    pub share: u16,
    /// The row in it.
    pub row: u16,
}

impl Packet {
    /// Returns the packet in this column and row.
    ///
    /// # Panics
    /// When `share` or `row` is above 65535.
    pub fn new(share: usize, row: usize) -> Packet {
        let narrow = |value: usize| u16::try_from(value).expect("arrays are far smaller than 65536 squared");
        Packet { share: narrow(share), row: narrow(row) }
    }

    /// Returns the column as an index.
    pub fn share(self) -> usize {
        usize::from(self.share)
    }

    /// Returns the row as an index.
    pub fn row(self) -> usize {
        usize::from(self.row)
    }
}

/// An XOR array code: `shares` columns of `rows` packets, the equations, and the parity packets.
#[derive(Debug, Clone)]
pub struct Geometry {
    /// Number of columns.
    pub shares: usize,
    /// Number of packets in a column.
    pub rows: usize,
    /// The parity equations: sets of packets whose XOR is zero.
    pub equations: Vec<Vec<Packet>>,
    /// The packets that encoding computes.
    pub parity: Vec<Packet>,
}

impl Geometry {
    /// Returns the number of packets in the array.
    pub fn packets(&self) -> usize {
        self.shares * self.rows
    }

    /// Returns a packet's number: packets are numbered column by column.
    pub(crate) fn number(&self, packet: Packet) -> usize {
        packet.share() * self.rows + packet.row()
    }

    /// Returns the packet with this number; the inverse of [`Geometry::number`].
    pub(crate) fn packet(&self, number: usize) -> Packet {
        Packet::new(number / self.rows, number % self.rows)
    }

    /// Returns the packets of these shares.
    pub(crate) fn packets_of(&self, shares: ShareSet) -> Bits {
        let mut bits = Bits::new(self.packets());
        for share in shares {
            for row in 0..self.rows {
                bits.insert(share * self.rows + row);
            }
        }
        bits
    }

    /// Returns the parity packets.
    pub(crate) fn parity_bits(&self) -> Bits {
        Bits::of(self.packets(), self.parity.iter().map(|&packet| self.number(packet)))
    }

    /// Returns the equations, each as the set of its packets.
    pub(crate) fn equation_bits(&self) -> Vec<Bits> {
        let numbers = |equation: &Vec<Packet>| equation.iter().map(|&p| self.number(p)).collect::<Vec<_>>();
        self.equations.iter().map(|equation| Bits::of(self.packets(), numbers(equation))).collect()
    }
}
