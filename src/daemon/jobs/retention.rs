//! Removes old data after rolling it up. [`crate::rules::retention`] decides what to remove; nothing here knows SQL, or
//! the schedule.

use super::rollup::catch_up;
use crate::{
    domain::Timestamp,
    rules::retention::{Partition, Retention, Verdict},
    store::{Rewritten, Store, StoreError},
};

/// The result of one run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Removed {
    /// Partitions.
    pub partitions: u64,
    /// Their size on disk.
    pub bytes: i64,
    /// Expired partitions that wait to be rolled up or for readers.
    pub waiting: u64,
    /// Number of days of snapshots that were rewritten in the order of their key.
    pub rewritten: u64,
    /// Number of hourly rows, gaps, messages, message days, and messages with readers.
    pub rows: u64,
}

/// Rolls up pending data of all apps of the database, and removes old data.
///
/// `now` is the database's time; the caller has checked that it is not in doubt. The run ends if that changes.
///
/// # Errors
/// If the database fails. What was removed before stays removed.
pub async fn enforce(store: &Store, retention: &Retention, now: Timestamp) -> Result<Removed, StoreError> {
    for app in store.apps_that_polled().await? {
        if let Err(error) = catch_up(&store.of_app(app), now, |_| {}).await {
            // Data that is already rolled up is removed nevertheless.
            metrics::counter!("receiptd_job_failures_total").increment(1);
            let (cause, advice) = (&error as &dyn std::error::Error, error.advice());
            tracing::error!(error = cause, sdk_app_id = app.get(), advice, "an app can't be rolled up");
        }
    }
    let rolled_up_until = store.rolled_up_by_all().await?;
    let mut removed = Removed::default();
    for partition in store.partitions().await? {
        if store.clock().doubt().is_some() {
            return Ok(removed);
        }
        match retention.verdict(&partition, rolled_up_until, now) {
            Verdict::Keep => {
                store.keep_partition(&partition).await?;
                if partition.is_to_rewrite(rolled_up_until, now) {
                    removed.rewritten += u64::from(rewrite(store, &partition).await);
                }
            }
            Verdict::KeepUntilRolledUp => removed.waiting += 1,
            Verdict::Drop if store.drop_partition(&partition).await? => {
                tracing::info!(partition = partition.name(), bytes = partition.bytes, "dropped an old partition");
                removed.partitions += 1;
                removed.bytes += partition.bytes;
            }
            Verdict::Drop => removed.waiting += 1,
        }
    }
    store.analyze_tables().await?;
    if let Some(kept) = retention.rollups {
        removed.rows = store.delete_rollups(now - kept).await?;
    }
    if let Some(kept) = retention.message_days {
        removed.rows += store.delete_message_days(now - kept).await?;
    }
    if let Some(kept) = retention.readers {
        removed.rows += store.delete_readers(now - kept).await?;
    }
    Ok(removed)
}

/// Rewrites a day in the order of its key. If that fails, the next run tries again; until then the day is larger and
/// slower to read.
async fn rewrite(store: &Store, partition: &Partition) -> bool {
    let partition_name = partition.name();
    match store.rewrite_day(partition.day).await {
        Ok(Rewritten::Done { rows }) => {
            tracing::info!(
                partition = partition_name,
                rows,
                bytes = partition.bytes,
                "rewrote a day in the order of its messages"
            );
            return true;
        }
        Ok(Rewritten::Spoiled) => {
            tracing::info!(
                partition = partition_name,
                "a day was written to while it was being rewritten: trying again next night"
            );
        }
        Ok(Rewritten::Held) => {
            tracing::info!(
                partition = partition_name,
                "a day can't be rewritten while it is locked or being read: trying again next night"
            );
        }
        Err(error) => {
            metrics::counter!("receiptd_job_failures_total").increment(1);
            let (cause, advice) = (&error as &dyn std::error::Error, error.advice());
            tracing::error!(error = cause, partition = partition_name, advice, "a day can't be rewritten");
        }
    }
    false
}
