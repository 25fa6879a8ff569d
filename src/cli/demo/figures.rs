//! The figures of the picture and of the summary, by SQL on the tables that everybody can query.

use anyhow::Context;
use sqlx::PgPool;

use super::stage::Stage;

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
