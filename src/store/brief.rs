//! Transactions on rows that others may lock or change. They don't wait.
//!
//! A locked row costs them a moment, then they are rolled back: the caller finds it by halving, and postpones it. So an
//! owner's open transaction only delays what it touches, and nothing here waits long enough to be part of a detected
//! deadlock.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use sqlx::Executor;
use tokio::time::timeout_at;

use super::{Store, StoreError, sqlstate::is_locked};
use crate::{domain::Timestamp, rules::slot::GroupKey, store::connection::StoreConnection};

/// Maximum time to wait for a row. Less than `deadlock_timeout`, which is a second by default.
const BRIEFLY: &str = "100ms";

/// Maximum time that inserts wait for a locked table.
const PATIENTLY: &str = "SET LOCAL lock_timeout = '3s'";

/// Has deferred triggers refuse a row when it is written, so that a savepoint finds it, and not the commit.
pub(super) const FIRE_AT_ONCE: &str = "SET CONSTRAINTS ALL IMMEDIATE";

/// The result of a transaction that doesn't wait for locks.
#[derive(Debug)]
pub(crate) enum Brief<T> {
    /// It is committed.
    Done(T),
    /// Another session has locked one of its rows. Nothing was written.
    Held,
    /// Something has changed since it was read. Nothing was written.
    Changed,
}

/// Slots of a group that the tables refuse, for example because of an owner's trigger: the first of several.
#[derive(Debug)]
pub struct RefusedSlots {
    /// The group.
    pub group_key: GroupKey,
    /// Why.
    pub error: StoreError,
}

/// Whether a transaction has all rows that others may lock.
#[derive(Debug, Default)]
pub(super) struct Rows(AtomicBool);

impl Rows {
    /// From here on rows are only inserted.
    pub async fn are_ours(&self, connection: &mut StoreConnection) -> Result<(), sqlx::Error> {
        self.0.store(true, Ordering::Relaxed);
        connection.execute(PATIENTLY).await.map(drop)
    }
}

/// The error of a transaction that finds something changed.
pub(super) fn changed() -> sqlx::Error {
    sqlx::Error::RowNotFound
}

impl Store {
    /// Runs `work` in one transaction of the poller that waits for no row. `wrote` is as in `run_recording`.
    pub(super) async fn run_briefly<T>(
        &self,
        doing: &'static str,
        patience: Duration,
        wrote: Option<Timestamp>,
        work: impl AsyncFnOnce(&mut StoreConnection, &Rows) -> Result<T, sqlx::Error>,
    ) -> Result<Brief<T>, StoreError> {
        let rows = Rows::default();
        let mut transaction = self.connections.begin_briefly(doing, patience, BRIEFLY).await?;
        let outcome = timeout_at(transaction.deadline, work(transaction.session(), &rows)).await;
        let is_held = |error: &sqlx::Error| !rows.0.load(Ordering::Relaxed) && is_locked(error);
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

/// Items written in parts. Locked and changed ones are found by halving. Pure.
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

    /// The next part, of at least one item.
    pub fn take(&mut self) -> Option<Vec<T>> {
        let part = self.parts.pop()?;
        if part.is_empty() { self.take() } else { Some(part) }
    }

    /// Leaves a part to be written in another way.
    pub fn again(&mut self, part: Vec<T>) {
        self.parts.push(part);
    }

    /// Notes that a part could not be written.
    pub fn failed(&mut self, mut part: Vec<T>) {
        if part.len() == 1 {
            self.left.append(&mut part);
        } else {
            let second = part.split_off(part.len() / 2);
            self.parts.extend([second, part]);
        }
    }
}
