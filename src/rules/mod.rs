//! The decisions: which messages are polled when, how fast and in which calls, and what follows from the answers.
//!
//! Pure: a decision is given the time, and returns a value. Nothing here waits, reads a clock, knows SQL or speaks HTTP,
//! which `tests/rooms/` checks.

pub mod cadence;
pub mod database_clock;
pub mod discovery;
pub mod forecast;
pub mod lease;
pub mod milestones;
pub mod pacer;
pub mod polling;
pub mod protocol;
pub mod readers;
pub mod recording;
pub mod retention;
pub mod rollup;
pub mod slot;
pub mod webhooks;
pub mod writing;
