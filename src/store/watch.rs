//! The watch list for the command line. Applications use the SQL functions instead.

use sqlx::{postgres::PgArguments, query::QueryScalar};

use super::{
    Store, StoreError,
    statement::{query, query_as, query_scalar},
    transaction::{LONG, SHORT},
};
use crate::{
    domain::{GroupId, GroupType, Labels, MsgSeq, Timestamp},
    import::WatchLine,
    rules::slot::GroupKey,
    store::connection::StoreConnection,
};

/// Number of rows per page, so that a slow reader blocks nothing.
const PAGE: i64 = 10_000;

/// A group of the watch list.
#[derive(Debug, Clone, serde::Serialize, sqlx::FromRow)]
pub struct WatchedGroup {
    /// The group's id in Tencent Chat.
    pub group_id: String,
    /// active, paused, quarantined or removed.
    pub state: String,
    /// The reason for its state.
    pub state_reason: Option<String>,
    /// The name of its cadence; `None` for the default.
    pub cadence: Option<String>,
    /// Whether its readers are asked for and stored.
    pub readers: bool,
    /// Number of active messages.
    pub active: i64,
    /// Number of closed messages.
    pub closed: i64,
    /// Its labels, an object; null if it has none.
    pub labels: serde_json::Value,
    /// Time at which discovery added it; `None` if its owner did.
    pub discovered_at: Option<Timestamp>,
}

/// A message of the watch list, as in `latest_receipts`.
#[derive(Debug, Clone, serde::Serialize, sqlx::FromRow)]
pub struct WatchedMessage {
    /// Its number within the group.
    pub msg_seq: i64,
    /// active, or why it is closed.
    pub state: String,
    /// Number of members who have read it.
    pub read_num: Option<i32>,
    /// Number of members who have not read it.
    pub unread_num: Option<i32>,
    /// The code for the message.
    pub receipt_code: Option<i32>,
    /// Time of sending.
    pub sent_at: Timestamp,
    /// Time until which its counts are known to hold.
    pub known_until: Option<Timestamp>,
    /// Its labels, an object; null if it has none.
    pub labels: serde_json::Value,
    /// Time at which discovery found it; `None` if its owner added it.
    pub discovered_at: Option<Timestamp>,
}

impl Store {
    /// The id of a group, for the log.
    pub(crate) async fn group_id(&self, group_key: GroupKey) -> Result<String, StoreError> {
        let group = query_scalar("SELECT group_id FROM receiptd.watched_groups WHERE group_key = $1").bind(group_key);
        self.run("looking up a group", SHORT, async |database| group.fetch_one(database).await).await
    }

    /// Watches a group, see the function `watch_group`.
    ///
    /// # Errors
    /// If the database refuses or fails.
    pub async fn watch_group(
        &self,
        group: &GroupId,
        group_type: Option<GroupType>,
        cadence: Option<&str>,
        labels: &Labels,
    ) -> Result<(), StoreError> {
        let watch = query_scalar::<i32>("SELECT receiptd.watch_group($1, $2, $3, $4, $5::jsonb)")
            .bind(self.app())
            .bind(group.to_string())
            .bind(group_type.map(GroupType::as_str))
            .bind(cadence.map(str::to_owned))
            .bind(labels.json());
        self.call("watching a group", watch).await.map(drop)
    }

    /// Watches messages of many groups at once, as `watch_messages` does for one. Those without a time of sending
    /// count as sent at `now`. Returns how many were not active before.
    ///
    /// # Errors
    /// If the database refuses or fails; then none of them is watched.
    pub async fn watch_lines(&self, lines: &[WatchLine], now: Timestamp) -> Result<u64, StoreError> {
        self.run("watching messages", LONG, async |database| self.watch_lines_in(database, lines, now).await).await
    }

