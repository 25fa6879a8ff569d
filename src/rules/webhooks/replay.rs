//! Recognises a repeated webhook: Tencent Chat repeats some, and anyone who has seen one could.
//!
//! Bounded: when it is full, the oldest is forgotten. A repeated event changes nothing in any case, but costs a query.

use std::{
    collections::{HashSet, VecDeque},
    time::{Duration, Instant},
};

use sha2::{Digest, Sha256};

/// How long a webhook is remembered.
const REMEMBERED_FOR: Duration = Duration::from_secs(120);

/// Maximum number of remembered webhooks.
const MOST: usize = 200_000;

/// The webhooks of the last two minutes.
#[derive(Debug, Default)]
pub struct Replays {
    seen: HashSet<u128>,
    order: VecDeque<(Instant, u128)>,
}

impl Replays {
    /// Whether this body is new at `now`; it is remembered from now on.
    pub fn is_new(&mut self, body: &[u8], now: Instant) -> bool {
        while self.order.len() >= MOST || self.order.front().is_some_and(|(at, _)| *at + REMEMBERED_FOR < now) {
            let Some((_, digest)) = self.order.pop_front() else { break };
            self.seen.remove(&digest);
        }
        let digest = Sha256::digest(body).iter().take(16).fold(0, |digest, byte| digest << 8 | u128::from(*byte));
        let is_new = self.seen.insert(digest);
        if is_new {
            self.order.push_back((now, digest));
        }
        is_new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_webhook_is_remembered_for_two_minutes() {
        let (mut replays, start) = (Replays::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        for (body, seconds, is_new) in
            [("a", 0, true), ("a", 1, false), ("b", 60, true), ("a", 120, false), ("a", 121, true), ("b", 121, false)]
        {
            assert_eq!(replays.is_new(body.as_bytes(), at(seconds)), is_new, "{body} at {seconds}");
        }
    }

    #[test]
    fn a_flood_takes_bounded_memory() {
        let (mut replays, now) = (Replays::default(), Instant::now());
        let is_new = |replays: &mut Replays, number: usize| replays.is_new(&number.to_be_bytes(), now);
        assert!((0..=MOST).all(|number| is_new(&mut replays, number)));
        assert_eq!((replays.order.len(), replays.seen.len()), (MOST, MOST));
        assert!(is_new(&mut replays, 0), "the oldest was forgotten");
        assert!(!is_new(&mut replays, MOST));
    }
}
