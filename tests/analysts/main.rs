//! Analytics: roll-ups, views, roles and retention, in a real PostgreSQL.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod closing;
mod columns;
mod commands;
#[path = "../common/mod.rs"]
mod common;
mod cookbook;
mod dashboards;
mod days;
mod forget;
mod gaps;
#[path = "../daemon/harness.rs"]
#[allow(dead_code, reason = "each test binary uses a part of it")]
mod harness;
mod history;
mod idle_hours;
mod labels;
mod large_groups;
mod late;
mod medians;
mod milestones;
mod model;
mod operators;
mod partitions;
mod prometheus;
mod readers;
mod retention;
mod rewriting;
mod roles;
mod rollup;
mod tools;
mod updates;
