//! Milestones and counts at certain ages, written with the changes that settle them.
//!
//! A separate statement, since most polls and changes settle nothing. It only fills nulls or keeps the earlier value,
//! so that the order of recordings doesn't matter.

use crate::{
    domain::{Counts, MsgSeq},
    rules::{
        milestones::{AGES, Milestone, Milestones},
        recording::Recording,
        slot::GroupKey,
    },
    store::{connection::StoreConnection, statement::query},
};

const WRITE: &str = "
    UPDATE receiptd.watched_messages m SET
        first_read_after = CASE WHEN m.first_read_by <= u.first_by OR u.first_by IS NULL THEN m.first_read_after ELSE u.first_after END,
        first_read_by = least(m.first_read_by, u.first_by),
        half_read_after = CASE WHEN m.half_read_by <= u.half_by OR u.half_by IS NULL THEN m.half_read_after ELSE u.half_after END,
        half_read_by = least(m.half_read_by, u.half_by),
        p80_read_after = CASE WHEN m.p80_read_by <= u.p80_by OR u.p80_by IS NULL THEN m.p80_read_after ELSE u.p80_after END,
        p80_read_by = least(m.p80_read_by, u.p80_by),
        p90_read_after = CASE WHEN m.p90_read_by <= u.p90_by OR u.p90_by IS NULL THEN m.p90_read_after ELSE u.p90_after END,
        p90_read_by = least(m.p90_read_by, u.p90_by),
        all_read_after = CASE WHEN m.all_read_by <= u.all_by OR u.all_by IS NULL THEN m.all_read_after ELSE u.all_after END,
        all_read_by = least(m.all_read_by, u.all_by),
        read_15m = coalesce(m.read_15m, u.read_15m), unread_15m = coalesce(m.unread_15m, u.unread_15m),
        read_1h = coalesce(m.read_1h, u.read_1h), unread_1h = coalesce(m.unread_1h, u.unread_1h),
        read_24h = coalesce(m.read_24h, u.read_24h), unread_24h = coalesce(m.unread_24h, u.unread_24h),
        read_7d = coalesce(m.read_7d, u.read_7d), unread_7d = coalesce(m.unread_7d, u.unread_7d)
    FROM unnest($1::integer[], $2::bigint[],
        $3::timestamptz[], $4::timestamptz[], $5::timestamptz[], $6::timestamptz[],
        $7::timestamptz[], $8::timestamptz[], $9::timestamptz[], $10::timestamptz[], $11::timestamptz[], $12::timestamptz[],
        $13::integer[], $14::integer[], $15::integer[], $16::integer[],
        $17::integer[], $18::integer[], $19::integer[], $20::integer[])
        AS u (group_key, msg_seq, first_after, first_by, half_after, half_by, p80_after, p80_by, p90_after, p90_by, all_after, all_by,
            read_15m, unread_15m, read_1h, unread_1h, read_24h, unread_24h, read_7d, unread_7d)
    WHERE m.group_key = u.group_key AND m.msg_seq = u.msg_seq";

/// Corrects milestones by a poll: later ones were dated by a wrong clock.
const TAKE_BACK: &str = "
    UPDATE receiptd.watched_messages m SET
        first_read_by = CASE WHEN m.first_read_by > u.time THEN u.time ELSE m.first_read_by END,
        first_read_after = CASE WHEN m.first_read_after < u.time THEN m.first_read_after END,
        half_read_by = CASE WHEN m.half_read_by > u.time THEN u.time ELSE m.half_read_by END,
        half_read_after = CASE WHEN m.half_read_after < u.time THEN m.half_read_after END,
        p80_read_by = CASE WHEN m.p80_read_by > u.time THEN u.time ELSE m.p80_read_by END,
        p80_read_after = CASE WHEN m.p80_read_after < u.time THEN m.p80_read_after END,
        p90_read_by = CASE WHEN m.p90_read_by > u.time THEN u.time ELSE m.p90_read_by END,
        p90_read_after = CASE WHEN m.p90_read_after < u.time THEN m.p90_read_after END,
        all_read_by = CASE WHEN m.all_read_by > u.time THEN u.time ELSE m.all_read_by END,
        all_read_after = CASE WHEN m.all_read_after < u.time THEN m.all_read_after END
    FROM unnest($1::integer[], $2::bigint[], $3::timestamptz[]) AS u (group_key, msg_seq, time)
    WHERE m.group_key = u.group_key AND m.msg_seq = u.msg_seq AND m.first_read_by IS NOT NULL";

/// Writes the results that the recordings settle.
pub(in crate::store) async fn write_milestones(
    connection: &mut StoreConnection,
    recordings: &[&Recording],
) -> Result<(), sqlx::Error> {
    let rows: Vec<(GroupKey, MsgSeq, Milestones)> = recordings
        .iter()
        .flat_map(|recording| recording.milestones.iter().map(|(seq, made)| (recording.slot.group_key, *seq, *made)))
        .collect();
    if rows.is_empty() {
        return Ok(());
    }
    take_back(connection, &rows).await?;
    let (groups, seqs) = keys(&rows);
    let mut write = query(WRITE).bind(groups).bind(seqs);
    for index in 0..Milestone::ALL.len() {
        let reached = || rows.iter().map(|row| row.2.reached[index]);
        write = write
            .bind(reached().map(|reached| reached.and_then(|reached| reached.after)).collect::<Vec<_>>())
            .bind(reached().map(|reached| reached.map(|reached| reached.by)).collect::<Vec<_>>());
    }
    for index in 0..AGES.len() {
        let counts = |of: fn(Counts) -> u32| {
            rows.iter().map(move |row| row.2.counts[index].and_then(|it| i32::try_from(of(it)).ok()))
        };
        write = write.bind(counts(Counts::read).collect::<Vec<_>>()).bind(counts(Counts::unread).collect::<Vec<_>>());
    }
    write.execute(connection).await.map(drop)
}

async fn take_back(
    connection: &mut StoreConnection,
    rows: &[(GroupKey, MsgSeq, Milestones)],
) -> Result<(), sqlx::Error> {
    let redated: Vec<_> = rows.iter().copied().filter(|row| row.2.none_after.is_some()).collect();
    if redated.is_empty() {
        return Ok(());
    }
    let (groups, seqs) = keys(&redated);
    let times: Vec<_> = redated.iter().map(|row| row.2.none_after).collect();
    query(TAKE_BACK).bind(groups).bind(seqs).bind(times).execute(connection).await.map(drop)
}

fn keys(rows: &[(GroupKey, MsgSeq, Milestones)]) -> (Vec<GroupKey>, Vec<i64>) {
    rows.iter().map(|row| (row.0, i64::from(row.1.get()))).unzip()
}
