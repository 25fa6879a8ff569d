//! The signals that end the daemon, and the one that has it read its settings again.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// The numbers of the signals that stop the daemon: a process that one ends at once has 128 plus it as its exit code.
const SIGINT: i32 = 2;
const SIGTERM: i32 = 15;

/// A token that SIGTERM and SIGINT cancel. A second signal ends the process at once: nothing that is committed is lost.
///
/// # Errors
/// If the signals can't be listened for.
pub fn stop_on_signal() -> std::io::Result<CancellationToken> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let stop = CancellationToken::new();
    let token = stop.clone();
    tokio::spawn(async move {
        tokio::select! { _ = terminate.recv() => {} _ = interrupt.recv() => {} }
        token.cancel();
        let number = tokio::select! { _ = terminate.recv() => SIGTERM, _ = interrupt.recv() => SIGINT };
        std::process::exit(128 + number);
    });
    Ok(stop)
}

/// Hears SIGHUP, which asks for the settings to be read again. From now on it does not end the process.
///
/// # Errors
/// If the signal can't be listened for.
pub fn reload_signal() -> std::io::Result<Signal> {
    signal(SignalKind::hangup())
}
