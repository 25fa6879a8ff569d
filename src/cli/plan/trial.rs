//! `receiptd plan --try`: another pace on the messages of the last weeks, whose reads are known.

use std::{
    collections::BTreeSet,
    fmt,
    io::{self, Write},
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use chrono::TimeDelta;
use indicatif::HumanCount;
use receiptd::{
    daemon::poller::replay::{Findings, Sent, Stretching, Way, replay},
    rules::cadence::{Cadences, InvalidCadence, Pace},
    store::PastRead,
    text::{counted::counted, duration},
};
use serde::Serialize;

/// A setting of the default cadence to try, such as `pace=24m`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trial {
    Pace(Duration),
    Patience(u32),
    Fastest(Duration),
}

impl FromStr for Trial {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (key, value) = text.split_once('=').ok_or("write it as KEY=VALUE, such as pace=24m")?;
        let duration = || humantime::parse_duration(value).map_err(|error| error.to_string());
        match key {
            "pace" => Ok(Self::Pace(duration()?)),
            "patience" => Ok(Self::Patience(value.parse().map_err(|_| "patience is a whole number")?)),
            "fastest" => Ok(Self::Fastest(duration()?)),
            _ => Err("the settings to try are pace, patience and fastest".to_owned()),
        }
    }
}

impl fmt::Display for Trial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pace(span) => write!(f, "pace={}", duration::exactly(*span)),
            Self::Patience(intervals) => write!(f, "patience={intervals}"),
            Self::Fastest(span) => write!(f, "fastest={}", duration::exactly(*span)),
        }
    }
}

/// The cadences with other settings of the default.
pub fn with(cadences: &Cadences, trials: &[Trial]) -> Result<Cadences, InvalidCadence> {
    let default = cadences.of(None);
    let tiers_alone =
        Pace { pace: Pace::DEFAULT_PACE, patience: Pace::DEFAULT_PATIENCE, fastest: default.first_step() };
    let mut pace = default.pace().copied().unwrap_or(tiers_alone);
    for trial in trials {
        match *trial {
            Trial::Pace(span) => pace.pace = span,
            Trial::Patience(intervals) => pace.patience = intervals,
            Trial::Fastest(span) => pace.fastest = span,
        }
    }
    cadences.with_pace(pace)
}

/// The results of a trial.
#[derive(Debug, Serialize)]
pub struct Tried {
    messages: usize,
    groups: usize,
    now: Outcome,
    tried: Outcome,
}

/// The results of a cadence.
#[derive(Debug, Clone, Copy, Serialize)]
struct Outcome {
    calls: usize,
    /// Mean distance of a milestone's middle from the truth, over all milestones.
    milestone_error_seconds: f64,
    /// Mean time from a read until a poll saw it.
    seen_after_seconds: f64,
}

impl From<Findings> for Outcome {
    fn from(found: Findings) -> Self {
        Self {
            calls: found.calls,
            milestone_error_seconds: found.milestone_error(),
            seen_after_seconds: found.seen_after.mean(),
        }
    }
}

/// Polls past messages by both cadences; `None` if nothing was read.
pub fn try_on(reads: &[PastRead], now: &Cadences, tried: &Cadences, batch_size: usize) -> Option<Tried> {
    let sent = messages(reads);
    let groups: BTreeSet<_> = sent.iter().map(|sent| sent.group_key).collect();
    let poll = |cadences: &Cadences| {
        let way = Way {
            cadences: Arc::new(cadences.clone()),
            stretch: Stretching::By(1.0),
            batch_size,
            limit: None,
            told: 0.0,
        };
        Outcome::from(replay(&sent, &way))
    };
    (!sent.is_empty()).then(|| Tried { messages: sent.len(), groups: groups.len(), now: poll(now), tried: poll(tried) })
}

/// Messages with their reads, evenly placed within the intervals in which they were found.
fn messages(reads: &[PastRead]) -> Vec<Sent> {
    let is_same = |one: &PastRead, other: &PastRead| (one.group_key, one.msg_seq) == (other.group_key, other.msg_seq);
    let message = |changes: &[PastRead]| {
        let (first, last) = (changes.first()?, changes.last()?);
        let members = u32::try_from(last.read.checked_add(last.unread)?).ok().filter(|members| *members > 0)?;
        let mut sent = Sent { group_key: first.group_key, sent_at: first.sent_at, members, reads: vec![] };
        for change in changes {
            let after = change.after.unwrap_or(change.sent_at).min(change.by);
            let new = change.read - i32::try_from(sent.reads.len()).unwrap_or(i32::MAX).max(change.read_before);
            let step = |number: i32| (change.by - after) * (2 * number + 1) / (2 * new);
            sent.reads.extend((0..new).map(|number| after + step(number)));
        }
        sent.reads.truncate(members as usize);
        Some(sent)
    };
    reads.chunk_by(is_same).filter_map(message).collect()
}

