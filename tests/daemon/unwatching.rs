//! Messages that are unwatched at the very moment when they are assigned to a slot or move to another one leave it too,
//! with their state.

use std::time::Duration;

use receiptd::{
    rules::{
        cadence::Next,
        slot::{NewMessage, SlotAssignment},
    },
    store::{FIRST, Store},
};
use sqlx::{AssertSqlSafe, PgConnection};

use crate::harness::{Harness, app, simulator_config};

/// Slots of the group, as the daemon creates them: each with its id, and its messages with their read counts.
async fn make_slots(connection: &mut PgConnection, slots: &[(i64, &[(i64, i32)])]) {
    let make = "
        INSERT INTO receiptd.poll_slots (group_key, slot_id, next_poll_at, known_until, read_num, member_num, changed_at, msg_seqs,
            sent_at, aged_from, first_polled_at, code, known_apart, no_receipt_polls, refused_since)
        SELECT g.group_key, $1, now(), now(), $3, array(SELECT read + 4 FROM unnest($3) AS read), array_fill(now(), n), $2, array_fill(now(), n),
            array_fill(null::timestamptz, n), array_fill(now(), n), array_fill(0, n), array_fill(null::timestamptz, n),
            array_fill(0::smallint, n), array_fill(null::timestamptz, n)
        FROM receiptd.watched_groups g, (SELECT ARRAY[cardinality($2::bigint[])] AS n) length";
    for (slot, messages) in slots {
        let (seqs, read): (Vec<i64>, Vec<i32>) = messages.iter().copied().unzip();
        sqlx::query(make).bind(slot).bind(&seqs).bind(&read).execute(&mut *connection).await.unwrap();
        let place = "UPDATE receiptd.watched_messages SET slot_id = $1 WHERE msg_seq = ANY ($2)";
        sqlx::query(place).bind(slot).bind(&seqs).execute(&mut *connection).await.unwrap();
    }
}

async fn drop_slots(connection: &mut PgConnection, slots: &[i64]) {
    let drop = "DELETE FROM receiptd.poll_slots WHERE slot_id = ANY ($1)";
    sqlx::query(drop).bind(slots).execute(connection).await.unwrap();
}

/// The messages of a group, their places and their states; a message in a slot that its row does not name appears
/// twice.
async fn messages(rig: &Harness) -> String {
    rig.value(
        "SELECT string_agg(concat_ws(' ', msg_seq, state, l.read_num, slot_id), ', ' ORDER BY msg_seq, state)
         FROM receiptd.latest_receipts l LEFT JOIN receiptd.watched_messages m USING (group_key, msg_seq, state)",
    )
    .await
}

/// Calls a function while `open` is about to commit. Returns its result.
async fn meanwhile(rig: &Harness, open: sqlx::Transaction<'static, sqlx::Postgres>, call: &str) -> i64 {
    let (pool, call) = (rig.pool.clone(), format!("SELECT receiptd.{call}"));
    let told = tokio::spawn(async move { sqlx::query_scalar(AssertSqlSafe(call)).fetch_one(&pool).await.unwrap() });
    let waits = "pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    while rig.count(waits).await == 0 {
        tokio::task::yield_now().await;
    }
    open.commit().await.unwrap();
    told.await.unwrap()
}

