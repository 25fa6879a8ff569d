//! Groups that the database refuses to roll up, because of an arithmetic error, a constraint or an owner's trigger.
//! Such a group is found by halving, skipped for the hour and noted, so that it stops nothing else.

use sqlx::Executor;

use super::{
    job::{Done, Job},
    scope::{PassedOver, Scope, note_passed_over},
};
use crate::{
    domain::Timestamp,
    rules::{rollup::Stretch, slot::GroupKey},
    store::{
        Store, StoreError,
        connection::StoreConnection,
        statement::query_as,
        transaction::{ROLLUP, SHORT},
    },
};

/// Maximum number of groups skipped in one stretch. Each takes about twenty trials to find; more refusals are left
/// for a person, like any other failure.
const MOST: usize = 20;

/// How often an hour of a skipped group is retried.
const AGAIN_AFTER: &str = "1 hour";

/// Maximum number of these retried at a time.
const AT_ONCE: i64 = 100;

impl Store {
    /// Rolls up all groups, or none.
    pub(super) async fn roll_up_whole(&self, job: Job) -> Result<Done, StoreError> {
        let (app, scope) = (self.app(), Scope::of_all(vec![]));
        let work = async |database: &mut StoreConnection| job.run(database, app, &scope).await;
        self.run_fenced(job.doing(), ROLLUP, work).await
    }

    /// Rolls up all groups except those refused by the database, for at most an hour.
    pub(super) async fn roll_up(&self, job: Job) -> Result<Done, StoreError> {
        let app = self.app();
        let mut scope = Scope::of_all(vec![]);
        loop {
            let work = async |database: &mut StoreConnection| job.run(database, app, &scope).await;
            let error = match self.run_fenced(job.doing(), ROLLUP, work).await {
                Err(error) if error.is_refusal() && scope.passed_over.len() < MOST => error,
                ended => return ended,
            };
            let Some((group_key, refusal)) = self.find_refused(job, &mut scope).await? else { return Err(error) };
            self.say_passed_over(group_key, &refusal).await;
            let (sqlstate, reason) = (refusal.sqlstate().unwrap_or_default(), refusal.cause().unwrap_or_default());
            scope.passed_over.push(PassedOver { group_key, sqlstate, reason });
        }
    }

    /// The first group of the scope that is refused alone, found by halving, with the refusal.
    async fn find_refused(&self, job: Job, scope: &mut Scope) -> Result<Option<(GroupKey, StoreError)>, StoreError> {
        let bounds =
            query_as("SELECT min(group_key), max(group_key) FROM receiptd.watched_groups WHERE sdk_app_id = $1");
        let bounds = bounds.bind(self.app());
        let bounds = self.run("looking up the app's groups", SHORT, async |database| bounds.fetch_one(database).await);
        let (Some(mut first), Some(mut last)) = bounds.await? else { return Ok(None) };
        while first < last {
            let middle = first + (last - first) / 2;
            (scope.first, scope.last) = (first, middle);
            match self.try_out(job, scope).await? {
                Some(_) => last = middle,
                None => first = middle + 1,
            }
        }
        (scope.first, scope.last) = (first, first);
        let refusal = self.try_out(job, scope).await?;
        (scope.first, scope.last) = (GroupKey::MIN, GroupKey::MAX);
        Ok(refusal.map(|refusal| (first, refusal)))
    }

    /// Whether and how the database refuses to roll up the groups of the scope. Changes nothing.
    async fn try_out(&self, job: Job, scope: &Scope) -> Result<Option<StoreError>, StoreError> {
        let app = self.app();
        let tried = self.run(job.doing(), ROLLUP, async |database| {
            database.execute("SAVEPOINT trial").await?;
            job.run(database, app, scope).await?;
            database.execute("ROLLBACK TO SAVEPOINT trial").await
        });
        match tried.await {
            Ok(_) => Ok(None),
            Err(error) if error.is_refusal() => Ok(Some(error)),
            Err(error) => Err(error),
        }
    }

    async fn say_passed_over(&self, group_key: GroupKey, refusal: &StoreError) {
        metrics::counter!("receiptd_rollup_passed_over_total").increment(1);
        let (group, cause) = (self.group_id(group_key).await.ok(), refusal as &dyn std::error::Error);
        let sqlstate = refusal.sqlstate();
        let what = "a group can't be rolled up and is skipped: see receiptd.rollup_passed_over";
        tracing::error!(error = cause, group, group_key, sqlstate, "{what}");
    }

    /// Retries what was skipped more than an hour ago, each group separately.
    ///
    /// # Errors
    /// If the database fails other than by refusing it again.
    pub async fn roll_up_passed_over(&self) -> Result<(), StoreError> {
        let passed_over = query_as::<(GroupKey, Timestamp)>(
            "SELECT p.group_key, p.hour FROM receiptd.rollup_passed_over p JOIN receiptd.watched_groups g USING (group_key)
             WHERE g.sdk_app_id = $1 AND p.last_at < now() - $2::text::interval ORDER BY p.last_at, p.hour LIMIT $3",
        );
        let passed_over = passed_over.bind(self.app()).bind(AGAIN_AFTER).bind(AT_ONCE);
        let doing = "reading what the roll-up skipped";
        let passed_over = self.run(doing, SHORT, async |database| passed_over.fetch_all(database).await);
        for (group_key, hour) in passed_over.await? {
            self.roll_up_alone(group_key, hour).await?;
        }
        Ok(())
    }

    /// Rolls up an hour of one group again, or notes that it is still refused.
    async fn roll_up_alone(&self, group_key: GroupKey, hour: Timestamp) -> Result<(), StoreError> {
        let (app, job) = (self.app(), Job::Again { hours: Stretch::of_hour(hour), counts: true });
        let scope = Scope { first: group_key, last: group_key, passed_over: vec![] };
        let work = async |database: &mut StoreConnection| job.run(database, app, &scope).await;
        let refusal = match self.run_fenced(job.doing(), ROLLUP, work).await {
            Err(error) if error.is_refusal() => error,
            ended => return ended.map(drop),
        };
        let (sqlstate, reason) = (refusal.sqlstate().unwrap_or_default(), refusal.cause().unwrap_or_default());
        let scope = Scope::of_all(vec![PassedOver { group_key, sqlstate, reason }]);
        let noting = async |database: &mut StoreConnection| note_passed_over(database, hour, &scope).await;
        self.run_fenced("noting what the roll-up skipped", SHORT, noting).await
    }
}
