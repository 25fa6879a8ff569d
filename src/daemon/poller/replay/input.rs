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
    /// Number of members who may read it.
    pub members: u32,
    /// When members read it, rising.
    pub reads: Vec<Timestamp>,
}

/// The conditions of polling.
#[derive(Debug, Clone)]
pub struct Way {
    /// The cadences, of which the default is followed.
    pub cadences: Arc<Cadences>,
    /// By how much intervals are longer.
    pub stretch: Stretching,
    /// Maximum number of messages in a call.
    pub batch_size: usize,
    /// Maximum number of calls per second, if limited.
    pub limit: Option<f64>,
    /// Fraction of reads that webhooks report when they happen.
    pub told: f64,
}

/// How intervals are stretched.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Stretching {
    /// By this factor.
    By(f64),
    /// As necessary to keep the limit.
    ToFit,
}
