//! Readers: the messages whose readers are due to be asked for, and the results. Personal data of members is only read
//! and written here, and only for groups with readers on.
//!
//! A statement that writes members locks the list of forgotten ones and the groups first, and checks both afterwards: see
//! `migrations/0008_readers.sql`.

mod members;
mod moves;
mod refused;
mod writing;

use std::collections::BTreeSet;

use chrono::TimeDelta;
use sqlx::{FromRow, Row, postgres::PgRow};

pub(super) use self::moves::write_moves;
pub use self::{
    members::MemberMessage,
    refused::{RefusedList, Written},
    writing::{Asked, NewReaders, ToldReader, hash_of},
};
use super::{
    Store, StoreError,
    statement::{query, query_as, query_scalar},
    transaction::SHORT,
};
use crate::{
    domain::{Counts, GroupId, Member, MsgSeq, Timestamp},
    rules::{readers::Known, slot::GroupKey},
};

/// Lists that are due: $1 is the app, $2 the time before which a message is too old, $3 now, and $4 the time since
/// which a message must not have been asked for.
macro_rules! due {
    () => {
        "FROM receiptd.reader_lists l JOIN receiptd.watched_groups g ON g.group_key = l.group_key
         WHERE l.moved_at IS NOT NULL AND g.sdk_app_id = $1 AND g.readers AND g.state = 'active' AND l.sent_at >= $2
            AND coalesce(l.retry_at, '-infinity') <= $3 AND coalesce(l.asked_at, '-infinity') <= $4"
    };
}

/// Maximum number of groups whose readers are taken from events. Readers of other groups are only asked for.
const MOST_GROUPS: i64 = 100_000;

/// A message of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ListKey {
    /// The group.
    pub group_key: GroupKey,
    /// The message.
    pub seq: MsgSeq,
}

/// A message whose readers are due.
#[derive(Debug, Clone)]
pub struct DueList {
    /// The message.
    pub key: ListKey,
    /// Its group.
    pub group_id: GroupId,
    /// The known readers.
    pub known: Known,
    /// The counts that made it due.
    pub counts: Counts,
    /// Number of failures in a row.
    pub failures: i16,
}

/// The limits on which messages may be asked for.
#[derive(Debug, Clone, Copy)]
pub struct AskingLimits {
    /// Minimum time between two questions for the readers of a message.
    pub every: TimeDelta,
    /// How long a message's readers are kept after its sending; `None` keeps them forever.
    pub kept: Option<TimeDelta>,
}

impl AskingLimits {
    /// The time before which a message is too old, and the one since which it must not have been asked for.
    fn at(self, now: Timestamp) -> (Timestamp, Timestamp) {
        let before = |span| now.checked_sub_signed(span).unwrap_or(Timestamp::MIN_UTC);
        (self.kept.map_or(Timestamp::UNIX_EPOCH, before), before(self.every))
    }
}

/// The lists that are due and have not been asked for yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Behind {
    /// Their number.
    pub lists: i64,
    /// Time since which the first of them is due.
    pub since: Option<Timestamp>,
}

