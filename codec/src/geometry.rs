//! [`Geometry`]: an XOR array code as data, which is all that the solver, the verifier and the executor need
//! of it.
//!
//! A code word is an array of packets, one column a share. The code is its parity equations: sets of packets
//! whose XOR is zero. Some packets are parity, the others data; the equations must determine the parity from
//! the data, and any m lost columns from the rest. Everything else (encode, decode, repair, what an update
//! touches) follows by elimination over GF(2).
//!
//! Left out: where a block's bytes go and how long a packet is ([`codes`](crate::codes)).

use crate::ShareSet;
use crate::schedule::Bits;

/// A cell of the array: row `row` of share `share`. In a [`Schedule`](crate::schedule::Schedule), the column
/// after the last share is scratch space.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Packet {
    /// The column.
    pub share: u16,
    /// The row in it.
    pub row: u16,
}

impl Packet {
    /// The packet in this column and row.
    ///
    /// # Panics
    /// When either is above 65535.
    pub fn new(share: usize, row: usize) -> Packet {
        let narrow = |value: usize| u16::try_from(value).expect("arrays are far smaller than 65536 squared");
        Packet { share: narrow(share), row: narrow(row) }
    }

    /// The column as an index.
    pub fn share(self) -> usize {
        usize::from(self.share)
    }

    /// The row as an index.
    pub fn row(self) -> usize {
        usize::from(self.row)
    }
}

/// An XOR array code: `shares` columns of `rows` packets, equations, and which packets are parity.
#[derive(Debug, Clone)]
pub struct Geometry {
    /// Columns.
    pub shares: usize,
    /// Packets in a column.
    pub rows: usize,
    /// Each is a set of packets whose XOR is zero.
    pub equations: Vec<Vec<Packet>>,
    /// The packets that `encode` computes.
    pub parity: Vec<Packet>,
}

impl Geometry {
    /// Packets of the array.
    pub fn packets(&self) -> usize {
        self.shares * self.rows
    }

    /// A packet's number: column by column.
    pub(crate) fn number(&self, packet: Packet) -> usize {
        packet.share() * self.rows + packet.row()
    }

    /// The inverse of [`Geometry::number`].
    pub(crate) fn packet(&self, number: usize) -> Packet {
        Packet::new(number / self.rows, number % self.rows)
    }

    /// The packets of these shares.
    pub(crate) fn packets_of(&self, shares: ShareSet) -> Bits {
        let mut bits = Bits::new(self.packets());
        for share in shares {
            for row in 0..self.rows {
                bits.insert(share * self.rows + row);
            }
        }
        bits
    }

    /// The parity packets.
    pub(crate) fn parity_bits(&self) -> Bits {
        Bits::of(self.packets(), self.parity.iter().map(|&packet| self.number(packet)))
    }

    /// The equations, each as the set of its packets.
    pub(crate) fn equation_bits(&self) -> Vec<Bits> {
        let numbers = |equation: &Vec<Packet>| equation.iter().map(|&p| self.number(p)).collect::<Vec<_>>();
        self.equations.iter().map(|equation| Bits::of(self.packets(), numbers(equation))).collect()
    }
}
