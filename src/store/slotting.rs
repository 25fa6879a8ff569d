//! Assigning new messages to slots, and splitting slots that are larger than a batch.
//!
//! Decisions are based on what was read without locks, and written only if it is unchanged. Otherwise, or if another
//! session has locked a slot, a message or a group, the whole group is postponed. So an owner's open transaction only
//! delays what it touches.

use std::collections::HashMap;

use futures::TryStreamExt;
use sqlx::{Row, postgres::PgRow};

use super::{
    Store, StoreError,
    brief::{Brief, Halves, RefusedSlots, changed},
    flush::release_strays,
    large_groups::mark_large,
    slot_rows::{SlotRow, append_to_slots, insert_slots, move_messages, new_slot_ids, update_slots},
    slots::receipt,
    statement::{query, query_as},
    transaction::{LONG, SHORT},
};
use crate::{
    domain::{MsgSeq, Timestamp},
    rules::{
        cadence::Next,
        recording::Contents,
        slot::{GroupKey, NewMessage, OpenSlot, Slot, SlotAssignment, SlotId, SlotKey, SlotMessage},
    },
    store::connection::StoreConnection,
};

/// Number of messages assigned in one transaction: a million at once must not keep one open for long.
const CHUNK: i64 = 20_000;

/// The result of a round of slotting.
#[derive(Debug, Default)]
pub struct Slotted {
    /// Number of messages assigned to a slot.
    pub messages: usize,
    /// The slots that were created or made due earlier, and when they are due.
    pub slots: Vec<(SlotKey, Next)>,
    /// The message after which to continue immediately, if there may be more.
    pub next: Option<MessageKey>,
    /// What the tables refuse, if anything. Its group waits like a locked one.
    pub refused: Option<RefusedSlots>,
    /// What ended the round after a part of it was committed, if anything.
    pub failed: Option<StoreError>,
}

/// A group, and a message's number in it.
pub type MessageKey = (GroupKey, i64);

/// Less than all messages.
pub const FIRST: MessageKey = (GroupKey::MIN, i64::MIN);

/// The new messages of a group and their slots.
#[derive(Debug)]
struct Filled {
    fill: SlotAssignment,
    /// The version of the slot that they join, if any.
    version: Option<i64>,
    /// Whether their group has another slot.
    is_further: bool,
    contents: Contents,
}

impl Filled {
    fn row(&self, slot_id: SlotId) -> SlotRow<'_> {
        let key = SlotKey { group_key: self.fill.group_key, slot_id };
        SlotRow {
            key,
            version: self.version.unwrap_or_default(),
            next_poll_at: self.fill.first.due,
            last_polled_at: None,
            known_until: None,
            last_called_at: None,
            quiet_polls: 0,
            failures: 0,
            contents: &self.contents,
        }
    }
}

/// The newest slot of a group, as it was read.
#[derive(Debug, Clone, Copy)]
struct Open {
    slot: OpenSlot,
    version: i64,
}

impl Store {
    /// Assigns messages after `after` without a slot, as `pack` decides from them and the newest slots of their
    /// groups. If another session has locked or changed something needed, or the tables refuse something, the whole group
    /// waits for the next round.
    ///
    /// # Errors
    /// If the database fails before anything was assigned.
    pub async fn slot_new_messages(
        &self,
        after: MessageKey,
        pack: impl FnOnce(&[NewMessage], &HashMap<GroupKey, OpenSlot>) -> Vec<SlotAssignment> + Send,
    ) -> Result<Slotted, StoreError> {
        const DOING: &str = "assigning new messages to slots";
        let app = self.app();
        let (fresh, open) = self
            .run(DOING, LONG, async |database| {
                let fresh = new_messages(database, app, after).await?;
                let open = newest_slots(database, &fresh).await?;
                Ok((fresh, open))
            })
            .await?;
        let is_full = i64::try_from(fresh.len()).is_ok_and(|count| count >= CHUNK);
        let last = fresh.last().map(|(fresh, _)| (fresh.group_key, i64::from(fresh.seq.get()))).filter(|_| is_full);
        let groups = filled(fresh, &open, pack);
        let mut slotted = Slotted::default();
        let mut halves = Halves::of(groups);
        while let Some(groups) = halves.take() {
            let fills: Vec<&Filled> = groups.iter().flatten().collect();
            match self.run_briefly(DOING, LONG, None, async |database, _| place(database, &fills).await).await {
                Ok(Brief::Done(placed)) => {
                    slotted.messages += placed.messages;
                    slotted.slots.extend(placed.news);
                }
                Ok(Brief::Held | Brief::Changed) => halves.failed(groups),
                Err(error) if error.is_refusal() => {
                    if let [group] = &groups[..] {
                        slotted.refused.get_or_insert(RefusedSlots { group_key: group[0].fill.group_key, error });
                    }
                    halves.failed(groups);
                }
                // What is committed has to reach the schedule.
                Err(error) if slotted.slots.is_empty() => return Err(error),
                Err(error) => return Ok(Slotted { failed: Some(error), ..slotted }),
            }
        }
        let is_left = |group_key| halves.left.iter().any(|group| group[0].fill.group_key == group_key);
        slotted.next = last.map(|(group_key, seq)| (group_key, if is_left(group_key) { i64::MAX } else { seq }));
        Ok(slotted)
    }

