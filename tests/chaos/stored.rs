//! Compares the answers of the simulated Chat with the database.

use std::collections::BTreeMap;

use receiptd::{
    domain::{Counts, Receipt},
    simulator::{Ledger, Outcome},
};
use sqlx::{AssertSqlSafe, PgPool};

use crate::harness::{Harness, MESSAGES_A_GROUP};

/// The receipts of each message in order.
type Sequences = BTreeMap<(String, i64), Vec<Receipt>>;

/// A snapshot: group, seq, code and counts.
type Row = (String, i64, i32, Option<i32>, Option<i32>);

/// How many of the answers must be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// All of it, exactly once.
    All,
    /// All except those of at most this many calls, which were in flight when the daemon was killed.
    AllBut { calls: u64 },
}

/// Where the time series is stored.
#[derive(Debug, Clone, Copy)]
pub struct Tables {
    pub snapshots: &'static str,
    pub calls: &'static str,
}

impl Default for Tables {
    fn default() -> Self {
        Self { snapshots: "receiptd.receipt_snapshots", calls: "receiptd.api_calls" }
    }
}

/// Returns differences between the database and the answers beyond the allowed ones.
pub async fn differences(pool: &PgPool, ledger: &Ledger, expected: Stored, tables: Tables) -> Vec<String> {
    let (answered, stored) = (answered(ledger), stored(pool, tables.snapshots).await);
    let lost_calls = lost_calls(pool, ledger, tables.calls).await;
    let missing = answered.values().map(Vec::len).sum::<usize>().saturating_sub(stored.values().map(Vec::len).sum());
    let (may_lose, all) = match expected {
        Stored::All => (0, true),
        Stored::AllBut { calls } => (calls, false),
    };
    let mut found = vec![];
    if lost_calls > may_lose {
        found.push(format!(
            "of {} calls, {lost_calls} are not in api_calls as they ended, {may_lose} may",
            ledger.calls()
        ));
    }
    if missing as u64 > lost_calls * MESSAGES_A_GROUP.unsigned_abs() {
        found.push(format!("{missing} receipts are missing, more than {lost_calls} lost calls can explain"));
    }
    let distinct = format!("SELECT count(*) - count(DISTINCT (called_at, group_key, attempt)) FROM {}", tables.calls);
    let twice: i64 = scalar(pool, &distinct).await;
    if twice > 0 {
        found.push(format!("{twice} calls are in api_calls twice"));
    }
    let differing = |(message, stored): (&(String, i64), &Vec<Receipt>)| {
        let answered = answered.get(message).map_or(&[][..], Vec::as_slice);
        let fits = if all { stored == answered } else { is_subsequence(stored, answered) };
        (!fits).then(|| format!("{message:?} was answered {} but has {}", brief(answered), brief(stored)))
    };
    let all_differing: Vec<String> = stored.iter().filter_map(differing).collect();
    if !all_differing.is_empty() {
        let first = &all_differing[..all_differing.len().min(3)];
        found.push(format!("{} messages differ: {}", all_differing.len(), first.join("; ")));
    }
    found
        .extend(answered.keys().filter(|message| !stored.contains_key(*message)).map(|m| format!("{m:?} has nothing")));
    let mixed_up = mixed_up(pool, tables.snapshots).await;
    if mixed_up > 0 {
        found.push(format!("the latest receipts of {mixed_up} messages are not the last ones of their history"));
    }
    found
}

/// Messages whose latest receipt is not the last one of their history.
async fn mixed_up(pool: &PgPool, snapshots: &str) -> i64 {
    let sql = format!(
        "SELECT count(*) FROM receiptd.latest_receipts l JOIN (
            SELECT DISTINCT ON (group_key, msg_seq) s.* FROM {snapshots} s ORDER BY group_key, msg_seq, polled_at DESC
         ) h USING (group_key, msg_seq)
         WHERE (l.receipt_code, l.read_num, l.unread_num) IS DISTINCT FROM
            (h.code, coalesce(h.read_num, l.read_num), coalesce(h.unread_num, l.unread_num))"
    );
    scalar(pool, &sql).await
}

/// Calls that api_calls lacks, or has as failed although they were answered.
async fn lost_calls(pool: &PgPool, ledger: &Ledger, calls: &str) -> u64 {
    let noted: i64 = scalar(pool, &format!("SELECT count(*) FROM {calls}")).await;
    let successes: i64 =
        scalar(pool, &format!("SELECT count(*) FROM {calls} WHERE class IN ('success', 'incomplete')")).await;
    let unsuccessful = ledger.ended(Outcome::Answered).saturating_sub(successes.unsigned_abs());
    ledger.calls().saturating_sub(noted.unsigned_abs()).max(unsuccessful)
}

fn answered(ledger: &Ledger) -> Sequences {
    let message = |(group, seq, receipts): (&receiptd::domain::GroupId, receiptd::domain::MsgSeq, &[Receipt])| {
        ((group.as_str().to_owned(), i64::from(seq.get())), receipts.to_vec())
    };
    ledger.all_answers().map(message).collect()
}

async fn stored(pool: &PgPool, snapshots: &str) -> Sequences {
    let sql = format!(
        "SELECT g.group_id, h.msg_seq, h.code, h.read_num, h.unread_num FROM {snapshots} h
         JOIN receiptd.watched_groups g USING (group_key) ORDER BY 1, 2, h.polled_at"
    );
    let rows: Vec<Row> = sqlx::query_as(AssertSqlSafe(sql)).fetch_all(pool).await.unwrap();
    let mut sequences = Sequences::new();
    for (group, seq, code, read, unread) in rows {
        let counts = read.zip(unread).and_then(|(read, unread)| Counts::new(read.into(), unread.into()));
        sequences.entry((group, seq)).or_default().push(Receipt { code, counts });
    }
    sequences
}

pub async fn scalar<T>(pool: &PgPool, sql: &str) -> T
where
    T: Send + Unpin + for<'row> sqlx::Decode<'row, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>,
{
    sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(pool).await.unwrap()
}

/// The suffix of the partitions being written.
pub async fn today(scene: &Harness) -> String {
    scalar(&scene.pool, "SELECT to_char(now() AT TIME ZONE 'UTC', 'YYYYMMDD')").await
}

/// Whether `part` remains of `whole` after removing some elements.
fn is_subsequence(part: &[Receipt], whole: &[Receipt]) -> bool {
    let mut whole = whole.iter();
    part.iter().all(|receipt| whole.any(|other| other == receipt))
}

fn brief(receipts: &[Receipt]) -> String {
    let read = |receipt: &Receipt| receipt.counts.map_or(format!("code {}", receipt.code), |c| c.read().to_string());
    format!("[{}]", receipts.iter().map(read).collect::<Vec<_>>().join(" "))
}
