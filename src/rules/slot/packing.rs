//! Selects the slot of a new message: its group's newest slot if that has room, otherwise a new slot.
//!
//! Seqs are assigned in order, so that a slot's messages have similar ages. Pure.

use std::collections::HashMap;

use super::{GroupKey, SlotId};
use crate::{
    domain::{MsgSeq, Timestamp},
    rules::cadence::{Cadences, Following, Next},
};

/// A watched message without a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewMessage {
    /// Its group.
    pub group_key: GroupKey,
    /// The name of the group's cadence.
    pub cadence: Option<String>,
    /// Its number within the group.
    pub seq: MsgSeq,
    /// When it was sent.
    pub sent_at: Timestamp,
    /// Time since which it has been watched.
    pub added_at: Timestamp,
}

/// The newest slot of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenSlot {
    /// Its id.
    pub slot_id: SlotId,
    /// Number of messages in it.
    pub messages: usize,
    /// When it was last answered.
    pub last_polled_at: Option<Timestamp>,
}

/// Messages that are assigned to one slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotAssignment {
    /// The slot they join; `None` for a new slot.
    pub slot_id: Option<SlotId>,
    /// Their group.
    pub group_key: GroupKey,
    /// When the most demanding of them is due for its first poll.
    pub first: Next,
    /// The messages, in rising order.
    pub seqs: Vec<MsgSeq>,
}

impl SlotAssignment {
    /// Whether it is news for the schedule, if the slot is stored as due at `stored`: the slot is new, or due earlier
    /// than before. A slot that was due earlier anyway is in a poll or soon will be, and that poll makes sure that
    /// these messages are polled in time.
    pub fn is_news(&self, stored: Timestamp) -> bool {
        // The database stores microseconds.
        self.slot_id.is_none() || stored.timestamp_micros() >= self.first.due.timestamp_micros()
    }
}

