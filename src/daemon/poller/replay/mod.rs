//! Polls messages whose reads are known beforehand, in no time and without I/O, to find the cost of a cadence and its
//! errors about when messages were read.
//!
//! Slots are packed and merged, polls recorded and the schedule kept by the code that the daemon runs. It must never
//! decide anything that the poller decides.

mod events;
mod findings;
mod hearing;
mod input;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::TimeDelta;

use self::{events::Events, findings::Watching};
pub use self::{
    findings::{Findings, Measure},
    input::{Sent, Stretching, Way},
};
use crate::{
    domain::{Counts, GroupId, MsgSeq, Receipt, Timestamp},
    rules::{
        cadence::{Cadences, Following},
        polling::{
            schedule::{Now, Schedule},
            stretch::{Load, Stretch},
        },
        protocol::{Answer, Attempt},
        recording::{Contents, KeepSnapshots, Kept, Poll, PollEnd, Told},
        slot::{GroupKey, NewMessage, OpenSlot, Slot, SlotId, SlotKey, SlotMessage, pack},
    },
};

/// Time between two steps of the stretch.
const STEP: TimeDelta = TimeDelta::seconds(10);

/// Polls all messages until the last one is closed.
pub fn replay(messages: &[Sent], way: &Way) -> Findings {
    let mut replay = Replay::new(messages, way);
    while replay.step() {}
    replay.watching.findings()
}

/// The number of calls until a time.
pub fn calls_until(messages: &[Sent], way: &Way, until: Timestamp) -> usize {
    let mut replay = Replay::new(messages, way);
    while replay.now < until && replay.step() {}
    replay.watching.calls
}

/// The state of a replay.
struct Replay<'a> {
    way: &'a Way,
    watching: Watching<'a>,
    events: Events,
    /// The messages in the order in which they are sent, by their places among all.
    order: Vec<usize>,
    sent: usize,
    /// The messages of each group in that order: their seqs begin with 1.
    of_group: HashMap<GroupKey, Vec<usize>>,
    slots: BTreeMap<SlotKey, Slot>,
    last_slot: SlotId,
    schedule: Schedule,
    start: (Timestamp, Instant),
    now: Timestamp,
    /// When the limit allows the next call.
    free_at: Timestamp,
    stretch: Stretch,
    /// Time of its last step, and number of calls made by then.
    stepped: (Timestamp, usize),
    group_id: GroupId,
}

impl<'a> Replay<'a> {
    fn new(messages: &'a [Sent], way: &'a Way) -> Self {
        let mut order: Vec<usize> = (0..messages.len()).collect();
        order.sort_by_key(|at| messages[*at].sent_at);
        let start = order.first().map_or(Timestamp::UNIX_EPOCH, |at| messages[*at].sent_at);
        let monotonic = Instant::now();
        Self {
            way,
            watching: Watching::of(messages),
            events: Events::of(messages, way.told),
            order,
            sent: 0,
            of_group: HashMap::new(),
            slots: BTreeMap::new(),
            last_slot: 0,
            schedule: Schedule::new(monotonic),
            start: (start, monotonic),
            now: start,
            free_at: start,
            stretch: Stretch::recalled(match way.stretch {
                Stretching::By(factor) => factor,
                Stretching::ToFit => 1.0,
            }),
            stepped: (start, 0),
            group_id: "replay".parse().expect("a group id of plain letters"),
        }
    }

    fn clocks(&self) -> Now {
        let since = (self.now - self.start.0).to_std().unwrap_or_default();
        Now { time: self.now, monotonic: self.start.1 + since }
    }

    /// Handles the next event. False if there is none.
    fn step(&mut self) -> bool {
        let until_due = self.schedule.until_next(true, self.clocks());
        let due = until_due.map(|until| (self.now + TimeDelta::microseconds(until.max(0))).max(self.free_at));
        let joins = self.order.get(self.sent).map(|at| next_second(self.watching.messages[*at].sent_at));
        let told = self.events.next_at();
        if told.is_some_and(|told| joins.into_iter().chain(due).all(|other| told < other)) {
            self.hear();
            return true;
        }
        match (joins, due) {
            (None, None) => return false,
            (Some(joins), due) if due.is_none_or(|due| joins <= due) => {
                self.goes_on_to(joins);
                self.give_slots();
            }
            (_, due) => {
                self.goes_on_to(due.unwrap_or(self.now));
                for slot in self.schedule.claim_due(1, 1, self.clocks()) {
                    self.poll(slot);
                }
            }
        }
        true
    }

