//! The input of a replay.

use std::sync::Arc;

use crate::{
    domain::Timestamp,
    rules::{cadence::Cadences, slot::GroupKey},
};

/// A message and when it was read.
#[derive(Debug, Clone)]
pub struct Sent {
    /// The group that it was sent to.
    pub group_key: GroupKey,
    /// When it was sent.
    pub sent_at: Timestamp,
    /// How many members may read it.
    pub members: u32,
    /// When members read it, rising.
    pub reads: Vec<Timestamp>,
}

/// How messages are polled.
#[derive(Debug, Clone)]
pub struct Way {
    /// The default is followed.
    pub cadences: Arc<Cadences>,
    /// By how much intervals are longer.
    pub stretch: Stretching,
    /// Maximum number of messages in a call.
    pub batch_size: usize,
    /// Maximum number of calls a second, if there is one.
    pub limit: Option<f64>,
    /// The share of reads that webhooks tell when they happen.
    pub told: f64,
}

/// By how much intervals are longer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Stretching {
    /// By this factor.
    By(f64),
    /// By what is needed to keep the limit.
    ToFit,
}
