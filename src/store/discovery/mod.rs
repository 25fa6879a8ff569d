//! The state of discovery: the groups that it follows, how far the lists and each group are read, and which messages it
//! has watched and passed over.

mod refused;
mod report;
mod statements;
mod watching;

use sqlx::Row;

use self::statements::texts;
pub use self::{
    refused::RefusedGroup,
    report::{DiscoveredGroup, DiscoveryTotals},
    statements::{GroupRead, Room},
    watching::{Outcome, Watching},
};
use super::{
    Store, StoreError,
    connection::StoreConnection,
    statement::{query, query_as, query_scalar},
    transaction::{LONG, SHORT},
};
use crate::{
    domain::{GroupId, GroupType, Timestamp},
    rules::protocol::others::Cursor,
};

/// Number of groups per page.
const PAGE: i64 = 10_000;

/// A group that discovery follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Followed {
    /// Its id.
    pub group: GroupId,
    /// Its type, if known.
    pub group_type: Option<GroupType>,
    /// Messages below this seq were read; `None` before the first look.
    pub next_seq: Option<u32>,
}

impl Store {
    /// Notes that discovery is switched on. Returns the time since which it is.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn begin_discovery(&self) -> Result<Timestamp, StoreError> {
        let begin = query_scalar(
            "INSERT INTO receiptd.discovery AS d (sdk_app_id, began_at) VALUES ($1, now())
             ON CONFLICT (sdk_app_id) DO UPDATE SET began_at = coalesce(d.began_at, EXCLUDED.began_at) RETURNING began_at",
        )
        .bind(self.app());
        self.run_fenced("beginning discovery", SHORT, async |database| begin.fetch_one(database).await).await
    }

    /// Notes that discovery is switched off. When it is switched on again, it begins anew.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn end_discovery(&self) -> Result<(), StoreError> {
        let end = query("UPDATE receiptd.discovery SET began_at = NULL WHERE sdk_app_id = $1 AND began_at IS NOT NULL")
            .bind(self.app());
        self.run_fenced("ending discovery", SHORT, async |database| end.execute(database).await.map(drop)).await
    }

    /// Time since which discovery is switched on; `None` if it is off.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn discovery_began(&self) -> Result<Option<Timestamp>, StoreError> {
        let began = query_scalar("SELECT (SELECT began_at FROM receiptd.discovery WHERE sdk_app_id = $1)");
        let began = began.bind(self.app());
        self.run("reading the state of discovery", SHORT, async |database| began.fetch_one(database).await).await
    }

    /// The place of the next page of the list of groups of a type, and when the list was last read to its end.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn group_list(&self, group_type: GroupType) -> Result<(Cursor, Option<Timestamp>), StoreError> {
        let list = query_as::<(String, Option<Timestamp>)>(
            "SELECT next_page, listed_at FROM receiptd.discovery_lists WHERE sdk_app_id = $1 AND group_type = $2",
        )
        .bind(self.app())
        .bind(group_type.as_str());
        let list = self.run("reading the list of groups", SHORT, async |database| list.fetch_optional(database).await);
        let (next, listed_at) = list.await?.unwrap_or_default();
        Ok((next.parse().unwrap_or_default(), listed_at))
    }

    /// Stores the place of the next page of the list; without one, the list was read to its end.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn store_place(&self, group_type: GroupType, next: Option<Cursor>) -> Result<(), StoreError> {
        let place = query(
            "INSERT INTO receiptd.discovery_lists AS l (sdk_app_id, group_type, next_page, listed_at)
             VALUES ($1, $2, coalesce($3, '0'), CASE WHEN $3 IS NULL THEN now() END)
             ON CONFLICT (sdk_app_id, group_type) DO UPDATE
             SET next_page = EXCLUDED.next_page, listed_at = coalesce(EXCLUDED.listed_at, l.listed_at)",
        )
        .bind(self.app())
        .bind(group_type.as_str())
        .bind(next.map(|next| next.to_string()));
        self.run_fenced("storing the place in a list", SHORT, async |database| place.execute(database).await.map(drop))
            .await
    }

    /// Follows groups. Returns those that the tables refuse.
    ///
    /// # Errors
    /// If the database fails. Some may be followed nevertheless.
    pub async fn follow_groups(
        &self,
        group_type: Option<GroupType>,
        groups: &[GroupId],
    ) -> Result<Vec<RefusedGroup>, StoreError> {
        // Rows of known groups are not written.
        let follow = |groups: &[GroupId]| {
            query(
                "INSERT INTO receiptd.discovered_groups (sdk_app_id, group_id, group_type)
                 SELECT $1, u.group_id, $2 FROM unnest($3::text[]) AS u (group_id) ORDER BY u.group_id
                 ON CONFLICT (sdk_app_id, group_id) DO NOTHING",
            )
            .bind(self.app())
            .bind(group_type.map(GroupType::as_str))
            .bind(texts(groups))
        };
        self.write_groups_apart("following groups", groups, follow).await
    }

    /// Stops following groups. Returns those whose rows the tables keep.
    ///
    /// # Errors
    /// If the database fails. Some may have gone nevertheless.
    pub async fn leave_groups(&self, groups: &[GroupId]) -> Result<Vec<RefusedGroup>, StoreError> {
        let leave = |groups: &[GroupId]| {
            query("DELETE FROM receiptd.discovered_groups WHERE sdk_app_id = $1 AND group_id = ANY ($2)")
                .bind(self.app())
                .bind(texts(groups))
        };
        self.write_groups_apart("leaving groups", groups, leave).await
    }

    /// The next followed groups by id, after `after`. Empty at the end.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn followed_groups(&self, after: Option<&GroupId>) -> Result<Vec<Followed>, StoreError> {
        let groups = query(
            "SELECT group_id, group_type, next_seq FROM receiptd.discovered_groups
             WHERE sdk_app_id = $1 AND group_id > $2 ORDER BY group_id LIMIT $3",
        )
        .bind(self.app())
        .bind(after.map_or_else(String::new, ToString::to_string))
        .bind(PAGE);
        let rows = self.run("reading followed groups", LONG, async |database| groups.fetch_all(database).await).await?;
        let followed = |row: &sqlx::postgres::PgRow| {
            let (group, group_type): (String, Option<String>) = (row.get("group_id"), row.get("group_type"));
            let next_seq: Option<i64> = row.get("next_seq");
            Some(Followed {
                group: group.parse().ok()?,
                group_type: group_type.and_then(|group_type| group_type.parse().ok()),
                next_seq: next_seq.and_then(|seq| u32::try_from(seq).ok()),
            })
        };
        Ok(rows.iter().filter_map(followed).collect())
    }
}
