//! Changes that are stored long after they were seen, since the database was away: their messages say when they were stored.
//!
//! Whoever copies what has changed asks from shortly before the last change on. A change that is dated earlier would be missed.

use chrono::TimeDelta;

use crate::{
    domain::Timestamp,
    recording::Recording,
    slot::GroupKey,
    store::{session::Session, statement::query},
};

/// What is stored within this time after it was seen is dated by that. docs/analysts.md has the same.
const LATE_AFTER: TimeDelta = TimeDelta::minutes(1);

const WRITE: &str = "
    UPDATE receiptd.watched_messages m SET updated_at = clock_timestamp()
    FROM unnest($1::integer[], $2::bigint[]) AS u (group_key, msg_seq)
    WHERE m.group_key = u.group_key AND m.msg_seq = u.msg_seq";

/// Notes which messages have snapshots that were seen long before `now`.
pub(in crate::store) async fn write_late(
    connection: &mut Session,
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
