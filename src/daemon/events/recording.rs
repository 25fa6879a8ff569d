//! Records events: puts them in order, looks up their slots, and hands the changes to the recorder.
//!
//! While the database is unavailable, it waits and the inbox fills. It makes no calls: events that prove nothing make
//! slots due.

use std::{
    collections::{HashMap, HashSet},
    mem,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::FutureExt;
use tokio::{sync::mpsc, time::sleep};
use tokio_util::sync::CancellationToken;

use super::{Arrival, Dropped, Health, Inbox, ToldReaders, readers::Told};
use crate::{
    clock,
    daemon::discovery::{self, Announced},
    domain::{GroupId, MsgSeq},
    logging::log_throttle::LogThrottle,
    rules::{
        cadence::Cadences,
        database_clock::Moment,
        polling::dispatch::ScheduleNews,
        recording::{Heard, Kept, Recording},
        slot::{Slot, SlotKey},
        webhooks::{Arrived, Event, Hint, Members, Order, ReceiptEntry, Trust},
    },
    store::{Store, StoreError},
};

/// Delay after the database failed.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// Pause between two looks at the inbox, so that single events are looked up and stored together.
const TOGETHER: Duration = Duration::from_millis(50);

/// Maximum number of messages that are looked up together.
const CHUNK: usize = 2_000;

/// Maximum number of times that the slots of messages are looked up, if they move meanwhile.
const LOOK_UPS: u32 = 3;

/// How often groups whose members have changed are looked up.
const MEMBERS_EVERY: Duration = Duration::from_secs(5);

/// Maximum number of such groups. The slots of other groups are polled when they are due.
const MOST_CHANGED_GROUPS: usize = 1_000;

/// How often the trust in events is stored.
const STORE_TRUST_EVERY: Duration = Duration::from_secs(60);

/// Records the events of a session.
#[derive(Debug)]
pub(crate) struct EventRecorder {
    pub store: Store,
    pub cadences: Arc<Cadences>,
    pub inbox: Arc<Inbox>,
    pub health: Arc<Health>,
    pub readers: ToldReaders,
    /// Passes messages and groups on to discovery.
    pub discovery: Arc<discovery::Inbox>,
    /// The queue for results.
    pub recorder: mpsc::Sender<Kept>,
    /// The poller's queue for news.
    pub news: mpsc::UnboundedSender<ScheduleNews>,
}

/// The news of a message in an event.
#[derive(Debug)]
struct HeardOf<'a> {
    group: &'a GroupId,
    heard: Heard,
    members: &'a Members,
}

/// Messages or groups that have to be polled to find out what has happened.
#[derive(Debug, Default)]
struct ToPoll {
    messages: Vec<(GroupId, MsgSeq)>,
    groups: HashSet<GroupId>,
    /// Groups whose members have changed, once their time has come.
    changed: HashSet<GroupId>,
}

/// Groups whose members have changed: their counts may have changed too.
#[derive(Debug)]
struct ChangedGroups {
    groups: HashSet<GroupId>,
    due: Instant,
}

impl ChangedGroups {
    fn add(&mut self, group: GroupId) {
        if self.groups.len() < MOST_CHANGED_GROUPS {
            self.groups.insert(group);
        }
    }

    /// When their time comes; `None` if there are none.
    fn next_at(&self) -> Option<Instant> {
        (!self.groups.is_empty()).then_some(self.due)
    }

    fn take(&mut self, now: Instant) -> HashSet<GroupId> {
        if now < self.due {
            return HashSet::new();
        }
        self.due = now + MEMBERS_EVERY;
        mem::take(&mut self.groups)
    }
}

impl EventRecorder {
    /// Records events until `stop` is cancelled, and then those that were held.
    pub async fn run(self, stop: CancellationToken) {
        tokio::join!(self.record_all(&stop), self.keep_trust(&stop), self.readers.follow_groups(&stop));
    }

    /// Restores the trust in events, and stores it every minute and at the end.
    async fn keep_trust(&self, stop: &CancellationToken) {
        let mut trouble = LogThrottle::default();
        let mut stored = self.health.trust().remembered();
        if stored == (0.0, 0.0) {
            match stop.run_until_cancelled(self.store.trust()).await {
                Some(Ok((told, untold))) => {
                    *self.health.trust() = Trust::recall(told, untold);
                    stored = (told, untold);
                }
                Some(Err(error)) => error.log(&mut trouble, "how far webhooks are trusted has to be learned again"),
                None => {}
            }
        }
        loop {
            let is_over = stop.run_until_cancelled(sleep(STORE_TRUST_EVERY)).await.is_none();
            let now = self.health.trust().remembered();
            match if now == stored { Ok(()) } else { self.store.store_trust(now).await } {
                Ok(()) => stored = now,
                Err(StoreError::LeaseLost { .. }) => {}
                Err(error) => error.log(&mut trouble, "storing how far webhooks are trusted failed"),
            }
            if is_over {
                return;
            }
        }
    }

