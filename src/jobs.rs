//! The jobs of a term: rolling up and removing what is old, each when its cron expression says so.
//!
//! A job that fails is tried again at its next time; what it had done is kept. Nothing here polls or waits for polls.

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
    cadence::Cron,
    domain::Timestamp,
    log_throttle::LogThrottle,
    retention::Retention,
    store::{Store, StoreError},
};

/// The clock is looked at this often: so a job is late by so much, and a clock that was set is noticed.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What jobs need to know.
#[derive(Debug, Clone)]
pub struct JobSettings {
    /// When hourly rows and gaps are brought up to date.
    pub rollup: Cron,
    /// When what is old is removed.
    pub retention: Cron,
    /// What is old.
    pub keep: Retention,
}

/// When a job is due.
#[derive(Debug)]
struct Alarm {
    cron: Cron,
    heard_at: Timestamp,
}

impl Alarm {
    /// Whether its time has come since it was last asked. Times that were slept through count once.
    fn rings(&mut self, now: Timestamp) -> bool {
        let rings = self.cron.next_after(self.heard_at).is_some_and(|next| next <= now);
        // A clock that was set back must not silence it for as long.
        if rings || now < self.heard_at {
            self.heard_at = now;
        }
        rings
    }
}

/// Runs the jobs until the term is `over`. What is left from before is rolled up at once.
pub(crate) async fn run(store: Store, settings: JobSettings, over: CancellationToken) {
    let now = store.clock().now();
    let mut rollup = Alarm { cron: settings.rollup, heard_at: now };
    let mut retention = Alarm { cron: settings.retention, heard_at: now };
    let (mut rollup_trouble, mut retention_trouble) = (LogThrottle::default(), LogThrottle::default());
    let mut is_first = true;
    let jobs = async {
        loop {
            let now = store.clock().now();
            if rollup.rings(now) || std::mem::take(&mut is_first) {
                said(roll_up(&store, now).await, &mut rollup_trouble, "snapshots could not be rolled up");
            }
            // Nothing is removed by a clock that is in doubt: the alarm rings when that is over.
            if store.clock().doubt().is_none() && retention.rings(now) {
                let cleaned = clean(&store, &settings.keep, now).await;
                said(cleaned, &mut retention_trouble, "old partitions could not be removed");
            }
            sleep(LOOK_EVERY).await;
        }
    };
    over.run_until_cancelled(jobs).await;
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
        tracing::warn!(partitions = removed.waiting, "old partitions wait for their roll-up or for readers");
    }
    Ok(())
}

fn said(done: Result<(), StoreError>, trouble: &mut LogThrottle, what: &'static str) {
    let Err(error) = done else {
        if trouble.is_over() {
            tracing::info!("this job works again: {what} before");
        }
        return;
    };
    metrics::counter!("receiptd_job_failures_total").increment(1);
    error.log(trouble, &format!("{what}: it is tried again at its next time"));
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn an_alarm_rings_once_for_times_slept_through_and_goes_on_after_a_clock_set_back() {
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
