//! Puts events in order: they are held for a moment, since webhooks overtake each other.
//!
//! Bounded: events that don't fit are passed on immediately.

use std::time::{Duration, Instant};

use super::Receipts;
use crate::domain::Timestamp;

/// How long an event is held.
pub const WINDOW: Duration = Duration::from_millis(500);

/// Maximum number of entries, and of accounts in them, that are held.
const MOST_HELD: usize = 20_000;

/// An event and its arrival.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrived {
    /// The event.
    pub event: Receipts,
    /// When it arrived, by the database's clock: it had happened by then.
    pub at: Timestamp,
    /// The same by the clock for durations.
    pub uptime: Instant,
}

/// The events that are held, in the order of their arrival.
#[derive(Debug, Default)]
pub struct Order {
    held: Vec<Arrived>,
    size: usize,
}

impl Order {
    /// Holds an event.
    pub fn add(&mut self, arrived: Arrived) {
        self.size += arrived.event.size();
        self.held.push(arrived);
    }

    /// When the next event is due to be taken, if any is held.
    pub fn next_at(&self) -> Option<Instant> {
        let first = self.held.first()?.uptime;
        Some(if self.size > MOST_HELD { first } else { first + WINDOW })
    }

    /// Takes the events that have been held for long enough at `now`, and those that happened before one of them, in
    /// the order in which they happened.
    pub fn take(&mut self, now: Instant) -> Vec<Arrived> {
        let is_full = self.size > MOST_HELD;
        let ripe = self.held.iter().filter(|one| is_full || one.uptime + WINDOW <= now);
        let Some(until) = ripe.map(Arrived::happened_at).max() else { return vec![] };
        let (taken, held) = self.held.drain(..).partition(|one| one.happened_at() <= until);
        self.held = held;
        self.size = self.held.iter().map(|one| one.event.size()).sum();
        sorted(taken)
    }

    /// Takes all events, in the order in which they happened.
    pub fn take_all(&mut self) -> Vec<Arrived> {
        self.size = 0;
        sorted(std::mem::take(&mut self.held))
    }
}

impl Arrived {
    /// When it happened: it can't have been after it arrived.
    fn happened_at(&self) -> Timestamp {
        self.event.event_at.unwrap_or(self.at).min(self.at)
    }
}

fn sorted(mut events: Vec<Arrived>) -> Vec<Arrived> {
    events.sort_by_key(Arrived::happened_at);
    events
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;

    fn arrived(start: Instant, happened: i64, arrived: u64) -> Arrived {
        let time = |millis: i64| Timestamp::from_timestamp_millis(1_790_000_000_000 + millis).unwrap();
        let event =
            Receipts { group: "g".parse().unwrap(), event_at: Some(time(happened)), entries: vec![], bad_entries: 0 };
        let at = time(0) + TimeDelta::milliseconds(i64::try_from(arrived).unwrap());
        Arrived { event, at, uptime: start + Duration::from_millis(arrived) }
    }

    #[test]
    fn events_that_overtake_each_other_are_put_in_order() {
        let (mut order, start) = (Order::default(), Instant::now());
        let at = |millis| start + Duration::from_millis(millis);
        assert_eq!(order.next_at(), None);
        for (happened, arrives) in [(30, 40), (10, 45), (20, 300), (50, 700)] {
            order.add(arrived(start, happened, arrives));
        }
        assert_eq!((order.take(at(539)), order.next_at()), (vec![], Some(at(540))));
        let happened = |taken: Vec<Arrived>| {
            let millis = |one: &Arrived| one.event.event_at.unwrap().timestamp_millis() - 1_790_000_000_000;
            taken.iter().map(millis).collect::<Vec<_>>()
        };
        assert_eq!(happened(order.take(at(540))), [10, 20, 30], "also what arrived later, and happened before");
        assert_eq!(happened(order.take(at(1_200))), [50]);
        assert_eq!(order.next_at(), None);
        order.add(arrived(start, 60, 70));
        assert_eq!(happened(order.take_all()), [60]);
    }

    #[test]
    fn more_than_can_be_held_is_handed_out_at_once() {
        let (mut order, start) = (Order::default(), Instant::now());
        let entry = super::super::ReceiptEntry {
            seq: crate::domain::MsgSeq::try_from(1).unwrap(),
            counts: crate::domain::Counts::new(1, 1).unwrap(),
            members: super::super::Members::default(),
        };
        let mut big = arrived(start, 0, 0);
        big.event.entries = vec![entry; MOST_HELD + 1];
        order.add(big);
        assert_eq!(order.next_at(), Some(start));
        assert_eq!((order.take(start).len(), order.size), (1, 0));
    }
}
