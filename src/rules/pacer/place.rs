//! Where an attempt is between its permit and the known time at which that is free again. Pure.

use std::time::{Duration, Instant};

/// Time until TCP retransmits a lost packet: Linux' `TCP_RTO_MIN`, and as much for the round trip.
const RETRANSMISSION: Duration = Duration::from_millis(400);

/// Where an attempt is.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Place {
    /// Its request has not been written: it may be waiting for a connection.
    Unwritten,
    /// It was written, and nothing written since has been answered.
    OnTheWay(Written),
    /// The same, but its answer can't be expected yet: it is presumed to have arrived, and has no permit any more.
    Presumed(Written),
    /// A later attempt was answered.
    Overtaken(Overtaken),
    /// It ended in ordinary time; its permit is free at this time.
    Ended(Instant),
}

/// Time of writing of an attempt, and its convoy.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Written {
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

/// An attempt that has not ended although a later one was answered.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Overtaken {
    pub written: Written,
    /// When the later one was answered.
    pub at: Instant,
    /// When its permit becomes free.
    pub free_at: Instant,
}

impl Overtaken {
    /// Latest arrival if it was delayed: TCP doubles its timeout with each retransmission, so after a standstill it
    /// may take as long again.
    pub fn arrived(&self) -> Instant {
        self.at + (self.at - self.written.at) + RETRANSMISSION
    }
}