    /// Lets time pass, with its steps of the stretch.
    fn goes_on_to(&mut self, then: Timestamp) {
        let limit = self.way.limit.filter(|_| self.way.stretch == Stretching::ToFit);
        while let Some(allowed) = limit
            && self.stepped.0 + STEP <= then
        {
            self.now = self.stepped.0 + STEP;
            let behind = self.schedule.until_next(true, self.clocks()).unwrap_or_default().min(0).unsigned_abs();
            let load = Load {
                demand: self.schedule.demand(),
                made: (self.watching.calls - self.stepped.1) as f64 / STEP.as_seconds_f64(),
                allowed,
                behind: Duration::from_micros(behind),
            };
            let monotonic = self.clocks().monotonic;
            self.stretch.step(&load, monotonic);
            self.stepped = (self.now, self.watching.calls);
        }
        self.now = then;
    }

    /// Assigns the messages sent until now to slots, as the slotter does once a second.
    fn give_slots(&mut self) {
        let mut fresh = vec![];
        while let Some(at) = self.order.get(self.sent).copied() {
            let Sent { group_key, sent_at, .. } = self.watching.messages[at];
            if sent_at > self.now {
                break;
            }
            self.sent += 1;
            let of_group = self.of_group.entry(group_key).or_default();
            of_group.push(at);
            let Ok(seq) = MsgSeq::try_from(of_group.len() as i64) else { continue };
            fresh.push(NewMessage { group_key, cadence: None, seq, sent_at, added_at: sent_at });
        }
        fresh.sort_by_key(|fresh| (fresh.group_key, fresh.seq));
        let newest = |fresh: &NewMessage| self.of(fresh.group_key).next_back();
        let open = fresh.iter().filter_map(newest).map(|(key, slot)| {
            let (messages, last_polled_at) = (slot.messages.len(), slot.last_polled_at);
            (key.group_key, OpenSlot { slot_id: key.slot_id, messages, last_polled_at })
        });
        let open: HashMap<GroupKey, OpenSlot> = open.collect();
        let mut fresh_of = fresh.iter();
        for fill in pack(&fresh, &open, self.way.batch_size, &self.cadences(), self.stretch.factor(), self.now) {
            let messages = fresh_of.by_ref().take(fill.seqs.len()).map(message);
            let messages: Vec<SlotMessage> = messages.collect();
            let slot_id = fill.slot_id.unwrap_or_else(|| {
                self.last_slot += 1;
                self.last_slot
            });
            let key = SlotKey { group_key: fill.group_key, slot_id };
            let slot = self.slots.entry(key).or_insert_with(|| Slot::new(key, self.group_id.clone(), fill.first.due));
            slot.messages.extend(messages);
            let is_news = fill.is_news(slot.next_poll_at);
            slot.next_poll_at = slot.next_poll_at.min(fill.first.due);
            if is_news {
                let now = self.clocks();
                self.schedule.bring_forward(key, fill.first, now);
            }
        }
    }

    /// The cadences, with the trust in events applied.
    fn cadences(&self) -> Arc<Cadences> {
        match self.way.told > 0.0 {
            true => self.way.cadences.giving_way(self.events.trust.untold()).into(),
            false => self.way.cadences.clone(),
        }
    }

    /// The slots of a group, by rising id.
    fn of(&self, group_key: GroupKey) -> impl DoubleEndedIterator<Item = (&SlotKey, &Slot)> {
        let key = |slot_id| SlotKey { group_key, slot_id };
        self.slots.range(key(SlotId::MIN)..=key(SlotId::MAX))
    }

