//! The figures of the picture and the summary, from SQL on the public tables.

use anyhow::Context;
use receiptd::clock;
use sqlx::PgPool;

use super::stage::Stage;

/// Number of messages shown with their curves.
const CURVES: i64 = 6;

/// The figures of the picture.
pub struct Figures {
    /// Calls in the last complete second that is stored.
    pub calls: i64,
    /// Average number of messages per call in that second.
    pub messages_per_call: f64,
    /// Maximum number of calls in any second, as seen by the service.
    pub highest_second: usize,
    /// Rows in `receipt_snapshots`.
    pub snapshots: i64,
    /// Active messages, and messages that all members have read.
    pub active: i64,
    pub all_read: i64,
    /// Messages that discovery has watched.
    pub discovered: i64,
    /// Read counts that changed and were reported by webhooks, and those that only polls found.
    pub told: u64,
    pub found: u64,
    pub curves: Vec<Curve>,
}

/// The read curve of a message: the fraction of its readers at each change, and the seconds since the first one.
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
        const DOING: &str = "reading the demo's figures failed";
        let (calls, messages_per_call): (i64, f64) = sqlx::query_as(
            "SELECT count(*), coalesce(avg(messages_asked), 0)::float8 FROM receiptd.api_calls
             WHERE called_at > now() - interval '1.5 seconds' AND called_at <= now() - interval '0.5 seconds'",
        )
        .fetch_one(&stage.pool)
        .await
        .context(DOING)?;
        let (snapshots, active, all_read, discovered): (i64, i64, i64, i64) = sqlx::query_as(
            "SELECT (SELECT count(*) FROM receiptd.receipt_snapshots), count(*) FILTER (WHERE state = 'active'),
                count(*) FILTER (WHERE state = 'all_read'), (SELECT count(discovered_at) FROM receiptd.watched_messages)
             FROM receiptd.latest_receipts",
        )
        .fetch_one(&stage.pool)
        .await
        .context(DOING)?;
        let webhooks = stage.daemon.status().webhooks().map(|health| health.report(clock::uptime()));
        Ok(Self {
            calls,
            messages_per_call,
            highest_second: stage.simulator.ledger().highest_sliding_second(),
            snapshots,
            active,
            all_read,
            discovered,
            told: webhooks.as_ref().map_or(0, |report| report.told),
            found: webhooks.as_ref().map_or(0, |report| report.untold),
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
