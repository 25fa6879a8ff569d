//! Reading the schedule: all due times at the start, and the contents of due slots.

use futures::TryStreamExt;
use sqlx::{FromRow, Row, postgres::PgRow};

use super::{
    Store, StoreError,
    arrays::{elements, time},
    statement::{query, query_as},
    transaction::SHORT,
};
use crate::{
    domain::{Counts, GroupId, MsgSeq, Receipt, Timestamp},
    rules::slot::{GroupKey, GroupState, NewSlot, Slot, SlotId, SlotKey, SlotMessage, StoredDue},
};

/// One row per slot, with the states of its messages.
const READ_SLOTS: &str = "
    SELECT s.group_key, s.slot_id, s.version, s.next_poll_at, s.last_polled_at, s.known_until, s.last_called_at,
        s.quiet_polls, s.failures, g.group_id, g.state, g.cadence, g.readers,
        s.read_num, s.changed_at, s.member_num, s.msg_seqs, s.sent_at, s.aged_from, s.first_polled_at, s.code,
        s.known_apart, s.no_receipt_polls, s.refused_since, cardinality(s.msg_seqs) AS messages
    FROM unnest($1::integer[], $2::bigint[]) AS u (group_key, slot_id)
    JOIN receiptd.poll_slots s ON s.group_key = u.group_key AND s.slot_id = u.slot_id
    JOIN receiptd.watched_groups g ON g.group_key = s.group_key";

/// A slot's neighbours in its group are the previous and the next one.
const MERGE_CANDIDATES: &str = "
    SELECT s.group_key, s.slot_id, other.slot_id
    FROM unnest($1::integer[], $2::bigint[]) AS u (group_key, slot_id)
    JOIN receiptd.poll_slots s ON s.group_key = u.group_key AND s.slot_id = u.slot_id
    CROSS JOIN LATERAL (
       SELECT n.slot_id FROM (
           (SELECT slot_id, msg_seqs FROM receiptd.poll_slots n
            WHERE n.group_key = s.group_key AND n.slot_id < s.slot_id AND n.failures = 0 ORDER BY slot_id DESC LIMIT 1)
           UNION ALL
           (SELECT slot_id, msg_seqs FROM receiptd.poll_slots n
            WHERE n.group_key = s.group_key AND n.slot_id > s.slot_id AND n.failures = 0 ORDER BY slot_id LIMIT 1)
       ) n
       WHERE cardinality(n.msg_seqs) + cardinality(s.msg_seqs) <= $3 AND n.msg_seqs <> '{}' LIMIT 1
    ) other
    WHERE s.failures = 0";

const SLOTS_OF_MESSAGES: &str = "
    SELECT u.place, m.group_key, m.slot_id
    FROM unnest($2::text[], $3::bigint[]) WITH ORDINALITY AS u (group_id, msg_seq, place)
    JOIN receiptd.watched_groups g ON g.sdk_app_id = $1 AND g.group_id = u.group_id
    JOIN receiptd.watched_messages m ON m.group_key = g.group_key AND m.msg_seq = u.msg_seq
    WHERE m.state = 'active' AND m.slot_id IS NOT NULL AND g.state IN ('active', 'quarantined')";

/// A row of the schedule: a slot with its youngest message, which is the last one, and whether its group is polled.
type LoadedSlot = (GroupKey, SlotId, Timestamp, Option<Timestamp>, bool, Option<Timestamp>, Option<String>, bool);

/// Number of slots read at a time: this takes some tens of milliseconds, during which no poll starts.
const PAGE: i64 = 10_000;

