//! receiptd polls Tencent Chat for the read receipts of watched group messages and keeps their history in PostgreSQL.
//!
//! Data flows in one direction: watch list → slots → poller → pacing → chat client → recorder → tables. The decisions
//! ([`cadence`], [`chat`]'s error classes, …) are pure code that is given `now`; a thin shell adds I/O.

mod account;
pub mod activity;
pub mod cadence;
pub mod chat;
pub mod clock;
pub mod config;
pub mod counted;
pub mod domain;
pub mod embedded;
pub mod export;
pub mod import;
pub mod jobs;
pub mod lease;
pub mod lifecycle;
mod log_throttle;
pub mod logging;
pub mod milestones;
pub mod ops;
pub mod pacing;
pub mod plan;
pub mod poller;
pub mod postgres_url;
pub mod printable;
pub mod recording;
pub mod report;
pub mod retention;
pub mod rollup;
pub mod shell;
pub mod simulator;
pub mod slot;
pub mod span;
pub mod store;
pub mod term;
