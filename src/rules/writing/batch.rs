//! The size of a transaction: smaller after a timeout, larger again after successes. Pure.

/// Approximate maximum number of rows in a flush.
pub(super) const MAX_ROWS: usize = 4_000;

/// The current maximum number of rows in a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BatchSize(usize);

impl Default for BatchSize {
    fn default() -> Self {
        Self(MAX_ROWS)
    }
}

impl BatchSize {
    /// A transaction with this number of rows exceeded its deadline: the next ones have at most half of them.
    pub fn took_too_long(&mut self, rows: usize) {
        self.0 = (self.0.min(rows) / 2).max(1);
    }

    /// A transaction ended in time: the next ones may have twice as many rows.
    pub fn ended_in_time(&mut self) {
        self.0 = (self.0 * 2).min(MAX_ROWS);
    }

    /// Takes the first items that fit into one transaction from `items`: at least one.
    pub fn take<T>(self, items: &mut Vec<T>, rows: impl Fn(&T) -> usize) -> Vec<T> {
        let sums = items.iter().scan(0_usize, |sum, item| {
            *sum += rows(item);
            Some(*sum)
        });
        let count = sums.take_while(|sum| *sum <= self.0).count();
        let rest = items.split_off(items.len().min(count.max(1)));
        std::mem::replace(items, rest)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn batches_keep_the_order_and_only_lone_items_exceed_the_size(
            rows in prop::collection::vec(1..3_000_usize, 0..200), timeouts in 0..14,
        ) {
            let mut size = BatchSize::default();
            (0..timeouts).for_each(|_| size.took_too_long(MAX_ROWS));
            let (mut left, mut taken) = (rows.clone(), vec![]);
            while !left.is_empty() {
                let batch = size.take(&mut left, |rows| *rows);
                prop_assert!(!batch.is_empty() && (batch.len() == 1 || batch.iter().sum::<usize>() <= size.0));
                taken.extend(batch);
            }
            prop_assert_eq!(taken, rows);
        }
    }

    #[test]
    fn what_times_out_is_halved_down_to_one_row_and_grows_back() {
        let mut size = BatchSize::default();
        size.took_too_long(100);
        assert_eq!(size, BatchSize(50), "half of what was tried, not of what was allowed");
        (0..20).for_each(|_| size.took_too_long(MAX_ROWS));
        assert_eq!(size, BatchSize(1));
        (0..20).for_each(|_| size.ended_in_time());
        assert_eq!(size, BatchSize::default());
    }
}
