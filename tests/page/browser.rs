//! A headless Chromium, driven over its DevTools protocol: what a person would see.

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tungstenite::{Message, WebSocket};

/// Timeout for the browser, far longer than anything takes.
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Browser {
    chromium: Child,
    socket: WebSocket<TcpStream>,
    last_id: i64,
    /// The page's errors, for example about things that it may not load or run.
    pub complaints: Vec<Value>,
}

impl Drop for Browser {
    fn drop(&mut self) {
        _ = self.chromium.kill();
        _ = self.chromium.wait();
    }
}

impl Browser {
    /// Starts one that keeps its files in `directory`.
    pub fn start(directory: &Path) -> Self {
        let mut chromium = Command::new("chromium");
        chromium.args([
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
            "--remote-debugging-port=0",
        ]);
        chromium.arg(format!("--user-data-dir={}", directory.display())).arg("about:blank").env("HOME", directory);
        chromium.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        let chromium = chromium.spawn().unwrap_or_else(|error| panic!("chromium: {error}"));
        let port = port(directory);
        let target = page_of(port);
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let (socket, _) = tungstenite::client(target, stream).unwrap();
        let mut browser = Self { chromium, socket, last_id: 0, complaints: vec![] };
        for domain in ["Page.enable", "Log.enable", "Runtime.enable"] {
            browser.command(domain, json!({}));
        }
        browser
    }

    /// Sends a command and waits for its answer.
    pub fn command(&mut self, method: &str, parameters: Value) -> Value {
        self.last_id += 1;
        let id = self.last_id;
        let command = json!({ "id": id, "method": method, "params": parameters });
        self.socket.send(Message::text(command.to_string())).unwrap();
        let answer = self.until(|message| message["id"] == id);
        assert!(answer["error"].is_null(), "{method}: {answer}");
        answer["result"].clone()
    }

    /// Opens an address, and waits until it is loaded.
    pub fn open(&mut self, url: &str) {
        self.command("Page.navigate", json!({ "url": url }));
        self.until(|message| message["method"] == "Page.loadEventFired");
    }

    /// The value of an expression on the page.
    pub fn evaluate(&mut self, expression: &str) -> Value {
        let answer = self.command("Runtime.evaluate", json!({ "expression": expression, "returnByValue": true }));
        assert!(answer["exceptionDetails"].is_null(), "{expression}: {answer}");
        answer["result"]["value"].clone()
    }

    fn until(&mut self, is_it: impl Fn(&Value) -> bool) -> Value {
        loop {
            let message: Value = serde_json::from_str(&self.socket.read().unwrap().into_text().unwrap()).unwrap();
            if message["method"] == "Log.entryAdded" || message["method"] == "Runtime.exceptionThrown" {
                self.complaints.push(message.clone());
            }
            if is_it(&message) {
                return message;
            }
        }
    }
}

/// The port that Chromium has chosen, which it writes to a file once it listens.
fn port(directory: &Path) -> u16 {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let written = fs::read_to_string(directory.join("DevToolsActivePort")).unwrap_or_default();
        if let Some(port) = written.lines().next().and_then(|port| port.parse().ok()) {
            return port;
        }
        assert!(Instant::now() < deadline, "chromium does not listen");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The DevTools address of its page.
fn page_of(port: u16) -> String {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let targets = targets(port);
        let page =
            targets.as_array().and_then(|targets| targets.iter().find(|target| target["type"] == "page").cloned());
        if let Some(page) = page {
            return page["webSocketDebuggerUrl"].as_str().unwrap().to_owned();
        }
        assert!(Instant::now() < deadline, "chromium has no page: {targets}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Chromium's response; it does not close the connection by itself.
fn targets(port: u16) -> Value {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(format!("GET /json/list HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n").as_bytes()).unwrap();
    let (mut answer, mut part) = (Vec::new(), [0; 4_096]);
    loop {
        let length = stream.read(&mut part).unwrap();
        answer.extend_from_slice(&part[..length]);
        let text = String::from_utf8_lossy(&answer);
        let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        match serde_json::from_str(body) {
            Ok(targets) => return targets,
            Err(error) => assert!(length > 0, "{error}: {text}"),
        }
    }
}
