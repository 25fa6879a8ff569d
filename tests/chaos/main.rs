//! Breaks what the daemon depends on, for real, and checks afterwards that it kept its promises.
//!
//! Each scenario has the real program, its own PostgreSQL server and a simulated Chat, which knows what was answered
//! and when. It breaks one thing, repairs it, and asks the oracle. `RECEIPTD_CHAOS=long` makes the faults last
//! minutes.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::print_stdout, reason = "a scenario prints its measurements")]

#[path = "../common/mod.rs"]
mod common;

mod clocks;
mod daemon;
mod database;
mod disk;
mod flood;
mod handover;
mod harness;
mod intervals;
mod locks;
mod oracle;
mod pgbouncer;
mod postgres;
mod process;
mod secrets;
mod server;
mod service;
mod signals;
mod single;
mod stalls;
mod standby;
mod stored;
mod wall;
mod way;
