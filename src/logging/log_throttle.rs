//! The throttle for all repeated log messages: logs the first event, then one a minute with a count, then the end.
//! The caller decides what is logged and where. Pure, given `now`.

use std::time::{Duration, Instant};

/// Time after which the same problem is logged again.
pub(crate) const EVERY: Duration = Duration::from_secs(60);

/// One kind of repeated problem.
#[derive(Debug, Default)]
pub(crate) struct LogThrottle {
    logged_at: Option<Instant>,
    /// Number of events since.
    since: u64,
    /// Whether the beginning was logged, and the end was not.
    is_open: bool,
}

impl LogThrottle {
    /// Notes an event at `now`. If it is time to log it, returns the number of events since the last log.
    pub(crate) fn happened(&mut self, now: Instant) -> Option<u64> {
        self.since += 1;
        if self.is_recent(now) {
            return None;
        }
        self.logged_at = Some(now);
        self.is_open = true;
        Some(std::mem::take(&mut self.since))
    }

    /// Notes the end. Returns whether to log it, because the beginning was logged.
    pub(crate) fn is_over(&mut self) -> bool {
        std::mem::take(&mut self.is_open)
    }

    /// Whether it was logged within the last minute.
    pub(crate) fn is_recent(&self, now: Instant) -> bool {
        self.logged_at.is_some_and(|at| now < at + EVERY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_logged_once_if_the_beginning_was() {
        let (mut trouble, start) = (LogThrottle::default(), Instant::now());
        assert!(!trouble.is_over());
        trouble.happened(start);
        assert_eq!((trouble.is_over(), trouble.is_over()), (true, false));
        assert_eq!((trouble.happened(start), trouble.is_over()), (None, false), "it comes and goes");
        assert_eq!((trouble.happened(start + EVERY), trouble.is_over()), (Some(2), true));
    }

    #[test]
    fn it_is_logged_once_and_then_once_a_minute_with_its_count() {
        let (mut trouble, start) = (LogThrottle::default(), Instant::now());
        let happened: Vec<_> =
            [0, 0, 59, 60, 61].map(|second| trouble.happened(start + Duration::from_secs(second))).into();
        assert_eq!(happened, [Some(1), None, None, Some(3), None]);
    }
}
