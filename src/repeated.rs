//! Says what repeats once, and then once a minute with how often it happened. What is said, and where, is the caller's.

use std::time::Duration;

use tokio::time::Instant;

/// The same trouble is said again after this time.
pub(crate) const SAY_AGAIN: Duration = Duration::from_secs(60);

/// One kind of trouble that may repeat.
#[derive(Debug, Default)]
pub(crate) struct Repeated {
    said_at: Option<Instant>,
    since: u64,
}

impl Repeated {
    /// Notes that it happened. How often it did since it was last said, if it is to be said this time.
    pub(crate) fn happened(&mut self) -> Option<u64> {
        self.since += 1;
        if self.said_at.is_some_and(|at| at.elapsed() <= SAY_AGAIN) {
            return None;
        }
        self.said_at = Some(Instant::now());
        Some(std::mem::take(&mut self.since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn trouble_is_said_once_and_then_once_a_minute_with_its_count() {
        let mut trouble = Repeated::default();
        assert_eq!((trouble.happened(), trouble.happened()), (Some(1), None));
        tokio::time::advance(SAY_AGAIN).await;
        assert_eq!(trouble.happened(), None);
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!((trouble.happened(), trouble.happened()), (Some(3), None));
    }
}
