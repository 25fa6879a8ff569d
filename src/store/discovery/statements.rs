//! The statements that watch discovered messages.

use std::collections::HashMap;

use super::{StoreConnection, query, query_as};
use crate::{
    domain::{GroupId, GroupType, MsgSeq, Timestamp},
    rules::discovery::{Found, Passed, Pattern, Share, polls_before},
};

/// A limit that `receiptd.refuse_full_app` keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Limit {
    Groups,
    Messages,
}

/// Number of passed messages whose reasons are kept.
const KEPT_PASSED: usize = 50;

/// The result of reading a group.
#[derive(Debug, Clone)]
pub struct GroupRead {
    /// The group.
    pub group: GroupId,
    /// Its type, if known.
    pub group_type: Option<GroupType>,
    /// The next cursor; `None` leaves it.
    pub next_seq: Option<u32>,
    /// Time of its latest message, if known.
    pub last_message_at: Option<Timestamp>,
    /// The messages to watch.
    pub found: Vec<Found>,
    /// The messages to pass over, with the reason.
    pub passed: Vec<(MsgSeq, Passed)>,
    /// The code that the group was refused with.
    pub refused_code: Option<i32>,
}

/// The facts that decide which of a group's messages are watched.
#[derive(Debug, Clone, Default, sqlx::FromRow)]
pub(super) struct Counts {
    pub group_id: String,
    pub active: i64,
    pub with_receipt: i64,
    pub without_receipt: i64,
    pub is_removed: bool,
}

/// How groups are added, and the limits on their messages.
#[derive(Debug, Clone, Copy)]
pub struct Room<'a> {
    /// Name of the cadence for groups that are added.
    pub cadence: Option<&'a str>,
    /// Patterns of groups whose readers are turned on when they are added.
    pub readers: &'a [Pattern],
    /// Whether groups may be added to the app.
    pub groups: bool,
    /// Number of messages that may be added to the app.
    pub messages: i64,
    /// Maximum number of active messages of a group.
    pub messages_per_group: i64,
}

/// The limit of the app that was reached, if that is the error.
pub(super) fn limit(error: &sqlx::Error) -> Option<Limit> {
    match error.as_database_error()?.constraint()? {
        "limits.groups" => Some(Limit::Groups),
        "limits.messages" => Some(Limit::Messages),
        _ => None,
    }
}

pub(super) fn texts(groups: &[GroupId]) -> Vec<String> {
    groups.iter().map(ToString::to_string).collect()
}

pub(super) async fn add_groups(
    connection: &mut StoreConnection,
    app: i64,
    room: Room<'_>,
    reads: &[GroupRead],
) -> Result<(), sqlx::Error> {
    let found = || reads.iter().filter(|read| !read.found.is_empty());
    query(
        "INSERT INTO receiptd.watched_groups (sdk_app_id, group_id, group_type, cadence, readers, discovered_at)
         SELECT $1, u.group_id, u.group_type, $4, u.readers, now()
         FROM unnest($2::text[], $3::text[], $5::boolean[]) AS u (group_id, group_type, readers)
         WHERE NOT EXISTS (SELECT FROM receiptd.watched_groups g WHERE g.sdk_app_id = $1 AND g.group_id = u.group_id)
         ORDER BY u.group_id ON CONFLICT (sdk_app_id, group_id) DO NOTHING",
    )
    .bind(app)
    .bind(found().map(|read| read.group.to_string()).collect::<Vec<_>>())
    .bind(found().map(|read| read.group_type.map(GroupType::as_str)).collect::<Vec<_>>())
    .bind(room.cadence.map(str::to_owned))
    .bind(found().map(|read| Pattern::any_matches(room.readers, &read.group)).collect::<Vec<_>>())
    .execute(connection)
    .await
    .map(drop)
}

