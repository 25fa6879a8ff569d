//! `receiptd run` as systemd and the kernel treat it: started, told to stop, killed, started again.
//!
//! The runtimes have threads of their own: the tests block while they wait for the daemon, the simulated Chat must not.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::{
    fs::{self, File},
    io::Write,
    net::{SocketAddr, TcpListener},
    os::unix::{fs::MetadataExt, net::UnixDatagram},
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use common::{ScratchDirectory, TestDatabase, own_address};
use receiptd::{
    domain::SdkAppId,
    simulator::{Fault, FaultRule, Simulator, SimulatorConfig, When},
};
use sqlx::PgPool;

const APP: i64 = 1_400_000_000;
const SECRET_KEY: &str = "canary-4c1f-secret-key";
/// Where no database is.
const AWAY: &str = "postgres://receiptd@127.0.0.1:1/receiptd";
const PATIENCE: Duration = Duration::from_secs(60);

/// A place for one daemon at a time, with a simulated Chat and a socket that hears what systemd would.
struct Place {
    directory: ScratchDirectory,
    simulator: Simulator,
    systemd: UnixDatagram,
    config: String,
}

impl Place {
    async fn new(name: &str, limit: u32) -> Self {
        let directory = ScratchDirectory::new(name);
        let mut config = SimulatorConfig::new(SdkAppId::try_from(APP).unwrap(), "administrator", SECRET_KEY.into());
        config.latency = Duration::ZERO..=Duration::from_millis(30);
        config.world.median_reading_time = Duration::from_secs(3);
        config.calls_per_second = limit;
        let simulator = Simulator::start(config).await.unwrap();
        let systemd = UnixDatagram::bind(directory.path().join("notify")).unwrap();
        systemd.set_read_timeout(Some(PATIENCE)).unwrap();
        let config = format!(
            "[chat]\nsdk_app_id = {APP}\nsecret_key = \"{SECRET_KEY}\"\nendpoint = \"{}\"\n[http]\nlisten = \"off\"\n\
             [polling]\nmax_calls_per_second = {limit}\n\
             [cadence.default]\ntiers = [{{ until = \"1h\", every = \"1s\" }}]\nstop_when_all_read = false\n",
            simulator.endpoint()
        );
        Self { directory, simulator, systemd, config }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn spawn(&self, database: Option<&TestDatabase>) -> Child {
        self.spawn_with(database, &[("WATCHDOG_USEC", "4000000")])
    }

    fn spawn_with(&self, database: Option<&TestDatabase>, variables: &[(&str, &str)]) -> Child {
        let config = self.write_config();
        let mut command = Command::new(env!("CARGO_BIN_EXE_receiptd"));
        command.args(["run", "--config"]).arg(config).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap());
        command.env("NOTIFY_SOCKET", self.path("notify")).env("STATE_DIRECTORY", self.directory.path());
        command.envs(variables.iter().copied());
        if let Some(database) = database {
            command.env("DATABASE_URL", database.url());
        }
        command.spawn().unwrap()
    }

    /// Waits until the daemon has told systemd this.
    fn hears(&self, state: &str) {
        self.hears_of(|line| line == state);
    }

    /// Waits until the daemon has told systemd something of the kind, and tells what.
    fn hears_of(&self, is_it: impl Fn(&str) -> bool) -> String {
        let mut message = [0; 1_024];
        loop {
            let length = self.systemd.recv(&mut message).unwrap();
            if let Some(line) = String::from_utf8_lossy(&message[..length]).lines().find(|line| is_it(line)) {
                return line.to_owned();
            }
        }
    }

    fn write_config(&self) -> PathBuf {
        let config = self.path("receiptd.toml");
        fs::write(&config, &self.config).unwrap();
        config
    }

    /// Has the next daemon serve HTTP, and tells where.
    fn listens(&mut self) -> SocketAddr {
        let listen = own_address();
        self.config = self.config.replace("listen = \"off\"", &format!("listen = \"{listen}\""));
        listen
    }

