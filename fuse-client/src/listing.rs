//! Reading a directory through one handle, as pages of names. Pure: it returns the page to read next and
//! takes in the entries that were read.
//!
//! The kernel resumes a directory at a number, the cookie. A position among all names would not do: it shifts
//! when names are removed, and `rm` would leave every second file. Here a cookie is a page and a position in
//! it. A page begins after a certain name, in the namespace's order.
//!
//! Invariants, as long as no `rewind` comes between:
//! 1. A page, once begun after a name, stays begun after that name
//!    (`going_back_to_a_cookie_gives_the_same_entries_again`).
//! 2. Going on from page to page, every name that is there from the beginning to the end of the reading is
//!    given exactly once, whatever is added or removed meanwhile (`removing_what_was_read_skips_nothing`,
//!    `adding_names_while_reading_repeats_nothing`).
//! 3. Memory is bounded by one page of entries, and one name for each page begun.
//!
//! Left out: going back (`seekdir`) to a page that was read before reads it again. Names added or removed in
//! it since shift the positions within that page.

use crate::coherence::Stamp;
use rain_namespace::command::Name;
use rain_namespace::query::DirectoryEntry;
use rain_types::Ino;
use std::collections::BTreeSet;

/// The bits of a cookie for the position in a page. The namespace gives at most 4096 names at a time.
const POSITION_BITS: u32 = 16;

/// Names read at a time: one round trip of about 150 KiB.
const PAGE_NAMES: u32 = 1000;

/// Names read at a time in a directory that is being changed through this mount. Such a page is soon
/// outdated, and the rest of it was read in vain.
const PAGE_NAMES_SHORT: u32 = 256;

/// Names read at a time when going back: the namespace's maximum, more than the page had, should some have
/// been added.
const PAGE_NAMES_AGAIN: u32 = 4096;

/// A page that must be read from the namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PageRequest {
    number: u64,
    /// The cookie to go on at once the page is read.
    pub(crate) cookie: u64,
    /// The page has the names after this one; None: from the first.
    pub(crate) after: Option<Name>,
    /// The most names to read.
    pub(crate) limit: u32,
}

/// Entries, and when and how they were told.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Told<'a> {
    pub(crate) entries: &'a [DirectoryEntry],
    /// The inodes that were told without a lease on them or on their names.
    pub(crate) unleased: &'a BTreeSet<Ino>,
    pub(crate) stamp: Stamp,
}

/// The content of a directory at a cookie.
#[derive(Debug)]
pub(crate) enum AtCookie<'a> {
    /// `.` or `..`; the next cookie is one more.
    Dots(&'static str),
    /// Entries; the first is at `cookie`, and each has the cookie after that of the one before.
    Entries { cookie: u64, told: Told<'a> },
    /// Entries of a page that must be read first.
    Unread(PageRequest),
    /// Nothing: the end of the directory.
    End,
}

#[derive(Debug)]
struct Page {
    number: u64,
    entries: Vec<DirectoryEntry>,
    /// The inodes that were told without a lease on them or on their names.
    unleased: BTreeSet<Ino>,
    more: bool,
    stamp: Stamp,
}

/// The state of reading one directory through one handle.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    /// The names after which pages 1, 2, ... begin. Page 0 is `.` and `..`.
    begins: Vec<Option<Name>>,
    page: Option<Page>,
    /// The number of the last page that was ever read.
    furthest: u64,
    /// Whether the directory is being changed through this mount.
    changing: bool,
}

fn cookie(page: u64, position: usize) -> u64 {
    page << POSITION_BITS | position as u64
}

impl Listing {
    pub(crate) fn new() -> Listing {
        Listing { begins: vec![None], ..Listing::default() }
    }

    /// Begins anew (`rewinddir`): later reads give the directory as it is then.
    pub(crate) fn rewind(&mut self) {
        *self = Listing::new();
    }