pub(super) async fn add_messages(
    connection: &mut StoreConnection,
    app: i64,
    reads: &[GroupRead],
    counts: &HashMap<String, Counts>,
) -> Result<HashMap<String, i64>, sqlx::Error> {
    let (mut groups, mut seqs, mut sent_at, mut polls) = (vec![], vec![], vec![], vec![]);
    for read in reads {
        let share = counts
            .get(read.group.as_str())
            .map(|counts| Share { with: counts.with_receipt, without: counts.without_receipt });
        for found in &read.found {
            groups.push(found.group.as_str());
            seqs.push(i64::from(found.seq.get()));
            sent_at.push(found.sent_at);
            polls.push(polls_before(share.unwrap_or_default()));
        }
    }
    let watched: Vec<(String, i64)> = query_as(
        "WITH given AS (
            SELECT g.group_id, g.group_key, u.msg_seq, u.sent_at, u.polls
            FROM unnest($2::text[], $3::bigint[], $4::timestamptz[], $5::smallint[]) AS u (group_id, msg_seq, sent_at, polls)
            JOIN receiptd.watched_groups g ON g.sdk_app_id = $1 AND g.group_id = u.group_id
         )
         SELECT group_id, receiptd.watch_keys(array_agg(group_key), array_agg(msg_seq), array_agg(sent_at), NULL,
            array_agg(polls))
         FROM given GROUP BY group_id ORDER BY group_id",
    )
    .bind(app)
    .bind(groups)
    .bind(seqs)
    .bind(sent_at)
    .bind(polls)
    .fetch_all(&mut *connection)
    .await?;
    let total: i64 = watched.iter().map(|(_, watched)| watched).sum();
    let bounded =
        query("SELECT receiptd.refuse_full_app($1, $2)").bind(app).bind(i32::try_from(total).unwrap_or(i32::MAX));
    bounded.execute(connection).await?;
    Ok(watched.into_iter().collect())
}

pub(super) async fn store_cursors(
    connection: &mut StoreConnection,
    app: i64,
    reads: &[GroupRead],
    counts: &HashMap<String, Counts>,
    watched: &HashMap<String, i64>,
) -> Result<(), sqlx::Error> {
    let passed = |read: &GroupRead| {
        let entry = |(seq, why): &(MsgSeq, Passed)| serde_json::json!({"seq": seq.get(), "why": why.name()});
        serde_json::Value::from_iter(read.passed.iter().take(KEPT_PASSED).map(entry)).to_string()
    };
    let each = |of: fn(&Counts) -> i64| {
        reads.iter().map(|read| counts.get(read.group.as_str()).map(of)).collect::<Vec<Option<i64>>>()
    };
    query(
        "UPDATE receiptd.discovered_groups d SET group_type = coalesce(u.group_type, d.group_type),
            next_seq = greatest(d.next_seq, u.next_seq), last_message_at = greatest(d.last_message_at, u.last_message_at),
            refused_code = u.refused_code, watched = d.watched + u.watched, passed = d.passed + u.passed,
            with_receipt = coalesce(u.with_receipt, d.with_receipt),
            without_receipt = coalesce(u.without_receipt, d.without_receipt),
            passed_seqs = (ARRAY(SELECT (e ->> 'seq')::bigint FROM jsonb_array_elements(u.latest::jsonb) e) || d.passed_seqs)[:50],
            passed_reasons = (ARRAY(SELECT e ->> 'why' FROM jsonb_array_elements(u.latest::jsonb) e) || d.passed_reasons)[:50]
         FROM unnest($2::text[], $3::text[], $4::bigint[], $5::timestamptz[], $6::integer[], $7::bigint[], $8::bigint[],
            $9::bigint[], $10::bigint[], $11::text[])
            AS u (group_id, group_type, next_seq, last_message_at, refused_code, watched, passed, with_receipt,
                without_receipt, latest)
         WHERE d.sdk_app_id = $1 AND d.group_id = u.group_id",
    )
    .bind(app)
    .bind(reads.iter().map(|read| read.group.to_string()).collect::<Vec<_>>())
    .bind(reads.iter().map(|read| read.group_type.map(GroupType::as_str)).collect::<Vec<_>>())
    .bind(reads.iter().map(|read| read.next_seq.map(i64::from)).collect::<Vec<_>>())
    .bind(reads.iter().map(|read| read.last_message_at).collect::<Vec<_>>())
    .bind(reads.iter().map(|read| read.refused_code).collect::<Vec<_>>())
    .bind(reads.iter().map(|read| watched.get(read.group.as_str()).copied().unwrap_or_default()).collect::<Vec<_>>())
    .bind(reads.iter().map(|read| i64::try_from(read.passed.len()).unwrap_or(i64::MAX)).collect::<Vec<_>>())
    .bind(each(|counts| counts.with_receipt))
    .bind(each(|counts| counts.without_receipt))
    .bind(reads.iter().map(passed).collect::<Vec<_>>())
    .execute(connection)
    .await
    .map(drop)
}
