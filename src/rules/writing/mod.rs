//! Decides which results are written together, when, and what follows if that fails. Batches are written every 500 ms
//! or 4,000 rows, whichever comes first.
//!
//! A failed batch is repeated until it succeeds: no result of a call is dropped. Meanwhile polling stops. Refused rows
//! are found by halving, and set aside one by one; locked ones wait separately. A poll whose slot has changed since it
//! was read is decided again. That also shows whether a commit without an answer was made: if so, the slot's last call
//! is the poll's.
//!
//! Pure, given `now`: [`Writing::next`] says what to do, and its caller reports the outcome.

mod anew;
mod batch;
mod parts;
mod task;

use std::{
    borrow::BorrowMut,
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

pub use self::task::Committed;
pub(crate) use self::{
    anew::{Decided, Present, to_read},
    task::{Failure, Reason, Task},
};
use self::{
    batch::{BatchSize, MAX_ROWS},
    parts::{Mode, Part},
};
use crate::rules::{
    recording::{Kept, pause},
    slot::SlotKey,
};

/// Maximum time that a batch waits for more to write.
const GATHER: Duration = Duration::from_millis(500);

/// How often locked rows are retried.
const TRY_LEFT_EVERY: Duration = Duration::from_secs(1);

/// Maximum time per retry for finding rows that are free by now; the rest follows in the next retry.
const SEARCH: Duration = Duration::from_millis(500);

/// Maximum number of polls that wait for other sessions' locks; from then on, everything waits.
const MAX_LEFT: usize = 2_000;

/// First delay between two attempts at a failed batch, doubled each time up to …
const FIRST_WAIT: Duration = Duration::from_millis(50);

/// … this long.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// Time without further repetitions after those of a batch that was refused for now were in vain. A group whose every
/// poll is refused so would otherwise stop all others.
const IN_VAIN: Duration = Duration::from_secs(300);

/// The state between two tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Gathering,
    WritingGathered,
    /// Writing the polls whose rows were locked, as far as possible until this time.
    WritingLeft(Instant),
    WaitingForOthers(Instant),
    Over(Option<Reason>),
}

/// Polls on their way into the database.
#[derive(Debug)]
pub(crate) struct Writing<T> {
    stage: Stage,
    gathered: Vec<T>,
    gathered_rows: usize,
    /// Time at which the gathered polls are written.
    gathered_until: Option<Instant>,
    /// Polls to be written, the last one first.
    parts: Vec<Part<T>>,
    /// The polls of the present task, if it is about polls.
    batch: Part<T>,
    wait: Duration,
    repeat_at: Option<Instant>,
    /// A batch was refused for now, each time until the longest wait: until then, such rows are set aside at once.
    in_vain_until: Option<Instant>,
    /// Polls with a locked row.
    left: Vec<T>,
    try_left_at: Instant,
    size: BatchSize,
    /// Number of times in a row that the tables refused the row of a slot, or of its group.
    refusals: HashMap<SlotKey, i32>,
    is_blocked: bool,
    is_closed: bool,
    must_give_up: bool,
}

