//! Writes of the kernel that are not answered yet, and the page of each that the kernel may have locked.
//!
//! The kernel copies written bytes into its pages before it sends the request. A page that it has not read before
//! and that is not written as a whole stays locked until the answer. It can only be the last page of the write.

use parking_lot::Mutex;
use rain_types::Ino;
use std::collections::{BTreeSet, HashMap};

/// Bytes of a page.
pub(super) const PAGE_BYTES: u64 = 4096;

/// The writes under way.
#[derive(Debug, Default)]
pub(super) struct WritesUnderWay(Mutex<HashMap<Ino, Vec<u64>>>);

/// A write that is not answered yet.
#[derive(Debug)]
pub(crate) struct WriteUnderWay<'a> {
    all: &'a WritesUnderWay,
    ino: Ino,
    page: u64,
}

impl WritesUnderWay {
    /// A write through the kernel's pages begins. It ends when the result is dropped.
    pub(super) fn begin(&self, ino: Ino, offset: u64, len: usize) -> WriteUnderWay<'_> {
        let page = (offset + len as u64).saturating_sub(1) / PAGE_BYTES;
        self.0.lock().entry(ino).or_default().push(page);
        WriteUnderWay { all: self, ino, page }
    }

    /// The pages of a file that the kernel may have locked.
    pub(super) fn locked(&self, ino: Ino) -> BTreeSet<u64> {
        self.0.lock().get(&ino).into_iter().flatten().copied().collect()
    }
}

impl Drop for WriteUnderWay<'_> {
    fn drop(&mut self) {
        let mut all = self.all.0.lock();
        if let Some(pages) = all.get_mut(&self.ino) {
            if let Some(at) = pages.iter().position(|page| *page == self.page) {
                pages.swap_remove(at);
            }
            if pages.is_empty() {
                all.remove(&self.ino);
            }
        }
    }
}

/// The ranges of bytes between pages: from, and length; 0: to the end.
pub(super) fn between(pages: &BTreeSet<u64>) -> Vec<(u64, u64)> {
    let mut ranges = Vec::new();
    let mut from = 0;
    for page in pages {
        let (begin, end) = (page * PAGE_BYTES, (page + 1) * PAGE_BYTES);
        if from < begin {
            ranges.push((from, begin - from));
        }
        from = end;
    }
    ranges.push((from, 0));
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_page_of_a_write_may_be_locked_while_it_is_under_way() {
        let writes = WritesUnderWay::default();
        let (one, two) = (writes.begin(Ino(1), 0, 4096), writes.begin(Ino(1), 4000, 200));
        assert_eq!(writes.locked(Ino(1)), BTreeSet::from([0, 1]));
        assert_eq!(writes.locked(Ino(2)), BTreeSet::new());
        drop(one);
        assert_eq!(writes.locked(Ino(1)), BTreeSet::from([1]));
        drop(two);
        assert!(writes.0.lock().is_empty());
    }

    #[test]
    fn the_ranges_are_all_bytes_but_those_of_the_pages() {
        assert_eq!(between(&BTreeSet::new()), [(0, 0)]);
        assert_eq!(between(&BTreeSet::from([0])), [(4096, 0)]);
        assert_eq!(between(&BTreeSet::from([1, 2, 4])), [(0, 4096), (12_288, 4096), (20_480, 0)]);
    }
}