/// Distributes `fresh` messages (by group and rising seq) over slots of up to `batch_size`, with all intervals
/// multiplied by `stretch`.
pub fn pack(
    fresh: &[NewMessage],
    open: &HashMap<GroupKey, OpenSlot>,
    batch_size: usize,
    cadences: &Cadences,
    stretch: f64,
    now: Timestamp,
) -> Vec<SlotAssignment> {
    let mut fills = Vec::new();
    for group in fresh.chunk_by(|left, right| left.group_key == right.group_key) {
        let group_key = group[0].group_key;
        let open = open.get(&group_key).filter(|slot| slot.messages < batch_size);
        let room = open.map_or(0, |slot| batch_size - slot.messages).min(group.len());
        let (joining, rest) = group.split_at(room);
        let following = Following { cadence: cadences.of(group[0].cadence.as_deref()), stretch };
        let mut fill = |slot_id: Option<SlotId>, last_polled_at, messages: &[NewMessage]| {
            // A new slot is due as soon as its messages are watched: time without a poller is a gap.
            let since = |message: &NewMessage| if slot_id.is_none() { now.min(message.added_at) } else { now };
            let first = |message: &NewMessage| following.first_poll(last_polled_at, message.sent_at, since(message));
            if let Some(first) = messages.iter().map(first).reduce(Next::sooner) {
                let seqs = messages.iter().map(|message| message.seq).collect();
                fills.push(SlotAssignment { slot_id, group_key, first, seqs });
            }
        };
        fill(open.map(|slot| slot.slot_id), open.and_then(|slot| slot.last_polled_at), joining);
        for messages in rest.chunks(batch_size) {
            fill(None, None, messages);
        }
    }
    fills
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;
    use proptest::prelude::*;

    use super::*;

    fn now() -> Timestamp {
        "2026-11-23T12:00:00Z".parse().unwrap()
    }

    fn fresh(group_key: GroupKey, seqs: std::ops::RangeInclusive<i64>) -> Vec<NewMessage> {
        let (cadence, sent_at, added_at) = (None, now(), now());
        let seq = |seq| MsgSeq::try_from(seq).unwrap();
        seqs.map(|number| NewMessage { group_key, cadence: cadence.clone(), seq: seq(number), sent_at, added_at })
            .collect()
    }

    fn sizes(fills: &[SlotAssignment]) -> Vec<(Option<SlotId>, usize)> {
        fills.iter().map(|fill| (fill.slot_id, fill.seqs.len())).collect()
    }

    fn open(messages: usize, last_polled_at: Option<Timestamp>) -> HashMap<GroupKey, OpenSlot> {
        HashMap::from([(1, OpenSlot { slot_id: 77, messages, last_polled_at })])
    }

    #[test]
    fn the_newest_slot_is_filled_first_and_new_ones_hold_the_rest() {
        let fills = pack(&fresh(1, 1..=120), &open(30, None), 50, &Cadences::of_tiers(), 1.0, now());
        assert_eq!(sizes(&fills), [(Some(77), 20), (None, 50), (None, 50)]);
        assert_eq!(fills[1].seqs[0].get(), 21, "seqs are taken in order");
    }

    #[test]
    fn a_full_slot_or_one_that_is_too_large_takes_nothing() {
        for messages in [50, 80] {
            let fills = pack(&fresh(1, 1..=3), &open(messages, None), 50, &Cadences::of_tiers(), 1.0, now());
            assert_eq!(sizes(&fills), [(None, 3)]);
        }
    }

    #[test]
    fn groups_never_share_a_slot() {
        let messages = [fresh(1, 1..=2), fresh(2, 1..=2)].concat();
        let fills = pack(&messages, &open(10, None), 50, &Cadences::of_tiers(), 1.0, now());
        assert_eq!(sizes(&fills), [(Some(77), 2), (None, 2)]);
        assert_eq!(fills[1].group_key, 2);
    }

    #[test]
    fn a_new_slot_is_due_at_once_a_polled_one_after_its_interval() {
        let fills = pack(&fresh(1, 1..=60), &open(0, Some(now())), 50, &Cadences::of_tiers(), 1.0, now());
        assert_eq!(fills[0].first.due, now() + TimeDelta::minutes(1));
        assert_eq!(fills[1].first.due, now());
    }

    #[test]
    fn messages_joining_a_polled_slot_do_not_make_it_due_at_once() {
        let (polled_at, was_due) = (now() - TimeDelta::seconds(61), now() - TimeDelta::seconds(1));
        let joining =
            pack(&fresh(1, 1..=1), &open(3, Some(polled_at)), 50, &Cadences::of_tiers(), 1.0, now()).remove(0);
        assert!(!joining.is_news(was_due), "the poll under way puts them off by an interval");
        let waiting = pack(&fresh(1, 1..=1), &open(3, Some(now())), 50, &Cadences::of_tiers(), 1.0, now()).remove(0);
        assert!(waiting.is_news(waiting.first.due), "a slot that was due much later is brought forward");
        assert!(!waiting.is_news(now() + TimeDelta::seconds(5)), "one that is due sooner stays as it is");
        let new = pack(&fresh(1, 1..=1), &HashMap::new(), 50, &Cadences::of_tiers(), 1.0, now()).remove(0);
        assert!(new.is_news(was_due), "nobody knows of it");
    }

    #[test]
    fn a_new_slot_is_due_since_its_messages_are_watched() {
        let watched = |added_at| NewMessage { added_at, ..fresh(1, 1..=1).remove(0) };
        let due = |messages: &[NewMessage], open: &HashMap<GroupKey, OpenSlot>| {
            pack(messages, open, 50, &Cadences::of_tiers(), 1.0, now())[0].first.due
        };
        let (days_ago, later) = (now() - TimeDelta::days(2), now() + TimeDelta::hours(1));
        assert_eq!(due(&[watched(now()), watched(days_ago)], &HashMap::new()), days_ago);
        assert_eq!(due(&[watched(later)], &HashMap::new()), now(), "by the clock of a database that is fast");
        assert_eq!(due(&[watched(days_ago)], &open(1, Some(now()))), now() + TimeDelta::minutes(1));
    }

    proptest! {
        #[test]
        fn every_message_goes_into_exactly_one_slot_and_none_overflows(
            counts in proptest::collection::vec(1_i64..200, 1..6),
            batch_size in 1_usize..60,
            held in 0_usize..70,
        ) {
            let groups = (1_i32..).zip(&counts);
            let messages: Vec<NewMessage> = groups.flat_map(|(group, count)| fresh(group, 1..=*count)).collect();
            let fills = pack(&messages, &open(held, None), batch_size, &Cadences::of_tiers(), 1.0, now());
            for fill in &fills {
                let held = if fill.slot_id.is_some() { held } else { 0 };
                prop_assert!(!fill.seqs.is_empty() && fill.seqs.len() + held <= batch_size);
            }
            let placed = fills.iter().flat_map(|fill| fill.seqs.iter().map(|seq| (fill.group_key, *seq)));
            let wanted = messages.iter().map(|message| (message.group_key, message.seq));
            prop_assert!(placed.eq(wanted));
        }
    }
}
