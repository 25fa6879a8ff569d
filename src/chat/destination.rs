//! Selects the domain of the next attempt: the first one, or its backup while the first is unreachable.

use std::{
    fmt,
    time::{Duration, Instant},
};

use super::region::Region;

/// Number of consecutive attempts without an answer after which calls switch to the other domain.
const FAILURES_TO_TURN: u32 = 5;

/// Delay until the first domain is tried again.
const BACK_TO_FIRST: Duration = Duration::from_secs(300);

/// The destination of the calls, as configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// The domains of a region.
    Region(Region),
    /// A base URL without a path, of a proxy or the simulated Chat.
    Endpoint(String),
}

impl Destination {
    /// The base URLs of the calls, the first domain first.
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

/// The domain that an attempt used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DomainIndex(usize);

/// Selects between the domains. Pure, given `now`.
///
/// Failures count for the domain of the attempt: late failures of the previous domain say nothing about the current
/// one.
#[derive(Debug)]
pub(super) struct Domains {
    bases: Vec<String>,
    current: usize,
    /// Consecutive attempts without an answer, per domain.
    failures: Vec<u32>,
    turned_at: Option<Instant>,
}

impl Domains {
    pub(super) fn new(destination: &Destination) -> Self {
        Self::of(destination.urls())
    }

    /// For these base URLs, the first domain first.
    pub(super) fn of(bases: Vec<String>) -> Self {
        Self { current: 0, failures: vec![0; bases.len()], turned_at: None, bases }
    }

    /// The domain for the next attempt and its base URL.
    pub(super) fn base(&mut self, now: Instant) -> (DomainIndex, &str) {
        if self.turned_at.is_some_and(|turned_at| now >= turned_at + BACK_TO_FIRST) {
            self.turn_to(0, now);
        }
        (DomainIndex(self.current), &self.bases[self.current])
    }

    /// Notes whether the service answered an attempt. True if the next one uses another domain.
    pub(super) fn note(&mut self, DomainIndex(domain): DomainIndex, answered: bool, now: Instant) -> bool {
        self.failures[domain] = if answered { 0 } else { self.failures[domain].saturating_add(1) };
        let is_down = domain == self.current && self.failures[domain] >= FAILURES_TO_TURN;
        if is_down && self.bases.len() > 1 {
            self.turn_to((domain + 1) % self.bases.len(), now);
        }
        is_down && self.bases.len() > 1
    }

    fn turn_to(&mut self, domain: usize, now: Instant) {
        (self.current, self.failures[domain]) = (domain, 0);
        self.turned_at = (domain != 0).then_some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: &str = "https://adminapisgp.im.qcloud.com";
    const BACKUP: &str = "https://adminapisgp.my-imcloud.com";

    fn singapore() -> Domains {
        Domains::new(&Destination::Region(Region::Sg))
    }

    /// Makes unanswered attempts. True if one of them caused a switch.
    fn fail(domains: &mut Domains, times: u32, now: Instant) -> bool {
        (0..times).fold(false, |turned, _| {
            let (domain, _) = domains.base(now);
            domains.note(domain, false, now) || turned
        })
    }

    #[test]
    fn five_unanswered_attempts_in_a_row_switch_the_domain() {
        let now = Instant::now();
        let mut domains = singapore();
        let (first, _) = domains.base(now);
        assert!(!fail(&mut domains, 4, now));
        assert!(!domains.note(first, true, now), "an answer begins the count anew");
        assert!(!fail(&mut domains, 4, now));
        assert_eq!(domains.base(now).1, FIRST);
        assert!(fail(&mut domains, 1, now));
        assert_eq!(domains.base(now).1, BACKUP);
        assert!(fail(&mut domains, 5, now));
        assert_eq!(domains.base(now).1, FIRST);
    }

    #[test]
    fn late_results_of_the_old_domain_do_not_count_for_the_new() {
        let now = Instant::now();
        let mut domains = singapore();
        let (first, _) = domains.base(now);
        fail(&mut domains, 5, now);
        (0..20).for_each(|_| assert!(!domains.note(first, false, now)));
        assert_eq!(domains.base(now).1, BACKUP);
        assert!(!fail(&mut domains, 4, now));
        assert!(!domains.note(first, true, now), "nor do its late answers");
        assert!(fail(&mut domains, 1, now));
        assert_eq!(domains.base(now).1, FIRST);
        assert!(!fail(&mut domains, 4, now), "it is given the same number of attempts again");
    }

    #[test]
    fn the_first_domain_is_tried_again_after_five_minutes() {
        let now = Instant::now();
        let mut domains = singapore();
        fail(&mut domains, 5, now);
        assert_eq!(domains.base(now + Duration::from_secs(299)).1, BACKUP);
        assert_eq!(domains.base(now + Duration::from_secs(300)).1, FIRST);
    }

    #[test]
    fn an_endpoint_of_ones_own_has_no_backup() {
        let now = Instant::now();
        let mut domains = Domains::new(&Destination::Endpoint("http://127.0.0.1:9000/".into()));
        assert!(!fail(&mut domains, 20, now));
        assert_eq!(domains.base(now).1, "http://127.0.0.1:9000");
    }
}
