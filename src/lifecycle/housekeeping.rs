//! The daemon's housekeeping, with the lease or on standby: creates partitions in advance, counts what is watched,
//! compacts metrics and logs an hourly summary.

use std::{
    mem,
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::{Days, NaiveTime};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::{sync::watch, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::{
    daemon::{
        report::Report,
        status::{DaemonStatus, Role},
    },
    domain::Bounds,
    logging::log_throttle::LogThrottle,
    rules::retention,
    store::{Store, StoreError, Watched},
    text::counted::counted,
};

/// How often partitions are created.
const PARTITIONS_EVERY: Duration = Duration::from_secs(3_600);

/// How often watched messages are counted, or less often if that would take more than a hundredth of the time.
const COUNT_EVERY: Duration = Duration::from_secs(10);

/// How often the clocks are compared.
const COMPARE_EVERY: Duration = Duration::from_secs(1);

/// Creates the partitions of the next days, and notes their end, also after a failure.
pub(crate) async fn prepare_days(store: &Store) -> Result<(), StoreError> {
    let today = store.now().await?.date_naive();
    let made = store.ensure_partitions_ahead(today).await;
    let noted = store.partitions().await.map(|partitions| {
        let until = today + Days::new(retention::runway(&partitions, today) as u64);
        let until = until.and_time(NaiveTime::MIN).and_utc();
        metrics::gauge!("receiptd_partitions_until_timestamp_seconds").set(until.timestamp() as f64);
    });
    made.and(noted)
}

pub(crate) async fn look_after_partitions(store: Store, stop: CancellationToken) {
    let (mut wait, mut trouble) = (PARTITIONS_EVERY, LogThrottle::default());
    loop {
        tokio::select! { () = stop.cancelled() => return, () = tokio::time::sleep(wait) => {} }
        wait = match prepare_days(&store).await {
            Ok(_) => {
                if trouble.is_over() {
                    tracing::info!("daily partitions are created in advance again");
                }
                PARTITIONS_EVERY
            }
            Err(error) => {
                error.log(&mut trouble, "daily partitions could not be created in advance");
                Duration::from_secs(60)
            }
        };
    }
}

/// Compares this machine's clock with the database's, and logs doubts about them.
pub(crate) async fn compare_clocks(store: Store, status: Arc<DaemonStatus>, stop: CancellationToken) {
    let mut trouble = LogThrottle::default();
    loop {
        let (clock, doubt) = (store.clock(), store.clock().doubt());
        metrics::gauge!("receiptd_clock_offset_seconds").set(clock.ahead().as_seconds_f64());
        metrics::gauge!("receiptd_clock_is_doubted").set(f64::from(u8::from(doubt.is_some())));
        match doubt {
            // The clock of the sleep below, which tests can advance.
            Some(doubt) if trouble.happened(tokio::time::Instant::now().into_std()).is_some() => {
                tracing::error!(offset_seconds = clock.ahead().as_seconds_f64(), "{doubt}");
            }
            None if trouble.is_over() => {
                tracing::info!("the clocks agree again: messages expire and old data is removed")
            }
            _ => {}
        }
        status.doubts(doubt);
        if stop.run_until_cancelled(sleep(COMPARE_EVERY)).await.is_none() {
            return;
        }
    }
}

/// Histograms collect samples until they are summarized, scraped or not.
pub(crate) async fn keep_metrics_small(metrics: PrometheusHandle, stop: CancellationToken) {
    loop {
        tokio::select! { () = stop.cancelled() => return, () = tokio::time::sleep(Duration::from_secs(10)) => {} }
        metrics.run_upkeep();
    }
}

/// Counts watched messages, for people. Errors are ignored; the poller reports them.
///
/// Stores `limits` for the functions of the schema, which apply them.
pub(crate) async fn count_watched(
    store: Store,
    status: Arc<DaemonStatus>,
    limits: watch::Receiver<Bounds>,
    stop: CancellationToken,
) {
    let mut is_first = true;
    loop {
        let start = Instant::now();
        let bounds = *limits.borrow();
        match stop.run_until_cancelled(store.note_bounds(bounds)).await {
            Some(Ok(watched)) => {
                metrics::gauge!("receiptd_quarantined_groups").set(watched.quarantined as f64);
                metrics::gauge!("receiptd_watched_groups").set(watched.groups as f64);
                metrics::gauge!("receiptd_watched_messages").set(watched.messages as f64);
                if mem::take(&mut is_first) {
                    tell_watched(watched);
                }
                status.counted(watched);
            }
            Some(Err(error)) => {
                tracing::debug!(error = &error as &dyn std::error::Error, "the app's limits could not be stored");
            }
            None => return,
        }
        let pause = COUNT_EVERY.max(start.elapsed() * 100);
        if stop.run_until_cancelled(sleep(pause)).await.is_none() {
            return;
        }
    }
}

/// Logs at the start how much is watched and, if nothing is, how to begin.
fn tell_watched(watched: Watched) {
    let Watched { groups, messages, .. } = watched;
    if messages == 0 {
        tracing::info!(
            "no messages are watched yet: add some with `receiptd watch add GROUP SEQS`, or in SQL with \
             receiptd.watch_messages(APP, GROUP, SEQS)"
        );
    } else {
        let (messages, groups) = (messages.unsigned_abs(), groups.unsigned_abs());
        tracing::info!(messages, groups, "watching {} in {}", counted(messages, "message"), counted(groups, "group"));
    }
}

/// Logs a summary of each hour, unless on standby.
pub(crate) async fn sum_up(status: Arc<DaemonStatus>, stop: CancellationToken) {
    while stop.run_until_cancelled(sleep(Duration::from_secs(3_600))).await.is_some() {
        if status.role() == Role::Polling {
            let report = Report::of(&status, Instant::now());
            tracing::info!("{}", report.hour_in_words());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{io, sync::Mutex};

    use super::*;
    use crate::rules::database_clock::Reading;
    use crate::{clock, domain::SdkAppId};

    /// Collects the log.
    #[derive(Debug, Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_in_doubt_is_said_once_and_then_once_a_minute() {
        let log = Log::default();
        let writer = log.clone();
        let _guard = tracing::subscriber::set_default(
            tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish(),
        );
        let app = SdkAppId::try_from(1).unwrap();
        let store = Store::new(&"postgres://nobody@127.0.0.1:9/none".into(), 1, app).unwrap();
        let (at, database) = (clock::uptime(), clock::now() + chrono::TimeDelta::days(100));
        store.clock().learn(Reading { asked_at: at, answered_at: at, database });
        let (status, stop) = (Arc::new(DaemonStatus::default()), CancellationToken::new());
        let comparing = compare_clocks(store, status.clone(), stop.clone());
        let stops = async {
            sleep(Duration::from_secs(150)).await;
            stop.cancel();
        };
        tokio::join!(comparing, stops);
        let said = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        let lines =
            said.lines().filter(|line| line.contains("ERROR") && line.contains("this machine's clock is 100d behind"));
        assert_eq!(lines.count(), 3, "{said}");
        assert!(status.doubt().is_some());
    }
}
