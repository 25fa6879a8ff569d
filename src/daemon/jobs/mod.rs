//! The jobs of a term: the roll-up and retention, each run by its cron expression.
//!
//! A failed job is retried at its next scheduled time and keeps what it has done. Nothing here polls or waits for
//! polls.

mod retention;
mod rollup;

use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

pub use self::{
    retention::{Removed, enforce},
    rollup::catch_up,
};
use crate::{
    config::Jobs,
    domain::Timestamp,
    logging::log_throttle::LogThrottle,
    rules::{cadence::Cron, retention::Retention},
    store::{Store, StoreError},
};

/// How often the clock is checked: the maximum lateness of a job, and the delay until a clock step is noticed.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// When a job is due.
#[derive(Debug)]
struct Alarm {
    cron: Cron,
    heard_at: Timestamp,
}

impl Alarm {
    /// Whether the time has come since the last call. Missed times count once.
    fn rings(&mut self, now: Timestamp) -> bool {
        let rings = self.cron.next_after(self.heard_at).is_some_and(|next| next <= now);
        // After a clock was set back, the job must not be silent for as long.
        if rings || now < self.heard_at {
            self.heard_at = now;
        }
        rings
    }
}

/// Runs the jobs until the term is `over`. Rolls up pending data immediately.
pub(crate) async fn run(store: Store, jobs: Jobs, keep: Retention, over: CancellationToken) {
    let now = store.clock().now();
    let mut rollup = Alarm { cron: jobs.rollup, heard_at: now };
    let mut retention = Alarm { cron: jobs.retention, heard_at: now };
    let (mut rollup_trouble, mut retention_trouble) = (LogThrottle::default(), LogThrottle::default());
    let mut is_first = true;
    let work = async {
        loop {
            let now = store.clock().now();
            if rollup.rings(now) || std::mem::take(&mut is_first) {
                said(roll_up(&store, now).await, &mut rollup_trouble, "snapshots could not be rolled up");
            }
            // Nothing is removed while a clock is in doubt: the job runs when that is over.
            if store.clock().doubt().is_none() && retention.rings(now) {
                let cleaned = clean(&store, &keep, now).await;
                said(cleaned, &mut retention_trouble, "old partitions could not be removed");
            }
            sleep(LOOK_EVERY).await;
        }
    };
    over.run_until_cancelled(work).await;
}

async fn roll_up(store: &Store, now: Timestamp) -> Result<(), StoreError> {
    let start = Instant::now();
    catch_up(store, now, |_| {}).await?;
    metrics::histogram!("receiptd_rollup_seconds").record(start.elapsed());
    if let Some(until) = store.rolled_up_until().await? {
        metrics::gauge!("receiptd_rolled_up_until_timestamp_seconds").set(until.timestamp() as f64);
    }
    Ok(())
}

async fn clean(store: &Store, keep: &Retention, now: Timestamp) -> Result<(), StoreError> {
    let removed = enforce(store, keep, now).await?;
    metrics::counter!("receiptd_partitions_dropped_total").increment(removed.partitions);
    if removed.waiting > 0 {
        tracing::warn!(partitions = removed.waiting, "old partitions wait to be rolled up or for readers to finish");
    }
    Ok(())
}

fn said(done: Result<(), StoreError>, trouble: &mut LogThrottle, what: &'static str) {
    let Err(error) = done else {
        if trouble.is_over() {
            tracing::info!("the job works again: {what} before");
        }
        return;
    };
    metrics::counter!("receiptd_job_failures_total").increment(1);
    error.log(trouble, &format!("{what}: retrying at the next scheduled time"));
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn an_alarm_rings_once_after_a_sleep_and_survives_a_step_back() {
        let noon = at("2026-11-23T12:00:00Z");
        let mut alarm = Alarm { cron: Cron::parse("*/5 * * * *", noon).unwrap(), heard_at: noon };
        assert!(!alarm.rings(noon + TimeDelta::seconds(299)));
        assert!(alarm.rings(noon + TimeDelta::seconds(300)));
        assert!(!alarm.rings(noon + TimeDelta::seconds(301)));
        assert!(alarm.rings(noon + TimeDelta::hours(7)));
        assert!(!alarm.rings(noon + TimeDelta::hours(7) + TimeDelta::seconds(1)));
        let back = noon - TimeDelta::days(3);
        assert!(!alarm.rings(back));
        assert!(alarm.rings(back + TimeDelta::minutes(5)));
    }
}
