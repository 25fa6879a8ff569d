//! Compares the stored intervals of changes with the times when members of the simulated world read.

use chrono::TimeDelta;
use receiptd::{domain::Timestamp, simulator::Simulator};

use crate::{
    harness::{Harness, message},
    stored,
};

/// Maximum drift of two clocks of this machine in a scenario.
const DRIFT: TimeDelta = TimeDelta::milliseconds(10);

/// A change of counts: group, message, the counts before and after, and the bounds of its time.
type Change = (String, i64, i32, i32, Timestamp, Timestamp);

/// Returns the changes that did not happen within their intervals.
pub async fn wrong(scene: &Harness) -> Vec<String> {
    let changes: Vec<Change> = sqlx::query_as(
        "SELECT group_id, msg_seq, prior_read_num, read_num, prior_polled_at, polled_at
         FROM receiptd.receipt_history WHERE read_num > prior_read_num AND prior_polled_at IS NOT NULL",
    )
    .fetch_all(&scene.pool)
    .await
    .unwrap();
    let (least, most) = ahead(scene).await;
    let mut wrong = vec![];
    for (group_id, msg_seq, before, read, after, by) in &changes {
        let moment = |count: i32| read_at(&scene.simulator, group_id, *msg_seq, count);
        let (first, last) = (moment(before + 1), moment(*read));
        if *after >= first + most + DRIFT || *by <= last + least - DRIFT {
            wrong.push(format!(
                "message {msg_seq} of {group_id} was read by {read} between {first} and {last}, not {after} and {by}"
            ));
        }
    }
    println!("{} of {} intervals are wrong", wrong.len(), changes.len());
    wrong.truncate(5);
    wrong
}

fn read_at(simulator: &Simulator, group_id: &str, msg_seq: i64, count: i32) -> Timestamp {
    let count = u32::try_from(count).unwrap();
    simulator.world().read_at(&group_id.parse().unwrap(), message(msg_seq), count).unwrap()
}

/// The time by which the database's clock is ahead of the world's, as bounds.
async fn ahead(scene: &Harness) -> (TimeDelta, TimeDelta) {
    let before = scene.simulator.now();
    let database: Timestamp = stored::scalar(&scene.pool, "SELECT clock_timestamp()").await;
    (database - scene.simulator.now(), database - before)
}
