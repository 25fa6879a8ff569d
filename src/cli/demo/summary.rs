//! What the demo has done, in words, after its end.

use std::io::Write;

use receiptd::{printable::printable, simulator::Simulator};
use sqlx::PgPool;

use crate::cli::stdout;

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
