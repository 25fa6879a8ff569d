//! The decisions: what is polled when, how fast, in which calls, and what comes of the answers.
//!
//! Pure. What time it is comes in as an argument, and what is decided goes out as a value: nothing here waits, reads a
//! clock, knows SQL or speaks HTTP. `tests/rooms.rs` holds them to that.

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
