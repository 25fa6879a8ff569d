//! The ways of polling that are compared.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use receiptd::{
    daemon::poller::replay::{Findings, Sent, Stretching, Way, replay},
    rules::cadence::{Cadence, Cadences, Pace, Tier},
};

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// A way of polling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// The same interval for all ages.
    Fixed,
    /// Only the tiers of the default cadence.
    Tiers,
    /// The default cadence.
    Pace,
    /// The same tiers without a stretch: polls that are due wait.
    Queue,
}

impl Policy {
    /// Compared at equal numbers of calls.
    pub const ALL: [Self; 3] = [Self::Fixed, Self::Tiers, Self::Pace];

    /// Compared while more is due than the limit allows.
    pub const OVERLOADED: [Self; 3] = [Self::Queue, Self::Tiers, Self::Pace];

    pub fn name(self) -> &'static str {
        match self {
            Self::Fixed => "fixed interval",
            Self::Tiers => "tiers",
            Self::Pace => "pace",
            Self::Queue => "tiers, not stretched",
        }
    }

    pub fn cadence(self, stretch: f64) -> Cadence {
        let tier = |(until, every)| Tier { until: Duration::from_secs(until), every: Duration::from_secs(every) };
        let tiers = [(HOUR, MINUTE), (DAY, 10 * MINUTE), (7 * DAY, HOUR), (30 * DAY, 6 * HOUR)].map(tier);
        match self {
            Self::Fixed => {
                let every = (Duration::from_secs(6 * HOUR)).mul_f64(stretch);
                Cadence::by_age(vec![Tier { until: Duration::from_secs(30 * DAY), every }], true).unwrap()
            }
            Self::Tiers | Self::Queue => Cadence::by_age(tiers.to_vec(), true).unwrap(),
            Self::Pace => {
                let pace = Pace {
                    pace: Pace::DEFAULT_PACE.mul_f64(stretch),
                    patience: Pace::DEFAULT_PATIENCE,
                    fastest: Duration::from_secs(MINUTE / 2),
                };
                Cadence::by_age(tiers.to_vec(), true).unwrap().at_pace(pace).unwrap()
            }
        }
    }

    /// Polls the messages with all intervals multiplied by this factor.
    pub fn of(self, messages: &[Sent], stretch: f64) -> Findings {
        let by = if self == Self::Tiers { stretch } else { 1.0 };
        self.replay(messages, stretch, Stretching::By(by), None)
    }

    /// Polls the messages with at most this number of calls per second, by a cadence that would make `calls` without
    /// that limit.
    pub fn at_limit(self, messages: &[Sent], calls: f64, limit: f64) -> Findings {
        match self {
            Self::Queue => self.replay(messages, 1.0, Stretching::By(1.0), Some(limit)),
            _ => self.replay(messages, self.longer(messages, calls).0, Stretching::ToFit, Some(limit)),
        }
    }

    fn replay(self, messages: &[Sent], longer: f64, stretch: Stretching, limit: Option<f64>) -> Findings {
        let cadences = BTreeMap::from([("default".to_owned(), self.cadence(longer))]);
        replay(
            messages,
            &Way { cadences: Arc::new(Cadences::new(cadences)), stretch, batch_size: 50, limit, told: 0.0 },
        )
    }

    /// Polls the messages by the default cadence with this patience, while webhooks report a fraction of the reads.
    pub fn beside_webhooks(messages: &[Sent], told: f64, patience: u32) -> Findings {
        let pace = Pace { pace: Pace::DEFAULT_PACE, patience, fastest: Duration::from_secs(MINUTE / 2) };
        let cadence = Self::Tiers.cadence(1.0).at_pace(pace).unwrap();
        let cadences = Arc::new(Cadences::new(BTreeMap::from([("default".to_owned(), cadence)])));
        replay(messages, &Way { cadences, stretch: Stretching::By(1.0), batch_size: 50, limit: None, told })
    }

    /// Polls the messages with this number of calls, give or take 2 %.
    pub fn at_calls(self, messages: &[Sent], calls: f64) -> Findings {
        self.longer(messages, calls).1
    }

    /// The factor by which intervals are longer, in addition.
    fn longer(self, messages: &[Sent], calls: f64) -> (f64, Findings) {
        let mut stretch = 1.0;
        loop {
            let found = self.of(messages, stretch);
            let ratio = found.calls as f64 / calls;
            if (ratio - 1.0).abs() < 0.02 {
                return (stretch, found);
            }
            stretch *= ratio;
        }
    }
}
