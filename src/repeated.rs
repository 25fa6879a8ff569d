//! Says what repeats once, and then once a minute. What is said, and where, is the caller's.

use std::time::Duration;

use tokio::time::Instant;

/// The same trouble is said again after this time.
pub(crate) const SAY_AGAIN: Duration = Duration::from_secs(60);

/// One kind of trouble that may repeat.
#[derive(Debug, Default)]
pub(crate) struct Repeated {
    said_at: Option<Instant>,
}

impl Repeated {
    /// Whether it is to be said this time.
    pub(crate) fn is_due(&mut self) -> bool {
        let is_due = self.said_at.is_none_or(|at| at.elapsed() > SAY_AGAIN);
        if is_due {
            self.said_at = Some(Instant::now());
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn trouble_is_said_once_and_then_once_a_minute() {
        let mut trouble = Repeated::default();
        assert!(trouble.is_due() && !trouble.is_due());
        tokio::time::advance(SAY_AGAIN).await;
        assert!(!trouble.is_due());
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(trouble.is_due() && !trouble.is_due());
    }
}
