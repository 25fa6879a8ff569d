//! The clock of the daemon's machine is set 100 days ahead and 100 days back while all jobs run.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use receiptd::{chat::user_sig, clock};
use secrecy::ExposeSecret;

use crate::{
    common::ScratchDirectory,
    daemon::{Daemon, PATIENCE},
    oracle::{Breakage, Promises},
    scene::{APP, LIMIT, SECRET_KEY, Scene, Setup, seconds},
    stored::{Stored, scalar},
};

/// Settings by which every job runs every second.
const ALL_JOBS: [&str; 2] = ["RECEIPTD_JOBS__ROLLUP=* * * * * *", "RECEIPTD_JOBS__RETENTION=* * * * * *"];

/// Times that the daemon stores. Nothing of it is ever further from the database's clock than the scenario lasts.
const DATED_WRONGLY: &str = "SELECT count(*) FROM (
        SELECT polled_at AS time FROM receiptd.receipt_snapshots UNION ALL SELECT called_at FROM receiptd.api_calls
        UNION ALL SELECT unnest(ARRAY[last_polled_at, next_poll_at]) FROM receiptd.poll_slots
        UNION ALL SELECT unnest(ARRAY[known_until, first_polled_at, last_changed_at]) FROM receiptd.watched_messages
        UNION ALL SELECT unnest(ARRAY[rolled_up_until, rolling_up_until]) FROM receiptd.poller_leases
        UNION ALL SELECT unnest(ARRAY[gap_from, gap_until]) FROM receiptd.poll_gaps
        UNION ALL SELECT last_changed_at FROM receiptd.message_milestones
        UNION ALL SELECT hour FROM receiptd.group_receipts_hourly
    ) stored WHERE abs(extract(epoch FROM time - now())) > 2 * 3600";

/// A partition that is older than snapshots are kept, and whether it is there.
const MAKE_OLD: &str = "SELECT receiptd.ensure_partition('receipt_snapshots', current_date - 95)";
const HAS_OLD: &str =
    "SELECT to_regclass('receiptd.receipt_snapshots_' || to_char(current_date - 95, 'YYYYMMDD')) IS NOT NULL";

/// A clock of a machine that can be set. Durations stay as they are.
struct Wall {
    offset: PathBuf,
}

impl Wall {
    fn new(directory: &Path) -> Self {
        let wall = Self { offset: directory.join("clock") };
        wall.set("+0");
        wall
    }

    /// Sets it off by so much, which its processes see within a second.
    fn set(&self, offset: &str) {
        // Whole or not at all, for whoever reads it just now.
        let new = self.offset.with_extension("new");
        fs::write(&new, offset).unwrap();
        fs::rename(new, &self.offset).unwrap();
    }

    /// Words before a program that goes by this clock. `faketime` itself would stand between us and the program.
    fn prefix(&self) -> Vec<OsString> {
        let asked = Command::new("faketime").args(["-m", "-f", "+0", "printenv", "LD_PRELOAD"]).output().unwrap();
        let library = String::from_utf8(asked.stdout).unwrap();
        let mut file = OsString::from("FAKETIME_TIMESTAMP_FILE=");
        file.push(&self.offset);
        let variables = ["FAKETIME_CACHE_DURATION=1", "FAKETIME_DONT_FAKE_MONOTONIC=1", "NO_FAKE_STAT=1"];
        let mut prefix: Vec<OsString> = vec!["env".into(), format!("LD_PRELOAD={}", library.trim()).into(), file];
        prefix.extend(variables.into_iter().chain(ALL_JOBS).map(OsString::from));
        // Signed at the right time: the service refuses what a wrong clock has signed.
        let key = SECRET_KEY.into();
        let signed = user_sig::sign(APP.try_into().unwrap(), "administrator", &key, clock::now(), user_sig::VALIDITY);
        prefix.push(format!("RECEIPTD_CHAT__USER_SIG={}", signed.unwrap().expose_secret()).into());
        prefix
    }
}

/// What `receiptd status` prints on the daemon's machine.
fn status(daemon: &Daemon) -> String {
    let (program, words) = daemon.launch.prefix.split_first().unwrap();
    let mut command = Command::new(program);
    command.args(words).arg(env!("CARGO_BIN_EXE_receiptd")).args(["status", "--config"]).arg(&daemon.launch.config);
    let output = command.env("DATABASE_URL", &daemon.launch.database_url).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Waits until `/readyz` has its say about the clock.
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

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_set_100_days_off_either_way_dates_expires_and_drops_nothing_while_all_jobs_run() {
    let directory = ScratchDirectory::new("clocks");
    let wall = Wall::new(directory.path());
    let setup = Setup { prefix: wall.prefix(), ..Setup::default() };
    let mut scene = Scene::with(directory, setup).await;
    let standby = scene.another_daemon().await;
    let fault = Breakage::begins(&scene);
    for (offset, says) in [("+100d", "100d ahead of the database's"), ("-100d", "100d behind the database's")] {
        wall.set(offset);
        assert_eq!(readiness(&scene.daemon, says).await, 503);
        // From now on it is wrong, and known to be.
        scene.sql(MAKE_OLD).await;
        let rolled_up: String = scalar(&scene.pool, "SELECT now()::text").await;
        scene.lasts(seconds(5)).await;
        scene.after_calls(2 * u64::from(LIMIT)).await;
        assert!(scalar::<bool>(&scene.pool, HAS_OLD).await, "{offset}: dropped, and who knows by which clock");
        assert_eq!(scalar::<i64>(&scene.pool, DATED_WRONGLY).await, 0, "{offset}");
        let closed = "SELECT count(*) FROM receiptd.watched_messages WHERE state <> 'active'";
        assert_eq!(scalar::<i64>(&scene.pool, closed).await, 0, "{offset}");
        let polled = format!("SELECT bool_and(known_until > '{rolled_up}') FROM receiptd.latest_receipts");
        assert!(scalar::<bool>(&scene.pool, &polled).await, "{offset}: not every message was polled");
        let status = status(&scene.daemon);
        assert!(status.contains(says), "{offset}: {status}");
        assert_eq!(readiness(&standby, "standing by").await, 200, "its clock is right");

        wall.set("+0");
        scene.is_ready().await;
        let gone = HAS_OLD.replace("NOT NULL", "NULL");
        assert!(scene.until(&gone, PATIENCE).await, "{offset}: retention does not go on\n{}", scene.daemon.said());
    }
    let epoch: i64 = scalar(&scene.pool, "SELECT epoch FROM receiptd.poller_leases").await;
    assert_eq!(epoch, 1, "the lease has changed hands\n{}", scene.daemon.said());
    drop(standby);
    let promises = Promises { stored: Stored::All, ..Promises::saying("100d ahead of the database's") };
    fault.ends(scene, promises).await;
}