    /// Splits a slot with more than `batch_size` messages: the younger ones move to new slots, which have the same
    /// due time and last poll. If another session has locked or changed it, it is unchanged.
    ///
    /// # Errors
    /// If the database fails; then nothing has changed.
    pub async fn split_slot(&self, slot: &Slot, batch_size: usize) -> Result<Vec<(SlotKey, Timestamp)>, StoreError> {
        const DOING: &str = "splitting a slot larger than polling.batch_size";
        let parts: Vec<Contents> =
            slot.messages.chunks(batch_size.max(1)).map(|part| Contents::Other(part.to_vec())).collect();
        let Some((first, later)) = parts.split_first() else { return Ok(vec![]) };
        let split = self.run_briefly(DOING, SHORT, None, async |database, _| split(database, slot, first, later).await);
        match split.await? {
            Brief::Done(made) => Ok(made.into_iter().map(|made| (made, slot.next_poll_at)).collect()),
            Brief::Held | Brief::Changed => Ok(vec![]),
        }
    }
}

/// Decides the slots of new messages, by group.
fn filled(
    fresh: Vec<(NewMessage, SlotMessage)>,
    open: &HashMap<GroupKey, Open>,
    pack: impl FnOnce(&[NewMessage], &HashMap<GroupKey, OpenSlot>) -> Vec<SlotAssignment>,
) -> Vec<Vec<Filled>> {
    let (news, messages): (Vec<NewMessage>, Vec<SlotMessage>) = fresh.into_iter().unzip();
    let slots = open.iter().map(|(group_key, open)| (*group_key, open.slot)).collect();
    // Fills keep the messages in order of arrival.
    let (mut messages, mut groups) = (messages.into_iter(), Vec::<Vec<Filled>>::new());
    for fill in pack(&news, &slots) {
        let open = open.get(&fill.group_key);
        let version = fill.slot_id.and(open).map(|open| open.version);
        let contents = Contents::Other(messages.by_ref().take(fill.seqs.len()).collect());
        match groups.last_mut().filter(|group| group[0].fill.group_key == fill.group_key) {
            Some(group) => group.push(Filled { version, is_further: true, contents, fill }),
            None => groups.push(vec![Filled { version, is_further: open.is_some(), contents, fill }]),
        }
    }
    groups
}

/// The next messages without a slot, starting after those of the last call: an index still has these while another
/// session's query may see them without a slot.
async fn new_messages(
    connection: &mut StoreConnection,
    app: i64,
    after: MessageKey,
) -> Result<Vec<(NewMessage, SlotMessage)>, sqlx::Error> {
    let rows = query(
        "SELECT m.group_key, g.cadence, m.msg_seq, m.sent_at, coalesce(m.aged_from, m.sent_at) AS aged_from, m.added_at,
            m.read_num, m.unread_num, m.receipt_code, m.first_polled_at, m.last_changed_at, m.known_until,
            m.no_receipt_polls, m.refused_since
         FROM receiptd.watched_messages m JOIN receiptd.watched_groups g USING (group_key)
         WHERE m.slot_id IS NULL AND m.closed_at IS NULL AND g.sdk_app_id = $1 AND (m.group_key, m.msg_seq) > ($2, $3)
         ORDER BY m.group_key, m.msg_seq LIMIT $4",
    )
    .bind(app)
    .bind(after.0)
    .bind(after.1)
    .bind(CHUNK);
    rows.fetch(connection).and_then(async |row| fresh(&row)).try_collect().await
}

