//! Limits on what applications watch. The functions of the schema enforce them.

/// Limits on what applications may watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Maximum number of messages in one call of a function.
    pub messages_per_call: i32,
    /// Maximum number of active messages of the app.
    pub messages: i64,
    /// Maximum number of watched groups of the app.
    pub groups: i64,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { messages_per_call: 50_000, messages: 5_000_000, groups: 1_000_000 }
    }
}
