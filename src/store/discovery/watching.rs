//! Watching what was found. The one place for messages of lists, histories and webhooks alike.

use std::collections::HashMap;

use super::{LONG, RefusedGroup, SHORT, Store, StoreConnection, StoreError, query, query_as, query_scalar, texts};
use crate::{
    domain::{GroupId, GroupType, MsgSeq, Timestamp},
    rules::discovery::{Found, Passed, Pattern, Share, polls_before},
    store::brief::{Brief, Halves},
};

/// The names of the limits that `receiptd.refuse_full_app` keeps.
const LIMITS: [&str; 2] = ["limits.groups", "limits.messages"];

/// Number of passed messages whose reasons are kept.
const KEPT_PASSED: usize = 50;

/// What was read of a group.
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

/// The result of watching.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Watching {
    /// The groups whose reading is stored, with the number of messages that are watched since.
    pub stored: Vec<(GroupId, u64)>,
    /// The groups that the tables refuse.
    pub refused: Vec<RefusedGroup>,
    /// Number of messages passed over, by reason.
    pub passed: HashMap<Passed, u64>,
}

/// The facts that decide about a group's messages.
#[derive(Debug, Clone, Default, sqlx::FromRow)]
pub(super) struct Counts {
    group_id: String,
    active: i64,
    with_receipt: i64,
    without_receipt: i64,
    is_removed: bool,
}

/// How groups are added, and limits on their messages.
#[derive(Debug, Clone, Copy)]
pub struct Room<'a> {
    /// Name of the cadence for groups that are added.
    pub cadence: Option<&'a str>,
    /// Readers are turned on in groups that are added and match one of these.
    pub readers: &'a [Pattern],
    /// Number of messages that may be added to the app.
    pub messages: i64,
    /// Maximum number of active messages of a group.
    pub messages_per_group: i64,
}

impl Store {
    /// Watches what was found in groups, and stores how far they are read. Messages that are or were watched are left
    /// alone, and so are groups that their owner has removed. Groups that another session has locked are left out, and
    /// so are those that the tables refuse.
    ///
    /// # Errors
    /// If the database fails, and not only for some of the groups. What was stored before stays.
    pub async fn watch_discovered(&self, reads: Vec<GroupRead>, room: Room<'_>) -> Result<Watching, StoreError> {
        let (mut watching, mut refusal) = (Watching::default(), None);
        let mut left = room.messages;
        let mut halves = Halves::of(reads);
        while let Some(mut part) = halves.take() {
            let counts = self.counts_of(&part).await?;
            part.iter_mut()
                .for_each(|read| pass_over(read, counts.get(read.group.as_str()), Room { messages: left, ..room }));
            match self.watch_together(&mut part, room, &counts).await {
                Ok(Brief::Done(watched)) => {
                    left -= watched.values().sum::<i64>();
                    watching.add(&part, &watched);
                }
                Ok(Brief::Held | Brief::Changed) => halves.failed(part),
                // The app has as many messages or groups as it may have.
                Err(StoreError::Failed { source, .. }) if left > 0 && is_limit(&source) => {
                    left = 0;
                    halves.again(part);
                }
                Err(error) if !error.may_be_of_rows() => return Err(error),
                Err(error) if part.len() == 1 => {
                    watching.refused.extend(part.into_iter().map(|read| RefusedGroup::of(read.group, &error)));
                    refusal = Some(error);
                }
                Err(_) => halves.failed(part),
            }
        }
        match refusal.filter(|error| watching.stored.is_empty() && !error.is_refusal()) {
            // It is not about a group.
            Some(error) => Err(error),
            None => Ok(watching),
        }
    }

    /// Stores the readings of groups in one transaction. Of a single group, messages that are refused are passed over.
    async fn watch_together(
        &self,
        part: &mut [GroupRead],
        room: Room<'_>,
        counts: &HashMap<String, Counts>,
    ) -> Result<Brief<HashMap<String, i64>>, StoreError> {
        const DOING: &str = "watching discovered messages";
        let watched = self
            .run_briefly(DOING, SHORT, None, async |database, _| watch(database, self.app(), room, part, counts).await);
        match (watched.await, part) {
            (Err(error), [read]) if error.may_be_of_rows() && read.found.len() > 1 => {
                self.watch_apart(DOING, read, room, counts).await
            }
            (watched, _) => watched,
        }
    }