impl<T: BorrowMut<Kept>> Writing<T> {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            stage: Stage::Gathering,
            gathered: vec![],
            gathered_rows: 0,
            gathered_until: None,
            parts: vec![],
            batch: Part::default(),
            wait: FIRST_WAIT,
            repeat_at: None,
            in_vain_until: None,
            left: vec![],
            try_left_at: now,
            size: BatchSize::default(),
            refusals: HashMap::new(),
            is_blocked: false,
            is_closed: false,
            must_give_up: false,
        }
    }

    /// Adds a poll to be written.
    pub(crate) fn received(&mut self, poll: T, now: Instant) {
        self.gathered_until.get_or_insert(now + GATHER);
        self.gathered_rows += poll.borrow().rows();
        self.gathered.push(poll);
    }

    /// Ends the input: there will be no more polls.
    pub(crate) fn closed(&mut self) {
        self.is_closed = true;
    }

    /// Ends the time for shutdown: nothing is repeated any more.
    pub(crate) fn give_up(&mut self) {
        self.must_give_up = true;
    }

    /// Whether results can't be stored, so that no poll may start.
    pub(crate) fn is_blocked(&self) -> bool {
        self.is_blocked
    }

    /// Everything that is not written yet.
    pub(crate) fn unwritten(&self) -> impl Iterator<Item = &T> {
        let parts = std::iter::once(&self.batch).chain(&self.parts).flat_map(|part| &part.polls);
        self.gathered.iter().chain(parts).chain(&self.left)
    }

    /// What to do at `now`. The answer stays the same until its outcome is reported.
    pub(crate) fn next(&mut self, now: Instant) -> Task<'_, T> {
        loop {
            match self.stage {
                Stage::Over(reason) => return Task::End(reason),
                Stage::Gathering => {
                    if let Some(until) = self.gathers_until(now) {
                        return Task::Receive(until);
                    }
                    self.stage = Stage::WritingGathered;
                    (self.gathered_until, self.gathered_rows) = (None, 0);
                    self.parts = vec![std::mem::take(&mut self.gathered).into()];
                }
                Stage::WaitingForOthers(_) if self.must_give_up => self.stage = Stage::Over(Some(Reason::Stopped)),
                Stage::WaitingForOthers(until) if now < until => return Task::WaitForOthers(until, self.left.len()),
                Stage::WaitingForOthers(_) => self.stage = Stage::Gathering,
                Stage::WritingGathered | Stage::WritingLeft(_) => match (self.has_batch(now), self.repeat_at) {
                    (false, _) => self.stage = self.after_writing(now),
                    (true, Some(_)) if self.must_give_up => self.stage = Stage::Over(Some(Reason::Stopped)),
                    (true, Some(at)) if now < at => return Task::Wait(at),
                    (true, _) => return self.task(),
                },
            }
        }
    }

    /// How long to wait for another poll; `None` if it is time to write.
    fn gathers_until(&self, now: Instant) -> Option<Option<Instant>> {
        if self.is_ending() {
            return None;
        }
        let until = match self.gathered_until {
            None if self.left.is_empty() => return Some(None),
            None => self.try_left_at,
            Some(until) => until,
        };
        (now < until && self.gathered_rows < MAX_ROWS).then_some(Some(until))
    }

    /// Whether no poll is waited for. A poll that hangs beyond the shutdown deadline isn't waited for.
    fn is_ending(&self) -> bool {
        self.is_closed || self.must_give_up
    }

    fn after_writing(&mut self, now: Instant) -> Stage {
        if self.stage == Stage::WritingGathered && (self.is_ending() || now >= self.try_left_at) {
            self.parts = vec![std::mem::take(&mut self.left).into()];
            return Stage::WritingLeft(now + SEARCH);
        }
        if self.stage != Stage::WritingGathered {
            self.try_left_at = now + TRY_LEFT_EVERY;
        }
        let must_wait = !self.left.is_empty() && (self.is_ending() || self.left.len() > MAX_LEFT);
        self.is_blocked = must_wait;
        match self.is_ending() {
            _ if must_wait => Stage::WaitingForOthers(now + TRY_LEFT_EVERY),
            true => Stage::Over(None),
            false => Stage::Gathering,
        }
    }

    fn task(&self) -> Task<'_, T> {
        match (self.batch.mode, &self.batch.polls[..]) {
            (Mode::Anew, polls) => Task::Read(polls),
            (Mode::Apart, [poll]) => Task::SetAside(poll, pause(self.refusals_of(poll.borrow().recording.slot))),
            (Mode::Whole | Mode::Apart, polls) => Task::Write(polls),
        }
    }

    /// The number of refusals of a slot, including the present one.
    fn refusals_of(&self, slot: SlotKey) -> i32 {
        self.refusals.get(&slot).map_or(1, |count| count.saturating_add(1))
    }

    /// Reports that the batch was written, except for the polls of the slots in `changed`, which are decided again.
    pub(crate) fn wrote(&mut self, changed: &HashSet<SlotKey>) {
        let Part { mut polls, mode } = std::mem::take(&mut self.batch);
        self.size.ended_in_time();
        polls.retain(|poll| {
            let slot = poll.borrow().recording.slot;
            let is_changed = changed.contains(&slot);
            if !is_changed && mode == Mode::Whole {
                self.refusals.remove(&slot);
            }
            is_changed
        });
        self.parts.push(Part { polls, mode: Mode::Anew });
    }

    /// Reports that the refused rows of the poll are set aside, and the others written. `waits` tells whether its
    /// slot's row, or that of its group, was among them.
    pub(crate) fn set_aside(&mut self, waits: bool) {
        for poll in std::mem::take(&mut self.batch).polls {
            let slot = poll.borrow().recording.slot;
            let refusals = self.refusals_of(slot);
            _ = if waits { self.refusals.insert(slot, refusals) } else { self.refusals.remove(&slot) };
        }
        self.size.ended_in_time();
    }

    /// Reports the result of reading. Polls that turn out to be stored are not written again.
    pub(crate) fn read(&mut self, present: Present) -> Decided<T> {
        let mut decided = anew::decide(std::mem::take(&mut self.batch).polls, present);
        self.parts.push(std::mem::take(&mut decided.polls).into());
        decided
    }

    /// Reports that another session has locked one of the rows. Nothing was written.
    pub(crate) fn found_locked(&mut self) {
        match std::mem::take(&mut self.batch).halves() {
            Ok(halves) => self.parts.extend(halves),
            Err(part) => self.left.extend(part.polls),
        }
    }

    /// Reports that something has changed since it was read. Nothing was written.
    pub(crate) fn found_changed(&mut self) {
        self.halve_or(Mode::Anew);
    }

    fn halve_or(&mut self, mode: Mode) {
        match std::mem::take(&mut self.batch).halves() {
            Ok(halves) => self.parts.extend(halves),
            Err(part) => self.parts.push(Part { mode, ..part }),
        }
    }

    /// Reports that the task failed. Returns whether it is repeated, unchanged or in smaller batches, while polling
    /// waits.
    pub(crate) fn failed(&mut self, failure: Failure, now: Instant) -> bool {
        match failure {
            Failure::LeaseLost => self.stage = Stage::Over(Some(Reason::LeaseLost)),
            Failure::Mended => {}
            Failure::RefusedForNow if self.must_give_up || self.in_vain_until > Some(now) => {
                return self.failed(Failure::Refused, now);
            }
            Failure::RefusedForNow if self.wait == LONGEST_WAIT => {
                self.in_vain_until = Some(now + IN_VAIN);
                return self.failed(Failure::Refused, now);
            }
            Failure::Refused if self.batch.mode == Mode::Whole => self.halve_or(Mode::Apart),
            Failure::TimedOut if self.batch.polls.len() > 1 && !self.must_give_up => {
                self.is_blocked = true;
                self.size.took_too_long(self.batch.rows());
                self.parts.push(std::mem::take(&mut self.batch));
                return true;
            }
            Failure::Refused | Failure::RefusedForNow | Failure::TimedOut | Failure::Other => {
                self.is_blocked = true;
                self.repeat_at = Some(now + self.wait);
                self.wait = (self.wait * 2).min(LONGEST_WAIT);
                return true;
            }
        }
        false
    }

    /// Whether there is a batch, after taking the next one. The search for locked rows has a time limit.
    fn has_batch(&mut self, now: Instant) -> bool {
        if !self.batch.polls.is_empty() {
            return true;
        }
        if matches!(self.stage, Stage::WritingLeft(until) if now >= until) {
            let rest = self.parts.drain(..).rev().flat_map(|part| part.polls);
            self.left.splice(..0, rest);
        }
        (self.wait, self.repeat_at) = (FIRST_WAIT, None);
        self.batch = parts::take_batch(&mut self.parts, self.size);
        !self.batch.polls.is_empty()
    }
}

#[cfg(test)]
mod tests;
