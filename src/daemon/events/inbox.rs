//! Events on their way from the listener to the session that records them.
//!
//! The listener never waits: events that don't fit are dropped and counted, and polls find their changes. Events stay
//! here between two sessions.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use tokio::sync::Notify;

use crate::{domain::Timestamp, rules::webhooks::Event};

/// Maximum number of waiting events, …
const MOST_EVENTS: usize = 5_000;

/// … and of their entries, with the accounts in them.
const MOST_ENTRIES: usize = 50_000;

/// An event that has arrived.
#[derive(Debug)]
pub(crate) struct Arrival {
    pub event: Event,
    /// When it arrived, by the database's clock.
    pub at: Timestamp,
    /// The same by the clock for durations.
    pub uptime: Instant,
}

/// The events that wait to be recorded.
#[derive(Debug, Default)]
pub struct Inbox {
    waiting: Mutex<Waiting>,
    filled: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    events: VecDeque<Arrival>,
    entries: usize,
}

impl Inbox {
    /// Adds an event to be recorded. False if there is no room for it.
    pub(crate) fn offer(&self, arrival: Arrival) -> bool {
        let mut waiting = self.waiting();
        let entries = entries(&arrival.event);
        if waiting.events.len() >= MOST_EVENTS || waiting.entries + entries > MOST_ENTRIES {
            return false;
        }
        waiting.entries += entries;
        waiting.events.push_back(arrival);
        self.filled.notify_one();
        true
    }

    /// Takes everything, as soon as there is something.
    pub(crate) async fn take(&self) -> VecDeque<Arrival> {
        loop {
            let taken = std::mem::take(&mut *self.waiting()).events;
            if !taken.is_empty() {
                return taken;
            }
            self.filled.notified().await;
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Number of entries of an event with the accounts in them, at least one.
fn entries(event: &Event) -> usize {
    match event {
        Event::Receipts(receipts) => receipts.size().max(1),
        Event::Recalled { seqs, .. } => seqs.len().max(1),
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrival(event: Event) -> Arrival {
        Arrival { event, at: Timestamp::UNIX_EPOCH, uptime: Instant::now() }
    }

    #[tokio::test]
    async fn what_does_not_fit_is_refused_until_there_is_room() {
        let inbox = Inbox::default();
        assert!((0..MOST_EVENTS).all(|_| inbox.offer(arrival(Event::Other))));
        assert!(!inbox.offer(arrival(Event::Other)));
        assert_eq!(inbox.take().await.len(), MOST_EVENTS);
        let seqs = vec![crate::domain::MsgSeq::try_from(1).unwrap(); 100];
        let recalled = || arrival(Event::Recalled { group: "g".parse().unwrap(), seqs: seqs.clone() });
        assert!((0..MOST_ENTRIES / 100).all(|_| inbox.offer(recalled())));
        assert!(!inbox.offer(recalled()));
        assert_eq!(inbox.take().await.len(), MOST_ENTRIES / 100);
    }

    #[tokio::test]
    async fn each_reader_that_is_named_takes_room() {
        let named = |number: u32| format!(r#"{{"Member_Account":"m{number}"}}"#);
        let readers: Vec<String> = (0..200).map(named).collect();
        let entry = |seq: u32| {
            let readers = readers.join(",");
            format!(r#"{{"MsgSeq":{seq},"ReadNum":200,"UnreadNum":0,"ReadReceiptMembers":[{readers}]}}"#)
        };
        let entries: Vec<String> = (1..=10).map(entry).collect();
        let body = format!(
            r#"{{"CallbackCommand":"Group.CallbackAfterReadReceipt","GroupId":"g","GroupMsgReceiptList":[{}]}}"#,
            entries.join(",")
        );
        let inbox = Inbox::default();
        let offers = |keeps| inbox.offer(arrival(Event::read(body.as_bytes(), |_| keeps).unwrap()));
        let most = MOST_ENTRIES / (10 * 201);
        assert!((0..most).all(|_| offers(true)) && !offers(true));
        assert!(offers(false), "without accounts it is small");
    }

    #[tokio::test]
    async fn an_event_wakes_who_waits() {
        let inbox = std::sync::Arc::new(Inbox::default());
        let taking = tokio::spawn({
            let inbox = inbox.clone();
            async move { inbox.take().await.len() }
        });
        tokio::task::yield_now().await;
        inbox.offer(arrival(Event::Other));
        assert_eq!(taking.await.unwrap(), 1);
    }
}
