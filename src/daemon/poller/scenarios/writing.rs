//! The recorder of a term. Mirrors `src/daemon/recorder/mod.rs`, as long as nothing is refused and no row is locked: a
//! failed flush is retried until it succeeds, time is up, or the lease has passed.

use std::{collections::BTreeMap, time::Duration};

use super::{
    database::Numbered,
    operation::{Reply, Request},
    world::{Doing, World},
};
use crate::{
    daemon::recorder::BatchSize,
    rules::{
        recording::Anew,
        slot::{Slot, SlotKey},
    },
    store::Committed,
};

/// As in `store::recorder`.
const GATHER: Duration = Duration::from_millis(200);
const FIRST_WAIT: Duration = Duration::from_millis(50);
const LONGEST_WAIT: Duration = Duration::from_secs(5);

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    Idle,
    Gathering,
    Writing,
    Waiting,
    Ended,
}

#[derive(Debug, Default)]
pub(super) struct Writing {
    queue: Vec<Numbered>,
    batch: Vec<Numbered>,
    /// Recordings to write after the batch.
    rest: Vec<Numbered>,
    size: BatchSize,
    state: State,
    wait: Duration,
    /// The batch has to be decided again first.
    is_anew: bool,
    must_give_up: bool,
    pub storing_blocked: bool,
}

impl Writing {
    /// Whether everything is written.
    pub fn is_done(&self) -> bool {
        matches!(self.state, State::Idle | State::Ended)
    }

    /// Takes the next batch. False if nothing is left.
    fn takes_batch(&mut self) -> bool {
        self.is_anew = false;
        self.batch = self.size.take(&mut self.rest, |_| 1);
        !self.batch.is_empty()
    }

    pub fn unwritten(&self) -> Vec<u64> {
        self.queue.iter().chain(&self.batch).chain(&self.rest).map(|poll| poll.id).collect()
    }
}

impl World {
    fn writing(&mut self, daemon: usize) -> &mut Writing {
        &mut self.daemons[daemon].term.as_mut().expect("only a term writes").writing
    }

    pub fn records(&mut self, daemon: usize, poll: Numbered) {
        let writing = self.writing(daemon);
        if writing.state == State::Ended {
            return self.loses(daemon, vec![poll.id], Reply::LeaseLost);
        }
        writing.queue.push(poll);
        if writing.state == State::Idle {
            self.gathers(daemon);
        }
    }

    fn gathers(&mut self, daemon: usize) {
        self.writing(daemon).state = State::Gathering;
        self.after(daemon, GATHER, Doing::Gathered);
    }

    pub fn gathered(&mut self, daemon: usize) {
        let writing = self.writing(daemon);
        writing.rest = std::mem::take(&mut writing.queue);
        writing.takes_batch();
        writing.wait = FIRST_WAIT;
        self.flushes(daemon);
    }

    pub fn flushes(&mut self, daemon: usize) {
        let writing = self.writing(daemon);
        if writing.state == State::Ended {
            return;
        }
        writing.state = State::Writing;
        let request = match writing.is_anew {
            true => Request::ReadAgain(writing.batch.iter().flat_map(|poll| poll.kept.slots()).collect()),
            false => Request::Flush(writing.batch.clone()),
        };
        self.request(daemon, request);
    }

    pub fn flushed(&mut self, daemon: usize, reply: Reply) {
        let clocks = self.clocks(daemon);
        let Some(term) = &mut self.daemons[daemon].term else { return };
        let writing = &mut term.writing;
        match reply {
            Reply::Committed(slots, changed) => {
                self.tally.stored += (writing.batch.len() - changed.len()) as u64;
                writing.size.ended_in_time();
                writing.batch.retain(|poll| changed.contains(&poll.id));
                writing.is_anew = true;
                slots.into_iter().for_each(|slot| term.polling.hears_committed(slot, clocks));
                self.writes_on(daemon);
            }
            Reply::LeaseLost => self.ends_writing(daemon, Reply::LeaseLost),
            reply => {
                writing.storing_blocked = true;
                writing.state = State::Waiting;
                if writing.must_give_up {
                    return self.ends_writing(daemon, reply);
                }
                if !writing.is_anew {
                    writing.size.took_too_long(writing.batch.len());
                    writing.rest.splice(..0, std::mem::take(&mut writing.batch));
                    writing.takes_batch();
                }
                let wait = writing.wait;
                writing.wait = (wait * 2).min(LONGEST_WAIT);
                self.after(daemon, wait, Doing::FlushAgain);
            }
        }
    }