    async fn record_all(&self, stop: &CancellationToken) {
        let (mut order, mut trouble) = (Order::default(), LogThrottle::default());
        let mut changed = ChangedGroups { groups: HashSet::new(), due: clock::uptime() };
        while !stop.is_cancelled() {
            let mut to_poll = ToPoll::default();
            tokio::select! {
                () = stop.cancelled() => {}
                arrivals = self.inbox.take() => {
                    arrivals.into_iter().for_each(|one| self.sort(one, &mut order, &mut to_poll, &mut changed));
                }
                () = until([order.next_at(), changed.next_at()]) => {}
            }
            to_poll.changed = changed.take(clock::uptime());
            self.work(&order.take(clock::uptime()), &to_poll, stop, &mut trouble).await;
            stop.run_until_cancelled(sleep(TOGETHER)).await;
        }
        // Events that were accepted before the stop.
        let mut to_poll = ToPoll::default();
        for arrival in self.inbox.take().now_or_never().unwrap_or_default() {
            self.sort(arrival, &mut order, &mut to_poll, &mut changed);
        }
        self.work(&order.take_all(), &to_poll, stop, &mut trouble).await;
    }

    /// Records events, however often that fails, until some seconds after `stop`.
    async fn work(&self, ripe: &[Arrived], to_poll: &ToPoll, stop: &CancellationToken, trouble: &mut LogThrottle) {
        let work = async {
            while let Err(error) = self.handle(ripe, to_poll).await {
                error.log(trouble, "recording events of webhooks failed: they wait");
                sleep(TRY_AGAIN).await;
            }
            if trouble.is_over() {
                tracing::info!("events of webhooks are recorded again");
            }
        };
        let deadline = async {
            stop.cancelled().await;
            sleep(TRY_AGAIN * 5).await;
        };
        tokio::select! {
            () = work => {}
            () = deadline => {
                let entries: usize = ripe.iter().map(|one| one.event.entries.len()).sum();
                self.health.dropped(Dropped::NoRoom, entries as u64);
            }
        }
    }

    async fn handle(&self, ripe: &[Arrived], to_poll: &ToPoll) -> Result<(), StoreError> {
        let heard: Vec<HeardOf> = ripe.iter().flat_map(heard).collect();
        for chunk in heard.chunks(CHUNK) {
            self.record(chunk).await?;
        }
        self.make_due(to_poll).await
    }

