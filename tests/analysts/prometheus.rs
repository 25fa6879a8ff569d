//! A real Prometheus that scrapes the real program every second, while that polls a simulated Chat.

use std::{
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::unix::process::CommandExt,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use receiptd::simulator::Simulator;
use serde_json::Value;

use crate::{
    common::{ScratchDirectory, TestDatabase},
    harness::{APP, SECRET_KEY, simulator_config},
};

/// Timeout of a test, far longer than any takes.
const PATIENCE: Duration = Duration::from_secs(90);

pub struct Scraped {
    address: SocketAddr,
    _programs: Vec<Program>,
    _simulator: Simulator,
    _database: TestDatabase,
    _directory: ScratchDirectory,
}

/// A program that is killed when this value is dropped.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

/// An address without a listener.
fn free_address() -> SocketAddr {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap()
}

fn start(command: &mut Command) -> Program {
    command.stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
    Program(command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}")))
}

impl Scraped {
    pub async fn new() -> Self {
        let (directory, database) = (ScratchDirectory::new("prometheus"), TestDatabase::new().await);
        let simulator = Simulator::start(simulator_config()).await.unwrap();
        let (metrics, address) = (free_address(), free_address());
        let file = |name: &str, text: String| {
            let path = directory.path().join(name);
            fs::write(&path, text).unwrap();
            path
        };
        let config = file(
            "receiptd.toml",
            format!(
                "[chat]\nsdk_app_id = {APP}\nsecret_key = \"{SECRET_KEY}\"\nendpoint = \"{}\"\n[http]\nlisten = \"{metrics}\"\n\
                 [jobs]\nrollup = \"* * * * * *\"\n",
                simulator.endpoint()
            ),
        );
        let scrape = file(
            "prometheus.yml",
            format!(
                "global: {{ scrape_interval: 1s }}\nscrape_configs:\n  - job_name: receiptd\n    static_configs:\n      \
                 - targets: ['{metrics}']\n"
            ),
        );
        let mut receiptd = Command::new(env!("CARGO_BIN_EXE_receiptd"));
        receiptd.args(["run", "--config"]).arg(config).env("DATABASE_URL", database.url());
        let mut prometheus = Command::new("prometheus");
        prometheus.arg("--config.file").arg(scrape).arg("--storage.tsdb.path").arg(directory.path().join("data"));
        prometheus.arg(format!("--web.listen-address={address}"));
        let programs = vec![start(&mut receiptd), start(&mut prometheus)];
        let scraped =
            Self { address, _programs: programs, _simulator: simulator, _database: database, _directory: directory };
        scraped.until_it_polls().await;
        scraped
    }

    async fn until_it_polls(&self) {
        let watch = format!("SELECT receiptd.watch_messages({APP}, 'g', ARRAY[1, 2, 3])");
        self.until("the schema is there", async || {
            let is_there = self._database.psql("SELECT to_regclass('receiptd.poller_leases') IS NOT NULL");
            if is_there == "t" { Ok(()) } else { Err("not yet".to_owned()) }
        })
        .await;
        self._database.psql(&watch);
    }

    /// The result of an expression in Prometheus; null while it does not answer.
    pub async fn query(&self, expression: &str) -> Value {
        let encoded: String = expression.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let request = format!("GET /api/v1/query?query={encoded} HTTP/1.0\r\n\r\n");
        let address = self.address;
        let answer = tokio::task::spawn_blocking(move || {
            let mut answer = String::new();
            let mut stream = TcpStream::connect(address)?;
            stream.write_all(request.as_bytes())?;
            stream.read_to_string(&mut answer).map(|_| answer)
        });
        let answer = answer.await.unwrap().unwrap_or_default();
        let body = answer.split_once("\r\n\r\n").map_or("null", |(_, body)| body);
        serde_json::from_str(body).unwrap_or(Value::Null)
    }

    /// Asks repeatedly, since there is no notification.
    pub async fn until(&self, what: &str, mut is_so: impl AsyncFnMut() -> Result<(), String>) {
        let deadline = Instant::now() + PATIENCE;
        while let Err(why) = is_so().await {
            assert!(Instant::now() < deadline, "timed out waiting for {what}: {why}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}
