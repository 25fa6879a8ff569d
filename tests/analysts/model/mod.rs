//! Analytics compared with a plain calculation from all polls: random histories, recorded like the daemon does,
//! checked after every step, and rolled up in random steps, with random hours repeated.

mod comparison;

use std::collections::HashMap;

use chrono::{DurationRound, TimeDelta};
use fastrand::Rng;
use receiptd::{
    domain::{Counts, Receipt, Timestamp},
    rules::{
        cadence::{Following, Known, Phase},
        milestones::AGES,
        recording::{Closed, NO_RECEIPT_POLLS},
        rollup::Stretch,
        slot::SlotKey,
    },
};

use crate::{
    harness::seq,
    history::{at, recording, tiers},
};

/// Read and unread; `None` if a poll found no receipt.
type Told = Option<(i32, i32)>;

/// A change seen by a poll.
#[derive(Clone, Copy)]
struct Seen {
    at: Timestamp,
    counts: Told,
    prior_at: Option<Timestamp>,
    prior_read: Option<i32>,
}

impl Seen {
    fn code(&self) -> i32 {
        if self.counts.is_some() { 0 } else { 10062 }
    }
}

struct Message {
    seq: usize,
    sent_at: Timestamp,
    /// Every poll of it.
    polls: Vec<(Timestamp, Told)>,
    phase: Phase,
}

/// A message as polled until some time.
struct Polled {
    seq: usize,
    sent_at: Timestamp,
    known_until: Timestamp,
    /// Why it is closed, if so.
    closed: Option<Closed>,
    seen: Vec<Seen>,
    /// The polls, each with the time when the next one was due.
    polls: Vec<(Timestamp, Told, Timestamp)>,
}

const HOURS: i64 = 50;

fn end() -> Timestamp {
    at("00:00") + TimeDelta::hours(HOURS)
}

/// A message that members read, join and leave, and whose receipt comes and goes. It is polled every few minutes
/// until it is closed; `sent_at` may be hours off, as applications may give it.
fn message(random: &mut Rng, seq: usize) -> Message {
    let mut now = at("00:00") + TimeDelta::seconds(random.i64(0..HOURS * 1_800));
    let sent_at = now + TimeDelta::seconds(random.i64(-10_000..600));
    let (mut read, mut unread) = (random.i32(0..3), random.i32(0..12));
    let mut polls: Vec<(Timestamp, Told)> = vec![];
    for _ in 0..random.usize(1..60) {
        let counts = (random.u8(0..20) > 0).then_some((read, unread));
        polls.push((now, counts));
        // Sometimes on the hour.
        now += TimeDelta::seconds(random.i64(30..4_000));
        if random.u8(0..10) == 0 {
            now = now.duration_trunc(TimeDelta::hours(1)).unwrap() + TimeDelta::hours(1);
        }
        let reads = random.i32(0..3).min(unread);
        (read, unread) = (read + reads, unread - reads);
        match random.u8(0..12) {
            0 => read = (read - 1).max(0),
            1 => unread = (unread - 1).max(0),
            2 => unread += 1,
            _ => {}
        }
        if now >= end() || closed(&polls).is_some() {
            break;
        }
    }
    Message { seq, sent_at, polls, phase: Phase::default() }
}

impl Message {
    /// The polls until `time`; `None` if there was none.
    fn until(&self, time: Timestamp) -> Option<Polled> {
        let (mut seen, mut prior_at, mut known): (Vec<Seen>, _, _) = (vec![], None, None);
        let cadences = tiers();
        let due = |at, told: Told| {
            let is_read = told.is_some_and(|(read, unread)| read > 0 && unread == 0);
            let known = Known { sent_at: self.sent_at, until: Some(at), is_read };
            Following::from(cadences.of(None)).due(self.phase, at, [known]).unwrap()
        };
        let until = self.polls.iter().take_while(|poll| poll.0 <= time);
        let polls: Vec<_> = until.map(|(at, counts)| (*at, *counts, due(*at, *counts))).collect();
        for (at, counts, _) in polls.iter().copied() {
            if seen.last().is_none_or(|last| last.counts != counts) {
                seen.push(Seen { at, counts, prior_at, prior_read: known });
                known = counts.map(|(read, _)| read).or(known);
            }
            prior_at = Some(at);
        }
        let closed = (polls.len() == self.polls.len()).then(|| closed(&self.polls)).flatten();
        Some(Polled { seq: self.seq, sent_at: self.sent_at, known_until: prior_at?, closed, seen, polls })
    }
}

