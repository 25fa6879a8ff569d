//! A process's view of its app's row in `poller_leases`: which lease may be taken, and for how long it is trusted.
//!
//! A holder trusts its lease only by its own clock for durations, and a standby takes over only if it has itself seen
//! the lease unchanged. So no wall clock has to be right, not even the database's, and after an outage of the database
//! the old holder, which still has unstored results, comes first. Both use a clock that continues while a machine is
//! suspended: a holder that wakes up doesn't trust a lease that has ended meanwhile.

use std::time::{Duration, Instant};

use crate::domain::Timestamp;

/// Time after which a lease that is not renewed is over.
pub const TTL: Duration = Duration::from_secs(10);

/// Time before that at which the holder stops sending. More than a second, so that no second has calls of two
/// holders.
const MARGIN: Duration = Duration::from_secs(2);

/// How often a lease is renewed.
pub(super) const RENEW_EVERY: Duration = Duration::from_secs(2);

/// How often a standby checks the lease.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Maximum time between two checks of a standby. After a longer one it has not watched the lease: it was suspended or
/// stopped, and the holder may have been too.
const LOOKED_AWAY: Duration = Duration::from_secs(5);

/// The row of an app.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseRow {
    /// The holder; `None` after a clean release.
    pub holder: Option<String>,
    /// Increases with each holder.
    pub epoch: i64,
    /// The end of the lease, by the database's clock. It is for people; here it only distinguishes renewals.
    pub expires_at: Timestamp,
}

/// What a standby should do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Take the lease, if the row is unchanged.
    Take,
    /// Check again after [`LOOK_EVERY`].
    Wait,
}

/// A process's view of its app's lease.
#[derive(Debug, Default)]
pub struct Contender {
    state: State,
}

#[derive(Debug, Default)]
enum State {
    /// Nothing was seen since the start, or since the database failed.
    #[default]
    Blind,
    /// Another process's lease, unchanged since this time.
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
    /// Decides by the row as it was at `now`. `is_dead` tells whether a holder is known to have ended.
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

    /// The database failed: a lease that looked unchanged may just have been out of reach.
    pub fn lost_sight(&mut self) {
        if !matches!(self.state, State::Holding { .. }) {
            self.state = State::Blind;
        }
    }

    /// The lease was taken or renewed, by a statement sent at `asked_at`.
    pub fn holds(&mut self, epoch: i64, asked_at: Instant) {
        self.state = State::Holding { epoch, trusted_until: asked_at + TTL - MARGIN };
    }

    /// The lease has passed to another process, or was released.
    pub fn lost(&mut self) {
        self.state = State::Blind;
    }

    /// The epoch of the held lease, trusted or not.
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
    fn a_contender_takes_the_lease_of_a_dead_process_at_once() {
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
    fn a_resumed_contender_lets_the_holder_renew_first() {
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
    fn a_holder_trusts_its_lease_until_a_margin_before_its_end() {
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
