//! The page at `/` as a person sees it: the real binary and a headless Chromium.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod browser;
#[path = "../common/mod.rs"]
mod common;

use std::{
    fs,
    net::SocketAddr,
    os::unix::net::UnixDatagram,
    process::{Child, Command, Stdio},
    time::Duration,
};

use browser::Browser;
use common::{ScratchDirectory, TestDatabase, own_address};
use receiptd::{
    domain::SdkAppId,
    simulator::{Fault, FaultRule, Simulator, SimulatorConfig, When},
};
use serde_json::json;

const APP: u32 = 1_400_000_000;
const SECRET_KEY: &str = "canary-page-secret-key";
const PATIENCE: Duration = Duration::from_secs(60);

/// A daemon that serves its page, and is killed when this value is dropped.
struct Served {
    daemon: Child,
    listen: SocketAddr,
    simulator: Simulator,
    database: TestDatabase,
    directory: ScratchDirectory,
}

impl Drop for Served {
    fn drop(&mut self) {
        _ = self.daemon.kill();
        _ = self.daemon.wait();
    }
}

impl Served {
    async fn new(name: &str, http: &str) -> Self {
        let (directory, database) = (ScratchDirectory::new(name), TestDatabase::new().await);
        let mut config =
            SimulatorConfig::new(SdkAppId::try_from(i64::from(APP)).unwrap(), "administrator", SECRET_KEY.into());
        config.world.median_reading_time = Duration::from_secs(2);
        let simulator = Simulator::start(config).await.unwrap();
        let listen = own_address();
        let systemd = UnixDatagram::bind(directory.path().join("notify")).unwrap();
        systemd.set_read_timeout(Some(PATIENCE)).unwrap();
        let file = directory.path().join("receiptd.toml");
        let text = format!(
            "[chat]\nsdk_app_id = {APP}\nsecret_key = \"{SECRET_KEY}\"\nendpoint = \"{}\"\n[http]\nlisten = \"{listen}\"\n{http}\n\
             [cadence.default]\ntiers = [{{ until = \"1h\", every = \"1s\" }}]\nstop_when_all_read = false\n",
            simulator.endpoint()
        );
        fs::write(&file, text).unwrap();
        let mut daemon = Command::new(env!("CARGO_BIN_EXE_receiptd"));
        daemon.args(["run", "--config"]).arg(file).env("DATABASE_URL", database.url());
        daemon.env("NOTIFY_SOCKET", directory.path().join("notify")).stdout(Stdio::null()).stderr(Stdio::null());
        let daemon = daemon.spawn().unwrap();
        let mut message = [0; 1_024];
        while !String::from_utf8_lossy(&message).contains("READY=1") {
            systemd.recv(&mut message).unwrap();
        }
        Self { daemon, listen, simulator, database, directory }
    }

    fn url(&self) -> String {
        format!("http://{}/", self.listen)
    }

