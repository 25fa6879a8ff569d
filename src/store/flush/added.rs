//! The rows of a flush that are only added: snapshots and calls.

use crate::{
    domain::Counts,
    rules::{
        protocol::Attempt,
        recording::{Recording, Snapshot},
        slot::GroupKey,
    },
    store::{connection::StoreConnection, copy::Rows, statement::query},
};

/// The columns of a snapshot, in their order in the table.
const SNAPSHOT: &[&str] = &[
    "group_key",
    "read_num",
    "msg_seq",
    "polled_at",
    "prior_polled_at",
    "unread_num",
    "prior_read_num",
    "prior_unread_num",
    "code",
    "is_webhook",
];

/// Snapshots of messages that may already have one at the same time.
const SNAPSHOTS_AGAIN: &str = "
    INSERT INTO receiptd.receipt_snapshots AS s
        (group_key, msg_seq, polled_at, read_num, unread_num, code, prior_polled_at, prior_read_num, is_webhook,
            prior_unread_num)
    SELECT * FROM unnest($1::integer[], $2::bigint[], $3::timestamptz[], $4::integer[], $5::integer[], $6::integer[],
        $7::timestamptz[], $8::integer[], $9::boolean[], $10::integer[])
    ON CONFLICT (group_key, msg_seq, polled_at) DO UPDATE SET read_num = EXCLUDED.read_num,
        unread_num = EXCLUDED.unread_num, code = EXCLUDED.code, prior_polled_at = EXCLUDED.prior_polled_at,
        prior_read_num = EXCLUDED.prior_read_num, is_webhook = EXCLUDED.is_webhook,
        prior_unread_num = EXCLUDED.prior_unread_num";

/// Inserts snapshots. If it `replaces`, existing ones are overwritten.
pub(in crate::store) async fn write_snapshots(
    connection: &mut StoreConnection,
    recordings: &[&Recording],
    replaces: bool,
) -> Result<(), sqlx::Error> {
    let rows: Vec<(GroupKey, Snapshot)> = recordings
        .iter()
        .flat_map(|recording| recording.snapshots.iter().map(|snapshot| (recording.slot.group_key, *snapshot)))
        .collect();
    match (rows.is_empty(), replaces) {
        (true, _) => Ok(()),
        (false, false) => copy_snapshots(connection, &rows).await,
        (false, true) => replace_snapshots(connection, &rows).await,
    }
}

fn count(count: Option<u32>) -> Option<i32> {
    count.and_then(|count| i32::try_from(count).ok())
}

async fn copy_snapshots(connection: &mut StoreConnection, rows: &[(GroupKey, Snapshot)]) -> Result<(), sqlx::Error> {
    let mut copied = Rows::of("receiptd.receipt_snapshots", SNAPSHOT, rows.len());
    for (group_key, snapshot) in rows {
        let counts = snapshot.receipt.counts;
        copied
            .row()
            .value(*group_key)?
            .value(count(counts.map(Counts::read)))?
            .value(i64::from(snapshot.seq.get()))?
            .value(snapshot.polled_at)?
            .value(snapshot.prior_polled_at)?
            .value(count(counts.map(Counts::unread)))?
            .value(count(snapshot.prior_read_num))?
            .value(count(snapshot.prior_unread_num))?
            .value(snapshot.receipt.code)?
            .value(snapshot.is_webhook)?;
    }
    copied.write(connection).await
}

async fn replace_snapshots(connection: &mut StoreConnection, rows: &[(GroupKey, Snapshot)]) -> Result<(), sqlx::Error> {
    let counts = |of: fn(Counts) -> u32| rows.iter().map(|row| count(row.1.receipt.counts.map(of))).collect::<Vec<_>>();
    query(SNAPSHOTS_AGAIN)
        .bind(rows.iter().map(|row| row.0).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| i64::from(row.1.seq.get())).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.1.polled_at).collect::<Vec<_>>())
        .bind(counts(Counts::read))
        .bind(counts(Counts::unread))
        .bind(rows.iter().map(|row| row.1.receipt.code).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.1.prior_polled_at).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| count(row.1.prior_read_num)).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.1.is_webhook).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| count(row.1.prior_unread_num)).collect::<Vec<_>>())
        .execute(connection)
        .await
        .map(drop)
}

/// The columns of a call, in their order in the table.
const CALL: &[&str] = &[
    "called_at",
    "due_at",
    "group_key",
    "attempt",
    "messages_asked",
    "messages_answered",
    "entries_bad",
    "class",
    "code",
    "http_status",
    "latency_ms",
    "error",
];

pub(in crate::store) async fn write_calls(
    connection: &mut StoreConnection,
    recordings: &[&Recording],
) -> Result<(), sqlx::Error> {
    if recordings.iter().all(|recording| recording.attempts.is_empty()) {
        return Ok(());
    }
    let count = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
    let mut copied = Rows::of("receiptd.api_calls", CALL, recordings.len());
    for recording in recordings {
        for (call, number) in recording.attempts.iter().zip(1_i16..) {
            let answer = call.outcome.as_ref().ok();
            copied
                .row()
                .value(call.called_at)?
                .value(recording.due_at)?
                .value(recording.slot.group_key)?
                .value(number)?
                .value(count(call.asked))?
                .value(count(answer.map_or(0, |answer| answer.receipts.len())))?
                .value(answer.map_or(0, |answer| i32::try_from(answer.bad_entries).unwrap_or(i32::MAX)))?
                .value(call.class().name())?
                .value(call.code())?
                .value(call.http_status.and_then(|status| i16::try_from(status).ok()))?
                .value(latency_millis(call))?
                .value(call.trouble().map(|trouble| trouble.info))?;
        }
    }
    copied.write(connection).await
}

fn latency_millis(call: &Attempt) -> f32 {
    call.latency.as_secs_f32() * 1_000.0
}