    async fn watch_lines_in(
        &self,
        connection: &mut StoreConnection,
        lines: &[WatchLine],
        now: Timestamp,
    ) -> Result<u64, sqlx::Error> {
        let groups: Vec<&str> = lines.iter().map(|line| line.group.as_str()).collect();
        self.watch_groups_of(connection, &groups).await?;
        let seqs: Vec<i64> = lines.iter().map(|line| i64::from(line.seq.get())).collect();
        let sent_at: Vec<Timestamp> = lines.iter().map(|line| line.sent_at.unwrap_or(now)).collect();
        let labels: Vec<Option<String>> = lines.iter().map(|line| line.labels.json()).collect();
        let watched: i64 = query_scalar(
            "SELECT receiptd.watch_keys(array_agg(g.group_key), array_agg(u.msg_seq), array_agg(u.sent_at),
                CASE WHEN $6 THEN array_agg(u.labels::jsonb) END)
             FROM unnest($2::text[], $3::bigint[], $4::timestamptz[], $5::text[]) AS u (group_id, msg_seq, sent_at, labels)
             JOIN receiptd.watched_groups g ON g.sdk_app_id = $1 AND g.group_id = u.group_id",
        )
        .bind(self.app())
        .bind(&groups)
        .bind(&seqs)
        .bind(&sent_at)
        .bind(&labels)
        .bind(labels.iter().any(Option::is_some))
        .fetch_one(&mut *connection)
        .await?;
        let added = i32::try_from(watched).unwrap_or(i32::MAX);
        let bounded = query("SELECT receiptd.refuse_full_app($1, $2)").bind(self.app()).bind(added);
        bounded.execute(connection).await?;
        Ok(watched.unsigned_abs())
    }

    async fn watch_groups_of(&self, connection: &mut StoreConnection, groups: &[&str]) -> Result<(), sqlx::Error> {
        query(
            "INSERT INTO receiptd.watched_groups (sdk_app_id, group_id)
             SELECT DISTINCT $1, u.group_id FROM unnest($2::text[]) AS u (group_id)
             WHERE NOT EXISTS (SELECT FROM receiptd.watched_groups g WHERE g.sdk_app_id = $1 AND g.group_id = u.group_id)
             ORDER BY 2 ON CONFLICT (sdk_app_id, group_id) DO NOTHING",
        )
        .bind(self.app())
        .bind(groups)
        .execute(connection)
        .await
        .map(drop)
    }

    /// Pauses a group. False if it is not active or quarantined.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn pause_group(&self, group: &GroupId) -> Result<bool, StoreError> {
        let pause = query_scalar("SELECT receiptd.pause_group($1, $2)").bind(self.app()).bind(group.to_string());
        self.call("pausing a group", pause).await
    }

    /// Resumes a group. False if it is not paused or quarantined.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn resume_group(&self, group: &GroupId) -> Result<bool, StoreError> {
        let resume = query_scalar("SELECT receiptd.resume_group($1, $2)").bind(self.app()).bind(group.to_string());
        self.call("resuming a group", resume).await
    }

    /// Stops watching these messages of a group; without messages, the group and all its messages. Returns how many
    /// messages were active.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn unwatch(&self, group: &GroupId, seqs: &[MsgSeq]) -> Result<i64, StoreError> {
        let numbers: Vec<i64> = seqs.iter().map(|seq| i64::from(seq.get())).collect();
        let unwatch = if seqs.is_empty() {
            query_scalar("SELECT receiptd.unwatch_group($1, $2)").bind(self.app()).bind(group.to_string())
        } else {
            let unwatch = query_scalar("SELECT receiptd.unwatch_messages($1, $2, $3)");
            unwatch.bind(self.app()).bind(group.to_string()).bind(numbers)
        };
        self.call("unwatching messages", unwatch).await
    }

    /// Calls a function that returns one value.
    async fn call<T>(
        &self,
        doing: &'static str,
        function: QueryScalar<'_, sqlx::Postgres, T, PgArguments>,
    ) -> Result<T, StoreError>
    where
        T: Send + Unpin,
        (T,): for<'row> sqlx::FromRow<'row, sqlx::postgres::PgRow>,
    {
        self.run(doing, LONG, async |database| function.fetch_one(database).await).await
    }

    /// The state of a group, if it is or was watched.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn group_state(&self, group: &GroupId) -> Result<Option<String>, StoreError> {
        let state =
            query_scalar("SELECT (SELECT state FROM receiptd.watched_groups WHERE sdk_app_id = $1 AND group_id = $2)");
        self.call("looking for a group", state.bind(self.app()).bind(group.to_string())).await
    }

    /// The next groups of this app by id, after `after`; removed ones only if `state` asks for them. Empty at the
    /// end.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn groups(&self, state: Option<&str>, after: Option<&str>) -> Result<Vec<WatchedGroup>, StoreError> {
        let groups = query_as(
            "SELECT g.group_id, g.state, g.state_reason, g.cadence, g.discovered_at, g.readers,
                count(m.msg_seq) FILTER (WHERE m.state = 'active') AS active,
                count(m.msg_seq) FILTER (WHERE m.state <> 'active') AS closed, coalesce(g.labels, 'null') AS labels
             FROM (
                SELECT * FROM receiptd.watched_groups g
                WHERE g.sdk_app_id = $1 AND CASE WHEN $2 IS NULL THEN g.state <> 'removed' ELSE g.state = $2 END
                    AND g.group_id > coalesce($3, '')
                ORDER BY g.group_id LIMIT $4
             ) g LEFT JOIN receiptd.watched_messages m USING (group_key)
             GROUP BY g.group_key, g.group_id, g.state, g.state_reason, g.cadence, g.labels, g.discovered_at, g.readers
             ORDER BY g.group_id",
        )
        .bind(self.app())
        .bind(state.map(str::to_owned))
        .bind(after.map(str::to_owned))
        .bind(PAGE);
        self.run("listing watched groups", LONG, async |database| groups.fetch_all(database).await).await
    }

    /// The next messages of a group by seq, after `after`. Empty at the end.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn messages(
        &self,
        group: &GroupId,
        state: Option<&str>,
        after: i64,
    ) -> Result<Vec<WatchedMessage>, StoreError> {
        let messages = query_as(
            "SELECT l.msg_seq, l.state, l.read_num, l.unread_num, l.receipt_code, l.sent_at, l.known_until, m.discovered_at,
                coalesce(l.labels, 'null') AS labels
             FROM receiptd.latest_receipts l
             JOIN receiptd.watched_messages m ON m.group_key = l.group_key AND m.msg_seq = l.msg_seq
             WHERE l.sdk_app_id = $1 AND l.group_id = $2 AND l.state = coalesce($3, l.state) AND l.msg_seq > $4
             ORDER BY l.msg_seq LIMIT $5",
        )
        .bind(self.app())
        .bind(group.to_string())
        .bind(state.map(str::to_owned))
        .bind(after)
        .bind(PAGE);
        self.run("listing the messages of a group", LONG, async |database| messages.fetch_all(database).await).await
    }
}