/// Where three messages of a group are, with their states: before, and after the daemon's commit while they are
/// unwatched.
type Move = (&'static str, &'static [(i64, &'static [(i64, i32)])], &'static [(i64, &'static [(i64, i32)])]);

const MOVES: [Move; 5] = [
    ("they get their first slot", &[], &[(7, &[(1, 3), (2, 5), (3, 6)])]),
    ("some join a slot", &[(7, &[(1, 2)])], &[(7, &[(1, 3), (2, 5), (3, 6)])]),
    ("two slots are merged", &[(7, &[(1, 2), (2, 4)]), (8, &[(3, 6)])], &[(8, &[(1, 3), (2, 5), (3, 6)])]),
    ("a slot is split", &[(7, &[(1, 3), (2, 5), (3, 6)])], &[(7, &[(1, 3)]), (8, &[(2, 5), (3, 6)])]),
    ("all move on", &[(9, &[(1, 3), (2, 5), (3, 6)])], &[(7, &[(1, 3)]), (8, &[(2, 5)]), (6, &[(3, 6)])]),
];

#[tokio::test]
async fn a_message_moved_during_unwatching_leaves_its_new_slot() {
    for (what, before, after) in MOVES {
        for (unwatch, removed) in [
            ("unwatch_messages(1400000000, 'g', '{2,1}')", 2),
            ("unwatch_messages(1400000000, 'g')", 3),
            ("unwatch_group(1400000000, 'g')", 3),
        ] {
            let rig = Harness::stopped(simulator_config()).await;
            rig.watch("g", [1, 2, 3]).await;
            make_slots(&mut rig.pool.acquire().await.unwrap(), before).await;
            let mut open = rig.pool.begin().await.unwrap();
            sqlx::query("UPDATE receiptd.watched_messages SET slot_id = NULL").execute(&mut *open).await.unwrap();
            drop_slots(&mut open, &before.iter().map(|slot| slot.0).collect::<Vec<_>>()).await;
            make_slots(&mut open, after).await;
            assert_eq!(meanwhile(&rig, open, unwatch).await, removed, "{what}, {unwatch}");
            let slot = after.iter().find(|slot| slot.1.contains(&(3, 6))).unwrap().0;
            let third = if removed == 3 { "3 removed 6".to_owned() } else { format!("3 active 6 {slot}") };
            assert_eq!(messages(&rig).await, format!("1 removed 3, 2 removed 5, {third}"), "{what}, {unwatch}");
        }
    }
}

#[tokio::test]
async fn watching_while_unwatching_leaves_no_message_behind() {
    let (watch, unwatch) = ("watch_messages(1400000000, 'g', '{4}')", "unwatch_group(1400000000, 'g')");
    for (first, second, expected) in [
        (watch, unwatch, "group removed: 1 removed, 2 removed, 4 removed"),
        (unwatch, watch, "group active: 1 removed, 2 removed, 4 active"),
    ] {
        let rig = Harness::stopped(simulator_config()).await;
        rig.watch("g", [1, 2]).await;
        let mut open = rig.pool.begin().await.unwrap();
        sqlx::query(AssertSqlSafe(format!("SELECT receiptd.{first}"))).execute(&mut *open).await.unwrap();
        meanwhile(&rig, open, second).await;
        let stands =
            "SELECT 'group ' || g.state || ': ' || string_agg(msg_seq || ' ' || m.state, ', ' ORDER BY msg_seq)
            FROM receiptd.watched_groups g JOIN receiptd.watched_messages m USING (group_key) GROUP BY g.state";
        assert_eq!(rig.value::<String>(stands).await, expected);
    }
}

#[tokio::test]
async fn a_message_watched_again_while_it_gets_a_slot_is_placed_as_it_is_now() {
    let rig = Harness::stopped(simulator_config()).await;
    rig.watch("g", [1]).await;
    let store = Store::new(&rig.database.url().into(), 2, app()).unwrap();
    let again = "SELECT receiptd.unwatch_messages(1400000000, 'g', '{1}');
        SELECT receiptd.watch_messages(1400000000, 'g', '{1}', now() + interval '1 hour')";
    let place = async |meanwhile: &str| {
        let pack = |fresh: &[NewMessage], _: &_| {
            rig.database.psql(meanwhile);
            let first = Next { due: fresh[0].sent_at, every: Duration::from_secs(60) };
            vec![SlotAssignment { slot_id: None, group_key: fresh[0].group_key, first, seqs: vec![fresh[0].seq] }]
        };
        store.slot_new_messages(FIRST, pack).await.unwrap().messages
    };
    assert_eq!(place(again).await, 0, "it is another message by now");
    assert_eq!(rig.count("receiptd.poll_slots").await, 0);
    assert_eq!(place("SELECT 1").await, 1);
    let is_same = "(SELECT s.aged_from[1] = m.aged_from AND s.sent_at[1] = m.sent_at
        FROM receiptd.poll_slots s JOIN receiptd.watched_messages m USING (slot_id))";
    assert!(rig.value::<bool>(is_same).await);
}
