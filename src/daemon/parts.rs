//! The parts of the daemon, each a task of its own.

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Starts a part whose end, even by a panic, is noted.
pub(crate) fn spawn_noted<T: Send + 'static>(
    ended: &CancellationToken,
    part: impl Future<Output = T> + Send + 'static,
) -> JoinHandle<T> {
    let guard = ended.clone().drop_guard();
    tokio::spawn(async move {
        let _guard = guard;
        part.await
    })
}
