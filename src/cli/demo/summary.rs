//! The summary after the demo.

use std::{collections::HashSet, io::Write, sync::Arc};

use receiptd::{
    clock,
    daemon::{
        events::WebhookReport,
        poller::replay::{Sent, Stretching, Way, calls_until},
    },
    domain::{GroupId, MsgSeq, Timestamp},
    rules::cadence::Cadences,
    simulator::Simulator,
    text::printable::printable,
};
use sqlx::PgPool;

use crate::cli::stdout;

/// The data of the summary.
pub struct Summary<'a> {
    pub pool: &'a PgPool,
    pub simulator: &'a Simulator,
    /// How messages were polled.
    pub cadences: Arc<Cadences>,
}

impl Summary<'_> {
    /// Prints the summary. True if every answer was stored.
    ///
    /// # Errors
    /// If no call succeeded, or the figures can't be read.
    pub async fn tell(&self, webhooks: Option<WebhookReport>) -> anyhow::Result<bool> {
        let (calls, seconds, per_call, failed): (i64, f64, f64, i64) = sqlx::query_as(
            "SELECT count(*), coalesce(extract(epoch FROM max(called_at) - min(called_at)), 0)::float8,
                coalesce(avg(messages_asked), 0)::float8, count(*) FILTER (WHERE class <> 'success')
             FROM receiptd.api_calls",
        )
        .fetch_one(self.pool)
        .await?;
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
            self.simulator.ledger().highest_sliding_second()
        )?;
        let (watched, groups, all_read): (i64, i64, i64) = sqlx::query_as(
            "SELECT count(*), count(DISTINCT group_id), count(*) FILTER (WHERE state = 'all_read')
             FROM receiptd.latest_receipts",
        )
        .fetch_one(self.pool)
        .await?;
        writeln!(out, "Discovery watched {watched} messages of {groups} groups, which nobody had added.")?;
        writeln!(out, "{per_call:.1} messages per call. {all_read} messages were read by everybody and are done.")?;
        if let Some(WebhookReport { told, untold, .. }) = webhooks {
            let alone = self.calls_of_polls_alone().await?;
            writeln!(
                out,
                "Webhooks told {told} changes when they happened, polls alone found {untold}. Without webhooks, the same \
                 reads\nwould have taken about {alone} calls: {} were saved.",
                alone.saturating_sub(usize::try_from(calls).unwrap_or_default())
            )?;
        }
        let is_complete = self.tell_of_answers(&mut out).await?;
        if calls > 0 && failed == calls {
            let last = "SELECT concat_ws(' ', class, code) || coalesce(': ' || error, '') FROM receiptd.api_calls
                ORDER BY called_at DESC LIMIT 1";
            let last: String = sqlx::query_scalar(last).fetch_one(self.pool).await?;
            anyhow::bail!("no call to the simulated Chat succeeded; the last one failed with {}", printable(&last));
        }
        writeln!(out, "To record your own history, see README.md and config/receiptd.toml.")?;
        Ok(is_complete)
    }

    /// Whether the history has all counts that the service has returned.
    async fn tell_of_answers(&self, out: &mut impl Write) -> anyhow::Result<bool> {
        let stored: Vec<(String, i64, i32, Option<i32>)> =
            sqlx::query_as("SELECT DISTINCT group_id, msg_seq, code, read_num FROM receiptd.receipt_history")
                .fetch_all(self.pool)
                .await?;
        let stored: HashSet<(String, i64, i32, Option<i32>)> = stored.into_iter().collect();
        let ledger = self.simulator.ledger();
        let answers = ledger.all_answers().flat_map(|(group, seq, receipts)| {
            receipts.iter().map(move |receipt| {
                let read = receipt.counts.and_then(|counts| i32::try_from(counts.read()).ok());
                (group.to_string(), seq.get().into(), receipt.code, read)
            })
        });
        let answers: HashSet<(String, i64, i32, Option<i32>)> = answers.collect();
        let missing = answers.difference(&stored).count();
        let are_stored = match missing {
            0 => format!("all {} are in the history", answers.len()),
            missing => format!("but {missing} are not in the history"),
        };
        writeln!(out, "The service returned {} different counts; {are_stored}.", answers.len())?;
        Ok(missing == 0)
    }

    /// Number of calls that polls would have made until now for the same messages without webhooks, by the same code.
    async fn calls_of_polls_alone(&self) -> anyhow::Result<usize> {
        let messages: Vec<(i32, String, i64, Timestamp, i32)> = sqlx::query_as(
            "SELECT group_key, group_id, msg_seq, sent_at, read_num + unread_num FROM receiptd.messages
             WHERE receipt_code = 0",
        )
        .fetch_all(self.pool)
        .await?;
        let sent = |(group_key, group, seq, sent_at, members): (i32, String, i64, Timestamp, i32)| {
            let (group, seq): (GroupId, MsgSeq) = (group.parse().ok()?, seq.try_into().ok()?);
            let members = u32::try_from(members).ok()?;
            let reads = (1..=members).map_while(|count| self.simulator.world().read_at(&group, seq, count)).collect();
            Some(Sent { group_key, sent_at, members, reads })
        };
        let messages: Vec<Sent> = messages.into_iter().filter_map(sent).collect();
        let cadences = self.cadences.clone();
        let way = Way { cadences, stretch: Stretching::By(1.0), batch_size: 50, limit: Some(200.0), told: 0.0 };
        Ok(calls_until(&messages, &way, clock::now()))
    }
}