    /// The content at a cookie: 0 for the beginning, or one that an entry was given with.
    pub(crate) fn at(&self, at: u64) -> AtCookie<'_> {
        let (number, position) = (at >> POSITION_BITS, (at & ((1 << POSITION_BITS) - 1)) as usize);
        match (number, position) {
            (0, 0) => return AtCookie::Dots("."),
            (0, 1) => return AtCookie::Dots(".."),
            (0, _) => return self.at(cookie(1, 0)),
            _ => {}
        }
        let Some(after) = self.begins.get(number as usize - 1) else {
            // The cookie is from before a rewind, or was never given.
            return AtCookie::End;
        };
        match &self.page {
            Some(page) if page.number == number => match page.entries.get(position..) {
                Some(entries) if !entries.is_empty() => {
                    let told = Told { entries, unleased: &page.unleased, stamp: page.stamp };
                    AtCookie::Entries { cookie: at, told }
                }
                _ if page.more => self.at(cookie(number + 1, 0)),
                _ => AtCookie::End,
            },
            _ => {
                let next_is_begun = self.begins.len() as u64 > number;
                let limit = match (next_is_begun, self.changing) {
                    (true, _) => PAGE_NAMES_AGAIN,
                    (false, true) => PAGE_NAMES_SHORT,
                    (false, false) => PAGE_NAMES,
                };
                AtCookie::Unread(PageRequest { number, cookie: at, after: after.clone(), limit })
            }
        }
    }

    /// Takes in a page that was read: the entries after `wanted.after` in order, and whether there are more.
    pub(crate) fn fill(
        &mut self,
        wanted: &PageRequest,
        mut entries: Vec<DirectoryEntry>,
        mut more: bool,
        unleased: BTreeSet<Ino>,
        stamp: Stamp,
    ) {
        match self.begins.get(wanted.number as usize) {
            // The next page is begun: this page ends where that begins.
            Some(Some(end)) => {
                entries.retain(|entry| entry.name <= *end);
                more = true;
            }
            Some(None) => {}
            None => match entries.last() {
                Some(last) if more => self.begins.push(Some(last.name.clone())),
                _ => more = false,
            },
        }
        self.furthest = self.furthest.max(wanted.number);
        self.page = Some(Page { number: wanted.number, entries, unleased, more, stamp });
    }

    /// The page is outdated from this cookie on: ends the page before it. Returns the cookie to go on at,
    /// where a page must be read.
    pub(crate) fn cut(&mut self, at: u64) -> u64 {
        self.changing = true;
        let position = (at & ((1 << POSITION_BITS) - 1)) as usize;
        let Some(page) = &mut self.page else { return at };
        let last = position.checked_sub(1).and_then(|last| page.entries.get(last));
        match last {
            Some(last) if page.number == self.furthest => {
                self.begins.truncate(page.number as usize);
                self.begins.push(Some(last.name.clone()));
                page.entries.truncate(position);
                page.more = true;
                cookie(page.number + 1, 0)
            }
            // At a page's start, or in a page that was gone back to: the same page again.
            _ => {
                if page.number == self.furthest {
                    self.begins.truncate(page.number as usize);
                }
                self.page = None;
                at
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::coherence::test_attr as attr;
    use std::collections::BTreeSet;
    use std::time::Instant;

    fn stamp() -> Stamp {
        Stamp { change: 0, at: Instant::now() }
    }

    /// A directory that answers as the namespace does.
    struct Directory {
        names: BTreeSet<Name>,
        limit: u32,
        reads: usize,
    }

    impl Directory {
        fn new(count: usize) -> Directory {
            Directory { names: (0..count).map(name).collect(), limit: u32::MAX, reads: 0 }
        }

        fn read(&mut self, wanted: &PageRequest) -> (Vec<DirectoryEntry>, bool) {
            self.reads += 1;
            let limit = wanted.limit.min(self.limit) as usize;
            let after = |name: &&Name| wanted.after.as_ref().is_none_or(|after| *name > after);
            let mut found: Vec<DirectoryEntry> = (self.names.iter())
                .filter(after)
                .take(limit + 1)
                .map(|name| DirectoryEntry { name: name.clone(), attr: attr(9) })
                .collect();
            let more = found.len() > limit;
            found.truncate(limit);
            (found, more)
        }

        /// One request of the kernel: up to `room` entries from the cookie on, each with the cookie after it.
        fn request(&mut self, listing: &mut Listing, mut at: u64, room: usize) -> Vec<(String, u64)> {
            let mut reply = Vec::new();
            loop {
                match listing.at(at) {
                    AtCookie::Dots(name) => {
                        at += 1;
                        reply.push((name.to_owned(), at));
                    }
                    AtCookie::Entries { cookie, told: Told { entries, .. } } => {
                        at = cookie;
                        for entry in entries {
                            at += 1;
                            reply.push((String::from_utf8(entry.name.clone()).unwrap(), at));
                        }
                    }
                    AtCookie::Unread(wanted) => {
                        let (entries, more) = self.read(&wanted);
                        listing.fill(&wanted, entries, more, BTreeSet::new(), stamp());
                        at = wanted.cookie;
                    }
                    AtCookie::End => break,
                }
                if reply.len() >= room {
                    break;
                }
            }
            reply.truncate(room);
            reply
        }
    }

    fn name(number: usize) -> Name {
        format!("f{number:06}").into_bytes()
    }

    fn all(directory: &mut Directory, room: usize) -> Vec<String> {
        let mut listing = Listing::new();
        let (mut names, mut at) = (Vec::new(), 0);
        loop {
            let reply = directory.request(&mut listing, at, room);
            let Some((_, next)) = reply.last() else { return names };
            at = *next;
            names.extend(reply.into_iter().map(|(name, _)| name));
        }
    }

    #[test]
    fn every_name_comes_once_for_any_size_of_page_and_reply() {
        for (count, limit, room) in
            [(0, 5, 3), (1, 1, 1), (5, 5, 2), (10, 5, 170), (23, 4, 3), (2500, u32::MAX, 170)]
        {
            let mut directory = Directory { limit, ..Directory::new(count) };
            let mut expected = vec![".".to_owned(), "..".to_owned()];
            expected.extend((0..count).map(|number| String::from_utf8(name(number)).unwrap()));
            assert_eq!(
                all(&mut directory, room),
                expected,
                "{count} names, pages of {limit}, {room} a reply"
            );
            if limit == u32::MAX {
                assert_eq!(directory.reads, 3, "2500 names are three pages");
            }
        }
    }

    #[test]
    fn removing_what_was_read_skips_nothing() {
        let mut directory = Directory { limit: 10, ..Directory::new(100) };
        let mut listing = Listing::new();
        let (mut seen, mut at) = (0, 0);
        loop {
            let reply = directory.request(&mut listing, at, 7);
            let Some((_, next)) = reply.last() else { break };
            at = *next;
            for (name, _) in reply.iter().filter(|(name, _)| !name.starts_with('.')) {
                assert!(directory.names.remove(name.as_bytes()), "{name} was given twice or never there");
                seen += 1;
            }
        }
        assert_eq!(seen, 100);
        assert!(directory.names.is_empty());
    }

    #[test]
    fn adding_names_while_reading_repeats_nothing() {
        let mut directory = Directory { limit: 10, ..Directory::new(50) };
        let mut listing = Listing::new();
        let (mut seen, mut at, mut added) = (Vec::new(), 0, 0);
        loop {
            let reply = directory.request(&mut listing, at, 4);
            let Some((_, next)) = reply.last() else { break };
            at = *next;
            seen.extend(reply.into_iter().map(|(name, _)| name));
            // One in front of everything, one in the middle.
            directory.names.insert(format!("a{added}").into_bytes());
            directory.names.insert(format!("f000020-{added}").into_bytes());
            added += 1;
        }
        let unique: BTreeSet<&String> = seen.iter().collect();
        assert_eq!(unique.len(), seen.len(), "a name came twice: {seen:?}");
        for number in 0..50 {
            assert!(seen.contains(&String::from_utf8(name(number)).unwrap()));
        }
    }

    #[test]
    fn rewinding_shows_the_directory_as_it_is_now() {
        let mut directory = Directory { limit: 3, ..Directory::new(4) };
        let mut listing = Listing::new();
        let first = directory.request(&mut listing, 0, 100);
        assert_eq!(first.len(), 6);
        directory.names.remove(&name(0));
        directory.names.insert(b"new".to_vec());
        listing.rewind();
        let again: Vec<String> =
            directory.request(&mut listing, 0, 100).into_iter().map(|(name, _)| name).collect();
        assert_eq!(again, [".", "..", "f000001", "f000002", "f000003", "new"]);
    }

    #[test]
    fn going_back_to_a_cookie_gives_the_same_entries_again() {
        let mut directory = Directory { limit: 10, ..Directory::new(45) };
        let mut listing = Listing::new();
        let (mut cookies, mut at) = (Vec::new(), 0);
        loop {
            let reply = directory.request(&mut listing, at, 6);
            let Some((_, next)) = reply.last() else { break };
            cookies.push((at, reply.clone()));
            at = *next;
        }
        for (at, before) in cookies.iter().rev() {
            let again = directory.request(&mut listing, *at, before.len());
            assert_eq!(again, *before);
        }
    }

    #[test]
    fn a_page_gone_back_to_ends_where_the_next_begins() {
        let mut directory = Directory { limit: 4, ..Directory::new(12) };
        let mut listing = Listing::new();
        let first = directory.request(&mut listing, 0, 100);
        assert_eq!(first.len(), 14);
        let (_, third) = &first[2];
        directory.names.remove(&name(2));
        let again: Vec<String> =
            directory.request(&mut listing, *third, 100).into_iter().map(|(name, _)| name).collect();
        let expected: Vec<String> =
            [1, 3].into_iter().chain(4..12).map(|number| String::from_utf8(name(number)).unwrap()).collect();
        assert_eq!(again, expected);
    }

    #[test]
    fn an_outdated_page_is_read_again_from_where_the_reader_is() {
        let mut directory = Directory::new(30);
        let mut listing = Listing::new();
        let first = directory.request(&mut listing, 0, 12);
        assert_eq!(directory.reads, 1);
        directory.names.remove(&name(15));
        let at = listing.cut(first[11].1);
        let rest: Vec<String> =
            directory.request(&mut listing, at, 100).into_iter().map(|(name, _)| name).collect();
        assert_eq!(directory.reads, 2);
        let expected: Vec<String> =
            (10..15).chain(16..30).map(|number| String::from_utf8(name(number)).unwrap()).collect();
        assert_eq!(rest, expected);
        // A cookie from before the cut still leads on to all the rest.
        let again = directory.request(&mut listing, first[5].1, 100);
        assert_eq!(again.len(), 6 + rest.len());
        assert_eq!(again[0].0, "f000004");
    }

    #[test]
    fn an_outdated_page_is_read_again_from_its_start() {
        let mut directory = Directory { limit: 5, ..Directory::new(20) };
        let mut listing = Listing::new();
        let first = directory.request(&mut listing, 0, 7);
        directory.names.remove(&name(6));
        // The next page is begun but not read: nothing to cut, it is read as it is.
        let next = directory.request(&mut listing, first[6].1, 5);
        assert_eq!(next[1].0, "f000007");
        let start = next[0].1 - 1;
        directory.names.remove(&name(5));
        let at = listing.cut(start);
        let again = directory.request(&mut listing, at, 100);
        assert_eq!(again[0].0, "f000007");
        assert_eq!(again.len(), 13);
    }

    #[test]
    fn a_directory_that_changes_is_read_in_short_pages() {
        let mut directory = Directory::new(5000);
        let mut listing = Listing::new();
        let first = directory.request(&mut listing, 0, 10);
        let at = listing.cut(first[9].1);
        let AtCookie::Unread(wanted) = listing.at(at) else { panic!("an outdated page was kept") };
        assert_eq!(wanted.limit, PAGE_NAMES_SHORT);
    }

    #[test]
    fn a_foreign_cookie_is_the_end() {
        assert!(matches!(Listing::new().at(7 << POSITION_BITS), AtCookie::End));
        assert!(matches!(Listing::new().at(u64::MAX), AtCookie::End));
    }
}
