//! Proxies in the environment, and `check`, which shows them.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener},
    process::Command,
    sync::mpsc::{Receiver, channel},
    thread,
};

use crate::{
    common::{TestDatabase, own_address},
    harness::{APP, Harness, PATIENCE, SECRET_KEY, end, signal},
};

/// A proxy that answers each connection with `answers`, one each time data arrives, and records the data.
struct Proxy {
    address: SocketAddr,
    heard: Receiver<Vec<u8>>,
}

impl Proxy {
    fn start(answers: &'static [&'static [u8]]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (tell, heard) = channel();
        thread::spawn(move || {
            for mut connection in listener.incoming().map_while(Result::ok) {
                for answer in answers {
                    let mut bytes = [0; 4_096];
                    let Ok(length) = connection.read(&mut bytes) else { break };
                    if tell.send(bytes[..length].to_vec()).is_err() || connection.write_all(answer).is_err() {
                        break;
                    }
                }
            }
        });
        Self { address, heard }
    }

    /// The data received so far, as text.
    fn heard(&self) -> String {
        self.heard.try_iter().map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).collect()
    }
}

/// The output of `check`, and its exit code.
fn check(place: &Harness, database: &TestDatabase, variables: &[(&str, &str)]) -> (Option<i32>, String) {
    let config = place.write_config();
    let mut command = Command::new(env!("CARGO_BIN_EXE_receiptd"));
    command.args(["check", "--config"]).arg(config).env_clear().env("PATH", std::env::var_os("PATH").unwrap());
    command.env("DATABASE_URL", database.url()).envs(variables.iter().copied());
    let output = command.output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
    assert!(!said.contains("canary"), "{said}");
    (output.status.code(), said)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_on_this_machine_is_called_past_any_proxy() {
    let (mut place, database) = (Harness::new("past", 200).await, TestDatabase::new().await);
    let proxy = Proxy::start(&[b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"]);
    let url = format!("http://me:{SECRET_KEY}@{}", proxy.address);
    let variables = ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY"].map(|name| (name, url.as_str()));
    let (code, said) = check(&place, &database, &variables);
    assert_eq!((code, proxy.heard()), (Some(0), String::new()), "{said}");
    assert!(said.contains("accepts the signature") && !said.contains(": proxy: "), "{said}");
    place.config = place.config.replace("http://127.0.0.1", "https://localhost");
    let (code, said) = check(&place, &database, &variables);
    assert_eq!((code, proxy.heard()), (Some(69), String::new()), "there is no TLS there: {said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plain_webhook_is_passed_on_past_any_proxy() {
    const TOKEN: &str = "canary-token-of-thirty-two-letters";
    let (mut place, database) = (Harness::new("forward", 200).await, TestDatabase::new().await);
    let [proxy, handler] = [(), ()].map(|()| Proxy::start(&[b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"]));
    let listen = own_address();
    let webhooks = format!(
        "[webhooks]\nlisten = \"{listen}\"\npath = \"/canary\"\ntoken = \"{TOKEN}\"\nforward = \"http://{}/handler\"\n",
        handler.address
    );
    place.config.push_str(&webhooks);
    let url = format!("http://{}", proxy.address);
    let variables = ["HTTP_PROXY", "http_proxy", "ALL_PROXY"].map(|name| (name, url.as_str()));
    let daemon = place.spawn_with(Some(&database), &variables);
    place.hears("READY=1");
    let time = receiptd::clock::now().timestamp().to_string();
    let sign = receiptd::rules::webhooks::signature(&TOKEN.into(), &time);
    let url = format!("http://{listen}/canary?SdkAppid={APP}&Sign={sign}&RequestTime={time}");
    _ = rustls::crypto::ring::default_provider().install_default();
    // Until it polls, it answers that it stands by.
    while reqwest::Client::new().post(&url).body("{}").send().await.unwrap().status() != 200 {}
    let heard = handler.heard.recv_timeout(PATIENCE).unwrap();
    assert!(heard.starts_with(format!("POST /handler?SdkAppid={APP}&Sign={sign}").as_bytes()));
    assert_eq!(proxy.heard(), "");
    signal(&daemon, "-TERM");
    assert_eq!(end(daemon).0, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn https_goes_through_a_proxy_that_sees_no_signature() {
    let (mut place, database) = (Harness::new("through", 200).await, TestDatabase::new().await);
    place.config = place.config.replace(&place.simulator.endpoint(), "https://chat.invalid");
    let proxy = Proxy::start(&[b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n"]);
    let url = format!("http://me:{SECRET_KEY}@{}", proxy.address);
    let (code, said) = check(&place, &database, &[("HTTPS_PROXY", &url)]);
    assert_eq!(code, Some(69), "{said}");
    let told = format!("Ok: proxy: https://chat.invalid is reached through http://{}, ", proxy.address);
    assert!(said.contains(&told) && !said.contains(": dns: "), "{said}");
    let heard = proxy.heard();
    assert!(heard.starts_with("CONNECT chat.invalid:443 HTTP/1.1\r\n"), "{heard}");
    assert!(!heard.contains("usersig") && !heard.contains("GET ") && !heard.contains("POST "), "{heard}");
    let (_, said) = check(&place, &database, &[("HTTPS_PROXY", &url), ("NO_PROXY", "chat.invalid")]);
    assert_eq!(proxy.heard(), "");
    assert!(said.contains("Failed: dns: chat.invalid does not resolve"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn https_goes_through_a_socks_proxy() {
    let (mut place, database) = (Harness::new("socks", 200).await, TestDatabase::new().await);
    place.config = place.config.replace(&place.simulator.endpoint(), "https://chat.invalid");
    // No authentication; then: the host is unreachable.
    let proxy = Proxy::start(&[&[5, 0], &[5, 4, 0, 1, 0, 0, 0, 0, 0, 0]]);
    let (code, said) = check(&place, &database, &[("ALL_PROXY", &format!("socks5h://{}", proxy.address))]);
    assert_eq!(code, Some(69), "{said}");
    assert!(said.contains(&format!("is reached through socks5h://{}, ", proxy.address)), "{said}");
    assert!(proxy.heard().contains("chat.invalid"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_that_can_not_be_used_is_named_instead_of_passed_over() {
    let (mut place, database) = (Harness::new("unusable", 200).await, TestDatabase::new().await);
    place.config = place.config.replace(&place.simulator.endpoint(), "https://chat.invalid");
    let variables = [("ALL_PROXY", "ftp://me:canary@proxy.example")];
    let (code, said) = check(&place, &database, &variables);
    assert_eq!(code, Some(78), "{said}");
    assert!(said.contains("Failed: proxy: ALL_PROXY does not name a usable proxy"), "{said}");
    let (code, said) = end(place.spawn_with(Some(&database), &variables));
    assert_eq!(code, Some(78), "{said}");
    assert!(said.contains("ALL_PROXY does not name a usable proxy"), "{said}");
}
