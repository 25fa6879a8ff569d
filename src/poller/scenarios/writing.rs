//! The recorder of a term. Mirrors `src/store/recorder.rs`, as far as nothing is refused and nobody else holds a lock: a
//! flush that failed is tried again until it succeeds, time is up, or the lease has passed.

use std::time::Duration;

use super::{
    database::Kept,
    operation::{Reply, Request},
    world::{Doing, World},
};
use crate::store::{BatchSize, Committed};

/// As the constants in `store::recorder` have it.
const GATHER: Duration = Duration::from_millis(100);
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
    queue: Vec<Kept>,
    batch: Vec<Kept>,
    /// What is to be written after the batch.
    rest: Vec<Kept>,
    size: BatchSize,
    state: State,
    wait: Duration,
    unanswered: bool,
    must_give_up: bool,
    pub is_stuck: bool,
}

impl Writing {
    /// Whether nothing is left to be written.
    pub fn is_done(&self) -> bool {
        matches!(self.state, State::Idle | State::Ended)
    }

    /// Takes the next batch. False if nothing is left.
    fn takes_batch(&mut self) -> bool {
        self.batch = self.size.take(&mut self.rest, |_| 1);
        !self.batch.is_empty()
    }

    pub fn unwritten(&self) -> Vec<u64> {
        self.queue.iter().chain(&self.batch).chain(&self.rest).map(|kept| kept.id).collect()
    }
}

impl World {
    fn writing(&mut self, daemon: usize) -> &mut Writing {
        &mut self.daemons[daemon].term.as_mut().expect("only a term writes").writing
    }

    pub fn records(&mut self, daemon: usize, kept: Kept) {
        let writing = self.writing(daemon);
        if writing.state == State::Ended {
            return self.loses(daemon, vec![kept.id], Reply::LeaseLost);
        }
        writing.queue.push(kept);
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
        (writing.wait, writing.unanswered) = (FIRST_WAIT, false);
        self.flushes(daemon);
    }

    pub fn flushes(&mut self, daemon: usize) {
        let writing = self.writing(daemon);
        if writing.state == State::Ended {
            return;
        }
        writing.state = State::Writing;
        let request = Request::Flush(writing.batch.clone(), writing.unanswered);
        self.request(daemon, request);
    }

    pub fn flushed(&mut self, daemon: usize, reply: Reply) {
        let clocks = self.clocks(daemon);
        let Some(term) = &mut self.daemons[daemon].term else { return };
        let writing = &mut term.writing;
        match reply {
            Reply::Committed(slots) => {
                writing.is_stuck = false;
                self.tally.stored += writing.batch.len() as u64;
                writing.batch.clear();
                writing.size.ended_in_time();
                writing.state = State::Idle;
                let is_done = !writing.takes_batch();
                for slot in slots {
                    match slot {
                        Committed::Due(slot, due) => term.polling.schedule.release(slot, due, clocks),
                        Committed::PutOff(slot, due) => term.polling.schedule.put_off(slot, due, clocks),
                        Committed::Gone(slot) => term.polling.schedule.forget(slot),
                        Committed::Made(made) => term.polling.schedule.learn_made(made, clocks),
                    }
                }
                if !is_done {
                    self.flushes(daemon);
                } else if !self.writing(daemon).queue.is_empty() {
                    self.gathers(daemon);
                }
                self.wake_in(daemon, Duration::ZERO);
                self.polls_have_ended(daemon);
            }
            Reply::LeaseLost => self.ends_writing(daemon, Reply::LeaseLost),
            reply => {
                writing.unanswered = true;
                writing.is_stuck = true;
                writing.state = State::Waiting;
                if writing.must_give_up {
                    return self.ends_writing(daemon, reply);
                }
                writing.size.took_too_long(writing.batch.len());
                writing.rest.splice(..0, std::mem::take(&mut writing.batch));
                writing.takes_batch();
                let wait = writing.wait;
                writing.wait = (wait * 2).min(LONGEST_WAIT);
                self.after(daemon, wait, Doing::FlushAgain);
            }
        }
    }

    /// The time for stopping is over. A flush that is under way still has its own time.
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