    /// Polls a slot, together with a neighbour if it is thin.
    fn poll(&mut self, key: SlotKey) {
        let Some(mut slot) = self.slots.get(&key).cloned() else { return self.schedule.forget(key) };
        if slot.messages.len() <= self.way.batch_size / 2
            && let Some(other) = self.neighbour(&slot)
            && self.schedule.claim(other)
        {
            slot.absorb(self.slots[&other].clone());
        }
        if let Some(limit) = self.way.limit {
            self.free_at = self.now.max(self.free_at) + TimeDelta::microseconds((1e6 / limit) as i64);
        }
        let poll = self.answered(&slot);
        let (cadences, stretch) = (self.cadences(), self.stretch.factor());
        let kept = Kept::of(slot, poll, cadences, stretch, KeepSnapshots::Changes, self.now);
        self.store(kept);
    }

    /// The neighbour that a thin slot absorbs: the previous or the next one, as in `Store::merge_candidates`.
    fn neighbour(&self, slot: &Slot) -> Option<SlotKey> {
        let (key, batch_size) = (slot.key, self.way.batch_size);
        let before = self.of(key.group_key).rev().find(|(other, _)| **other < key);
        let after = self.of(key.group_key).find(|(other, _)| **other > key);
        let fits = |(_, other): &(&SlotKey, &Slot)| slot.may_absorb(other, batch_size);
        before.into_iter().chain(after).find(fits).map(|(other, _)| *other)
    }

    /// The answer of the service.
    fn answered(&mut self, slot: &Slot) -> Poll {
        let at = self.now;
        let cadences = self.way.cadences.clone();
        let following = Following { cadence: cadences.of(None), stretch: self.stretch.factor() };
        let mut poll = Poll::ended(PollEnd::Complete);
        for message in &slot.messages {
            let index = self.of_group[&slot.key.group_key][message.seq.get() as usize - 1];
            let (read, members) = self.watching.polled(index, at, following);
            let counts = Counts::new(read.into(), (members - read).into());
            let receipt = Receipt { code: 0, counts };
            poll.receipts.push(Told { seq: message.seq, receipt, sent_at: at, answered_at: at });
        }
        poll.attempts.push(Attempt {
            called_at: at,
            ended_at: at,
            latency: Duration::ZERO,
            http_status: Some(200),
            asked: slot.messages.len(),
            outcome: Ok(Answer::default()),
        });
        self.watching.calls += 1;
        poll
    }

    /// Acts as the recorder and the flush.
    fn store(&mut self, kept: Kept) {
        let (recording, outcome, now) = (&kept.recording, kept.outcome(&[]), self.clocks());
        self.count(recording);
        if let Some((other, _)) = recording.absorbs {
            self.slots.remove(&other);
            self.schedule.forget(other);
        }
        if recording.is_empty {
            self.slots.remove(&recording.slot);
            return self.schedule.forget(recording.slot);
        }
        let Some(slot) = self.slots.get_mut(&recording.slot) else { return };
        match outcome.contents {
            Contents::Same => {}
            Contents::Counted(messages) | Contents::Other(messages) => slot.messages = messages,
        }
        (slot.last_polled_at, slot.known_until) = (recording.last_polled_at, recording.known_until);
        slot.next_poll_at = recording.next_poll_at;
        for message in &mut slot.messages {
            message.known_until = if message.known_apart { message.known_until } else { recording.known_until };
        }
        let known =
            slot.messages.iter().map(|message| (message.seq, message.receipt.and_then(|receipt| receipt.counts)));
        for (seq, counts) in known {
            let index = self.of_group[&recording.slot.group_key][seq.get() as usize - 1];
            self.watching.is_known(index, self.now, counts.map_or(0, Counts::read));
        }
        self.schedule.polled(recording.slot, recording.next(), false, now);
        self.schedule.release(recording.slot, recording.next_poll_at, now);
    }
}

/// Rounds up to the next look of the slotter, which comes once a second.
fn next_second(at: Timestamp) -> Timestamp {
    let into_second = at.timestamp_micros().rem_euclid(1_000_000);
    at + TimeDelta::microseconds((1_000_000 - into_second) % 1_000_000)
}

fn message(fresh: &NewMessage) -> SlotMessage {
    SlotMessage::new(fresh.seq, fresh.sent_at)
}