impl Store {
    /// A page of the schedule: the slots of this app after `after` with active groups, with their due times and the
    /// names of their cadences, and empty ones, which have to be deleted. Returns the last slot of the page, of any
    /// app; `None` if there are no more.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn load_schedule(
        &self,
        after: SlotKey,
        mut each: impl FnMut(SlotKey, StoredDue, Option<&str>),
    ) -> Result<Option<SlotKey>, StoreError> {
        let query = query_as::<LoadedSlot>(
            "SELECT group_key, s.slot_id, s.next_poll_at, s.last_polled_at, s.failures > 0,
                coalesce(s.aged_from[cardinality(s.aged_from)], s.sent_at[cardinality(s.sent_at)]), g.cadence,
                g.sdk_app_id = $1 AND (g.state = 'active' OR s.msg_seqs = '{}')
             FROM (
                SELECT * FROM receiptd.poll_slots WHERE (group_key, slot_id) > ($2, $3) ORDER BY group_key, slot_id LIMIT $4
             ) s JOIN receiptd.watched_groups g USING (group_key) ORDER BY group_key, s.slot_id",
        );
        let query = query.bind(self.app()).bind(after.group_key).bind(after.slot_id).bind(PAGE);
        self.run("loading the schedule", SHORT, async |database| {
            let (mut rows, mut count, mut last) = (query.fetch(database), 0, None);
            while let Some(row) = rows.try_next().await? {
                let (
                    group_key,
                    slot_id,
                    next_poll_at,
                    last_polled_at,
                    has_failed,
                    youngest_sent_at,
                    cadence,
                    is_polled,
                ) = row;
                let slot = SlotKey { group_key, slot_id };
                (count, last) = (count + 1, Some(slot));
                if is_polled {
                    let stored = StoredDue { next_poll_at, last_polled_at, has_failed, youngest_sent_at };
                    each(slot, stored, cadence.as_deref());
                }
            }
            Ok(last.filter(|_| count == PAGE))
        })
        .await
    }

    /// The contents of these slots, as far as they exist, in the order asked for.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn read_slots(&self, slots: &[SlotKey]) -> Result<Vec<Slot>, StoreError> {
        const DOING: &str = "reading due slots";
        let (groups, ids) = SlotKey::columns(slots);
        let rows = || query(READ_SLOTS).bind(groups.clone()).bind(ids.clone());
        let read: Result<Vec<Slot>, sqlx::Error> = self.read(DOING, SHORT, rows).await?.iter().map(slot).collect();
        let mut read = read.map_err(|error| StoreError::failed(DOING, error))?;
        let order: std::collections::HashMap<SlotKey, usize> = slots.iter().copied().zip(0..).collect();
        read.sort_by_key(|slot| order.get(&slot.key).copied());
        Ok(read)
    }

    /// The slots of these active messages, by position, as far as they have one and their groups may be polled.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn slots_of_messages(
        &self,
        messages: &[(&GroupId, MsgSeq)],
    ) -> Result<Vec<(usize, SlotKey)>, StoreError> {
        const DOING: &str = "looking up the messages of webhooks";
        let (groups, seqs): (Vec<&str>, Vec<i64>) =
            messages.iter().map(|(group, seq)| (group.as_str(), i64::from(seq.get()))).unzip();
        let rows = || query(SLOTS_OF_MESSAGES).bind(self.app()).bind(groups.clone()).bind(seqs.clone());
        let of = |row: &PgRow| {
            let (place, group_key, slot_id): (i64, GroupKey, SlotId) = FromRow::from_row(row)?;
            Ok((usize::try_from(place - 1).unwrap_or(usize::MAX), SlotKey { group_key, slot_id }))
        };
        let found: Result<Vec<(usize, SlotKey)>, sqlx::Error> =
            self.read(DOING, SHORT, rows).await?.iter().map(of).collect();
        found.map_err(|error| StoreError::failed(DOING, error))
    }

    /// The newest slot of each of these groups that are polled.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn slots_of_groups(&self, groups: &[&GroupId]) -> Result<Vec<SlotKey>, StoreError> {
        let groups: Vec<&str> = groups.iter().map(|group| group.as_str()).collect();
        let slots = query_as(
            "SELECT g.group_key, s.slot_id FROM receiptd.watched_groups g
             CROSS JOIN LATERAL (
                SELECT slot_id FROM receiptd.poll_slots WHERE group_key = g.group_key ORDER BY slot_id DESC LIMIT 1
             ) s
             WHERE g.sdk_app_id = $1 AND g.group_id = ANY ($2) AND g.state = 'active'",
        );
        let slots = slots.bind(self.app()).bind(groups);
        self.run("looking up the groups of webhooks", SHORT, async |database| slots.fetch_all(database).await).await
    }

    /// All slots of a group, as if they had just been created, since it is unknown which were.
    ///
    /// # Errors
    /// If the database fails.
    pub(crate) async fn slots_of_group(&self, group_key: GroupKey) -> Result<Vec<NewSlot>, StoreError> {
        let slots = query_as(
            "SELECT group_key, slot_id, next_poll_at, failures > 0 AS fails FROM receiptd.poll_slots WHERE group_key = $1",
        );
        let slots = slots.bind(group_key);
        self.run("reading the slots of a group", SHORT, async |database| slots.fetch_all(database).await).await
    }

    /// For each of these slots, a neighbour in its group that fits into one call with it, if there is one. Failing
    /// slots are excluded: a fault in one must not spoil the polls of the other.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn merge_candidates(
        &self,
        slots: &[SlotKey],
        batch_size: usize,
    ) -> Result<Vec<(SlotKey, SlotKey)>, StoreError> {
        const DOING: &str = "looking for slots to merge";
        let (groups, ids) = SlotKey::columns(slots);
        let batch_size = i64::try_from(batch_size).unwrap_or(i64::MAX);
        let pairs = || query(MERGE_CANDIDATES).bind(groups.clone()).bind(ids.clone()).bind(batch_size);
        let of = |row: &PgRow| {
            let (group_key, slot_id, other) = FromRow::from_row(row)?;
            Ok((SlotKey { group_key, slot_id }, SlotKey { group_key, slot_id: other }))
        };
        let pairs: Result<Vec<(SlotKey, SlotKey)>, sqlx::Error> =
            self.read(DOING, SHORT, pairs).await?.iter().map(of).collect();
        pairs.map_err(|error| StoreError::failed(DOING, error))
    }
}

