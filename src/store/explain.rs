//! The state of a group and one of its messages, for `receiptd explain`.

use serde::Serialize;
use sqlx::FromRow;

use super::{DiscoveredGroup, Store, StoreError, statement::query_as, transaction::SHORT};
use crate::{
    domain::{GroupId, MsgSeq, Timestamp},
    rules::{
        protocol::{Class, Failure},
        slot::{GroupKey, SlotId},
    },
};

/// The latest calls within two days.
const CALLS: &str = "SELECT called_at, class, code, messages_asked, latency_ms, error FROM receiptd.api_calls
    WHERE group_key = $1 AND called_at > now() - interval '2 days' ORDER BY called_at DESC LIMIT 5";

/// The state of a group.
#[derive(Debug, Clone, Serialize)]
pub struct Explained {
    /// The group.
    pub group: ExplainedGroup,
    /// Its slots, in order of due times.
    pub slots: Vec<ExplainedSlot>,
    /// The requested message.
    pub message: Option<ExplainedMessage>,
    /// What discovery knows of the group.
    pub discovered: Option<DiscoveredGroup>,
    /// Its latest calls of the last two days, latest first; at most five.
    pub calls: Vec<ExplainedCall>,
}

/// A watched group.
#[derive(Debug, Clone, Serialize, FromRow)]
pub struct ExplainedGroup {
    /// Its key in other tables.
    pub group_key: GroupKey,
    /// active, paused, quarantined or removed.
    pub state: String,
    /// The code that caused the quarantine.
    pub state_code: Option<i32>,
    /// The reason for its state.
    pub state_reason: Option<String>,
    /// When a quarantined group is probed.
    pub probe_at: Option<Timestamp>,
    /// The cadence it names.
    pub cadence: Option<String>,
    /// Number of new messages without a slot.
    pub unslotted: i64,
    /// Time at which discovery added it; `None` if its owner did.
    pub discovered_at: Option<Timestamp>,
}

/// A slot, i.e. a future call.
#[derive(Debug, Clone, Serialize, FromRow)]
pub struct ExplainedSlot {
    /// The key.
    pub slot_id: SlotId,
    /// When it is due.
    pub next_poll_at: Timestamp,
    /// When it was last answered.
    pub last_polled_at: Option<Timestamp>,
    /// Number of polls in a row without a change.
    pub quiet_polls: i32,
    /// Number of failed polls in a row.
    pub failures: i32,
    /// Its messages.
    pub msg_seqs: Vec<i64>,
    /// Time of sending of the youngest one.
    pub youngest_sent_at: Option<Timestamp>,
}

/// A watched message.
#[derive(Debug, Clone, Serialize, FromRow)]
pub struct ExplainedMessage {
    /// Its number within the group.
    pub msg_seq: i64,
    /// active, or why it is closed.
    pub state: String,
    /// Its slot.
    pub slot_id: Option<SlotId>,
    /// Time of sending.
    pub sent_at: Timestamp,
    /// Number of members who have read it.
    pub read_num: Option<i32>,
    /// Number of members who have not read it.
    pub unread_num: Option<i32>,
    /// The code for the message.
    pub receipt_code: Option<i32>,
    /// When these counts were first seen.
    pub last_changed_at: Option<Timestamp>,
    /// Time until which they are known to hold.
    pub known_until: Option<Timestamp>,
    /// When polling of it stopped.
    pub closed_at: Option<Timestamp>,
    /// Time at which discovery found it; `None` if its owner added it.
    pub discovered_at: Option<Timestamp>,
}

/// An attempt.
#[derive(Debug, Clone, Serialize, FromRow)]
pub struct ExplainedCall {
    /// When.
    pub called_at: Timestamp,
    /// The class of its outcome.
    pub class: String,
    /// The error code.
    pub code: Option<i64>,
    /// Number of messages asked for.
    pub messages_asked: i32,
    /// Latency, in milliseconds.
    pub latency_ms: f32,
    /// The error text.
    pub error: Option<String>,
}

impl ExplainedCall {
    /// The failure, if it returned no receipts.
    pub fn failure(&self) -> Option<Failure> {
        let class = Class::ALL.into_iter().find(|class| class.name() == self.class).unwrap_or(Class::Unknown);
        let info = self.error.clone().unwrap_or_default();
        (class != Class::Success).then_some(Failure { class, code: self.code, info })
    }
}

impl Store {
    /// The latest attempt of this app within ten minutes, for any group: a closed gate is probed more often than
    /// that.
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
        self.run("reading the last call", SHORT, async |database| call.fetch_optional(database).await).await
    }

    /// The state of a group and a message in it. `None` if the group was never watched.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn explain(&self, group: &GroupId, seq: Option<MsgSeq>) -> Result<Option<Explained>, StoreError> {
        let discovered = self.discovered_group(group).await?;
        self.run("looking up a group", SHORT, async |database| {
            let found = query_as::<ExplainedGroup>(
                "SELECT group_key, state, state_code, state_reason, probe_at, cadence, discovered_at, (
                    SELECT count(*) FROM receiptd.watched_messages m
                    WHERE m.group_key = g.group_key AND slot_id IS NULL AND m.closed_at IS NULL
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
                    (SELECT max(coalesce(m.aged_from, m.sent_at)) FROM unnest(
                        receiptd.spread(s.aged_from, cardinality(s.msg_seqs)), receiptd.spread(s.sent_at, cardinality(s.msg_seqs))
                    ) AS m (aged_from, sent_at))
                        AS youngest_sent_at,
                    array(SELECT unnest(s.msg_seqs) ORDER BY 1) AS msg_seqs
                 FROM receiptd.poll_slots s WHERE s.group_key = $1 ORDER BY s.next_poll_at, s.slot_id",
            )
            .bind(found.group_key)
            .fetch_all(&mut *database)
            .await?;
            let message = query_as(
                "SELECT l.msg_seq, l.state, m.slot_id, l.sent_at, l.read_num, l.unread_num, l.receipt_code, l.last_changed_at,
                    l.known_until, l.closed_at, l.discovered_at
                 FROM receiptd.message_state l
                 JOIN receiptd.watched_messages m ON m.group_key = l.group_key AND m.msg_seq = l.msg_seq
                 WHERE l.group_key = $1 AND l.msg_seq = $2",
            )
            .bind(found.group_key)
            .bind(seq.map(|seq| i64::from(seq.get())))
            .fetch_optional(&mut *database)
            .await?;
            let calls = query_as(CALLS).bind(found.group_key).fetch_all(database).await?;
            Ok(Some(Explained { group: found, slots, message, discovered, calls }))
        })
        .await
    }
}
