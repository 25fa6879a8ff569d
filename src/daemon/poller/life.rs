//! The life of a poll, from its place in flight to the recorder's queue.

use std::{sync::Arc, time::Instant};

use tokio::sync::mpsc;

use super::{
    call::{Caller, LetThrough},
    claim::Claim,
};
use crate::rules::{
    cadence::Cadences,
    polling::calls::PollInFlight,
    recording::{KeepSnapshots, Kept, Part},
    slot::Slot,
};

/// The parts that all polls of a poller use.
#[derive(Debug, Clone)]
pub(super) struct PollLife {
    pub caller: Arc<Caller>,
    pub recorder: mpsc::Sender<Kept>,
    /// How often messages are polled, with the trust in events applied.
    pub cadences: Arc<Cadences>,
    pub keep: KeepSnapshots,
}

impl PollLife {
    /// Polls a slot: makes the calls, decides what they change, and hands the result over to the recorder. If it ends
    /// in any other way, `claim` returns the slot to the schedule. `stretch` is the factor by which intervals are
    /// longer.
    pub(super) async fn poll_slot(self, poll: PollInFlight, mut claim: Claim, stretch: f64) {
        let let_through = LetThrough::of(&poll, &self.caller);
        let started = |slot: &Slot| {
            claim.started();
            self.note_lag(slot);
        };
        let (slot, poll) = self.caller.poll(poll, started).await;
        drop(let_through);
        claim.started();
        if poll.has_no_result() {
            return;
        }
        let group_id = slot.group_id.clone();
        let kept = Kept::of(slot, poll, self.cadences, stretch, self.keep, self.caller.clock.moment());
        let alone = kept.recording.parts.iter().filter_map(Part::alone);
        alone.for_each(|seq| self.caller.trouble.set_apart(&group_id, seq));
        let Ok(permit) = self.recorder.reserve().await else {
            // The recorder gave up before this poll ended, so its results are lost like the rest.
            metrics::counter!("receiptd_recordings_lost_total", "reason" => "too_late").increment(1);
            return;
        };
        claim.hand_over(&kept);
        permit.send(kept);
    }

    fn note_lag(&self, slot: &Slot) {
        let late_by = self.caller.metrics.note_lag(slot, &self.cadences, self.caller.clock.now());
        self.caller.activity.began(late_by, Instant::now());
    }
}
