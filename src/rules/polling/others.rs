//! The recent outcomes of other slots' calls, which show whether a failing slot is itself at fault. Pure.
//!
//! The gate uses other witnesses for another question: it judges refusals, for which an outage doesn't count, by groups
//! asked after the refusal. Here failures are judged. A refused batch counts as a failure, a refused group says
//! nothing, and a witness may be up to 5 minutes old.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use crate::rules::{protocol::Class, recording::Others, slot::SlotId};

/// Time after an answer within which others' failures don't count: some may always fail.
const JUST_NOW: Duration = Duration::from_secs(10);

/// Time after which an outcome is forgotten.
const STALE: Duration = Duration::from_secs(300);

/// Maximum number of slots remembered as failing. If more fail, it is most likely the service.
const MAX_FAILING: usize = 10_000;

/// When calls were last answered, and when they last failed.
#[derive(Debug, Default)]
pub(crate) struct Outcomes {
    answered: Latest,
    failed: Latest,
    /// Time since which slots have failed without an answer in between.
    failing_since: HashMap<SlotId, Instant>,
}

/// The latest times of two different slots, the latest first, so that every slot has another one to compare with.
#[derive(Debug, Default)]
struct Latest([Option<(SlotId, Instant)>; 2]);

impl Latest {
    fn note(&mut self, slot: SlotId, now: Instant) {
        match self.0[0] {
            Some((latest, _)) if latest == slot => self.0[0] = Some((slot, now)),
            latest => self.0 = [Some((slot, now)), latest],
        }
    }

    fn of_other_than(&self, slot: SlotId) -> Option<Instant> {
        self.0.iter().flatten().find(|(other, _)| *other != slot).map(|(_, at)| *at)
    }
}

impl Outcomes {
    /// Notes the outcome of an attempt. A slow-down is neither an answer nor a failure.
    pub(crate) fn note(&mut self, slot: SlotId, class: Class, now: Instant) {
        match class {
            Class::Success | Class::Incomplete | Class::Message => {
                self.failing_since.remove(&slot);
                self.answered.note(slot, now);
            }
            // If only a part of a call was refused, its other parts are answered.
            Class::Retry | Class::Unknown | Class::Split => self.failed(slot, now),
            // A refused group is not called again for hours: it says nothing about the service from then on.
            Class::GroupFault | Class::SlowDown | Class::Wait | Class::SignAgain | Class::AppFault => {}
        }
    }

    /// A slot that was already failing when another was answered has a fault of its own: it says nothing about the
    /// service.
    fn failed(&mut self, slot: SlotId, now: Instant) {
        if self.failing_since.len() >= MAX_FAILING {
            self.failing_since.clear();
        }
        let since = *self.failing_since.entry(slot).or_insert(now);
        if self.answered.of_other_than(slot).is_none_or(|answered| answered < since) {
            self.failed.note(slot, now);
        }
    }

    /// The outcomes of slots other than this one.
    pub(crate) fn of_others(&self, slot: SlotId, now: Instant) -> Others {
        let within = |at: &Instant, span| now.saturating_duration_since(*at) <= span;
        let answered = self.answered.of_other_than(slot).filter(|at| within(at, STALE));
        let failed = self.failed.of_other_than(slot).filter(|at| within(at, STALE));
        match (answered, failed) {
            (Some(answered), failed) if within(&answered, JUST_NOW) || failed <= Some(answered) => Others::Answered,
            (_, Some(_)) => Others::Failing,
            _ => Others::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_are_judged_by_what_became_of_their_latest_calls() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let judged = |noted: &[(SlotId, Class, u64)], now| {
            let mut outcomes = Outcomes::default();
            noted.iter().for_each(|(slot, class, second)| outcomes.note(*slot, *class, at(*second)));
            outcomes.of_others(1, at(now))
        };
        let (good, bad) = (Class::Success, Class::Retry);
        for (noted, now, expected) in [
            (vec![], 0, Others::Unknown),
            (vec![(1, good, 0), (1, bad, 1)], 1, Others::Unknown),
            (vec![(2, good, 0), (1, bad, 1)], 60, Others::Answered),
            (vec![(2, good, 0), (1, good, 1)], 60, Others::Answered),
            (vec![(2, good, 0)], 301, Others::Unknown),
            (vec![(2, good, 0), (3, bad, 9)], 10, Others::Answered),
            (vec![(2, good, 0), (3, bad, 9)], 11, Others::Failing),
            (vec![(2, good, 0), (3, bad, 9), (4, good, 10)], 60, Others::Answered),
            (vec![(2, Class::Unknown, 0)], 60, Others::Failing),
            (vec![(2, Class::GroupFault, 0)], 60, Others::Unknown),
            (vec![(2, Class::Split, 0)], 60, Others::Failing),
            (vec![(2, Class::Split, 0), (2, good, 1)], 60, Others::Answered),
            (vec![(2, Class::SlowDown, 0)], 0, Others::Unknown),
            // Two failing slots, and one that is answered once a minute.
            (vec![(2, bad, 0), (1, bad, 1), (3, good, 2), (2, bad, 60), (1, bad, 61)], 62, Others::Answered),
            (vec![(2, bad, 0), (3, good, 2), (2, bad, 60), (2, bad, 400)], 400, Others::Unknown),
            // Then the service is down.
            (vec![(2, bad, 0), (3, good, 2), (2, bad, 60), (3, bad, 62)], 63, Others::Failing),
            (vec![(2, bad, 0), (3, good, 2), (2, good, 60), (2, bad, 120)], 121, Others::Failing),
        ] {
            assert_eq!(judged(&noted, now), expected, "{noted:?} at {now} s");
        }
    }
}