    /// Some groups with messages being read, and a refused one.
    async fn fill(&self) {
        let gone = When::Group { group_id: "gone".parse().unwrap() };
        self.simulator.add_fault(FaultRule { fault: Fault::ErrorCode { code: 10010 }, when: gone, times: None });
        self.database.psql(&format!(
            "SELECT receiptd.watch_messages({APP}, group_id, '{{1,2,3}}') FROM unnest(ARRAY['gone', 'sales & <b>support</b>', 'team']) AS group_id"
        ));
        let quarantined = "SELECT count(*) FROM receiptd.watched_groups WHERE state = 'quarantined'";
        let refused = async {
            for calls in 20.. {
                self.simulator.wait_for_ended_calls(calls).await;
                if self.database.psql(quarantined) == "1" {
                    break;
                }
            }
        };
        tokio::time::timeout(PATIENCE, refused).await.expect("the group that is refused was not quarantined");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_fits_a_phone_in_both_schemes_without_javascript() {
    let served = Served::new("page", "").await;
    served.fill().await;
    let mut browser = Browser::start(served.directory.path());
    browser.command("Emulation.setScriptExecutionDisabled", json!({ "value": true }));
    let phone = json!({ "width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": true });
    browser.command("Emulation.setDeviceMetricsOverride", phone);
    browser.open(&served.url());
    let text = browser.evaluate("document.body.innerText");
    let text = text.as_str().unwrap();
    for part in
        ["polling", "calls per second", "behind", "success", "Due next", "team #3", "% read", "sales & <b>support</b>"]
    {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
    let refused = browser.evaluate("document.querySelector('#quarantined').innerText");
    assert!(refused.as_str().unwrap().contains("10010: the group doesn't exist any more"), "{refused}");
    assert_eq!(browser.evaluate("document.querySelectorAll('svg rect.good').length > 0"), true);
    assert_eq!(browser.evaluate("document.querySelectorAll('svg path.curve').length"), 2);
    let too_wide = "document.documentElement.scrollWidth > document.documentElement.clientWidth";
    assert_eq!(browser.evaluate(too_wide), false, "a phone would have to scroll sideways");
    let mut back = |scheme: &str| {
        let features = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        browser.command("Emulation.setEmulatedMedia", features);
        browser.evaluate("getComputedStyle(document.body).backgroundColor")
    };
    assert_ne!(back("light"), back("dark"));
    let loaded = browser.evaluate("performance.getEntriesByType('resource').map(entry => entry.name)");
    assert_eq!(loaded, json!([]), "everything is in the page itself");
    assert!(browser.complaints.is_empty(), "{:?}", browser.complaints);
    keep_picture(&mut browser);
}

/// A screenshot of the page is kept in `RECEIPTD_SCREENSHOTS`, for inspection.
fn keep_picture(browser: &mut Browser) {
    let Some(directory) = std::env::var_os("RECEIPTD_SCREENSHOTS").map(std::path::PathBuf::from) else { return };
    for (name, width, scheme) in [
        ("phone-dark", 360, "dark"),
        ("phone-light", 360, "light"),
        ("desktop", 1280, "light"),
        ("desktop-dark", 1280, "dark"),
    ] {
        let metrics = json!({ "width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500 });
        browser.command("Emulation.setDeviceMetricsOverride", metrics);
        let features = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        browser.command("Emulation.setEmulatedMedia", features);
        let picture = browser.command("Page.captureScreenshot", json!({ "captureBeyondViewport": true }));
        let picture =
            base64::Engine::decode(&base64::prelude::BASE64_STANDARD, picture["data"].as_str().unwrap()).unwrap();
        fs::write(directory.join(format!("{name}.png")), picture).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_token_only_the_health_check_answers() {
    let served = Served::new("token", "token = \"canary-http-token\"").await;
    _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::new();
    let status = async |path: &str, token: Option<&str>| {
        let mut request = client.get(format!("{}{path}", served.url()));
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        let answer = request.send().await.unwrap();
        let (status, text) = (answer.status().as_u16(), answer.text().await.unwrap());
        assert!(!text.contains("canary"), "{text}");
        status
    };
    for path in ["", "readyz", "metrics", "status.json"] {
        assert_eq!((status(path, None).await, status(path, Some("another")).await), (401, 401), "{path}");
        assert_eq!(status(path, Some("canary-http-token")).await, 200, "{path}");
    }
    assert_eq!(status("healthz", None).await, 200);
    assert_eq!(client.post(served.url()).bearer_auth("canary-http-token").send().await.unwrap().status().as_u16(), 405);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_token_only_localhost_names_are_served() {
    let served = Served::new("rebound", "").await;
    _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::new();
    let ask = async |path: &str, host: &str| {
        client.get(format!("{}{path}", served.url())).header("host", host).send().await.unwrap()
    };
    for path in ["", "readyz", "metrics", "status.json"] {
        assert_eq!(ask(path, "elsewhere.example:9464").await.status().as_u16(), 421, "{path}");
        assert_ne!(ask(path, "localhost:9464").await.status().as_u16(), 421, "{path}");
    }
    let policy = ask("", "localhost").await.headers()["content-security-policy"].to_str().unwrap().to_owned();
    assert!(policy.contains("frame-ancestors 'none'"), "{policy}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_reports_an_unreadable_database_and_shows_the_rest() {
    let served = Served::new("away", "").await;
    served.fill().await;
    served.database.psql("ALTER TABLE receiptd.poll_slots RENAME TO poll_slots_elsewhere");
    _ = rustls::crypto::ring::default_provider().install_default();
    let page = reqwest::get(served.url()).await.unwrap().text().await.unwrap();
    assert!(
        page.contains("The database can't be reached")
            && page.contains("poll_slots")
            && page.contains("Calls in the last hour"),
        "{page}"
    );
}
