//! Messages of the last weeks and when they were read, for trying another cadence on them.

use super::{Store, StoreError, statement::query_as, transaction::LONG};
use crate::{domain::Timestamp, rules::slot::GroupKey};

/// Groups are taken until they have this number of messages, …
const MESSAGES: i64 = 2_000;

/// … of which a single group may bring at most this many.
const MOST: i64 = 4_000;

/// A change of the read count of a message. Rows of a message follow one another, by rising time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PastRead {
    /// The group.
    pub group_key: GroupKey,
    /// The number of the message within its group.
    pub msg_seq: i64,
    /// When the message was sent.
    pub sent_at: Timestamp,
    /// When the lower count was last seen.
    pub after: Option<Timestamp>,
    /// When the higher count was first seen.
    pub by: Timestamp,
    /// The lower count.
    pub read_before: i32,
    /// The higher count.
    pub read: i32,
    /// The members who had not read it then.
    pub unread: i32,
}

/// Groups by the cadence that they name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GroupsWith<'a> {
    /// This one.
    Cadence(&'a str),
    /// None of these, so that they use the default.
    NoneOf(Vec<&'a str>),
}

impl Store {
    /// The reads of some messages of this app that were sent within 14 days: all messages of some of these groups, by
    /// chance and always the same.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn past_reads(&self, of: &GroupsWith<'_>) -> Result<Vec<PastRead>, StoreError> {
        let (names, are_named) = match of {
            GroupsWith::Cadence(name) => (vec![(*name).to_owned()], true),
            GroupsWith::NoneOf(names) => (names.iter().map(|name| (*name).to_owned()).collect(), false),
        };
        type Row = (GroupKey, i64, Timestamp, Option<Timestamp>, Timestamp, i32, i32, i32);
        let reads = query_as::<Row>(
            "WITH groups AS (
                SELECT group_key, count(*) AS messages
                FROM receiptd.watched_messages JOIN receiptd.watched_groups g USING (group_key)
                WHERE sdk_app_id = $1 AND sent_at > now() - interval '14 days' AND coalesce(cadence = ANY ($2), false) = $5
                GROUP BY group_key
             ), chosen AS (
                SELECT group_key FROM (
                    SELECT group_key, messages, sum(messages) OVER (ORDER BY md5(group_key::text), group_key) AS until FROM groups
                ) running WHERE until - messages < $3
             ), messages AS (
                SELECT group_key, msg_seq, sent_at FROM chosen JOIN receiptd.watched_messages USING (group_key)
                WHERE sent_at > now() - interval '14 days' ORDER BY group_key, msg_seq LIMIT $4
             )
             SELECT group_key, msg_seq, sent_at, prior_polled_at, polled_at, coalesce(prior_read_num, 0), read_num, unread_num
             FROM messages JOIN receiptd.receipt_snapshots USING (group_key, msg_seq)
             WHERE polled_at > now() - interval '14 days' AND read_num IS NOT NULL
             ORDER BY group_key, msg_seq, polled_at",
        )
        .bind(self.app())
        .bind(names)
        .bind(MESSAGES)
        .bind(MOST)
        .bind(are_named);
        let rows = self.run("reading past reads", LONG, async |database| reads.fetch_all(database).await).await?;
        let read = |(group_key, msg_seq, sent_at, after, by, read_before, read, unread)| PastRead {
            group_key,
            msg_seq,
            sent_at,
            after,
            by,
            read_before,
            read,
            unread,
        };
        Ok(rows.into_iter().map(read).collect())
    }
}
