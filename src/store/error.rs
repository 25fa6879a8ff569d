//! Why a database operation failed. An error names the operation; its SQLSTATE decides the remedy
//! ([`super::sqlstate`]).

use std::time::Duration;

use crate::{clock, logging::log_throttle::LogThrottle, postgres_url::UrlFault};

/// A failed database operation, with the reason.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database or the connection reported an error.
    #[error("{doing} failed")]
    Failed {
        /// The operation and its object, as a gerund.
        doing: &'static str,
        /// The error of the database or the connection.
        #[source]
        source: sqlx::Error,
    },
    /// It exceeded its deadline.
    #[error("{doing} failed: the database gave no answer within {} s", .patience.as_secs())]
    Deadline {
        /// The operation and its object, as a gerund.
        doing: &'static str,
        /// The deadline.
        patience: Duration,
    },
    /// The commit was sent but not answered: it may have been made, or may still be made.
    #[error("{doing} may have failed: the database did not answer the commit")]
    Unanswered {
        /// The operation and its object, as a gerund.
        doing: &'static str,
        /// The error of the connection; `None` if the deadline was exceeded.
        #[source]
        source: Option<sqlx::Error>,
    },
    /// Another receiptd polls this app now. Nothing was written.
    #[error("{doing} failed: another receiptd polls this app now")]
    LeaseLost {
        /// The operation and its object, as a gerund.
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

    /// The error text of the database or the connection.
    pub fn cause(&self) -> Option<String> {
        let Self::Failed { source, .. } = self else { return None };
        Some(match source {
            // Errors from the server end with a line in PostgreSQL's source.
            sqlx::Error::Database(error) => error.message().to_owned(),
            sqlx::Error::Io(error) => error.to_string(),
            other => other.to_string(),
        })
    }

    /// The operation, the cause and the remedy, on one line.
    pub fn explain(&self) -> String {
        let cause = self.cause().map_or_else(String::new, |cause| format!(": {cause}"));
        let advice = self.advice().map_or_else(String::new, |advice| format!(": {advice}"));
        format!("{self}{cause}{advice}")
    }
}

/// The database can't be used as configured.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The URL is invalid. The error doesn't repeat it, since it contains the password.
    #[error("database.url {0}")]
    Url(#[from] UrlFault),
}
