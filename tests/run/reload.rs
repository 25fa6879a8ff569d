//! SIGHUP: settings take effect without a restart, or are reported if they don't.

use std::net::{SocketAddr, TcpListener};

use sqlx::PgPool;

use crate::{
    common::TestDatabase,
    harness::{Harness, SECRET_KEY, end, get, signal, watch},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sighup_takes_over_the_key_and_the_cadences_without_a_restart() {
    let (mut place, database) = (Harness::new("reload", 200).await, TestDatabase::new().await);
    place.config = place
        .config
        .replace("every = \"1s\"", "every = \"1h\"")
        .replace(SECRET_KEY, "canary-4c1f-secret-key of another");
    let daemon = place.spawn(Some(&database));
    place.hears("READY=1");
    let pool = PgPool::connect(&database.url()).await.unwrap();
    watch(&pool, 2, 3).await;
    place.hears_of(|line| line.starts_with("STATUS=Tencent Chat refuses the app's calls with code 70"));
    place.config = place.config.replace("canary-4c1f-secret-key of another", SECRET_KEY);
    place.reload(&daemon);
    let refused = place.simulator.ledger().ended_calls();
    place.simulator.wait_for_ended_calls(refused + 2).await;
    // Every message is due in an hour now, unless it is rescheduled.
    place.config = place.config.replace("every = \"1h\"", "every = \"1s\"") + "[log]\nlevel = \"debug\"\n";
    place.reload(&daemon);
    let calls = place.simulator.ledger().ended_calls();
    place.simulator.wait_for_ended_calls(calls + 4).await;
    signal(&daemon, "-TERM");
    let (code, said) = end(daemon);
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.contains("rescheduling the messages") && said.contains("groups=2") && said.contains("DEBUG"),
        "{said}"
    );
    assert!(place.simulator.ledger().highest_sliding_second() <= 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unusable_settings_are_named_and_the_old_ones_stay() {
    let (mut place, database) = (Harness::new("refused", 200).await, TestDatabase::new().await);
    let daemon = place.spawn(Some(&database));
    place.hears("READY=1");
    let good = place.config.clone();
    for (old, new) in [
        ("every = \"1s\"", "every = \"often\""),
        ("sdk_app_id = 1400000000", "sdk_app_id = 1400000001"),
        ("[http]", "[htpt]"),
    ] {
        place.config = good.replace(old, new);
        place.reload(&daemon);
    }
    place.config = good.replace("listen = \"off\"", "listen = \"127.0.0.1:1\"");
    place.reload(&daemon);
    watch(&PgPool::connect(&database.url()).await.unwrap(), 1, 1).await;
    place.simulator.wait_for_ended_calls(2).await;
    signal(&daemon, "-TERM");
    let (code, said) = end(daemon);
    assert_eq!(code, Some(0), "{said}");
    for named in [
        "often",
        "chat.sdk_app_id can't be changed",
        "htpt",
        "http.listen has changed and takes effect after a restart",
    ] {
        assert!(said.contains(named), "{named} is not in\n{said}");
    }
    assert_eq!(said.matches("keeping the old settings").count(), 3, "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_stays_while_other_machines_reach_the_listener() {
    let (mut place, database) = (Harness::new("open", 200).await, TestDatabase::new().await);
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let off = place.config.clone();
    place.config = off.replace("\"off\"", &format!("\"0.0.0.0:{port}\"\ntoken = \"canary-http-token\""));
    let daemon = place.spawn(Some(&database));
    place.hears("READY=1");
    place.config = off.replace("\"off\"", &format!("\"127.0.0.1:{port}\""));
    place.reload(&daemon);
    assert_eq!(get(SocketAddr::from(([127, 0, 0, 1], port)), "/status.json").await.0, 401);
    signal(&daemon, "-TERM");
    let (code, said) = end(daemon);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("http.token can't be removed while receiptd listens at 0.0.0.0:"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_cadence_is_warned_of_with_its_group_and_name() {
    let (place, database) = (Harness::new("cadence", 200).await, TestDatabase::new().await);
    let daemon = place.spawn(Some(&database));
    place.hears("READY=1");
    database.psql("SELECT receiptd.watch_group(1400000000, 'team room', cadence => 'evenings'), receiptd.watch_messages(1400000000, 'team room', '{1}')");
    place.simulator.wait_for_ended_calls(3).await;
    signal(&daemon, "-TERM");
    let (code, said) = end(daemon);
    assert_eq!(code, Some(0), "{said}");
    let warnings: Vec<&str> = said.lines().filter(|line| line.contains("evenings")).collect();
    assert!(warnings.len() == 1 && warnings[0].contains("team room") && warnings[0].contains("default"), "{said}");
}
