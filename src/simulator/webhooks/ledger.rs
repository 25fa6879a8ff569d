//! The deliveries of webhooks, for tests to compare with.

/// Counts of events and deliveries.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WebhookLedger {
    /// Events that happened.
    pub events: u64,
    /// Events of which no webhook with a valid signature was sent.
    pub lost: u64,
    /// Webhooks that were sent.
    pub sent: u64,
    /// Webhooks that were answered as documented.
    pub answered: u64,
}
