//! Repeats a query for a command that runs until it is stopped. Survives an outage of the database.

use std::time::Duration;

use receiptd::store::StoreError;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::tell;

/// Maximum fraction of the time that queries take.
const SHARE: u32 = 10;

/// Repeated queries.
pub struct Watching {
    every: Duration,
    wait: Duration,
    has_answered: bool,
    is_away: bool,
}

impl Watching {
    /// Repeats a query about this often, or less often if it is slow.
    pub fn new(every: Duration) -> Self {
        Self { every, wait: Duration::ZERO, has_answered: false, is_away: false }
    }

    /// The next answer; `None` once it is stopped. A failure is reported once, and the query repeated.
    ///
    /// # Errors
    /// If the first query fails.
    pub async fn next<T, F>(&mut self, stop: &CancellationToken, look: impl Fn() -> F) -> Result<Option<T>, StoreError>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        loop {
            if stop.run_until_cancelled(sleep(self.wait)).await.is_none() {
                return Ok(None);
            }
            let start = Instant::now();
            let Some(answer) = stop.run_until_cancelled(look()).await else { return Ok(None) };
            let took = start.elapsed();
            // A query that failed by its deadline is repeated soon: the outage may end at any time.
            self.wait = self.every.max(if answer.is_ok() { took * (SHARE - 1) } else { took });
            match answer {
                Ok(answer) => {
                    (self.has_answered, self.is_away) = (true, false);
                    return Ok(Some(answer));
                }
                Err(error) if !self.has_answered => return Err(error),
                Err(error) if !self.is_away => {
                    self.is_away = true;
                    tell(format_args!("Warning: {}: retrying", error.explain()));
                }
                Err(_) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn failure() -> StoreError {
        StoreError::Deadline { doing: "looking", patience: Duration::from_secs(1) }
    }

    #[tokio::test(start_paused = true)]
    async fn slow_answers_are_asked_for_less_often_slow_failures_are_not() {
        let stop = CancellationToken::new();
        let mut watching = Watching::new(Duration::from_secs(2));
        let after = |slow: Duration, answer| async move {
            sleep(slow).await;
            answer
        };
        let ten = Duration::from_secs(10);
        watching.next(&stop, || after(ten, Ok(1))).await.unwrap();
        assert_eq!(watching.wait, Duration::from_secs(90));
        let (start, failures) = (Instant::now(), Cell::new(0));
        let look = || {
            failures.set(failures.get() + 1);
            after(ten, if failures.get() < 4 { Err(failure()) } else { Ok(2) })
        };
        assert_eq!(watching.next(&stop, look).await.unwrap(), Some(2));
        assert_eq!(start.elapsed(), Duration::from_secs(90) + 3 * (ten + ten) + ten);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_ends_the_first_look_only() {
        let stop = CancellationToken::new();
        let mut watching = Watching::new(Duration::from_secs(1));
        assert!(watching.next(&stop, || async { Err::<(), _>(failure()) }).await.is_err());
        assert_eq!(watching.next(&stop, || async { Ok(1) }).await.unwrap(), Some(1));
        let looks = Cell::new(0);
        let look = || async {
            looks.set(looks.get() + 1);
            if looks.get() < 4 { Err(failure()) } else { Ok(2) }
        };
        assert_eq!(watching.next(&stop, look).await.unwrap(), Some(2));
        assert_eq!(looks.get(), 4);
        stop.cancel();
        assert_eq!(watching.next(&stop, || async { Ok(3) }).await.unwrap(), None);
    }
}