/// Why a message is closed after these polls.
fn closed(polls: &[(Timestamp, Told)]) -> Option<Closed> {
    let (_, last) = polls.last()?;
    let is_confirmed = polls.len() > 1 && polls[polls.len() - 2].1 == *last;
    let without = polls.iter().rev().take_while(|poll| poll.1.is_none()).count();
    match last {
        Some((1.., 0)) if is_confirmed => Some(Closed::AllRead),
        None if without >= usize::try_from(NO_RECEIPT_POLLS).unwrap() => Some(Closed::NoReceipt),
        _ => None,
    }
}

impl Polled {
    /// The counts known just before `time`, or at it if that is included.
    fn known(&self, is_until: impl Fn(Timestamp) -> bool) -> Told {
        self.seen.iter().rev().find(|seen| is_until(seen.at) && seen.counts.is_some()).and_then(|seen| seen.counts)
    }

    fn is_polled_before(&self, time: Timestamp) -> bool {
        self.seen[0].at < time
    }

    fn milestone(&self, is_reached: impl Fn(i32, i32) -> bool) -> String {
        let index =
            self.seen.iter().position(|seen| seen.counts.is_some_and(|(read, unread)| is_reached(read, unread)));
        // Known up to the previous poll, unless that had no counts.
        let before = index.and_then(|index| self.seen.get(index.checked_sub(1)?)).filter(|seen| seen.counts.is_some());
        let reached = index.map(|index| &self.seen[index]);
        let after = before.and(reached).and_then(|seen| seen.prior_at);
        format!("{}|{}", shown(after), shown(reached.map(|seen| seen.at)))
    }

    fn rate(&self, age: TimeDelta) -> String {
        let then = self.sent_at + age;
        let counts = self.known(|at| at <= then).filter(|(read, unread)| read + unread > 0 && self.is_known(then));
        counts.map_or_else(String::new, |(read, unread)| format!("{:.4}", f64::from(read) / f64::from(read + unread)))
    }

    /// Whether the counts at a time are known: a poll until then was the last that was due, or the next one saw the
    /// same.
    fn is_known(&self, time: Timestamp) -> bool {
        let Some((at, told, due)) = self.polls.iter().rev().find(|poll| poll.0 <= time) else { return false };
        match (self.polls.iter().find(|poll| poll.0 > time), self.closed) {
            (Some(next), _) => next.1 == *told || time <= *due + TimeDelta::minutes(1),
            (None, Some(Closed::AllRead)) => true,
            (None, Some(_)) => time == *at,
            (None, None) => time <= *due,
        }
    }

    /// The row of the message in `receipts_at`, if it was known then.
    fn at(&self, moment: Timestamp) -> Option<String> {
        let seen = self.seen.iter().rev().find(|seen| seen.at <= moment)?;
        Some(format!("{}|{}|{}|{}", self.seq, both(self.known(|at| at <= moment)), seen.code(), shown(Some(seen.at))))
    }

    /// The same if the snapshots of that day are gone: the counts at the end of the day before, if the day's changes
    /// are not over.
    fn at_without_snapshots(&self, moment: Timestamp) -> Option<String> {
        self.seen.first().filter(|seen| seen.at <= moment)?;
        let midnight = moment.duration_trunc(TimeDelta::days(1)).unwrap();
        let of_day = || self.seen.iter().filter(|seen| midnight <= seen.at && seen.at < midnight + TimeDelta::days(1));
        if of_day().next().is_none_or(|first| moment < first.at) || of_day().all(|seen| seen.at <= moment) {
            return self.at(moment).map(|row| format!("{row}|t"));
        }
        let before = self.at(midnight - TimeDelta::microseconds(1));
        Some(before.map_or_else(|| format!("{}|||||f", self.seq), |row| format!("{row}|f")))
    }

