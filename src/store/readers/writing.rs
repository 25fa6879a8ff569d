//! Stores results: readers once, and lists as they are. Nothing is stored about forgotten members, or in groups whose
//! readers have been turned off meanwhile.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::ListKey;
use crate::{
    domain::{Counts, Member, Timestamp},
    rules::{readers::Found, slot::GroupKey},
    store::{
        Store, StoreError,
        brief::{Brief, Rows},
        connection::StoreConnection,
        statement::{query, query_scalar},
        transaction::SHORT,
    },
};

/// The hash of a member in `forgotten_members`.
type MemberHash = [u8; 32];

/// Stores each reader once. A read becomes exact when an event reports its moment.
const READERS: &str = "
    INSERT INTO receiptd.message_readers AS r (group_key, msg_seq, member, read_after, read_by, source)
    SELECT u.group_key, u.msg_seq, u.member, u.read_after, u.read_by, $2
    FROM jsonb_to_recordset($1)
        AS u (group_key integer, msg_seq bigint, member text, read_after timestamptz, read_by timestamptz)
    JOIN receiptd.reader_lists l ON l.group_key = u.group_key AND l.msg_seq = u.msg_seq
    ON CONFLICT (group_key, msg_seq, member) DO UPDATE
        SET read_after = EXCLUDED.read_after, read_by = EXCLUDED.read_by, source = EXCLUDED.source
        WHERE r.source = 'poll' AND EXCLUDED.source = 'webhook' AND EXCLUDED.read_by <= r.read_by
            AND EXCLUDED.read_by >= coalesce(r.read_after, '-infinity')";

/// Readers who were reported since the question began are in its answer, and left out. Counts that have changed again
/// since then are due again, unless the answer has them.
const LISTS: &str = "
    UPDATE receiptd.reader_lists l
    SET asked_at = u.asked_at, known_until = u.known_until, read_num = u.read_num, unread_num = u.unread_num,
        not_read = ARRAY(SELECT m FROM unnest(u.not_read) AS m WHERE NOT EXISTS (SELECT FROM receiptd.message_readers r
            WHERE r.group_key = l.group_key AND r.msg_seq = l.msg_seq AND r.member = m)),
        gone = u.gone, retry_at = NULL, failures = 0,
        moved_at = CASE WHEN (l.moved_read, l.moved_unread) NOT IN ((u.moved_read, u.moved_unread), (u.read_num, u.unread_num))
            THEN l.moved_at END
    FROM jsonb_to_recordset($1) AS u (group_key integer, msg_seq bigint, asked_at timestamptz, known_until timestamptz,
        read_num integer, unread_num integer, moved_read integer, moved_unread integer, not_read text[], gone text[])
    WHERE l.group_key = u.group_key AND l.msg_seq = u.msg_seq";

const FAILED: &str = "
    UPDATE receiptd.reader_lists l
    SET failures = least(l.failures + 1, 1000), retry_at = u.retry_at,
        moved_at = CASE WHEN u.retry_at IS NOT NULL THEN l.moved_at END
    FROM unnest($1::integer[], $2::bigint[], $3::timestamptz[]) AS u (group_key, msg_seq, retry_at)
    WHERE l.group_key = u.group_key AND l.msg_seq = u.msg_seq";

/// The groups with readers on, locked so that they stay on until the end of the transaction.
const GROUPS: &str =
    "SELECT group_key FROM receiptd.watched_groups WHERE group_key = ANY ($1) AND readers ORDER BY group_key FOR SHARE";

/// The same without groups that another session has locked: events don't wait, so their readers are asked for.
const FREE_GROUPS: &str = "SELECT group_key FROM receiptd.watched_groups WHERE group_key = ANY ($1) AND readers
    ORDER BY group_key FOR SHARE SKIP LOCKED";

/// The results for a message.
#[derive(Debug)]
pub struct NewReaders {
    /// The message.
    pub key: ListKey,
    /// The counts for which its readers were asked for.
    pub because_of: Counts,
    /// Number of failures in a row before.
    pub failures: i16,
    /// When they were asked for.
    pub asked_at: Timestamp,
    /// The outcome.
    pub found: Found,
    /// The accounts behind pseudonyms, as hashes, by which a forgotten member is recognized.
    pub accounts: BTreeMap<Member, MemberHash>,
}

/// The outcome of asking for the readers of a message.
#[derive(Debug)]
pub enum Asked {
    /// They were found.
    Found(Box<NewReaders>),
    /// They were not found. They are asked for again at this time, or only if the counts change.
    Failed(ListKey, Option<Timestamp>),
}

