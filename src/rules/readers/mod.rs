//! Who has read a message: which lists of members to ask for, and what follows from them.
//!
//! Pure. In: the known state of a message, its counts, and the pages of the answers. Out: the next page to ask for and,
//! at the end, the new readers with the intervals in which they read. Nothing here may log or display a member.

pub mod failing;
pub mod pseudonym;

use std::collections::BTreeSet;

use crate::domain::{Counts, Member, Timestamp};

/// Maximum number of pages of a list. With at most 200 members, a list has one.
const MOST_PAGES: usize = 5;

/// A list of members of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Members who have read it.
    Read,
    /// Members who have not.
    Unread,
}

/// The known readers of a message.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Known {
    /// Members who have read it.
    pub readers: BTreeSet<Member>,
    /// Members who have not.
    pub not_read: BTreeSet<Member>,
    /// Members who left the group without having been seen to read it.
    pub gone: BTreeSet<Member>,
    /// Time at which all others had not read it.
    pub until: Option<Timestamp>,
    /// The numbers of members in the last answer; `None` if there was none.
    pub counts: Option<Counts>,
}

/// A page of a list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    /// Its members.
    pub members: Vec<Member>,
    /// The place of the next page; `None` if this is the last one.
    pub next: Option<String>,
}

/// A member who was found to have read the message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reader {
    /// The member.
    pub member: Member,
    /// Time at which the member had not read it; `None` if unknown.
    pub after: Option<Timestamp>,
    /// Time by which the member had read it.
    pub by: Timestamp,
}

/// The result of asking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// New readers.
    pub readers: Vec<Reader>,
    /// Members who have not read it.
    pub not_read: BTreeSet<Member>,
    /// Members who left the group without having been seen to read it.
    pub gone: BTreeSet<Member>,
    /// Time at which all others had not read it.
    pub until: Option<Timestamp>,
    /// The numbers of members who have and have not read it.
    pub counts: Counts,
}

/// A complete list.
#[derive(Debug)]
struct List {
    /// The members with the times when their pages arrived.
    members: Vec<(Member, Timestamp)>,
    /// When its first page was asked for.
    asked_at: Timestamp,
}

impl List {
    fn set(&self) -> BTreeSet<Member> {
        self.members.iter().map(|(member, _)| member.clone()).collect()
    }
}

/// The questions for the readers of a message, page by page.
///
/// One list is enough if the counts show that the other follows from it, because nobody has left or joined. Otherwise,
/// the list of those who have not read the message comes first. A member who reads it in between is in both lists, and
/// a member in neither list has left.
#[derive(Debug)]
pub struct Asking {
    known: Known,
    /// The counts of the latest poll or event.
    counts: Counts,
    /// The lists to ask for, in this order.
    ahead: Vec<Side>,
    /// The pages of the current list.
    pages: Vec<(Page, Timestamp, Timestamp)>,
    read: Option<List>,
    unread: Option<List>,
    /// Whether both lists are asked for.
    asks_both: bool,
}

impl Asking {
    /// Begins to ask, because of these counts.
    pub fn new(known: Known, counts: Counts) -> Self {
        let total = |counts: Counts| u64::from(counts.read()) + u64::from(counts.unread());
        let is_sum_unchanged = known.counts.is_some_and(|before| total(before) == total(counts));
        let ahead = match counts {
            counts if counts.read() == 0 && known.readers.is_empty() => vec![Side::Unread],
            counts if is_sum_unchanged || counts.unread() == 0 => vec![Side::Read],
            _ => vec![Side::Unread, Side::Read],
        };
        let asks_both = ahead.len() == 2;
        Self { known, counts, ahead, pages: vec![], read: None, unread: None, asks_both }
    }

    /// The list and page to ask for next; `None` if everything is known.
    pub fn next(&self) -> Option<(Side, &str)> {
        let side = self.ahead.first()?;
        let place = self.pages.last().and_then(|(page, ..)| page.next.as_deref());
        Some((*side, place.unwrap_or_default()))
    }