    /// The slots of messages, with the places of the messages by slot. If some move to other slots meanwhile, it looks
    /// again.
    async fn look_up(&self, heard: &[HeardOf<'_>]) -> Result<(HashMap<SlotKey, Vec<usize>>, Vec<Slot>), StoreError> {
        let messages: Vec<(&GroupId, MsgSeq)> = heard.iter().map(|one| (one.group, one.heard.seq)).collect();
        let mut tries = 0;
        loop {
            tries += 1;
            let mut of_slot: HashMap<SlotKey, Vec<usize>> = HashMap::new();
            let found = self.store.slots_of_messages(&messages).await?;
            found.into_iter().for_each(|(place, slot)| of_slot.entry(slot).or_default().push(place));
            let keys: Vec<SlotKey> = of_slot.keys().copied().collect();
            let slots = self.store.read_slots(&keys).await?;
            let held = slots.iter().flat_map(|slot| slot.messages.iter().map(|message| (slot.key, message.seq)));
            let held: HashSet<(SlotKey, MsgSeq)> = held.collect();
            let is_there = |slot, place: &usize| held.contains(&(slot, heard[*place].heard.seq));
            let are_there = of_slot.iter().all(|(slot, places)| places.iter().all(|place| is_there(*slot, place)));
            if are_there || tries == LOOK_UPS {
                return Ok((of_slot, slots));
            }
        }
    }

    /// Records the news of messages, in order of time.
    async fn record(&self, heard: &[HeardOf<'_>]) -> Result<(), StoreError> {
        let (mut of_slot, slots) = self.look_up(heard).await?;
        let unwatched = heard.len().saturating_sub(of_slot.values().map(Vec::len).sum());
        let (moment, mut changes, mut readers) = (self.store.clock().moment(), vec![], Told::new());
        for slot in slots {
            let mut places = of_slot.remove(&slot.key).unwrap_or_default();
            places.sort_unstable();
            let of_slot: Vec<&HeardOf> = places.iter().filter_map(|place| heard.get(*place)).collect();
            let told: Vec<Heard> = of_slot.iter().map(|one| one.heard).collect();
            for (place, read) in Recording::readers_told(&slot, &told, moment) {
                self.readers.add(&slot, read, of_slot[place].members, &mut readers);
            }
            changes.push((slot, told));
        }
        // Before the counts, which then need no question. If this is repeated, each reader is still stored once.
        self.readers.store(readers).await?;
        // Nothing fails from here on, so nothing is counted twice.
        let mut told = 0;
        for (slot, heard) in changes {
            told += self.keep(slot, heard, moment).await;
        }
        self.health.dropped(Dropped::Unwatched, unwatched as u64);
        self.health.late((heard.len() - unwatched).saturating_sub(told) as u64);
        Ok(())
    }

    /// Hands a slot's changes by events to the recorder. Returns the number of counts that were news.
    async fn keep(&self, slot: Slot, heard: Vec<Heard>, moment: Moment) -> usize {
        let kept = Kept::of_events(slot, heard, self.cadences.clone(), moment);
        let Some(kept) = kept else { return 0 };
        let told = kept.recording.snapshots.len();
        // Without a recorder, the term is over: polls of the next term find the changes.
        _ = self.recorder.send(kept).await;
        told
    }

    async fn make_due(&self, to_poll: &ToPoll) -> Result<(), StoreError> {
        let messages: Vec<(&GroupId, MsgSeq)> = to_poll.messages.iter().map(|(group, seq)| (group, *seq)).collect();
        let mut slots: HashSet<SlotKey> = HashSet::new();
        for chunk in messages.chunks(CHUNK) {
            slots.extend(self.store.slots_of_messages(chunk).await?.into_iter().map(|(_, slot)| slot));
        }
        slots.extend(self.slots_of(&to_poll.groups).await?);
        self.make_slots_due(slots, Hint::Gone).await?;
        self.make_slots_due(self.slots_of(&to_poll.changed).await?, Hint::Members).await
    }

    async fn slots_of(&self, groups: &HashSet<GroupId>) -> Result<HashSet<SlotKey>, StoreError> {
        let groups: Vec<&GroupId> = groups.iter().collect();
        Ok(if groups.is_empty() {
            HashSet::new()
        } else {
            self.store.slots_of_groups(&groups).await?.into_iter().collect()
        })
    }

    /// Makes slots due, no sooner than the hint allows after their last poll.
    async fn make_slots_due(&self, slots: HashSet<SlotKey>, hint: Hint) -> Result<(), StoreError> {
        let slots: Vec<SlotKey> = slots.into_iter().collect();
        if slots.is_empty() {
            return Ok(());
        }
        for slot in self.store.read_slots(&slots).await? {
            let due = hint.due(slot.last_polled_at, slot.next_poll_at, self.store.clock().now());
            if slot.failures == 0 {
                _ = self.news.send(ScheduleNews::Sooner(slot.key, due));
            }
        }
        Ok(())
    }

    /// Holds an event of receipts. Other events make slots due, or are for discovery.
    fn sort(&self, arrival: Arrival, order: &mut Order, to_poll: &mut ToPoll, changed: &mut ChangedGroups) {
        let Arrival { event, at, uptime } = arrival;
        // Discovery finds by itself what doesn't fit.
        Announced::of(&event).into_iter().for_each(|announced| _ = self.discovery.announce(announced));
        match event {
            Event::Receipts(event) => order.add(Arrived { event, at, uptime }),
            Event::Recalled { group, seqs } => {
                to_poll.messages.extend(seqs.into_iter().map(|seq| (group.clone(), seq)));
            }
            Event::Destroyed(group) => _ = to_poll.groups.insert(group),
            Event::MembersChanged(group) => changed.add(group.id),
            _ => {}
        }
    }
}

/// Returns at the first of these times.
async fn until<const N: usize>(times: [Option<Instant>; N]) {
    match times.into_iter().flatten().min() {
        Some(at) => sleep(at.saturating_duration_since(clock::uptime())).await,
        None => std::future::pending().await,
    }
}

fn heard(arrived: &Arrived) -> impl Iterator<Item = HeardOf<'_>> {
    let Arrived { event, at, .. } = arrived;
    event.entries.iter().map(|entry| {
        let (happened_at, arrived_at) = (event.event_at, *at);
        let ReceiptEntry { seq, counts, members } = entry;
        let heard = Heard { seq: *seq, counts: *counts, members: members.count(), happened_at, arrived_at };
        HeardOf { group: &event.group, heard, members }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_whose_members_change_are_bounded_in_number_and_time() {
        let now = Instant::now();
        let mut changed = ChangedGroups { groups: HashSet::new(), due: now };
        assert_eq!(changed.next_at(), None);
        (0..MOST_CHANGED_GROUPS * 2).for_each(|number| changed.add(format!("g{number}").parse().unwrap()));
        assert_eq!((changed.next_at(), changed.take(now).len()), (Some(now), MOST_CHANGED_GROUPS));
        changed.add("g".parse().unwrap());
        assert_eq!((changed.next_at(), changed.take(now).len()), (Some(now + MEMBERS_EVERY), 0));
        assert_eq!(changed.take(now + MEMBERS_EVERY).len(), 1);
    }
}
