//! The life of a process as a candidate for the lease: it stands by, takes the lease, renews it while it polls, and
//! steps down when another process has taken it or a part of it fails.
//!
//! Pure, given `now`: [`Elector::next`] says what to do, and its caller reports the outcome. Which lease may be
//! taken, and for how long it is trusted, is decided by [`Contender`].

use std::time::{Duration, Instant};

use super::contender::{Contender, LOOK_EVERY, LeaseRow, RENEW_EVERY, Verdict};

/// Delay before a query that failed is repeated.
pub(crate) const ASK_AGAIN: Duration = Duration::from_secs(1);

/// Maximum time for polls in flight to end, when polling is over.
pub(crate) const GRACE_FOR_POLLS: Duration = Duration::from_secs(10);

/// Maximum time for the recorder to write their results afterwards, if the term is over too. Between two sessions there
/// is no limit.
pub(crate) const GRACE_FOR_FLUSH: Duration = Duration::from_secs(10);

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Task {
    /// Read the row of the lease.
    Look,
    /// Take the lease, if its row is still this one.
    Take(Option<LeaseRow>),
    /// Begin to poll, under the lease of this epoch. Returned once.
    Lead(i64),
    /// Renew the lease.
    Renew,
    /// End polling, since another process has the lease. Returned until polling has ended.
    StepDown,
    /// Release the lease.
    Release,
    /// Wait until then.
    Wait(Instant),
    /// Nothing more to do.
    End,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Stage {
    StandingBy { look_at: Option<Instant> },
    Taking(Option<LeaseRow>),
    Elected(i64),
    Leading { epoch: i64, renew_at: Instant },
    Deposed,
    Releasing,
    Over,
}

/// A candidate.
#[derive(Debug)]
pub(crate) struct Elector {
    contender: Contender,
    stage: Stage,
    /// Whether it no longer takes the lease.
    is_last: bool,
}

impl Default for Elector {
    fn default() -> Self {
        Self { contender: Contender::default(), stage: Stage::StandingBy { look_at: None }, is_last: false }
    }
}

impl Elector {
    /// Its view of the lease.
    pub(crate) fn contender(&self) -> &Contender {
        &self.contender
    }

    /// What to do at `now`. Unless stated otherwise, the answer stays the same until its outcome is reported.
    pub(crate) fn next(&mut self, now: Instant) -> Task {
        match self.stage.clone() {
            Stage::StandingBy { .. } | Stage::Taking(_) if self.is_last => Task::End,
            Stage::StandingBy { look_at: Some(at) } if now < at => Task::Wait(at),
            Stage::StandingBy { .. } => Task::Look,
            Stage::Taking(row) => Task::Take(row),
            Stage::Elected(epoch) => {
                self.stage = Stage::Leading { epoch, renew_at: now + RENEW_EVERY };
                Task::Lead(epoch)
            }
            Stage::Leading { renew_at, .. } if now < renew_at => Task::Wait(renew_at),
            Stage::Leading { .. } => Task::Renew,
            Stage::Deposed => Task::StepDown,
            Stage::Releasing => Task::Release,
            Stage::Over => Task::End,
        }
    }

    /// The process is to stop: it no longer takes the lease, and polling ends by itself.
    pub(crate) fn stop(&mut self) {
        self.is_last = true;
    }

    /// Reports the row of the lease at `now`. `is_free` tells whether a holder is this process, or known to have ended.
    /// Returns whether another process has the lease.
    pub(crate) fn saw(&mut self, row: Option<&LeaseRow>, is_free: impl FnOnce(&str) -> bool, now: Instant) -> bool {
        let is_taken = self.contender.saw(row, is_free, now) == Verdict::Wait;
        self.stage = match is_taken {
            true => Stage::StandingBy { look_at: Some(now + LOOK_EVERY) },
            false => Stage::Taking(row.cloned()),
        };
        is_taken
    }

    /// Reports that the lease was taken by a statement sent at `asked_at`; with `None`, another process was first.
    pub(crate) fn took(&mut self, epoch: Option<i64>, asked_at: Instant, now: Instant) {
        self.stage = match epoch {
            Some(epoch) => {
                self.contender.holds(epoch, asked_at);
                Stage::Elected(epoch)
            }
            None => Stage::StandingBy { look_at: Some(now + LOOK_EVERY) },
        };
    }

    /// Reports that the lease was renewed by a statement sent at `asked_at`, unless another process has it.
    pub(crate) fn renewed(&mut self, is_held: bool, asked_at: Instant, now: Instant) {
        let Stage::Leading { epoch, renew_at } = &mut self.stage else { return };
        if is_held {
            self.contender.holds(*epoch, asked_at);
            *renew_at = now + RENEW_EVERY;
        } else {
            self.contender.lost();
            self.stage = Stage::Deposed;
        }
    }

    /// Reports that the database failed, as far as is known.
    pub(crate) fn failed(&mut self, now: Instant) {
        match &mut self.stage {
            Stage::StandingBy { .. } | Stage::Taking(_) => {
                self.contender.lost_sight();
                self.stage = Stage::StandingBy { look_at: Some(now + ASK_AGAIN) };
            }
            Stage::Leading { renew_at, .. } => *renew_at = now + ASK_AGAIN,
            // Another process has to wait until it ends.
            Stage::Releasing => self.released(),
            Stage::Elected(_) | Stage::Deposed | Stage::Over => {}
        }
    }

    /// Reports that polling has ended and its results are stored. Any renewal must have been answered before: a process
    /// that releases the lease must not mistake it for its own again. If a part has failed, the process ends.
    pub(crate) fn polling_ended(&mut self, has_failed: bool) {
        let is_held = matches!(self.stage, Stage::Leading { .. });
        self.is_last |= has_failed;
        self.contender.lost();
        self.stage = Stage::Releasing;
        if !is_held {
            self.released();
        }
    }

    /// Reports that the lease is released.
    pub(crate) fn released(&mut self) {
        self.stage = if self.is_last { Stage::Over } else { Stage::StandingBy { look_at: None } };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{domain::Timestamp, rules::lease::TTL};

    fn row(epoch: i64) -> LeaseRow {
        let expires_at = Timestamp::from_timestamp(1_700_000_000, 0).unwrap();
        LeaseRow { holder: Some("somebody".into()), epoch, expires_at }
    }

    /// A process that has just taken the lease.
    fn elected(now: Instant) -> Elector {
        let mut elector = Elector::default();
        assert_eq!(elector.next(now), Task::Look);
        assert!(!elector.saw(None, |_| false, now));
        assert_eq!(elector.next(now), Task::Take(None));
        elector.took(Some(7), now, now);
        assert_eq!(elector.next(now), Task::Lead(7));
        elector
    }

    #[test]
    fn a_standby_looks_often_and_takes_a_lease_that_stood_still() {
        let (mut elector, mut now) = (Elector::default(), Instant::now());
        let start = now;
        loop {
            assert_eq!(elector.next(now), Task::Look);
            if !elector.saw(Some(&row(3)), |_| false, now) {
                break;
            }
            assert_eq!(elector.next(now), Task::Wait(now + LOOK_EVERY));
            now += LOOK_EVERY;
        }
        assert_eq!((now - start, elector.next(now)), (TTL, Task::Take(Some(row(3)))));
        elector.took(None, now, now);
        assert_eq!(elector.next(now), Task::Wait(now + LOOK_EVERY), "another process was first");
    }

    #[test]
    fn a_standby_whose_database_fails_asks_once_a_second() {
        let (mut elector, now) = (Elector::default(), Instant::now());
        elector.failed(now);
        assert_eq!(elector.next(now), Task::Wait(now + ASK_AGAIN));
        assert_eq!(elector.next(now + ASK_AGAIN), Task::Look);
        elector.saw(None, |_| false, now);
        elector.failed(now);
        assert_eq!(elector.next(now), Task::Wait(now + ASK_AGAIN), "the lease may have been taken");
    }

    #[test]
    fn a_leader_renews_its_lease_and_stays_when_the_database_fails() {
        let start = Instant::now();
        let mut elector = elected(start);
        assert_eq!(elector.next(start), Task::Wait(start + RENEW_EVERY));
        let now = start + RENEW_EVERY;
        assert_eq!(elector.next(now), Task::Renew);
        elector.renewed(true, now, now);
        assert_eq!(elector.next(now), Task::Wait(now + RENEW_EVERY));
        let now = now + RENEW_EVERY;
        elector.failed(now);
        assert_eq!(elector.next(now), Task::Wait(now + ASK_AGAIN));
        assert_eq!(elector.contender().epoch(), Some(7));
        assert!(!elector.contender().is_trusted(now + TTL), "it makes no calls meanwhile");
    }

    #[test]
    fn a_leader_that_was_succeeded_steps_down_and_releases_nothing() {
        let start = Instant::now();
        let mut elector = elected(start);
        let now = start + RENEW_EVERY;
        elector.renewed(false, now, now);
        assert!(!elector.contender().is_trusted(now));
        assert_eq!(elector.next(now), Task::StepDown);
        elector.polling_ended(false);
        assert_eq!(elector.next(now), Task::Look);
    }

    #[test]
    fn a_leader_that_ends_releases_the_lease_and_renews_it_no_more() {
        let now = Instant::now();
        for (stops, fails, then) in [(true, false, Task::End), (false, true, Task::End), (false, false, Task::Look)] {
            let mut elector = elected(now);
            if stops {
                elector.stop();
            }
            assert_eq!(elector.next(now), Task::Wait(now + RENEW_EVERY), "until the results are stored it is held");
            elector.polling_ended(fails);
            assert_eq!((elector.next(now), elector.contender().epoch()), (Task::Release, None));
            elector.failed(now);
            assert_eq!(elector.next(now), then);
        }
    }

    #[test]
    fn a_standby_that_is_told_to_stop_ends() {
        let now = Instant::now();
        let mut elector = Elector::default();
        elector.saw(None, |_| false, now);
        elector.stop();
        assert_eq!(elector.next(now), Task::End);
    }
}
