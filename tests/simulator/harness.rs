//! A running simulator and a plain client of it.

use std::{io::Write, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use receiptd::{
    domain::{Counts, GroupId, MsgSeq, Receipt, SdkAppId},
    simulator::{Fault, FaultRule, Simulator, SimulatorConfig, When},
};
use reqwest::{Client, Method, RequestBuilder, Response};
use serde_json::{Value, json};
use sha2::Sha256;

pub const KEY: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
pub const PATH: &str = "/v4/group_open_http_svc/get_group_msg_receipt";

pub fn config() -> SimulatorConfig {
    SimulatorConfig {
        latency: (Duration::ZERO..=Duration::ZERO).into(),
        ..SimulatorConfig::new(SdkAppId::try_from(88_888_888).unwrap(), "admin", KEY.into())
    }
}

pub fn group(id: &str) -> GroupId {
    id.parse().unwrap()
}

pub fn seq(number: i64) -> MsgSeq {
    MsgSeq::try_from(number).unwrap()
}

pub fn receipt(read: i64, unread: i64) -> Receipt {
    Receipt { code: 0, counts: Counts::new(read, unread) }
}

pub fn always(fault: Fault) -> FaultRule {
    FaultRule { fault, when: When::All, times: None }
}

/// A hand-made UserSig, valid for an hour.
pub fn user_sig() -> String {
    let now = receiptd::clock::now().timestamp();
    let content = format!("TLS.identifier:admin\nTLS.sdkappid:88888888\nTLS.time:{now}\nTLS.expire:3600\n");
    let mut mac = Hmac::<Sha256>::new_from_slice(KEY.as_bytes()).unwrap();
    mac.update(content.as_bytes());
    let signature = json!({
        "TLS.ver": "2.0", "TLS.identifier": "admin", "TLS.sdkappid": 88_888_888, "TLS.time": now, "TLS.expire": 3600,
        "TLS.sig": STANDARD.encode(mac.finalize().into_bytes()),
    });
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(signature.to_string().as_bytes()).unwrap();
    STANDARD.encode(encoder.finish().unwrap()).replace('+', "*").replace('/', "-").replace('=', "_")
}

/// A client of a running simulator.
pub struct Caller {
    pub simulator: Simulator,
    pub client: Client,
    pub user_sig: String,
}

impl Caller {
    pub async fn start(config: SimulatorConfig) -> Self {
        // An error means that another test of this process was first.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::builder().no_proxy().build().unwrap();
        Self { simulator: Simulator::start(config).await.unwrap(), client, user_sig: user_sig() }
    }

    pub fn request(&self, random: u32, group_id: &str, seqs: &[u32]) -> RequestBuilder {
        let list: Vec<Value> = seqs.iter().map(|seq| json!({ "MsgSeq": seq })).collect();
        let random = random.to_string();
        let parameters = [
            ("sdkappid", "88888888"),
            ("identifier", "admin"),
            ("usersig", &self.user_sig),
            ("random", &random),
            ("contenttype", "json"),
        ];
        let request = self.client.post(self.simulator.endpoint() + PATH).query(&parameters);
        request.json(&json!({"GroupId": group_id, "MsgSeqList": list}))
    }

    pub async fn send(&self, random: u32, group_id: &str, seqs: &[u32]) -> reqwest::Result<Response> {
        self.request(random, group_id, seqs).send().await
    }

    /// One call with its own `random`, answered with JSON.
    pub async fn call(&self, group_id: &str, seqs: &[u32]) -> Value {
        let response = self.send(fastrand::u32(..), group_id, seqs).await.unwrap();
        assert_eq!(response.status(), 200);
        response.json().await.unwrap()
    }

    pub async fn control(&self, method: Method, path: &str, body: Option<Value>) -> Response {
        let request = self.client.request(method, self.simulator.endpoint() + "/simulator/" + path);
        match body {
            Some(body) => request.json(&body),
            None => request,
        }
        .send()
        .await
        .unwrap()
    }

    pub fn error_count(&self, code: i32) -> u64 {
        self.simulator.ledger().errors_by_code().get(&code).copied().unwrap_or_default()
    }
}
