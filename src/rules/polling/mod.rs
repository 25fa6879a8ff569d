//! The decisions of the poller: which polls start, how the outcome of an attempt is handled, and when calls have to
//! wait.

pub mod ahead;
pub mod batch_limit;
pub mod brake;
pub mod calls;
pub mod dispatch;
pub mod failing;
pub mod gate;
pub mod others;
pub mod poll_progress;
pub mod retry;
pub mod schedule;
pub mod stretch;
