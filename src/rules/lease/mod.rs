//! The lease: which process may poll an app. One holds it, any number of others stand by.
//!
//! Pure, given `now`: [`Contender`] is a process's view of the lease, and [`Elector`] decides what to do about it. The
//! store reads and writes the row.

mod contender;
mod elector;

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

pub use self::contender::{Contender, LeaseRow, TTL, Verdict};
pub(crate) use self::elector::{ASK_AGAIN, Elector, GRACE_FOR_FLUSH, GRACE_FOR_POLLS, Task};

/// The elector of this process, shared by its parts.
#[derive(Debug, Default)]
pub struct Lease(Mutex<Elector>);

impl Lease {
    /// The elector itself.
    pub(crate) fn elector(&self) -> MutexGuard<'_, Elector> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether calls may be made at `now`.
    pub fn is_trusted(&self, now: Instant) -> bool {
        self.elector().contender().is_trusted(now)
    }
}