/// Slots with their due times, from rows.
pub(super) fn keyed(rows: Vec<(GroupKey, SlotId, Timestamp)>) -> Vec<(SlotKey, Timestamp)> {
    let of = |(group_key, slot_id, due)| (SlotKey { group_key, slot_id }, due);
    rows.into_iter().map(of).collect()
}

fn slot(row: &PgRow) -> Result<Slot, sqlx::Error> {
    let known_until: Option<Timestamp> = row.try_get("known_until")?;
    let group_id: String = row.try_get("group_id")?;
    let Messages { messages, is_wrong, is_unsorted } = messages(row, known_until)?;
    Ok(Slot {
        key: SlotKey { group_key: row.try_get("group_key")?, slot_id: row.try_get("slot_id")? },
        group_id: group_id.parse().map_err(|error| sqlx::Error::Decode(Box::new(error)))?,
        group_state: match row.try_get::<&str, _>("state")? {
            "active" => GroupState::Active,
            "quarantined" => GroupState::Quarantined,
            _ => GroupState::Stopped,
        },
        cadence: row.try_get("cadence")?,
        has_readers: row.try_get("readers")?,
        next_poll_at: row.try_get("next_poll_at")?,
        last_polled_at: row.try_get("last_polled_at")?,
        known_until,
        quiet_polls: row.try_get("quiet_polls")?,
        failures: row.try_get("failures")?,
        version: row.try_get("version")?,
        last_called_at: row.try_get("last_called_at")?,
        messages,
        is_wrong,
        is_unsorted,
        absorbs: None,
    })
}

