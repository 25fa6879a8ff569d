//! Who may poll an app: one process at a time, any number standing by.
//!
//! [`Contender`] is one process's view of the row of its app in `poller_leases`, as pure code fed with `now`; the store
//! reads and writes the row. A holder trusts its lease only by its own monotonic clock, and a contender takes over only
//! what it has itself watched standing still: so nobody's wall clock has to be right, the database's neither, and after an
//! outage of the database the old holder, which still keeps what its calls brought back, is first. The clock for both goes on
//! while a machine is suspended: a holder that wakes up does not trust what has ended meanwhile.

mod holder;

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

pub use self::holder::Holder;
use crate::domain::Timestamp;

/// A lease that is not renewed for so long is over.
pub const TTL: Duration = Duration::from_secs(10);

/// The holder stops sending so long before that. It is more than a second, so that no second has calls of two holders.
pub const MARGIN: Duration = Duration::from_secs(2);

/// A lease is renewed this often, and tried again this soon after a renewal failed.
pub const RENEW_EVERY: Duration = Duration::from_secs(2);

/// Who stands by looks this often.
pub const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Who did not look for so long has not watched: it was suspended or stopped, and the holder may have been too.
const LOOKED_AWAY: Duration = Duration::from_secs(5);

/// The row of an app as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseRow {
    /// Who has it; nobody after a clean release.
    pub holder: Option<String>,
    /// Counts up with every holder.
    pub epoch: i64,
    /// Until when, by the database's clock. It is for people to read; here it only tells one renewal from another.
    pub expires_at: Timestamp,
}

/// What a contender that stands by is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Take the lease, if the row is still as it was seen.
    Take,
    /// Look again after [`LOOK_EVERY`].
    Wait,
}

/// One process's view of the lease of its app.
#[derive(Debug, Default)]
pub struct Contender {
    state: State,
}

#[derive(Debug, Default)]
enum State {
    /// Nothing has been seen since the start, or since the database failed.
    #[default]
    Blind,
    /// Somebody else's lease, unchanged since then.
    Watching {
        epoch: i64,
        expires_at: Timestamp,
        since: Instant,
        looked_at: Instant,
    },
    Holding {
        epoch: i64,
        trusted_until: Instant,
    },
}

impl Contender {
    /// Decides about the row as it was seen at `now`. `is_dead` tells whether a holder is known to have ended.
    pub fn saw(&mut self, row: Option<&LeaseRow>, is_dead: impl FnOnce(&str) -> bool, now: Instant) -> Verdict {
        let Some(row) = row else { return Verdict::Take };
        let Some(holder) = &row.holder else { return Verdict::Take };
        let since = match self.state {
            State::Watching { epoch, expires_at, since, looked_at }
                if (epoch, expires_at) == (row.epoch, row.expires_at)
                    && now.saturating_duration_since(looked_at) < LOOKED_AWAY =>
            {
                since
            }
            _ => now,
        };
        self.state = State::Watching { epoch: row.epoch, expires_at: row.expires_at, since, looked_at: now };
        let is_over = now.saturating_duration_since(since) >= TTL;
        if is_over || is_dead(holder) { Verdict::Take } else { Verdict::Wait }
    }

    /// The database failed: what stood still meanwhile may only have been out of reach.
    pub fn lost_sight(&mut self) {
        if !matches!(self.state, State::Holding { .. }) {
            self.state = State::Blind;
        }
    }

    /// The lease was taken or renewed, by a statement that was sent at `asked_at`.
    pub fn holds(&mut self, epoch: i64, asked_at: Instant) {
        self.state = State::Holding { epoch, trusted_until: asked_at + TTL - MARGIN };
    }

    /// The lease has passed to somebody else, or was given back.
    pub fn lost(&mut self) {
        self.state = State::Blind;
    }

    /// The epoch of the lease that is held, trusted or not.
    pub fn epoch(&self) -> Option<i64> {
        match self.state {
            State::Holding { epoch, .. } => Some(epoch),
            _ => None,
        }
    }

    /// Whether calls may be made at `now`.
    pub fn is_trusted(&self, now: Instant) -> bool {
        matches!(self.state, State::Holding { trusted_until, .. } if now < trusted_until)
    }
}

