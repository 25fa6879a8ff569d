//! A wrong clock: this machine's compared with the database's, and times that an earlier version has stored.

use std::sync::atomic::{AtomicI64, Ordering};

use chrono::TimeDelta;
use receiptd::{clock, domain::Counts, rules::cadence::Cron};
use sqlx::AssertSqlSafe;

use crate::harness::{Harness, group, seq, simulator_config};

/// Every second.
fn all_the_time() -> Cron {
    Cron::parse("* * * * * *", clock::now()).unwrap()
}

/// Something stored by a wrong clock.
const FUTURE: &str = "SELECT count(*) FROM (
        SELECT polled_at AS time FROM receiptd.receipt_snapshots UNION ALL SELECT called_at FROM receiptd.api_calls
        UNION ALL SELECT last_polled_at FROM receiptd.poll_slots UNION ALL SELECT known_until FROM receiptd.poll_slots
        UNION ALL SELECT known_until FROM receiptd.message_state
        UNION ALL SELECT first_polled_at FROM receiptd.message_state
        UNION ALL SELECT rolled_up_until FROM receiptd.poller_leases
        UNION ALL SELECT rolling_up_until FROM receiptd.poller_leases
        UNION ALL SELECT gap_until FROM receiptd.poll_gaps UNION ALL SELECT last_changed_at FROM receiptd.message_milestones
     ) stored WHERE abs(extract(epoch FROM time - now())) > 1800";

#[tokio::test]
async fn a_daemon_with_a_wrong_clock_dates_by_the_database() {
    static DAYS: AtomicI64 = AtomicI64::new(0);
    for days in [100, -100] {
        DAYS.store(days, Ordering::Relaxed);
        let mut rig = Harness::stopped(simulator_config()).await;
        rig.settings.wall = || clock::now() + TimeDelta::days(DAYS.load(Ordering::Relaxed));
        (rig.settings.session.jobs.rollup, rig.settings.session.jobs.retention) = (all_the_time(), all_the_time());
        for age in [10, 95] {
            rig.value::<bool>(&format!("SELECT receiptd.ensure_partition('receipt_snapshots', current_date - {age})"))
                .await;
        }
        rig.watch("g", 1..=3).await;
        rig.start().await;
        rig.until("(SELECT count(*) FROM receiptd.api_calls) > 4").await;
        rig.until("(SELECT rolled_up_until IS NOT NULL FROM receiptd.poller_leases)").await;
        assert_eq!(rig.count("receiptd.watched_messages WHERE state <> 'active'").await, 0, "{days} days");
        assert_eq!(rig.value::<i64>(FUTURE).await, 0, "{days} days");
        let gone =
            "to_regclass('receiptd_partitions.receipt_snapshots_' || to_char(current_date - 95, 'YYYYMMDD')) IS NULL";
        assert!(!rig.value::<bool>(&format!("SELECT {gone}")).await, "old, but the clock is in doubt");
        let doubt = rig.daemon.as_ref().unwrap().status().doubt().unwrap().to_string();
        let said = if days > 0 { "100d ahead of the database's" } else { "100d behind the database's" };
        assert!(doubt.contains(said), "{doubt}");

        DAYS.store(0, Ordering::Relaxed);
        rig.until(gone).await;
        let young = "to_regclass('receiptd_partitions.receipt_snapshots_' || to_char(current_date - 10, 'YYYYMMDD')) IS NOT NULL";
        assert!(rig.value::<bool>(&format!("SELECT {young}")).await);
        // The status follows with the next check of the clocks.
        while rig.daemon.as_ref().unwrap().status().doubt().is_some() {
            let calls = rig.count("receiptd.api_calls").await;
            rig.until(&format!("(SELECT count(*) FROM receiptd.api_calls) > {calls}")).await;
        }
        rig.stop().await;
    }
}