    /// Continues with the rest of the batch, the next batch, or new recordings.
    fn writes_on(&mut self, daemon: usize) {
        let writing = self.writing(daemon);
        writing.state = State::Idle;
        let is_any_left = !writing.batch.is_empty() || writing.takes_batch();
        writing.storing_blocked &= is_any_left;
        if is_any_left {
            self.flushes(daemon);
        } else if !self.writing(daemon).queue.is_empty() {
            self.gathers(daemon);
        }
        self.wake_in(daemon, Duration::ZERO);
        self.polls_have_ended(daemon);
    }

    /// Mirrors `Recorder::decide_anew`.
    pub fn read_again(&mut self, daemon: usize, reply: Reply) {
        let Reply::Slots(slots) = reply else { return self.flushed(daemon, reply) };
        let clocks = self.clocks(daemon);
        let Some(term) = &mut self.daemons[daemon].term else { return };
        let mut slots: BTreeMap<SlotKey, Slot> = slots.into_iter().map(|slot| (slot.key, slot)).collect();
        let mut committed = Vec::new();
        term.writing.is_anew = false;
        for Numbered { id, kept } in std::mem::take(&mut term.writing.batch) {
            let (own, absorbed) = (kept.recording.slot, kept.recording.absorbs.map(|(slot, _)| slot));
            let (now, other) = (slots.remove(&own), absorbed.and_then(|slot| slots.remove(&slot)));
            match (&other, absorbed) {
                (Some(other), _) if now.is_none() => committed.push(Committed::Due(other.key, other.next_poll_at)),
                (None, Some(absorbed)) => committed.push(Committed::Gone(absorbed)),
                _ => {}
            }
            let (group, has_parts) = (own.group_key, !kept.recording.parts.is_empty());
            match kept.anew(now, other) {
                Anew::Decided(kept) if kept.is_slot_gone && kept.drops_slot() => {
                    *self.database.stored.entry(id).or_default() = 1;
                    committed.push(Committed::Gone(own));
                }
                Anew::Decided(kept) => term.writing.batch.push(Numbered { id, kept: *kept }),
                Anew::Stored(due) => {
                    committed.extend(due.into_iter().map(|(slot, due)| Committed::Due(slot, due)));
                    let made = if has_parts { self.database.slots_of_group(group) } else { vec![] };
                    committed.extend(made.into_iter().map(Committed::NewSlot));
                    self.tally.stored += 1;
                }
            }
        }
        committed.into_iter().for_each(|slot| term.polling.hears_committed(slot, clocks));
        self.writes_on(daemon);
    }

    /// The shutdown deadline is over. A flush in progress still has its own time.
    pub fn gives_up(&mut self, daemon: usize) {
        let writing = self.writing(daemon);
        writing.must_give_up = true;
        if writing.state == State::Waiting {
            self.ends_writing(daemon, Reply::Failed);
        }
    }

    fn ends_writing(&mut self, daemon: usize, why: Reply) {
        let writing = self.writing(daemon);
        writing.state = State::Ended;
        let lost = writing.unwritten();
        writing.queue.clear();
        writing.batch.clear();
        writing.rest.clear();
        let is_lease_lost = matches!(why, Reply::LeaseLost);
        self.loses(daemon, lost, why);
        if is_lease_lost {
            self.ends_term(daemon)
        } else {
            self.recorder_has_failed(daemon)
        }
        self.polls_have_ended(daemon);
    }

    fn loses(&mut self, daemon: usize, lost: Vec<u64>, why: Reply) {
        self.tally.lost += lost.len() as u64;
        let fence = self.daemons[daemon].fence();
        let is_held = fence.is_some_and(|fence| self.database.holds(&fence));
        let is_excused = if matches!(why, Reply::LeaseLost) { !is_held } else { self.writing(daemon).must_give_up };
        self.promises.lost(lost, is_excused);
    }
}