/// A reader reported by an event.
#[derive(Debug, Clone)]
pub struct ToldReader {
    /// The message.
    pub key: ListKey,
    /// Its time of sending.
    pub sent_at: Timestamp,
    /// Who has read it, by account or pseudonym.
    pub member: Member,
    /// The account behind a pseudonym, as a hash.
    pub account: Option<MemberHash>,
    /// The moment of reading.
    pub at: Timestamp,
}

/// The hash of an account or pseudonym, as `receiptd.member_hash` computes it.
pub fn hash_of(name: &str) -> MemberHash {
    Sha256::digest(name).into()
}

impl Store {
    /// Stores the results of asking, in one transaction. Returns the number of new readers.
    ///
    /// # Errors
    /// If the database refuses it or fails, or the lease has passed to another process. Then nothing is stored.
    pub(super) async fn write_together(&self, asked: &[Asked]) -> Result<u64, StoreError> {
        let found: Vec<&NewReaders> = asked
            .iter()
            .filter_map(|asked| if let Asked::Found(found) = asked { Some(&**found) } else { None })
            .collect();
        let failed: Vec<(ListKey, Option<Timestamp>)> = asked
            .iter()
            .filter_map(|asked| if let Asked::Failed(key, retry_at) = asked { Some((*key, *retry_at)) } else { None })
            .collect();
        let groups: Vec<GroupKey> = failed.iter().map(|(key, _)| key.group_key).collect();
        let seqs: Vec<i64> = failed.iter().map(|(key, _)| i64::from(key.seq.get())).collect();
        let retry_at: Vec<Option<Timestamp>> = failed.iter().map(|(_, retry_at)| *retry_at).collect();
        let app = self.app();
        self.run_fenced("storing readers", SHORT, async |database| {
            let keys = found.iter().map(|new| new.key.group_key).collect();
            let members = found.iter().flat_map(|new| {
                let named = new
                    .found
                    .readers
                    .iter()
                    .map(|reader| &reader.member)
                    .chain(&new.found.not_read)
                    .chain(&new.found.gone);
                named.map(hash_member).chain(new.accounts.values().copied())
            });
            let allowed = Allowed::lock(database, GROUPS, app, keys, members.collect()).await?;
            let found = found.iter().filter(|new| allowed.groups.contains(&new.key.group_key));
            let (lists, readers): (Vec<Value>, Vec<Vec<Value>>) = found.map(|new| allowed.rows(new)).unzip();
            let readers: Vec<Value> = readers.into_iter().flatten().collect();
            let new =
                query(READERS).bind(Value::from(readers)).bind("poll").execute(&mut *database).await?.rows_affected();
            query(LISTS).bind(Value::from(lists)).execute(&mut *database).await?;
            query(FAILED).bind(&groups).bind(&seqs).bind(&retry_at).execute(database).await?;
            Ok(new)
        })
        .await
    }

    /// Stores readers reported by events, as far as their groups have readers on, and nothing if another session has
    /// locked something needed. Returns the number of reads that are new or more exact.
    ///
    /// # Errors
    /// If the database fails, or the lease has passed to another process. Then nothing is stored.
    pub async fn write_told_readers(&self, told: &[ToldReader]) -> Result<u64, StoreError> {
        let app = self.app();
        let write = async |database: &mut StoreConnection, _: &Rows| {
            let keys = told.iter().map(|told| told.key.group_key).collect();
            let members = told.iter().flat_map(|told| [hash_member(&told.member)].into_iter().chain(told.account));
            let allowed = Allowed::lock(database, FREE_GROUPS, app, keys, members.collect()).await?;
            let told: Vec<Value> = told
                .iter()
                .filter(|told| {
                    allowed.groups.contains(&told.key.group_key) && allowed.may_store(&told.member, told.account)
                })
                .map(|told| {
                    json!({
                        "group_key": told.key.group_key, "msg_seq": told.key.seq.get(), "member": told.member.as_str(),
                        "read_after": told.at, "read_by": told.at, "sent_at": told.sent_at,
                    })
                })
                .collect();
            if told.is_empty() {
                return Ok(0);
            }
            let told = Value::from(told);
            query(LISTS_OF_TOLD).bind(&told).execute(&mut *database).await?;
            let new = query(READERS).bind(&told).bind("webhook").execute(&mut *database).await?.rows_affected();
            query(NO_LONGER_UNREAD).bind(&told).execute(database).await?;
            Ok(new)
        };
        match self.run_briefly("storing readers reported by events", SHORT, None, write).await? {
            Brief::Done(new) => Ok(new),
            Brief::Held | Brief::Changed => Ok(0),
        }
    }
}