impl Store {
    /// At most `most` messages whose readers are due and that are not in `busy`, the least recently asked first.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn due_readers(
        &self,
        limits: AskingLimits,
        busy: &[ListKey],
        most: usize,
    ) -> Result<Vec<DueList>, StoreError> {
        let now = self.clock.now();
        let (kept_from, asked_before) = limits.at(now);
        let lists = query_as::<DueList>(concat!(
            "SELECT l.group_key, l.msg_seq, g.group_id, l.known_until, l.read_num, l.unread_num, l.not_read, l.gone,
                l.moved_read, l.moved_unread, l.failures, ARRAY(SELECT r.member FROM receiptd.message_readers r
                    WHERE r.group_key = l.group_key AND r.msg_seq = l.msg_seq) AS readers ",
            due!(),
            " AND NOT EXISTS (SELECT FROM unnest($5::integer[], $6::bigint[]) AS u (group_key, msg_seq)
                WHERE u.group_key = l.group_key AND u.msg_seq = l.msg_seq)
              ORDER BY l.asked_at NULLS FIRST LIMIT $7"
        ));
        let lists = lists
            .bind(self.app())
            .bind(kept_from)
            .bind(now)
            .bind(asked_before)
            .bind(busy.iter().map(|key| key.group_key).collect::<Vec<_>>())
            .bind(busy.iter().map(|key| i64::from(key.seq.get())).collect::<Vec<_>>())
            .bind(i64::try_from(most).unwrap_or(i64::MAX));
        self.run("looking for readers to ask for", SHORT, async |database| lists.fetch_all(database).await).await
    }

    /// The groups of the app with readers on, up to a maximum number.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn groups_with_readers(&self) -> Result<Vec<GroupId>, StoreError> {
        let groups = query_scalar::<String>(
            "SELECT group_id FROM receiptd.watched_groups WHERE sdk_app_id = $1 AND readers AND state = 'active' LIMIT $2",
        );
        let groups = groups.bind(self.app()).bind(MOST_GROUPS);
        let doing = "looking up which groups have readers on";
        let groups = self.run(doing, SHORT, async |database| groups.fetch_all(database).await).await?;
        Ok(groups.iter().filter_map(|group| group.parse().ok()).collect())
    }

    /// Whether members of the app are stored by this naming. If no naming is in use yet, this one is from now on.
    ///
    /// # Errors
    /// If the database fails, or the lease has passed to another process.
    pub async fn names_members(&self, naming: &str) -> Result<bool, StoreError> {
        const STORED: &str = "SELECT EXISTS (SELECT FROM receiptd.member_naming WHERE sdk_app_id = $1 AND naming = $2)";
        const CHANGE: &str = "
            INSERT INTO receiptd.member_naming AS n (sdk_app_id, naming) VALUES ($1, $2)
            ON CONFLICT (sdk_app_id) DO UPDATE SET naming = EXCLUDED.naming WHERE NOT EXISTS (
                SELECT FROM receiptd.reader_lists l JOIN receiptd.watched_groups g ON g.group_key = l.group_key
                WHERE g.sdk_app_id = $1 AND (l.not_read <> '{}' OR l.gone <> '{}' OR EXISTS (
                    SELECT FROM receiptd.message_readers r WHERE r.group_key = l.group_key AND r.msg_seq = l.msg_seq)))";
        let app = self.app();
        let is_stored = || query_scalar::<bool>(STORED).bind(app).bind(naming.to_owned());
        self.run_fenced("comparing how members are named", SHORT, async |database| {
            if is_stored().fetch_one(&mut *database).await? {
                return Ok(true);
            }
            query(CHANGE).bind(app).bind(naming.to_owned()).execute(&mut *database).await?;
            is_stored().fetch_one(database).await
        })
        .await
    }

    /// The lists that are due.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn readers_behind(&self, limits: AskingLimits) -> Result<Behind, StoreError> {
        let now = self.clock.now();
        let (kept_from, asked_before) = limits.at(now);
        let behind = query_as::<(i64, Option<Timestamp>)>(concat!(
            "SELECT count(*), min(greatest(l.moved_at, l.asked_at + ($3 - $4), l.retry_at)) ",
            due!()
        ));
        let behind = behind.bind(self.app()).bind(kept_from).bind(now).bind(asked_before);
        let doing = "counting readers to ask for";
        let (lists, since) = self.run(doing, SHORT, async |database| behind.fetch_one(database).await).await?;
        Ok(Behind { lists, since })
    }
}

impl FromRow<'_, PgRow> for DueList {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        let seq = MsgSeq::try_from(row.try_get::<i64, _>("msg_seq")?);
        let group_id = row.try_get::<&str, _>("group_id")?.parse();
        let counts = |read: &str, unread: &str| {
            let counts = row.try_get::<Option<i32>, _>(read)?.zip(row.try_get::<Option<i32>, _>(unread)?);
            Ok::<_, sqlx::Error>(counts.and_then(|(read, unread)| Counts::new(read.into(), unread.into())))
        };
        let members = |column: &str| {
            let names: Vec<String> = row.try_get(column)?;
            Ok::<BTreeSet<Member>, sqlx::Error>(names.iter().filter_map(|name| Member::new(name)).collect())
        };
        let damaged = |error| sqlx::Error::Decode(Box::new(error));
        Ok(Self {
            key: ListKey { group_key: row.try_get("group_key")?, seq: seq.map_err(damaged)? },
            group_id: group_id.map_err(damaged)?,
            known: Known {
                readers: members("readers")?,
                not_read: members("not_read")?,
                gone: members("gone")?,
                until: row.try_get("known_until")?,
                counts: counts("read_num", "unread_num")?,
            },
            counts: counts("moved_read", "moved_unread")?.ok_or(sqlx::Error::RowNotFound)?,
            failures: row.try_get("failures")?,
        })
    }
}