fn fresh(row: &PgRow) -> Result<(NewMessage, SlotMessage), sqlx::Error> {
    let seq: i64 = row.try_get("msg_seq")?;
    let seq = MsgSeq::try_from(seq).map_err(|error| sqlx::Error::Decode(Box::new(error)))?;
    let (group_key, cadence, added_at) = (row.try_get("group_key")?, row.try_get("cadence")?, row.try_get("added_at")?);
    let sent_at: Timestamp = row.try_get("aged_from")?;
    let known_until: Option<Timestamp> = row.try_get("known_until")?;
    let message = SlotMessage {
        seq,
        sent_at,
        first_sent_at: row.try_get("sent_at")?,
        first_polled_at: row.try_get("first_polled_at")?,
        receipt: receipt(row.try_get("receipt_code")?, row.try_get("read_num")?, row.try_get("unread_num")?),
        changed_at: row.try_get("last_changed_at")?,
        known_until,
        known_apart: known_until.is_some(),
        no_receipt_polls: row.try_get("no_receipt_polls")?,
        refused_since: row.try_get("refused_since")?,
        has_joined: false,
    };
    Ok((NewMessage { group_key, cadence, seq, sent_at, added_at }, message))
}

/// The newest slot of each group. Failing slots come last: messages that join would wait with them.
async fn newest_slots(
    connection: &mut StoreConnection,
    fresh: &[(NewMessage, SlotMessage)],
) -> Result<HashMap<GroupKey, Open>, sqlx::Error> {
    let mut groups: Vec<GroupKey> = fresh.iter().map(|(fresh, _)| fresh.group_key).collect();
    groups.dedup();
    if groups.is_empty() {
        return Ok(HashMap::new());
    }
    let newest: Vec<(GroupKey, SlotId, i64, i32, Option<Timestamp>)> = query_as(
        "SELECT g.group_key, s.slot_id, s.version, cardinality(s.msg_seqs), s.last_polled_at
         FROM unnest($1::integer[]) AS g (group_key) CROSS JOIN LATERAL (
            SELECT slot_id, failures FROM receiptd.poll_slots WHERE group_key = g.group_key ORDER BY slot_id DESC LIMIT 1
         ) newest
         JOIN receiptd.poll_slots s ON s.group_key = g.group_key AND s.slot_id = CASE newest.failures
            WHEN 0 THEN newest.slot_id
            ELSE coalesce(
                (SELECT slot_id FROM receiptd.poll_slots WHERE group_key = g.group_key AND failures = 0
                    ORDER BY slot_id DESC LIMIT 1),
                newest.slot_id)
            END",
    )
    .bind(groups)
    .fetch_all(connection)
    .await?;
    let open = |(group_key, slot_id, version, messages, last_polled_at)| {
        let messages = usize::try_from(messages).unwrap_or_default();
        (group_key, Open { slot: OpenSlot { slot_id, messages, last_polled_at }, version })
    };
    Ok(newest.into_iter().map(open).collect())
}

/// The result for some groups.
#[derive(Debug)]
struct Placed {
    messages: usize,
    /// The slots to report to the schedule, and when they are due.
    news: Vec<(SlotKey, Next)>,
}

/// Creates new slots, extends those that messages join, and writes the slots into the messages' rows.
async fn place(connection: &mut StoreConnection, fills: &[&Filled]) -> Result<Placed, sqlx::Error> {
    let (joining, making): (Vec<&Filled>, Vec<&Filled>) = fills.iter().partition(|filled| filled.version.is_some());
    let ids = new_slot_ids(connection, making.len()).await?;
    let made = making.iter().zip(ids).map(|(filled, slot_id)| filled.row(slot_id));
    let made: Vec<SlotRow<'_>> = made.collect();
    insert_slots(connection, &made).await?;
    let further = making.iter().filter(|filled| filled.is_further);
    mark_large(connection, further.map(|filled| filled.fill.group_key).collect()).await?;
    let joined = joining.iter().filter_map(|filled| Some(filled.row(filled.fill.slot_id?)));
    let joined: Vec<SlotRow<'_>> = joined.collect();
    let due = append_to_slots(connection, &joined).await?;
    let placed: Vec<&SlotRow<'_>> = made.iter().chain(&joined).collect();
    let messages = place_messages(connection, &placed).await?;
    if due.len() < joined.len() || messages < placed.iter().map(|row| row.contents.messages().len()).sum() {
        return Err(changed());
    }
    let due_of = |row: &SlotRow<'_>| due.get(&row.key).copied().unwrap_or(row.next_poll_at);
    let order = making.iter().chain(&joining);
    let news = order.zip(&placed).filter(|(filled, row)| filled.fill.is_news(due_of(row)));
    let news = news.map(|(filled, row)| (row.key, Next { due: due_of(row), ..filled.fill.first }));
    Ok(Placed { messages, news: news.collect() })
}

