//! The parts of the demo, started and stopped in order.

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use receiptd::{
    clock,
    config::Config,
    domain::{GroupId, GroupType, SdkAppId},
    embedded::{self, EmbeddedPostgres},
    lifecycle::{Daemon, StartError},
    logging,
    rules::cadence::Cadences,
    simulator::{Delivery, PostKind, Simulator, SimulatorConfig, WebhookConfig},
};
use secrecy::SecretString;
use sqlx::PgPool;
use tokio::{runtime::Runtime, task::spawn_blocking};
use tokio_util::sync::CancellationToken;

use super::summary::Summary;
use crate::cli::{
    run::{daemon_settings, http},
    tell,
};

pub const APP: i64 = 1_400_000_000;
pub const DATABASE: &str = "receiptd_demo";
/// Number of groups.
const GROUPS: u32 = 180;
/// Number of messages sent each second.
const SENT_EACH_SECOND: u32 = 3;

/// Everything that runs during a demo.
pub struct Stage {
    pub pool: PgPool,
    pub simulator: Simulator,
    /// Number of messages sent while it runs.
    sent: u32,
    /// How messages are polled.
    pub cadences: Arc<Cadences>,
    pub daemon: Daemon,
    postgres: EmbeddedPostgres,
    /// The simulated Chat has its own thread, like a remote service.
    elsewhere: Runtime,
}

impl Stage {
    /// Starts everything. `None` if it was stopped during the start.
    pub async fn set_up(stop: &CancellationToken) -> anyhow::Result<Option<Self>> {
        // Generated for each demo and not shared.
        let [secret_key, token]: [String; 2] =
            std::array::from_fn(|_| std::iter::repeat_with(fastrand::alphanumeric).take(64).collect());
        tell("Starting a private PostgreSQL ...");
        let postgres = spawn_blocking(start_postgres).await??;
        let url = postgres.url(DATABASE);
        tell("Starting a simulated Chat and the daemon ...");
        let elsewhere = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let simulator = elsewhere.spawn(Simulator::start(simulator_config(&secret_key)?)).await??;
        for number in 1..=GROUPS {
            let (group, members) = (group(number)?, 10 + (number * 7 % 30) as u16);
            simulator.world().create_group(&group, GroupType::Public, members);
            (0..1 + number % 4).for_each(|_| _ = simulator.world().post(&group, simulator.now(), PostKind::Ordinary));
        }
        let config = config(&secret_key, &token, &url, &simulator.endpoint())?;
        logging::init(&config.log)?;
        let http = http(&config, SdkAppId::try_from(APP)?)?;
        let settings = daemon_settings(&config, config.chat()?, url.clone().into(), http);
        let cadences = settings.session.cadences.clone();
        let daemon = match Daemon::start(settings, stop.child_token()).await {
            Ok(daemon) => daemon,
            Err(StartError::Stopped) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        if let Some(listener) = daemon.listener() {
            let webhooks = WebhookConfig {
                url: format!("http://{listener}/"),
                token: token.into(),
                delivery: Delivery { lost: 0.02, ..Delivery::default() },
            };
            let _elsewhere = elsewhere.enter();
            simulator.send_webhooks(webhooks);
        }
        let pool = PgPool::connect(&url).await.context("connecting to the private PostgreSQL failed")?;
        Ok(Some(Self { pool, simulator, sent: 0, cadences, daemon, postgres, elsewhere }))
    }

    /// Instructions for looking into the database while the demo runs.
    pub fn invitation(&self) -> String {
        let psql = self.postgres.psql_command(DATABASE);
        let page = self.daemon.page().map(|page| format!("Its status page is http://{page}/\n")).unwrap_or_default();
        format!(
            "\nreceiptd discovers the messages of {GROUPS} groups of a simulated Chat, polls them, and hears webhooks.\n\
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

    /// Sends a new message to some groups. Nobody adds it to the watch list.
    pub fn send_messages(&mut self) -> anyhow::Result<()> {
        for _ in 0..SENT_EACH_SECOND {
            let group = group(1 + self.sent * 7 % GROUPS)?;
            self.simulator.world().post(&group, self.simulator.now(), PostKind::Ordinary);
            self.sent += 1;
        }
        Ok(())
    }

    pub async fn daemon_ended(&self) {
        self.daemon.ended().await;
    }

    /// Stops everything, the daemon first, and prints the summary. True if every answer was stored.
    pub async fn tear_down(self) -> anyhow::Result<bool> {
        let told = self.daemon.status().webhooks().map(|health| health.report(clock::uptime()));
        let lost = self.daemon.stop().await;
        let summary = Summary { pool: &self.pool, simulator: &self.simulator, cadences: self.cadences };
        let told = summary.tell(told).await;
        self.pool.close().await;
        self.elsewhere.spawn(self.simulator.stop()).await?;
        self.elsewhere.shutdown_background();
        spawn_blocking(|| self.postgres.stop()).await??;
        Ok(told? && lost == 0)
    }
}

fn group(number: u32) -> anyhow::Result<GroupId> {
    Ok(format!("group {number}").parse()?)
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
    // Fast readers, so that curves rise visibly.
    config.world.median_reading_time = Duration::from_secs(12);
    config.world.no_receipt_share = 0.01;
    Ok(config)
}

/// The demo's settings, parsed like those of a server.
fn config(secret_key: &str, token: &str, url: &str, endpoint: &str) -> anyhow::Result<Config> {
    let settings = [
        ("CHAT__SDK_APP_ID", APP.to_string().as_str()),
        ("CHAT__SECRET_KEY", secret_key),
        ("CHAT__ENDPOINT", endpoint),
        ("DATABASE__URL", url),
        // As fast as its readers.
        ("CADENCE__DEFAULT__TIERS", r#"[{ until = "1h", every = "10s" }]"#),
        ("CADENCE__DEFAULT__PACE", "24s"),
        ("CADENCE__DEFAULT__FASTEST", "1s"),
        ("DISCOVERY__ENABLED", "true"),
        ("DISCOVERY__SINCE", "1h"),
        // Any free port.
        ("HTTP__LISTEN", "127.0.0.1:0"),
        ("WEBHOOKS__LISTEN", "127.0.0.1:0"),
        ("WEBHOOKS__TOKEN", token),
        ("LOG__LEVEL", "error"),
    ]
    .map(|(key, value)| (format!("RECEIPTD_{key}"), value.to_owned()));
    Ok(Config::load(None, settings.into_iter(), &[], clock::now())?)
}