    /// Adds the requested page, with the times when the request was sent and the answer arrived. False if the list has
    /// no end.
    pub fn answered(&mut self, page: Page, sent_at: Timestamp, arrived_at: Timestamp) -> bool {
        let is_last = page.next.is_none();
        self.pages.push((page, sent_at, arrived_at));
        if !is_last {
            return self.pages.len() < MOST_PAGES;
        }
        let asked_at = self.pages.first().map_or(sent_at, |page| page.1);
        let members =
            self.pages.drain(..).flat_map(|(page, _, at)| page.members.into_iter().map(move |member| (member, at)));
        let list = Some(List { members: members.collect(), asked_at });
        match self.ahead.remove(0) {
            Side::Read => self.read = list,
            Side::Unread => self.unread = list,
        }
        if self.ahead.is_empty() && !self.is_conclusive() {
            self.ask_for_the_rest();
        }
        true
    }

    /// Whether one list, the only one requested, is enough.
    fn is_conclusive(&self) -> bool {
        match (&self.read, &self.unread) {
            _ if self.asks_both => true,
            // Somebody has read it since.
            (None, Some(unread)) => unread.set().len() == self.counts.unread() as usize,
            (Some(read), _) => {
                let read = read.set();
                let all: BTreeSet<_> = self.known.readers.union(&self.known.not_read).collect();
                let left = self.known.not_read.difference(&read).count();
                // If nobody is left to read it, nothing has to be known about the others.
                let is_whole = self.counts.unread() == 0 && read.len() == self.counts.read() as usize;
                let sum = u64::from(self.counts.read()) + u64::from(self.counts.unread());
                is_whole
                    || self.known.readers.is_subset(&read)
                        && read.iter().all(|member| all.contains(member))
                        && (read.len() + left) as u64 == sum
            }
            (None, None) => false,
        }
    }

    fn ask_for_the_rest(&mut self) {
        self.asks_both = true;
        // A list of readers is older than the list of the others that it is compared with.
        self.ahead = if self.read.take().is_some() { vec![Side::Unread, Side::Read] } else { vec![Side::Read] };
    }

    /// The result; `None` if a list is missing.
    pub fn found(self) -> Option<Found> {
        if !self.ahead.is_empty() {
            return None;
        }
        let Self { known, counts, read, unread, .. } = self;
        let read_set = read.as_ref().map(List::set).unwrap_or_default();
        let is_whole = counts.unread() == 0 && unread.is_none();
        let not_read: BTreeSet<Member> = match &unread {
            Some(unread) => unread.set().difference(&read_set).cloned().collect(),
            None if is_whole => BTreeSet::new(),
            None => known.not_read.difference(&read_set).cloned().collect(),
        };
        let earlier = known.not_read.union(&known.gone).cloned();
        let gone = earlier.filter(|member| !read_set.contains(member) && !not_read.contains(member)).collect();
        let readers = new_readers(&known, read.as_ref(), unread.as_ref());
        let asked_at = read.or(unread)?.asked_at;
        let counts = Counts::new(i64::try_from(read_set.len()).ok()?, i64::try_from(not_read.len()).ok()?)?;
        Some(Found { readers, not_read, gone, until: known.until.max(Some(asked_at)), counts })
    }
}

/// The new readers, each once.
fn new_readers(known: &Known, read: Option<&List>, unread: Option<&List>) -> Vec<Reader> {
    let unread_set = unread.map(List::set).unwrap_or_default();
    let mut seen = BTreeSet::new();
    let read = read.into_iter().flat_map(|list| &list.members);
    let new = read.filter(|(member, _)| !known.readers.contains(member) && seen.insert(member));
    new.map(|(member, by)| {
        let unread_at = unread.filter(|_| unread_set.contains(member)).map(|list| list.asked_at);
        // An answer never arrives before its request is sent, but clocks may be set.
        Reader { member: member.clone(), after: known.until.max(unread_at).map(|after| after.min(*by)), by: *by }
    })
    .collect()
}

#[cfg(test)]
mod tests;
