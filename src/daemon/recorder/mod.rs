//! Collects results and stores them. [`Writing`] decides what is written together, and what follows if that fails.
//!
//! No result of a call is dropped, unless another process has the lease or the shutdown deadline is over.

mod failure_log;
mod writer;

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use self::writer::Writer;
use crate::{
    daemon::{activity::Activity, events::Health},
    rules::{
        recording::Kept,
        writing::{Committed, Reason, Task, Writing},
    },
    store::Store,
};

/// Maximum number of recordings waiting for a flush. At 200 polls per second that is some seconds of an outage; then
/// polls wait.
const QUEUE: usize = 1_000;

/// The recorder's connections to other parts.
#[derive(Debug)]
pub struct RecorderSettings {
    /// Receives the results for slots, after each commit.
    pub committed: mpsc::UnboundedSender<Committed>,
    /// The term, which is over if the lease is lost.
    pub term_over: CancellationToken,
    /// Ends the attempts to write when the shutdown deadline is over.
    pub flush_deadline: CancellationToken,
    /// Set while results can't be stored: then no poll may start.
    pub storing_blocked: Arc<AtomicBool>,
    /// Records the stored rows, for people.
    pub activity: Arc<Activity>,
    /// Counts which changes events reported, and which only polls found.
    pub events: Arc<Health>,
}

/// Writes recordings to the database.
#[derive(Debug)]
pub struct Recorder {
    queue: mpsc::Receiver<Kept>,
    writing: Writing<Kept>,
    writer: Writer,
    term_over: CancellationToken,
    flush_deadline: CancellationToken,
    storing_blocked: Arc<AtomicBool>,
}

/// The value of the label `reason` of `receiptd_recordings_lost_total`, and its meaning.
fn words(reason: Reason) -> (&'static str, &'static str) {
    match reason {
        Reason::Stopped => ("stopped", "results could not be stored before the shutdown deadline and are lost"),
        Reason::LeaseLost => {
            ("lease_lost", "results could not be stored, since another receiptd polls now, and are lost")
        }
    }
}

impl Recorder {
    /// A recorder and its queue. It ends when all senders are gone and everything is written.
    pub fn new(store: Store, settings: RecorderSettings) -> (Self, mpsc::Sender<Kept>) {
        let RecorderSettings { committed, term_over, flush_deadline, storing_blocked, activity, events } = settings;
        let (sender, queue) = mpsc::channel(QUEUE);
        let (writing, writer) = (Writing::new(now()), Writer::new(store, committed, activity, events));
        (Self { queue, writing, writer, term_over, flush_deadline, storing_blocked }, sender)
    }

    /// Writes until everything is written. Returns the number of recordings that could not be written.
    pub async fn run(mut self) -> usize {
        loop {
            match self.writing.next(now()) {
                Task::End(reason) => return self.end(reason).await,
                Task::Receive(until) => self.receive(until).await,
                Task::Wait(until) => self.wait(until).await,
                Task::WaitForOthers(until, polls) => {
                    self.writer.said.held(polls);
                    self.wait(until).await;
                }
                task @ (Task::Write(_) | Task::SetAside(..) | Task::Read(_)) => {
                    let outcome = self.writer.perform(task).await;
                    self.writer.report(outcome, &mut self.writing, now());
                    self.note_blocked();
                }
            }
        }
    }

    /// Notes whether polling has to wait.
    fn note_blocked(&self) {
        let was_blocked = self.storing_blocked.swap(self.writing.is_blocked(), Ordering::Relaxed);
        if was_blocked && !self.writing.is_blocked() {
            tracing::info!("storing results again");
        }
    }

    async fn receive(&mut self, until: Option<std::time::Instant>) {
        self.note_blocked();
        tokio::select! {
            biased;
            () = self.flush_deadline.cancelled() => self.writing.give_up(),
            poll = self.queue.recv() => match poll {
                Some(poll) => self.writing.received(poll, now()),
                None => self.writing.closed(),
            },
            () = until_then(until) => {}
        }
    }

    async fn wait(&mut self, until: std::time::Instant) {
        self.note_blocked();
        if self.flush_deadline.run_until_cancelled(until_then(Some(until))).await.is_none() {
            self.writing.give_up();
        }
    }

    /// Counts results that can't be written any more.
    async fn end(mut self, reason: Option<Reason>) -> usize {
        let mut lost = self.writing.unwritten().count();
        if reason == Some(Reason::LeaseLost) {
            // The task that renews the lease notices later; results in flight are lost with the rest.
            self.term_over.cancel();
            while let Some(Some(_)) = self.flush_deadline.run_until_cancelled(self.queue.recv()).await {
                lost += 1;
            }
        }
        self.queue.close();
        lost += std::iter::from_fn(|| self.queue.try_recv().ok()).count();
        if lost > 0 {
            let (reason, words) = words(reason.unwrap_or(Reason::Stopped));
            metrics::counter!("receiptd_recordings_lost_total", "reason" => reason).increment(lost as u64);
            tracing::error!(lost, reason, "{words}");
        }
        lost
    }
}

/// The clock of tokio's timers.
fn now() -> std::time::Instant {
    Instant::now().into_std()
}

/// Waits until then, or forever.
async fn until_then(until: Option<std::time::Instant>) {
    match until {
        Some(until) => sleep_until(until.into()).await,
        None => std::future::pending().await,
    }
}