/// Makes all stored polls look as if a clock had been 20 days ahead.
const STORED_20_DAYS_AHEAD: &str = "
    SELECT receiptd.ensure_partition(t, (now() + interval '20 days')::date + d)
    FROM unnest(ARRAY['receipt_snapshots', 'api_calls']) t, generate_series(-1, 1) d;
    UPDATE receiptd.receipt_snapshots SET polled_at = polled_at + interval '20 days';
    UPDATE receiptd.api_calls SET called_at = called_at + interval '20 days';
    UPDATE receiptd.watched_messages m SET first_read_by = e.last_changed_at + interval '20 days',
        all_read_after = e.first_polled_at + interval '20 days', all_read_by = e.last_changed_at + interval '20 days 1 second'
    FROM receiptd.message_state e WHERE e.group_key = m.group_key AND e.msg_seq = m.msg_seq;
    UPDATE receiptd.poll_slots SET last_polled_at = last_polled_at + interval '20 days',
        known_until = known_until + interval '20 days', next_poll_at = next_poll_at + interval '20 days',
        first_polled_at = array(SELECT unnest(first_polled_at) + interval '20 days'),
        changed_at = array(SELECT unnest(changed_at) + interval '20 days'),
        known_apart = array(SELECT unnest(known_apart) + interval '20 days');
    INSERT INTO receiptd.poll_gaps (group_key, gap_from, gap_until, messages, reason)
    SELECT group_key, now(), now() + interval '20 days', 1, 'waiting' FROM receiptd.watched_groups LIMIT 1;
    UPDATE receiptd.poller_leases SET rolled_up_until = now() + interval '20 days', rolling_up_until = now() + interval '20 days';";

#[tokio::test]
async fn stored_times_in_the_future_heal_by_themselves() {
    let mut rig = Harness::stopped(simulator_config()).await;
    let counts = |rig: &Harness, read, unread| {
        rig.simulator.world().set_receipt(&group("g"), seq(1), Counts::new(read, unread).unwrap());
    };
    counts(&rig, 1, 2);
    rig.watch("g", 1..=2).await;
    rig.start().await;
    rig.until("(SELECT count(*) FROM receiptd.latest_receipts WHERE known_until IS NOT NULL) = 2").await;
    rig.stop().await;
    rig.watch("new", [1]).await;
    rig.start().await;
    rig.until("(SELECT count(*) FROM receiptd.poll_slots) = 2").await;
    rig.stop().await;
    sqlx::raw_sql(STORED_20_DAYS_AHEAD).execute(&rig.pool).await.unwrap();
    // One that has a slot but has not been polled yet.
    rig.database.psql("UPDATE receiptd.poll_slots SET last_polled_at = NULL, known_until = NULL WHERE slot_id = (SELECT max(slot_id) FROM receiptd.poll_slots)");
    let at_now = |condition: &str| {
        format!("(SELECT {condition} FROM receiptd.receipts_at(now()) WHERE group_id = 'g' AND msg_seq = 1)")
    };
    assert!(rig.value::<Option<bool>>(&format!("SELECT {}", at_now("true"))).await.is_none(), "it is left out");

    rig.settings.session.jobs.rollup = all_the_time();
    rig.start().await;
    rig.until(&at_now("read_num = 1")).await;
    rig.until(
        "(SELECT bool_and(known_until BETWEEN now() - interval '1 minute' AND now()) FROM receiptd.latest_receipts)",
    )
    .await;
    counts(&rig, 2, 1);
    rig.until(&at_now("read_num = 2")).await;
    rig.until("(SELECT rolled_up_until <= now() AND rolling_up_until <= now() FROM receiptd.poller_leases)").await;
    rig.stop().await;
    for what in [
        "receiptd.poll_slots WHERE greatest(next_poll_at, last_polled_at, known_until) > now() + interval '1 minute'",
        "receiptd.message_state WHERE greatest(first_polled_at, last_changed_at, known_until) > now()",
        "receiptd.message_milestones WHERE greatest(first_polled_at, last_changed_at, all_read_by, all_read_after) > now()",
        "receiptd.poll_gaps WHERE gap_until > now()",
        "receiptd.rollup_redo WHERE hour > now()",
    ] {
        assert_eq!(rig.count(what).await, 0, "{what}");
    }
    let rises: bool = rig
        .value("SELECT bool_and(prior_polled_at < polled_at) FROM receiptd.receipt_snapshots WHERE polled_at < now() AND prior_polled_at IS NOT NULL")
        .await;
    assert!(rises);
    let query = format!("SELECT {}", at_now("unread_num = 1"));
    assert_eq!(
        sqlx::query_scalar::<_, Option<bool>>(AssertSqlSafe(query)).fetch_one(&rig.pool).await.unwrap(),
        Some(true)
    );
}
