//! Notifications for systemd: ready, status, watchdog. Without systemd all of this does nothing.
//!
//! If the receiver stands still, sending blocks once the socket is full. So a separate thread sends, with a bounded
//! queue: nothing here ever delays the daemon.

use std::{
    env,
    sync::{
        Arc, OnceLock,
        mpsc::{SyncSender, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use sd_notify::NotifyState;
use tokio::{
    sync::oneshot,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::daemon::{report::Report, status::DaemonStatus};

/// How often the status line is updated.
const STATUS_EVERY: Duration = Duration::from_secs(5);

/// Maximum number of queued messages.
const WAITING: usize = 64;

/// A notification.
#[derive(Debug)]
enum Message {
    Ready,
    Reloading,
    Stopping(oneshot::Sender<()>),
    Status(String),
    Watchdog,
}

/// Tells systemd that the daemon polls or stands by.
pub fn notify_ready() {
    notify(Message::Ready);
}

/// Tells systemd that the settings are being reloaded, until [`notify_ready`].
pub fn notify_reloading() {
    notify(Message::Reloading);
}

/// Tells systemd that the daemon stops, and waits briefly until that is sent: otherwise a process that exits quickly
/// would take the message along.
pub async fn notify_stopping() {
    let (sent, is_sent) = oneshot::channel();
    notify(Message::Stopping(sent));
    _ = timeout(Duration::from_secs(1), is_sent).await;
}

/// Sets the status line of `systemctl status`.
pub(super) fn notify_status(status: &str) {
    notify(Message::Status(status.to_owned()));
}

/// Keeps the status line up to date.
pub(super) async fn tell_status(status: Arc<DaemonStatus>, stop: CancellationToken) {
    let mut said = String::new();
    loop {
        let line = Report::of(&status, Instant::now()).to_string();
        if line != said {
            notify_status(&line);
            said = line;
        }
        if stop.run_until_cancelled(sleep(STATUS_EVERY)).await.is_none() {
            return;
        }
    }
}

/// Feeds the watchdog as long as the main loop runs, whether the database or the service answer or not.
pub(super) async fn feed_watchdog(status: Arc<DaemonStatus>, stop: CancellationToken) {
    let Some(allowed) = sd_notify::watchdog_enabled() else { return };
    let mut fed_at = None;
    loop {
        let beats = status.heartbeat().beats();
        if fed_at != Some(beats) {
            notify(Message::Watchdog);
            fed_at = Some(beats);
        }
        // The duration of a stop counts too: it is fed until the process ends.
        tokio::select! { () = sleep(allowed / 4) => {} () = stop.cancelled() => return notify(Message::Watchdog) }
    }
}

/// Queues a message for the sending thread. If the queue is full, the receiver is stuck, and the message is dropped.
fn notify(message: Message) {
    static SENDER: OnceLock<Option<SyncSender<Message>>> = OnceLock::new();
    if let Some(sender) = SENDER.get_or_init(start_to_send) {
        _ = sender.try_send(message);
    }
}

/// Starts the sending thread if there is a receiver.
fn start_to_send() -> Option<SyncSender<Message>> {
    env::var_os("NOTIFY_SOCKET").filter(|socket| !socket.is_empty())?;
    let (sender, messages) = sync_channel(WAITING);
    let mut has_failed = false;
    let send_all = move || messages.iter().for_each(|message| send(message, &mut has_failed));
    let started = thread::Builder::new().name("systemd".to_owned()).spawn(send_all);
    started.ok().map(|_| sender)
}

/// Sends a message. Logs the first failure in a row.
fn send(message: Message, has_failed: &mut bool) {
    let result = match &message {
        Message::Ready => sd_notify::notify(&[NotifyState::Ready]),
        Message::Reloading => {
            NotifyState::monotonic_usec_now().and_then(|now| sd_notify::notify(&[NotifyState::Reloading, now]))
        }
        Message::Stopping(_) => sd_notify::notify(&[NotifyState::Stopping]),
        Message::Status(status) => sd_notify::notify(&[NotifyState::Status(status)]),
        Message::Watchdog => sd_notify::notify(&[NotifyState::Watchdog]),
    };
    match result {
        Ok(()) => *has_failed = false,
        Err(error) if !*has_failed => {
            *has_failed = true;
            let error = &error as &dyn std::error::Error;
            tracing::warn!(
                error,
                "systemd can't be notified that receiptd is ready, alive or stopping, and may kill it: is there a \
                 socket at NOTIFY_SOCKET? Logged once until it works again"
            );
        }
        Err(_) => {}
    }
    if let Message::Stopping(sent) = message {
        // The requester may have stopped waiting.
        _ = sent.send(());
    }
}
