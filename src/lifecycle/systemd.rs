//! What systemd is told: when the daemon is ready, what it is doing, that its loop still turns. Without systemd all of this
//! does nothing.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use sd_notify::NotifyState;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::{report::Report, term::TermStatus};

/// The status line is renewed this often.
const STATUS_EVERY: Duration = Duration::from_secs(5);

/// Tells systemd that the daemon polls, or stands by.
pub fn notify_ready() {
    notify(&[NotifyState::Ready]);
}

/// Tells systemd that the settings are being read again; [`notify_ready`] ends it.
pub fn notify_reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(_) => notify(&[NotifyState::Reloading]),
    }
}

/// Tells systemd that the daemon stops.
pub fn notify_stopping() {
    notify(&[NotifyState::Stopping]);
}

/// What `systemctl status` shows.
pub(super) fn notify_status(status: &str) {
    notify(&[NotifyState::Status(status)]);
}

/// Keeps the status line up to date.
pub(super) async fn tell_status(status: Arc<TermStatus>, stop: CancellationToken) {
    // Set by systemd, and nobody else listens.
    if std::env::var_os("NOTIFY_SOCKET").is_none() {
        return;
    }
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
            notify(&[NotifyState::Watchdog]);
            fed_at = Some(beats);
        }
        // The time that a stop takes counts as well: it is fed until the process ends.
        tokio::select! { () = sleep(allowed / 4) => {} () = stop.cancelled() => return notify(&[NotifyState::Watchdog]) }
    }
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(error = &error as &dyn std::error::Error, "systemd could not be told");
    }
}
