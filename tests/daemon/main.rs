//! End to end: the daemon in this process, a real PostgreSQL, the simulated Chat over HTTP.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod answers;
mod blame;
mod cadence;
mod calling;
mod clocks;
#[path = "../common/mod.rs"]
mod common;
mod discovery;
mod edited;
mod entries;
mod error_classes;
mod failing;
mod far_away;
mod harness;
mod idle;
mod intervals;
mod keepalive;
mod lease;
mod outage;
mod polling;
mod proxy;
mod readers;
mod recording;
mod refused;
mod refused_discovery;
mod refused_groups;
mod reload;
mod rights;
mod schema;
mod statements;
mod storing;
mod tls;
mod unwatching;
mod watching;
mod webhooks;
mod witnesses;
