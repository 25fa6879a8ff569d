//! What systemd is told: when the daemon is ready, what it is doing, that its loop still turns. Without systemd all of this
//! does nothing.
//!
//! Who listens at the socket may stand still, and then a message waits for room there. So a thread of its own sends them, and
//! what it has not sent yet is bounded: nothing here ever holds up the daemon.

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

use crate::{report::Report, term::TermStatus};

/// The status line is renewed this often.
const STATUS_EVERY: Duration = Duration::from_secs(5);

/// So many messages may wait to be sent.
const WAITING: usize = 64;

/// What systemd is told.
#[derive(Debug)]
enum Message {
    Ready,
    Reloading,
    Stopping(oneshot::Sender<()>),
    Status(String),
    Watchdog,
}

/// Tells systemd that the daemon polls, or stands by.
pub fn notify_ready() {
    notify(Message::Ready);
}

/// Tells systemd that the settings are being read again; [`notify_ready`] ends it.
pub fn notify_reloading() {
    notify(Message::Reloading);
}

/// Tells systemd that the daemon stops, and waits until that is sent, for a moment at most: a process that has nothing to end would
/// take the message along.
pub async fn notify_stopping() {
    let (sent, is_sent) = oneshot::channel();
    notify(Message::Stopping(sent));
    _ = timeout(Duration::from_secs(1), is_sent).await;
}

/// What `systemctl status` shows.
pub(super) fn notify_status(status: &str) {
    notify(Message::Status(status.to_owned()));
}

/// Keeps the status line up to date.
pub(super) async fn tell_status(status: Arc<TermStatus>, stop: CancellationToken) {
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

/// Feeds the watchdog, as long as the loop comes round: if it has not for the time that systemd allows, it is not fed.
/// Whether the database or the service answers makes no difference.
pub(super) async fn feed_watchdog(status: Arc<TermStatus>, stop: CancellationToken) {
    let Some(allowed) = sd_notify::watchdog_enabled() else { return };
    let mut fed_at = None;
    loop {
        let beats = status.progress().beats();
        if fed_at != Some(beats) {
            notify(Message::Watchdog);
            fed_at = Some(beats);
        }
        // The time that a stop takes counts as well: it is fed until the process ends.
        tokio::select! { () = sleep(allowed / 4) => {} () = stop.cancelled() => return notify(Message::Watchdog) }
    }
}

/// Hands a message to the thread that sends them. Where too many wait, nobody listens, and it is dropped.
fn notify(message: Message) {
    static SENDER: OnceLock<Option<SyncSender<Message>>> = OnceLock::new();
    if let Some(sender) = SENDER.get_or_init(start_to_send) {
        _ = sender.try_send(message);
    }
}

/// Starts the thread that sends, if there is anybody to send to.
fn start_to_send() -> Option<SyncSender<Message>> {
    env::var_os("NOTIFY_SOCKET").filter(|socket| !socket.is_empty())?;
    let (sender, messages) = sync_channel(WAITING);
    let mut has_failed = false;
    let send_all = move || messages.iter().for_each(|message| send(message, &mut has_failed));
    let started = thread::Builder::new().name("systemd".to_owned()).spawn(send_all);
    started.ok().map(|_| sender)
}

/// Sends a message. That it can't be sent is said unless it could not before.
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
                "systemd can't be told that receiptd is ready, alive or stopping, and may end it: is there a socket where \
                 NOTIFY_SOCKET says? This is said once, until it can be told again"
            );
        }
        Err(_) => {}
    }
    if let Message::Stopping(sent) = message {
        // Who has stopped waiting need not know.
        _ = sent.send(());
    }
}
