//! The load on the schedule and new messages, for `receiptd plan`.

use serde::Serialize;

use super::{Store, StoreError, statement::query_as, transaction::LONG};
use crate::{domain::Timestamp, plan::Cohort};

/// Messages sent within the last 24 hours that are or were watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct LastDay {
    /// Messages.
    pub messages: i64,
    /// Number of groups they were sent to.
    pub groups: i64,
}

impl Store {
    /// The calls on this app's schedule, grouped by cadence and by the time of sending of their youngest message, to
    /// ten minutes. New messages without a slot count as the slots that they will fill.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn cohorts(&self, batch_size: u32) -> Result<Vec<Cohort>, StoreError> {
        let cohorts = query_as::<(Option<String>, Timestamp, i64)>(
            "SELECT g.cadence, date_bin('10 minutes', youngest, '2000-01-01Z') + interval '5 minutes', count(*)
             FROM (
                SELECT group_key, (
                    SELECT max(coalesce(m.aged_from, m.sent_at)) FROM unnest(s.aged_from, s.sent_at) AS m (aged_from, sent_at)
                ) AS youngest FROM receiptd.poll_slots s WHERE msg_seqs <> '{}'
                UNION ALL
                SELECT group_key, max(aged_from) FROM (
                    SELECT group_key, coalesce(aged_from, sent_at) AS aged_from,
                        (row_number() OVER (PARTITION BY group_key ORDER BY msg_seq) - 1) / $2 AS number
                    FROM receiptd.watched_messages WHERE slot_id IS NULL AND state = 'active'
                ) new GROUP BY group_key, number
             ) slots JOIN receiptd.watched_groups g USING (group_key)
             WHERE g.sdk_app_id = $1 AND g.state = 'active' GROUP BY 1, 2",
        )
        .bind(self.app())
        .bind(i64::from(batch_size));
        let cohorts =
            self.run("reading the schedule's load", LONG, async |database| cohorts.fetch_all(database).await).await?;
        let cohort =
            |(cadence, sent_at, calls)| Cohort { cadence, sent_at, calls: u32::try_from(calls).unwrap_or(u32::MAX) };
        Ok(cohorts.into_iter().map(cohort).collect())
    }

    /// This app's new messages of the last 24 hours.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn last_day(&self) -> Result<LastDay, StoreError> {
        let brought = query_as(
            "SELECT count(*), count(DISTINCT group_key) FROM receiptd.watched_messages JOIN receiptd.watched_groups USING (group_key)
             WHERE sdk_app_id = $1 AND sent_at > now() - interval '24 hours'",
        )
        .bind(self.app());
        let (messages, groups) = self
            .run("counting new messages of the last 24 hours", LONG, async |database| brought.fetch_one(database).await)
            .await?;
        Ok(LastDay { messages, groups })
    }
}
