//! The daemon's process and its output and endpoints, for the oracle.

use std::{
    ffi::OsString,
    fs::{self, File},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::time::{Instant, sleep};

use crate::signals;

/// Timeout for everything a test waits for, apart from faults and their aftermath.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// How to start a scenario's daemon, repeatedly.
#[derive(Clone)]
pub struct Launch {
    /// Prefix of the command line: a program that runs another one in a different environment.
    pub prefix: Vec<OsString>,
    pub config: PathBuf,
    pub database_url: String,
    /// The output of all daemons of a scenario.
    pub said: PathBuf,
    /// What `/metrics`, `/readyz` and `/proc` showed of them.
    pub shown: Arc<Mutex<Vec<String>>>,
    pub http: SocketAddr,
}

/// One process at a time, which is killed when this value is dropped.
pub struct Daemon {
    pub launch: Launch,
    child: Child,
}

impl Daemon {
    pub fn start(launch: Launch) -> Self {
        Self { child: spawn(&launch), launch }
    }

    pub fn start_again(&mut self) {
        self.child = spawn(&self.launch);
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: &str) {
        signals::send(signal, &[self.pid()]);
    }

    pub fn has_exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Waits for the process to exit after it was asked to.
    pub async fn end(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.has_exited() {
                return status;
            }
            assert!(Instant::now() < deadline, "the daemon did not end:\n{}", self.said());
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// The output of its processes.
    pub fn said(&self) -> String {
        fs::read_to_string(&self.launch.said).unwrap()
    }

    /// What `/metrics`, `/readyz` and `/proc` showed at all times.
    pub fn shown(&self) -> String {
        self.launch.shown.lock().unwrap().join("\n")
    }

    /// The response of its HTTP side; `None` if there is none within `patience`.
    pub async fn get(&self, path: &str, patience: Duration) -> Option<(u16, String)> {
        _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder().timeout(patience).build().unwrap();
        let answer = client.get(format!("http://{}{path}", self.launch.http)).send().await.ok()?;
        let (status, body) = (answer.status().as_u16(), answer.text().await.ok()?);
        self.launch.shown.lock().unwrap().push(body.clone());
        Some((status, body))
    }

    /// Waits until it is ready. Returns the last response if it never was.
    pub async fn until_ready(&self, patience: Duration) -> Result<(), String> {
        let deadline = Instant::now() + patience;
        loop {
            let answer = self.get("/readyz", Duration::from_secs(5)).await;
            match answer {
                Some((200, _)) => return Ok(()),
                answer if Instant::now() > deadline => return Err(format!("{answer:?}")),
                _ => sleep(Duration::from_millis(100)).await,
            }
        }
    }

    /// The value of a metric, summed over all its series.
    pub async fn metric(&self, name: &str) -> f64 {
        let deadline = Instant::now() + PATIENCE;
        // On a busy machine, a client may be too slow for the server's bounds.
        let metrics = loop {
            match self.get("/metrics", PATIENCE).await {
                Some((200, metrics)) => break metrics,
                answer => assert!(Instant::now() < deadline, "no metrics: {answer:?}"),
            }
        };
        let of_it = metrics.lines().filter(|line| line.split(['{', ' ']).next() == Some(name));
        of_it.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
    }

    /// Its peak memory, in megabytes.
    pub fn memory_peak(&self) -> u64 {
        let status = self.proc("status");
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        peak.trim().trim_end_matches("kB").trim().parse::<u64>().unwrap() / 1_024
    }

    /// Notes what every user of the machine can see of the process.
    pub fn look_from_outside(&self) {
        let seen = self.proc("cmdline") + &self.proc("status");
        self.launch.shown.lock().unwrap().push(seen);
    }

    fn proc(&self, file: &str) -> String {
        let path = Path::new("/proc").join(self.pid().to_string()).join(file);
        String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // This kills a stopped process too; one that has exited needs nothing.
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

fn spawn(launch: &Launch) -> Child {
    let said = File::options().create(true).append(true).open(&launch.said).unwrap();
    // Killed at the latest when the thread that starts it ends, the test's own, even if that is killed.
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]).args(&launch.prefix);
    command.arg(env!("CARGO_BIN_EXE_receiptd")).args(["run", "--config"]).arg(&launch.config);
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap()).env("DATABASE_URL", &launch.database_url);
    command.stdin(Stdio::null()).stdout(said.try_clone().unwrap()).stderr(said).spawn().unwrap()
}
