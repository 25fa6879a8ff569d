//! A model of Tencent Chat: receipts that grow, and faults on the way and there.

use super::{
    flaw::{Flaw, Symptom},
    plan::{Fault, MILLISECOND, Micros, REQUEST_TIMEOUT, SECOND},
    world::{Address, Doing, Event, World},
};
use crate::{
    domain::{Counts, MsgSeq, Receipt},
    rules::{
        protocol::{Answer, Class, Failure},
        slot::GroupKey,
    },
};

/// Number of members in every group.
const MEMBERS: i64 = 4;

/// How an attempt ended, from its caller's view.
#[derive(Debug, Clone)]
pub(super) struct Heard {
    pub http_status: Option<u16>,
    pub outcome: Result<Answer, Failure>,
}

fn failed(class: Class, code: Option<i64>) -> Result<Answer, Failure> {
    Err(Failure { class, code, info: String::new() })
}

impl World {
    /// Sends an attempt.
    pub fn send(&mut self, daemon: usize, attempt: u64, group: GroupKey, batch: Vec<MsgSeq>) {
        let (from, now) = (self.address(daemon), self.now);
        if self.faults().any(|fault| fault == Fault::Unreachable) {
            let heard = Heard { http_status: None, outcome: failed(Class::Retry, None) };
            return self.at(now + 5 * MILLISECOND, Event::At(from, Doing::Ended(attempt, heard)));
        }
        // Connecting took at most the other half.
        let longest = u64::try_from(self.plan.allowance.as_micros()).unwrap() / 2;
        let way =
            if self.random.u8(0..10) == 0 { self.random.u64(0..=longest) } else { self.random.u64(1_000..20_000) };
        self.tally.calls += 1;
        let arrives_at = self.gets_through(now + way.min(longest), Fault::RequestsHeld);
        self.at(arrives_at, Event::AtService(from, attempt, group, batch, now));
        // Whatever happens to it, it ends by then.
        let outcome = failed(Class::Retry, None);
        let timeout = Heard { http_status: None, outcome };
        self.at(now + REQUEST_TIMEOUT, Event::At(from, Doing::Ended(attempt, timeout)));
    }

    pub fn at_service(&mut self, from: Address, attempt: u64, group: GroupKey, batch: &[MsgSeq]) {
        self.tell(|| format!("service {} attempt {attempt} group {group} {batch:?}", from.daemon));
        self.promises.arrived(self.now);
        if self.is_unstorable(group) {
            self.promises.failed(self.now);
        }
        let faults: Vec<Fault> = self.faults().filter(|fault| fault.is_of_service()).collect();
        let Some((http_status, outcome)) = self.answer(group, batch, &faults) else { return };
        let is_slow = self.plan.flaws.iter().any(|(from, flaw)| *from <= self.now && *flaw == Flaw::Slow(group));
        let latency = match faults.contains(&Fault::Slow) {
            _ if is_slow => REQUEST_TIMEOUT * 3 / 4,
            true => self.random.u64(SECOND / 2..3 * SECOND),
            false => self.random.u64(5_000..60_000),
        };
        let heard = Heard { http_status: Some(http_status), outcome };
        let ends_at = self.gets_through(self.now + latency, Fault::AnswersHeld);
        self.at(ends_at, Event::At(from, Doing::Ended(attempt, heard)));
    }

    /// When something due to get through at `at` does, unless the network is blocked then.
    pub fn gets_through(&self, at: Micros, held: Fault) -> Micros {
        let holds =
            |(from, fault, span): &&(Micros, Fault, Micros)| *fault == held && (*from..from + span).contains(&at);
        match self.plan.faults.iter().find(holds) {
            Some((from, _, span)) => self.gets_through(from + span, held),
            None => at,
        }
    }

    fn answer(
        &mut self,
        group: GroupKey,
        batch: &[MsgSeq],
        faults: &[Fault],
    ) -> Option<(u16, Result<Answer, Failure>)> {
        for fault in faults {
            match *fault {
                Fault::Hang => return None,
                Fault::Code(code) => return Some((200, failed(Class::of_code(code), Some(code)))),
                Fault::SomeCode(code) if self.random.u8(0..3) == 0 => {
                    return Some((200, failed(Class::of_code(code), Some(code))));
                }
                Fault::BelowPromise(limit) if self.promises.arrivals_within_a_second() > limit as usize => {
                    return Some((200, failed(Class::SlowDown, Some(60007))));
                }
                Fault::Status(status) => return Some((status, failed(Class::of_http_status(status), None))),
                Fault::Garbage => return Some((200, failed(Class::Retry, None))),
                _ => {}
            }
        }
        if let Some(symptom) = self.flaw_of(group, batch) {
            return match symptom {
                Symptom::Code(code) => Some((200, failed(Class::of_code(code), Some(code)))),
                Symptom::Status(status) => Some((status, failed(Class::of_http_status(status), None))),
                Symptom::Garbage => Some((200, failed(Class::Retry, None))),
                Symptom::Hang => None,
            };
        }
        let mut receipts = Vec::new();
        for seq in batch {
            // Now and then an answer leaves a message out.
            if self.random.u8(0..50) != 0 {
                receipts.push((*seq, self.receipt(group, *seq)));
            }
        }
        Some((200, Ok(Answer { receipts, bad_entries: 0 })))
    }

    /// How the call fails because of its own flaw, if it does.
    fn flaw_of(&mut self, group: GroupKey, batch: &[MsgSeq]) -> Option<Symptom> {
        let mut flaws = self.plan.flaws.iter().filter(|(from, _)| *from <= self.now);
        let (flaw, symptom) = flaws.find_map(|(_, flaw)| Some((*flaw, flaw.strikes(group, batch)?)))?;
        if matches!(flaw, Flaw::Flaky(..)) && self.random.bool() {
            return None;
        }
        self.promises.failed(self.now);
        Some(symptom)
    }

    fn receipt(&self, group: GroupKey, seq: MsgSeq) -> Receipt {
        let most = if mix(group, seq).is_multiple_of(3) { MEMBERS } else { MEMBERS - 1 };
        let read = i64::try_from(self.now / read_every(group, seq)).unwrap().min(most);
        Receipt { code: 0, counts: Counts::new(read, MEMBERS - read) }
    }
}

fn mix(group: GroupKey, seq: MsgSeq) -> u64 {
    u64::from(seq.get()) * 7 + u64::from(group.unsigned_abs()) * 13
}

/// A member reads a message every few seconds or minutes: the n-th after n times this long.
pub(super) fn read_every(group: GroupKey, seq: MsgSeq) -> Micros {
    (3 + mix(group, seq) % 40) * SECOND
}
