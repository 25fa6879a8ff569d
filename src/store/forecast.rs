//! The load on the schedule and new messages, for `receiptd plan`.

use chrono::TimeDelta;
use serde::Serialize;

use super::{Store, StoreError, statement::query_as, transaction::LONG};
use crate::{
    domain::Timestamp,
    rules::{cadence::Held, forecast::Cohort},
};

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
        let cohorts = query_as::<(Option<String>, Timestamp, f64, f64, i64)>(
            "SELECT g.cadence, date_bin('10 minutes', youngest, '2000-01-01Z') + interval '5 minutes',
                avg(extract(epoch FROM youngest - oldest))::float8, avg(unread)::float8, count(*)
             FROM (
                SELECT group_key, held.* FROM receiptd.poll_slots s CROSS JOIN LATERAL (
                    SELECT max(coalesce(m.aged_from, m.sent_at)) AS youngest, min(coalesce(m.aged_from, m.sent_at)) AS oldest,
                        count(*) FILTER (WHERE (m.read_num > 0 AND m.member_num = m.read_num) IS NOT TRUE) AS unread
                    FROM unnest(receiptd.spread(s.aged_from, cardinality(s.msg_seqs)), receiptd.spread(s.sent_at, cardinality(s.msg_seqs)),
                        receiptd.spread(s.read_num, cardinality(s.msg_seqs)), receiptd.spread(s.member_num, cardinality(s.msg_seqs)))
                        AS m (aged_from, sent_at, read_num, member_num)
                ) held WHERE msg_seqs <> '{}'
                UNION ALL
                SELECT group_key, max(aged_from), min(aged_from), count(*) FROM (
                    SELECT group_key, coalesce(aged_from, sent_at) AS aged_from,
                        (row_number() OVER (PARTITION BY group_key ORDER BY msg_seq) - 1) / $2 AS number
                    FROM receiptd.watched_messages WHERE slot_id IS NULL AND closed_at IS NULL
                ) new GROUP BY group_key, number
             ) slots JOIN receiptd.watched_groups g USING (group_key)
             WHERE g.sdk_app_id = $1 AND g.state = 'active' GROUP BY 1, 2",
        )
        .bind(self.app())
        .bind(i64::from(batch_size));
        let cohorts =
            self.run("reading the schedule's load", LONG, async |database| cohorts.fetch_all(database).await).await?;
        let cohort = |(cadence, youngest, spread, unread, calls): (_, Timestamp, f64, _, i64)| {
            let oldest = youngest - TimeDelta::milliseconds((spread * 1e3) as i64);
            let held = Held { youngest, oldest, unread };
            Cohort { cadence, held, calls: u32::try_from(calls).unwrap_or(u32::MAX) }
        };
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
