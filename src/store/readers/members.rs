//! Operators' tasks concerning readers: switching them on and off, exporting and forgetting a member.

use sqlx::FromRow;

use crate::{
    domain::{GroupId, Member, Timestamp},
    store::{
        Store, StoreError,
        statement::{query_as, query_scalar},
        transaction::{LONG, SHORT},
    },
};

/// A message in which a member is named.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct MemberMessage {
    /// The group.
    pub group_id: String,
    /// The message.
    pub msg_seq: i64,
    /// Its time of sending.
    pub sent_at: Timestamp,
    /// `read`, `not_read` or `left`. A member who left the group was never seen to read the message.
    pub outcome: String,
    /// The member had not read it at this time.
    pub read_after: Option<Timestamp>,
    /// The member had read it by this time.
    pub read_by: Option<Timestamp>,
    /// The source of the read.
    pub source: Option<String>,
}

impl Store {
    /// Turns the readers of a watched group on or off. Returns the number of reads stored for it; `None` if the group
    /// is not watched.
    ///
    /// # Errors
    /// If the database refuses or fails.
    pub async fn set_readers(&self, group: &GroupId, on: bool) -> Result<Option<u64>, StoreError> {
        let set = query_scalar::<i32>(
            "UPDATE receiptd.watched_groups SET readers = $3 WHERE sdk_app_id = $1 AND group_id = $2 RETURNING group_key",
        );
        let set = set.bind(self.app()).bind(group.to_string()).bind(on);
        let key =
            self.run("changing the readers of a group", LONG, async |database| set.fetch_optional(database).await);
        let Some(key) = key.await? else { return Ok(None) };
        let stored =
            query_scalar::<i64>("SELECT count(*) FROM receiptd.message_readers WHERE group_key = $1").bind(key);
        let stored = self.run("counting stored reads", SHORT, async |database| stored.fetch_one(database).await);
        stored.await.map(|stored| Some(stored.unsigned_abs()))
    }

    /// Erases everything stored about the members of a group. Returns the number of reads.
    ///
    /// # Errors
    /// If the database refuses or fails; then nothing is erased.
    pub async fn erase_readers(&self, group: &GroupId) -> Result<u64, StoreError> {
        let erase = query_scalar::<i64>("SELECT receiptd.erase_readers($1, $2)");
        let erase = erase.bind(self.app()).bind(group.to_string());
        let erased = self.run("erasing the readers of a group", LONG, async |database| erase.fetch_one(database).await);
        erased.await.map(i64::unsigned_abs)
    }

    /// Erases a member, and excludes it in the future. Returns the number of messages that named it.
    ///
    /// # Errors
    /// If the database refuses or fails; then nothing is erased.
    pub async fn forget_member(&self, member: &Member) -> Result<u64, StoreError> {
        let forget = query_scalar::<i64>("SELECT receiptd.forget_member($1, $2)");
        let forget = forget.bind(self.app()).bind(member.as_str());
        let erased = self.run("forgetting a member", LONG, async |database| forget.fetch_one(database).await);
        erased.await.map(i64::unsigned_abs)
    }

    /// All messages in which a member is named, by any of these names.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn messages_of_member(&self, names: &[Member]) -> Result<Vec<MemberMessage>, StoreError> {
        let messages = query_as::<MemberMessage>(
            "SELECT group_id, msg_seq, sent_at, 'read' AS outcome, read_after, read_by, source
             FROM receiptd.member_reads WHERE sdk_app_id = $1 AND member = ANY ($2)
             UNION ALL
             SELECT group_id, msg_seq, sent_at, CASE WHEN has_left THEN 'left' ELSE 'not_read' END, known_until, NULL, NULL
             FROM receiptd.members_not_read WHERE sdk_app_id = $1 AND member = ANY ($2)
             ORDER BY 1, 2",
        );
        let names: Vec<&str> = names.iter().map(Member::as_str).collect();
        let messages = messages.bind(self.app()).bind(names);
        self.run("collecting the data about a member", LONG, async |database| messages.fetch_all(database).await).await
    }
}
