//! Where an attempt is between its permit and the time at which that is free again, as far as it is known. Pure.

use std::time::{Duration, Instant};

/// How long TCP waits before it sends a lost packet again: Linux' `TCP_RTO_MIN`, and as much for the round trip.
const RETRANSMISSION: Duration = Duration::from_millis(400);

/// Where an attempt is.
#[derive(Debug, Clone, Copy)]
pub(super) enum Place {
    /// Its request has not been written: it may still wait for a connection.
    Unwritten,
    /// It was written, and nothing written since has been answered.
    OnTheWay(Written),
    /// The same, but its answer can't be expected yet: it is presumed to have arrived, and has no permit any more.
    Presumed(Written),
    /// Something written later was answered.
    Overtaken(Overtaken),
    /// It has ended in ordinary time; its permit is free at this time.
    Ended(Instant),
}

/// When the request of an attempt was written, and with which others.
#[derive(Debug, Clone, Copy)]
pub(super) struct Written {
    pub at: Instant,
    pub convoy: u64,
}

impl Place {
    /// An attempt that was written later was answered at `at`.
    pub fn is_overtaken(&mut self, at: Instant, free_at: Instant) {
        if let Self::OnTheWay(written) | Self::Presumed(written) = *self {
            *self = Self::Overtaken(Overtaken { written, at, free_at });
        }
    }
}

/// An attempt that has not ended, though one that was written later was answered.
#[derive(Debug, Clone, Copy)]
pub(super) struct Overtaken {
    pub written: Written,
    /// When the other one was answered.
    pub at: Instant,
    /// When its permit is free.
    pub free_at: Instant,
}

impl Overtaken {
    /// When it has arrived though it is late: TCP doubles its wait before it sends a packet again, so after a standstill that
    /// may take as long as the standstill itself.
    pub fn arrived(&self) -> Instant {
        self.at + (self.at - self.written.at) + RETRANSMISSION
    }
}
