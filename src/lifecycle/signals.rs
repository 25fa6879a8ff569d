//! The signals that stop the daemon or make it reload its settings.

use std::io::{self, IsTerminal};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// A token that SIGTERM, SIGINT and SIGHUP cancel. A second SIGTERM or SIGINT ends the process immediately: nothing
/// committed is lost.
///
/// # Errors
/// If the signal handlers can't be installed.
pub fn stop_on_signal() -> io::Result<CancellationToken> {
    let stop = CancellationToken::new();
    cancel_on(SignalKind::hangup(), &stop)?;
    cancel_on(SignalKind::terminate(), &stop)?;
    cancel_on(SignalKind::interrupt(), &stop)?;
    Ok(stop)
}

/// The same for the daemon, which SIGHUP stops only if its terminal has closed. Other SIGHUPs request a reload.
///
/// # Errors
/// If the signal handlers can't be installed.
pub fn stop_or_reload_on_signal() -> io::Result<(CancellationToken, Reloads)> {
    let stop = CancellationToken::new();
    let reloads = Reloads { hangups: signal(SignalKind::hangup())?, had_terminal: has_terminal(), stop: stop.clone() };
    cancel_on(SignalKind::terminate(), &stop)?;
    cancel_on(SignalKind::interrupt(), &stop)?;
    Ok((stop, reloads))
}

fn cancel_on(kind: SignalKind, stop: &CancellationToken) -> io::Result<()> {
    let (mut signals, stop) = (signal(kind)?, stop.clone());
    tokio::spawn(async move {
        while signals.recv().await.is_some() {
            // A terminal that closes may send several: nobody is impatient.
            if stop.is_cancelled() && kind != SignalKind::hangup() {
                // As if the signal had killed it.
                std::process::exit(128 + kind.as_raw_value());
            }
            stop.cancel();
        }
    });
    Ok(())
}

/// Requests to reload the settings.
pub struct Reloads {
    hangups: Signal,
    had_terminal: bool,
    stop: CancellationToken,
}

impl Reloads {
    /// Waits for the next request.
    pub async fn next(&mut self) {
        while self.hangups.recv().await.is_some() {
            if !self.had_terminal || has_terminal() {
                return;
            }
            self.stop.cancel();
        }
        std::future::pending().await
    }
}

/// Whether a standard stream is a terminal that is open. nohup(1) leaves none.
fn has_terminal() -> bool {
    io::stdin().is_terminal() || io::stdout().is_terminal() || io::stderr().is_terminal()
}
