//! Marks the messages of changes that are stored long after they were seen, because the database was unavailable, with
//! the time of storing.
//!
//! A client that copies changes asks for those since shortly before its last one. Without the mark, it would miss
//! changes with earlier times.

use chrono::TimeDelta;

use crate::{
    domain::Timestamp,
    rules::{recording::Recording, slot::GroupKey},
    store::{connection::StoreConnection, statement::query},
};

/// A change stored within this time after it was seen is dated by the latter. docs/analysts.md has the same value.
const LATE_AFTER: TimeDelta = TimeDelta::minutes(1);

const WRITE: &str = "
    UPDATE receiptd.watched_messages m SET updated_at = clock_timestamp()
    FROM unnest($1::integer[], $2::bigint[]) AS u (group_key, msg_seq)
    WHERE m.group_key = u.group_key AND m.msg_seq = u.msg_seq";

/// Notes the messages with snapshots that were seen long before `now`.
pub(in crate::store) async fn write_late(
    connection: &mut StoreConnection,
    recordings: &[&Recording],
    now: Timestamp,
) -> Result<(), sqlx::Error> {
    let (groups, seqs): (Vec<GroupKey>, Vec<i64>) = recordings
        .iter()
        .flat_map(|recording| recording.snapshots.iter().map(|snapshot| (recording.slot.group_key, snapshot)))
        .filter(|(_, snapshot)| snapshot.polled_at < now - LATE_AFTER)
        .map(|(group_key, snapshot)| (group_key, i64::from(snapshot.seq.get())))
        .unzip();
    if groups.is_empty() {
        return Ok(());
    }
    query(WRITE).bind(groups).bind(seqs).execute(connection).await.map(drop)
}
