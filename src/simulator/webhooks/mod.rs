//! The webhooks of the simulated service: it reports to a listener what happens in its world, as documented.
//!
//! Written from the documentation, independently of the listener. Webhooks come from the same world as the answers to
//! polls. On request, some are lost, late, repeated, out of order or wrongly signed.

mod bodies;
mod ledger;

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    sync::Arc,
    time::Duration,
};

use chrono::TimeDelta;
use fastrand::Rng;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use sha2::{Digest, Sha256};

pub(super) use self::bodies::over_limit;
pub use self::ledger::WebhookLedger;
use super::{
    service::{Service, lock},
    world::Fresh,
};
use crate::{
    clock,
    domain::{GroupId, MsgSeq, Timestamp},
};

/// How often it looks for reads.
const EVERY: Duration = Duration::from_millis(20);

/// Maximum time until the listener has answered. [Tencent's documentation]
const PATIENCE: Duration = Duration::from_secs(2);

/// Where webhooks are sent, and how reliably.
#[derive(Debug, Clone)]
pub struct WebhookConfig {
    /// The listener's URL, without a query.
    pub url: String,
    /// The token that signs.
    pub token: SecretString,
    /// How reliably they arrive.
    pub delivery: Delivery,
}

/// How reliably webhooks arrive: fractions from 0 to 1.
#[derive(Debug, Clone, Copy, Default)]
pub struct Delivery {
    /// Fraction that is never sent.
    pub lost: f64,
    /// Fraction that is sent some seconds later.
    pub late: f64,
    /// Fraction that is sent twice.
    pub doubled: f64,
    /// Fraction that is held for up to a fifth of a second, so that others overtake it.
    pub disordered: f64,
    /// Fraction with a wrong signature.
    pub wrongly_signed: f64,
}

/// The next read of a message: its time, and the number of members who have read it then.
type Next = Reverse<(Timestamp, GroupId, MsgSeq, u32)>;

/// Sends webhooks until the service stops.
pub(super) async fn send_all(service: Arc<Service>, config: WebhookConfig) {
    _ = rustls::crypto::ring::default_provider().install_default();
    let Ok(client) = reqwest::Client::builder().timeout(PATIENCE).no_proxy().build() else { return };
    let mut sender = Sender {
        service: service.clone(),
        client,
        config,
        told: HashMap::new(),
        next: BinaryHeap::new(),
        rng: Rng::with_seed(1),
    };
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! { () = service.stop.cancelled() => return, _ = ticks.tick() => {} }
        sender.look();
    }
}

struct Sender {
    service: Arc<Service>,
    client: reqwest::Client,
    config: WebhookConfig,
    /// The reported read counts, or those of messages when they became known, including members who have left.
    told: HashMap<(GroupId, MsgSeq), u32>,
    next: BinaryHeap<Next>,
    rng: Rng,
}

impl Sender {
    fn look(&mut self) {
        let now = self.service.now();
        for fresh in self.service.world.take_fresh() {
            if let Some(body) = bodies::other(&self.service.world, &fresh, now) {
                self.emit(body);
            }
            if let Fresh::Message { group, seq } | Fresh::Posted { group, seq, .. } = fresh {
                self.follow(group, seq, now);
            }
        }
        while self.next.peek().is_some_and(|Reverse((at, ..))| *at <= now) {
            let Some(Reverse((at, group, seq, read))) = self.next.pop() else { break };
            self.tell(&group, seq, read, at);
            self.schedule(group, seq);
        }
    }

    /// Follows a message from now on. A fixed count that has risen is reported immediately.
    fn follow(&mut self, group: GroupId, seq: MsgSeq, now: Timestamp) {
        let Some(read) = self.service.world.read_count(&group, seq, now) else { return };
        match self.told.get(&(group.clone(), seq)) {
            None => {
                self.told.insert((group.clone(), seq), read);
                self.schedule(group, seq);
            }
            Some(told) if *told < read => self.tell(&group, seq, read, now),
            Some(_) => {}
        }
    }

    fn schedule(&mut self, group: GroupId, seq: MsgSeq) {
        let read = self.told.get(&(group.clone(), seq)).map_or(1, |told| told + 1);
        if let Some(at) = self.service.world.read_at(&group, seq, read) {
            self.next.push(Reverse((at, group, seq, read)));
        }
    }

    /// Reports that members have read a message.
    fn tell(&mut self, group: &GroupId, seq: MsgSeq, read: u32, at: Timestamp) {
        let before = self.told.insert((group.clone(), seq), read).unwrap_or_default();
        let just_then = at + TimeDelta::microseconds(1);
        let world = &self.service.world;
        // Members who have left read nothing.
        let reading =
            world.reading(group, seq, (before, read), just_then).filter(|reading| !reading.members.is_empty());
        if let Some(reading) = reading {
            self.emit(bodies::read(&self.service.world, group, seq, &reading, at));
        }
    }

    /// Sends a webhook, if the configured reliability lets it.
    fn emit(&mut self, body: Value) {
        let Delivery { lost, late, doubled, disordered, wrongly_signed } = self.config.delivery;
        let mut falls = |share: f64| self.rng.f64() < share;
        let (is_lost, is_forged) = (falls(lost), falls(wrongly_signed));
        let times = if falls(doubled) { 2 } else { 1 };
        let (is_late, is_held) = (falls(late), falls(disordered));
        self.note(|ledger| {
            ledger.events += 1;
            ledger.lost += u64::from(is_lost || is_forged);
        });
        if is_lost {
            return;
        }
        for _ in 0..times {
            let mut wait = Duration::from_millis(self.rng.u64(2..20));
            if is_held {
                wait += Duration::from_millis(self.rng.u64(..200));
            }
            if is_late {
                wait += Duration::from_millis(self.rng.u64(1_500..4_000));
            }
            self.send(body.clone(), wait, is_forged);
        }
    }

    fn send(&self, body: Value, wait: Duration, is_forged: bool) {
        let (service, client, config) = (self.service.clone(), self.client.clone(), self.config.clone());
        let app = self.service.app();
        tokio::spawn(async move {
            tokio::time::sleep(wait).await;
            lock(&service.webhooks).sent += 1;
            let url = signed(&config, app, body["CallbackCommand"].as_str().unwrap_or_default(), is_forged);
            let answer = client.post(url).body(body.to_string()).send().await;
            let Ok(answer) = answer else { return };
            let is_ok = answer.status() == 200;
            let answer: Value = answer.json().await.unwrap_or_default();
            if is_ok && answer["ActionStatus"] == "OK" && answer["ErrorCode"] == 0 {
                lock(&service.webhooks).answered += 1;
            }
        });
    }

    fn note(&self, change: impl FnOnce(&mut WebhookLedger)) {
        change(&mut lock(&self.service.webhooks));
    }
}

/// The URL of a webhook, with its signature.
fn signed(config: &WebhookConfig, app: u32, command: &str, is_forged: bool) -> String {
    let time = clock::now().timestamp().to_string();
    let token = if is_forged { "another token" } else { config.token.expose_secret() };
    let digest = Sha256::digest(format!("{token}{time}"));
    let sign: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    let client = if command == bodies::OVER_LIMIT { "" } else { "&ClientIP=127.0.0.1" };
    format!(
        "{}?SdkAppid={app}&CallbackCommand={command}&contenttype=json{client}&OptPlatform=RESTAPI&Sign={sign}\
         &RequestTime={time}",
        config.url
    )
}

#[cfg(test)]
mod tests;
