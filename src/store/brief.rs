//! Transactions on rows that others may hold or change: they wait for nobody.
//!
//! A row that somebody holds costs them a moment, and then they are rolled back: whoever calls looks for it by halving, and
//! leaves it for later. So an owner's open transaction holds up only what it touches, and nothing here is ever part of a deadlock
//! for long enough to be found in one.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use sqlx::Executor;
use tokio::time::timeout_at;

use super::{Store, StoreError, session::Session, sqlstate::sqlstate};
use crate::domain::Timestamp;

/// How long a row is waited for. Less than `deadlock_timeout`, which is a second by default.
const BRIEFLY: &str = "100ms";

/// How long what is only added waits, where somebody has locked a whole table.
const PATIENTLY: &str = "SET LOCAL lock_timeout = '3s'";

/// What became of a transaction that waits for nobody.
#[derive(Debug)]
pub(crate) enum Brief<T> {
    /// It is committed.
    Done(T),
    /// Somebody holds one of its rows. Nothing was written.
    Held,
    /// Something is no more as it was read. Nothing was written.
    Changed,
}

/// Whether a transaction has all the rows that others may hold.
#[derive(Debug, Default)]
pub(super) struct Rows(AtomicBool);

impl Rows {
    /// From here on rows are only added.
    pub async fn are_ours(&self, connection: &mut Session) -> Result<(), sqlx::Error> {
        self.0.store(true, Ordering::Relaxed);
        connection.execute(PATIENTLY).await.map(drop)
    }
}

/// The error of a transaction that finds something else than what was read.
pub(super) fn changed() -> sqlx::Error {
    sqlx::Error::RowNotFound
}

impl Store {
    /// Does `work` in one transaction of the poller that waits for no row. `wrote` is as in `run_recording`.
    pub(super) async fn run_briefly<T>(
        &self,
        doing: &'static str,
        patience: Duration,
        wrote: Option<Timestamp>,
        work: impl AsyncFnOnce(&mut Session, &Rows) -> Result<T, sqlx::Error>,
    ) -> Result<Brief<T>, StoreError> {
        let rows = Rows::default();
        let mut transaction = self.connections.begin_briefly(doing, patience, BRIEFLY).await?;
        let outcome = timeout_at(transaction.deadline, work(transaction.session(), &rows)).await;
        let is_held = |error: &sqlx::Error| {
            !rows.0.load(Ordering::Relaxed) && sqlstate(error).is_some_and(|sqlstate| sqlstate == "55P03")
        };
        match outcome {
            Ok(Err(error)) if is_held(&error) => transaction.roll_back().await.map(|()| Brief::Held),
            Ok(Err(sqlx::Error::RowNotFound)) => transaction.roll_back().await.map(|()| Brief::Changed),
            outcome => match &self.fence {
                Some(fence) => transaction.end_fenced(fence, outcome, wrote).await.map(Brief::Done),
                None => transaction.end(outcome).await.map(Brief::Done),
            },
        }
    }
}

/// Items that are written in parts: what somebody holds or has changed is found by halving. Pure.
#[derive(Debug)]
pub(super) struct Halves<T> {
    parts: Vec<Vec<T>>,
    /// The single items that could not be written.
    pub left: Vec<T>,
}

impl<T> Halves<T> {
    pub fn of(items: Vec<T>) -> Self {
        Self { parts: vec![items], left: vec![] }
    }

    /// The next part, of one item at least.
    pub fn take(&mut self) -> Option<Vec<T>> {
        let part = self.parts.pop()?;
        if part.is_empty() { self.take() } else { Some(part) }
    }

    /// A part could not be written.
    pub fn failed(&mut self, mut part: Vec<T>) {
        if part.len() == 1 {
            self.left.append(&mut part);
        } else {
            let second = part.split_off(part.len() / 2);
            self.parts.extend([second, part]);
        }
    }
}
