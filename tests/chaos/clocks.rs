//! The clock of the daemon's machine, or the database's, is set 100 days ahead and 100 days back while all jobs run.

use std::{ffi::OsString, process::Command, time::Duration};

use receiptd::{chat::user_sig, clock};
use secrecy::ExposeSecret;

use crate::{
    common::ScratchDirectory,
    daemon::{Daemon, PATIENCE},
    harness::{APP, Harness, LIMIT, SECRET_KEY, Setup, seconds},
    oracle::{Breakage, Promises},
    server::Server,
    stored::{Stored, scalar},
    wall::Wall,
};

/// Settings that run every job every second.
const ALL_JOBS: [&str; 2] = ["RECEIPTD_JOBS__ROLLUP=* * * * * *", "RECEIPTD_JOBS__RETENTION=* * * * * *"];

/// Stored times. None is ever further from the right time than the scenario lasts.
const DATED_WRONGLY: &str = "SELECT count(*) FROM (
        SELECT polled_at AS time FROM receiptd.receipt_snapshots UNION ALL SELECT called_at FROM receiptd.api_calls
        UNION ALL SELECT unnest(ARRAY[last_polled_at, known_until, next_poll_at]) FROM receiptd.poll_slots
        UNION ALL SELECT unnest(ARRAY[known_until, first_polled_at, last_changed_at]) FROM receiptd.message_state
        UNION ALL SELECT unnest(ARRAY[rolled_up_until, rolling_up_until]) FROM receiptd.poller_leases
        UNION ALL SELECT unnest(ARRAY[gap_from, gap_until]) FROM receiptd.poll_gaps
        UNION ALL SELECT last_changed_at FROM receiptd.message_milestones
        UNION ALL SELECT hour FROM receiptd.group_receipts_hourly
    ) stored WHERE abs(extract(epoch FROM time - '{now}')) > 2 * 3600";

/// A partition older than the retention time, and whether it exists.
const MAKE_OLD: &str = "SELECT receiptd.ensure_partition('receipt_snapshots', '{now}'::date - 95)";
const HAS_OLD: &str = "SELECT to_regclass('receiptd_partitions.receipt_snapshots_' || to_char('{now}'::date - 95, 'YYYYMMDD')) IS NOT NULL";

/// Decisions that a wrong clock must not cause.
const CLOSED: &str = "SELECT count(*) FROM receiptd.watched_messages WHERE state <> 'active'";
const UNPOLLED: &str =
    "SELECT count(*) FROM receiptd.latest_receipts WHERE known_until IS NULL OR known_until <= '{now}'";

/// A query with the right time in it.
fn with_time(query: &str) -> String {
    query.replace("{now}", &clock::now().to_rfc3339())
}

/// A prefix for the daemon's command line that runs every job every second.
fn all_jobs() -> Vec<OsString> {
    ["env".into()].into_iter().chain(ALL_JOBS.map(OsString::from)).collect()
}

/// The same for a daemon with the clock `wall`.
fn all_jobs_by(wall: &Wall) -> Vec<OsString> {
    let mut prefix = all_jobs();
    for (mut variable, value) in wall.variables() {
        variable.push("=");
        variable.push(value);
        prefix.push(variable);
    }
    // Signed at the right time: the service refuses signatures of a wrong clock.
    let key = SECRET_KEY.into();
    let signed = user_sig::sign(APP.try_into().unwrap(), "administrator", &key, clock::now(), user_sig::VALIDITY);
    prefix.push(format!("RECEIPTD_CHAT__USER_SIG={}", signed.unwrap().expose_secret()).into());
    prefix
}

