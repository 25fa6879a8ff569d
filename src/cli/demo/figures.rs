//! The figures of the picture and of the summary, by SQL on the tables that everybody can query.

use std::io::Write;

use anyhow::Context;
use receiptd::{printable::printable, simulator::Simulator};
use sqlx::PgPool;

use super::stage::Stage;
use crate::cli::stdout;

/// So many messages are shown with their curves.
const CURVES: i64 = 6;

/// What the picture shows.
pub struct Figures {
    /// Calls in the last whole second that is stored.
    pub calls: i64,
    /// Messages that a call asked for, on average, in that second.
    pub messages_per_call: f64,
    /// The most calls that the service saw in any second.
    pub highest_second: usize,
    /// Rows in the time series.
    pub snapshots: i64,
    /// Messages that are polled, and those that all have read.
    pub active: i64,
    pub all_read: i64,
    pub curves: Vec<Curve>,
}

/// How a message was read: the share of its readers at each change, and the seconds since the first.
#[derive(sqlx::FromRow)]
pub struct Curve {
    pub name: String,
    pub seconds: Vec<f64>,
    pub shares: Vec<f64>,
    pub read: i32,
    pub readers: i64,
}

impl Figures {
    pub async fn read(stage: &Stage) -> anyhow::Result<Self> {
        const DOING: &str = "reading the figures of the demo failed";
        let (calls, messages_per_call): (i64, f64) = sqlx::query_as(
            "SELECT count(*), coalesce(avg(messages_asked), 0)::float8 FROM receiptd.api_calls
             WHERE called_at > now() - interval '1.5 seconds' AND called_at <= now() - interval '0.5 seconds'",
        )
        .fetch_one(&stage.pool)
        .await
        .context(DOING)?;
        let (snapshots, active, all_read): (i64, i64, i64) = sqlx::query_as(
            "SELECT (SELECT count(*) FROM receiptd.receipt_snapshots), count(*) FILTER (WHERE state = 'active'),
                count(*) FILTER (WHERE state = 'all_read')
             FROM receiptd.latest_receipts",
        )
        .fetch_one(&stage.pool)
        .await
        .context(DOING)?;
        Ok(Self {
            calls,
            messages_per_call,
            highest_second: stage.simulator.ledger().highest_sliding_second(),
            snapshots,
            active,
            all_read,
            curves: curves(&stage.pool).await.context(DOING)?,
        })
    }
}

async fn curves(pool: &PgPool) -> Result<Vec<Curve>, sqlx::Error> {
    sqlx::query_as(
        "SELECT group_id || ' #' || msg_seq AS name, array_agg(seconds ORDER BY seconds) AS seconds,
            array_agg(share ORDER BY seconds) AS shares, max(read_num) AS read, max(readers) AS readers
         FROM (
            SELECT group_id, msg_seq, read_num, read_num::bigint + unread_num AS readers,
                extract(epoch FROM polled_at - min(polled_at) OVER (PARTITION BY group_id, msg_seq))::float8 AS seconds,
                read_num::float8 / greatest(read_num::bigint + unread_num, 1) AS share
            FROM receiptd.receipt_history
            WHERE msg_seq = 1 AND code = 0 AND group_id IN (SELECT 'group ' || g * 29 FROM generate_series(1, $1) g)
         ) h
         GROUP BY group_id, msg_seq ORDER BY length(group_id), group_id",
    )
    .bind(CURVES)
    .fetch_all(pool)
    .await
}

/// Tells what the demo has done. True if what the service answered is what is stored.
///
/// # Errors
/// If no call succeeded, or the figures can't be had.
pub async fn summary(pool: &PgPool, simulator: &Simulator) -> anyhow::Result<bool> {
    let (calls, seconds, per_call, failed): (i64, f64, f64, i64) = sqlx::query_as(
        "SELECT count(*), coalesce(extract(epoch FROM max(called_at) - min(called_at)), 0)::float8,
            coalesce(avg(messages_asked), 0)::float8, count(*) FILTER (WHERE class <> 'success')
         FROM receiptd.api_calls",
    )
    .fetch_one(pool)
    .await?;
    let (snapshots, all_read): (i64, i64) = sqlx::query_as(
        "SELECT (SELECT count(*) FROM receiptd.receipt_snapshots),
            (SELECT count(*) FROM receiptd.latest_receipts WHERE state = 'all_read')",
    )
    .fetch_one(pool)
    .await?;
    let ledger = simulator.ledger();
    let answered: usize = ledger.all_answers().map(|(_, _, receipts)| receipts.len()).sum();
    let is_complete = i64::try_from(answered) == Ok(snapshots);
    let rate = calls as f64 / seconds.max(1.0);
    let mut out = stdout();
    writeln!(
        out,
        "In {seconds:.0} s receiptd made {calls} calls, {failed} of which failed: {rate:.0} a second, {:.0} % of 200.",
        rate / 2.0
    )?;
    writeln!(
        out,
        "The service saw at most {} calls in any second; its limit is 200.",
        ledger.highest_sliding_second()
    )?;
    writeln!(out, "A call asked for {per_call:.1} messages. {all_read} messages were read by everybody and are done.")?;
    let stored = match is_complete {
        true => format!("and {snapshots} snapshots are stored: all of them"),
        false => format!("but {snapshots} snapshots are stored"),
    };
    writeln!(out, "The service answered {answered} different counts, {stored}.")?;
    if calls > 0 && failed == calls {
        let last = "SELECT concat_ws(' ', class, code) || coalesce(': ' || error, '') FROM receiptd.api_calls
            ORDER BY called_at DESC LIMIT 1";
        let last: String = sqlx::query_scalar(last).fetch_one(pool).await?;
        anyhow::bail!("no call to the simulated Chat succeeded; the last one failed with {}", printable(&last));
    }
    writeln!(out, "To keep a history of your own: see README.md and config/receiptd.toml.")?;
    Ok(is_complete)
}
