//! A transaction in progress, its deadline and its end.
//!
//! A connection returns to the pool only after its transaction has ended properly. Any other is discarded: one that
//! did not answer in time may be half-open, and a read-only one belongs to a server that was demoted.

use std::time::Duration;

use chrono::SecondsFormat;
use deadpool::managed::Object;
use sqlx::{AssertSqlSafe, Executor};
use tokio::time::{Instant, error::Elapsed, timeout_at};

use super::{
    StoreError,
    sqlstate::{self, Remedy},
};
use crate::{
    domain::{SdkAppId, Timestamp},
    store::connection::{Connector, StoreConnection},
};

/// Most operations take milliseconds.
pub(super) const SHORT: Duration = Duration::from_secs(10);

/// Operations on very many rows.
pub(super) const LONG: Duration = Duration::from_secs(120);

/// Rolling up a busy hour.
pub(super) const ROLLUP: Duration = Duration::from_secs(900);

/// Rows read one by one, as fast as they are used.
pub(super) const STREAM: Duration = Duration::from_secs(3_600);

/// A renewal of the lease that takes longer is too late.
pub(super) const RENEWAL: Duration = Duration::from_secs(3);

/// Errors on a connection that the server ended while it was idle: admin_shutdown, crash_shutdown and
/// idle_session_timeout.
const ENDED: [&str; 3] = ["57P01", "57P02", "57P05"];

/// The lease for the poller's writes.
#[derive(Debug, Clone)]
pub(super) struct Fence {
    pub sdk_app_id: SdkAppId,
    pub epoch: i64,
    pub holder: String,
}

/// A text as an SQL literal, whatever it contains, and whatever the server does with backslashes.
pub(super) fn literal(text: &str) -> String {
    let hex: String = text.bytes().map(|byte| format!("{byte:02x}")).collect();
    format!("convert_from(decode('{hex}', 'hex'), 'UTF8')")
}

/// The error, counted.
pub(super) fn counted(error: StoreError) -> StoreError {
    metrics::counter!("receiptd_database_errors_total", "class" => sqlstate::class(&error)).increment(1);
    error
}

/// A transaction in progress, or a read without one. Dropping it closes its connection, and the server rolls back.
#[derive(Debug)]
pub(super) struct Transaction {
    session: Option<Object<Connector>>,
    doing: &'static str,
    patience: Duration,
    /// The deadline of its statements.
    pub deadline: Instant,
    pub has_begun: bool,
}

impl Transaction {
    /// On a connection on which nothing has begun.
    pub fn on(session: Object<Connector>, doing: &'static str, patience: Duration, deadline: Instant) -> Self {
        let mut transaction = Self { session: Some(session), doing, patience, deadline, has_begun: false };
        // Long operations are rare, so they are planned for their values.
        transaction.session().name_statements(patience <= SHORT);
        transaction
    }

    pub fn session(&mut self) -> &mut StoreConnection {
        self.session.as_deref_mut().unwrap_or_else(|| unreachable!("it is there until the transaction ends"))
    }

    /// Commits if the statements succeeded in time, otherwise rolls back.
    pub async fn end<T>(self, outcome: Result<Result<T, sqlx::Error>, Elapsed>) -> Result<T, StoreError> {
        self.end_with("COMMIT".to_owned(), outcome).await
    }

    /// The same, if the lease is still that of `fence`: its check and the commit are sent together. If the
    /// transaction has written anything, the check locks the lease row against a successor until the commit.
    ///
    /// `wrote` is the time of the oldest written row: the later hours that have been rolled up are noted, to be
    /// rolled up again. The same lock keeps the roll-up's mark in place.
    pub async fn end_fenced<T>(
        self,
        fence: &Fence,
        outcome: Result<Result<T, sqlx::Error>, Elapsed>,
        wrote: Option<Timestamp>,
    ) -> Result<T, StoreError> {
        let Fence { sdk_app_id, epoch, holder } = fence;
        let wrote = wrote.map_or_else(
            || "NULL".to_owned(),
            |time| format!("timestamptz '{}'", time.to_rfc3339_opts(SecondsFormat::Micros, true)),
        );
        let holder = literal(holder);
        let look = format!("SELECT receiptd.end_under_lease({sdk_app_id}, {epoch}, {holder}, {wrote}); COMMIT");
        self.end_with(look, outcome).await
    }

