//! `[polling]`: how fast, and how much at once.

use std::time::Duration;

use serde::Deserialize;

use super::problem::Problems;

/// How fast calls are made, and how much each asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Polling {
    /// The most calls in any second, retries included.
    pub max_calls_per_second: u32,
    /// The most messages that one call asks for.
    pub batch_size: usize,
    /// The most calls that wait for their answer at once.
    pub max_in_flight: usize,
    /// The longest time that a call is thought to be on its way to the service.
    pub transit_allowance: Duration,
    /// The longest time that a call may take.
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

/// The service gives up on a call after this long: who gives up sooner never hears its reason.
const SERVICE_TIMEOUT: Duration = Duration::from_secs(3);

/// The keys of the section.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Keys {
    /// The most calls in any second, retries included.
    max_calls_per_second: Option<String>,
    /// The most messages that one call asks for.
    batch_size: Option<String>,
    /// The most calls that wait for their answer at once.
    max_in_flight: Option<String>,
    /// The longest time that a call is thought to be on its way to the service.
    transit_allowance: Option<String>,
    /// The longest time that a call may take.
    request_timeout: Option<String>,
}

impl Keys {
    pub fn validate(self, problems: &mut Problems) -> Polling {
        let default = Polling::default();
        Polling {
            max_calls_per_second: problems.number(
                "polling.max_calls_per_second",
                self.max_calls_per_second,
                default.max_calls_per_second,
                1..=1_000,
            ),
            batch_size: problems.number("polling.batch_size", self.batch_size, default.batch_size, 1..=1_000),
            max_in_flight: problems.number(
                "polling.max_in_flight",
                self.max_in_flight,
                default.max_in_flight,
                1..=10_000,
            ),
            transit_allowance: problems.span(
                "polling.transit_allowance",
                self.transit_allowance,
                default.transit_allowance,
                "give a span from 0s to 1s, as in \"50ms\"",
                |span| span <= Duration::from_secs(1),
            ),
            request_timeout: problems.span(
                "polling.request_timeout",
                self.request_timeout,
                default.request_timeout,
                "give a span over 3s (the service's own timeout) and up to 60s, as in \"8s\"",
                |span| span > SERVICE_TIMEOUT && span <= Duration::from_secs(60),
            ),
        }
    }
}
