//! Permanent flaws of one thing: a group, a message, a batch that is too large. Everything else works, and must not
//! suffer.

use super::plan::{Micros, SECOND};
use crate::{domain::MsgSeq, rules::slot::GroupKey};

/// How a call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Symptom {
    /// With this `ErrorCode`.
    Code(i64),
    /// With this HTTP status.
    Status(u16),
    /// With a body that is cut off or not JSON.
    Garbage,
    /// It is never answered.
    Hang,
}

/// A flaw from some time on, until the end of the life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flaw {
    /// Every call for the group fails.
    Group(GroupKey, Symptom),
    /// Every call that asks for the message fails, whatever else it asks for.
    Message(GroupKey, MsgSeq, Symptom),
    /// Each call for the group fails with a chance of one half.
    Flaky(GroupKey, Symptom),
    /// Answers for the group take nearly as long as the timeout.
    Slow(GroupKey),
    /// Calls for more than this number of messages are refused with this code.
    LargeBatch(usize, i64),
    /// The tables refuse the rows of the group's slots.
    Unstorable(GroupKey),
}

impl Flaw {
    /// How a call fails because of it, if it does.
    pub fn strikes(self, group: GroupKey, batch: &[MsgSeq]) -> Option<Symptom> {
        match self {
            Self::Group(bad, symptom) | Self::Flaky(bad, symptom) if bad == group => Some(symptom),
            Self::Message(bad, seq, symptom) if bad == group && batch.contains(&seq) => Some(symptom),
            Self::LargeBatch(most, code) if batch.len() > most => Some(Symptom::Code(code)),
            _ => None,
        }
    }

    /// Whether the message itself can't be observed.
    pub fn is_of(self, (group, seq): (GroupKey, MsgSeq)) -> bool {
        match self {
            Self::Group(bad, _) | Self::Flaky(bad, _) | Self::Slow(bad) | Self::Unstorable(bad) => bad == group,
            Self::Message(bad, bad_seq, _) => (bad, bad_seq) == (group, seq),
            Self::LargeBatch(..) => false,
        }
    }

    /// Whether the message may be in failing calls until it is known what is at fault.
    pub fn is_near(self, group: GroupKey) -> bool {
        match self {
            Self::Group(..) | Self::Flaky(..) | Self::Slow(_) | Self::Unstorable(_) => false,
            Self::Message(bad, ..) => bad == group,
            Self::LargeBatch(..) => true,
        }
    }
}

/// Draws the flaws of a life with groups of this many messages.
pub(super) fn draw(random: &mut fastrand::Rng, groups: &[usize], batch_size: usize) -> Vec<(Micros, Flaw)> {
    let count = random.usize(1..=3);
    let mut flaws = Vec::new();
    for _ in 0..count {
        let from = random.u64(0..30 * SECOND);
        // At least half of the groups are good: if most fail alike, it is the app.
        let most_bad = (groups.len() / 2).max(1);
        let group = random.usize(0..most_bad);
        let key = GroupKey::try_from(group + 1).unwrap();
        match random.u8(0..11) {
            0..4 => {
                let symptom = of_group(random);
                flaws.push((from, Flaw::Group(key, symptom)));
            }
            4..8 => {
                let seq = i64::try_from(random.usize(1..=groups[group].max(1))).unwrap();
                flaws.push((from, Flaw::Message(key, MsgSeq::try_from(seq).unwrap(), of_message(random))));
            }
            8 => flaws.push((from, Flaw::Unstorable(key))),
            9 => flaws.push((from, Flaw::LargeBatch((batch_size / 2).max(1), [10004, 10018][random.usize(..2)]))),
            _ => {
                let symptom = of_group(random);
                let bad = 1..=GroupKey::try_from(most_bad).unwrap();
                flaws.extend(bad.map(|key| (from, Flaw::Group(key, symptom))));
            }
        }
    }
    // Refused signatures are punished, so few probes are made: a second group with such a code would count as the
    // app.
    let of_signature = flaws.iter_mut().filter_map(|(_, flaw)| match flaw {
        Flaw::Group(_, symptom @ Symptom::Code(70_003 | 70_050)) => Some(symptom),
        _ => None,
    });
    of_signature.skip(1).for_each(|symptom| *symptom = Symptom::Code(60_003));
    flaws
}

/// Draws another group, whose faults are not permanent.
pub(super) fn draw_now_and_then(random: &mut fastrand::Rng, groups: usize) -> Option<(Micros, Flaw)> {
    let key = GroupKey::try_from(random.usize(1..=groups)).unwrap();
    let flaw = match random.u8(0..6) {
        0 => Flaw::Flaky(key, of_message(random)),
        1 => Flaw::Slow(key),
        _ => return None,
    };
    Some((random.u64(0..30 * SECOND), flaw))
}

fn of_group(random: &mut fastrand::Rng) -> Symptom {
    const CODES: [i64; 9] = [10002, 60008, 99999, -1, 10007, 10010, 10015, 10004, 10062];
    const CODES_OF_APP: [i64; 5] = [10026, 60003, 60021, 70003, 70050];
    match random.u8(0..13) {
        10.. => Symptom::Code(CODES_OF_APP[random.usize(..CODES_OF_APP.len())]),
        0 => Symptom::Status([500, 502, 404][random.usize(..3)]),
        1 => Symptom::Garbage,
        2 => Symptom::Hang,
        _ => Symptom::Code(CODES[random.usize(..CODES.len())]),
    }
}

fn of_message(random: &mut fastrand::Rng) -> Symptom {
    const CODES: [i64; 6] = [10002, 99999, -1, 60008, 10004, 10062];
    match random.u8(0..10) {
        0 | 1 => Symptom::Status([500, 502, 404][random.usize(..3)]),
        2 => Symptom::Garbage,
        3 => Symptom::Hang,
        _ => Symptom::Code(CODES[random.usize(..CODES.len())]),
    }
}
