//! Statements that are prepared once per connection, and what happens when they are no longer valid.

use receiptd::{host::Holder, rules::slot::SlotKey, store::Store};

use crate::{
    harness::{Harness, app, simulator_config},
    proxy::{Proxy, Sent},
};

/// A rig whose daemon reaches its database through a proxy.
async fn rig_with_proxy() -> (Harness, Proxy) {
    let mut rig = Harness::stopped(simulator_config()).await;
    let proxy = Proxy::start(&rig.database.url()).await;
    rig.settings.database_url = proxy.url().into();
    (rig, proxy)
}

fn slots<const N: usize>(ids: [i64; N]) -> [SlotKey; N] {
    ids.map(|slot_id| SlotKey { group_key: 1, slot_id })
}

/// The names of the prepared statements.
fn names(sent: &[Vec<Sent>]) -> Vec<&str> {
    sent.iter().flatten().filter_map(Sent::prepared).collect()
}

fn round_trips(sent: &[Vec<Sent>]) -> usize {
    sent.iter().flatten().filter(|sent| sent.is_round_trip()).count()
}

#[tokio::test]
async fn a_connection_prepares_once_and_reads_in_one_round_trip() {
    let (_rig, proxy) = rig_with_proxy().await;
    let store = Store::new(&proxy.url().into(), 1, app()).unwrap();
    store.read_slots(&slots([1, 2])).await.unwrap();
    let first = proxy.take_sent();
    assert!(matches!(names(&first)[..], [name] if !name.is_empty()), "{first:?}");
    for _ in 0..3 {
        store.read_slots(&slots([3])).await.unwrap();
    }
    let others = proxy.take_sent();
    assert_eq!(names(&others), Vec::<&str>::new());
    let reads = others.iter().flatten().filter_map(Sent::executed).filter(|text| text.contains("poll_slots"));
    assert_eq!((reads.count(), round_trips(&others)), (3, 3), "{others:?}");
}

#[tokio::test]
async fn a_plan_made_on_an_empty_table_scans_nothing_later() {
    let rig = Harness::stopped(simulator_config()).await;
    let store = Store::new(&rig.settings.database_url, 1, app()).unwrap();
    // The server makes one plan for all values after five executions.
    for _ in 0..8 {
        store.read_slots(&slots([7])).await.unwrap();
    }
    rig.watch("g", [1]).await;
    let fill = "ALTER TABLE receiptd.poll_slots SET (autovacuum_enabled = off);
        INSERT INTO receiptd.poll_slots (group_key, slot_id, next_poll_at)
        SELECT group_key, n, now() FROM receiptd.watched_groups, generate_series(1, 5000) n";
    sqlx::raw_sql(fill).execute(&rig.pool).await.unwrap();
    let read = "SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_user_tables WHERE relname = 'poll_slots'";
    // A session reports how much it has read about a second later.
    while rig.value::<i64>(read).await == 0 {
        assert_eq!(store.read_slots(&slots([7])).await.unwrap().len(), 1);
    }
    assert_eq!(rig.count("pg_stat_user_tables WHERE relname = 'poll_slots' AND seq_tup_read > 0").await, 0);
}

#[tokio::test]
async fn what_takes_long_is_planned_anew_each_time() {
    let (_rig, proxy) = rig_with_proxy().await;
    let store = Store::new(&proxy.url().into(), 1, app()).unwrap();
    for _ in 0..2 {
        store.count_watched().await.unwrap();
    }
    assert_eq!(names(&proxy.take_sent()), ["", ""]);
}

#[tokio::test]
async fn without_names_each_read_prepares_anew_in_a_transaction() {
    let (_rig, proxy) = rig_with_proxy().await;
    let store = Store::new(&proxy.url().into(), 1, app()).unwrap().with_prepared_statements(false);
    let other = store.apart(&proxy.url().into(), 1).unwrap();
    for store in [store, other] {
        store.read_slots(&slots([1])).await.unwrap();
        store.change_url(&proxy.url().into()).unwrap();
        store.read_slots(&slots([1])).await.unwrap();
    }
    let sent = proxy.take_sent();
    assert_eq!((names(&sent), round_trips(&sent)), (vec![""; 4], 16), "{sent:?}");
}

