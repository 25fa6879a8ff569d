//! What is on the schedule, gathered for `receiptd plan`.

use super::{Store, StoreError, statement::query_as, transaction::LONG};
use crate::{domain::Timestamp, plan::Cohort};

impl Store {
    /// The calls on the schedule of this app, gathered by cadence and by when their youngest message was sent, to ten minutes.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn cohorts(&self) -> Result<Vec<Cohort>, StoreError> {
        let cohorts = query_as::<(Option<String>, Timestamp, i64)>(
            "SELECT g.cadence, date_bin('10 minutes', youngest, '2000-01-01Z') + interval '5 minutes', count(*)
             FROM (
                SELECT group_key, max(sent_at) AS youngest FROM receiptd.watched_messages
                WHERE slot_id IS NOT NULL GROUP BY group_key, slot_id
             ) slots JOIN receiptd.watched_groups g USING (group_key)
             WHERE g.sdk_app_id = $1 AND g.state = 'active' GROUP BY 1, 2",
        )
        .bind(self.app());
        let cohorts = self
            .run("gathering what is on the schedule", LONG, async |database| cohorts.fetch_all(database).await)
            .await?;
        let cohort =
            |(cadence, sent_at, calls)| Cohort { cadence, sent_at, calls: u32::try_from(calls).unwrap_or(u32::MAX) };
        Ok(cohorts.into_iter().map(cohort).collect())
    }
}
