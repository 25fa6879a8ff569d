//! The worlds: how many groups of which sizes there are, and when messages are sent to them.

use fastrand::Rng;
use receiptd::{daemon::poller::replay::Sent, domain::Timestamp};

use super::readers::{Readers, daytime, exponential, log_normal};

pub const DAY: f64 = 86_400.0;

/// A kind of world.
pub struct World {
    pub name: &'static str,
    pub about: &'static str,
    groups: i32,
    days: f64,
    /// Number of conversations that begin in a group per day, and how much it differs between groups.
    conversations: f64,
    spread: f64,
    /// The mean number of messages of a conversation.
    messages: f64,
    readers: Readers,
}

pub const WORLDS: [World; 4] = [
    World {
        name: "main",
        about: "groups of all sizes and speeds, whose members read whatever is unread when they look",
        groups: 60,
        days: 5.0,
        conversations: 2.0,
        spread: 1.0,
        messages: 3.0,
        readers: Readers::Visitors,
    },
    World {
        name: "independent",
        about: "the same, but each read is independent of all others, by the curves of the simulated Chat",
        groups: 60,
        days: 5.0,
        conversations: 2.0,
        spread: 1.0,
        messages: 3.0,
        readers: Readers::Curves,
    },
    World {
        name: "sparse",
        about: "groups with a message every other day",
        groups: 200,
        days: 6.0,
        conversations: 0.5,
        spread: 0.3,
        messages: 1.0,
        readers: Readers::Visitors,
    },
    World {
        name: "dense",
        about: "groups with some hundred messages a day",
        groups: 8,
        days: 4.0,
        conversations: 25.0,
        spread: 0.4,
        messages: 5.0,
        readers: Readers::Visitors,
    },
];

impl World {
    /// Duration for which messages are sent.
    pub fn seconds(&self) -> f64 {
        self.days * DAY
    }

    /// All messages of a world with their reads.
    pub fn messages(&self, seed: u64) -> Vec<Sent> {
        let mut rng = Rng::with_seed(seed);
        (1..=self.groups).flat_map(|group| self.group(group, &mut rng)).collect()
    }

    fn group(&self, group_key: i32, rng: &mut Rng) -> Vec<Sent> {
        let members = (3.0 * (200.0_f64 / 3.0).powf(rng.f64())) as u32;
        let a_day = self.conversations * log_normal(rng, self.spread);
        let mut sent = vec![];
        let mut at = 0.0;
        // A group without messages has infinite gaps.
        loop {
            at += exponential(rng, DAY / a_day / 2.0);
            if at > self.days * DAY {
                break;
            }
            if rng.f64() > daytime(at) {
                continue;
            }
            let mut time = at;
            while sent.len() < 1_000_000 {
                sent.push(time);
                if rng.f64() < 1.0 / self.messages {
                    break;
                }
                time += exponential(rng, 40.0);
            }
        }
        sent.sort_by(f64::total_cmp);
        let reads = self.readers.reads(&sent, members, (self.days + 31.0) * DAY, rng);
        let message = |(sent_at, reads): (f64, Vec<f64>)| Sent {
            group_key,
            sent_at: time(sent_at),
            members: members - 1,
            reads: reads.into_iter().map(time).collect(),
        };
        sent.into_iter().zip(reads).map(message).collect()
    }
}

/// This number of seconds after Monday at midnight.
fn time(seconds: f64) -> Timestamp {
    Timestamp::from_timestamp_micros(1_795_996_800_000_000 + (seconds * 1e6) as i64).unwrap()
}