    /// Number of discovered messages of the app that are polled.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn count_discovered(&self) -> Result<i64, StoreError> {
        let count = query_scalar(
            "SELECT count(*) FROM receiptd.watched_messages m JOIN receiptd.watched_groups g USING (group_key)
             WHERE g.sdk_app_id = $1 AND m.state = 'active' AND m.discovered_at IS NOT NULL",
        )
        .bind(self.app());
        self.run("counting discovered messages", LONG, async |database| count.fetch_one(database).await).await
    }

    async fn counts_of(&self, reads: &[GroupRead]) -> Result<HashMap<String, Counts>, StoreError> {
        let groups: Vec<GroupId> =
            reads.iter().filter(|read| !read.found.is_empty()).map(|read| read.group.clone()).collect();
        if groups.is_empty() {
            return Ok(HashMap::new());
        }
        // Codes of active messages are in their slots.
        let counts = query_as::<Counts>(
            "SELECT g.group_id, g.state = 'removed' AS is_removed,
                (SELECT count(*) FROM receiptd.watched_messages m
                 WHERE m.group_key = g.group_key AND m.state = 'active' AND m.discovered_at IS NOT NULL) AS active,
                latest.with_receipt, latest.without_receipt
             FROM receiptd.watched_groups g CROSS JOIN LATERAL (
                SELECT count(*) FILTER (WHERE coalesce(e.code, m.receipt_code) = 0) AS with_receipt,
                    count(*) FILTER (WHERE coalesce(e.code, m.receipt_code) IN (10061, 10062)) AS without_receipt
                FROM (
                    SELECT * FROM receiptd.watched_messages m
                    WHERE m.group_key = g.group_key AND m.discovered_at IS NOT NULL ORDER BY m.msg_seq DESC LIMIT 100
                ) m
                LEFT JOIN receiptd.slot_messages e
                    ON e.group_key = m.group_key AND e.slot_id = m.slot_id AND e.msg_seq = m.msg_seq
             ) latest
             WHERE g.sdk_app_id = $1 AND g.group_id = ANY ($2)",
        )
        .bind(self.app())
        .bind(texts(&groups));
        let counts = self.run("counting messages of groups", SHORT, async |database| counts.fetch_all(database).await);
        Ok(counts.await?.into_iter().map(|counts| (counts.group_id.clone(), counts)).collect())
    }
}

/// What became of a group's reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is stored.
    Stored,
    /// The tables refuse it.
    Refused,
    /// Its group was locked, or the database failed.
    NotStored,
}

impl Watching {
    /// What became of a group.
    pub fn of(&self, group: &GroupId) -> Outcome {
        if self.stored.iter().any(|(stored, _)| stored == group) {
            Outcome::Stored
        } else if self.refused.iter().any(|refused| refused.group == *group) {
            Outcome::Refused
        } else {
            Outcome::NotStored
        }
    }

    fn add(&mut self, reads: &[GroupRead], watched: &HashMap<String, i64>) {
        for read in reads {
            let number = watched.get(read.group.as_str()).copied().unwrap_or_default();
            self.stored.push((read.group.clone(), number.unsigned_abs()));
            read.passed.iter().for_each(|(_, why)| *self.passed.entry(*why).or_default() += 1);
        }
    }
}

pub(super) fn is_limit(error: &sqlx::Error) -> bool {
    let limit = error.as_database_error().and_then(|error| error.constraint());
    limit.is_some_and(|limit| LIMITS.contains(&limit))
}

/// Takes out the messages that may not be watched. The newest come first, and are the most worth watching.
fn pass_over(read: &mut GroupRead, counts: Option<&Counts>, room: Room<'_>) {
    let active = counts.map_or(0, |counts| counts.active);
    let most = (room.messages_per_group - active).min(room.messages).max(0);
    let (most, why) = match counts {
        Some(counts) if counts.is_removed => (0, Passed::Removed),
        _ => (usize::try_from(most).unwrap_or(usize::MAX), Passed::Bound),
    };
    let over = read.found.split_off(most.min(read.found.len()));
    read.passed.extend(over.iter().map(|found| (found.seq, why)));
}

/// Returns the number of watched messages by group.
async fn watch(
    connection: &mut StoreConnection,
    app: i64,
    room: Room<'_>,
    reads: &[GroupRead],
    counts: &HashMap<String, Counts>,
) -> Result<HashMap<String, i64>, sqlx::Error> {
    let mut watched = HashMap::new();
    if reads.iter().any(|read| !read.found.is_empty()) {
        add_groups(connection, app, room, reads).await?;
        watched = add_messages(connection, app, reads, counts).await?;
    }
    store_cursors(connection, app, reads, counts, &watched).await?;
    Ok(watched)
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
