//! The recorder of a term: [`Writing`] decides, and the model of the database answers.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use super::{
    database::Numbered,
    operation::{Reply, Request},
    plan::Micros,
    world::{Doing, World},
};
use crate::rules::{
    polling::schedule::Now,
    writing::{Committed, Failure, Reason, Task, Writing, to_read},
};

/// The queue to the recorder, and what it does.
pub(super) struct Recorder {
    queue: VecDeque<Numbered>,
    writing: Writing<Numbered>,
    /// No more polls will come.
    is_closed: bool,
    is_asking: bool,
    /// The shutdown deadline is over.
    must_give_up: bool,
    has_ended: bool,
    wakes_at: Option<Micros>,
}

impl Recorder {
    pub fn new(now: Instant) -> Self {
        Self {
            queue: VecDeque::new(),
            writing: Writing::new(now),
            is_closed: false,
            is_asking: false,
            must_give_up: false,
            has_ended: false,
            wakes_at: None,
        }
    }

    /// All polls have ended.
    pub fn closes(&mut self) {
        self.is_closed = true;
    }

    pub fn has_ended(&self) -> bool {
        self.has_ended
    }

    pub fn is_blocked(&self) -> bool {
        self.writing.is_blocked()
    }

    pub fn unwritten(&self) -> Vec<u64> {
        if self.has_ended {
            return vec![];
        }
        self.queue.iter().chain(self.writing.unwritten()).map(|poll| poll.id).collect()
    }
}

impl World {
    fn recorder(&mut self, daemon: usize) -> &mut Recorder {
        &mut self.daemons[daemon].term.as_mut().expect("only a term writes").recorder
    }

    pub fn records(&mut self, daemon: usize, poll: Numbered) {
        if self.recorder(daemon).has_ended {
            return self.loses(daemon, vec![poll.id], Reason::LeaseLost);
        }
        self.recorder(daemon).queue.push_back(poll);
        self.writes(daemon);
    }

    /// Does what has to be done now.
    pub fn writes(&mut self, daemon: usize) {
        let instant = self.instant();
        loop {
            let recorder = self.recorder(daemon);
            if recorder.has_ended || recorder.is_asking {
                return;
            }
            let request = match recorder.writing.next(instant) {
                Task::Receive(until) => match recorder.queue.pop_front() {
                    Some(poll) => {
                        recorder.writing.received(poll, instant);
                        continue;
                    }
                    None if recorder.is_closed => {
                        recorder.writing.closed();
                        continue;
                    }
                    None => return until.into_iter().for_each(|until| self.writes_at(daemon, until)),
                },
                Task::Wait(until) | Task::WaitForOthers(until, _) => return self.writes_at(daemon, until),
                Task::Write(polls) => Request::Flush(polls.to_vec()),
                Task::SetAside(poll, pause) => Request::SetAside(Box::new(poll.clone()), pause),
                Task::Read(polls) => {
                    let (slots, groups) = to_read(polls);
                    Request::ReadAgain(slots, groups)
                }
                Task::End(reason) => return self.ends_writing(daemon, reason),
            };
            recorder.is_asking = true;
            return self.request(daemon, request);
        }
    }

    fn writes_at(&mut self, daemon: usize, until: Instant) {
        let (now, at) = (self.now, self.micros(until));
        let recorder = self.recorder(daemon);
        if recorder.wakes_at != Some(at) {
            recorder.wakes_at = Some(at);
            self.after(daemon, Duration::from_micros(at.saturating_sub(now)), Doing::Writes);
        }
    }

    /// The database has answered.
    pub fn wrote(&mut self, daemon: usize, reply: Reply) {
        let (instant, clocks) = (self.instant(), self.clocks(daemon));
        let recorder = self.recorder(daemon);
        if recorder.has_ended {
            return;
        }
        recorder.is_asking = false;
        let unwritten = recorder.writing.unwritten().count();
        let writing = &mut recorder.writing;
        let mut committed = Vec::new();
        match reply {
            Reply::Committed(slots, changed) => {
                writing.wrote(&changed);
                committed = slots;
            }
            Reply::SetAside(slots) => {
                writing.set_aside(true);
                committed = slots;
            }
            Reply::Present(present) => {
                let decided = writing.read(present);
                committed = decided.committed;
                for poll in decided.needless {
                    self.database.stored.insert(poll.id, 1);
                }
            }
            Reply::Locked => writing.found_locked(),
            reply => _ = writing.failed(failure(&reply), instant),
        }
        self.tally.stored += (unwritten - self.recorder(daemon).writing.unwritten().count()) as u64;
        self.hears_all(daemon, committed, clocks);
        self.writes(daemon);
    }

    fn hears_all(&mut self, daemon: usize, committed: Vec<Committed>, clocks: Now) {
        if committed.is_empty() {
            return;
        }
        let polling = self.polling(daemon);
        committed.into_iter().for_each(|slot| polling.dispatch.hear_committed(slot, clocks));
        self.wake_in(daemon, Duration::ZERO);
    }

    /// The shutdown deadline is over. A flush in progress still has its own time.
    pub fn gives_up(&mut self, daemon: usize) {
        let recorder = self.recorder(daemon);
        recorder.must_give_up = true;
        recorder.writing.give_up();
        self.writes(daemon);
    }

    fn ends_writing(&mut self, daemon: usize, why: Option<Reason>) {
        let lost = self.recorder(daemon).unwritten();
        self.recorder(daemon).has_ended = true;
        self.loses(daemon, lost, why.unwrap_or(Reason::Stopped));
        match why {
            // It ends by itself only when nothing more can come.
            None => {}
            Some(Reason::LeaseLost) => self.ends_term(daemon),
            Some(Reason::Stopped) => self.recorder_has_failed(daemon),
        }
        self.polls_have_ended(daemon);
    }

    fn loses(&mut self, daemon: usize, lost: Vec<u64>, why: Reason) {
        self.tally.lost += lost.len() as u64;
        let fence = self.daemons[daemon].fence();
        let is_held = fence.is_some_and(|fence| self.database.holds(&fence));
        let is_excused = match why {
            Reason::LeaseLost => !is_held,
            Reason::Stopped => self.recorder(daemon).must_give_up,
        };
        self.promises.lost(lost, is_excused);
    }
}

fn failure(reply: &Reply) -> Failure {
    match reply {
        Reply::LeaseLost => Failure::LeaseLost,
        Reply::Refused => Failure::Refused,
        Reply::TimedOut => Failure::TimedOut,
        _ => Failure::Other,
    }
}