/// The elements of an array, which has one for all messages if they are equal.
struct OfMessages<T>(Vec<Option<T>>);

impl<T: Copy> OfMessages<T> {
    /// The element of the message with this index; `None` if the array lacks it.
    fn get(&self, index: usize) -> Option<Option<T>> {
        if let [of_all] = self.0[..] { Some(of_all) } else { self.0.get(index).copied() }
    }
}

/// The messages of a slot, in rising order.
struct Messages {
    messages: Vec<SlotMessage>,
    /// Whether its arrays contain anything else, which only a person can have written.
    is_wrong: bool,
    /// Whether its arrays have another order.
    is_unsorted: bool,
}

fn messages(row: &PgRow, slot_known_until: Option<Timestamp>) -> Result<Messages, sqlx::Error> {
    let seqs = elements(row, "msg_seqs", |bytes| MsgSeq::try_from(i64::from_be_bytes(bytes)).ok())?;
    let int = |bytes| Some(i32::from_be_bytes(bytes));
    let ints = |column| elements(row, column, int).map(OfMessages);
    let times = |column| elements(row, column, time).map(OfMessages);
    let (read, members, code) = (ints("read_num")?, ints("member_num")?, ints("code")?);
    let (sent_at, aged_from) = (times("sent_at")?, times("aged_from")?);
    let (first_polled_at, changed_at) = (times("first_polled_at")?, times("changed_at")?);
    let (known_apart, refused_since) = (times("known_apart")?, times("refused_since")?);
    let no_receipt_polls = elements(row, "no_receipt_polls", |bytes| Some(i16::from_be_bytes(bytes)));
    let no_receipt_polls = no_receipt_polls.map(OfMessages)?;
    let message = |(index, seq): (usize, &Option<MsgSeq>)| {
        let read = read.get(index)?;
        let unread = members.get(index)?.zip(read).and_then(|(members, read)| members.checked_sub(read));
        let receipt = receipt(code.get(index)?, read, unread);
        let (known_apart, first_sent_at) = (known_apart.get(index)?, sent_at.get(index)??);
        Some(SlotMessage {
            seq: (*seq)?,
            sent_at: aged_from.get(index)?.unwrap_or(first_sent_at),
            first_sent_at,
            first_polled_at: first_polled_at.get(index)?,
            receipt,
            changed_at: changed_at.get(index)?,
            known_until: receipt.and(known_apart.or(slot_known_until)),
            known_apart: known_apart.is_some(),
            no_receipt_polls: no_receipt_polls.get(index)??,
            refused_since: refused_since.get(index)?,
            has_joined: false,
        })
    };
    let mut messages = Vec::with_capacity(seqs.len());
    messages.extend(seqs.iter().enumerate().filter_map(message));
    let is_unsorted = !messages.is_sorted_by_key(|message: &SlotMessage| message.seq);
    messages.sort_by_key(|message| message.seq);
    messages.dedup_by_key(|message| message.seq);
    let length: i32 = row.try_get("messages")?;
    let is_wrong = usize::try_from(length) != Ok(messages.len());
    Ok(Messages { messages, is_wrong, is_unsorted })
}

/// A receipt, from columns.
pub(super) fn receipt(code: Option<i32>, read: Option<i32>, unread: Option<i32>) -> Option<Receipt> {
    let counts = read.zip(unread).and_then(|(read, unread)| Counts::new(read.into(), unread.into()));
    code.map(|code| Receipt { code, counts })
}

impl FromRow<'_, PgRow> for SlotKey {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self { group_key: row.try_get("group_key")?, slot_id: row.try_get("slot_id")? })
    }
}

impl FromRow<'_, PgRow> for NewSlot {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        let (next_poll_at, fails) = (row.try_get("next_poll_at")?, row.try_get("fails")?);
        Ok(Self { slot: SlotKey::from_row(row)?, next_poll_at, fails })
    }
}
