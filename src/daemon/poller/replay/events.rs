//! Events in a replay: webhooks report a fraction of all reads when they happen, and polls yield to them.

use fastrand::Rng;

use super::input::Sent;
use crate::{domain::Timestamp, rules::webhooks::Trust};

/// A read that a webhook reports.
#[derive(Debug, Clone, Copy)]
pub(super) struct Told {
    pub at: Timestamp,
    /// The index of the message.
    pub index: usize,
    /// The number of members who have read it then.
    pub read: u32,
}

/// The reads that webhooks report, and the trust in them.
#[derive(Debug)]
pub(super) struct Events {
    /// In order of time.
    told: Vec<Told>,
    next: usize,
    pub trust: Trust,
}

impl Events {
    /// Reports the fraction `told` of the reads of all messages.
    pub fn of(messages: &[Sent], told: f64) -> Self {
        let mut rng = Rng::with_seed(1);
        let reads = messages.iter().enumerate().flat_map(|(index, message)| {
            message.reads.iter().zip(1..).map(move |(at, read)| Told { at: *at, index, read })
        });
        let mut told: Vec<Told> = reads.filter(|_| rng.f64() < told).collect();
        told.sort_by_key(|one| one.at);
        Self { told, next: 0, trust: Trust::default() }
    }

    /// Takes the next read.
    pub fn take_next(&mut self) -> Option<Told> {
        let told = self.told.get(self.next).copied()?;
        self.next += 1;
        Some(told)
    }

    /// When the next read is reported.
    pub fn next_at(&self) -> Option<Timestamp> {
        self.told.get(self.next).map(|one| one.at)
    }
}
