//! Why an operation on the database failed. An error says what was being done; what can be done about it follows from its
//! SQLSTATE ([`super::sqlstate`]).

use std::time::Duration;

use crate::{clock, log_throttle::LogThrottle, postgres_url::UrlFault};

/// A database operation that failed: what was being done, and why.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database or the way to it said so.
    #[error("{doing} failed")]
    Failed {
        /// What was being done, and to what.
        doing: &'static str,
        /// What the database or the way to it said.
        #[source]
        source: sqlx::Error,
    },
    /// It took too long.
    #[error("{doing} failed: the database gave no answer within {} s", .patience.as_secs())]
    Deadline {
        /// What was being done, and to what.
        doing: &'static str,
        /// How long it was waited for.
        patience: Duration,
    },
    /// The commit was sent and its answer did not come: it may have been made, or be made later.
    #[error("{doing} may have failed: the database did not answer the commit")]
    Unanswered {
        /// What was being done, and to what.
        doing: &'static str,
        /// What the way to the database said; nothing if it took too long.
        #[source]
        source: Option<sqlx::Error>,
    },
    /// Another receiptd polls this app by now. Nothing was written.
    #[error("{doing} failed: another receiptd polls this app by now")]
    LeaseLost {
        /// What was being done, and to what.
        doing: &'static str,
    },
}

impl StoreError {
    /// Logs the error with its cause and remedy, unless `trouble` was logged a moment ago.
    pub(crate) fn log(&self, trouble: &mut LogThrottle, what: &str) {
        if let Some(count) = trouble.happened(clock::uptime()) {
            let (cause, advice) = (self as &dyn std::error::Error, self.advice());
            tracing::error!(error = cause, count, advice, "{what}");
        }
    }

    /// Why it failed, in the words of the database or of the way to it.
    pub fn cause(&self) -> Option<String> {
        let Self::Failed { source, .. } = self else { return None };
        Some(match source {
            // Its own words end with a line in the source of PostgreSQL.
            sqlx::Error::Database(error) => error.message().to_owned(),
            sqlx::Error::Io(error) => error.to_string(),
            other => other.to_string(),
        })
    }

    /// What was being done, why it failed, and what can be done about it, in one line.
    pub fn explain(&self) -> String {
        let cause = self.cause().map_or_else(String::new, |cause| format!(": {cause}"));
        let advice = self.advice().map_or_else(String::new, |advice| format!(": {advice}"));
        format!("{self}{cause}{advice}")
    }
}

/// The database can't be used as it is configured.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The URL can't be read. What it says is not repeated: it holds the password.
    #[error("database.url {0}")]
    Url(#[from] UrlFault),
}
