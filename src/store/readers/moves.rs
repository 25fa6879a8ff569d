//! Makes the readers of a message due, in the transaction of the poll that saw its counts change.

use crate::{
    domain::Counts,
    rules::{
        recording::{CountsMoved, Kept},
        slot::GroupKey,
    },
    store::{connection::StoreConnection, statement::query},
};

/// If the last answer for a list had the counts before the change, or nobody had read the message then, the list is
/// known until those counts were last seen. Counts that are already in the answer are not due again.
const WRITE: &str = "
    WITH given AS (
        SELECT u.* FROM unnest($1::integer[], $2::bigint[], $3::timestamptz[], $4::timestamptz[], $5::integer[], $6::integer[],
            $7::integer[], $8::integer[], $9::timestamptz[], $10::timestamptz[])
            AS u (group_key, msg_seq, sent_at, polled_at, read_num, unread_num, prior_read, prior_unread, prior_until, polled_from)
        JOIN receiptd.watched_groups g ON g.group_key = u.group_key WHERE g.readers
    ), moved AS (
        UPDATE receiptd.reader_lists l
        SET moved_at = coalesce(l.moved_at, u.polled_at), moved_read = u.read_num, moved_unread = u.unread_num,
            known_until = CASE WHEN u.read_num = 0 THEN greatest(l.known_until, u.polled_from)
                WHEN u.prior_read = 0
                    OR (l.moved_at IS NULL AND l.read_num = u.prior_read AND l.unread_num = u.prior_unread)
                THEN greatest(l.known_until, u.prior_until) ELSE l.known_until END
        FROM given u
        WHERE l.group_key = u.group_key AND l.msg_seq = u.msg_seq AND u.polled_at > coalesce(l.asked_at, '-infinity')
            AND (l.read_num, l.unread_num) IS DISTINCT FROM (u.read_num, u.unread_num)
    )
    INSERT INTO receiptd.reader_lists (group_key, msg_seq, sent_at, known_until, moved_at, moved_read, moved_unread)
    SELECT u.group_key, u.msg_seq, u.sent_at,
        CASE WHEN u.read_num = 0 THEN u.polled_from WHEN u.prior_read = 0 THEN u.prior_until END, u.polled_at, u.read_num, u.unread_num
    FROM given u
    ON CONFLICT (group_key, msg_seq) DO NOTHING";

/// Makes the readers of messages whose counts have changed due.
pub(in crate::store) async fn write_moves(
    connection: &mut StoreConnection,
    polls: &[&Kept],
) -> Result<(), sqlx::Error> {
    let rows: Vec<(GroupKey, CountsMoved)> =
        polls.iter().flat_map(|kept| kept.counts_moved().map(|moved| (kept.recording.slot.group_key, moved))).collect();
    if rows.is_empty() {
        return Ok(());
    }
    let count = |count: u32| i32::try_from(count).unwrap_or(i32::MAX);
    let prior = |of: fn(Counts) -> u32| {
        rows.iter().map(|row| row.1.prior.map(|counts| count(of(counts)))).collect::<Vec<Option<i32>>>()
    };
    query(WRITE)
        .bind(rows.iter().map(|row| row.0).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| i64::from(row.1.seq.get())).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.1.sent_at).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.1.polled_at).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| count(row.1.counts.read())).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| count(row.1.counts.unread())).collect::<Vec<_>>())
        .bind(prior(Counts::read))
        .bind(prior(Counts::unread))
        .bind(rows.iter().map(|row| row.1.prior_until).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.1.asked_at).collect::<Vec<_>>())
        .execute(connection)
        .await
        .map(drop)
}