const LISTS_OF_TOLD: &str = "
    INSERT INTO receiptd.reader_lists (group_key, msg_seq, sent_at)
    SELECT DISTINCT ON (u.group_key, u.msg_seq) u.group_key, u.msg_seq, u.sent_at
    FROM jsonb_to_recordset($1) AS u (group_key integer, msg_seq bigint, sent_at timestamptz)
    ON CONFLICT (group_key, msg_seq) DO NOTHING";

/// Prevents another question for a message if the readers reported by events explain its counts.
const NO_LONGER_UNREAD: &str = "
    UPDATE receiptd.reader_lists l
    SET not_read = u.not_read, gone = u.gone, read_num = l.read_num + u.read, unread_num = l.unread_num - u.read,
        moved_at = CASE WHEN (l.moved_read, l.moved_unread) IS DISTINCT FROM (l.read_num + u.read, l.unread_num - u.read)
            THEN l.moved_at END
    FROM (
        SELECT l.group_key, l.msg_seq, kept.not_read, cardinality(l.not_read) - cardinality(kept.not_read) AS read,
            ARRAY(SELECT m FROM unnest(l.gone) AS m WHERE m <> ALL (told.members)) AS gone
        FROM (
            SELECT group_key, msg_seq, array_agg(member) AS members
            FROM jsonb_to_recordset($1) AS t (group_key integer, msg_seq bigint, member text) GROUP BY 1, 2
        ) told
        JOIN receiptd.reader_lists l ON l.group_key = told.group_key AND l.msg_seq = told.msg_seq
        CROSS JOIN LATERAL (
            SELECT ARRAY(SELECT m FROM unnest(l.not_read) AS m WHERE m <> ALL (told.members)) AS not_read
        ) kept
    ) u
    WHERE l.group_key = u.group_key AND l.msg_seq = u.msg_seq AND (l.not_read, l.gone) IS DISTINCT FROM (u.not_read, u.gone)";

fn hash_member(member: &Member) -> MemberHash {
    hash_of(member.as_str())
}

/// The results that may be stored, until the end of the transaction.
struct Allowed {
    /// The groups with readers on.
    groups: Vec<GroupKey>,
    /// The forgotten members.
    forgotten: Vec<Vec<u8>>,
}

impl Allowed {
    async fn lock(
        database: &mut StoreConnection,
        on: &'static str,
        app: i64,
        groups: Vec<GroupKey>,
        members: Vec<MemberHash>,
    ) -> Result<Self, sqlx::Error> {
        query("LOCK TABLE receiptd.forgotten_members IN ROW SHARE MODE").execute(&mut *database).await?;
        let groups = query_scalar(on).bind(groups).fetch_all(&mut *database).await?;
        let forgotten = query_scalar(
            "SELECT member_hash FROM receiptd.forgotten_members WHERE sdk_app_id = $1 AND member_hash = ANY ($2)",
        );
        let members: Vec<&[u8]> = members.iter().map(<[u8; 32]>::as_slice).collect();
        let forgotten = forgotten.bind(app).bind(members).fetch_all(database).await?;
        Ok(Self { groups, forgotten })
    }

    fn may_store(&self, member: &Member, account: Option<MemberHash>) -> bool {
        let is_forgotten = |hash: MemberHash| self.forgotten.iter().any(|forgotten| forgotten[..] == hash);
        self.forgotten.is_empty() || !is_forgotten(hash_member(member)) && !account.is_some_and(is_forgotten)
    }

    /// The row of a list, and the rows of its new readers.
    fn rows(&self, new: &NewReaders) -> (Value, Vec<Value>) {
        let NewReaders { key, because_of, asked_at, found, accounts, .. } = new;
        let may_store = |member: &&Member| self.may_store(member, accounts.get(member).copied());
        let names = |members: &std::collections::BTreeSet<Member>| -> Vec<String> {
            members.iter().filter(may_store).map(|member| member.as_str().to_owned()).collect()
        };
        let list = json!({
            "group_key": key.group_key, "msg_seq": key.seq.get(), "asked_at": asked_at, "known_until": found.until,
            "read_num": found.counts.read(), "unread_num": found.counts.unread(),
            "moved_read": because_of.read(), "moved_unread": because_of.unread(),
            "not_read": names(&found.not_read), "gone": names(&found.gone),
        });
        let readers = found.readers.iter().filter(|reader| may_store(&&reader.member)).map(|reader| {
            json!({
                "group_key": key.group_key, "msg_seq": key.seq.get(), "member": reader.member.as_str(),
                "read_after": reader.after, "read_by": reader.by,
            })
        });
        (list, readers.collect())
    }
}
