//! How much applications may have watched. The functions of the schema hold them to it.

/// Bounds on what applications may have watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Maximum number of messages in one call of a function.
    pub messages_per_call: i32,
    /// Maximum number of messages of the app that are polled at a time.
    pub messages: i64,
    /// Maximum number of watched groups of the app.
    pub groups: i64,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { messages_per_call: 50_000, messages: 5_000_000, groups: 1_000_000 }
    }
}