    async fn end_with<T>(
        mut self,
        commit: String,
        outcome: Result<Result<T, sqlx::Error>, Elapsed>,
    ) -> Result<T, StoreError> {
        let value = match timely(outcome) {
            Ok(value) => value,
            Err(error) => return Err(self.failed(error)),
        };
        if !self.has_begun {
            return self.committed(Ok(value));
        }
        let commit = sqlx::raw_sql(AssertSqlSafe(commit));
        let ended = timely(timeout_at(self.deadline, self.session().execute(commit)).await);
        self.committed(ended.map(|_| value))
    }

    /// The result of a transaction whose commit was sent. If it was made, the connection returns to the pool.
    pub fn committed<T>(mut self, outcome: Result<T, Option<sqlx::Error>>) -> Result<T, StoreError> {
        match outcome {
            Ok(value) => {
                self.session.take();
                Ok(value)
            }
            Err(Some(error)) if sqlstate::is_lease_lost(&error) => Err(StoreError::LeaseLost { doing: self.doing }),
            Err(error) if is_answer(error.as_ref()) => Err(self.failed(error)),
            Err(error) => {
                let doing = self.doing;
                _ = self.failed(None);
                Err(StoreError::unanswered(doing, error))
            }
        }
    }

    /// Rolls back intentionally: the connection is as good as before.
    pub async fn roll_back(mut self) -> Result<(), StoreError> {
        match timely(timeout_at(self.deadline, self.session().execute("ROLLBACK")).await) {
            Ok(_) => {
                self.session.take();
                Ok(())
            }
            Err(error) => Err(self.failed(error)),
        }
    }

    /// Whether the connection was already unusable when it was taken: another may work.
    pub fn was_outdated(&self, error: &sqlx::Error) -> bool {
        let was_used = self.session.as_ref().is_some_and(|session| Object::metrics(session).recycle_count > 0);
        was_used
            && match sqlstate::sqlstate(error) {
                Some(state) => ENDED.contains(&&*state) || sqlstate::is_about_prepared(error),
                None => matches!(error, sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::Protocol(_)),
            }
    }

    /// Applies what a failure shows about all connections.
    pub fn learn(&self, error: &sqlx::Error) {
        let Some(pool) = self.session.as_ref().and_then(Object::pool) else { return };
        if sqlstate::has_lost_name(error) {
            pool.manager().has_lost_names();
        }
        if sqlstate::remedy_of(error) == Remedy::Reconnect {
            pool.manager().distrust();
        }
    }

    /// Ends in failure, by an error or (without one) by the deadline. The connection is discarded, and the server
    /// rolls back.
    pub fn failed(self, error: Option<sqlx::Error>) -> StoreError {
        if let Some(error) = &error {
            self.learn(error);
        }
        let Self { doing, patience, .. } = self;
        let error = match error {
            Some(error) => StoreError::failed(doing, error),
            None => StoreError::Deadline { doing, patience },
        };
        counted(error)
    }
}

/// Whether the server itself reported that it did not commit. A server that shuts down may have committed before it
/// reports that.
fn is_answer(error: Option<&sqlx::Error>) -> bool {
    let may_have_committed = |error| {
        let state = sqlstate::sqlstate(error);
        state.is_none_or(|state| state.starts_with("08") || state.starts_with("57P")) && !sqlstate::is_of_owner(error)
    };
    error.is_some_and(|error| !may_have_committed(error))
}

/// The error of a failure, or `None` if it did not end in time.
pub(super) fn timely<T>(outcome: Result<Result<T, sqlx::Error>, Elapsed>) -> Result<T, Option<sqlx::Error>> {
    outcome.map_err(|_| None).and_then(|ended| ended.map_err(Some))
}

impl Drop for Transaction {
    fn drop(&mut self) {
        self.session.take().map(Object::take);
    }
}
