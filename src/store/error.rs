//! Why a database operation failed. An error names the operation; its SQLSTATE decides the remedy
//! ([`super::sqlstate`]).

use std::{fmt, ops::Deref, time::Duration};

use crate::{clock, logging::log_throttle::LogThrottle, postgres_url::UrlFault};

/// An error of the driver, which displays each fact once: the driver's own text is repeated by its cause, and those of
/// the server end with a line in PostgreSQL's source.
#[derive(Debug)]
pub struct DriverError(sqlx::Error);

impl std::error::Error for DriverError {}

impl fmt::Display for DriverError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            sqlx::Error::Database(error) => f.write_str(error.message()),
            sqlx::Error::Io(error) => error.fmt(f),
            other => other.fmt(f),
        }
    }
}

impl Deref for DriverError {
    type Target = sqlx::Error;

    fn deref(&self) -> &sqlx::Error {
        &self.0
    }
}

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
        source: DriverError,
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
        source: Option<DriverError>,
    },
    /// Another receiptd polls this app now. Nothing was written.
    #[error("{doing} failed: another receiptd polls this app now")]
    LeaseLost {
        /// The operation and its object, as a gerund.
        doing: &'static str,
    },
}

impl StoreError {
    /// The failure of `doing` by an error of the driver.
    pub fn failed(doing: &'static str, error: sqlx::Error) -> Self {
        Self::Failed { doing, source: DriverError(error) }
    }

    /// The failure of `doing` in its commit, which was not answered; `None` if the deadline was exceeded.
    pub(super) fn unanswered(doing: &'static str, error: Option<sqlx::Error>) -> Self {
        Self::Unanswered { doing, source: error.map(DriverError) }
    }

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
        Some(source.to_string())
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

#[cfg(test)]
mod tests {
    use std::{error::Error, io, iter};

    use super::*;

    #[test]
    fn a_failure_and_its_causes_tell_each_fact_once() {
        let refused = io::Error::new(io::ErrorKind::ConnectionRefused, "Connection refused (os error 111)");
        let error = StoreError::failed("reading the watch list", sqlx::Error::Io(refused));
        let chain: Vec<String> =
            iter::successors(Some(&error as &dyn Error), |&error| error.source()).map(ToString::to_string).collect();
        assert_eq!(chain, ["reading the watch list failed", "Connection refused (os error 111)"]);
    }
}