    /// Has the daemon read its settings again, as they are now.
    fn reload(&self, daemon: &Child) {
        self.write_config();
        signal(daemon, "-HUP");
        self.hears("RELOADING=1");
        self.hears("READY=1");
    }
}

/// What the daemon answers there.
async fn get(listen: SocketAddr, path: &str) -> (u16, String) {
    _ = rustls::crypto::ring::default_provider().install_default();
    let answer = reqwest::get(format!("http://{listen}{path}")).await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

fn signal(daemon: &Child, signal: &str) {
    assert!(Command::new("kill").arg(signal).arg(daemon.id().to_string()).status().unwrap().success());
}

/// What the daemon said and how it ended; it must not have told its secret.
fn end(daemon: Child) -> (Option<i32>, String) {
    let Output { status, stdout, stderr } = daemon.wait_with_output().unwrap();
    let said = String::from_utf8(stdout).unwrap() + &String::from_utf8(stderr).unwrap();
    assert!(!said.contains("canary"), "{said}");
    (status.code(), said)
}

/// Makes the schema, without a daemon.
fn migrate(database: &TestDatabase) {
    let mut migrate = Command::new(env!("CARGO_BIN_EXE_receiptd"));
    migrate.args(["migrate", "--set", "chat.sdk_app_id=1400000000"]).env("DATABASE_URL", database.url());
    let migrate = migrate.output().unwrap();
    assert!(migrate.status.success() && String::from_utf8_lossy(&migrate.stdout).contains("was made"), "{migrate:?}");
}

async fn watch(pool: &PgPool, groups: i32, messages: i64) {
    let sql = "SELECT receiptd.watch_messages($1, 'g' || g, array(SELECT generate_series(1::bigint, $2))) FROM generate_series(1, $3) g";
    sqlx::query(sql).bind(APP).bind(messages).bind(groups).execute(pool).await.unwrap();
}

async fn count(pool: &PgPool, what: &'static str) -> i64 {
    sqlx::query_scalar(what).fetch_one(pool).await.unwrap()
}

const SNAPSHOTS: &str = "SELECT count(*) FROM receiptd.receipt_snapshots";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_and_sigint_end_it_cleanly_with_all_that_was_answered_stored() {
    for name in ["-TERM", "-INT"] {
        let (place, database) = (Place::new("signal", 200).await, TestDatabase::new().await);
        let daemon = place.spawn(Some(&database));
        place.hears("READY=1");
        let pool = PgPool::connect(&database.url()).await.unwrap();
        watch(&pool, 60, 20).await;
        place.simulator.wait_for_ended_calls(200).await;
        signal(&daemon, name);
        place.hears("STOPPING=1");
        let (code, said) = end(daemon);
        assert_eq!(code, Some(0), "{said}");
        let ledger = place.simulator.ledger();
        let answered: usize = ledger.all_answers().map(|(_, _, receipts)| receipts.len()).sum();
        assert_eq!(count(&pool, SNAPSHOTS).await, i64::try_from(answered).unwrap());
        let calls = count(&pool, "SELECT count(*) FROM receiptd.api_calls").await;
        assert_eq!(calls, i64::try_from(ledger.calls()).unwrap());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_starts_after_sigterm_though_many_are_due() {
    let (place, database) = (Place::new("stop", 5).await, TestDatabase::new().await);
    let daemon = place.spawn(Some(&database));
    place.hears("READY=1");
    let pool = PgPool::connect(&database.url()).await.unwrap();
    watch(&pool, 100, 3).await;
    place.simulator.wait_for_calls(8).await;
    signal(&daemon, "-TERM");
    place.hears("STOPPING=1");
    let calls = place.simulator.ledger().calls();
    assert_eq!(end(daemon).0, Some(0));
    assert!(
        place.simulator.ledger().calls() <= calls + 1,
        "{} calls after it",
        place.simulator.ledger().calls() - calls
    );
    let unpolled = "SELECT count(*) FROM receiptd.poll_slots WHERE last_polled_at IS NULL AND next_poll_at <= now()";
    assert!(count(&pool, unpolled).await > 80, "what was not polled is still due");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_it_stops_it_can_be_asked_how_that_goes() {
    let (mut place, database) = (Place::new("stopping", 200).await, TestDatabase::new().await);
    let listen = place.listens();
    let daemon = place.spawn(Some(&database));
    place.hears("READY=1");
    let fault = Fault::ExtraDelay { duration: Duration::from_secs(5) };
    place.simulator.add_fault(FaultRule { fault, when: When::All, times: None });
    watch(&PgPool::connect(&database.url()).await.unwrap(), 1, 1).await;
    place.simulator.wait_for_calls(1).await;
    signal(&daemon, "-TERM");
    place.hears("STOPPING=1");
    let (status, metrics) = get(listen, "/metrics").await;
    assert!(status == 200 && metrics.contains("receiptd_polls_in_flight{sdk_app_id=\"1400000000\"} 1"), "{metrics}");
    assert_eq!(end(daemon).0, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_readiness_and_metrics_tell_what_is_so_and_no_secret() {
    let (mut place, database) = (Place::new("ops", 200).await, TestDatabase::new().await);
    let listen = place.listens();
    let daemon = place.spawn(Some(&database));
    place.hears("READY=1");
    let get = async |path: &str| get(listen, path).await;
    assert_eq!(get("/healthz").await, (200, r#"{"ok":true}"#.to_owned()));
    let ready = r#"{"database":{"ok":true},"schema":{"ok":true},"lease":{"ok":true},"credentials":{"ok":true},"storing":{"ok":true}}"#;
    assert_eq!(get("/readyz").await, (200, ready.to_owned()));
    let pool = PgPool::connect(&database.url()).await.unwrap();
    watch(&pool, 3, 3).await;
    place.simulator.wait_for_ended_calls(3).await;
    place.simulator.add_fault(FaultRule { fault: Fault::ErrorCode { code: 60021 }, when: When::All, times: Some(1) });
    let calls = place.simulator.ledger().ended_calls();
    place.simulator.wait_for_ended_calls(calls + 1).await;
    let (mut status, mut body) = get("/readyz").await;
    while status == 200 {
        (status, body) = get("/readyz").await;
    }
    assert!(status == 503 && body.contains("60021"), "{body}");
    let (_, metrics) = get("/metrics").await;
    for line in [
        "receiptd_calls_total{sdk_app_id=\"1400000000\",class=\"success\",code=\"0\"}",
        "code=\"60021\"} 1",
        "reason=\"stopped\"} 0",
        "class=\"retry\",code=\"none\"} 0",
        "class=\"unknown\",code=\"none\"} 0",
        "receiptd_flush_failures_total{sdk_app_id=\"1400000000\",sqlstate=\"none\"} 0",
        "class=\"slow_down\",code=\"60007\"} 0",
        "class=\"deadline\"} 0",
        "cadence=\"default\",tier=\"1h\"}",
        "receiptd_is_storing{sdk_app_id=\"1400000000\"} 1",
        "receiptd_lease_epoch{sdk_app_id=\"1400000000\"} 1",
    ] {
        assert!(metrics.contains(line), "{line} is missing in\n{metrics}");
    }
    assert!(!metrics.contains("canary") && !body.contains("canary"));
    let status = ["status", "--json", "--config", place.write_config().to_str().unwrap()].map(str::to_owned);
    let mut command = Command::new(env!("CARGO_BIN_EXE_receiptd"));
    // A proxy of the environment is not asked for what is on this machine.
    command.args(status).env("DATABASE_URL", database.url()).env("http_proxy", "http://127.0.0.1:1");
    let status: serde_json::Value = serde_json::from_slice(&command.output().unwrap().stdout).unwrap();
    assert!(status["database"]["holder"].as_str().unwrap().contains(&daemon.id().to_string()), "{status}");
    assert!(status["daemon"]["trouble"].as_str().unwrap().contains("code 60021"), "{status}");
    assert_eq!((&status["daemon"]["role"], &status["daemon"]["epoch"]), (&"polling".into(), &1.into()), "{status}");
    assert_eq!(promtool_check(&metrics), "", "{metrics}");
    database.psql("UPDATE receiptd.schema_migrations SET version = 9999 WHERE version = 1");
    let (status, body) = get("/readyz").await;
    assert!(status == 503 && body.contains("it is at migration 9999"), "{body}");
    signal(&daemon, "-TERM");
    assert_eq!(end(daemon).0, Some(0));
}

/// What Prometheus finds to say about an exposition.
fn promtool_check(metrics: &str) -> String {
    let mut promtool = Command::new("promtool");
    promtool.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut promtool = promtool.spawn().unwrap();
    promtool.stdin.take().unwrap().write_all(metrics.as_bytes()).unwrap();
    let Output { stdout, stderr, .. } = promtool.wait_with_output().unwrap();
    String::from_utf8([stdout, stderr].concat()).unwrap()
}

#[test]
fn every_alert_fires_where_it_should_and_none_while_all_is_well() {
    let dashboards = concat!(env!("CARGO_MANIFEST_DIR"), "/dashboards");
    let tested = Command::new("promtool").args(["test", "rules", "alerts_test.yml"]).current_dir(dashboards).output();
    let tested = tested.unwrap();
    assert!(tested.status.success(), "{}", String::from_utf8_lossy(&tested.stdout));
    let file = |name: &str| fs::read_to_string(format!("{dashboards}/{name}")).unwrap();
    let (tests, docs) = (file("alerts_test.yml"), file("../docs/operators.md"));
    for name in file("alerts.yml").lines().filter_map(|line| line.trim().strip_prefix("- alert: ").map(str::to_owned)) {
        assert!(tests.contains(&format!("- name: {name}\n")), "{name} has no test");
        assert!(docs.contains(&format!("| `{name}`")), "{name} is not in the docs");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn how_long_partitions_last_is_told_also_where_none_can_be_made() {
    let (mut place, database) = (Place::new("runway", 200).await, TestDatabase::new().await);
    let listen = place.listens();
    migrate(&database);
    database.psql(
        "DO $$ BEGIN EXECUTE 'DROP TABLE receiptd.api_calls_' || to_char(now() AT TIME ZONE 'UTC' + interval '1 day', 'YYYYMMDD'); END $$;
         CREATE OR REPLACE FUNCTION receiptd.ensure_partition(parent text, day date) RETURNS boolean LANGUAGE plpgsql AS $$
         BEGIN RAISE EXCEPTION 'no partitions today'; END $$",
    );
    let daemon = place.spawn(Some(&database));
    place.hears_of(|line| line.starts_with("STATUS=waiting for the database: ") && line.contains("no partitions"));
    let until = "SELECT extract(epoch FROM date_trunc('day', now(), 'UTC'))::bigint + 86400";
    let line = format!(
        "\nreceiptd_partitions_until_timestamp_seconds{{sdk_app_id=\"1400000000\"}} {}\n",
        database.psql(until)
    );
    let (_, metrics) = get(listen, "/metrics").await;
    assert!(metrics.contains(&line), "{line} is missing in\n{metrics}");
    signal(&daemon, "-TERM");
    assert_eq!(end(daemon).0, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn systemd_hears_what_is_polled_and_that_the_loop_turns() {
    let (place, database) = (Place::new("status", 200).await, TestDatabase::new().await);
    migrate(&database);
    watch(&PgPool::connect(&database.url()).await.unwrap(), 3, 3).await;
    let daemon = place.spawn(Some(&database));
    place.hears("READY=1");
    place.hears_of(|line| line.starts_with("STATUS=polling 9 messages in 3 groups, ") && line.ends_with(" s behind"));
    // One at the start would show nothing.
    place.hears("WATCHDOG=1");
    place.hears("WATCHDOG=1");
    signal(&daemon, "-TERM");
    assert_eq!(end(daemon).0, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_systemd_that_does_not_listen_holds_up_nothing() {
    let (place, database) = (Place::new("deaf", 200).await, TestDatabase::new().await);
    let daemon = place.spawn_with(Some(&database), &[("WATCHDOG_USEC", "4000")]);
    place.hears("READY=1");
    watch(&PgPool::connect(&database.url()).await.unwrap(), 1, 1).await;
    // Fed every millisecond, the socket is full long before this: it holds some tens of messages.
    place.simulator.wait_for_ended_calls(4).await;
    signal(&daemon, "-TERM");
    assert_eq!(end(daemon).0, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sighup_takes_over_the_key_and_the_cadences_without_a_restart() {
    let (mut place, database) = (Place::new("reload", 200).await, TestDatabase::new().await);
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
    assert!(said.contains("the messages of 2 groups are rescheduled") && said.contains("DEBUG"), "{said}");
    assert!(place.simulator.ledger().highest_sliding_second() <= 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_that_cannot_be_taken_are_named_and_the_old_ones_stay() {
    let (mut place, database) = (Place::new("refused", 200).await, TestDatabase::new().await);
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
    for named in
        ["often", "chat.sdk_app_id can't change", "htpt", "http.listen has changed, which holds from the next start"]
    {
        assert!(said.contains(named), "{named} is not in\n{said}");
    }
    assert_eq!(said.matches("the settings stay as they were").count(), 3, "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_stays_as_long_as_other_machines_reach_the_address_that_is_listened_at() {
    let (mut place, database) = (Place::new("open", 200).await, TestDatabase::new().await);
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
    assert!(said.contains("http.token can't go as long as receiptd listens at 0.0.0.0:"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cadence_that_the_config_lacks_is_warned_of_with_the_group_and_the_name() {
    let (place, database) = (Place::new("cadence", 200).await, TestDatabase::new().await);
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

/// Has three polls of the group be refused in part, after `trouble`, and gives the lines that the daemon says with `words`.
async fn said_of_three_refused_polls(name: &str, trouble: &str, words: &str) -> Vec<String> {
    let (place, database) = (Place::new(name, 200).await, TestDatabase::new().await);
    let daemon = place.spawn(Some(&database));
    place.hears("READY=1");
    database.psql(trouble);
    database.psql("SELECT receiptd.watch_messages(1400000000, 'team room', '{1,7}')");
    while database.psql("SELECT count(DISTINCT set_aside_at) > 2 FROM receiptd.set_aside") == "f" {
        let calls = place.simulator.ledger().ended_calls();
        place.simulator.wait_for_ended_calls(calls + 1).await;
    }
    signal(&daemon, "-TERM");
    let (code, said) = end(daemon);
    assert_eq!(code, Some(0), "{said}");
    said.lines().filter(|line| line.contains(words)).map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_tables_refuse_is_said_once_with_the_group_and_the_reason() {
    let refuse = "ALTER TABLE receiptd.receipt_snapshots ADD CONSTRAINT no_seven CHECK (msg_seq <> 7)";
    let lines = said_of_three_refused_polls("aside", refuse, "kept in receiptd.set_aside").await;
    assert!(lines.len() == 1, "{lines:#?}");
    for part in ["group=\"team room\"", "sqlstate=\"23514\"", "no_seven", "count=1", "rows=1"] {
        assert!(lines[0].contains(part), "{part} is not in {}", lines[0]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_that_can_not_be_made_is_said_once() {
    let lose = "DO $$ BEGIN EXECUTE 'DROP TABLE receiptd.receipt_snapshots_' || to_char(now() AT TIME ZONE 'UTC', 'YYYYMMDD'); END $$;
        CREATE OR REPLACE FUNCTION receiptd.ensure_partition(parent text, day date) RETURNS boolean LANGUAGE plpgsql AS $$
        BEGIN RAISE EXCEPTION 'no partitions today'; END $$";
    let lines = said_of_three_refused_polls("unmade", lose, "could not be made").await;
    assert!(lines.len() == 1 && lines[0].contains("no partitions today"), "{lines:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_kill_9_nothing_committed_is_lost_and_every_message_is_polled_on_within_the_limit() {
    let (place, database) = (Place::new("kill", 40).await, TestDatabase::new().await);
    let mut daemon = place.spawn(Some(&database));
    place.hears("READY=1");
    let pool = PgPool::connect(&database.url()).await.unwrap();
    // More than the limit can carry, so that it calls all the time.
    watch(&pool, 60, 70).await;
    for round in 1..=3 {
        place.simulator.wait_for_calls(round * 60).await;
        daemon.kill().unwrap();
        end(daemon);
        let kept = count(&pool, SNAPSHOTS).await;
        assert!(kept > 0);
        daemon = place.spawn(Some(&database));
        place.hears("READY=1");
        assert!(count(&pool, SNAPSHOTS).await >= kept);
    }
    let restarted = place.simulator.ledger().calls();
    // Every slot once more, and then some.
    place.simulator.wait_for_ended_calls(restarted + 300).await;
    signal(&daemon, "-TERM");
    assert_eq!(end(daemon).0, Some(0));
    let forgotten = "SELECT count(*) FROM receiptd.latest_receipts WHERE state = 'active' AND (known_until IS NULL OR known_until < now() - interval '1 minute')";
    assert_eq!(count(&pool, forgotten).await, 0);
    assert_eq!(count(&pool, "SELECT count(*) FROM receiptd.latest_receipts WHERE state = 'active'").await, 60 * 70);
    let ledger = place.simulator.ledger();
    assert!(ledger.highest_sliding_second() <= 40, "{} calls in a second", ledger.highest_sliding_second());
    for (group, seq, receipts) in ledger.all_answers() {
        let last: (i32, i32) = sqlx::query_as(
            "SELECT read_num, unread_num FROM receiptd.latest_receipts WHERE group_id = $1 AND msg_seq = $2",
        )
        .bind(group.as_str())
        .bind(i64::from(seq.get()))
        .fetch_one(&pool)
        .await
        .unwrap();
        let counts = receipts.last().and_then(|receipt| receipt.counts).unwrap();
        assert_eq!((last.0.unsigned_abs(), last.1.unsigned_abs()), (counts.read(), counts.unread()), "{group} {seq}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_database_url_it_has_a_private_one_and_takes_it_along_when_it_ends() {
    let place = Place::new("private", 200).await;
    for round in 1..=2 {
        let daemon = place.spawn(None);
        place.hears("READY=1");
        let socket = place.path("postgres/socket");
        let url = format!("postgres://postgres@localhost/receiptd?host={}", socket.display());
        let pool = PgPool::connect(&url).await.unwrap();
        assert_eq!(
            count(&pool, "SELECT count(*) FROM receiptd.watched_messages").await,
            if round == 1 { 0 } else { 5 }
        );
        watch(&pool, 1, 5).await;
        let calls = place.simulator.ledger().calls();
        place.simulator.wait_for_ended_calls(calls + 2).await;
        pool.close().await;
        signal(&daemon, "-TERM");
        let (code, said) = end(daemon);
        assert_eq!(code, Some(0), "{said}");
        assert!(said.contains("private PostgreSQL"), "{said}");
        assert!(!place.path("postgres/cluster/postmaster.pid").exists(), "its server has ended");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schema_that_is_newer_ends_it_as_a_fault_of_the_configuration() {
    let (place, database) = (Place::new("newer", 200).await, TestDatabase::new().await);
    migrate(&database);
    database.psql("INSERT INTO receiptd.schema_migrations VALUES (9999, 'from the future', now(), true, '', 0)");
    let (code, said) = end(place.spawn(Some(&database)));
    assert_eq!(code, Some(78), "{said}");
    assert!(said.contains("newer receiptd"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_its_database_is_away_it_lives_says_so_and_can_be_stopped() {
    let mut place = Place::new("away", 200).await;
    let listen = place.listens();
    place.config += &format!("[database]\nurl = \"{AWAY}\"\n");
    let daemon = place.spawn(None);
    let waits = place.hears_of(|line| line.starts_with("STATUS=waiting for the database: "));
    assert!(waits.contains("refused"), "{waits}");
    assert_eq!(get(listen, "/healthz").await.0, 200);
    let (status, body) = get(listen, "/readyz").await;
    assert!(
        status == 503 && body.contains("\"lease\":{\"ok\":false,\"reason\":\"waiting for the database: "),
        "{body}"
    );
    assert!(get(listen, "/metrics").await.1.contains("receiptd_is_polling{sdk_app_id=\"1400000000\"} 0"));
    assert!(get(listen, "/status.json").await.1.contains("\"line\":\"waiting for the database: "));
    signal(&daemon, "-TERM");
    place.hears("STOPPING=1");
    let (code, said) = end(daemon);
    assert_eq!(code, Some(0), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_that_somebody_has_ends_it_at_once_though_its_database_is_away() {
    let mut place = Place::new("taken", 200).await;
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    place.config = place.config.replace("\"off\"", &format!("\"{}\"", taken.local_addr().unwrap()));
    place.config += &format!("[database]\nurl = \"{AWAY}\"\n");
    let (code, said) = end(place.spawn(None));
    assert_eq!(code, Some(69), "{said}");
    assert!(said.contains("is another process there?"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sighup_takes_over_what_the_database_was_waited_for() {
    let (mut place, database) = (Place::new("waiting", 200).await, TestDatabase::new().await);
    let good = place.config.clone() + &format!("[database]\nurl = \"{}\"\n", database.url());
    let read_only = "&options=-cdefault_transaction_read_only=on\"\n";
    place.config = good.trim_end_matches("\"\n").to_owned() + read_only;
    let daemon = place.spawn(None);
    place.hears_of(|line| line.starts_with("STATUS=waiting for the database: ") && line.contains("read-only"));
    place.config = good;
    place.write_config();
    signal(&daemon, "-HUP");
    place.hears("READY=1");
    signal(&daemon, "-TERM");
    let (code, said) = end(daemon);
    assert_eq!(code, Some(0), "{said}");
}

#[test]
fn journald_gets_why_it_ends_as_an_error_in_each_line() {
    let directory = ScratchDirectory::new("journal");
    let journal = File::create(directory.path().join("journal")).unwrap();
    let metadata = journal.metadata().unwrap();
    let stream = format!("{}:{}", metadata.dev(), metadata.ino());
    for arguments in [
        ["run", "--set", "polling.batch_size=many", "--set", "http.listen=here"].as_slice(),
        &["run", "--set", "chat.sdk_app_id=1", "--set", "chat.secret_key_file=/nowhere/key"],
        &["run", "--walk"],
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_receiptd"));
        command.args(arguments).env("JOURNAL_STREAM", &stream).stderr(journal.try_clone().unwrap());
        let code = command.status().unwrap().code().unwrap();
        assert!([64, 78].contains(&code), "{code}");
    }
    let said = fs::read_to_string(directory.path().join("journal")).unwrap();
    assert!(said.lines().count() > 5 && said.lines().all(|line| line.starts_with("<3>")), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_asks_the_database_and_the_service_and_names_what_fails() {
    let (mut place, database) = (Place::new("check", 200).await, TestDatabase::new().await);
    let check = |place: &Place| {
        let config = place.path("receiptd.toml");
        fs::write(&config, &place.config).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_receiptd"));
        let output =
            command.args(["check", "--config"]).arg(config).env("DATABASE_URL", database.url()).output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
        assert!(!said.contains("canary"), "{said}");
        (output.status.code(), said)
    };
    let (code, said) = check(&place);
    assert_eq!(code, Some(0), "{said}");
    for part in [
        "Ok: database: postgres://",
        "Ok: database_clock: the database's",
        "Ok: rights: ",
        "Ok: schema: not there yet",
        "Ok: connection: http://127.0.0.1:",
        "Ok: clock: this machine's agrees with",
        "accepts the signature",
    ] {
        assert!(said.contains(part), "{part} is not in\n{said}");
    }
    let (wrong_key, right) = (place.config.replace(SECRET_KEY, "canary-another-key"), place.config.clone());
    place.config = wrong_key;
    let (code, said) = check(&place);
    assert_eq!(code, Some(69), "{said}");
    assert!(said.contains("Failed: service") && said.contains("check chat.secret_key"), "{said}");
    place.config = right.replace(&place.simulator.endpoint(), "https://chat.invalid");
    let (code, said) = check(&place);
    assert!(
        code == Some(69) && said.contains("Failed: dns: chat.invalid is not found: see /etc/resolv.conf"),
        "{said}"
    );
    place.config = right;
    let daemon = place.spawn(Some(&database));
    place.hears("READY=1");
    let (code, said) = check(&place);
    assert_eq!(code, Some(0), "{said}");
    for part in ["Ok: lease: held by ", &daemon.id().to_string(), "Ok: partitions: made for ", "0 messages in 0 groups"]
    {
        assert!(said.contains(part), "{part} is not in\n{said}");
    }
    signal(&daemon, "-TERM");
    end(daemon);
    database.psql("INSERT INTO receiptd.schema_migrations VALUES (9999, 'from the future', now(), true, '', 0)");
    let (code, said) = check(&place);
    assert_eq!(code, Some(78), "{said}");
    assert!(said.contains("Failed: schema") && said.contains("newer receiptd"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn status_and_explain_tell_what_the_daemon_says_of_a_refused_app_and_what_helps() {
    let (mut place, database) = (Place::new("refused", 200).await, TestDatabase::new().await);
    let listen = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    place.config = place.config.replace("listen = \"off\"", &format!("listen = \"{listen}\""));
    place.simulator.add_fault(FaultRule { fault: Fault::ErrorCode { code: 60021 }, when: When::All, times: None });
    let daemon = place.spawn(Some(&database));
    place.hears("READY=1");
    watch(&PgPool::connect(&database.url()).await.unwrap(), 1, 1).await;
    place.hears_of(|line| line.contains("code 60021"));
    let ask = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_receiptd"));
        command.args(arguments).arg("--config").arg(place.path("receiptd.toml")).env("DATABASE_URL", database.url());
        String::from_utf8(command.output().unwrap().stdout).unwrap()
    };
    let remedy = "add it in the console";
    let explained = ask(&["explain", "g1", "1"]);
    assert!(explained.starts_with("No message of this app is polled: Tencent Chat refuses"), "{explained}");
    assert!(explained.lines().next().unwrap().contains(remedy), "{explained}");
    let status = ask(&["status"]);
    let told = status.lines().filter(|line| line.contains("code 60021") && line.contains(remedy));
    assert_eq!(told.count(), 1, "{status}");
    signal(&daemon, "-TERM");
    end(daemon);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signature_that_usersig_prints_is_accepted_by_the_service() {
    let place = Place::new("usersig", 200).await;
    let config = place.path("receiptd.toml");
    fs::write(&config, &place.config).unwrap();
    let output =
        Command::new(env!("CARGO_BIN_EXE_receiptd")).args(["usersig", "--config"]).arg(&config).output().unwrap();
    let signature = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && output.stderr.is_empty());
    assert_eq!(signature.lines().count(), 1, "the signature alone");
    _ = rustls::crypto::ring::default_provider().install_default();
    let url = format!(
        "{}/v4/group_open_http_svc/get_group_msg_receipt?sdkappid={APP}&identifier=administrator&usersig={}&random=7&contenttype=json",
        place.simulator.endpoint(),
        signature.trim()
    );
    let body = r#"{"GroupId":"g","MsgSeqList":[{"MsgSeq":1}]}"#;
    let answer = reqwest::Client::new().post(url).body(body).send().await.unwrap().text().await.unwrap();
    assert!(answer.contains("\"ErrorCode\":0"), "{answer}");
}
