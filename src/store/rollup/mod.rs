//! The roll-up's statements, one transaction per stretch. [`crate::rules::rollup`] decides the order of stretches.

mod job;
mod passing_over;
mod scope;
mod statements;

use self::job::{Done, Job, mark};
use super::{
    Store, StoreError,
    statement::{query, query_scalar},
    transaction::{ROLLUP, SHORT},
};
use crate::{
    domain::Timestamp,
    rules::{
        database_clock::APART,
        rollup::{Reach, SETTLED_AFTER, Stretch},
    },
};

const HEAL_MARKS: &str = include_str!("heal_marks.sql");
const HEAL_CLOSED: &str = include_str!("heal_closed.sql");

impl Store {
    /// Marks everything older than `until` as about to be rolled up: from now on, flushes note what they write before
    /// it. Waits for flushes in progress. False if this app was never polled.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn mark_rolling_up(&self, until: Timestamp) -> Result<bool, StoreError> {
        self.heal_marks(until).await?;
        let mark = query(
            "UPDATE receiptd.poller_leases SET rolling_up_until = greatest(rolling_up_until, $2) WHERE sdk_app_id = $1",
        );
        let mark = mark.bind(self.app()).bind(until);
        let marked =
            self.run_fenced("moving the end of the roll-up", SHORT, async |database| mark.execute(database).await);
        Ok(marked.await?.rows_affected() == 1)
    }

    /// Corrects marks in the future, from a wrong clock, together with the gaps found up to them and the times of
    /// closed messages. The hours that they cover are rolled up again. Changes nothing while the clock is in doubt.
    async fn heal_marks(&self, until: Timestamp) -> Result<(), StoreError> {
        if self.clock().doubt().is_some() {
            return Ok(());
        }
        let now = until + SETTLED_AFTER;
        let (app, limit) = (self.app(), now + APART);
        let is_ahead = query_scalar::<bool>(
            "SELECT coalesce(greatest(rolled_up_until, rolling_up_until) > $2, false) FROM receiptd.poller_leases WHERE sdk_app_id = $1",
        );
        let is_ahead = is_ahead.bind(app).bind(limit);
        let is_ahead = self
            .run("looking up the end of the roll-up", SHORT, async |database| is_ahead.fetch_optional(database).await);
        if is_ahead.await? != Some(true) {
            return Ok(());
        }
        let healed = self.run_fenced("correcting roll-up marks in the future", ROLLUP, async |database| {
            mark(database, app).await?;
            query(HEAL_CLOSED).bind(app).bind(limit).bind(now).execute(&mut *database).await?;
            query(HEAL_MARKS).bind(app).bind(limit).bind(until).execute(database).await
        });
        healed.await?;
        tracing::warn!("the end of the roll-up was in the future because of a wrong clock: it continues from now");
        Ok(())
    }

    /// Time until which everything of this app is rolled up; `None` if nothing is yet.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn rolled_up_until(&self) -> Result<Option<Timestamp>, StoreError> {
        let until = query_scalar("SELECT max(rolled_up_until) FROM receiptd.poller_leases WHERE sdk_app_id = $1");
        let until = until.bind(self.app());
        self.run("looking up the end of the roll-up", SHORT, async |database| until.fetch_one(database).await).await
    }

    /// Hours with data stored after they had been rolled up, oldest first.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn hours_to_redo(&self) -> Result<Vec<Timestamp>, StoreError> {
        let hours = query_scalar("SELECT DISTINCT hour FROM receiptd.rollup_redo WHERE sdk_app_id = $1 ORDER BY hour");
        let hours = hours.bind(self.app());
        self.run("looking for hours to roll up again", SHORT, async |database| hours.fetch_all(database).await).await
    }

    /// Rolls up the next stretch, up to `until`. `None` if there is nothing left. Groups that the database refuses to
    /// roll up are skipped and noted.
    ///
    /// # Errors
    /// If the database fails; then nothing has changed.
    pub async fn roll_up_next(&self, until: Timestamp) -> Result<Option<Stretch>, StoreError> {
        let done = match self.roll_up_whole(Job::Next { until, reach: Reach::Day }).await {
            Err(error) if error.is_refusal() => self.roll_up(Job::Next { until, reach: Reach::Hour }).await?,
            ended => ended?,
        };
        Ok(if let Done::Stretch(stretch) = done { stretch } else { None })
    }

    /// Rolls up whole hours of a day again, as far as they were rolled up: their gaps only if their calls still exist,
    /// and their hourly rows only if their snapshots do, too. True if all of it was done. Groups are skipped as in
    /// [`Self::roll_up_next`].
    ///
    /// The active messages at the end of each hour follow from the hour before, unless `counts` is set.
    ///
    /// # Errors
    /// If the database fails. Of several hours, the first ones may be done.
    pub async fn roll_up_again(&self, hours: Stretch, counts: bool) -> Result<bool, StoreError> {
        match self.roll_up_whole(Job::Again { hours, counts }).await {
            Err(error) if error.is_refusal() => {}
            ended => return ended.map(|done| done.is_whole()),
        }
        let mut is_whole = true;
        for hours in hours.hours() {
            is_whole &= self.roll_up(Job::Again { hours, counts }).await?.is_whole();
        }
        Ok(is_whole)
    }
}
