//! Other programs on the daemon's port, and text from outside on a terminal.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener},
    os::unix::process::CommandExt,
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::{Duration, Instant},
};

use crate::{
    common::TestDatabase,
    harness::{Harness, migrate},
};

const TOKEN: &str = "canary-http-token";

/// Characters that act on a terminal.
const ESCAPES: [char; 4] = ['\u{1b}', '\u{9b}', '\u{202e}', '\u{2028}'];

/// Answers on its own address with `answer`, and reports the requests.
fn answering(answer: impl Fn(&mut dyn Write) + Send + 'static) -> (SocketAddr, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (tell, asked) = channel();
    thread::spawn(move || {
        for mut connection in listener.incoming().map_while(Result::ok) {
            let mut bytes = [0; 4_096];
            let length = connection.read(&mut bytes).unwrap_or_default();
            _ = tell.send(String::from_utf8_lossy(&bytes[..length]).into_owned());
            answer(&mut connection);
        }
    });
    (address, asked)
}

/// The output of a command that queries the daemon at `listen`.
fn printed(place: &mut Harness, database: &TestDatabase, listen: SocketAddr, arguments: &[&str]) -> String {
    let head = place.config.split("[http]").next().unwrap().to_owned();
    place.config = format!("{head}[http]\nlisten = \"{listen}\"\ntoken = \"{TOKEN}\"\n");
    let config = place.write_config();
    let mut command = Command::new(env!("CARGO_BIN_EXE_receiptd"));
    command.args(arguments).arg("--config").arg(config).env("DATABASE_URL", database.url());
    let output = command.output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && !said.contains("canary"), "{said}");
    said
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_impostor_of_the_daemon_is_bounded_and_moves_no_cursor() {
    let (mut place, database) = (Harness::new("impostor", 200).await, TestDatabase::new().await);
    migrate(&database);
    let line = "\\u001b[2J\\u009b31m\\u202eall is well\\u2028\\nOk: really";
    let body = format!(r#"{{"role":"polling","trouble":"{line}","line":"{line}"}}"#);
    let report = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let (listen, asked) = answering(move |out| _ = out.write_all(report.as_bytes()));
    let said = printed(&mut place, &database, listen, &["status"]);
    assert!(said.contains(r"\u{1b}[2J\u{9b}31m\u{202e}all is well\u{2028}\u{a}Ok: really"), "{said}");
    assert!(!said.contains(ESCAPES) && !said.lines().any(|line| line.starts_with("Ok")), "{said}");
    assert!(asked.recv().unwrap().contains(TOKEN), "an account that is believed is");
    let said = printed(&mut place, &database, listen, &["status", "--json"]);
    assert!(!said.contains(ESCAPES), "{said}");
    let status: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert!(status["daemon"]["line"].as_str().unwrap().starts_with("\u{1b}[2J\u{9b}31m\u{202e}"), "{status}");

    let endless = |out: &mut dyn Write| {
        _ = out.write_all(b"HTTP/1.1 200 OK\r\n\r\n{\"line\":\"");
        while out.write_all(&[b'a'; 1 << 16]).is_ok() {}
    };
    let slow = |out: &mut dyn Write| {
        _ = out.write_all(b"HTTP/1.1 200 OK\r\n\r\n{\"line\":\"");
        while out.write_all(b"a").is_ok() {
            thread::sleep(Duration::from_millis(100));
        }
    };
    for listen in [answering(endless).0, answering(slow).0] {
        let start = Instant::now();
        let said = printed(&mut place, &database, listen, &["status"]);
        assert!(said.contains("daemon      does not answer at http.listen"), "{said}");
        assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_daemon_of_another_app_says_nothing_about_this_one() {
    let (mut place, database) = (Harness::new("other-app", 200).await, TestDatabase::new().await);
    migrate(&database);
    database.psql("SELECT receiptd.watch_messages(1400000000, 'g', '{1}')");
    let body = r#"{"sdk_app_id":1400000001,"line":"all is well","role":"polling","trouble":"no way in"}"#;
    let report = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let (listen, _asked) = answering(move |out| _ = out.write_all(report.as_bytes()));
    for arguments in [&["status"][..], &["explain", "g", "1"]] {
        let said = printed(&mut place, &database, listen, arguments);
        assert!(said.contains(&format!("at {listen} serves another app, 1400000001")), "{said}");
        assert!(!said.contains("all is well") && !said.contains("no way in"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_of_another_account_is_not_asked_and_gets_no_token() {
    // Only root can start a program as another account.
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let (mut place, database) = (Harness::new("stranger", 200).await, TestDatabase::new().await);
    migrate(&database);
    database.psql("SELECT receiptd.watch_messages(1400000000, 'g', '{1}')");
    let listen = crate::common::own_address();
    let config = place.write_config();
    let mut stranger = Command::new(env!("CARGO_BIN_EXE_receiptd"));
    stranger.args(["simulate", "--listen", &listen.to_string(), "--config"]).arg(&config).uid(65_534);
    let mut stranger = Stranger(stranger.stdout(Stdio::piped()).spawn().unwrap());
    let mut begun = [0; 1];
    stranger.0.stdout.as_mut().unwrap().read_exact(&mut begun).unwrap();
    let not_asked = format!("was not asked: a program of the account \"nobody\" listens at {listen}");
    let status = printed(&mut place, &database, listen, &["status"]);
    assert!(status.contains(&format!("daemon      {not_asked}")), "{status}");
    let explained = printed(&mut place, &database, listen, &["explain", "g", "1"]);
    assert!(explained.contains(&format!("Warning: the daemon {not_asked}")), "{explained}");
    let status = printed(&mut place, &database, listen, &["status", "--json"]);
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    assert!(status["daemon"].is_null() && status["daemon_unheard"].as_str().unwrap().contains(&not_asked), "{status}");
}

/// A program of another account, which is killed when this value is dropped, also if the test fails.
struct Stranger(Child);

impl Drop for Stranger {
    fn drop(&mut self) {
        // One that has exited needs nothing.
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn text_that_others_wrote_to_the_database_moves_no_cursor() {
    let (mut place, database) = (Harness::new("escapes", 200).await, TestDatabase::new().await);
    migrate(&database);
    database.psql("SELECT receiptd.watch_messages(1400000000, 'g', '{1}')");
    let text = r"U&'\001b[2J\009b31m\202ewell\2028\000aOk: really', state = 'paused'";
    database.psql(&format!("UPDATE receiptd.watched_groups SET state_reason = {text}"));
    let listen = crate::common::own_address();
    for arguments in [
        ["explain", "g", "1"].as_slice(),
        &["explain", "g", "--json"],
        &["watch", "list"],
        &["watch", "list", "--json"],
        &["status"],
    ] {
        let said = printed(&mut place, &database, listen, arguments);
        assert!(!said.contains(ESCAPES), "{arguments:?}: {said:?}");
        assert!(!said.lines().any(|line| line.starts_with("Ok")), "{arguments:?}: {said}");
    }
}