/// What `receiptd status` prints on the daemon's machine.
fn status(daemon: &Daemon) -> String {
    let (program, words) = daemon.launch.prefix.split_first().unwrap();
    let mut command = Command::new(program);
    command.args(words).arg(env!("CARGO_BIN_EXE_receiptd")).args(["status", "--config"]).arg(&daemon.launch.config);
    let output = command.env("DATABASE_URL", &daemon.launch.database_url).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Waits until `/readyz` says this about the clock.
async fn readiness(daemon: &Daemon, says: &str) -> u16 {
    let found = async {
        loop {
            match daemon.get("/readyz", PATIENCE).await {
                Some((status, answer)) if answer.contains(says) => return status,
                _ => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    };
    let found = tokio::time::timeout(PATIENCE, found).await;
    found.unwrap_or_else(|_| panic!("/readyz does not say {says:?}\n{}", daemon.said()))
}

/// Checks while a clock is known to be off by `offset`: all is polled, and nothing closed, dropped or dated by it.
async fn nothing_is_decided(scene: &mut Harness, offset: &str) {
    scene.sql(&with_time(MAKE_OLD)).await;
    let unpolled = with_time(UNPOLLED);
    scene.lasts(seconds(5)).await;
    scene.after_calls(2 * u64::from(LIMIT)).await;
    assert!(scalar::<bool>(&scene.pool, &with_time(HAS_OLD)).await, "{offset}: dropped, by a wrong clock");
    assert_eq!(scalar::<i64>(&scene.pool, &with_time(DATED_WRONGLY)).await, 0, "{offset}");
    assert_eq!(scalar::<i64>(&scene.pool, CLOSED).await, 0, "{offset}");
    assert_eq!(scalar::<i64>(&scene.pool, &unpolled).await, 0, "{offset}: not every message was polled");
}

/// Waits until everything is as before.
async fn heals(scene: &Harness, offset: &str) {
    scene.is_ready().await;
    let gone = with_time(HAS_OLD).replace("NOT NULL", "NULL");
    assert!(scene.until(&gone, PATIENCE).await, "{offset}: retention does not go on\n{}", scene.daemon.said());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_daemon_clock_dates_expires_and_drops_nothing() {
    let directory = ScratchDirectory::new("clocks");
    let wall = Wall::new(directory.path());
    let setup = Setup { prefix: all_jobs_by(&wall), ..Setup::default() };
    let mut scene = Harness::with(directory, setup).await;
    let standby = scene.another_daemon().await;
    let fault = Breakage::begins(&scene);
    for (offset, says) in [("+100d", "100d ahead of the database's"), ("-100d", "100d behind the database's")] {
        wall.set(offset);
        assert_eq!(readiness(&scene.daemon, says).await, 503);
        // From now on, the clock is known to be wrong.
        nothing_is_decided(&mut scene, offset).await;
        let status = status(&scene.daemon);
        assert!(status.contains(says), "{offset}: {status}");
        assert_eq!(readiness(&standby, "standing by").await, 200, "its clock is right");
        wall.set("+0");
        heals(&scene, offset).await;
    }
    let epoch: i64 = scalar(&scene.pool, "SELECT epoch FROM receiptd.poller_leases").await;
    assert_eq!(epoch, 1, "the lease has changed hands\n{}", scene.daemon.said());
    drop(standby);
    let promises = Promises { stored: Stored::All, ..Promises::saying("100d ahead of the database's") };
    fault.ends(scene, promises).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_database_clock_dates_expires_and_drops_nothing() {
    let directory = ScratchDirectory::new("database-clock");
    let wall = Wall::new(directory.path());
    let server = Some(Server::by_clock(directory.path(), &wall));
    let mut scene = Harness::with(directory, Setup { prefix: all_jobs(), server, ..Setup::default() }).await;
    let fault = Breakage::begins(&scene);
    for (offset, says) in [("+100d", "100d behind the database's"), ("-100d", "100d ahead of the database's")] {
        wall.set(offset);
        assert_eq!(readiness(&scene.daemon, says).await, 503);
        nothing_is_decided(&mut scene, offset).await;
        let status = status(&scene.daemon);
        assert!(status.contains(says), "{offset}: {status}");
        let (_, page) = scene.daemon.get("/", PATIENCE).await.unwrap();
        assert!(page.contains(says), "{offset}: {page}");
        wall.set("+0");
        heals(&scene, offset).await;
    }
    scene.sql(&with_time(MAKE_OLD)).await;
    for offset in ["+100d", "-100d", "+2h", "-20d", "+100d"] {
        wall.set(offset);
        // The clock is wrong, which is not known for a while.
        scene.lasts(seconds(2)).await;
    }
    assert_eq!(readiness(&scene.daemon, "behind the database's").await, 503);
    nothing_is_decided(&mut scene, "steps").await;
    wall.set("+0");
    heals(&scene, "steps").await;
    fault.ends(scene, Promises { dates_rightly: false, ..Promises::saying("100d behind the database's") }).await;
}
