//! All that is known of one group, and of one of its messages: for `receiptd explain`.

use serde::Serialize;
use sqlx::FromRow;

use super::{Store, StoreError, statement::query_as, transaction::SHORT};
use crate::{
    chat::{Class, Failure},
    domain::{GroupId, MsgSeq, Timestamp},
    slot::{GroupKey, SlotId},
};

/// Calls are looked for so far back.
const CALLS: &str = "SELECT called_at, class, code, messages_asked, latency_ms, error FROM receiptd.api_calls
    WHERE group_key = $1 AND called_at > now() - interval '2 days' ORDER BY called_at DESC LIMIT 5";

/// What is known of a group.
#[derive(Debug, Clone, Serialize)]
pub struct Explained {
    /// The group.
    pub group: ExplainedGroup,
    /// Its calls to be, those that are due first at the head.
    pub slots: Vec<ExplainedSlot>,
    /// The message that was asked for.
    pub message: Option<ExplainedMessage>,
    /// Its latest calls of the last two days, the latest first; five at most.
    pub calls: Vec<ExplainedCall>,
}

/// A group as it is watched.
#[derive(Debug, Clone, Serialize, FromRow)]
pub struct ExplainedGroup {
    /// The key in other tables.
    pub group_key: GroupKey,
    /// active, paused, quarantined or removed.
    pub state: String,
    /// The code that put it into quarantine.
    pub state_code: Option<i32>,
    /// Why it is in its state.
    pub state_reason: Option<String>,
    /// When a quarantined group is tried again.
    pub probe_at: Option<Timestamp>,
    /// The cadence that it names.
    pub cadence: Option<String>,
    /// New messages that have no slot yet.
    pub unslotted: i64,
}

/// A call to be.
#[derive(Debug, Clone, Serialize, FromRow)]
pub struct ExplainedSlot {
    /// The key.
    pub slot_id: SlotId,
    /// When it is due.
    pub next_poll_at: Timestamp,
    /// When it was last answered.
    pub last_polled_at: Option<Timestamp>,
    /// How many polls in a row saw no change.
    pub quiet_polls: i32,
    /// How many polls in a row failed.
    pub failures: i32,
    /// Its messages.
    pub msg_seqs: Vec<i64>,
    /// When the youngest of them was sent.
    pub youngest_sent_at: Option<Timestamp>,
}

/// A message as it is watched.
#[derive(Debug, Clone, Serialize, FromRow)]
pub struct ExplainedMessage {
    /// Its number in the group.
    pub msg_seq: i64,
    /// active, or why it is done.
    pub state: String,
    /// Its slot.
    pub slot_id: Option<SlotId>,
    /// When it was sent.
    pub sent_at: Timestamp,
    /// Members who have read it.
    pub read_num: Option<i32>,
    /// Members who have not.
    pub unread_num: Option<i32>,
    /// The per-message code.
    pub receipt_code: Option<i32>,
    /// When these counts were first seen.
    pub last_changed_at: Option<Timestamp>,
    /// Until when they are known to hold.
    pub known_until: Option<Timestamp>,
    /// When its polling ended.
    pub closed_at: Option<Timestamp>,
}

/// An attempt that was made.
#[derive(Debug, Clone, Serialize, FromRow)]
pub struct ExplainedCall {
    /// When.
    pub called_at: Timestamp,
    /// The class of its outcome.
    pub class: String,
    /// The error code.
    pub code: Option<i64>,
    /// How many messages it asked for.
    pub messages_asked: i32,
    /// How long it took, in milliseconds.
    pub latency_ms: f32,
    /// What went wrong.
    pub error: Option<String>,
}

impl ExplainedCall {
    /// Why it brought no receipts, if it brought none.
    pub fn failure(&self) -> Option<Failure> {
        let class = Class::ALL.into_iter().find(|class| class.name() == self.class).unwrap_or(Class::Unknown);
        let info = self.error.clone().unwrap_or_default();
        (class != Class::Success).then_some(Failure { class, code: self.code, info })
    }
}

impl Store {
    /// The latest attempt of this app within ten minutes, in whichever group: a closed gate is probed more often than that.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn last_call(&self) -> Result<Option<ExplainedCall>, StoreError> {
        let call = query_as(
            "SELECT called_at, class, code, messages_asked, latency_ms, error
             FROM receiptd.api_calls JOIN receiptd.watched_groups USING (group_key)
             WHERE sdk_app_id = $1 AND called_at > now() - interval '10 minutes' ORDER BY called_at DESC LIMIT 1",
        )
        .bind(self.app());
        self.run("looking for the last call", SHORT, async |database| call.fetch_optional(database).await).await
    }

    /// What is known of a group, and of a message in it. `None` if the group was never watched.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn explain(&self, group: &GroupId, seq: Option<MsgSeq>) -> Result<Option<Explained>, StoreError> {
        self.run("looking up a group", SHORT, async |database| {
            let found = query_as::<ExplainedGroup>(
                "SELECT group_key, state, state_code, state_reason, probe_at, cadence, (
                    SELECT count(*) FROM receiptd.watched_messages m
                    WHERE m.group_key = g.group_key AND slot_id IS NULL AND m.state = 'active'
                 ) AS unslotted
                 FROM receiptd.watched_groups g WHERE sdk_app_id = $1 AND group_id = $2",
            )
            .bind(self.app())
            .bind(group.to_string())
            .fetch_optional(&mut *database)
            .await?;
            let Some(found) = found else { return Ok(None) };
            let slots = query_as(
                "SELECT s.slot_id, s.next_poll_at, s.last_polled_at, s.quiet_polls, s.failures,
                    (SELECT max(coalesce(m.aged_from, m.sent_at)) FROM unnest(s.aged_from, s.sent_at) AS m (aged_from, sent_at))
                        AS youngest_sent_at,
                    array(SELECT unnest(s.msg_seqs) ORDER BY 1) AS msg_seqs
                 FROM receiptd.poll_slots s WHERE s.group_key = $1 ORDER BY s.next_poll_at, s.slot_id",
            )
            .bind(found.group_key)
            .fetch_all(&mut *database)
            .await?;
            let message = query_as(
                "SELECT l.msg_seq, l.state, m.slot_id, l.sent_at, l.read_num, l.unread_num, l.receipt_code, l.last_changed_at,
                    l.known_until, l.closed_at
                 FROM receiptd.message_state l
                 JOIN receiptd.watched_messages m ON m.group_key = l.group_key AND m.msg_seq = l.msg_seq
                 WHERE l.group_key = $1 AND l.msg_seq = $2",
            )
            .bind(found.group_key)
            .bind(seq.map(|seq| i64::from(seq.get())))
            .fetch_optional(&mut *database)
            .await?;
            let calls = query_as(CALLS).bind(found.group_key).fetch_all(database).await?;
            Ok(Some(Explained { group: found, slots, message, calls }))
        })
        .await
    }
}
