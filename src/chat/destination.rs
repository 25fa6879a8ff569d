//! Which of an app's domains the next attempt goes to: the first, or its backup while the first can't be reached.

use std::{
    fmt,
    time::{Duration, Instant},
};

use super::region::Region;

/// So many attempts in a row that got no answer turn to the other domain.
const FAILURES_TO_TURN: u32 = 5;

/// So long the backup is used before the first domain is tried again.
const BACK_TO_FIRST: Duration = Duration::from_secs(300);

/// Where the calls go, as configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// The domains of a region.
    Region(Region),
    /// A base URL without a path, for a proxy or the simulated Chat.
    Endpoint(String),
}

impl Destination {
    /// The URLs that calls may go to, the first one first.
    pub fn urls(&self) -> Vec<String> {
        match self {
            Self::Region(region) => {
                [region.domain(), region.backup_domain()].map(|domain| format!("https://{domain}")).to_vec()
            }
            Self::Endpoint(endpoint) => vec![endpoint.trim_end_matches('/').to_owned()],
        }
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Region(region) => {
                write!(f, "https://{} (region {region}; backup {})", region.domain(), region.backup_domain())
            }
            Self::Endpoint(origin) => f.write_str(origin),
        }
    }
}

/// Chooses between the domains. Pure, fed with `now`.
#[derive(Debug)]
pub(super) struct Domains {
    bases: Vec<String>,
    current: usize,
    failures: u32,
    turned_at: Option<Instant>,
}

impl Domains {
    pub(super) fn new(destination: &Destination) -> Self {
        Self { bases: destination.urls(), current: 0, failures: 0, turned_at: None }
    }

    /// The base URL for the next attempt.
    pub(super) fn base(&mut self, now: Instant) -> &str {
        if self.turned_at.is_some_and(|turned_at| now >= turned_at + BACK_TO_FIRST) {
            (self.current, self.failures, self.turned_at) = (0, 0, None);
        }
        &self.bases[self.current]
    }

    /// Notes whether an attempt was answered at all. True if the next one goes to another domain.
    pub(super) fn note(&mut self, answered: bool, now: Instant) -> bool {
        self.failures = if answered { 0 } else { self.failures + 1 };
        if self.failures < FAILURES_TO_TURN || self.bases.len() == 1 {
            return false;
        }
        self.current = (self.current + 1) % self.bases.len();
        self.failures = 0;
        self.turned_at = (self.current != 0).then_some(now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: &str = "https://adminapisgp.im.qcloud.com";
    const BACKUP: &str = "https://adminapisgp.my-imcloud.com";

    #[test]
    fn five_unanswered_attempts_in_a_row_turn_to_the_backup_and_five_more_back() {
        let now = Instant::now();
        let mut domains = Domains::new(&Destination::Region(Region::Sg));
        for _ in 0..4 {
            assert!(!domains.note(false, now));
        }
        assert!(!domains.note(true, now), "an answer begins the count anew");
        for _ in 0..5 {
            assert_eq!(domains.base(now), FIRST);
            domains.note(false, now);
        }
        assert_eq!(domains.base(now), BACKUP);
        (0..5).for_each(|_| _ = domains.note(false, now));
        assert_eq!(domains.base(now), FIRST);
    }

    #[test]
    fn the_first_domain_is_tried_again_after_five_minutes() {
        let now = Instant::now();
        let mut domains = Domains::new(&Destination::Region(Region::Sg));
        (0..5).for_each(|_| _ = domains.note(false, now));
        assert_eq!(domains.base(now + Duration::from_secs(299)), BACKUP);
        assert_eq!(domains.base(now + Duration::from_secs(300)), FIRST);
    }

    #[test]
    fn an_endpoint_of_ones_own_has_no_backup() {
        let now = Instant::now();
        let mut domains = Domains::new(&Destination::Endpoint("http://127.0.0.1:9000/".into()));
        (0..20).for_each(|_| assert!(!domains.note(false, now)));
        assert_eq!(domains.base(now), "http://127.0.0.1:9000");
    }
}