#[tokio::test]
async fn only_the_holder_renews_the_lease_in_one_round_trip() {
    let (_rig, proxy) = rig_with_proxy().await;
    for may_prepare in [true, false] {
        let store = Store::new(&proxy.url().into(), 1, app()).unwrap().with_prepared_statements(may_prepare);
        let (holder, seen) = (Holder::new(), store.look_at_lease().await.unwrap());
        let epoch = store.take_lease(&holder, seen.as_ref()).await.unwrap().unwrap();
        let taken = store.look_at_lease().await.unwrap().unwrap();
        proxy.take_sent();
        assert!(store.under_lease(&holder, epoch).renew_lease().await.unwrap());
        assert_eq!(round_trips(&proxy.take_sent()), 1);
        let renewed = store.look_at_lease().await.unwrap().unwrap();
        assert!(renewed.expires_at > taken.expires_at && renewed.epoch == epoch);
        assert!(!store.under_lease(&Holder::new(), epoch).renew_lease().await.unwrap());
        assert!(!store.under_lease(&holder, epoch + 1).release_lease().await.unwrap());
        assert_eq!(store.look_at_lease().await.unwrap().unwrap(), renewed);
        assert!(store.under_lease(&holder, epoch).release_lease().await.unwrap());
        assert_eq!(store.look_at_lease().await.unwrap().unwrap().holder, None);
    }
}

/// A transaction that executes a statement with this text and prepares none: the messages from its beginning to its
/// end.
fn transaction<'s>(sent: &'s [Vec<Sent>], statement: &str) -> Option<&'s [Sent]> {
    let begins = |sent: &Sent| matches!(sent, Sent::Query(text) if text.starts_with("BEGIN"));
    let ends = |sent: &Sent| matches!(sent, Sent::Query(text) if text.ends_with("COMMIT"));
    let executes = |sent: &Sent| sent.executed().is_some_and(|text| text.contains(statement));
    let ended = sent.iter().flat_map(|sent| sent.split_inclusive(ends)).filter(|part| part.last().is_some_and(ends));
    let whole = ended.filter_map(|part| Some(&part[part.iter().position(begins)?..]));
    let mut wanted =
        whole.filter(|part| part.iter().any(executes) && part.iter().all(|sent| sent.prepared().is_none()));
    wanted.next()
}

#[tokio::test]
async fn a_flush_is_a_round_trip_per_statement_and_two_for_a_copy() {
    let (mut rig, proxy) = rig_with_proxy().await;
    rig.start().await;
    rig.watch("g", 1..=3).await;
    // Several on each of its five connections.
    rig.until("(SELECT count(*) FROM receiptd.api_calls) > 15").await;
    rig.stop().await;
    let sent = proxy.take_sent();
    let flush = transaction(&sent, "COPY receiptd.api_calls").unwrap();
    let texts: Vec<&str> = flush.iter().filter_map(Sent::executed).collect();
    assert!(texts[0].starts_with("BEGIN ISOLATION LEVEL READ COMMITTED"), "{texts:?}");
    assert!(texts.last().unwrap().starts_with("SELECT receiptd.end_under_lease"), "{texts:?}");
    let copies = texts.iter().filter(|text| text.starts_with("COPY ")).count();
    assert_eq!(flush.iter().filter(|sent| sent.is_round_trip()).count(), texts.len() + copies, "{flush:?}");
}

/// Waits until the daemon has made more calls, and asserts at its end that none was lost.
async fn goes_on(mut rig: Harness) {
    let calls = rig.count("receiptd.api_calls").await;
    rig.until(&format!("(SELECT count(*) FROM receiptd.api_calls) > {calls} + 3")).await;
    rig.stop().await;
    let ended = i64::try_from(rig.simulator.ledger().ended_calls()).unwrap();
    assert_eq!(rig.count("receiptd.api_calls").await, ended, "every call has one row");
}

#[tokio::test]
async fn a_schema_change_under_a_prepared_statement_costs_no_poll() {
    let (mut rig, proxy) = rig_with_proxy().await;
    rig.start().await;
    rig.watch("g", 1..=3).await;
    rig.until("(SELECT count(*) FROM receiptd.api_calls) > 2").await;
    rig.database.psql(
        "CREATE DOMAIN public.how_many AS integer;
         ALTER TABLE receiptd.poll_slots ALTER quiet_polls TYPE public.how_many",
    );
    proxy.has_refused("0A000").await;
    goes_on(rig).await;
}

#[tokio::test]
async fn lost_prepared_statements_cost_no_poll_and_lose_their_names() {
    let (mut rig, proxy) = rig_with_proxy().await;
    rig.start().await;
    rig.watch("g", 1..=3).await;
    rig.until("(SELECT count(*) FROM receiptd.api_calls) > 2").await;
    rig.database.psql(
        "CREATE FUNCTION public.forget() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN EXECUTE 'DEALLOCATE ALL'; RETURN NULL; END $$;
         CREATE TRIGGER forget AFTER INSERT ON receiptd.api_calls EXECUTE FUNCTION public.forget()",
    );
    proxy.has_refused("26000").await;
    rig.database.psql("DROP TRIGGER forget ON receiptd.api_calls");
    let calls = rig.count("receiptd.api_calls").await;
    rig.until(&format!("(SELECT count(*) FROM receiptd.api_calls) > {calls}")).await;
    proxy.take_sent();
    goes_on(rig).await;
    let sent = proxy.take_sent();
    assert!(names(&sent).len() > 5 && names(&sent).iter().all(|name| name.is_empty()), "{sent:?}");
}