    /// The row of the message in `message_days`, if it changed on that day.
    fn day(&self, midnight: Timestamp) -> Option<String> {
        let end = midnight + TimeDelta::days(1);
        let of_day: Vec<&Seen> = self.seen.iter().filter(|seen| midnight <= seen.at && seen.at < end).collect();
        let (first, last) = (of_day.first()?, of_day.last()?);
        let steps = of_day.iter().filter_map(|seen| Some((seen.counts?.0, seen.prior_read?)));
        let (gained, lost) = steps.fold((0, 0), |(gained, lost), (read, prior)| {
            (gained + (read - prior).max(0), lost + (prior - read).max(0))
        });
        let firsts = of_day.iter().filter(|seen| seen.prior_read.is_none()).filter_map(|seen| seen.counts);
        let (found, counts) = (firsts.map(|counts| counts.0).sum::<i32>(), both(self.known(|at| at < end)));
        let (from, until) = (shown(Some(first.at)), shown(Some(last.at)));
        Some(format!(
            "{}|{}|{gained}|{lost}|{found}|{counts}|{}|{from}|{until}",
            self.seq,
            midnight.format("%d"),
            last.code()
        ))
    }

    /// Whether its counts have changed since, or those at an age were settled.
    fn has_changed_since(&self, moment: Timestamp) -> bool {
        let last = self.seen.last().map_or(self.sent_at, |seen| seen.at);
        let ages = AGES.map(|age| self.sent_at + age).into_iter().filter(|then| *then > last && self.is_known(*then));
        ages.chain([last, self.sent_at]).any(|time| time >= moment)
    }

    /// The rows of the message in `receipt_curve`.
    fn curve(&self, step: TimeDelta) -> String {
        let steps = (0..).map(|number| self.sent_at + step * number).take_while(|at| *at <= self.known_until);
        let row = |at| format!("{}|{}", shown(Some(at)), both(self.known(|seen| seen <= at)));
        steps.map(row).collect::<Vec<_>>().join("\n")
    }

    /// The row of the message in `message_milestones`.
    fn row(&self) -> String {
        let counts = both(self.known(|_| true));
        let milestones = [
            self.milestone(|read, _| read > 0),
            self.milestone(|read, unread| read + unread > 0 && read * 2 >= read + unread),
            self.milestone(|read, unread| read + unread > 0 && read * 10 >= (read + unread) * 8),
            self.milestone(|read, unread| read + unread > 0 && read * 10 >= (read + unread) * 9),
            self.milestone(|read, unread| read + unread > 0 && unread == 0),
        ];
        let rates = AGES.map(|age| self.rate(age));
        let known_until = shown(Some(self.known_until));
        format!("{}|{counts}|{known_until}|{}|{}", self.seq, milestones.join("|"), rates.join("|"))
    }
}

fn both(counts: Told) -> String {
    counts.map_or_else(|| "|".to_owned(), |(read, unread)| format!("{read}|{unread}"))
}

fn shown(time: Option<Timestamp>) -> String {
    time.map(|time| time.format("%d %H:%M:%S").to_string()).unwrap_or_default()
}

/// The row of an hour in `hourly_receipts`.
fn hour(messages: &[Polled], from: Timestamp, aged: usize) -> String {
    let until = from + TimeDelta::hours(1);
    let within = |time: Timestamp| from <= time && time < until;
    let (mut gained, mut lost, mut found) = (0, 0, 0);
    for seen in messages.iter().flat_map(|message| &message.seen).filter(|seen| within(seen.at)) {
        let Some((read, _)) = seen.counts else { continue };
        match seen.prior_read {
            Some(prior) => (gained, lost) = (gained + (read - prior).max(0), lost + (prior - read).max(0)),
            None => found += read,
        }
    }
    let sent = messages.iter().filter(|message| within(message.sent_at)).count();
    let polled = messages.iter().filter(|message| message.is_polled_before(until));
    let unread: i32 = polled.clone().filter_map(|message| message.known(|at| at < until)).map(|counts| counts.1).sum();
    format!("{}|{sent}|{}|{gained}|{lost}|{found}|{unread}|{aged}", shown(Some(from)), polled.count())
}

/// The number of messages that became a day old in an hour and have a rate then, as far as known when the hour is
/// rolled up.
fn aged(messages: &[Polled], hour: Timestamp) -> usize {
    let day = TimeDelta::hours(24);
    let is_of_hour = |message: &&Polled| (message.sent_at + day).duration_trunc(TimeDelta::hours(1)).unwrap() == hour;
    messages.iter().filter(is_of_hour).filter(|message| !message.rate(day).is_empty()).count()
}
