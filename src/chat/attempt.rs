//! One attempt and its outcome, as the decisions see it. Nothing here knows how calls are made.

use std::time::Duration;

use super::{answer::Answer, error_class::Class, failure::Failure};
use crate::domain::Timestamp;

/// One attempt and its outcome.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// When its request was written to the connection, by the database's clock: what it tells was read later. If none was
    /// written, when it began.
    pub called_at: Timestamp,
    /// When its outcome was known, by the same clock: what it tells was read earlier.
    pub ended_at: Timestamp,
    /// From its beginning, before there was a connection, to its outcome, by a clock that nobody sets.
    pub latency: Duration,
    /// The HTTP status, if an answer came.
    pub http_status: Option<u16>,
    /// How many messages were asked for.
    pub asked: usize,
    /// The receipts, or why there are none.
    pub outcome: Result<Answer, Failure>,
}

impl Attempt {
    /// The class of the outcome.
    pub fn class(&self) -> Class {
        match &self.outcome {
            Ok(answer) if answer.receipts.len() < self.asked => Class::Incomplete,
            Ok(_) => Class::Success,
            Err(failure) => failure.class,
        }
    }

    /// Whether it failed in a way that may pass.
    pub(crate) fn has_failed_for_now(&self) -> bool {
        self.outcome.as_ref().is_err_and(Failure::is_passing)
    }

    /// What went wrong: why there was no answer, or what the answer left out.
    pub fn trouble(&self) -> Option<Failure> {
        match &self.outcome {
            Err(failure) => Some(failure.clone()),
            Ok(_) if self.class() == Class::Success => None,
            Ok(answer) => {
                let (told, asked) = (answer.receipts.len(), self.asked);
                let said =
                    format!("the answer told of {told} of {asked} messages, with {} bad entries", answer.bad_entries);
                Some(Failure::new(self.class(), Some(0), &said))
            }
        }
    }

    /// The `ErrorCode` of the answer; `None` where none could be read.
    pub fn code(&self) -> Option<i64> {
        self.outcome.as_ref().map_or_else(|failure| failure.code, |_| Some(0))
    }
}
