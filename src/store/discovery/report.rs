//! The results of discovery, for commands and the status.

use serde::Serialize;
use sqlx::FromRow;

use super::{SHORT, Store, StoreError, query_as};
use crate::domain::{GroupId, Timestamp};

/// The results of discovery for an app.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, FromRow)]
pub struct DiscoveryTotals {
    /// Number of groups that it follows.
    pub groups: i64,
    /// Number of these that Tencent Chat refuses.
    pub refused: i64,
    /// Number of messages that it has watched in them.
    pub watched: i64,
    /// Number of messages that it has passed over.
    pub passed: i64,
    /// Number of the latest discovered messages of each group that have a receipt.
    pub with_receipt: i64,
    /// Number of these without.
    pub without_receipt: i64,
}

impl DiscoveryTotals {
    /// Share of discovered messages that have a receipt, from 0 to 1; `None` if none was polled.
    pub fn receipt_share(&self) -> Option<f64> {
        let known = self.with_receipt + self.without_receipt;
        (known > 0).then(|| self.with_receipt as f64 / known as f64)
    }
}

/// The state of a group in discovery.
#[derive(Debug, Clone, Serialize, FromRow)]
pub struct DiscoveredGroup {
    /// When it was found.
    pub found_at: Timestamp,
    /// Messages below this seq were read; `None` before the first look.
    pub next_seq: Option<i64>,
    /// Number of messages that it has watched.
    pub watched: i64,
    /// Number of messages that it has passed over.
    pub passed: i64,
    /// The latest of these, at most 50.
    pub passed_seqs: Vec<i64>,
    /// Why each was passed over.
    pub passed_reasons: Vec<String>,
    /// Number of its latest discovered messages, at most 100, that have a receipt.
    pub with_receipt: i64,
    /// Number of these without.
    pub without_receipt: i64,
    /// The code with which the last look at the group was refused.
    pub refused_code: Option<i32>,
}

impl Store {
    /// The results of discovery for the app.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn discovery_totals(&self) -> Result<DiscoveryTotals, StoreError> {
        let totals = query_as(
            "SELECT count(*) AS groups, count(refused_code) AS refused, coalesce(sum(watched), 0)::bigint AS watched,
                coalesce(sum(passed), 0)::bigint AS passed, coalesce(sum(with_receipt), 0)::bigint AS with_receipt,
                coalesce(sum(without_receipt), 0)::bigint AS without_receipt
             FROM receiptd.discovered_groups WHERE sdk_app_id = $1",
        )
        .bind(self.app());
        self.run("summing up discovery", SHORT, async |database| totals.fetch_one(database).await).await
    }

    /// The state of a group in discovery, if it is followed.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn discovered_group(&self, group: &GroupId) -> Result<Option<DiscoveredGroup>, StoreError> {
        let found = query_as(
            "SELECT found_at, next_seq, watched, passed, passed_seqs, passed_reasons, with_receipt, without_receipt,
                refused_code
             FROM receiptd.discovered_groups WHERE sdk_app_id = $1 AND group_id = $2",
        )
        .bind(self.app())
        .bind(group.to_string());
        self.run("looking up a discovered group", SHORT, async |database| found.fetch_optional(database).await).await
    }
}
