//! The groups of a roll-up, and the marks of skipped ones.

use crate::{
    domain::Timestamp,
    rules::{rollup::Stretch, slot::GroupKey},
    store::{connection::StoreConnection, statement::query},
};

/// A skipped group, and the database's error.
#[derive(Debug)]
pub(super) struct PassedOver {
    pub group_key: GroupKey,
    pub sqlstate: String,
    pub reason: String,
}

/// The groups to roll up: from the first to the last key, without some.
#[derive(Debug)]
pub(super) struct Scope {
    pub first: GroupKey,
    pub last: GroupKey,
    pub passed_over: Vec<PassedOver>,
}

impl Scope {
    /// All groups except these.
    pub fn of_all(passed_over: Vec<PassedOver>) -> Self {
        Self { first: GroupKey::MIN, last: GroupKey::MAX, passed_over }
    }

    /// Whether it covers all groups of the app, apart from skipped ones.
    pub fn is_all(&self) -> bool {
        (self.first, self.last) == (GroupKey::MIN, GroupKey::MAX)
    }

    /// The skipped groups.
    pub fn left_out(&self) -> Vec<GroupKey> {
        self.passed_over.iter().map(|group| group.group_key).collect()
    }
}

/// Notes the groups skipped in this hour.
pub(super) async fn note_passed_over(
    connection: &mut StoreConnection,
    hour: Timestamp,
    scope: &Scope,
) -> Result<(), sqlx::Error> {
    for PassedOver { group_key, sqlstate, reason } in &scope.passed_over {
        query(
            "INSERT INTO receiptd.rollup_passed_over AS p (group_key, hour, sqlstate, reason) VALUES ($1, $2, $3, $4)
             ON CONFLICT (group_key, hour) DO UPDATE SET last_at = EXCLUDED.last_at, times = p.times + 1,
                sqlstate = EXCLUDED.sqlstate, reason = EXCLUDED.reason",
        )
        .bind(group_key)
        .bind(hour)
        .bind(sqlstate)
        .bind(reason)
        .execute(&mut *connection)
        .await?;
    }
    Ok(())
}

/// Removes the notes of groups that are rolled up again.
pub(super) async fn forget_passed_over(
    connection: &mut StoreConnection,
    app: i64,
    hours: Stretch,
    scope: &Scope,
) -> Result<(), sqlx::Error> {
    query(
        "DELETE FROM receiptd.rollup_passed_over p USING receiptd.watched_groups g
         WHERE p.group_key = g.group_key AND g.sdk_app_id = $1 AND p.hour >= $2 AND p.hour < $6
            AND p.group_key BETWEEN $3 AND $4 AND p.group_key <> ALL ($5)",
    )
    .bind(app)
    .bind(hours.from)
    .bind(scope.first)
    .bind(scope.last)
    .bind(scope.left_out())
    .bind(hours.until)
    .execute(connection)
    .await
    .map(drop)
}
