//! Statements that are prepared once a connection, and what becomes of them when they don't hold any more.

use receiptd::store::Store;

use crate::{
    proxy::{Proxy, Sent},
    rig::{Rig, app, simulator_config},
};

/// A rig whose daemon reaches its database through a proxy.
async fn rig_with_proxy() -> (Rig, Proxy) {
    let mut rig = Rig::stopped(simulator_config()).await;
    let proxy = Proxy::start(&rig.database.url()).await;
    rig.settings.database_url = proxy.url().into();
    (rig, proxy)
}

/// The names of the statements that were prepared.
fn names(sent: &[Sent]) -> Vec<&str> {
    sent.iter().filter_map(Sent::prepared).collect()
}

#[tokio::test]
async fn a_statement_is_prepared_once_a_connection() {
    let (_rig, proxy) = rig_with_proxy().await;
    let store = Store::new(&proxy.url().into(), 1, app()).unwrap();
    store.read_slots(&[1, 2]).await.unwrap();
    let first = proxy.take_sent();
    assert!(matches!(names(&first)[..], [name] if !name.is_empty()), "{first:?}");
    for _ in 0..3 {
        store.read_slots(&[3]).await.unwrap();
    }
    let others = proxy.take_sent();
    assert_eq!(names(&others), Vec::<&str>::new());
    let reads = others.iter().filter_map(Sent::executed).filter(|text| text.contains("poll_slots"));
    assert_eq!(reads.count(), 3, "{others:?}");
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
async fn no_statement_has_a_name_where_that_is_not_wanted() {
    let (_rig, proxy) = rig_with_proxy().await;
    let store = Store::new(&proxy.url().into(), 1, app()).unwrap().with_prepared_statements(false);
    let other = store.apart(&proxy.url().into(), 1).unwrap();
    for store in [store, other] {
        store.read_slots(&[1]).await.unwrap();
        store.change_url(&proxy.url().into()).unwrap();
        store.read_slots(&[1]).await.unwrap();
    }
    assert_eq!(names(&proxy.take_sent()), [""; 4]);
}

/// Waits until the daemon has made more calls, and asserts at its end that none of them is lost.
async fn goes_on(mut rig: Rig) {
    let calls = rig.count("receiptd.api_calls").await;
    rig.until(&format!("(SELECT count(*) FROM receiptd.api_calls) > {calls} + 3")).await;
    rig.stop().await;
    let ended = i64::try_from(rig.simulator.ledger().ended_calls()).unwrap();
    assert_eq!(rig.count("receiptd.api_calls").await, ended, "every call has one row");
}

#[tokio::test]
async fn a_schema_that_is_changed_under_a_prepared_statement_costs_no_poll() {
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
async fn prepared_statements_that_are_lost_cost_no_poll_and_are_named_no_more() {
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
