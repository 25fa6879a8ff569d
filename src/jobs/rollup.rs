//! The order in which an app is rolled up. Nothing here knows SQL, or when it is time.

use crate::{
    domain::Timestamp,
    rollup::{SETTLED_AFTER, Stretch},
    store::{Store, StoreError},
};

/// Rolls up what has come since the last time, and again what came late. `progress` hears of each stretch that is done.
///
/// # Errors
/// If the database fails. What was done is kept.
pub async fn catch_up(store: &Store, now: Timestamp, mut progress: impl FnMut(Stretch)) -> Result<(), StoreError> {
    let until = now - SETTLED_AFTER;
    if !store.mark_rolling_up(until).await? {
        return Ok(());
    }
    for hour in store.hours_to_redo().await? {
        store.roll_up_again(hour).await?;
    }
    store.roll_up_passed_over().await?;
    while let Some(done) = store.roll_up_next(until).await? {
        progress(done);
    }
    Ok(())
}
