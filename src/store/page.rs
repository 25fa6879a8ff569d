//! The page's data from the database: the next due calls, read curves of the latest messages, refused groups.

use sqlx::FromRow;

use super::{Store, StoreError, statement::query_as, transaction::SHORT};
use crate::domain::Timestamp;

/// The page's data.
#[derive(Debug, Clone, Default)]
pub struct PageData {
    /// The next due calls.
    pub due: Vec<DueCall>,
    /// Read curves of the newest messages in the groups polled last.
    pub curves: Vec<ReadCurve>,
    /// Groups that the service refuses.
    pub quarantined: Vec<QuarantinedGroup>,
}

/// A future call.
#[derive(Debug, Clone, FromRow)]
pub struct DueCall {
    /// Its group.
    pub group_id: String,
    /// When it is due.
    pub next_poll_at: Timestamp,
    /// Number of messages.
    pub messages: i64,
}

/// The read curve of a message.
#[derive(Debug, Clone, FromRow)]
pub struct ReadCurve {
    /// Its group.
    pub group_id: String,
    /// Its number within the group.
    pub msg_seq: i64,
    /// Time of sending.
    pub sent_at: Timestamp,
    /// When its counts were seen to change …
    pub seen_at: Vec<Timestamp>,
    /// … and the fraction of members who had read it then, in percent.
    pub percent: Vec<f32>,
}

/// A group that the service refuses.
#[derive(Debug, Clone, FromRow)]
pub struct QuarantinedGroup {
    /// The group.
    pub group_id: String,
    /// The error code.
    pub state_code: Option<i32>,
    /// The reason as text.
    pub state_reason: Option<String>,
    /// When it is probed; `None`: only after it is resumed.
    pub probe_at: Option<Timestamp>,
}

const DUE: &str = "
    SELECT g.group_id, s.next_poll_at, cardinality(s.msg_seqs)::bigint AS messages
    FROM (
        SELECT s.* FROM receiptd.poll_slots s JOIN receiptd.watched_groups g USING (group_key)
        WHERE g.sdk_app_id = $1 AND g.state = 'active' ORDER BY s.next_poll_at, s.slot_id LIMIT 10
    ) s JOIN receiptd.watched_groups g USING (group_key) ORDER BY s.next_poll_at, s.slot_id";

/// Messages whose last poll saw a change come first.
const CURVES: &str = "
    WITH polled AS (
        SELECT g.group_key, g.group_id, max(s.last_polled_at) AS polled_at, min(s.quiet_polls) AS quiet_polls
        FROM receiptd.poll_slots s JOIN receiptd.watched_groups g USING (group_key)
        WHERE g.sdk_app_id = $1 AND g.state = 'active' AND s.last_polled_at IS NOT NULL
        GROUP BY g.group_key, g.group_id ORDER BY min(s.quiet_polls) > 0, max(s.last_polled_at) DESC LIMIT 8
    )
    SELECT p.group_id, m.msg_seq, m.sent_at, c.seen_at, c.percent
    FROM polled p
    CROSS JOIN LATERAL (
        SELECT msg_seq, sent_at FROM receiptd.message_state
        WHERE group_key = p.group_key AND state = 'active' AND read_num IS NOT NULL ORDER BY sent_at DESC, msg_seq DESC LIMIT 1
    ) m
    CROSS JOIN LATERAL (
        SELECT array_agg(polled_at ORDER BY polled_at) AS seen_at,
            array_agg((100.0 * read_num / greatest(read_num::bigint + unread_num, 1))::real ORDER BY polled_at) AS percent
        FROM receiptd.receipt_snapshots h
        WHERE h.group_key = p.group_key AND h.msg_seq = m.msg_seq AND h.polled_at >= m.sent_at - interval '1 day'
            AND h.read_num IS NOT NULL
    ) c
    WHERE c.seen_at IS NOT NULL ORDER BY p.quiet_polls > 0, p.polled_at DESC";

const QUARANTINED: &str = "
    SELECT group_id, state_code, state_reason, probe_at FROM receiptd.watched_groups
    WHERE sdk_app_id = $1 AND state = 'quarantined' ORDER BY probe_at NULLS LAST, group_id LIMIT 20";

impl Store {
    /// Reads the page's data.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn glance(&self) -> Result<PageData, StoreError> {
        self.run("reading the page's data", SHORT, async |database| {
            let due = query_as(DUE).bind(self.app()).fetch_all(&mut *database).await?;
            let curves = query_as(CURVES).bind(self.app()).fetch_all(&mut *database).await?;
            let quarantined = query_as(QUARANTINED).bind(self.app()).fetch_all(database).await?;
            Ok(PageData { due, curves, quarantined })
        })
        .await
    }
}