/// Writes the slots into messages' rows: their states are in the slots from now on. Returns the number of rows, without
/// messages that have another state by now: they were unwatched and watched again.
async fn place_messages(connection: &mut StoreConnection, slots: &[&SlotRow<'_>]) -> Result<usize, sqlx::Error> {
    let (mut groups, mut seqs, mut ids) = (vec![], vec![], vec![]);
    let (mut sent_at, mut aged_from, mut known_until) = (vec![], vec![], vec![]);
    for slot in slots {
        for message in slot.contents.messages() {
            groups.push(slot.key.group_key);
            seqs.push(i64::from(message.seq.get()));
            ids.push(slot.key.slot_id);
            sent_at.push(message.first_sent_at);
            aged_from.push(message.sent_at);
            known_until.push(message.known_until);
        }
    }
    // The planner's statistics are older than a large import: it compared each message with all others, or read the whole
    // table for each chunk, which operations of this duration may. As the last statement of its transaction, this one is
    // joined by hashes of the keys, and reads the index between the first and the last one.
    query(
        "SELECT set_config('enable_nestloop', 'off', true), set_config('enable_mergejoin', 'off', true),
            set_config('enable_seqscan', 'off', true)",
    )
    .execute(&mut *connection)
    .await?;
    let keys = || groups.iter().copied().zip(seqs.iter().copied());
    let (first, last) = (keys().min().unwrap_or_default(), keys().max().unwrap_or_default());
    let placed = query(
        "UPDATE receiptd.watched_messages m SET slot_id = u.slot_id, read_num = NULL, unread_num = NULL,
            receipt_code = NULL, first_polled_at = NULL, last_changed_at = NULL, known_until = NULL, no_receipt_polls = 0,
            refused_since = NULL
         FROM unnest($1::integer[], $2::bigint[], $3::bigint[], $8::timestamptz[], $9::timestamptz[], $10::timestamptz[])
            AS u (group_key, msg_seq, slot_id, sent_at, aged_from, known_until)
         WHERE m.group_key = u.group_key AND m.msg_seq = u.msg_seq AND m.slot_id IS NULL AND m.closed_at IS NULL
            AND m.sent_at = u.sent_at AND coalesce(m.aged_from, m.sent_at) = u.aged_from
            AND m.known_until IS NOT DISTINCT FROM u.known_until
            AND (m.group_key, m.msg_seq) BETWEEN ($4, $5) AND ($6, $7)",
    )
    .bind(&groups)
    .bind(&seqs)
    .bind(ids)
    .bind(first.0)
    .bind(first.1)
    .bind(last.0)
    .bind(last.1)
    .bind(sent_at)
    .bind(aged_from)
    .bind(known_until)
    .execute(connection)
    .await?;
    Ok(usize::try_from(placed.rows_affected()).unwrap_or(usize::MAX))
}

async fn split(
    connection: &mut StoreConnection,
    slot: &Slot,
    first: &Contents,
    later: &[Contents],
) -> Result<Vec<SlotKey>, sqlx::Error> {
    if update_slots(connection, &[SlotRow::holding(slot, slot.key, first)]).await?.is_empty() {
        return Err(changed());
    }
    let ids = new_slot_ids(connection, later.len()).await?;
    let key = |slot_id| SlotKey { slot_id, ..slot.key };
    let made: Vec<SlotRow<'_>> =
        ids.iter().zip(later).map(|(id, contents)| SlotRow::holding(slot, key(*id), contents)).collect();
    insert_slots(connection, &made).await?;
    let moves: Vec<_> = ids.iter().zip(later).map(|(id, contents)| (*id, contents.messages())).collect();
    move_messages(connection, slot.key, &moves).await?;
    if slot.is_wrong {
        release_strays(connection, &[(slot.key, slot.version + 1)]).await?;
    }
    Ok(made.iter().map(|row| row.key).collect())
}
