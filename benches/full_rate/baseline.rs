//! The cost of the same work without receiptd: a bare loop that makes the same calls and parses the answers, and a
//! plain upsert of every observation. Each runs next to the daemon with its own service and server, so that both see
//! the same machine at the same time.

use std::{
    hint::black_box,
    process::{Child, Command},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use receiptd::{
    chat::{Credential, user_sig::Signer},
    clock,
    domain::SdkAppId,
};
use rustix::process::{Signal, set_parent_process_death_signal};
use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use tokio::time::{MissedTickBehavior, interval};

use crate::setup::{ADMINISTRATOR, APP, SECRET_KEY, Watch};

/// The argument with which the bench starts itself as the bare loop.
const BARE_LOOP: &str = "--bare-loop";

/// Time between two calls.
const PACE: Duration = Duration::from_millis(5);

/// Time between two upserts.
const FLUSH: Duration = Duration::from_millis(100);

/// The bare loop in a separate process, which is killed when this value is dropped.
pub struct BareLoop(Child);

impl BareLoop {
    pub fn start(endpoint: &str, watch: Watch) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args([BARE_LOOP, endpoint, &watch.groups.to_string(), &watch.messages.to_string()]);
        Self(command.spawn().unwrap())
    }

    pub fn id(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for BareLoop {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// Runs the bare loop if this process was started for it; in that case it does not return.
pub fn run_if_asked(arguments: &[String]) {
    let [flag, endpoint, groups, messages] = arguments else { return };
    if flag == BARE_LOOP {
        // A bench that is killed leaves nothing behind.
        set_parent_process_death_signal(Some(Signal::KILL)).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(bare_loop(endpoint, groups.parse().unwrap(), messages.parse().unwrap()));
    }
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Asked {
    msg_seq: i64,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Request<'a> {
    group_id: &'a str,
    msg_seq_list: Vec<Asked>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    error_code: i64,
    group_msg_receipt_list: Vec<Receipt>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Receipt {
    msg_seq: i64,
    read_num: i64,
    unread_num: i64,
}

/// Asks for all messages of one group after the other, one call per [`PACE`], forever.
async fn bare_loop(endpoint: &str, groups: i32, messages: i64) {
    rustls::crypto::ring::default_provider().install_default().unwrap();
    let client = reqwest::Client::builder().http1_only().tcp_nodelay(true).no_proxy().build().unwrap();
    let signer =
        Signer::new(SdkAppId::try_from(APP).unwrap(), ADMINISTRATOR.into(), Credential::SecretKey(SECRET_KEY.into()));
    let user_sig = signer.user_sig(clock::now()).unwrap();
    let url = format!(
        "{endpoint}/v4/group_open_http_svc/get_group_msg_receipt?sdkappid={APP}&identifier={ADMINISTRATOR}&usersig={}\
         &contenttype=json",
        secrecy::ExposeSecret::expose_secret(&user_sig)
    );
    let mut pace = interval(PACE);
    // A busy machine must not cause bursts, which cost less.
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for group in (1..=groups).cycle() {
        pace.tick().await;
        let (client, url) = (client.clone(), format!("{url}&random={}", fastrand::u32(..)));
        tokio::spawn(async move {
            let group_id = format!("group {group}");
            let msg_seq_list = (1..=messages).map(|msg_seq| Asked { msg_seq }).collect();
            let request = Request { group_id: &group_id, msg_seq_list };
            let answer = client.post(url).json(&request).send().await.unwrap().bytes().await.unwrap();
            let answer: Answer = serde_json::from_slice(&answer).unwrap();
            assert_eq!(answer.error_code, 0);
            let told = |receipt: &Receipt| receipt.msg_seq + receipt.read_num + receipt.unread_num;
            black_box(answer.group_msg_receipt_list.iter().map(told).sum::<i64>());
        });
    }
}

/// Number of upserted rows.
#[derive(Default)]
pub struct Upserted(AtomicU64);

impl Upserted {
    pub fn rows(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Stores all observations of the same calls, flush by flush, in a table with the key of `receipt_snapshots` and
/// nothing else. Runs until it is dropped.
pub async fn upsert(pool: PgPool, watch: Watch, upserted: &Upserted) {
    let create =
        "CREATE TABLE observations (group_key integer, msg_seq bigint, polled_at timestamptz, read_num integer,
        unread_num integer, PRIMARY KEY (group_key, msg_seq, polled_at))";
    sqlx::query(create).execute(&pool).await.unwrap();
    let mut connection = pool.acquire().await.unwrap();
    let mut pace = interval(FLUSH);
    let calls = i32::try_from(FLUSH.as_millis() / PACE.as_millis()).unwrap();
    let (mut group, mut read) = (0, 0);
    loop {
        pace.tick().await;
        let (mut groups, mut seqs, mut times, mut reads, mut unreads) = (vec![], vec![], vec![], vec![], vec![]);
        for _ in 0..calls {
            (group, read) = if group < watch.groups { (group + 1, read) } else { (1, read + 1) };
            let polled_at = clock::now();
            for seq in 1..=watch.messages {
                groups.push(group);
                seqs.push(seq);
                times.push(polled_at);
                reads.push(read);
                unreads.push(199 - read);
            }
        }
        let sql = "INSERT INTO observations
            SELECT * FROM unnest($1::integer[], $2::bigint[], $3::timestamptz[], $4::integer[], $5::integer[])
            ON CONFLICT (group_key, msg_seq, polled_at)
            DO UPDATE SET read_num = excluded.read_num, unread_num = excluded.unread_num";
        let rows = seqs.len() as u64;
        let upsert = sqlx::query(sql).bind(groups).bind(seqs).bind(times).bind(reads).bind(unreads);
        upsert.execute(&mut *connection).await.unwrap();
        upserted.0.fetch_add(rows, Ordering::Relaxed);
    }
}
