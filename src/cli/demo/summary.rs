//! The summary after the demo.

use std::io::Write;

use receiptd::{simulator::Simulator, text::printable::printable};
use sqlx::PgPool;

use crate::cli::stdout;

/// Prints the summary. True if every answer was stored.
///
/// # Errors
/// If no call succeeded, or the figures can't be read.
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
        "In {seconds:.0} s receiptd made {calls} calls, {failed} of which failed: {rate:.0} per second, {:.0} % of \
         200.",
        rate / 2.0
    )?;
    writeln!(
        out,
        "The service saw at most {} calls in any second; its limit is 200.",
        ledger.highest_sliding_second()
    )?;
    writeln!(out, "{per_call:.1} messages per call. {all_read} messages were read by everybody and are done.")?;
    let stored = match is_complete {
        true => format!("all {snapshots} were stored"),
        false => format!("but {snapshots} snapshots were stored"),
    };
    writeln!(out, "The service returned {answered} different counts; {stored}.")?;
    if calls > 0 && failed == calls {
        let last = "SELECT concat_ws(' ', class, code) || coalesce(': ' || error, '') FROM receiptd.api_calls
            ORDER BY called_at DESC LIMIT 1";
        let last: String = sqlx::query_scalar(last).fetch_one(pool).await?;
        anyhow::bail!("no call to the simulated Chat succeeded; the last one failed with {}", printable(&last));
    }
    writeln!(out, "To record your own history, see README.md and config/receiptd.toml.")?;
    Ok(is_complete)
}
