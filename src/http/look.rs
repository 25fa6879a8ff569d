//! Shares one database query among all requests at about the same time, even if some of them are cancelled.

use std::{
    fmt,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use futures::{
    FutureExt,
    future::{BoxFuture, Shared},
};

/// A query in progress or finished, with its time and result.
type Current<T> = Shared<BoxFuture<'static, (Instant, T)>>;

/// The latest query, which may be in progress. Repeated for a request if it is older than `max_age`.
pub(super) struct Look<T: Clone> {
    max_age: Duration,
    latest: Mutex<Option<Current<T>>>,
}

impl<T: Clone + Send + Sync + 'static> Look<T> {
    pub fn new(max_age: Duration) -> Self {
        Self { max_age, latest: Mutex::default() }
    }

    /// The result, if necessary of a new query, which continues if the request is cancelled.
    pub async fn get(&self, look: impl Future<Output = T> + Send + 'static) -> T {
        let current = {
            let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
            let is_fresh = |look: &Current<T>| look.peek().is_none_or(|(at, _)| at.elapsed() < self.max_age);
            match latest.clone().filter(is_fresh) {
                Some(current) => current,
                None => {
                    let new = async move {
                        let seen = look.await;
                        (Instant::now(), seen)
                    };
                    let new = new.boxed().shared();
                    tokio::spawn(new.clone());
                    latest.insert(new).clone()
                }
            }
        };
        current.await.1
    }
}

impl<T: Clone> fmt::Debug for Look<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Look").field("max_age", &self.max_age).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    };

    use tokio::sync::Notify;

    use super::*;

    #[tokio::test]
    async fn many_who_ask_share_one_look_also_when_the_first_of_them_goes() {
        let (look, looks, go) =
            (Arc::new(Look::new(Duration::MAX)), Arc::new(AtomicU32::new(0)), Arc::new(Notify::new()));
        let ask = || {
            let (look, looks, go) = (look.clone(), looks.clone(), go.clone());
            tokio::spawn(async move {
                let seen = async move {
                    go.notified().await;
                    looks.fetch_add(1, Ordering::Relaxed)
                };
                look.get(seen).await
            })
        };
        let first = ask();
        tokio::task::yield_now().await;
        let others: Vec<_> = (0..100).map(|_| ask()).collect();
        tokio::task::yield_now().await;
        first.abort();
        go.notify_one();
        for other in others {
            assert_eq!(other.await.unwrap(), 0);
        }
        assert_eq!(looks.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn an_old_look_is_made_again() {
        let look = Look::new(Duration::ZERO);
        assert_eq!((look.get(async { 1 }).await, look.get(async { 2 }).await), (1, 2));
    }
}
