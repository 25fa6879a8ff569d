//! The signals that stop the daemon or make it reload its settings.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// The numbers of the signals that stop the daemon. A process killed by one has 128 plus its number as exit code.
const SIGINT: i32 = 2;
const SIGTERM: i32 = 15;

/// A token that SIGTERM and SIGINT cancel. A second signal ends the process immediately: nothing committed is lost.
///
/// # Errors
/// If the signal handlers can't be installed.
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

/// Receives SIGHUP, which requests a reload. From now on it doesn't end the process.
///
/// # Errors
/// If the signal handler can't be installed.
pub fn reload_signal() -> std::io::Result<Signal> {
    signal(SignalKind::hangup())
}
