//! The order of an app's roll-up. Nothing here knows SQL, or the schedule.

use crate::{
    domain::Timestamp,
    rules::rollup::{SETTLED_AFTER, Stretch},
    store::{Store, StoreError},
};

/// Rolls up new data, and late data again. Calls `progress` after each stretch.
///
/// # Errors
/// If the database fails. Finished stretches are kept.
pub async fn catch_up(store: &Store, now: Timestamp, mut progress: impl FnMut(Stretch)) -> Result<(), StoreError> {
    let until = now - SETTLED_AFTER;
    if !store.mark_rolling_up(until).await? {
        return Ok(());
    }
    for hours in Stretch::of_hours(&store.hours_to_redo().await?) {
        store.roll_up_again(hours, false).await?;
    }
    store.roll_up_passed_over().await?;
    while let Some(done) = store.roll_up_next(until).await? {
        progress(done);
    }
    Ok(())
}
