//! The parts of the demo, started and stopped in order.

use std::time::Duration;

use anyhow::Context;
use receiptd::{
    clock,
    config::Config,
    domain::SdkAppId,
    embedded::{self, EmbeddedPostgres},
    lifecycle::{Daemon, StartError},
    logging,
    simulator::{Simulator, SimulatorConfig},
};
use secrecy::SecretString;
use sqlx::PgPool;
use tokio::{runtime::Runtime, task::spawn_blocking};
use tokio_util::sync::CancellationToken;

use crate::cli::{
    run::{daemon_settings, http},
    tell,
};

pub const APP: i64 = 1_400_000_000;
pub const DATABASE: &str = "receiptd_demo";
/// Number of groups. Polled once a second, they use most of the budget.
const GROUPS: i64 = 180;

/// Everything that runs during a demo.
pub struct Stage {
    pub pool: PgPool,
    pub simulator: Simulator,
    /// Number of messages sent so far.
    sent: i64,
    daemon: Daemon,
    postgres: EmbeddedPostgres,
    /// The simulated Chat has its own thread, like a remote service.
    elsewhere: Runtime,
}

impl Stage {
    /// Starts everything. `None` if it was stopped during the start.
    pub async fn set_up(stop: &CancellationToken) -> anyhow::Result<Option<Self>> {
        // Generated for each demo and not shared.
        let secret_key: String = std::iter::repeat_with(fastrand::alphanumeric).take(64).collect();
        tell("Starting a private PostgreSQL ...");
        let postgres = spawn_blocking(start_postgres).await??;
        let url = postgres.url(DATABASE);
        tell("Starting a simulated Chat and the daemon ...");
        let elsewhere = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let simulator = elsewhere.spawn(Simulator::start(simulator_config(&secret_key)?)).await??;
        let config = config(&secret_key, &url, &simulator.endpoint())?;
        logging::init(&config.log)?;
        let http = http(&config, SdkAppId::try_from(APP)?)?;
        let settings = daemon_settings(&config, config.chat()?, url.clone().into(), http);
        let daemon = match Daemon::start(settings, stop.child_token()).await {
            Ok(daemon) => daemon,
            Err(StartError::Stopped) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let pool = PgPool::connect(&url).await.context("connecting to the private PostgreSQL failed")?;
        let mut stage = Self { pool, simulator, sent: 0, daemon, postgres, elsewhere };
        stage.watch_groups().await?;
        Ok(Some(stage))
    }

    /// How to look into the database while the demo runs.
    pub fn invitation(&self) -> String {
        let psql = self.postgres.psql_command(DATABASE);
        let page = self.daemon.page().map(|page| format!("Its status page is http://{page}/\n")).unwrap_or_default();
        format!(
            "\nreceiptd polls {GROUPS} groups of a simulated Chat.\n\
             {page}\
             While it runs, look into its database from another terminal:\n\n  \
             {psql}\n\n  \
             SELECT group_id, msg_seq, read_num, unread_num FROM receiptd.latest_receipts\n    \
             WHERE receipt_code = 0 ORDER BY unread_num DESC LIMIT 10;\n  \
             SELECT polled_at, read_num, unread_num FROM receiptd.receipt_history\n    \
             WHERE group_id = 'group 1' AND msg_seq = 1 ORDER BY polled_at;\n  \
             SELECT date_trunc('second', called_at) AS second, count(*)\n    \
             FROM receiptd.api_calls GROUP BY 1 ORDER BY 1 DESC LIMIT 10;\n"
        )
    }

    /// Watches messages sent before the demo: 5 to 40 in each group.
    async fn watch_groups(&mut self) -> anyhow::Result<()> {
        sqlx::query(
            "SELECT receiptd.watch_messages($1, 'group ' || g, array(SELECT generate_series(1::bigint, 5 + g * 7 % 36)))
             FROM generate_series(1, $2) AS g",
        )
        .bind(APP)
        .bind(GROUPS)
        .execute(&self.pool)
        .await
        .context("watching the demo's groups failed")?;
        Ok(())
    }

    /// Some groups get a new message, which is watched immediately, as an application would.
    pub async fn send_messages(&mut self) -> anyhow::Result<()> {
        for _ in 0..3 {
            let group = 1 + self.sent * 7 % GROUPS;
            let seq = 100 + self.sent / GROUPS;
            let sql = "SELECT receiptd.watch_messages($1, 'group ' || $2, array[$3])";
            sqlx::query(sql)
                .bind(APP)
                .bind(group)
                .bind(seq)
                .execute(&self.pool)
                .await
                .context("watching a message failed")?;
            self.sent += 1;
        }
        Ok(())
    }

    pub async fn daemon_ended(&self) {
        self.daemon.ended().await;
    }

    /// Stops everything, the daemon first, and prints the summary. True if every answer was stored.
    pub async fn tear_down(self) -> anyhow::Result<bool> {
        let lost = self.daemon.stop().await;
        let told = super::summary::summary(&self.pool, &self.simulator).await;
        self.pool.close().await;
        self.elsewhere.spawn(self.simulator.stop()).await?;
        self.elsewhere.shutdown_background();
        spawn_blocking(|| self.postgres.stop()).await??;
        Ok(told? && lost == 0)
    }
}

/// A separate server from that of `receiptd run`, kept between demos; its database is created again.
pub fn start_postgres() -> anyhow::Result<EmbeddedPostgres> {
    let data_dir = embedded::default_data_dir()?.with_file_name("demo");
    let server = EmbeddedPostgres::start(&embedded::Options::new(data_dir))?;
    server.drop_database(DATABASE)?;
    server.create_database(DATABASE)?;
    Ok(server)
}

fn simulator_config(secret_key: &str) -> anyhow::Result<SimulatorConfig> {
    let secret_key = SecretString::from(secret_key);
    let mut config = SimulatorConfig::new(SdkAppId::try_from(APP)?, "administrator", secret_key);
    config.world.members = 10..=120;
    // Fast readers, so that curves rise visibly.
    config.world.median_reading_time = Duration::from_secs(6);
    config.world.no_receipt_share = 0.01;
    Ok(config)
}

/// The demo's settings, parsed like those of a server.
fn config(secret_key: &str, url: &str, endpoint: &str) -> anyhow::Result<Config> {
    let settings = [
        ("CHAT__SDK_APP_ID", APP.to_string().as_str()),
        ("CHAT__SECRET_KEY", secret_key),
        ("CHAT__ENDPOINT", endpoint),
        ("DATABASE__URL", url),
        ("CADENCE__DEFAULT__TIERS", r#"[{ until = "1h", every = "1s" }]"#),
        // Any free port.
        ("HTTP__LISTEN", "127.0.0.1:0"),
        ("LOG__LEVEL", "error"),
    ]
    .map(|(key, value)| (format!("RECEIPTD_{key}"), value.to_owned()));
    Ok(Config::load(None, settings.into_iter(), &[], clock::now())?)
}
