//! Says what repeats once, and then once a minute with how often it happened, and its end. What is said, and where, is the
//! caller's.

use std::time::Duration;

use tokio::time::Instant;

/// The same trouble is said again after this time.
pub(crate) const SAY_AGAIN: Duration = Duration::from_secs(60);

/// One kind of trouble that may repeat.
#[derive(Debug, Default)]
pub(crate) struct Repeated {
    said_at: Option<Instant>,
    since: u64,
    /// It was said, and its end was not.
    is_said: bool,
}

impl Repeated {
    /// Notes that it happened. How often it did since it was last said, if it is to be said this time.
    pub(crate) fn happened(&mut self) -> Option<u64> {
        self.since += 1;
        if self.said_at.is_some_and(|at| at.elapsed() <= SAY_AGAIN) {
            return None;
        }
        self.said_at = Some(Instant::now());
        self.is_said = true;
        Some(std::mem::take(&mut self.since))
    }

    /// Notes that all is well. Whether that is to be said, since the trouble was.
    pub(crate) fn is_over(&mut self) -> bool {
        std::mem::take(&mut self.is_said)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_end_of_trouble_is_said_once_if_the_trouble_was() {
        let mut trouble = Repeated::default();
        assert!(!trouble.is_over());
        trouble.happened();
        assert_eq!((trouble.is_over(), trouble.is_over()), (true, false));
        assert_eq!((trouble.happened(), trouble.is_over()), (None, false), "it comes and goes");
        tokio::time::advance(SAY_AGAIN * 2).await;
        assert_eq!((trouble.happened(), trouble.is_over()), (Some(2), true));
    }

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
