//! Inode numbers: the namespace's and the kernel's.

use fuser::INodeNo;
use rain_types::Ino;

/// Maps inode numbers between the namespace and the kernel. They are the same, except that FUSE requires 1
/// for the root: the volume's root and 1 are swapped.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Numbers {
    root: Ino,
}

impl Numbers {
    pub(crate) fn new(root: Ino) -> Numbers {
        Numbers { root }
    }

    /// The kernel's number.
    pub(crate) fn kernel(self, ino: Ino) -> INodeNo {
        INodeNo(self.swap(ino.0))
    }

    /// The namespace's number.
    pub(crate) fn namespace(self, number: INodeNo) -> Ino {
        Ino(self.swap(number.0))
    }

    fn swap(self, number: u64) -> u64 {
        match number {
            number if number == self.root.0 => INodeNo::ROOT.0,
            number if number == INodeNo::ROOT.0 => self.root.0,
            number => number,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_is_1_for_the_kernel_and_every_number_maps_back() {
        for root in [1, 40, 1 << 48] {
            let numbers = Numbers::new(Ino(root));
            assert_eq!(numbers.kernel(Ino(root)), INodeNo::ROOT);
            let mut kernel: Vec<u64> = [1, 2, 40, 41, 1 << 48].map(|ino| numbers.kernel(Ino(ino)).0).into();
            for ino in [1, 2, 40, 41, 1 << 48] {
                assert_eq!(numbers.namespace(numbers.kernel(Ino(ino))), Ino(ino));
            }
            kernel.sort();
            kernel.dedup();
            assert_eq!(kernel.len(), 5, "two inodes share a number");
        }
    }
}
