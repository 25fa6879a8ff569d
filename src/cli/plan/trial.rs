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
    rules::cadence::{Cadence, Cadences, DEFAULT, Pace},
    store::{GroupsWith, PastRead},
    text::{counted::counted, duration},
};
use serde::Serialize;

/// A setting of a cadence to try, such as `pace=24m` or `mornings.pace=24m`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trial {
    /// The name of the cadence.
    cadence: String,
    setting: Setting,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Setting {
    Pace(Duration),
    Patience(u32),
    Fastest(Duration),
}

impl FromStr for Trial {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (key, value) = text.split_once('=').ok_or("write it as KEY=VALUE, such as pace=24m")?;
        let (cadence, key) = key.rsplit_once('.').unwrap_or((DEFAULT, key));
        let duration = || humantime::parse_duration(value).map_err(|error| error.to_string());
        let setting = match key {
            "pace" => Setting::Pace(duration()?),
            "patience" => Setting::Patience(value.parse().map_err(|_| "patience is a whole number")?),
            "fastest" => Setting::Fastest(duration()?),
            _ => return Err("the settings to try are pace, patience and fastest".to_owned()),
        };
        Ok(Self { cadence: cadence.to_owned(), setting })
    }
}

impl fmt::Display for Trial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.cadence != DEFAULT {
            write!(f, "{}.", self.cadence)?;
        }
        match self.setting {
            Setting::Pace(span) => write!(f, "pace={}", duration::exactly(span)),
            Setting::Patience(intervals) => write!(f, "patience={intervals}"),
            Setting::Fastest(span) => write!(f, "fastest={}", duration::exactly(span)),
        }
    }
}

/// A cadence, and the same with other settings.
#[derive(Debug)]
pub struct Trials {
    name: String,
    now: Cadence,
    tried: Cadence,
}

impl Trials {
    /// The cadence to which the settings belong.
    ///
    /// # Errors
    /// If they belong to several cadences, or to one that is not configured or follows a cron expression, or if they
    /// are out of range; with the reason.
    pub fn of(cadences: &Cadences, trials: &[Trial]) -> Result<Self, String> {
        let name = trials.first().map_or(DEFAULT, |trial| &trial.cadence);
        if let Some(other) = trials.iter().find(|trial| trial.cadence != name) {
            return Err(format!("try one cadence at a time, and not {name} and {}", other.cadence));
        }
        if !cadences.has(name) {
            return Err(format!("the cadence {name} to try is not configured"));
        }
        let now = cadences.of(Some(name));
        let tiers_alone =
            Pace { pace: Pace::DEFAULT_PACE, patience: Pace::DEFAULT_PATIENCE, fastest: now.usual_fastest() };
        let mut pace = now.pace().copied().unwrap_or(tiers_alone);
        for trial in trials {
            match trial.setting {
                Setting::Pace(span) => pace.pace = span,
                Setting::Patience(intervals) => pace.patience = intervals,
                Setting::Fastest(span) => pace.fastest = span,
            }
        }
        let tried = now.clone().at_pace(pace).map_err(|fault| format!("the cadence to try {fault}"))?;
        Ok(Self { name: name.to_owned(), now: now.clone(), tried })
    }

    /// The groups that have the cadence.
    pub fn groups<'a>(&'a self, cadences: &'a Cadences) -> GroupsWith<'a> {
        let others = || cadences.iter().map(|(name, _)| name).filter(|name| *name != DEFAULT).collect();
        if self.name == DEFAULT { GroupsWith::NoneOf(others()) } else { GroupsWith::Cadence(&self.name) }
    }

    /// Polls past messages by both cadences; `None` if nothing was read.
    pub fn on(&self, reads: &[PastRead], batch_size: usize) -> Option<Tried> {
        let sent = messages(reads);
        let groups: BTreeSet<_> = sent.iter().map(|sent| sent.group_key).collect();
        let poll = |cadence: &Cadence| {
            let cadences = Arc::new(Cadences::new([(DEFAULT.to_owned(), cadence.clone())].into()));
            let way = Way { cadences, stretch: Stretching::By(1.0), batch_size, limit: None, told: 0.0 };
            Outcome::from(replay(&sent, &way))
        };
        let tried =
            || Tried { messages: sent.len(), groups: groups.len(), now: poll(&self.now), tried: poll(&self.tried) };
        (!sent.is_empty()).then(tried)
    }
}

/// The results of a trial.
#[derive(Debug, Serialize)]
pub struct Tried {
    messages: usize,
    groups: usize,
    now: Outcome,
    tried: Outcome,
}

/// The results for a cadence.
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
        return writeln!(out, "{trials} can't be tried: no reads of the last 14 days are stored.");
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
    use receiptd::{domain::Timestamp, rules::cadence::Tier};

    use super::*;

    fn parsed(trials: &[&str]) -> Vec<Trial> {
        trials.iter().map(|trial| trial.parse().unwrap()).collect()
    }

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
        let trials = Trials::of(&Cadences::default(), &parsed(&["pace=24m", "fastest=2m"])).unwrap();
        let reads: Vec<PastRead> = (1..=9).map(|seq| read(seq, (Some(30 * seq), 30 * seq + 1), (0, 10))).collect();
        let tried = trials.on(&reads, 50).unwrap();
        assert!(tried.tried.calls < tried.now.calls, "{tried:?}");
        assert!(tried.tried.milestone_error_seconds > tried.now.milestone_error_seconds, "{tried:?}");
        assert!(trials.on(&[], 50).is_none());
    }

    #[test]
    fn any_cadence_is_tried_by_name_on_its_own_groups() {
        let tier = Tier { until: Duration::from_secs(86_400), every: Duration::from_secs(300) };
        let tiers = Cadence::by_age(vec![tier], true).unwrap();
        let cron = Cadence::by_cron("0 8 * * *", Duration::from_secs(86_400), true, at(0)).unwrap();
        let cadences = Cadences::new([("slow".to_owned(), tiers), ("nightly".to_owned(), cron)].into());
        let of = |trials: &[&str]| Trials::of(&cadences, &parsed(trials));
        let slow = of(&["slow.pace=24m", "slow.patience=3"]).unwrap();
        assert_eq!((slow.now.pace(), slow.tried.pace().unwrap().patience), (None, 3));
        assert_eq!(slow.tried.pace().unwrap().fastest, tier.every / 2);
        assert_eq!(slow.groups(&cadences), GroupsWith::Cadence("slow"));
        assert_eq!(of(&["pace=24m"]).unwrap().groups(&cadences), GroupsWith::NoneOf(vec!["nightly", "slow"]));
        for (trials, why) in [
            (&["slow.pace=24m", "pace=24m"][..], "try one cadence at a time, and not slow and default"),
            (&["gone.pace=24m"], "the cadence gone to try is not configured"),
            (&["nightly.pace=24m"], "the cadence to try follows a cron expression: a pace requires tiers"),
        ] {
            assert_eq!(of(trials).unwrap_err(), why);
        }
        assert_eq!(parsed(&["slow.pace=24m"])[0].to_string(), "slow.pace=24m");
    }

    #[test]
    fn only_settings_of_the_pace_can_be_tried() {
        let of_default = |setting| Ok(Trial { cadence: DEFAULT.to_owned(), setting });
        assert_eq!("pace=24m".parse(), of_default(Setting::Pace(Duration::from_secs(1_440))));
        assert_eq!("patience=16".parse(), of_default(Setting::Patience(16)));
        for wrong in ["pace", "pace=soon", "tiers=1", "patience=1.5"] {
            assert!(wrong.parse::<Trial>().is_err(), "{wrong}");
        }
    }
}