/// The comparison as text.
pub fn tell(out: &mut impl Write, tried: Option<&Tried>, trials: &str) -> io::Result<()> {
    let Some(Tried { messages, groups, now, tried }) = tried else {
        return writeln!(out, "Nothing to try {trials} on: no reads of the last 14 days are stored.");
    };
    let (messages, groups) = (counted(*messages as u64, "message"), counted(*groups as u64, "group"));
    writeln!(out, "\nThe last 14 days of {messages} in {groups}, polled again:")?;
    writeln!(out, "{:<24} {:>10} {:>18} {:>16}", "", "CALLS", "MILESTONES OFF BY", "READS SEEN AFTER")?;
    for (name, found) in [("now", now), (trials, tried)] {
        let [error, seen] = [found.milestone_error_seconds, found.seen_after_seconds].map(rounded);
        writeln!(out, "{name:<24} {:>10} {error:>18} {seen:>16}", HumanCount(found.calls as u64).to_string())?;
    }
    let percent = 100.0 * tried.calls as f64 / now.calls.max(1) as f64;
    let times = tried.milestone_error_seconds / now.milestone_error_seconds.max(1e-9);
    writeln!(out, "{trials}: {percent:.0} % of the calls, milestones {times:.1} times as far off.")?;
    writeln!(out, "Times of reads are estimates: each is placed within the interval in which it was found.")
}

fn rounded(seconds: f64) -> String {
    duration::roughly(TimeDelta::milliseconds((seconds * 1e3) as i64).to_std().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use receiptd::domain::Timestamp;

    use super::*;

    fn at(minute: i64) -> Timestamp {
        "2026-11-23T12:00:00Z".parse::<Timestamp>().unwrap() + TimeDelta::minutes(minute)
    }

    fn read(msg_seq: i64, (after, by): (Option<i64>, i64), (read_before, read): (i32, i32)) -> PastRead {
        let after = after.map(at);
        PastRead { group_key: 1, msg_seq, sent_at: at(0), after, by: at(by), read_before, read, unread: 10 - read }
    }

    #[test]
    fn reads_are_spread_evenly_over_their_intervals() {
        let reads = [read(1, (None, 0), (0, 0)), read(1, (Some(2), 6), (0, 2)), read(1, (Some(8), 10), (2, 3))];
        let sent = messages(&[reads.as_slice(), &[read(2, (None, 4), (0, 1))]].concat());
        assert_eq!(sent[0].reads, [at(3), at(5), at(9)]);
        assert_eq!((sent[0].members, sent[1].reads.as_slice()), (10, [at(2)].as_slice()));
    }

    #[test]
    fn counts_that_fell_add_no_reads_and_those_of_nobody_no_message() {
        let fell = [read(1, (None, 2), (0, 3)), read(1, (Some(4), 5), (3, 2)), read(1, (Some(6), 8), (2, 3))];
        assert_eq!(messages(&fell)[0].reads.len(), 3);
        let nobody = PastRead { read: 0, unread: 0, ..read(1, (None, 2), (0, 0)) };
        assert!(messages(&[nobody]).is_empty() && messages(&[]).is_empty());
    }

    #[test]
    fn twice_the_pace_makes_fewer_calls_and_larger_errors() {
        let trials: Vec<Trial> = ["pace=24m", "fastest=2m"].iter().map(|trial| trial.parse().unwrap()).collect();
        let (now, tried) = (Cadences::default(), with(&Cadences::default(), &trials).unwrap());
        let reads: Vec<PastRead> = (1..=9).map(|seq| read(seq, (Some(30 * seq), 30 * seq + 1), (0, 10))).collect();
        let tried = try_on(&reads, &now, &tried, 50).unwrap();
        assert!(tried.tried.calls < tried.now.calls, "{tried:?}");
        assert!(tried.tried.milestone_error_seconds > tried.now.milestone_error_seconds, "{tried:?}");
        assert!(try_on(&[], &now, &now, 50).is_none());
    }

    #[test]
    fn only_settings_of_the_pace_can_be_tried() {
        assert_eq!("pace=24m".parse(), Ok(Trial::Pace(Duration::from_secs(1_440))));
        assert_eq!("patience=16".parse(), Ok(Trial::Patience(16)));
        for wrong in ["pace", "pace=soon", "tiers=1", "patience=1.5"] {
            assert!(wrong.parse::<Trial>().is_err(), "{wrong}");
        }
    }
}
