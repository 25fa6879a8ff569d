//! An attempt and its outcome, as seen by the decisions. Nothing here knows how calls are made.

use std::time::Duration;

use super::{answer::Answer, error_class::Class, failure::Failure};
use crate::{domain::Timestamp, text::counted::counted};

/// One attempt of any call and its outcome.
#[derive(Debug, Clone)]
pub struct Called<A> {
    /// Time when the request was written to the connection, see [`Attempt::called_at`].
    pub called_at: Timestamp,
    /// Time when the outcome was known, see [`Attempt::ended_at`].
    pub ended_at: Timestamp,
    /// Duration from the beginning, including connecting, to the outcome, by a monotonic clock.
    pub latency: Duration,
    /// The HTTP status, if there was an answer.
    pub http_status: Option<u16>,
    /// What the answer contains, or why there is none.
    pub outcome: Result<A, Failure>,
}

/// One attempt for receipts and its outcome.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// Time when the request was written to the connection, by the database's clock: the counts were read later. If
    /// it was not written, the time when the attempt began.
    pub called_at: Timestamp,
    /// Time when the outcome was known, by the same clock: the counts were read earlier.
    pub ended_at: Timestamp,
    /// Duration from the beginning, including connecting, to the outcome, by a monotonic clock.
    pub latency: Duration,
    /// The HTTP status, if there was an answer.
    pub http_status: Option<u16>,
    /// Number of messages asked for.
    pub asked: usize,
    /// The receipts, or why there are none.
    pub outcome: Result<Answer, Failure>,
}

impl Attempt {
    /// An attempt that asked for this number of messages.
    pub fn new(called: Called<Answer>, asked: usize) -> Self {
        let Called { called_at, ended_at, latency, http_status, outcome } = called;
        Self { called_at, ended_at, latency, http_status, asked, outcome }
    }

    /// The class of the outcome.
    pub fn class(&self) -> Class {
        match &self.outcome {
            Ok(answer) if answer.receipts.len() < self.asked => Class::Incomplete,
            Ok(_) => Class::Success,
            Err(failure) => failure.class,
        }
    }

    /// Whether the failure may be transient.
    pub(crate) fn has_failed_for_now(&self) -> bool {
        self.outcome.as_ref().is_err_and(Failure::is_passing)
    }

    /// The error: why there was no answer, or what the answer left out.
    pub fn trouble(&self) -> Option<Failure> {
        match &self.outcome {
            Err(failure) => Some(failure.clone()),
            Ok(_) if self.class() == Class::Success => None,
            Ok(answer) => {
                let (told, asked) = (answer.receipts.len(), self.asked);
                let asked = counted(asked as u64, "message");
                let said = format!("the answer covered {told} of {asked}; unusable entries: {}", answer.bad_entries);
                Some(Failure::new(self.class(), Some(0), &said))
            }
        }
    }

    /// The `ErrorCode` of the answer; `None` if there was none.
    pub fn code(&self) -> Option<i64> {
        self.outcome.as_ref().map_or_else(|failure| failure.code, |_| Some(0))
    }
}
