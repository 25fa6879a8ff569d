//! `[polling]`: call rate, batch size and timeouts.

use std::time::Duration;

use super::section::Section;

/// Call rate, batch size and timeouts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Polling {
    /// Maximum number of calls in any second, including retries; 1 to 1000.
    pub max_calls_per_second: u32,
    /// Maximum number of messages per call; 1 to 1000.
    pub batch_size: usize,
    /// Maximum number of calls in flight; 1 to 10000.
    pub max_in_flight: usize,
    /// Upper bound on the time that a call is normally on its way to the service; 0s to 1s.
    pub transit_allowance: Duration,
    /// Timeout of a call; over 3s and up to 60s.
    pub request_timeout: Duration,
}

impl Default for Polling {
    fn default() -> Self {
        Self {
            max_calls_per_second: 200,
            batch_size: 50,
            max_in_flight: 400,
            transit_allowance: Duration::from_millis(50),
            request_timeout: Duration::from_secs(8),
        }
    }
}

/// The service's own timeout. A shorter timeout of ours would never receive its error.
const SERVICE_TIMEOUT: Duration = Duration::from_secs(3);

pub(super) fn read(section: &mut Section<'_>) -> Polling {
    let default = Polling::default();
    Polling {
        max_calls_per_second: section.number("max_calls_per_second", default.max_calls_per_second, 1..=1_000),
        batch_size: section.number("batch_size", default.batch_size, 1..=1_000),
        max_in_flight: section.number("max_in_flight", default.max_in_flight, 1..=10_000),
        transit_allowance: section.span(
            "transit_allowance",
            default.transit_allowance,
            "use a duration from 0s to 1s, such as \"50ms\"",
            |span| span <= Duration::from_secs(1),
        ),
        request_timeout: section.span(
            "request_timeout",
            default.request_timeout,
            "use a duration over 3s (the service's own timeout) and up to 60s, such as \"8s\"",
            |span| span > SERVICE_TIMEOUT && span <= Duration::from_secs(60),
        ),
    }
}