/// The view of this process, shared by its parts.
#[derive(Debug, Default)]
pub struct Lease(Mutex<Contender>);

impl Lease {
    /// The view itself.
    pub fn contender(&self) -> MutexGuard<'_, Contender> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether calls may be made at `now`.
    pub fn is_trusted(&self, now: Instant) -> bool {
        self.contender().is_trusted(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALIVE: fn(&str) -> bool = |_| false;

    fn row(epoch: i64, second: i64) -> LeaseRow {
        let expires_at = Timestamp::from_timestamp(1_700_000_000 + second, 0).unwrap();
        LeaseRow { holder: Some("somebody".into()), epoch, expires_at }
    }

    fn seconds(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    #[test]
    fn a_lease_that_nobody_has_is_taken_at_once() {
        let now = Instant::now();
        assert_eq!(Contender::default().saw(None, ALIVE, now), Verdict::Take);
        let released = LeaseRow { holder: None, ..row(7, 0) };
        assert_eq!(Contender::default().saw(Some(&released), ALIVE, now), Verdict::Take);
    }

    #[test]
    fn the_lease_of_a_process_that_is_known_to_have_ended_is_taken_at_once() {
        let is_dead = |holder: &str| holder == "somebody";
        assert_eq!(Contender::default().saw(Some(&row(1, 10)), is_dead, Instant::now()), Verdict::Take);
    }

    #[test]
    fn a_lease_is_taken_after_it_stood_still_for_its_ttl() {
        let (start, mut contender) = (Instant::now(), Contender::default());
        for second in [0.0, 4.0, 8.0, 9.9] {
            assert_eq!(contender.saw(Some(&row(1, 10)), ALIVE, start + seconds(second)), Verdict::Wait);
        }
        assert_eq!(contender.saw(Some(&row(1, 10)), ALIVE, start + TTL), Verdict::Take);
    }

    #[test]
    fn who_was_suspended_has_not_watched_and_lets_the_holder_renew_first() {
        let (start, mut contender) = (Instant::now(), Contender::default());
        contender.saw(Some(&row(1, 10)), ALIVE, start);
        let awake = start + seconds(3_600.0);
        assert_eq!(contender.saw(Some(&row(1, 10)), ALIVE, awake), Verdict::Wait);
        for second in [4.0, 8.0] {
            assert_eq!(contender.saw(Some(&row(1, 10)), ALIVE, awake + seconds(second)), Verdict::Wait);
        }
        assert_eq!(contender.saw(Some(&row(1, 10)), ALIVE, awake + TTL), Verdict::Take);
    }

    #[test]
    fn a_lease_that_is_renewed_is_never_taken() {
        let (start, mut contender) = (Instant::now(), Contender::default());
        for second in 0..100 {
            let renewed = row(1, second / 2);
            let now = start + seconds(f64::from(u32::try_from(second).unwrap()));
            assert_eq!(contender.saw(Some(&renewed), ALIVE, now), Verdict::Wait);
        }
    }

    #[test]
    fn watching_begins_anew_after_the_database_was_away() {
        let (start, mut contender) = (Instant::now(), Contender::default());
        contender.saw(Some(&row(1, 10)), ALIVE, start);
        contender.lost_sight();
        assert_eq!(contender.saw(Some(&row(1, 10)), ALIVE, start + TTL), Verdict::Wait, "its holder comes first");
    }

    #[test]
    fn a_lease_is_trusted_until_a_margin_before_its_end_counted_from_when_it_was_asked_for() {
        let (start, mut contender) = (Instant::now(), Contender::default());
        assert!(!contender.is_trusted(start));
        contender.holds(3, start);
        assert_eq!(contender.epoch(), Some(3));
        assert!(contender.is_trusted(start + seconds(7.9)));
        assert!(!contender.is_trusted(start + TTL - MARGIN));
        contender.lost_sight();
        assert_eq!(contender.epoch(), Some(3), "an outage does not end it: it may be renewed still");
        contender.holds(3, start + seconds(60.0));
        assert!(contender.is_trusted(start + seconds(61.0)));
        contender.lost();
        assert!(contender.epoch().is_none() && !contender.is_trusted(start));
    }
}
